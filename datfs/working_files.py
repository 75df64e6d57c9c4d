"""The content register of a folder made by the dat command: its bytes are the files themselves (sleep.md section 7).

Maps a byte range of the register to the file that the metadata names for it. Only the newest bytes of a path exist;
nothing is written. What is read may have been edited since it was signed, so readers hash it (``trusted=False``).
"""

from __future__ import annotations

import bisect
import errno
import os
from pathlib import Path

from datfs.errors import BadMetadata, ReadOnly
from datfs.metadata import decode_record
from datfs.register import Register
from datfs.storage import Buffer

OPEN_FILES = 64


class WorkingFiles:
    """A :class:`datfs.storage.RandomAccess`, read-only, over the files of a folder."""

    def __init__(self, folder: Path, metadata: Register) -> None:
        self.name = str(folder)
        self._folder = folder
        self._metadata = metadata
        self._ranges: list[tuple[int, int, Path]] | None = None  # first byte, one past the last, file; ascending
        self._fds: dict[Path, int] = {}

    def read(self, offset: int, length: int) -> bytes:
        """Bytes of the register; short where no file has them. Raises OSError of the files."""
        pieces: list[bytes] = []
        while length > 0:
            place = self._locate(offset)
            if place is None:
                break
            start, stop, path = place
            piece = self._read_file(path, offset - start, min(length, stop - offset))
            pieces.append(piece)
            offset += len(piece)
            length -= len(piece)
            if not piece:
                break
        return b"".join(pieces)

    def _locate(self, offset: int) -> tuple[int, int, Path] | None:
        if self._ranges is None:
            self._ranges = self._index()
        at = bisect.bisect_right(self._ranges, offset, key=lambda place: place[0]) - 1
        if at >= 0 and offset < self._ranges[at][1]:
            return self._ranges[at]
        return None

    def _index(self) -> list[tuple[int, int, Path]]:
        newest: dict[int, tuple[int, int, Path]] = {}
        for seq in range(1, self._metadata.length):
            if not self._metadata.has(seq):
                continue
            try:
                record = decode_record(seq, self._metadata.get(seq))
            except BadMetadata:
                continue
            stat = record.stat
            if stat is not None and stat.blocks and record.path:
                path = self._folder.joinpath(*map(os.fsdecode, record.path))
                newest[stat.byte_offset] = (stat.byte_offset, stat.byte_offset + stat.size, path)
        return sorted(newest.values())

    def _read_file(self, path: Path, offset: int, length: int) -> bytes:
        fd = self._fds.get(path)
        if fd is None:
            if len(self._fds) >= OPEN_FILES:
                os.close(self._fds.pop(next(iter(self._fds))))
            try:
                fd = self._fds[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.ENOTDIR):
                    return b""
                raise
        try:
            return os.pread(fd, length, offset)
        except IsADirectoryError:
            return b""

    def write(self, offset: int, data: Buffer) -> None:
        """Never: the folder belongs to another program. Raises ReadOnly."""
        raise ReadOnly(f"{self._folder} was made by another program and is not written to")

    def size(self) -> int:
        """One past the last byte that some file has."""
        if self._ranges is None:
            self._ranges = self._index()
        return max((stop for _, stop, _ in self._ranges), default=0)

    def truncate(self, size: int) -> None:
        """Never. Raises ReadOnly."""
        self.write(0, b"")

    def punch(self, offset: int, length: int) -> None:
        """Never. Raises ReadOnly."""
        self.write(0, b"")

    def sync(self) -> None:
        """Nothing is written, so nothing needs syncing."""

    def close(self) -> None:
        """Closes the files."""
        for fd in self._fds.values():
            os.close(fd)
        self._fds.clear()
