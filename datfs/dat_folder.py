"""A writer's folder as the ``dat`` command has it: registers in ``.dat``, and the content is the files (sleep.md 7).

Files that lie in it are added to the drive where they are. One process at a time has such a folder.
:mod:`datfs.dat_clone` is the reader's side.
"""

from __future__ import annotations

import fcntl
import os
import stat as stat_bits
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

from datfs import key_files, path_index, secret_keys
from datfs.confined import ConfinedFolder, allowed
from datfs.crypto import KeyPair, content_key_pair
from datfs.dat_content import ImportedContent
from datfs.errors import BadLink, BadStore, NotADrive, ReadOnly, StoreLocked
from datfs.metadata import Header, encode_header
from datfs.metadata import Path as DrivePath
from datfs.register import Register
from datfs.storage import Buffer, FileStorage, OpenStorage, RandomAccess, directory_storage
from datfs.text import show_path
from datfs.writer import CHUNK_BYTES, DriveWriter

INNER = ".dat"
OWNER = "metadata.ogd"


def create_dat_folder(folder: Path, keys: KeyPair, *, home: Path | None = None) -> DatFolderWriter:
    """Makes an empty drive of a folder; the files in it are not added yet. The secret key goes to ``home``.

    Raises BadStore if there is a drive already, StoreLocked, OSError.
    """
    base = folder / INNER
    base.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        locked = lock(base, stack)
        if (base / "metadata.key").exists() or (base / "content.data").exists():
            raise BadStore(f"{base}: there is a drive here already")
        secret_keys.store(keys, base / OWNER, home=home)
        metadata = Register.create(directory_storage(base), keys, prefix="metadata.", store_secret=False)
        stack.callback(metadata.close)
        files = ImportedContent(ConfinedFolder(folder), metadata)
        stack.callback(files.close)
        derived = content_key_pair(keys.secret)
        content = Register.create(mixed(base, files), derived, prefix="content.", store_secret=False)
        stack.callback(content.close)
        metadata.append([encode_header(Header("hyperdrive", derived.public))])
        stack.pop_all()
    return DatFolderWriter(metadata, content, files, locked)


def open_dat_folder(folder: Path, *, home: Path | None = None) -> DatFolderWriter:
    """Opens a writer's folder to go on writing it. The secret key is in ``home`` or beside the register.

    Raises NotADrive, ReadOnly if the secret key is not there, BadStore, StoreLocked, OSError.
    """
    base = drive_in(folder)
    with ExitStack() as stack:
        locked = lock(base, stack)
        storage = directory_storage(base)
        public = key_files.settle(storage, "metadata.", None, read_only=True)
        secret = secret_keys.load(public, base / OWNER, home=home)
        secret = key_files.secret(storage, "metadata.", public, secret, look=True)
        if secret is None:
            raise ReadOnly(
                f"{folder} cannot be written: the drive's secret key is neither at"
                f" {secret_keys.place(public, home)} (with {base / OWNER}) nor at {base / 'metadata.secret_key'}"
            )
        metadata = Register.open(storage, secret_key=secret, prefix="metadata.")
        stack.callback(metadata.close)
        files = ImportedContent(ConfinedFolder(folder), metadata)
        stack.callback(files.close)
        files.advance(metadata.length - 1)
        derived = content_key_pair(secret)
        content = Register.open(mixed(base, files), key=derived.public, secret_key=derived.secret, prefix="content.")
        stack.callback(content.close)
        if not metadata.length:  # a crash while it was made
            metadata.append([encode_header(Header("hyperdrive", derived.public))])
        stack.pop_all()
    return DatFolderWriter(metadata, content, files, locked)


class DatFolderWriter(DriveWriter):
    """Writes the drive of a folder. Files are added, never changed; chunks of what they replace are forgotten."""

    def __init__(self, metadata: Register, content: Register, files: ImportedContent, locked: int) -> None:
        super().__init__(metadata, content)
        self._files = files
        self._lock = locked

    def import_file(self, path: DrivePath, *, mtime: int, ctime: int | None = None, mode: int | None = None) -> int:
        """Adds a file of the folder as it is now; returns the drive's new version.

        Times in ms since 1970, the ``dat`` command gives that of the import. ``mode``: default the file's. Raises
        BadLink for a path no drive may have, OSError if it is not a plain file, CorruptStorage if it changes meanwhile.
        """
        _check(path)
        fd = self._files.folder.open_file(path)
        try:
            permissions = stat_bits.S_IMODE(os.fstat(fd).st_mode) & 0o777 if mode is None else mode
            return self.put(path, _pieces(fd), mtime=mtime, ctime=ctime, mode=permissions)
        finally:
            os.close(fd)

    def put(
        self,
        path: DrivePath,
        pieces: Iterable[Buffer],
        *,
        mtime: int,
        ctime: int | None = None,
        mode: int = 0o644,
        uid: int = 0,
        gid: int = 0,
    ) -> int:
        """As :meth:`DriveWriter.put`, of bytes that this file has. Raises CorruptStorage if it has others."""
        _check(path)
        self._clear_content(path)
        first = self.content.length
        try:
            with self._files.importing(path, self.content.byte_length):
                version = super().put(path, pieces, mtime=mtime, ctime=ctime, mode=mode, uid=uid, gid=gid)
        except BaseException:
            self.content.clear(first, self.content.length)  # no entry will name them
            raise
        self._files.advance(version)
        return version

    def delete(self, path: DrivePath) -> int:
        """As :meth:`DriveWriter.delete`. The file, if it is still there, stays."""
        self._clear_content(path)
        version = super().delete(path)
        self._files.advance(version)
        return version

    def mkdir(self, path: DrivePath, *, mtime: int, mode: int = 0o755) -> int:
        """As :meth:`DriveWriter.mkdir`. No directory is made in the folder."""
        _check(path)
        version = super().mkdir(path, mtime=mtime, mode=mode)
        self._files.advance(version)
        return version

    def close(self) -> None:
        """Flushes and closes everything, and lets others have the folder."""
        try:
            super().close()
        finally:
            self.metadata.close()
            unlock(self._lock)
            self._lock = -1

    def _clear_content(self, path: DrivePath) -> None:
        """Forgets the chunks of what is at a path, as nobody has them now that the file is another (drive.md 6)."""
        record = path_index.run(path_index.get(self._record, self.version, path))
        stat = record.stat if record is not None else None
        if stat is not None and stat.blocks:
            self.content.clear(stat.offset, stat.offset + stat.blocks)


def _check(path: DrivePath) -> None:
    if not allowed(path):
        raise BadLink(f"{show_path(path)}: no drive may have a file of this name, or this drive's registers are there")


def _pieces(fd: int) -> Iterator[bytes]:
    while piece := os.read(fd, CHUNK_BYTES):
        yield piece


def drive_in(folder: Path) -> Path:
    """Where the registers of a folder are. Raises NotADrive if it has none, or another layout."""
    base = folder / INNER
    if not (base / "metadata.key").exists():
        raise NotADrive(f"{folder} holds no drive of the dat command: expected {INNER}/metadata.key in it")
    if (base / "content.data").exists():
        raise NotADrive(f"{folder}: the content of this drive is in {base / 'content.data'}, not in the files")
    return base


def mixed(base: Path, files: RandomAccess) -> OpenStorage:
    """The files of a folder's registers, with ``files`` for the content's data."""

    def open_storage(name: str) -> RandomAccess:
        return files if name == "content.data" else FileStorage(base / name)

    return open_storage


def lock(base: Path, stack: ExitStack) -> int:
    """Takes the folder, or raises StoreLocked. No file is made for it: the folder is as ``dat`` has it."""
    fd = os.open(base, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    stack.callback(os.close, fd)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pid = _owner(os.fstat(fd))
        raise StoreLocked(f"{base} is in use by process {pid or '(unknown)'}: stop it first", pid) from None
    return fd


def _owner(found: os.stat_result) -> int:
    """The process that has a lock on a file, 0 if the system does not tell."""
    place = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    with suppress(OSError, ValueError), open("/proc/locks", encoding="ascii") as locks:
        for fields in map(str.split, locks):
            if place in fields and "FLOCK" in fields:
                return int(fields[4])
    return 0


def unlock(fd: int) -> None:
    """Lets others have the folder; for -1 nothing."""
    if fd >= 0:
        os.close(fd)
