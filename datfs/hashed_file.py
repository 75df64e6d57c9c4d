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
    """Consecutive chunks and their hashes."""

    chunks: list[memoryview]
    leaves: list[bytes]
    size: int


class FileHasher:
    """Reads files. Its threads begin when a large file comes, and end with :meth:`close`."""

    def __init__(self) -> None:
        self._threads: ThreadPoolExecutor | None = None

    def batches(self, fd: int, size: int, start: int = 0) -> Iterator[Batch]:
        """A file of about ``size`` bytes in batches, from ``start`` to its end, wherever that is. Raises OSError."""
        offset = start
        if size <= offset + BATCH_BYTES:
            yield from self._one_by_one(fd, offset)
            return
        if self._threads is None:
            self._threads = ThreadPoolExecutor(THREADS, "hashing")
        read: deque[Future[Batch]] = deque()
        try:
            while read or offset < size:
                while offset < size and len(read) < AHEAD:
                    read.append(self._threads.submit(_read, fd, offset))
                    offset += BATCH_BYTES
                batch = read.popleft().result()
                if batch.size:
                    yield batch
                if batch.size < BATCH_BYTES:
                    return
        finally:
            for one in read:
                one.cancel()
            for one in read:
                if not one.cancelled():
                    one.exception()  # waited for: the file descriptor is the caller's to close
        yield from self._one_by_one(fd, offset)

    def close(self) -> None:
        """Ends the threads; a second call does nothing."""
        if self._threads is not None:
            self._threads.shutdown()
            self._threads = None

    @staticmethod
    def _one_by_one(fd: int, offset: int) -> Iterator[Batch]:
        while True:
            batch = _read(fd, offset)
            if batch.size:
                yield batch
            if batch.size < BATCH_BYTES:
                return
            offset += BATCH_BYTES


def _read(fd: int, offset: int) -> Batch:
    data = bytearray(min(BATCH_BYTES, max(0, os.fstat(fd).st_size - offset) + 1))
    size = 0
    with memoryview(data) as view:
        while size < len(data) and (count := os.preadv(fd, [view[size:]], offset + size)):
            size += count
    whole = memoryview(data)[:size]
    chunks = [whole[start : start + CHUNK_BYTES] for start in range(0, size, CHUNK_BYTES)]
    return Batch(chunks, list(map(leaf_hash, chunks)), size)
