"""Every version of a drive as a tree, hidden in the root of the newest (docs/time-travel.md)::

    .dat/versions/<N>/…     each version
    .dat/at/<date>/…        the newest version made until then
    .dat/latest/…           the newest version, also where an older one is mounted
    .dat/history/<path>/    all versions of one file

:class:`TimeTravel` is a :class:`datfs.vfs.FileTree` over the trees of a :class:`datfs.drive.Drive`. Like those it
stands for one version; :meth:`TimeTravel.follow` gives the later ones. What outlives them is in :class:`_Past`.
"""

from __future__ import annotations

import contextlib
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

import trio

from datfs.dates import day_of, end_of, stamp
from datfs.drive import Drive, DriveTree
from datfs.errors import BadMetadata, IsADirectory, NotADirectory, NotFound, Unavailable
from datfs.grafts import Graft, MadeLater, Paths, directory, inward_identity
from datfs.holdings import Facts
from datfs.metadata import Path, Record, mtime_ns
from datfs.past_index import READ_AT_ONCE, Changes, PastIndex, time_of
from datfs.text import show_path
from datfs.vfs import Entry, Kind, TreeFile, TreeStats, Update

HIDDEN = b".dat"
VERSIONS, AT, LATEST, HISTORY = b"versions", b"at", b"latest", b"history"
SECTIONS = (VERSIONS, AT, LATEST, HISTORY)
HEAD_PATIENCE = 1.0  # seconds
DELETIONS_PASSED = 32  # in search of a time
TREES_KEPT = 16  # old versions whose listings are kept
ASKED_KEPT = 10_000  # names that may come to mean something else, and that the kernel knows
EXTENSION_MOST = 16  # bytes
PAST = "past"  # the tag of all grafts here: a file that two versions have in common has one inode in both

T = TypeVar("T")
_NUMBER = re.compile(rb"0|[1-9][0-9]{0,15}")


class _Past:
    """What all versions of a :class:`TimeTravel` have in common."""

    def __init__(self, drive: Drive) -> None:
        self.drive = drive
        self.index = PastIndex(drive.metadata)
        self._trees: OrderedDict[int, DriveTree] = OrderedDict()
        # Names that were asked for and may get another meaning with the next version: those of versions that are
        # not there yet, and dates up to which the newest version is the newest.
        self.missed: dict[int, None] = {}
        self.open_dates: dict[bytes, None] = {}

    async def tree(self, version: int, root: Entry) -> DriveTree:
        """An old version; its root is the directory at the path of ``root``, empty if there is none."""
        tree = self._trees.get(version)
        if tree is None:
            tree = await (await self.drive.checkout(version, past=True)).rooted_like(root)
            self._trees[version] = tree
            while len(self._trees) > TREES_KEPT:
                self._trees.popitem(last=False)
        else:
            self._trees.move_to_end(version)
        return tree

    def known_tree(self, version: int) -> DriveTree | None:
        """The same, if it is kept."""
        return self._trees.get(version)


def remember(names: dict[T, None], name: T) -> None:
    """Keeps a name, and forgets the oldest if there are too many."""
    names[name] = None
    if len(names) > ASKED_KEPT:
        del names[next(iter(names))]


class TimeTravel:
    """``shown``, with the hidden directory in its root. ``head``: the newest version, if that is another one.

    Both have the same path as their root. An entry of the drive in the place of the hidden directory is not shown.
    """

    def __init__(self, shown: DriveTree, head: DriveTree | None = None, past: _Past | None = None) -> None:
        self._shown = shown
        self._head = head or shown
        self._past = past or _Past(shown.drive)
        self._top: Path = (*shown.root.path, HIDDEN)
        self._depth = len(self._top)
        self._lasting = frozenset({self._top, *((*self._top, section) for section in SECTIONS)})
        self._latest = Graft(self._head, (*self._top, LATEST), PAST)

    # -- FileTree

    @property
    def root(self) -> Entry:
        """The root of the tree that is shown."""
        return self._shown.root

    async def lookup(self, directory: Entry, name: bytes) -> Entry:
        """See :meth:`datfs.vfs.FileTree.lookup`."""
        path = directory.path
        if path[: self._depth] == self._top:
            return await self._lookup_hidden(directory, name)
        if name == HIDDEN and path == self.root.path:
            return self._own()
        return await self._shown.lookup(directory, name)

    async def list(self, directory: Entry) -> Sequence[Entry]:
        """See :meth:`datfs.vfs.FileTree.list`."""
        path = directory.path
        if path[: self._depth] == self._top:
            return await self._list_hidden(directory)
        entries = await self._shown.list(directory)
        if path == self.root.path:
            return [entry for entry in entries if entry.path != self._top]
        return entries

    async def open(self, entry: Entry) -> TreeFile:
        """See :meth:`datfs.vfs.FileTree.open`; in the past it also raises Gone."""
        if entry.path[: self._depth] != self._top:
            return await self._shown.open(entry)
        if entry.kind is Kind.DIRECTORY:
            raise IsADirectory(f"{show_path(entry.path)} is a directory")
        return await self._over(entry).open(entry)

    def facts(self, entry: Entry) -> Mapping[bytes, bytes]:
        """See :meth:`datfs.vfs.FileTree.facts`."""
        path = entry.path
        if path[: self._depth] != self._top:
            return self._shown.facts(entry)
        rest = path[self._depth :]
        if entry.kind is Kind.DIRECTORY and (rest[:1] == (HISTORY,) or (len(rest) < 2 and rest != (LATEST,))):
            return Facts({b"user.dat.key": self._past.drive.key.hex})
        facts = self._over(entry).facts(entry)
        if entry.kind is Kind.FILE and isinstance(facts, Facts):
            # One inode is asked for all of the versions that have the file.
            return facts.without(b"user.dat.version")
        return facts

    def stats(self) -> TreeStats:
        """See :meth:`datfs.vfs.FileTree.stats`."""
        return self._shown.stats()

    def news(self, directory: Entry) -> int:
        """See :meth:`datfs.vfs.FileTree.news`: of all versions alike."""
        return self._shown.news(directory)

    # -- newer versions

    async def follow(self, deliver: Callable[[Update], Awaitable[None]], *, pinned: bool = False) -> None:
        """As :meth:`Drive.follow`; ``pinned``: only the hidden directory changes."""
        current = self

        async def pass_on(update: Update) -> None:
            nonlocal current
            assert isinstance(update.tree, DriveTree)
            newer = TimeTravel(current._shown if pinned else update.tree, update.tree, current._past)
            changed = None if update.changed is None else current._changes(update.changed, newer, pinned)
            current = newer
            await deliver(Update(newer, changed, newer._lasting))

        await self._past.drive.follow(self._head, pass_on)

    def _changes(self, paths: Sequence[Path], newer: TimeTravel, pinned: bool) -> Paths:
        """What differs between this and a newer version, also below the hidden directory."""
        changed = [] if pinned else [path for path in paths if path[: self._depth] != self._top]
        changed += self._latest.changed(paths)
        root = self.root.path
        changed += [
            (*self._top, HISTORY, *path[len(root) :])
            for path in paths
            if path[: len(root)] == root and len(path) > len(root)
        ]
        version, past = newer._head.version, self._past
        came = {number for number in past.missed if number <= version} | {version}
        for number in came:
            past.missed.pop(number, None)
            changed.append((*self._top, VERSIONS, str(number).encode()))
        changed += [(*self._top, AT, date) for date in past.open_dates]
        past.open_dates.clear()
        return changed

    # -- the hidden directory

    def _own(self, *path: bytes) -> Entry:
        whole = (*self._top, *path)
        return directory(whole, self._head.root.mtime_ns, (whole, 0))

    async def _lookup_hidden(self, parent: Entry, name: bytes) -> Entry:
        rest = parent.path[self._depth :]
        found: Entry | None = None
        if parent.kind is not Kind.DIRECTORY:
            raise NotADirectory(f"{show_path(parent.path)} is not a directory")
        if not rest:
            if name in SECTIONS:
                found = self._latest.root if name == LATEST else self._own(name)
        elif rest[0] == HISTORY:
            found = await self._lookup_history(rest[1:], name)
        elif rest == (VERSIONS,):
            found = await self._version_named(name)
        elif rest == (AT,):
            found = self._version_root((*self._top, AT, name), await self._version_at(name))
        else:
            found = await (await self._graft(rest)).lookup(parent, name)
        if found is None:
            raise NotFound(f"there is no {show_path((*parent.path, name))}")
        return found

    async def _list_hidden(self, parent: Entry) -> Sequence[Entry]:
        rest = parent.path[self._depth :]
        if parent.kind is not Kind.DIRECTORY:
            raise NotADirectory(f"{show_path(parent.path)} is not a directory")
        if not rest:
            return [self._latest.root if name == LATEST else self._own(name) for name in SECTIONS]
        if rest[0] == HISTORY:
            return await self._list_history(rest[1:])
        if rest == (VERSIONS,):
            return MadeLater(range(1, self._head.version + 1), self._version_listed)
        if rest == (AT,):
            return await self._list_days()
        return await (await self._graft(rest)).list(parent)

    async def _graft(self, rest: Path) -> Graft:
        """The tree whose root is at the first one or two components of ``rest``."""
        if rest[0] == LATEST:
            return self._latest
        version = await self._version_at(rest[1]) if rest[0] == AT else int(rest[1])
        return Graft(await self._past.tree(version, self.root), (*self._top, *rest[:2]), PAST)

    def _over(self, entry: Entry) -> Graft:
        """The tree of an entry that was looked up before, without waiting."""
        rest = entry.path[self._depth :]
        if rest[0] == LATEST:
            return self._latest
        if rest[0] == HISTORY:
            # Any version opens a file and tells of it; its path is that of the directory with its versions.
            return _HistoryGraft(DriveTree(self._past.drive, 0, past=True), (*self._top, HISTORY), PAST)
        version = int(rest[1]) if rest[0] == VERSIONS else self._past.index.newest_before(end_of(rest[1]) or 0)
        tree = self._past.known_tree(version)
        if tree is None:
            tree = DriveTree(self._past.drive, version, past=True)
            tree = tree.rooted_at(self.root) if self.root.path else tree
        return Graft(tree, (*self._top, *rest[:2]), PAST)

    # -- versions

    async def _version_named(self, name: bytes) -> Entry | None:
        if _NUMBER.fullmatch(name) is None:
            return None
        version = int(name)
        if version > self._head.version:
            remember(self._past.missed, version)
            return None
        await self._graft((VERSIONS, name))
        return self._version_listed(version)

    def _version_listed(self, version: int) -> Entry:
        """A version as the listing of all has it, without fetching."""
        return self._version_root((*self._top, VERSIONS, str(version).encode()), version)

    def _version_root(self, path: Path, version: int) -> Entry:
        return directory(path, mtime_ns(self._made(version)), ((PAST, self.root.path), version))

    def _made(self, version: int) -> int:
        """When a version was made, ms since 1970, as far as that is here; for deletions that of what was before."""
        past = self._past
        if version <= past.index.version:
            return past.index.made(version)
        for seq in range(version, max(0, version - DELETIONS_PASSED), -1):
            if not past.drive.metadata.register.has(seq):
                break
            with contextlib.suppress(BadMetadata):
                if made := time_of(past.drive.record(seq)):
                    return made
        return 0

    # -- dates

    async def _version_at(self, date: bytes) -> int:
        end = end_of(date)
        if end is None:
            raise NotFound(f"{date!r} is not a date such as 2020-01-31 or 2020-01-31T12:00:00Z")
        await self._past.index.reach(self._head.version)
        version = self._past.index.newest_before(end)
        if version >= self._head.version:
            remember(self._past.open_dates, date)
            version = self._head.version
        if not version:
            raise NotFound(f"the drive had no version yet at {date.decode()}")
        return version

    async def _list_days(self) -> Sequence[Entry]:
        index = self._past.index
        await index.reach(self._head.version)
        days = [day_of(index.made(version)) for version in index.last_of_each(_end_of_day)]
        return [self._day(day) for day in days]

    def _day(self, day: bytes) -> Entry:
        index = self._past.index
        return self._version_root((*self._top, AT, day), index.newest_before(end_of(day) or 0))

    # -- history

    async def _changes_at(self, path: Path) -> Changes:
        await self._past.index.reach(self._head.version)
        changes = self._past.index.changes(self.root.path + path)
        if changes is None:
            raise NotFound(f"no version has {show_path(path)}")
        return changes

    async def _lookup_history(self, path: Path, name: bytes) -> Entry | None:
        changes = await self._changes_at(path)
        match = re.match(rb"0*([1-9][0-9]*)-", name)
        if match is not None and (version := int(match[1])) in changes:
            entry = self._past_file(path, version)
            if entry is not None and entry.name == name:
                return entry
        below = changes.below.get(name)
        return self._history_directory((*path, name), below) if below is not None else None

    async def _list_history(self, path: Path) -> Sequence[Entry]:
        changes = await self._changes_at(path)
        found: dict[bytes, Entry] = {}
        for number, version in enumerate(changes.versions):
            if number % READ_AT_ONCE == 0:
                await trio.lowlevel.checkpoint()
            entry = self._past_file(path, version)
            if entry is not None:
                found[entry.name] = entry
        for name, below in changes.below.items():
            found.setdefault(name, self._history_directory((*path, name), below))
        return list(found.values())

    def _history_directory(self, path: Path, changes: Changes) -> Entry:
        whole = (*self._top, HISTORY, *path)
        return directory(whole, mtime_ns(self._past.index.made(changes.newest)), (whole, 0))

    def _past_file(self, path: Path, version: int) -> Entry | None:
        """A version of a file as it stands in the directory of all of them; None for a deletion or a directory."""
        try:
            record = self._past.drive.record(version)
        except BadMetadata:
            return None
        stat = record.stat
        if stat is None or stat.kind != "file":
            return None
        name = past_name(record, self._past.index.made(version))
        return Entry(
            path=(*self._top, HISTORY, *path, name),
            kind=Kind.FILE,
            size=stat.size,
            permissions=stat.permissions,
            mtime_ns=mtime_ns(stat.mtime),
            ctime_ns=mtime_ns(stat.ctime),
            identity=((PAST, self._past.drive.key), version),
        )


class _HistoryGraft(Graft):
    """Files whose names are those of their versions."""

    def inward(self, entry: Entry) -> Entry:
        """The drive's own entry; its path is that of its metadata, which is here as it was shown before."""
        assert isinstance(self.tree, DriveTree)
        identity = inward_identity(entry)
        path = self.tree.drive.record(identity[1]).path
        return Entry(path, entry.kind, entry.size, entry.permissions, entry.mtime_ns, entry.ctime_ns, identity)


async def with_past(drive: Drive, tree: DriveTree) -> TimeTravel:
    """A version of the drive with the hidden directory in it, which knows of the newest version that is here."""
    head = tree
    if drive.version > tree.version and drive.metadata.register.has(drive.version):
        # Whoever looks at an old version need not wait, nor be told, that the newest is not here.
        with trio.move_on_after(HEAD_PATIENCE), contextlib.suppress(Unavailable):
            head = await (await drive.checkout()).rooted_like(tree.root)
    return TimeTravel(tree, head)


def past_name(record: Record, made: int) -> bytes:
    """The name of a version of a file: ``000012-2020-01-31T12.00.00Z.txt`` for version 12 of a ``.txt``.

    ``made``: ms since 1970. Sorted by name they are in order; what programs go by, the ending, is that of the file.
    """
    stem, dot, extension = record.path[-1].rpartition(b".")
    ending = dot + extension if stem.strip(b".") and extension and len(extension) <= EXTENSION_MOST else b""
    return f"{record.seq:06}-{stamp(made)}".encode() + ending


def _end_of_day(ms: int) -> int:
    return end_of(day_of(ms)) or ms + 1
