"""A writer's folder as the ``dat`` command has it: registers in ``.dat``, and the content is the files (sleep.md 7).

Files that lie in it are added to the drive where they are. One process at a time has such a folder.
:mod:`datfs.dat_clone` is the reader's side.
"""

from __future__ import annotations

import fcntl
import os
import stat as stat_bits
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple

from datfs import key_files, secret_keys
from datfs.confined import ConfinedFolder, allowed
from datfs.crypto import KeyPair, content_key_pair
from datfs.dat_content import ImportedContent
from datfs.errors import BadLink, BadStore, FileChanged, NotADrive, ReadOnly, StoreLocked
from datfs.folder.tree import Branch, tree_of
from datfs.hashed_file import CHUNK_BYTES, FileHasher, marks_of
from datfs.left_over import LeftOver
from datfs.metadata import Header, Stat, encode_header, encode_stat
from datfs.metadata import Path as DrivePath
from datfs.register import Register
from datfs.storage import Buffer, FileStorage, OpenStorage, RandomAccess, directory_storage
from datfs.text import show_path
from datfs.writer import FILE, DriveWriter

INNER = ".dat"
OWNER = "metadata.ogd"
FLUSH_BYTES = 256 << 20
WRITTEN_BACK = 120.0  # seconds after which the kernel has written a file by itself, four times what it waits


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
                f" {secret_keys.place(public, home)} (with {base / OWNER}) nor at {base / 'metadata.secret_key'}."
                " Who has it brings it here with 'datfs keys import'"
            )
        metadata = Register.open(storage, secret_key=secret, prefix="metadata.")
        stack.callback(metadata.close)
        files = ImportedContent(ConfinedFolder(folder), metadata)
        stack.callback(files.close)
        files.advance(metadata.length - 1)
        derived = content_key_pair(secret)
        content = Register.open(mixed(base, files), key=derived.public, secret_key=derived.secret, prefix="content.")
        stack.callback(content.close)
        content.forget(files.end_chunk, content.length)  # what an import left that was interrupted
        if not metadata.length:  # a crash while it was made
            metadata.append([encode_header(Header("hyperdrive", derived.public))])
        stack.pop_all()
    return DatFolderWriter(metadata, content, files, locked)


class Imported(NamedTuple):
    """A file that was added: the drive's new version, what its entry says, and what the file was like before."""

    version: int
    stat: Stat
    found: os.stat_result


class DatFolderWriter(DriveWriter):
    """Writes the drive of a folder. Files are added, never changed; chunks of what they replace are forgotten."""

    def __init__(self, metadata: Register, content: Register, files: ImportedContent, locked: int) -> None:
        super().__init__(metadata, content)
        self._files = files
        self._lock = locked
        self._hasher = FileHasher()
        self._left_over = LeftOver(content, files.end_chunk)

    def import_file(
        self,
        path: DrivePath,
        *,
        mtime: int,
        ctime: int | None = None,
        mode: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Imported:
        """Adds a file of the folder as it is now.

        Times in ms since 1970, the ``dat`` command gives that of the import. ``mode``: default the file's. ``progress``
        is told the bytes of each batch of chunks, and may raise: then nothing is added. Raises BadLink for a path no
        drive may have, OSError if it is not a plain file, FileChanged if it is written meanwhile.
        """
        _check(path)
        fd = self._files.folder.open_file(path, follow=True)
        try:
            before = os.fstat(fd)
            permissions = stat_bits.S_IMODE(before.st_mode) & 0o777 if mode is None else mode
            self._forget_content(path)
            first, byte_offset = self._append_file(path, fd, before, progress or (lambda _: None))
        finally:
            os.close(fd)
        stat = Stat(
            mode=FILE | permissions,
            size=before.st_size,
            blocks=-(-before.st_size // CHUNK_BYTES),
            offset=first,
            byte_offset=byte_offset,
            mtime=mtime,
            ctime=mtime if ctime is None else ctime,
        )
        version = self._put(path, encode_stat(stat))
        self._files.learn(version, path, stat)
        return Imported(version, stat, before)

    def _append_file(
        self, path: DrivePath, fd: int, before: os.stat_result, progress: Callable[[int], None]
    ) -> tuple[int, int]:
        """Appends the chunks of a file; returns the first one, and its byte offset."""
        content, size = self.content, before.st_size
        first, done = self._left_over.find(fd, size)
        start = content.byte_offset(first) if done else content.byte_length
        progress(done)
        since = 0
        try:
            fresh = time.time() - before.st_ctime < WRITTEN_BACK
            with self._files.importing(path, start, compare=False, sync=fresh):
                for batch in self._hasher.batches(fd, size, done):
                    content.append(batch.chunks, sync=False, leaves=batch.leaves, whole=batch.whole)
                    size_read = len(batch.whole)
                    done, since = done + size_read, since + size_read
                    progress(size_read)
                    if since >= FLUSH_BYTES:  # so that a crash loses no more of a large file
                        content.flush()
                        since = 0
            if marks_of(os.fstat(fd)) != marks_of(before) or done != size:
                raise FileChanged(f"{self._files.name}{show_path(path)} was changed while it was added: add it again")
        except BaseException:
            content.forget(first, content.length)  # no entry will name them
            self._left_over = LeftOver(content, self._files.end_chunk)
            raise
        if size and first < self._left_over.stop:
            content.restore(first, min(content.length, self._left_over.stop))
            self._left_over.taken(first + -(-size // CHUNK_BYTES))
        return first, start

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
        self._forget_content(path)
        first = self.content.length
        try:
            with self._files.importing(path, self.content.byte_length):
                version = super().put(path, pieces, mtime=mtime, ctime=ctime, mode=mode, uid=uid, gid=gid)
        except BaseException:
            self.content.forget(first, self.content.length)  # no entry will name them
            raise
        self._files.advance(version)
        return version

    def delete(self, path: DrivePath) -> int:
        """As :meth:`DriveWriter.delete`. The file, if it is still there, stays."""
        self._forget_content(path)
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
        self._hasher.close()
        try:
            super().close()
        finally:
            unlock(self._lock)
            self._lock = -1

    def entries(self) -> Branch:
        """All entries of the newest version. Raises BadMetadata if a part of the drive does not decode."""
        return tree_of(self._record, self.version)

    @property
    def files(self) -> ConfinedFolder:
        """The folder."""
        return self._files.folder

    def _forget_content(self, path: DrivePath) -> None:
        """Forgets the chunks of what is at a path, as nobody has them now that the file is another (drive.md 6)."""
        record = self._entry(path)
        stat = record.stat if record is not None else None
        if stat is not None and stat.blocks:
            self.content.forget(stat.offset, stat.offset + stat.blocks)


def _check(path: DrivePath) -> None:
    if not allowed(path):
        raise BadLink(f"{show_path(path)}: no drive may have a file of this name, or this drive's registers are there")


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
