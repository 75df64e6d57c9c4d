"""Giving files that are whole their names below a folder, so that nothing of a person's own is lost.

A name is given by a rename: what is at a path is the old file or the new one, whole, at any moment.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat as stat_bits
from collections.abc import Mapping
from contextlib import suppress

from datfs.confined import MANY, ConfinedFolder, sync_file_system
from datfs.hashed_file import Marks, marks_of
from datfs.metadata import Path

Replaceable = Mapping[Path, Marks | None]
"""Paths of files that may be replaced: just those with these marks, or with None whatever is there."""

_NOREPLACE = 1
_SYNC_FILE_RANGE_WRITE = 2
_COPY_BYTES = 1 << 20
_libc = ctypes.CDLL(None, use_errno=True)


class Placing:
    """Moves files of a folder ``source`` (a file descriptor) to their paths below ``folder``.

    May be used from another thread than that of the folder. Close it when done; it keeps a folder open.
    """

    def __init__(self, folder: ConfinedFolder, source: int) -> None:
        self._folder = folder
        self._source = source
        self._at: tuple[Path, int] | None = None
        self._touched: set[Path] = set()

    def place(self, name: bytes, path: Path, replaceable: Replaceable) -> None:
        """Moves one. Raises OSError, FileExistsError if something is there that may not be replaced."""
        parent = self._parent(path[:-1])
        try:
            self._move(name, parent, path[-1])
        except FileExistsError:
            found = os.stat(path[-1], dir_fd=parent, follow_symlinks=False)
            if stat_bits.S_ISDIR(found.st_mode):
                os.rmdir(path[-1], dir_fd=parent)  # fails if there is anything in it
            else:
                marks = replaceable.get(path, ())
                if marks is not None and marks != marks_of(found):
                    raise
            self._move(name, parent, path[-1], replace=True)
        self._touched.add(path[:-1])

    def sync(self) -> None:
        """Makes the new names durable. Raises OSError."""
        self._folder.sync_folders(self._touched)

    def close(self) -> None:
        """Lets go of the folder."""
        if self._at is not None:
            os.close(self._at[1])
            self._at = None

    def _parent(self, path: Path) -> int:
        """The folder, made if need be. Kept: the next file is mostly in the same one."""
        if self._at is None or self._at[0] != path:
            self.close()
            self._at = path, self._folder.open_folder(path, make=True)
        return self._at[1]

    def _move(self, name: bytes, parent: int, to: bytes, *, replace: bool = False) -> None:
        try:
            _rename(self._source, name, parent, to, replace=replace)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            beside = b".datfs-" + name
            try:
                self._copy(name, parent, beside)
                _rename(parent, beside, parent, to, replace=replace)
            except OSError:
                with suppress(FileNotFoundError):
                    os.unlink(beside, dir_fd=parent)
                raise
            os.unlink(name, dir_fd=self._source)

    def _copy(self, name: bytes, parent: int, to: bytes) -> None:
        """To another file system, durably."""
        origin = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._source)
        try:
            found = os.fstat(origin)
            copy = os.open(to, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
            try:
                while os.sendfile(copy, origin, None, _COPY_BYTES):
                    pass
                os.fchmod(copy, stat_bits.S_IMODE(found.st_mode))
                os.utime(copy, ns=(found.st_mtime_ns, found.st_mtime_ns))
                os.fsync(copy)
            finally:
                os.close(copy)
        finally:
            os.close(origin)


def sync_files(folder: int, names: list[bytes]) -> None:
    """Makes files of one folder durable; of many, everything of their file system. Raises OSError."""
    if len(names) > MANY:
        sync_file_system(folder)
        return
    for name in names:
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder)
        try:
            os.fdatasync(fd)
        finally:
            os.close(fd)


def send_out(fd: int, *, let_go: bool) -> None:
    """What was written to a file sets out for the disk (sync_file_range(2)), which then has less to do at the end.

    ``let_go``: what has got there leaves the memory. Promises nothing, and a file system that cannot do it does not
    matter. May be called from another thread.
    """
    _libc.sync_file_range(fd, ctypes.c_int64(0), ctypes.c_int64(0), ctypes.c_uint(_SYNC_FILE_RANGE_WRITE))
    if let_go:
        with suppress(OSError):
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


def _rename(source: int, name: bytes, parent: int, to: bytes, *, replace: bool) -> None:
    """renameat2(2), which Python has no name for. Raises OSError."""
    if replace:
        os.rename(name, to, src_dir_fd=source, dst_dir_fd=parent)
        return
    if _libc.renameat2(source, name, parent, to, _NOREPLACE) == 0:
        return
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS):  # a file system that cannot do it
        os.link(name, to, src_dir_fd=source, dst_dir_fd=parent)
        os.unlink(name, dir_fd=source)
        return
    raise OSError(number, os.strerror(number))
