"""A reader's folder as the ``dat`` command has it: chunks become the files of the drive (sleep.md sections 7 and 8).

Only one version of each file fits. :meth:`DatClone.prepare` finds out what a version takes, chunks are put by whoever
fetches them, :meth:`DatClone.flushing` gives names to files that are whole, and :meth:`DatClone.finish` removes what
the drive has no more. Interrupted anywhere, every name has a whole file, old or new, and nothing comes twice
(``docs/storage.md``).
"""

from __future__ import annotations

import os
import stat as stat_bits
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

from datfs.clone_content import ClonedContent, extent_of
from datfs.confined import NO_FILE, ConfinedFolder
from datfs.crypto import leaf_hash
from datfs.dat_content import Extent
from datfs.dat_folder import INNER, OWNER, drive_in, lock, mixed, unlock
from datfs.errors import BadMetadata, Conflict, NotADrive, ReadOnly
from datfs.hashed_file import Marks, marks_of
from datfs.metadata import Path as DrivePath
from datfs.metadata import Stat, decode_header, mtime_ns
from datfs.register import ChunkMissing, Register
from datfs.storage import FileStorage, directory_storage
from datfs.text import show_path

LATEST = "metadata.latest"
LATEST_BYTES = 8
Wants = Callable[[DrivePath], bool]


def open_dat_clone(folder: Path, key: bytes | None = None) -> DatClone:
    """Opens a reader's folder; with ``key`` one is made if it is not there.

    Raises NotADrive, ReadOnly for the folder of a writer, BadStore, StoreLocked, OSError.
    """
    base = folder / INNER
    if key is None:
        drive_in(folder)
    base.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        locked = lock(base, stack)
        if (base / "content.data").exists():
            raise NotADrive(f"{folder}: the content of this drive is in {base / 'content.data'}, not in the files")
        if any((base / name).exists() for name in (OWNER, "metadata.secret_key")):
            raise ReadOnly(f"{folder}: the drive is written here, so nothing is fetched into it")
        metadata = Register.open(directory_storage(base), key=key, prefix="metadata.")
        stack.callback(metadata.close)
        files = ClonedContent(ConfinedFolder(folder), base, metadata)
        stack.callback(files.close)
        clone = DatClone(base, metadata, files, locked)
        stack.pop_all()
    return clone


class CloneFile(NamedTuple):
    """A file that is to come: ``blocks`` chunks from ``first`` on; ``size`` in bytes, ``here``: those that are."""

    path: DrivePath
    first: int
    blocks: int
    size: int
    here: int

    @property
    def stop(self) -> int:
        """One past the last chunk."""
        return self.first + self.blocks


@dataclass(slots=True)
class Work:
    """What brings a folder to a version. Made by :meth:`DatClone.prepare`.

    ``missing``: files to be fetched, in order of their chunks. ``kept``: files that the drive deleted, or nobody wants
    any more, which stay because a person changed them. ``failed``: files that could not get their names, and why.
    """

    version: int
    missing: list[CloneFile] = field(default_factory=list)
    kept: list[DrivePath] = field(default_factory=list)
    failed: list[tuple[DrivePath, str]] = field(default_factory=list)
    removed: int = 0
    parts: list[tuple[Extent, Stat]] = field(default_factory=list)
    in_place: list[Extent] = field(default_factory=list)
    gone: list[Extent] = field(default_factory=list)
    stale: list[Extent] = field(default_factory=list)
    replaced: dict[DrivePath, list[Extent]] = field(default_factory=dict)
    replaceable: dict[DrivePath, Marks | None] = field(default_factory=dict)
    folders: list[DrivePath] = field(default_factory=list)
    blocking: list[DrivePath] = field(default_factory=list)


class DatClone:
    """A reader's copy of a drive in a folder. ``latest``: the version whose files are all in the folder, 0 if unknown.

    What is in the folder follows from the bits on the disk: they are set only of files that have their names.
    """

    def __init__(self, base: Path, metadata: Register, files: ClonedContent, locked: int) -> None:
        self.metadata = metadata
        self.latest = min(read_latest(base), max(0, metadata.length - 1))
        self._base = base
        self._files = files
        self._lock = locked
        self._content: Register | None = None
        self._work = Work(self.latest)
        files.entries.advance(metadata.length - 1)

    @property
    def content(self) -> Register | None:
        """The content register; None until metadata chunk 0 is here. Raises BadMetadata, BadStore, OSError."""
        if self._content is None and self.metadata.has(0):
            key = decode_header(self.metadata.get(0)).content_key
            if key == self.metadata.key:
                raise BadMetadata("the drive's header names the drive itself as its content")
            self._content = Register.open(mixed(self._base, self._files), key=key, prefix="content.")
            self._content.hold_back()
            self._files.arrange((places[0] for path in self._files.entries.of if (places := self._in_place(path))), ())
        return self._content

    def tell(self, told: Callable[[DrivePath, int, bool], None]) -> None:
        """``told`` is called with the path of a file, the bytes that come of it, and whether it is whole with them."""
        self._files.told = told

    # -- what is to be done

    def prepare(
        self, version: int | None = None, wants: Wants = lambda path: True, *, force: bool = False
    ) -> Iterator[Work | None]:
        """Finds out what brings the folder to a version (default: the newest): yields None now and then, then the work.

        ``wants``: which files, by path. From then on chunks can be put. Files that may have been changed are hashed.
        Raises Conflict, with nothing changed, if files would be lost that the drive did not put there, unless
        ``force``; ChunkMissing if an entry is not here; BadMetadata, OSError.
        """
        content = self.content
        newest = max(0, self.metadata.length - 1)
        work = Work(newest if version is None else min(version, newest))
        if content is None:
            yield work
            return
        if not self.metadata.has_range(0, work.version + 1):
            raise ChunkMissing(f"entries of version {work.version} are not here")
        entries = self._files.entries
        entries.advance(newest)
        files = entries.at(work.version)
        names = Listing(self._files.folder)
        for number, path in enumerate(entries.of):
            if not number % 256:
                yield None
            if path in files and wants(path):
                yield from self._plan_file(work, names, path, extent_of(path, *files[path]), files[path][1], force)
            else:
                self._plan_other(work, names, path, wants, files.get(path), force)
        self._check_folders(work)
        if work.blocking:
            raise Conflict(_conflict(self._files.name, work.blocking))
        yield from self._begin(work)
        work.missing.sort(key=attrgetter("first", "path"))
        yield work

    def _in_place(self, path: DrivePath) -> list[Extent]:
        """The extents of a path that the bits on the disk speak of, the newest first: one, or after a crash more."""
        content = self._content
        assert content is not None
        stored = content.stored_bits
        return [
            extent_of(path, seq, stat)
            for seq, stat in reversed(self._files.entries.of[path])
            if stat is not None and stored.any_set(stat.offset, stat.offset + stat.blocks)
        ]

    def _plan_file(
        self, work: Work, names: Listing, path: DrivePath, wanted: Extent, stat: Stat, force: bool
    ) -> Iterator[None]:
        """A file that shall be here."""
        content = self._content
        assert content is not None
        places = self._in_place(path)
        there = names.has(path)
        first, stop = wanted.first, wanted.first + wanted.blocks
        if wanted in places and there:
            work.in_place.append(wanted)
            work.stale += [place for place in places if place is not wanted and place != wanted]
            if not content.stored_bits.all_set(first, stop):
                work.missing.append(self._file(wanted))
            return
        if there:
            yield None
            found = self._files.folder.look(path)
            if found is not None and self._has_bytes(path, wanted, found):
                work.in_place.append(wanted)
                work.stale += places
                if wanted.blocks and not content.has_range(first, stop):
                    content.restore(first, stop)
                content.vouch(first, stop)
                return
            self._plan_replacing(work, path, places, found, force)
        else:
            work.stale += places
            obstacle = names.obstacle(path)
            if obstacle is not None:
                work.folders.append(obstacle)
        work.parts.append((wanted, stat))
        work.missing.append(self._file(wanted))

    def _plan_replacing(
        self, work: Work, path: DrivePath, places: list[Extent], found: os.stat_result | None, force: bool
    ) -> None:
        """Something else is where a file comes."""
        work.replaced[path] = places
        if found is None:
            return
        if stat_bits.S_ISDIR(found.st_mode):
            work.folders.append(path)
        elif force:
            work.replaceable[path] = None
        elif self._is_ours(path, places, found):
            work.in_place += places[:1]
            work.replaceable[path] = marks_of(found)
        else:
            work.blocking.append(path)

    def _plan_other(
        self,
        work: Work,
        names: Listing,
        path: DrivePath,
        wants: Wants,
        entry: tuple[int, Stat] | None,
        force: bool,
    ) -> None:
        """A file that the drive has no more, or that nobody wants."""
        places = self._in_place(path)
        if not places:
            if entry is None and self._is_empty_of_ours(path, names):
                work.gone.append(extent_of(path, *self._last_file(path)))
            return
        newest = places[0]
        work.stale += places[1:]
        if entry is not None and newest.seq == entry[0]:
            work.in_place.append(newest)  # it was wanted once, and is as it should be
            return
        if not names.has(path):
            work.stale.append(newest)
            return
        found = self._files.folder.look(path)
        if force or (found is not None and self._is_ours(path, places, found)):
            work.in_place.append(newest)
            work.gone.append(newest)
        else:
            work.stale.append(newest)
            if wants(path):
                work.kept.append(path)

    def _check_folders(self, work: Work) -> None:
        """Files become folders, and folders files, only if everything that was there goes."""
        going = {extent.path for extent in work.gone}
        for path in dict.fromkeys(work.folders):
            found = self._files.folder.look(path)
            if found is None or path in going:
                continue
            below = {gone[len(path)] for gone in going if gone[: len(path)] == path}
            if not stat_bits.S_ISDIR(found.st_mode) or not set(self._files.folder.names(path)) <= below:
                work.blocking.append(path)

    # -- whose a file is

    def _has_bytes(self, path: DrivePath, extent: Extent, found: os.stat_result) -> bool:
        """Whether a file has just the bytes of an entry, as far as the hashes of its chunks are held."""
        content = self._content
        assert content is not None
        if not stat_bits.S_ISREG(found.st_mode) or found.st_size != extent.stop - extent.start:
            return False
        if extent.blocks and content.node(2 * extent.first) is None:
            return False
        try:
            fd = self._files.folder.open_file(path)
        except OSError as error:
            if error.errno in NO_FILE:
                return False
            raise
        try:
            for index in range(extent.first, extent.first + extent.blocks):
                leaf = content.node(2 * index)
                if leaf is None:
                    return False
                data = os.read(fd, leaf.size)
                if len(data) != leaf.size or leaf_hash(data) != leaf.hash:
                    return False
            return not os.read(fd, 1)
        finally:
            os.close(fd)

    def _is_ours(self, path: DrivePath, places: list[Extent], found: os.stat_result) -> bool:
        """Whether a file is as the drive once had it, or as it was being fetched."""
        content = self._content
        assert content is not None
        if not stat_bits.S_ISREG(found.st_mode):
            return False
        for place in places:
            if not content.stored_bits.all_set(place.first, place.first + place.blocks):
                return True  # begun here, and not finished
        for seq, stat in reversed(self._files.entries.of[path]):
            if stat is not None and self._has_bytes(path, extent_of(path, seq, stat), found):
                return True
        return False

    def _is_empty_of_ours(self, path: DrivePath, names: Listing) -> bool:
        """Whether a file without bytes, which no bit speaks of, is one that the drive has deleted since."""
        before = [entry for entry in self._files.entries.of[path] if entry[0] <= self.latest]
        stat = before[-1][1] if before else None
        if stat is None or stat.size or not names.has(path):
            return False
        found = self._files.folder.look(path)
        return (
            found is not None
            and stat_bits.S_ISREG(found.st_mode)
            and not found.st_size
            and found.st_mtime_ns == mtime_ns(stat.mtime)
        )

    def _last_file(self, path: DrivePath) -> tuple[int, Stat]:
        return next((seq, stat) for seq, stat in reversed(self._files.entries.of[path]) if stat is not None)

    def _file(self, extent: Extent) -> CloneFile:
        return CloneFile(extent.path, extent.first, extent.blocks, extent.stop - extent.start, 0)

    # -- doing it

    def _begin(self, work: Work) -> Iterator[None]:
        """Arranges the folder for what is to come, and takes up what was here of it."""
        content = self._content
        assert content is not None
        for extent in work.stale:
            content.forget(extent.first, extent.first + extent.blocks)
        coming = {part.path for part, _ in work.parts}
        above = {path[:depth] for path in coming for depth in range(1, len(path))}
        first = [
            extent
            for extent in work.gone
            if extent.path in above or any(extent.path[:depth] in coming for depth in range(1, len(extent.path)))
        ]
        begun = set(self._files.parts_left())
        wanted = {extent.seq for extent, _ in work.parts}
        for extent, _ in work.parts:  # bits of parts that were given up meanwhile
            if not content.stored_bits.any_set(extent.first, extent.first + extent.blocks):
                content.forget(extent.first, extent.first + extent.blocks)
        self._files.arrange(work.in_place, work.parts)
        for seq in begun - wanted:
            self._files.remove_part(seq)
        here: dict[int, int] = {}
        for extent, _ in work.parts:
            if extent.seq in begun:
                here[extent.first] = yield from self._take_up(extent)
        work.missing = [file._replace(here=here.get(file.first, 0)) if file.size else file for file in work.missing]
        self._work = work
        self._remove(work, first)
        for extent, _ in work.parts:
            if extent.start == extent.stop:
                self._files.took(extent, 0)

    def _take_up(self, extent: Extent) -> Generator[None, None, int]:
        """Holds the chunks again that a part has, as their hashes tell; the bytes of them."""
        content = self._content
        assert content is not None
        size = 0
        for index in range(extent.first, extent.first + extent.blocks):
            leaf = content.node(2 * index)
            if leaf is None or content.has(index):
                continue
            try:
                data = self._files.read(content.byte_offset(index), leaf.size)
            except ChunkMissing:
                continue
            yield None
            if len(data) == leaf.size and leaf_hash(data) == leaf.hash:
                content.restore(index, index + 1)
                size += leaf.size
        if size:
            self._files.took(extent, size)
        return size

    def _remove(self, work: Work, extents: list[Extent]) -> None:
        """Removes files that the drive has no more: first the bits, durably. A crash between leaves a file behind."""
        content = self._content
        assert content is not None
        if not extents:
            return
        for extent in extents:
            content.forget(extent.first, extent.first + extent.blocks)
        content.flush()
        done = {extent.path for extent in extents}
        for path in done:
            self._files.remove(path)
        work.gone = [extent for extent in work.gone if extent.path not in done]
        work.removed += len(done)

    def flushing(self) -> Generator[Callable[[], Any], Any, None]:
        """Gives names to what is whole, and makes everything durable. Yields what waits for the disk, to be called in
        any thread, and is sent what that returned. Raises OSError; what was not done is left to the next time.
        """
        metadata = self.metadata.begin_flush()  # entries come before the bits that need them
        yield metadata.sync
        metadata.finish()
        content, files, work = self._content, self._files, self._work
        if content is None:
            return
        batch = [extent for extent in files.whole if content.has_range(extent.first, extent.first + extent.blocks)]
        files.whole = []
        try:
            yield from self._name(batch, work)
        except BaseException:
            files.whole = [extent for extent in batch if files.gathers(extent)] + files.whole
            raise
        for extent in files.begun:
            self._vouch_in_place(content, extent)
        files.begun = set()
        pending = content.begin_flush()
        yield pending.sync
        pending.finish()

    def _vouch_in_place(self, content: Register, extent: Extent) -> None:
        """What came of a file that is finished in its place; the flush syncs the file before the bits."""
        first, stop = extent.first, extent.first + extent.blocks
        if content.has_range(first, stop):
            stat = next(stat for seq, stat in self._files.entries.of[extent.path] if seq == extent.seq)
            assert stat is not None
            self._files.dress(extent.path, stat)
        held = content.data_bits
        while (begin := held.next_set(first, stop)) is not None:
            first = held.next_clear(begin, stop) or stop
            content.vouch(begin, first)

    def _name(self, batch: list[Extent], work: Work) -> Generator[Callable[[], Any], Any, None]:
        content, files = self._content, self._files
        assert content is not None
        if not batch:
            return
        yield partial(files.sync_parts, batch)
        # Before the names: a bit on the disk must never be one of bytes that another file has replaced, and the hashes
        # have to be there by which a file is known that has its name and no bits yet.
        for extent in (old for part in batch for old in work.replaced.get(part.path, ())):
            content.forget(extent.first, extent.first + extent.blocks)
        pending = content.begin_flush()
        yield pending.sync
        pending.finish()
        for extent, error in (yield partial(files.name_parts, batch, work.replaceable)):
            if error is None:
                files.settle(extent)
                content.vouch(extent.first, extent.first + extent.blocks)
            else:
                work.failed.append((extent.path, error.strerror or str(error)))

    def flush(self) -> None:
        """As :meth:`flushing`, all in this thread. Raises OSError."""
        run_here(self.flushing())

    def finish(self, work: Work) -> None:
        """When everything has come: names for the last files, and what the drive has no more is removed."""
        content = self._content
        if content is not None:
            self.flush()
            told = {path for path, _ in work.failed}
            for extent in (part for part, _ in work.parts if self._files.gathers(part)):
                if extent.path not in told:
                    work.failed.append((extent.path, "its entry does not fit the bytes of its chunks"))
                    self._files.remove_part(extent.seq)
            self._remove(work, work.gone)
        if not work.failed and work.version != self.latest:
            write_latest(self._base, work.version)
            self.latest = work.version

    def close(self) -> None:
        """Flushes and closes everything, and lets others have the folder."""
        with ExitStack() as stack:
            stack.callback(unlock, self._lock)
            stack.callback(self._files.close)
            stack.callback(self.metadata.close)
            if self._content is not None:
                stack.callback(self._content.close)
                stack.callback(self.flush)
        self._lock = -1


class Listing:
    """Names in a folder, each sub-folder read once."""

    def __init__(self, folder: ConfinedFolder) -> None:
        self._folder = folder
        self._known: dict[DrivePath, frozenset[bytes] | None] = {}

    def has(self, path: DrivePath) -> bool:
        """Whether anything is at a path, with only folders on the way."""
        names = self._names(path[:-1])
        return names is not None and path[-1] in names

    def obstacle(self, path: DrivePath) -> DrivePath | None:
        """What is on the way to a path and no folder; None if nothing is."""
        for depth in range(1, len(path)):
            if self._names(path[:depth]) is None:
                return path[:depth]
        return None

    def _names(self, folder: DrivePath) -> frozenset[bytes] | None:
        if folder not in self._known:
            self._known[folder] = self._read(folder)
        return self._known[folder]

    def _read(self, folder: DrivePath) -> frozenset[bytes] | None:
        if folder:
            above = self._names(folder[:-1])
            if above is None:
                return None
            if folder[-1] not in above:
                return frozenset()
        try:
            return frozenset(self._folder.names(folder))
        except FileNotFoundError:
            return frozenset()
        except OSError as error:
            if error.errno in NO_FILE:
                return None
            raise


def run_here(steps: Generator[Callable[[], Any], Any, None]) -> None:
    """Does what :meth:`DatClone.flushing` yields, in this thread."""
    with suppress(StopIteration):
        work = next(steps)
        while True:
            try:
                result = work()
            except BaseException as error:
                work = steps.throw(error)
            else:
                work = steps.send(result)


def _conflict(folder: str, paths: list[DrivePath]) -> str:
    more = f" and {len(paths) - 5} more" if len(paths) > 5 else ""
    return (
        f"{folder}: in the way of the drive's files: {', '.join(map(show_path, paths[:5]))}{more}; they are not the"
        " drive's, or were changed here. Move them away, or give --force to have them overwritten. Nothing was changed"
    )


def read_latest(base: Path) -> int:
    """The version in ``metadata.latest``; 0 if the file is missing or short (sleep.md section 7). Raises OSError."""
    with closing(FileStorage(base / LATEST, read_only=True)) as file:
        data = file.read(0, LATEST_BYTES)
    return int.from_bytes(data, "big") if len(data) == LATEST_BYTES else 0


def write_latest(base: Path, version: int) -> None:
    """Writes ``metadata.latest``, durably. Raises OSError."""
    with closing(FileStorage(base / LATEST)) as file:
        file.write(0, version.to_bytes(LATEST_BYTES, "big"))
        file.sync()
