"""The descriptor of pyfuse3's session, and reads of it that never block.

pyfuse3 waits until ``/dev/fuse`` is readable, then reads it with a call that blocks. If the request was withdrawn in
between (its program was killed before we took it), that call holds up the whole process, its network and its deadlines
too, until somebody asks the mount for something. See docs/fuse.md, "Signals".
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import pyfuse3
import trio

from datfs.mountpoints import FUSE_DEVICE

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
