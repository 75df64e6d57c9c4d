"""Programs that wait in a mount and are sent a signal: they are let go soon, and others go on waiting."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fuse.conftest import SECONDS, Mounter, Served, wait_until
from tests.fuse.trees import SMALL_WAITER
from tests.memory_tree import noise

pytestmark = pytest.mark.fuse

WAYS = [pytest.param((), id="buffered"), pytest.param(("--direct",), id="direct")]
SOON = 3.0  # seconds; the timeout of these mounts is ten times that

PYTHON = "import sys\nopen(sys.argv[1], 'rb').read()"
THREADS = (
    "import sys, threading\nthreading.Thread(target=lambda: open(sys.argv[1], 'rb').read()).start()"
)
LEAVE: dict[str, Callable[[str], Sequence[str]]] = {
    "cat": lambda path: ["cat", path],
    "dd": lambda path: ["dd", f"if={path}", "of=/dev/null", "bs=64k"],
    "python": lambda path: [sys.executable, "-c", PYTHON, path],
    "thread": lambda path: [sys.executable, "-c", THREADS, path],
    "redirection": lambda path: ["sh", "-c", f"cat < '{path}'"],
    "inherited": lambda path: ["sh", "-c", f"exec 3< '{path}'; cat <&3; true"],
    "handler": lambda path: ["bash", "-c", f"trap 'exit 3' INT TERM; mapfile < '{path}'"],
}


@contextmanager
def started(command: Sequence[str], **more: object) -> Iterator[subprocess.Popen[bytes]]:
    """A program in a process group of its own; the group is killed in the end."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        yield process
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.communicate(timeout=SECONDS)


def blocked(served: Served, count: int) -> None:
    """Waits until so many requests wait, and the kernel has had time to ask for whatever else it wants."""
    wait_until(lambda: served.waiting() >= count, "it waits")
    time.sleep(0.1)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("program", ["cat", "dd", "python", "redirection", "inherited"])
def test_a_reader_that_gets_a_signal_is_let_go(
    mounter: Mounter, way: tuple[str, ...], number: signal.Signals, program: str
) -> None:
    """As Ctrl-C and kill send them: the program is gone soon, another reader of the file gets its bytes later."""
    served = mounter("missing", *way)
    path = served.point / "waiting" / "000"
    with started(["cat", str(path)]) as other:
        blocked(served, 1)
        with started(LEAVE[program](str(path))) as process:
            wait_until(lambda: open_in(process.pid, path), "it reads")
            os.killpg(process.pid, number)
            process.wait(SOON)
            assert process.returncode != 0
        assert other.poll() is None
        served.command("arrive waiting/000")
        out, _ = other.communicate(timeout=SECONDS)
    assert other.returncode == 0
    assert out == noise(0, SMALL_WAITER)


def open_in(group: int, path: Path) -> bool:
    """Whether a program of the process group has the file open, and has had the time to ask for its bytes."""
    for at in Path("/proc").glob("[0-9]*"):
        try:
            if os.getpgid(int(at.name)) == group and any(os.readlink(fd) == str(path) for fd in (at / "fd").iterdir()):
                time.sleep(0.2)
                return True
        except OSError:
            continue  # it has ended
    return False
