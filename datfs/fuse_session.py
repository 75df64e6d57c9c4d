"""The descriptor of pyfuse3's session, what is agreed on with the kernel, and reads that never block.

pyfuse3 waits until ``/dev/fuse`` is readable, then reads it with a call that blocks. If the request was withdrawn in
between (its program was killed before we took it), that call holds up the whole process, its network and its deadlines
too, until somebody asks the mount for something. See docs/fuse.md, "Signals".
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress

import pyfuse3
import trio

from datfs.errors import MountError
from datfs.mountpoints import FUSE_DEVICE

# The kernel's structures and numbers, as in linux/fuse.h: fuse_in_header, then fuse_init_in; fuse_out_header, then
# fuse_init_out. Both begin with the version (two numbers), the most that is read ahead, the flags.
_OPCODE = struct.Struct("=4xI")
_INIT = 26
_IN_FLAGS = struct.Struct("=40x12xI")
_OUT_FLAGS = struct.Struct("=16x12xI")
_PARALLEL_DIROPS = 1 << 18
_REQUEST_MOST = 1 << 17
_GREETING_SECONDS = 20.0
_WORKER = "_session_loop"  # pyfuse3's; it starts further ones under this name

Worker = Callable[[trio.Nursery, int, int], Awaitable[None]]


def descriptor() -> int | None:
    """The descriptor of our FUSE session, which pyfuse3 does not tell. None if there is no session."""
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}") == FUSE_DEVICE:
                return int(name)
        except OSError:
            continue  # the descriptor of the listing itself
    return None


async def greet(session: int | None) -> None:
    """Lets pyfuse3 answer the kernel's first question (INIT), and adds to its answer what it knows nothing of.

    That is that lookups and listings of one directory may be asked at the same time. Otherwise the kernel asks one
    after the other, and all others wait for the first one, each up to its deadline and deaf to SIGKILL.

    pyfuse3 reads the question from a socket in the place of ``session``, and writes the answer there. To be called
    before its ``main``, which finds out what is wrong if the device fails. Raises MountError if nobody says anything.
    """
    if session is None:
        return
    device = os.dup(session)
    try:
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        its.setblocking(False)
        with ours, its, suppress(OSError), unblocked(session):
            with trio.fail_after(_GREETING_SECONDS):
                await trio.lowlevel.wait_readable(device)
            question = os.read(device, _REQUEST_MOST)
            os.dup2(its.fileno(), session, inheritable=False)
            try:
                answer = await _answer_to(question, ours)
            finally:
                os.dup2(device, session, inheritable=False)
            os.write(device, with_parallel_dirops(question, answer))
    except trio.TooSlowError:
        raise MountError("the kernel and pyfuse3 did not agree on how to go on: unmount, and try again") from None
    finally:
        os.close(device)


async def _answer_to(question: bytes, ours: socket.socket) -> bytes:
    """What pyfuse3 answers to a question that comes through the other end of ``ours``. Raises TooSlowError."""
    ours.send(question)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pyfuse3.main)
        with trio.fail_after(_GREETING_SECONDS):
            await trio.lowlevel.wait_readable(ours)
        nursery.cancel_scope.cancel()
    return ours.recv(_REQUEST_MOST)


def with_parallel_dirops(question: bytes, answer: bytes) -> bytes:
    """The answer to INIT with the flag, if the kernel has offered it; any other as it is."""
    if _OPCODE.unpack_from(question)[0] != _INIT or len(answer) < _OUT_FLAGS.size:
        return answer
    flags = _OUT_FLAGS.unpack_from(answer)[0] | (_IN_FLAGS.unpack_from(question)[0] & _PARALLEL_DIROPS)
    end = _OUT_FLAGS.size
    return answer[: end - 4] + struct.pack("=I", flags) + answer[end:]


def _is_answerable(record: logging.LogRecord) -> bool:
    """False of what pyfuse3 says when a request was gone before its answer, as after an abort of the connection."""
    text = record.getMessage()
    return not ("fuse_reply_* failed" in text and text.endswith(os.strerror(errno.ENOENT)))


@contextmanager
def without_withdrawn() -> Iterator[None]:
    """While it lasts, answers that nobody waits for any more are no errors in the log."""
    logger = logging.getLogger(pyfuse3.__name__)
    logger.addFilter(_is_answerable)
    try:
        yield
    finally:
        logger.removeFilter(_is_answerable)


@contextmanager
def unblocked(session: int | None) -> Iterator[None]:
    """While it lasts, pyfuse3's workers go on waiting where nothing is to be read after all.

    Does nothing for a pyfuse3 whose workers have another name: then it blocks as described above.
    """
    worker: Worker | None = getattr(pyfuse3, _WORKER, None)
    if session is None or worker is None:
        yield
        return

    async def patient(nursery: trio.Nursery, least: int, most: int) -> None:
        while True:
            try:
                return await worker(nursery, least, most)
            except BlockingIOError:
                # It has counted itself as idle no longer and will again. What it would have read into is not freed: a
                # megabyte of which one page was touched.
                continue

    setattr(pyfuse3, _WORKER, patient)
    os.set_blocking(session, False)
    try:
        yield
    finally:
        setattr(pyfuse3, _WORKER, worker)
