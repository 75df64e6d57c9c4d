"""The content register of a folder made by the dat command: its bytes are the files themselves (sleep.md section 7).

Maps a byte range of the register to the file that the metadata names for it. The bitfield of such a folder says what
was there once; only the newest bytes of a path still are, so chunks whose file was replaced, deleted or cut are taken
as not held. Nothing is written. What is read may have been edited since it was signed, so readers hash it
(``trusted=False``); what is sent to peers, who do so too, is not hashed again if the file is noted as unchanged.
"""

from __future__ import annotations

import bisect
import errno
import os
import stat as stat_bits
from dataclasses import dataclass
from pathlib import Path

from datfs.bitfield_file import BitfieldFile
from datfs.errors import BadMetadata, CorruptStorage, Gone, ReadOnly
from datfs.folder import seen_notes
from datfs.hashed_file import marks_of
from datfs.metadata import SAFE_INTEGER, Stat, decode_record, name_of, valid_component
from datfs.metadata import Path as DrivePath
from datfs.register import Register
from datfs.sleep import HEADER_BYTES
from datfs.storage import Buffer, MemoryStorage, RandomAccess
from datfs.store import Store
from datfs.text import show_path

OPEN_FILES = 64
COPY_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class WorkingFile:
    """A file of the newest version. ``start .. stop-1``: its bytes in the register; ``first``, ``blocks``: its chunks.

    ``problem``: why its bytes are certainly not the signed ones, None if they may be.
    """

    start: int
    stop: int
    first: int
    blocks: int
    path: DrivePath
    problem: str | None


class WorkingFiles:
    """A :class:`datfs.storage.RandomAccess`, read-only, over the files of a folder.

    ``before``: the same of a shorter register, whose findings are gone on with.
    """

    def __init__(self, folder: Path, metadata: Register, before: WorkingFiles | None = None) -> None:
        self.name = str(folder)
        self._folder = folder
        self._newest: dict[DrivePath, WorkingFile] = dict(before._newest) if before is not None else {}
        self._seen: int = before._seen if before is not None else 1
        self._learn(metadata)
        self.files = sorted(self._newest.values(), key=lambda file: (file.start, file.stop))
        self._by_start = {file.start: file for file in self.files}
        self._starts = [file.start for file in self.files]
        self._fds: dict[DrivePath, int] = {}
        self._notes = seen_notes.load(folder / ".dat" / seen_notes.NAME)

    # -- what is there

    def _learn(self, metadata: Register) -> None:
        newest: dict[DrivePath, Stat | None] = {}
        for seq in range(self._seen, metadata.length):
            if not metadata.has(seq):
                continue
            try:
                record = decode_record(seq, metadata.get(seq))
            except (BadMetadata, CorruptStorage):
                continue
            # Names are the drive's to choose, and must not lead out of the folder.
            if record.path and all(map(valid_component, record.path)):
                newest[record.path] = record.stat
        self._seen = max(self._seen, metadata.length)
        for path, stat in newest.items():
            self._newest.pop(path, None)
            if stat is not None and stat.blocks and max(stat.offset + stat.blocks, stat.byte_offset) <= SAFE_INTEGER:
                stop = stat.byte_offset + stat.size
                problem = self._problem(path, stat)
                self._newest[path] = WorkingFile(stat.byte_offset, stop, stat.offset, stat.blocks, path, problem)

    def _problem(self, path: DrivePath, stat: Stat) -> str | None:
        try:
            found = os.stat(self._place(path))
        except OSError as error:
            return f"{show_path(path)} cannot be read: {error.strerror}"
        if not stat_bits.S_ISREG(found.st_mode):
            return f"{show_path(path)} is not a plain file any more"
        if found.st_size != stat.size:
            return (
                f"{show_path(path)} was changed after it was added to the drive: it has {found.st_size} bytes,"
                f" not {stat.size}"
            )
        return None

    def _place(self, path: DrivePath) -> Path:
        return self._folder.joinpath(*map(os.fsdecode, path))

    def check(self, stat: Stat, shown: str) -> None:
        """Raises Gone if the bytes of this version of a file are, CorruptStorage if the file was changed."""
        if not stat.blocks:
            return
        file = self._by_start.get(stat.byte_offset)
        if file is None or file.first != stat.offset:
            raise Gone(
                f"the bytes of this version of {shown} are gone: a folder of the dat command keeps only the newest"
                " of each file. A link with --peer may find them elsewhere"
            )
        if file.problem is not None:
            raise CorruptStorage(file.problem, self.name, stat.byte_offset)

    def mask(self, bits: BitfieldFile) -> None:
        """Takes from the bits all chunks whose bytes are known to be gone."""
        at = 0
        for first, stop in sorted((file.first, file.first + file.blocks) for file in self.files if not file.problem):
            bits.set_data_range(at, min(first, len(bits.data)), False)
            at = max(at, stop)
        bits.set_data_range(at, len(bits.data), False)

    def vouches(self, offset: int, size: int) -> bool:
        """Whether bytes that were just read are, as the notes and the marks of their file tell, those of the drive.

        A program that changes a file without its times telling can deceive this: for what others verify anyway.
        """
        file = self._file_at(offset)
        if file is None or offset + size > file.stop or (fd := self._fds.get(file.path)) is None:
            return False
        return self._notes.get(name_of(file.path)) == (file.start, *marks_of(os.fstat(fd)))

    # -- RandomAccess

    def read(self, offset: int, length: int) -> bytes:
        """Bytes of the register; short where no file has them. Raises OSError of the files."""
        pieces: list[bytes] = []
        while length > 0:
            file = self._file_at(offset)
            if file is None:
                break
            piece = self._read_file(file.path, offset - file.start, min(length, file.stop - offset))
            if not piece:
                break
            pieces.append(piece)
            offset += len(piece)
            length -= len(piece)
        return b"".join(pieces)

    def _file_at(self, offset: int) -> WorkingFile | None:
        at = bisect.bisect_right(self._starts, offset) - 1
        return self.files[at] if at >= 0 and offset < self.files[at].stop else None

    def _read_file(self, path: DrivePath, offset: int, length: int) -> bytes:
        fd = self._fds.get(path)
        if fd is None:
            if len(self._fds) >= OPEN_FILES:
                os.close(self._fds.pop(next(iter(self._fds))))
            try:
                # NONBLOCK: what was a file may have become a pipe.
                fd = self._fds[path] = os.open(self._place(path), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
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
        return max((file.stop for file in self.files), default=0)

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


def working_content(
    store: Store, metadata: Register, key: bytes | None, before: WorkingFiles | None = None
) -> tuple[Register, WorkingFiles]:
    """The content register of a store whose ``working`` is set, read-only. Raises BadStore, OSError."""
    assert store.working is not None
    files = WorkingFiles(store.working, metadata, before)

    def open_mixed(name: str) -> RandomAccess:
        if name == f"{store.content_prefix}data":
            return files
        if name == f"{store.content_prefix}bitfield":
            return _masked(store.open_storage(name), files)
        return store.open_storage(name)

    return Register.open(open_mixed, key=key, read_only=True, prefix=store.content_prefix), files


def _masked(file: RandomAccess, files: WorkingFiles) -> MemoryStorage:
    """A copy of a bitfield in which only chunks are marked whose bytes may be there."""
    copy = MemoryStorage(file.name)
    for offset in range(0, file.size(), COPY_BYTES):
        copy.write(offset, file.read(offset, COPY_BYTES))
    file.close()
    if copy.size() >= HEADER_BYTES:
        bits = BitfieldFile(copy, read_only=True)
        files.mask(bits)
        bits.write(bits.snapshot())
    return copy
