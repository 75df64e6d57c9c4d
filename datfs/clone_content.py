"""The content of a reader's folder: chunks gather in parts beside the registers, and whole files get their names.

A file that is being fetched is ``.dat/datfs.parts/N``, N being the number of its entry. Under the names of the drive
there are whole files only: the old one until the new one is whole, durable, and renamed over it. The one exception is a
file that the ``dat`` command had begun in its place: it is finished there, as the bits on the disk say what is in it.

Owns which bytes of the register are where. What is whole, and what may be replaced, is decided by
:mod:`datfs.dat_clone`.
"""

from __future__ import annotations

import bisect
import errno
import os
import stat as stat_bits
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing, suppress
from pathlib import Path as FilePath

from datfs.confined import ConfinedFolder, allowed
from datfs.dat_content import OPEN_FILES, Extent, FolderContent
from datfs.errors import BadMetadata, CorruptStorage
from datfs.metadata import Path, Stat, decode_record, mtime_ns, plausible
from datfs.placing import Placing, Replaceable, sync_files
from datfs.register import Register
from datfs.storage import Buffer

PARTS = "datfs.parts"

_DISK_FAILS = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS))
LARGE = 64 << 20
_FILE_MODE = 0o666
_OWN_ACCESS = 0o600  # whatever the drive says, its copy can be brought up to date


class Entries:
    """What the metadata say of every path, over all versions that are known. Only what a folder may have.

    ``of``: by path, (number, attributes) of its entries, rising; None for a deletion, and for what is no plain file.
    """

    def __init__(self, metadata: Register) -> None:
        self._metadata = metadata
        self._known = 0
        self._missing: list[int] = []
        self.of: dict[Path, list[tuple[int, Stat | None]]] = {}
        self.end = 0  # one past the last byte that any of them names

    def advance(self, version: int) -> None:
        """Takes the entries up to ``version`` into account, except those that are not held or make no sense."""
        wanted = [*self._missing, *range(self._known + 1, version + 1)]
        self._missing = []
        self._known = max(self._known, version)
        for seq in wanted:
            if not self._metadata.has(seq):
                self._missing.append(seq)
                continue
            try:
                record = decode_record(seq, self._metadata.get(seq))
            except (BadMetadata, CorruptStorage):
                continue
            if allowed(record.path):
                self._learn(seq, record.path, record.stat)

    def _learn(self, seq: int, path: Path, stat: Stat | None) -> None:
        if stat is not None and (not stat_bits.S_ISREG(stat.mode) or plausible(stat, None) is not None):
            stat = None
        if stat is not None:
            self.end = max(self.end, stat.byte_offset + stat.size)
        entries = self.of.setdefault(path, [])
        entries.append((seq, stat))
        if len(entries) > 1 and entries[-2][0] > seq:
            entries.sort(key=lambda entry: entry[0])

    def at(self, version: int) -> dict[Path, tuple[int, Stat]]:
        """The files of a version. Where something is below a path as well, it is a folder (drive.md section 4)."""
        found: dict[Path, tuple[int, Stat]] = {}
        folders: set[Path] = set()
        for path, entries in self.of.items():
            seq, stat = next((entry for entry in reversed(entries) if entry[0] <= version), (0, None))
            if stat is not None:
                found[path] = seq, stat
                folders.add(path[:-1])
        for folder in folders:
            while folder:
                found.pop(folder, None)
                folder = folder[:-1]
        return found


def extent_of(path: Path, seq: int, stat: Stat) -> Extent:
    """Where the bytes of an entry are in the register."""
    return Extent(stat.byte_offset, stat.byte_offset + stat.size, seq, path, stat.offset, stat.blocks)


class _Part:
    """A file that is being fetched. ``left``: bytes that are not here yet."""

    __slots__ = ("extent", "left", "stat")

    def __init__(self, extent: Extent, stat: Stat) -> None:
        self.extent = extent
        self.stat = stat
        self.left = extent.stop - extent.start


class ClonedContent(FolderContent):
    """The bytes of the register as they are in the folder.

    ``told``: is called with the path of a file, the bytes that came of it, and whether it is whole with them.
    ``whole``: extents whose bytes are all here and that have no name yet. ``begun``: those that were written to in
    their place.
    """

    def __init__(self, folder: ConfinedFolder, base: FilePath, metadata: Register) -> None:
        super().__init__(folder, metadata)
        self.entries = Entries(metadata)
        self.whole: list[Extent] = []
        self.begun: set[Extent] = set()
        self.told: Callable[[Path, int, bool], None] = lambda path, size, whole: None
        self._umask = os.umask(0o077)
        os.umask(self._umask)
        self._parts_folder = base / PARTS
        self._parts_fd = -1
        self._parts: dict[int, _Part] = {}  # by the number of the entry
        self._part_fds: OrderedDict[int, int] = OrderedDict()

    def size(self) -> int:
        """One past the last byte that the metadata name a file for, whatever became of the file."""
        return self.entries.end

    # -- what is where

    def arrange(self, in_place: Iterable[Extent], parts: Iterable[tuple[Extent, Stat]]) -> None:
        """From now on the extents ``in_place`` are the files of their names, and the others are gathered in parts."""
        for seq in list(self._part_fds):
            self._close_part(seq)
        self.whole = []
        self.begun = set()
        self._parts = {extent.seq: _Part(extent, stat) for extent, stat in parts}
        named = list(in_place)
        self._newest = {extent.path: extent for extent in named}
        gathered = (part.extent for part in self._parts.values())
        self._extents = sorted(extent for extent in (*named, *gathered) if extent.stop > extent.start)

    def took(self, extent: Extent, size: int) -> None:
        """So many bytes of a part were here already."""
        part = self._parts[extent.seq]
        part.left -= size
        if not part.left:
            self._complete(part)

    def gathers(self, extent: Extent) -> bool:
        """Whether there is a part for an extent."""
        return extent.seq in self._parts

    def settle(self, extent: Extent) -> None:
        """A part has its name now."""
        self._parts.pop(extent.seq, None)
        self._close_part(extent.seq)
        before = self._newest.get(extent.path)
        if before is not None:
            self._let_go(extent.path)
            self._drop(before)
        self._newest[extent.path] = extent

    def _drop(self, extent: Extent) -> None:
        at = bisect.bisect_left(self._extents, extent)
        if self._extents[at : at + 1] == [extent]:
            del self._extents[at]

    # -- parts

    def parts_left(self) -> list[int]:
        """The numbers of all parts in the folder."""
        try:
            return [int(name) for name in os.listdir(self._parts_folder) if name.isascii() and name.isdecimal()]
        except (FileNotFoundError, NotADirectoryError):
            return []

    def part_size(self, seq: int) -> int:
        """Bytes of the disk that a part has, 0 if there is none."""
        try:
            return os.stat(self._parts_folder / str(seq), follow_symlinks=False).st_blocks * 512
        except OSError:
            return 0

    def remove_part(self, seq: int) -> None:
        """Removes a part, if there is one. Raises OSError."""
        with suppress(FileNotFoundError):
            os.unlink(self._parts_folder / str(seq))

    def tidy(self) -> None:
        """Leaves nothing of ours in the folder when no part is left."""
        if self._parts_fd >= 0:
            os.close(self._parts_fd)
            self._parts_fd = -1
        with suppress(OSError):
            self._parts_folder.rmdir()

    def _open_part(self, seq: int, *, write: bool) -> int:
        fd = self._part_fds.get(seq)
        if fd is None:
            fd = os.open(
                b"%d" % seq,
                os.O_RDWR | (os.O_CREAT if write else 0) | os.O_NOFOLLOW | os.O_CLOEXEC,
                _FILE_MODE,
                dir_fd=self._parts_folder_fd(),
            )
            self._part_fds[seq] = fd
            if len(self._part_fds) > OPEN_FILES:
                os.close(self._part_fds.popitem(last=False)[1])
        return fd

    def _close_part(self, seq: int) -> None:
        fd = self._part_fds.pop(seq, None)
        if fd is not None:
            os.close(fd)

    def _parts_folder_fd(self) -> int:
        if self._parts_fd < 0:
            self._parts_folder.mkdir(exist_ok=True)
            self._parts_fd = os.open(self._parts_folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        return self._parts_fd

    def _complete(self, part: _Part) -> None:
        """Gives a part that is whole the drive's time and permissions, and closes it."""
        fd = self._open_part(part.extent.seq, write=True)
        self._dress(fd, part.stat, new=True)
        self._close_part(part.extent.seq)
        self.whole.append(part.extent)

    def _dress(self, fd: int, stat: Stat, *, new: bool) -> None:
        mode = (stat.mode & 0o777 & ~self._umask) | _OWN_ACCESS
        if not new or mode != _FILE_MODE & ~self._umask:
            os.fchmod(fd, mode)
        times = mtime_ns(stat.mtime)
        os.utime(fd, ns=(times, times))

    def being_written(self) -> list[tuple[int, bool]]:
        """The parts that are open, as file descriptors of their own, and whether they are large."""
        return [(os.dup(fd), self._is_large(seq)) for seq, fd in self._part_fds.items()]

    def _is_large(self, seq: int) -> bool:
        """Whether a part is of a file so large that it is not kept in memory for whoever reads it next.

        Else it takes the place of what others have there; and memory that nobody had before costs more than the disk
        where the machine is a virtual one.
        """
        part = self._parts.get(seq)
        return part is not None and part.extent.stop - part.extent.start >= LARGE

    # -- names

    def sync_parts(self, extents: Sequence[Extent]) -> None:
        """Makes parts durable. May be called from another thread. Raises OSError."""
        sync_files(self._parts_folder_fd(), [b"%d" % extent.seq for extent in extents])

    def name_parts(self, extents: Sequence[Extent], replaceable: Replaceable) -> list[tuple[Extent, OSError | None]]:
        """Gives parts their names, durably; for each what was in the way, None if nothing was.

        May be called from another thread. Raises OSError if the disk fails.
        """
        done: list[tuple[Extent, OSError | None]] = []
        with closing(Placing(self.folder, self._parts_folder_fd())) as placing:
            for extent in extents:
                try:
                    placing.place(b"%d" % extent.seq, extent.path, replaceable)
                except OSError as error:
                    if error.errno in _DISK_FAILS:
                        raise
                    done.append((extent, error))
                else:
                    done.append((extent, None))
            placing.sync()
        return done

    def dress(self, path: Path, stat: Stat) -> None:
        """Gives a file that was finished in its place the drive's time and permissions. Raises OSError."""
        self._dress(self._open(path, write=True), stat, new=False)
        self._let_go(path)

    def remove(self, path: Path) -> None:
        """Removes a file whose chunks are not held any more, and the folders that are empty then. Raises OSError."""
        self._let_go(path)
        extent = self._newest.pop(path, None)
        if extent is not None:
            self._drop(extent)
        self.folder.remove(path)

    # -- RandomAccess

    def write(self, offset: int, data: Buffer) -> None:
        """Writes into parts, or into files that were begun in their place.

        Raises OSError, ESTALE if no file may have these bytes; nothing is written then.
        """
        pieces = list(self._extents_at(offset, len(data)))
        if sum(size for _, _, size in pieces) < len(data):
            raise OSError(errno.ESTALE, f"no file that is wanted has bytes {offset} and on", self.name)
        view = memoryview(data)
        for extent, position, size in pieces:
            part = self._parts.get(extent.seq)
            if part is not None and part.extent is extent:
                self._write_part(part, position, view[:size])
            else:
                self._write_in_place(extent, position, view[:size])
                self._unsynced.add(extent.path)
                self.begun.add(extent)
                self.told(extent.path, size, False)
            view = view[size:]

    def read(self, offset: int, length: int) -> bytes:
        """Bytes of the register; short where no file has them. Raises OSError of the files."""
        found: list[bytes] = []
        for extent, position, size in self._extents_at(offset, length):
            part = self._parts.get(extent.seq)
            if part is not None and part.extent is extent:
                found.append(self._read_part(extent, position, size))
            else:
                found.append(self._read_file(extent.path, position, size))
            if len(found[-1]) < size:
                break
        return b"".join(found)

    def close(self) -> None:
        """Closes the files and the folder; a second call does nothing."""
        for seq in list(self._part_fds):
            self._close_part(seq)
        if not self.parts_left():
            self.tidy()
        elif self._parts_fd >= 0:
            os.close(self._parts_fd)
            self._parts_fd = -1
        super().close()

    def _write_part(self, part: _Part, position: int, data: memoryview) -> None:
        seq = part.extent.seq
        try:
            fd = self._part_fds.get(seq)
            if fd is None:
                fd = self._open_part(seq, write=True)
            size = len(data)
            while data:
                written = os.pwrite(fd, data, position)
                position, data = position + written, data[written:]
            part.left -= size
            if not part.left:
                self._complete(part)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._parts_folder / str(seq))) from None
        self.told(part.extent.path, size, not part.left)

    def _read_part(self, extent: Extent, position: int, size: int) -> bytes:
        try:
            return os.pread(self._open_part(extent.seq, write=False), size, position)
        except FileNotFoundError:
            return self._read_file(extent.path, position, size)  # it has just got its name

    def _write_in_place(self, extent: Extent, position: int, data: memoryview) -> None:
        fd = self._open(extent.path, write=True)
        if not os.fstat(fd).st_nlink:  # somebody removed it
            self._let_go(extent.path)
            fd = self._open(extent.path, write=True)
        if os.fstat(fd).st_size > extent.stop - extent.start:
            os.ftruncate(fd, extent.stop - extent.start)
        while data:
            written = os.pwrite(fd, data, position)
            position, data = position + written, data[written:]
