"""The chunks of a file with their hashes, read and hashed ahead in threads (register.md section 2, drive.md 6)."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from datfs.crypto import leaf_hash

CHUNK_BYTES = 65_536  # how the reference splits files
BATCH_CHUNKS = 16  # as many as the reference appends together at most
BATCH_BYTES = BATCH_CHUNKS * CHUNK_BYTES
THREADS = 2
AHEAD = 4  # batches in memory


Marks = tuple[int, int, int, int, int]
"""Size, the two times in ns, inode and device."""


def marks_of(found: os.stat_result) -> Marks:
    """What changes when a file does."""
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev


class Batch(NamedTuple):
    """Consecutive chunks and their hashes; ``whole``: all back to back. Right until the next one is asked for."""

    chunks: list[memoryview]
    leaves: list[bytes]
    whole: memoryview


class FileHasher:
    """Reads files, one at a time. Its threads begin when a large one comes, and end with :meth:`close`."""

    def __init__(self) -> None:
        self._threads: ThreadPoolExecutor | None = None
        self._small = bytearray(BATCH_BYTES)
        self._buffers: list[bytearray] = []  # new ones for each batch would cost as much as reading into them

    def batches(self, fd: int, size: int, start: int = 0) -> Iterator[Batch]:
        """A file of about ``size`` bytes in batches, from ``start`` to its end, wherever that is. Raises OSError."""
        offset = start
        if size > offset + BATCH_BYTES:
            for batch in self._ahead(fd, size, start):
                yield batch
                offset += len(batch.whole)
                if len(batch.whole) < BATCH_BYTES:
                    return
        while (batch := _read(fd, offset, self._small)).whole:
            yield batch
            offset += len(batch.whole)
            if len(batch.whole) < BATCH_BYTES:
                return

    def close(self) -> None:
        """Ends the threads; a second call does nothing."""
        if self._threads is not None:
            self._threads.shutdown()
            self._threads = None

    def _ahead(self, fd: int, size: int, offset: int) -> Iterator[Batch]:
        """The batches up to ``size``, some of them while others are used."""
        if self._threads is None:
            self._threads = ThreadPoolExecutor(THREADS, "hashing")
            self._buffers = [bytearray(BATCH_BYTES) for _ in range(AHEAD)]
        free = list(self._buffers)
        read: deque[tuple[Future[Batch], bytearray]] = deque()
        try:
            while read or offset < size:
                while offset < size and free:
                    buffer = free.pop()
                    read.append((self._threads.submit(_read, fd, offset, buffer), buffer))
                    offset += BATCH_BYTES
                future, buffer = read.popleft()
                yield future.result()
                free.append(buffer)
        finally:
            for future, _ in read:
                if not future.cancel():
                    future.exception()  # waited for: the file descriptor is the caller's to close


def _read(fd: int, offset: int, buffer: bytearray) -> Batch:
    size = 0
    view = memoryview(buffer)
    while size < len(buffer) and (count := os.preadv(fd, [view[size:]], offset + size)):
        size += count
    whole = view[:size]
    chunks = [whole[start : start + CHUNK_BYTES] for start in range(0, size, CHUNK_BYTES)]
    return Batch(chunks, list(map(leaf_hash, chunks)), whole)
