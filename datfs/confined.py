"""Files below a folder, by names that somebody else chose: none of them leads out of it (drive.md section 9).

Every folder on the way is opened relative to the one above, and no symbolic link is followed, so that what is checked
is what is used. ``.dat``, where the registers are, is nobody's file either.
"""

from __future__ import annotations

import ctypes
import errno
import os
import secrets
import stat as stat_bits
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from datfs.metadata import Path as DrivePath
from datfs.metadata import valid_component
from datfs.text import show_path

PRIVATE = b".dat"
MANY = 64  # files to sync: from so many on their whole file system is synced at once
NO_FILE = frozenset((errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EINVAL))
"""What :meth:`ConfinedFolder.open_file` says if there is no plain file of that name."""

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def allowed(path: DrivePath) -> bool:
    """Whether a drive may have a file of this name in a folder."""
    return bool(path) and all(map(valid_component, path)) and path[0] != PRIVATE


class ConfinedFolder:
    """A folder and what is below it. Every method raises OSError, naming the path."""

    def __init__(self, folder: Path) -> None:
        self.name = str(folder)
        self._root = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def open_file(self, path: DrivePath, *, write: bool = False, follow: bool = False) -> int:
        """A file descriptor of a plain file; with ``write`` it is made, with the folders above, if it is not there.

        ``follow``: the name may be a symbolic link, wherever it leads, but to the registers. For an owner's own files.
        """
        # NONBLOCK: what was a file may have become a pipe.
        flags = (os.O_RDWR | os.O_CREAT if write else os.O_RDONLY) | os.O_NONBLOCK | os.O_CLOEXEC
        with self._names(path), self._parent(path, make=write) as parent:
            try:
                fd = os.open(path[-1], flags | os.O_NOFOLLOW, 0o666, dir_fd=parent)
            except OSError as error:
                if not follow or error.errno != errno.ELOOP:
                    raise
                fd = self._open_linked(path[-1], flags, parent)
            if not stat_bits.S_ISREG(os.fstat(fd).st_mode):
                os.close(fd)
                raise OSError(errno.EINVAL, "not a plain file")
            return fd

    @contextmanager
    def replacing(self, path: DrivePath) -> Iterator[int]:
        """A new file to be written, which takes the place of what is at ``path`` when the context ends well.

        A folder there must be empty. If the context fails, everything is as before.
        """
        with self._names(path), self._parent(path, make=True) as parent:
            beside = b".datfs-" + secrets.token_hex(8).encode()
            fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=parent)
            try:
                try:
                    yield fd
                finally:
                    os.close(fd)
                with suppress(FileNotFoundError, NotADirectoryError):
                    os.rmdir(path[-1], dir_fd=parent)
                os.rename(beside, path[-1], src_dir_fd=parent, dst_dir_fd=parent)
            except BaseException:
                with suppress(OSError):
                    os.unlink(beside, dir_fd=parent)
                raise

    def look(self, path: DrivePath) -> os.stat_result | None:
        """What is at a path, a link itself; None if nothing is. Something else than a folder on the way is told of."""
        with self._names(path):
            for depth in range(1, len(path) + 1):
                try:
                    with self._parent(path[:depth]) as parent:
                        found = os.stat(path[depth - 1], dir_fd=parent, follow_symlinks=False)
                except FileNotFoundError:
                    return None
                if depth == len(path) or not stat_bits.S_ISDIR(found.st_mode):
                    return found
        return None

    def names(self, path: DrivePath) -> list[bytes]:
        """What is in a folder."""
        with self._names((*path, b"_")), self._parent((*path, b"")) as fd:
            return [os.fsencode(name) for name in os.listdir(fd)]

    def open_folder(self, path: DrivePath, *, make: bool = False) -> int:
        """A file descriptor of a folder; with ``make`` it is made, with those above, if it is not there."""
        with self._names((*path, b"_")), self._parent((*path, b""), make=make) as fd:
            return os.dup(fd)

    def remove(self, path: DrivePath) -> None:
        """Removes a plain file, and the folders above that are empty then. It is no error if there is none."""
        with self._names(path):
            try:
                with self._parent(path) as parent:
                    if not stat_bits.S_ISREG(os.stat(path[-1], dir_fd=parent, follow_symlinks=False).st_mode):
                        return  # somebody put it there, not the drive
                    os.unlink(path[-1], dir_fd=parent)
                for depth in range(len(path) - 1, 0, -1):
                    with self._parent(path[:depth]) as parent:
                        os.rmdir(path[depth - 1], dir_fd=parent)
            except OSError as error:
                # Gone, or not empty, or something else stands on the way by now.
                if error.errno not in NO_FILE | {errno.ENOTEMPTY, errno.EEXIST}:
                    raise

    def sync(self, paths: Iterable[DrivePath], *, follow: bool = False) -> None:
        """Makes files and their names durable. Those that are not there any more are left out."""
        folders: set[DrivePath] = set()
        paths = list(paths)
        if len(paths) > MANY:
            sync_file_system(self._root)
            paths = [path for path in paths if self._is_elsewhere(path)]
        for path in paths:
            try:
                fd = self.open_file(path, follow=follow)
            except OSError as error:
                if error.errno in NO_FILE:
                    continue
                raise
            try:
                os.fdatasync(fd)
            finally:
                os.close(fd)
            folders.update(path[:depth] for depth in range(len(path)))
        self._sync_each(folders)

    def sync_folders(self, paths: Iterable[DrivePath]) -> None:
        """Makes the names in folders durable, and those of the folders above."""
        folders = {path[:depth] for path in paths for depth in range(len(path) + 1)}
        if len(folders) > MANY:
            sync_file_system(self._root)
            folders = {folder for folder in folders if self._is_elsewhere(folder)}
        self._sync_each(folders)

    def _sync_each(self, folders: Iterable[DrivePath]) -> None:
        for folder in folders:
            with suppress(FileNotFoundError, NotADirectoryError), self._parent((*folder, b"")) as fd:
                os.fsync(fd)

    def close(self) -> None:
        """Lets go of the folder; a second call does nothing."""
        if self._root >= 0:
            os.close(self._root)
            self._root = -1

    @contextmanager
    def _names(self, path: DrivePath) -> Iterator[None]:
        """Refuses names that lead elsewhere, and says in errors which path they are about."""
        place = self.name + show_path(path)
        if not allowed(path):
            raise PermissionError(errno.EPERM, "a drive may have no file of this name", place)
        try:
            yield
        except OSError as error:
            why = "a symbolic link, which is not followed" if error.errno == errno.ELOOP else error.strerror
            raise OSError(error.errno, why, place) from None

    @contextmanager
    def _parent(self, path: DrivePath, *, make: bool = False) -> Iterator[int]:
        """The folder that a path's last component is in."""
        fd = os.dup(self._root)
        try:
            for component in path[:-1]:
                below = self._step(fd, component, make)
                os.close(fd)
                fd = below
                self._refuse_private(fd)
            yield fd
        finally:
            os.close(fd)

    def _step(self, fd: int, component: bytes, make: bool) -> int:
        try:
            return os.open(component, _FOLDER, dir_fd=fd)
        except FileNotFoundError:
            if not make:
                raise
        with suppress(FileExistsError):
            os.mkdir(component, dir_fd=fd)
        return os.open(component, _FOLDER, dir_fd=fd)

    def _refuse_private(self, fd: int) -> None:
        """Refuses ``.dat`` by what it is: on some file systems it has other names too, like ``.DAT``."""
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(fd), os.stat(PRIVATE, dir_fd=self._root)):
                raise NotADirectoryError(errno.ENOTDIR, "the drive's own registers are there")

    def _is_elsewhere(self, path: DrivePath) -> bool:
        """Whether a file is on another file system than the folder."""
        with suppress(OSError):
            return os.stat(b"/".join(path) or b".", dir_fd=self._root).st_dev != os.fstat(self._root).st_dev
        return False

    def _open_linked(self, name: bytes, flags: int, parent: int) -> int:
        """Opens what a link leads to, unless that is in ``.dat``: a secret key may be there."""
        fd = os.open(name, flags, dir_fd=parent)
        private = os.readlink(f"/proc/self/fd/{self._root}") + "/" + os.fsdecode(PRIVATE)
        if os.readlink(f"/proc/self/fd/{fd}").startswith(private + "/"):
            os.close(fd)
            raise PermissionError(errno.EPERM, "the link leads to the drive's own registers")
        return fd


def sync_file_system(fd: int) -> None:
    """syncfs(2), which Python has no name for. Raises OSError."""
    if ctypes.CDLL(None, use_errno=True).syncfs(fd):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
