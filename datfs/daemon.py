"""Going to the background: the parent returns as soon as the child is ready, or fails as the child does.

Must be used before anything runs that a fork would split: no trio, no threads. Owns the child's session,
standard streams and the message from child to parent; knows nothing of mounts.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

# How long a child that was told to end may take to clear up before it is killed.
_END_SECONDS = 10.0
# A signal that comes just before a system call does not end it: nothing here waits longer without a look.
_LOOK_SECONDS = 0.2
_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_ENDED_AS_TOLD = (0, -signal.SIGTERM, 128 + signal.SIGTERM, 128 + signal.SIGINT)


def run_in_background(work: Callable[[Callable[[], None]], int], *, log_path: str | None = None) -> int:
    """Runs ``work(ready)`` in a child and returns an exit code to the parent: 0 once the child called
    ``ready()``.

    Until then the child has the parent's terminal, so that it can say what it waits for and why it fails;
    from then on its output goes to ``log_path`` (appended to) or nowhere. ``work`` returns the child's exit
    code. If the child ends without being ready, its code is returned (at least 1) and no process is left.
    SIGINT, SIGTERM and SIGHUP to the waiting parent end the child, by KeyboardInterrupt unless it handles SIGTERM, and
    128 and the signal's number are returned.

    Raises OSError if the log file cannot be opened.
    """
    output = os.open(
        log_path if log_path is not None else os.devnull,
        os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC,
        0o600,
    )
    receive, send = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    # A signal between the fork and the handlers would end one of the two without the other.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _FORWARDED)
    child = os.fork()
    if child == 0:
        os.close(receive)
        _be_child(work, send, output, mask)
    os.close(send)
    os.close(output)
    try:
        return _wait_for(child, receive, mask)
    finally:
        os.close(receive)


def _be_child(
    work: Callable[[Callable[[], None]], int], send: int, output: int, mask: set[signal.Signals | int]
) -> None:
    """Never returns: what the parent had on its stack must not run twice."""
    code = 1
    try:
        # So that what it shows on the terminal is cleared up, the cursor among others.
        signal.signal(signal.SIGTERM, lambda number, frame: signal.raise_signal(signal.SIGINT))
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.setsid()
        os.chdir("/")
        with open(os.devnull, "rb") as nothing:
            os.dup2(nothing.fileno(), 0)

        def ready() -> None:
            sys.stdout.flush()
            sys.stderr.flush()
            os.dup2(output, 1)
            os.dup2(output, 2)
            try:
                os.write(send, b"+")
            except BrokenPipeError:
                pass  # the parent was killed; the work goes on all the same
            os.close(send)

        code = work(ready)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException as error:
        if _is_interrupt(error):
            code = 128 + signal.SIGINT
        else:
            traceback.print_exc()
    finally:
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError):
                pass  # a closed terminal: nobody is left to tell
        os._exit(code)


def _is_interrupt(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return error.split(KeyboardInterrupt)[1] is None
    return isinstance(error, KeyboardInterrupt)


def _wait_for(child: int, receive: int, mask: set[signal.Signals | int]) -> int:
    with _forwarding(child) as told:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        while not select.select([receive], [], [], _LOOK_SECONDS)[0]:
            if told and time.monotonic() >= told[0][1] + _END_SECONDS:
                os.kill(child, signal.SIGKILL)
        if os.read(receive, 1):
            return 0
        _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if told and code in _ENDED_AS_TOLD:
        return 128 + told[0][0]
    if code < 0:
        print(f"the background process was ended by {signal.Signals(-code).name}", file=sys.stderr)
        return 128 - code
    return code or 1


@contextmanager
def _forwarding(child: int) -> Iterator[list[tuple[int, float]]]:
    """Signals to the parent go to the child, in its other session; a second one kills it.

    Yields a list that gets the first signal's number, and when it came.
    """
    told: list[tuple[int, float]] = []

    def forward(number: int, frame: FrameType | None) -> None:
        if told:
            os.kill(child, signal.SIGKILL)
        else:
            told.append((number, time.monotonic()))
            os.kill(child, signal.SIGTERM)

    before = {number: signal.signal(number, forward) for number in _FORWARDED}
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
