"""What it takes to bring a reader's folder to a version: looked at, hashed where need be, and nothing changed.

What is in the folder follows from the bits on the disk, which speak only of files that have their names, and from the
bytes of files that no bit speaks of. What is done with the result is :mod:`datfs.dat_clone`'s.
"""

from __future__ import annotations

import os
import stat as stat_bits
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from operator import attrgetter
from typing import NamedTuple

from datfs.clone_content import ClonedContent, extent_of
from datfs.confined import NO_FILE, ConfinedFolder
from datfs.crypto import leaf_hash
from datfs.dat_content import Extent
from datfs.errors import Conflict
from datfs.hashed_file import Marks, marks_of
from datfs.metadata import Path as DrivePath
from datfs.metadata import Stat, mtime_ns
from datfs.register import Register
from datfs.text import show_path

Wants = Callable[[DrivePath], bool]

_IN_THE_WAY = "something that is not the drive's, or was changed here, is in its place and stays: move it away"


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
    ``blocking``: what of a person's is in the way, as it was when it was looked at.
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
    blocking: dict[DrivePath, Marks] = field(default_factory=dict)


class Plan:
    """Makes a :class:`Work`. ``latest``: the version that the folder was brought to the last time.

    ``force``: overwrite what is in the way. ``around``: leave out what something is in the way of, instead of nothing
    being done.
    """

    def __init__(
        self,
        files: ClonedContent,
        content: Register,
        work: Work,
        latest: int,
        wants: Wants,
        *,
        force: bool,
        around: bool = False,
    ) -> None:
        self.work = work
        self._files = files
        self._content = content
        self._latest = latest
        self._wants = wants
        self._force = force
        self._around = around
        self._names = Listing(files.folder)

    def make(self) -> Iterator[None]:
        """Fills in the work; yields now and then. Raises OSError, and Conflict if files of a person's would be lost and
        are not to be gone around.
        """
        entries = self._files.entries
        wanted = entries.at(self.work.version)
        for number, path in enumerate(entries.of):
            if not number % 256:
                yield None
            if path in wanted and self._wants(path):
                yield from self._plan_file(path, extent_of(path, *wanted[path]), wanted[path][1])
            else:
                self._plan_other(path, wanted.get(path))
        self._check_folders()
        if self.work.blocking:
            if not self._around:
                raise Conflict(_conflict(self._files.name, list(self.work.blocking)))
            self._leave_out()
        self.work.missing.sort(key=attrgetter("first", "path"))

    def _plan_file(self, path: DrivePath, wanted: Extent, stat: Stat) -> Iterator[None]:
        """A file that shall be here."""
        content = self._content
        places = in_place(self._files, self._content, path)
        there = self._names.has(path)
        first, stop = wanted.first, wanted.first + wanted.blocks
        if wanted in places and there:
            self.work.in_place.append(wanted)
            self.work.stale += [place for place in places if place is not wanted and place != wanted]
            if not content.stored_bits.all_set(first, stop):
                self.work.missing.append(self._file(wanted))
            return
        if there:
            yield None
            found = self._files.folder.look(path)
            if found is not None and self._has_bytes(path, wanted, found):
                self.work.in_place.append(wanted)
                self.work.stale += places
                if wanted.blocks and not content.has_range(first, stop):
                    content.restore(first, stop)
                content.vouch(first, stop)
                return
            self._plan_replacing(path, places, found)
        else:
            self.work.stale += places
            obstacle = self._names.obstacle(path)
            if obstacle is not None:
                self.work.folders.append(obstacle)
        self.work.parts.append((wanted, stat))
        self.work.missing.append(self._file(wanted))

    def _plan_replacing(self, path: DrivePath, places: list[Extent], found: os.stat_result | None) -> None:
        """Something else is where a file comes."""
        self.work.replaced[path] = places
        if found is None:
            return
        if stat_bits.S_ISDIR(found.st_mode):
            self.work.folders.append(path)
        elif self._force:
            self.work.replaceable[path] = None
        elif self._is_ours(path, places, found):
            self.work.in_place += places[:1]
            self.work.replaceable[path] = marks_of(found)
        else:
            self.work.blocking[path] = marks_of(found)

    def _plan_other(self, path: DrivePath, entry: tuple[int, Stat] | None) -> None:
        """A file that the drive has no more, or that nobody wants."""
        places = in_place(self._files, self._content, path)
        if not places:
            if entry is None and self._is_empty_of_ours(path):
                self.work.gone.append(extent_of(path, *self._last_file(path)))
            return
        newest = places[0]
        self.work.stale += places[1:]
        if entry is not None and newest.seq == entry[0]:
            self.work.in_place.append(newest)  # it was wanted once, and is as it should be
            return
        if not self._names.has(path):
            self.work.stale.append(newest)
            return
        found = self._files.folder.look(path)
        if self._force or (found is not None and self._is_ours(path, places, found)):
            self.work.in_place.append(newest)
            self.work.gone.append(newest)
        else:
            self.work.stale.append(newest)
            if self._wants(path):
                self.work.kept.append(path)

    def _check_folders(self) -> None:
        """Files become folders, and folders files, only if everything that was there goes."""
        going = {extent.path for extent in self.work.gone}
        for path in dict.fromkeys(self.work.folders):
            found = self._files.folder.look(path)
            if found is None or path in going:
                continue
            below = {gone[len(path)] for gone in going if gone[: len(path)] == path}
            if not stat_bits.S_ISDIR(found.st_mode) or not set(self._files.folder.names(path)) <= below:
                self.work.blocking[path] = marks_of(found)

    def _leave_out(self) -> None:
        """Takes from the work what a person's own files are in the way of."""
        work = self.work
        blocked = {
            extent.path
            for extent, _ in work.parts
            if any(extent.path[:depth] in work.blocking for depth in range(1, len(extent.path) + 1))
        }
        work.parts = [(extent, stat) for extent, stat in work.parts if extent.path not in blocked]
        work.missing = [file for file in work.missing if file.path not in blocked]
        work.failed += [(path, _IN_THE_WAY) for path in sorted(blocked)]
        for path in blocked:  # what the bits say of the old file is not true of the changed one
            work.stale += work.replaced.pop(path, ())

    # -- whose a file is

    def _has_bytes(self, path: DrivePath, extent: Extent, found: os.stat_result) -> bool:
        """Whether a file has just the bytes of an entry, as far as the hashes of its chunks are held."""
        content = self._content
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
        if not stat_bits.S_ISREG(found.st_mode):
            return False
        for place in places:
            if not content.stored_bits.all_set(place.first, place.first + place.blocks):
                return True  # begun here, and not finished
        for seq, stat in reversed(self._files.entries.of[path]):
            if stat is not None and self._has_bytes(path, extent_of(path, seq, stat), found):
                return True
        return False

    def _is_empty_of_ours(self, path: DrivePath) -> bool:
        """Whether a file without bytes, which no bit speaks of, is one that the drive has deleted since."""
        before = [entry for entry in self._files.entries.of[path] if entry[0] <= self._latest]
        stat = before[-1][1] if before else None
        if stat is None or stat.size or not self._names.has(path):
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


def in_place(files: ClonedContent, content: Register, path: DrivePath) -> list[Extent]:
    """The extents of a path that the bits on the disk speak of, the newest first: one, or after a crash more."""
    stored = content.stored_bits
    return [
        extent_of(path, seq, stat)
        for seq, stat in reversed(files.entries.of[path])
        if stat is not None and stored.any_set(stat.offset, stat.offset + stat.blocks)
    ]


def _conflict(folder: str, paths: list[DrivePath]) -> str:
    more = f" and {len(paths) - 5} more" if len(paths) > 5 else ""
    return (
        f"{folder}: in the way of the drive's files: {', '.join(map(show_path, paths[:5]))}{more}; they are not the"
        " drive's, or were changed here. Move them away, or give --force to have them overwritten. Nothing was changed"
    )
