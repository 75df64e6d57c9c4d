"""The bytes of a content register that are the files of a folder, for whoever changes them (sleep.md section 7).

Two of them: a writer's, whose files are there before they are added and are never touched; and a reader's clone, whose
files are made of the chunks that arrive (:mod:`datfs.clone_content`). Both know where a byte is from the metadata
entries. :mod:`datfs.working_files` looks at such folders without changing them.
"""

from __future__ import annotations

import bisect
import os
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from operator import attrgetter
from typing import NamedTuple

from datfs.confined import NO_FILE, ConfinedFolder, allowed
from datfs.errors import BadMetadata, CorruptStorage, ReadOnly
from datfs.metadata import SAFE_INTEGER, Path, Stat, decode_record, plausible
from datfs.register import Register
from datfs.storage import Buffer
from datfs.text import show_path

OPEN_FILES = 64


class Extent(NamedTuple):
    """The bytes ``start .. stop-1`` of the register, in ``blocks`` chunks from ``first`` on, are the file ``path``.

    ``seq``: the metadata entry that says so.
    """

    start: int
    stop: int
    seq: int
    path: Path
    first: int
    blocks: int


_START = attrgetter("start")


class FolderContent:
    """What both kinds of :class:`datfs.storage.RandomAccess` here have in common. ``version``: entries that count.

    ``end_chunk``: one past the last chunk that any of them names.
    """

    follow = False  # whether a file may be a symbolic link

    def __init__(self, folder: ConfinedFolder, metadata: Register) -> None:
        self.name = folder.name
        self.version = 0
        self.end_chunk = 0
        self.folder = folder
        self._metadata = metadata
        self._extents: list[Extent] = []
        self._newest: dict[Path, Extent] = {}
        self._fds: OrderedDict[Path, tuple[int, bool]] = OrderedDict()  # whether one is open for writing too
        self._unsynced: set[Path] = set()

    # -- where bytes are

    def advance(self, version: int) -> None:
        """Takes the entries up to ``version`` into account, except those that are not held or make no sense."""
        for seq in range(self.version + 1, version + 1):
            if not self._metadata.has(seq):
                continue
            try:
                record = decode_record(seq, self._metadata.get(seq))
            except (BadMetadata, CorruptStorage):
                continue
            self._learn(seq, record.path, record.stat)
        self.version = max(self.version, version)

    def learn(self, seq: int, path: Path, stat: Stat | None) -> None:
        """As :meth:`advance`, of one more entry that is known already."""
        self._learn(seq, path, stat)
        self.version = seq

    def chunks(self) -> list[tuple[int, int]]:
        """The chunks ``first .. stop-1`` of each file, in order of their bytes, as the entries claim."""
        return [(extent.first, extent.first + extent.blocks) for extent in self._extents]

    def _learn(self, seq: int, path: Path, stat: Stat | None) -> None:
        before = self._newest.pop(path, None)
        if before is not None:
            del self._extents[bisect.bisect_left(self._extents, before)]
        if stat is None or not stat.blocks or not stat.size or plausible(stat, None) is not None or not allowed(path):
            return
        self.end_chunk = max(self.end_chunk, stat.offset + stat.blocks)
        extent = self._newest[path] = Extent(
            stat.byte_offset, stat.byte_offset + stat.size, seq, path, stat.offset, stat.blocks
        )
        bisect.insort(self._extents, extent)

    def _extents_at(self, offset: int, length: int) -> Iterator[tuple[Extent, int, int]]:
        """The extents of a range, as (extent, position in it, bytes); ends where the metadata name none."""
        while length > 0:
            at = bisect.bisect_right(self._extents, offset, key=_START) - 1
            if at < 0 or offset >= self._extents[at].stop:
                return
            extent = self._extents[at]
            size = min(length, extent.stop - offset)
            yield extent, offset - extent.start, size
            offset, length = offset + size, length - size

    # -- RandomAccess

    def read(self, offset: int, length: int) -> bytes:
        """Bytes of the register; short where no file has them. Raises OSError of the files."""
        found: list[bytes] = []
        for extent, position, size in self._extents_at(offset, length):
            found.append(self._read_file(extent.path, position, size))
            if len(found[-1]) < size:
                break
        return b"".join(found)

    def size(self) -> int:
        """One past the last byte that the metadata name a file for, whatever became of the file."""
        return max((extent.stop for extent in self._extents[-1:]), default=0)

    def truncate(self, size: int) -> None:
        """Nothing: a register that forgets chunks leaves the files as they are."""

    def punch(self, offset: int, length: int) -> None:
        """Nothing, see :meth:`truncate`."""

    def sync(self) -> None:
        """Makes the files durable that were written or taken over since. May be called from another thread."""
        paths: list[Path] = []
        while self._unsynced:
            paths.append(self._unsynced.pop())  # one by one: the other thread may add some
        try:
            self.folder.sync(paths, follow=self.follow)
        except OSError:
            self._unsynced.update(paths)
            raise

    def close(self) -> None:
        """Closes the files and the folder; a second call does nothing."""
        for path in list(self._fds):
            self._let_go(path)
        self.folder.close()

    # -- files

    def _read_file(self, path: Path, position: int, size: int) -> bytes:
        try:
            fd = self._open(path)
        except OSError as error:
            if error.errno in NO_FILE:
                return b""
            raise
        return os.pread(fd, size, position)

    def _open(self, path: Path, *, write: bool = False) -> int:
        fd, writable = self._fds.get(path, (-1, False))
        if fd < 0 or (write and not writable):
            self._let_go(path)
            fd = self.folder.open_file(path, write=write, follow=self.follow)
            self._fds[path] = fd, write
            if len(self._fds) > OPEN_FILES:
                os.close(self._fds.popitem(last=False)[1][0])
        self._fds.move_to_end(path)
        return fd

    def _let_go(self, path: Path) -> None:
        fd, _ = self._fds.pop(path, (-1, False))
        if fd >= 0:
            os.close(fd)


class ImportedContent(FolderContent):
    """A writer's: its files were there before. Writing means to say which bytes of them are chunks."""

    follow = True
    """An owner's links to files are those files in the drive, as with the ``dat`` command."""

    _current: tuple[Path, int] | None = None
    _compares = _syncs = True

    @contextmanager
    def importing(self, path: Path, start: int, *, compare: bool = True, sync: bool = True) -> Iterator[None]:
        """What is written inside, from byte ``start`` of the register on, is the file ``path``.

        ``compare``: whether that has to be made sure of; not for who reads it from the file. ``sync``: whether the file
        may not have reached the disk yet.
        """
        self._let_go(path)  # it may have been replaced by another file of this name
        self._current = path, start
        self._compares, self._syncs = compare, sync
        try:
            yield
        finally:
            self._current = None

    def size(self) -> int:
        """No end: what is held is what an entry names, and the files are looked at when they are read."""
        return SAFE_INTEGER

    def write(self, offset: int, data: Buffer) -> None:
        """Makes sure that the file has these bytes. Raises CorruptStorage if not, ReadOnly outside of an import."""
        if self._current is None:
            raise ReadOnly(f"{self.name}: the files of this folder are added to the drive, never written")
        path, start = self._current
        if self._compares and self._read_file(path, offset - start, len(data)) != data:
            raise CorruptStorage(
                f"{self.name}{show_path(path)}: it does not have the bytes that were to be added, or was changed"
                f" meanwhile (offset {offset - start}): add it again",
                self.name + show_path(path),
                offset - start,
            )
        if self._syncs:
            self._unsynced.add(path)
