"""Random access to bytes: the verbs a register needs of its files, for files and for memory.

Anything never written reads as zeros inside the file, and is missing beyond its end. Every error names the file.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from datfs.errors import ReadOnly

Buffer = bytes | bytearray | memoryview

PAGE = 65_536
_FALLOC_KEEP_SIZE_PUNCH_HOLE = 0x01 | 0x02
_libc = ctypes.CDLL(None, use_errno=True)


class RandomAccess(Protocol):
    """One file of a register."""

    name: str

    def read(self, offset: int, length: int) -> bytes:
        """Bytes from ``offset``; fewer than ``length`` only at the end of the file. Raises OSError."""
        ...

    def write(self, offset: int, data: Buffer) -> None:
        """Writes all of ``data``; a gap before it reads as zeros. Raises OSError (what was written is undefined)."""
        ...

    def size(self) -> int:
        """Bytes up to the end of the file."""
        ...

    def truncate(self, size: int) -> None:
        """Cuts the file to at most ``size`` bytes; a shorter one stays as it is. Raises OSError."""
        ...

    def punch(self, offset: int, length: int) -> None:
        """Makes a range inside the file read as zeros and gives its space back where that is possible."""
        ...

    def sync(self) -> None:
        """Returns when what was written survives a power cut. May be called from another thread. Raises OSError."""
        ...

    def close(self) -> None:
        """Lets go of the file; a second call does nothing."""
        ...


OpenStorage = Callable[[str], RandomAccess]


class Syncer:
    """Syncs a file, and leaves that out only if a sync that has ended covers everything written.

    One that still runs in another thread does not count: what comes after must not get to the disk before it ends.
    """

    def __init__(self, file: RandomAccess) -> None:
        self._file = file
        self._writes = 0
        self._covered = 0

    def written(self) -> None:
        """Call it after each write: a sync in another thread may run meanwhile."""
        self._writes += 1

    def sync(self) -> None:
        """Makes durable what was written. May be called from several threads. Raises OSError."""
        writes = self._writes
        if self._covered < writes:
            self._file.sync()
            self._covered = writes  # if a thread that began earlier sets it back, the next sync is one too many


class FileStorage:
    """A file by ``pread`` and ``pwrite``. Made when first written to; read-only it is never made.

    Raises OSError other than "does not exist" at once: an unreadable key must not look like an absent one.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.name = str(path)
        self._read_only = read_only
        self._fd = -1
        self._created = False  # the folder's entry may not have reached the disk yet
        try:
            self._fd = os.open(path, (os.O_RDONLY if read_only else os.O_RDWR) | os.O_CLOEXEC)
        except FileNotFoundError:
            pass  # reads as empty

    def _open_for_writing(self) -> int:
        if self._read_only:
            raise ReadOnly(f"{self.name} was opened read-only")
        if self._fd < 0:
            self._fd = os.open(self.name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._created = True
        return self._fd

    def _named(self, error: OSError) -> OSError:
        return OSError(error.errno, error.strerror, self.name)

    def read(self, offset: int, length: int) -> bytes:
        """See :class:`RandomAccess`."""
        if self._fd < 0:
            return b""
        try:
            data = os.pread(self._fd, length, offset)
            while 0 < len(data) < length:  # a signal or a huge request may cut a read short before the end
                more = os.pread(self._fd, length - len(data), offset + len(data))
                if not more:
                    break
                data += more
        except OSError as error:
            raise self._named(error) from None
        return data

    def write(self, offset: int, data: Buffer) -> None:
        """See :class:`RandomAccess`."""
        fd = self._fd
        if fd < 0 or self._read_only:
            fd = self._open_for_writing()
        try:
            written = os.pwrite(fd, data, offset)
            if written < len(data):
                rest = memoryview(data)
                while written < len(data):
                    count = os.pwrite(fd, rest[written:], offset + written)
                    if not count:
                        raise OSError(errno.EIO, os.strerror(errno.EIO))
                    written += count
        except OSError as error:
            raise self._named(error) from None

    def size(self) -> int:
        """See :class:`RandomAccess`."""
        return os.fstat(self._fd).st_size if self._fd >= 0 else 0

    def truncate(self, size: int) -> None:
        """See :class:`RandomAccess`."""
        fd = self._open_for_writing()
        try:
            if size < os.fstat(fd).st_size:
                os.ftruncate(fd, size)
        except OSError as error:
            raise self._named(error) from None

    def punch(self, offset: int, length: int) -> None:
        """See :class:`RandomAccess`; writes zeros where the file system cannot punch holes."""
        fd = self._open_for_writing()
        length = min(length, self.size() - offset)
        if length <= 0:
            return
        mode = ctypes.c_int(_FALLOC_KEEP_SIZE_PUNCH_HOLE)
        if _libc.fallocate(fd, mode, ctypes.c_int64(offset), ctypes.c_int64(length)) == 0:
            return
        code = ctypes.get_errno()
        if code not in (errno.EOPNOTSUPP, errno.ENOSYS):
            raise OSError(code, os.strerror(code), self.name)
        while length > 0:
            self.write(offset, bytes(min(length, PAGE)))
            offset, length = offset + PAGE, length - PAGE

    def sync(self) -> None:
        """See :class:`RandomAccess`. A file made here also gets its name in the folder made durable."""
        if self._fd < 0 or self._read_only:
            return
        try:
            os.fdatasync(self._fd)
            if self._created:
                _sync_folder(os.path.dirname(self.name))
                self._created = False
        except OSError as error:
            raise self._named(error) from None

    def close(self) -> None:
        """See :class:`RandomAccess`."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _sync_folder(path: str) -> None:
    fd = os.open(path or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class MemoryStorage:
    """Memory in pages of 64 KiB, made when written to: a byte at 1 GiB costs one page."""

    def __init__(self, name: str = "memory") -> None:
        self.name = name
        self._pages: dict[int, bytearray] = {}
        self._size = 0

    def read(self, offset: int, length: int) -> bytes:
        """See :class:`RandomAccess`."""
        end = min(offset + length, self._size)
        pieces = []
        while offset < end:
            number, start = divmod(offset, PAGE)
            count = min(PAGE - start, end - offset)
            page = self._pages.get(number)
            pieces.append(bytes(count) if page is None else bytes(page[start : start + count]))
            offset += count
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def write(self, offset: int, data: Buffer) -> None:
        """See :class:`RandomAccess`."""
        view = memoryview(data).cast("B")
        if not view:
            return  # as for a file, which nothing written does not make longer
        self._size = max(self._size, offset + len(view))
        while view:
            number, start = divmod(offset, PAGE)
            count = min(PAGE - start, len(view))
            page = self._pages.get(number)
            if page is None:
                page = self._pages[number] = bytearray(PAGE)
            page[start : start + count] = view[:count]
            offset += count
            view = view[count:]

    def size(self) -> int:
        """See :class:`RandomAccess`."""
        return self._size

    def truncate(self, size: int) -> None:
        """See :class:`RandomAccess`."""
        if size < self._size:
            self.punch(size, self._size - size)
            self._size = size

    def punch(self, offset: int, length: int) -> None:
        """See :class:`RandomAccess`."""
        end = min(offset + length, self._size)
        while offset < end:
            number, start = divmod(offset, PAGE)
            count = min(PAGE - start, end - offset)
            if count == PAGE:
                self._pages.pop(number, None)
            elif number in self._pages:
                self._pages[number][start : start + count] = bytes(count)
            offset += count

    def sync(self) -> None:
        """Memory does not survive anything; nothing to do."""

    def close(self) -> None:
        """The bytes stay: opening the same storage again finds them."""


def directory_storage(folder: Path, *, read_only: bool = False) -> OpenStorage:
    """Files in a folder; the names may have one folder in front (``metadata/tree``), which must exist."""

    def open_file(name: str) -> RandomAccess:
        return FileStorage(folder / name, read_only=read_only)

    return open_file


def memory_storage() -> OpenStorage:
    """Files in memory, the same each time a name is opened again."""
    files: dict[str, MemoryStorage] = {}

    def open_file(name: str) -> RandomAccess:
        return files.setdefault(name, MemoryStorage(name))

    return open_file
