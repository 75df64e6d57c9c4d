"""A drive: a metadata and a content register seen as a tree of files (drive.md).

:class:`Drive` follows one version (the head) and keeps a bounded cache of decoded metadata records.
:class:`DriveTree`, made by :meth:`Drive.checkout`, is that version as a :class:`datfs.vfs.FileTree`.

Paths are walked by the pure generators of :mod:`datfs.path_index`; this module brings the chunks that they ask for, a
whole level at a time, so that a lookup costs as many round trips as the path has levels and not as many as there are
names on the way.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import TypeVar

import trio

from datfs import holdings, path_index
from datfs.errors import (
    BadMetadata,
    Closed,
    CorruptStorage,
    Gone,
    IntegrityError,
    IsADirectory,
    NoPeers,
    NotADirectory,
    NotFound,
    TimedOut,
    Unavailable,
)
from datfs.holdings import Availability, Facts, ensure_unless_lost
from datfs.index_lists import Siblings
from datfs.metadata import (
    Header,
    Path,
    Record,
    Stat,
    decode_header,
    decode_plain,
    decode_record,
    mtime_ns,
    name_of,
    plausible,
)
from datfs.neighbours import Neighbours
from datfs.open_file import OpenFile
from datfs.path_index import Change, Steps
from datfs.register import ChunkMissing
from datfs.sparse import SparseRegister
from datfs.text import show_path
from datfs.vfs import Entry, Kind, TreeStats, Update

log = logging.getLogger(__name__)

T = TypeVar("T")
RECORD_BYTES_KEPT = 64 * 1024 * 1024  # decoded records: in a directory of 10,000 names the last have 10 KB each
READ_TOGETHER = 256  # metadata chunks, and ...
READ_BYTES = 128 * 1024  # ... about so many bytes: the memory for more comes from the system anew each time
RECORD_OVERHEAD = 520  # bytes of a record besides its value and index, about
HASHES_KEPT = 10_000  # by metadata chunk, about 2 MB
NAMES_KEPT = 125_000  # entries in kept listings, 370 bytes each: 45 MB
PAST_NAMES_KEPT = 10_000  # the same of an old version
FOLLOW_TIMEOUT = 30.0  # seconds for the metadata of a new version
FOLLOW_RETRY = 1.0
TIME_TIMEOUT = 2.0  # seconds for the time of the root
OpenContent = Callable[[bytes], SparseRegister]
CheckBytes = Callable[[Stat, str], None]


class Drive:
    """Two registers as versions of a tree.

    ``content``: None until the header is known, then what ``open_content`` made of the key in it. ``check_bytes``: told
    the attributes and the escaped path of each file that is opened; raises if its bytes cannot be had any more.
    """

    def __init__(
        self, metadata: SparseRegister, open_content: OpenContent, check_bytes: CheckBytes | None = None
    ) -> None:
        self.metadata = metadata
        self._open_content = open_content
        self.check_bytes = check_bytes
        self.header: Header | None = None
        self.content: SparseRegister | None = None
        self.neighbours: Neighbours | None = None
        self._records: OrderedDict[int, Record] = OrderedDict()
        self._record_bytes = 0
        self._batch: frozenset[int] = frozenset()  # what the walk that ran last needs, all of it held
        self._read_ahead: dict[int, bytes] = {}  # chunks that were read together with one that was needed
        self._together = READ_TOGETHER  # as many as READ_BYTES hold, going by those that were read last
        self._hashes: OrderedDict[int, str] = OrderedDict()

    @property
    def key(self) -> bytes:
        """The drive's public key."""
        return self.metadata.register.key

    @property
    def version(self) -> int:
        """The newest version whose signature we have: the number of the last metadata chunk, 0 for an empty drive."""
        return max(0, self.metadata.register.length - 1)

    async def load_header(self) -> Header:
        """Fetches metadata chunk 0 and opens the content register it names.

        Raises BadMetadata or UnsupportedFormat if this register is not a drive, and as SparseRegister.ensure does.
        """
        if self.header is None:
            await self.metadata.ensure((0,))
            header = decode_header(self.metadata.register.get(0))
            if header.content_key == self.key:
                raise BadMetadata("the drive names its own metadata register as its content")
            self.content = self._open_content(header.content_key)
            self.neighbours = Neighbours(self.content, lambda seq: self.record(seq).stat)
            self.header = header
        return self.header

    def record(self, seq: int) -> Record:
        """The decoded metadata chunk ``seq`` >= 1, which must be held. Raises BadMetadata."""
        record = self._records.get(seq)
        if record is None:
            data = self._read_ahead.pop(seq, None)
            record = decode_record(seq, data if data is not None else self._read(seq))
            self._records[seq] = record
            self._record_bytes += _cost(record)
            while self._record_bytes > RECORD_BYTES_KEPT and len(self._records) > 1:
                self._record_bytes -= _cost(self._records.popitem(last=False)[1])
        return record

    def _read(self, seq: int) -> bytes:
        """The chunk, read together with those that follow it and that the walk in hand needs too."""
        stop = seq + 1
        while stop in self._batch and stop - seq < self._together:
            stop += 1
        register = self.metadata.register
        if stop == seq + 1:
            return register.get(seq)
        try:
            data, *ahead = register.get_run(seq, stop)
        except (ChunkMissing, CorruptStorage):
            return register.get(seq)  # another one may be broken
        self._read_ahead = dict(zip(range(seq + 1, stop), ahead, strict=True))
        size = (len(data) + sum(map(len, ahead))) // (stop - seq)
        self._together = min(READ_BYTES // (size + 1) + 1, READ_TOGETHER)
        return data

    def plain_files(self, directory: Path) -> Callable[[int], tuple[bytes, Stat] | None]:
        """For a listing of ``directory``: see :func:`datfs.path_index.child_entries`. What it reads is not kept."""
        above = name_of(directory) + b"/" if directory else b"/"
        siblings = Siblings(len(directory) + 1)

        def plain(seq: int) -> tuple[bytes, Stat] | None:
            if seq in self._records:
                return None
            data = self._read_ahead.pop(seq, None)
            if data is None:
                data = self._read(seq)
            file = decode_plain(data, above, siblings)
            if file is None:
                self._read_ahead[seq] = data  # it is asked for again at once
            return file

        return plain

    async def run(self, steps: Steps[T]) -> T:
        """Runs a walk of the path index, fetching each batch of records that it asks for."""
        try:
            needed = next(steps)
            while True:
                if needed and not self.metadata.has_range(min(needed), max(needed) + 1):
                    await self.metadata.ensure(needed)
                self._batch = frozenset(needed)
                needed = steps.send(None)
        except StopIteration as done:
            result: T = done.value
            return result

    async def checkout(self, version: int | None = None, *, past: bool = False) -> DriveTree:
        """The tree of a version (default: the newest). Raises NotFound for one that does not exist (yet).

        ``past``: see :class:`DriveTree`.
        """
        await self.load_header()
        newest = self.version
        if version is None:
            version = newest
        if version > newest:
            raise NotFound(f"the drive has no version {version}: the newest known is {newest}")
        dated = None
        if version:
            await self.metadata.ensure((version,))
            dated = await self._time_of_root(version)
        return DriveTree(self, version, past=past, old=version < newest, dated=dated)

    async def _time_of_root(self, version: int) -> Stat | None:
        """Who tells the times of the root, if the newest entry is a deletion and does not: the newest that is left.

        None if nobody does, or if that would have to be waited for: nothing else needs it.
        """
        with suppress(BadMetadata, Unavailable), trio.move_on_after(TIME_TIMEOUT):
            if self.record(version).value is None:
                found = await self.run(path_index.stat_path(self.record, version, ()))
                return self.record(found.dated).stat if found is not None else None
        return None

    async def diff(self, old: int, new: int) -> list[Change]:
        """What changed between two versions, old to new."""
        for head in (old, new):
            if head:
                await self.metadata.ensure((head,))
        return await self.run(path_index.diff(self.record, old, new))

    async def follow(self, tree: DriveTree, deliver: Callable[[Update], Awaitable[None]]) -> None:
        """Tells ``deliver`` of each newer version than ``tree``'s as its metadata arrives, until the drive is closed.

        A version whose metadata does not come is tried again. What differs is not known, and said so, where entries do
        not decode.
        """
        try:
            while True:
                await self.metadata.grown_beyond(tree.version + 1)
                try:
                    with trio.fail_after(FOLLOW_TIMEOUT):
                        update = await self._update_of(tree)
                except (TimedOut, NoPeers, IntegrityError, trio.TooSlowError) as error:
                    log.info("version %d is known but did not come yet: %s", self.version, error)
                    await trio.sleep(FOLLOW_RETRY)
                    continue
                tree = update[0]
                await deliver(Update(*update))
        except Closed:
            return

    async def _update_of(self, tree: DriveTree) -> tuple[DriveTree, list[Path] | None]:
        """The newest version with the same root path and facts as ``tree``, and the paths that differ."""
        newest = await (await self.checkout()).rooted_like(tree.root)
        newest.root_facts = tree.root_facts
        try:
            return newest, [change.path for change in await self.diff(tree.version, newest.version)]
        except BadMetadata as error:
            log.warning("version %d: what changed is not known: %s", newest.version, error)
            return newest, None

    def sha256(self, seq: int) -> str | None:
        """The hash in hex of the file of metadata chunk ``seq``, if it can be told without fetching or long work."""
        known = self._hashes.get(seq)
        stat = self.record(seq).stat
        if known is None and self.content is not None and stat is not None and holdings.can_hash(self.content, stat):
            known = holdings.sha256(self.content, stat)
            if known is not None:
                self._hashes[seq] = known
            if len(self._hashes) > HASHES_KEPT:
                self._hashes.popitem(last=False)
        return known

    def close(self) -> None:
        """Readers that wait get Closed. The owner of the registers closes those."""
        self.metadata.close()
        if self.content is not None:
            self.content.close()


def _cost(record: Record) -> int:
    return RECORD_OVERHEAD + len(record.index) + len(record.value or b"")


class Listings:
    """Directories that were listed, by path, and their entries by name; bounded, the oldest goes first.

    A version never changes, so a lookup after a listing (``ls -l``, ``find``, ``tar``) need not walk the drive again.
    """

    def __init__(self, most: int = NAMES_KEPT) -> None:
        self._by_path: OrderedDict[Path, dict[bytes, Entry]] = OrderedDict()
        self._names = 0
        self._most = most

    def get(self, directory: Path) -> dict[bytes, Entry] | None:
        """The entries of a directory by name, None if they are not kept."""
        return self._by_path.get(directory)

    def keep(self, directory: Path, entries: dict[bytes, Entry]) -> None:
        """Keeps a listing by name, unless it is larger than all that may be kept."""
        if len(entries) > self._most or directory in self._by_path:
            return
        self._by_path[directory] = entries
        self._names += len(entries) + 1
        while self._names > self._most and len(self._by_path) > 1:
            self._names -= len(self._by_path.popitem(last=False)[1]) + 1


class DriveTree:
    """One version of a drive: implements :class:`datfs.vfs.FileTree`.

    ``root_facts``: what :meth:`facts` tells of the root besides; whoever mounts the tree may set it. ``past``: one of
    many old versions that are looked into, which keeps less in memory. ``old``: there were newer ones already. Of both
    reading raises Gone as soon as everybody told that he lacks the content; of the newest version it may be on its way.
    ``dated``: the times of the root, where the newest entry tells none.
    """

    def __init__(
        self, drive: Drive, version: int, *, past: bool = False, old: bool = False, dated: Stat | None = None
    ) -> None:
        self.drive = drive
        self.version = version
        self._past = past
        self._old = old
        self._listings = Listings(PAST_NAMES_KEPT if past else NAMES_KEPT)
        self.root_facts: Callable[[], dict[bytes, bytes]] = dict
        newest = None
        if version:
            try:
                newest = drive.record(version)
            except BadMetadata:
                newest = None  # the root still exists; walks that need the record say what is wrong with it
        self._root = _directory((), version if newest is not None else 0, dated or (newest.stat if newest else None))
        self._claimed_bytes = _content_end(newest)

    def rooted_at(self, root: Entry) -> DriveTree:
        """The same tree with a directory of it as its root; paths in entries stay those of the drive."""
        tree = DriveTree(self.drive, self.version, past=self._past, old=self._old)
        tree._root = root
        tree._listings = self._listings
        return tree

    async def rooted_like(self, root: Entry) -> DriveTree:
        """The same tree with what is at the path of ``root``, of another version, as its root.

        An empty directory if there is none. Raises as :meth:`find` does.
        """
        if not root.path:
            return self
        try:
            found = await self.find(root.path)
        except NotFound:
            found = root
        return self.rooted_at(found if found.kind is Kind.DIRECTORY else root)

    @property
    def root(self) -> Entry:
        """The root directory."""
        return self._root

    async def lookup(self, directory: Entry, name: bytes) -> Entry:
        """See :meth:`datfs.vfs.FileTree.lookup`."""
        if directory.kind is not Kind.DIRECTORY:
            raise NotADirectory(f"{show_path(directory.path)} is not a directory")
        return await self.find((*directory.path, name))

    async def find(self, path: Path) -> Entry:
        """The entry at ``path``. Raises NotFound, BadMetadata, and as SparseRegister.ensure does."""
        if not path:
            return self._root
        siblings = self._listings.get(path[:-1])
        if siblings is not None and (known := siblings.get(path[-1])) is not None:
            return known
        # Also when the listing lacks the name: the walk knows whether nothing is there or something broken.
        found = None
        if self.version:
            found = await self.drive.run(path_index.stat_path(self.drive.record, self.version, path))
        if found is None:
            raise NotFound(f"there is no {show_path(path)} in version {self.version}")
        if found.kind == "directory":
            explicit = found.record.stat if found.record is not None else None
            return _directory(path, found.newest, explicit or self.drive.record(found.dated).stat, explicit)
        assert found.record is not None
        stat = found.record.stat
        assert stat is not None
        return _file(self.drive.key, path, found.record.seq, stat)

    async def list(self, directory: Entry) -> Sequence[Entry]:
        """See :meth:`datfs.vfs.FileTree.list`."""
        if directory.kind is not Kind.DIRECTORY:
            raise NotADirectory(f"{show_path(directory.path)} is not a directory")
        if not self.version:
            return []
        kept = self._listings.get(directory.path)
        if kept is not None:
            return list(kept.values())
        parent, drive = directory.path, self.drive
        children = await drive.run(
            path_index.child_entries(drive.record, self.version, parent, drive.plain_files(parent))
        )
        key = drive.key
        entries = {
            name: _file(key, (*parent, name), seq, stat)
            if kind == "file" and stat is not None
            else _directory((*parent, name), newest, stat or drive.record(dated).stat, stat)
            for name, kind, seq, stat, newest, dated in children
        }
        self._listings.keep(parent, entries)
        return list(entries.values())

    async def open(self, entry: Entry) -> OpenFile:
        """See :meth:`datfs.vfs.FileTree.open`."""
        if entry.kind is Kind.DIRECTORY:
            raise IsADirectory(f"{show_path(entry.path)} is a directory")
        stat = await self.stat_of(entry)
        assert self.drive.content is not None
        content = self.drive.content
        register = content.register
        # Only a folder that has everything tells where the drive ends: elsewhere the content may be behind the
        # metadata, in a cache that looked at an older version before, or until a peer tells what it has.
        whole = register.read_only and register.has_range(0, register.length)
        wrong = plausible(stat, register.length if register.length and whole else None)
        if wrong is not None:
            raise BadMetadata(f"{show_path(entry.path)}: the drive's entry cannot be right: {wrong}")
        if self.drive.check_bytes is not None:
            self.drive.check_bytes(stat, show_path(entry.path))
        ensure = None
        if self._past or self._old:
            if holdings.availability(content, stat) is Availability.GONE:
                raise Gone(f"{show_path(entry.path)}: nobody has the content of this version any more")
            ensure = partial(ensure_unless_lost, content)
        return OpenFile(content, stat, show_path(entry.path), ensure=ensure, began=partial(self._begun, entry, stat))

    def _begun(self, entry: Entry, stat: Stat) -> None:
        folder = entry.path[:-1]
        siblings = self._listings.get(folder)
        if siblings is None or self.drive.neighbours is None:
            return  # nobody who goes through a folder does so without a listing of it
        self.drive.neighbours.opened(
            (self.version, folder),
            lambda: sorted(_seq_of(sibling) for sibling in siblings.values() if sibling.kind is Kind.FILE),
            _seq_of(entry),
            stat,
        )

    async def stat_of(self, entry: Entry) -> Stat:
        """The drive's own record of a file, which another tree of it may have given."""
        await self.drive.metadata.ensure((_seq_of(entry),))
        return self.known_stat(entry)

    def known_stat(self, entry: Entry) -> Stat:
        """The drive's own record of a file that :meth:`lookup` or :meth:`list` gave. Raises BadMetadata."""
        stat = self.drive.record(_seq_of(entry)).stat
        if stat is None:
            raise BadMetadata(f"{show_path(entry.path)}: its entry does not decode")
        return stat

    def facts(self, entry: Entry) -> Facts:
        """See :meth:`datfs.vfs.FileTree.facts`: of which drive and version it is, and of a file what is here."""
        seq = _seq_of(entry)
        makers: dict[bytes, Callable[[], object]] = {
            b"user.dat.key": self.drive.key.hex,
            b"user.dat.version": lambda: self.version,
            b"user.dat.seq": lambda: seq,
        }
        if entry.path == self._root.path:
            more = self.root_facts()
            makers |= {name: value.decode for name, value in more.items()}
        if entry.kind is Kind.FILE and self.drive.content is not None:
            stat = self.drive.record(seq).stat
            if stat is not None:
                makers |= self._content_facts(self.drive.content, seq, stat, entry.path)
        return Facts(makers)

    def _content_facts(
        self, content: SparseRegister, seq: int, stat: Stat, path: Path
    ) -> dict[bytes, Callable[[], object]]:
        makers: dict[bytes, Callable[[], object]] = {
            b"user.dat.chunk_first": lambda: stat.offset,
            b"user.dat.chunks": lambda: stat.blocks,
            b"user.dat.chunks_held": lambda: holdings.chunks_held(content, stat),
            b"user.dat.bytes_held": lambda: holdings.bytes_held(content, stat),
            b"user.dat.peers_with_all": lambda: holdings.peers_with_all(content, stat),
            b"user.dat.availability": lambda: self._availability(content, stat, path).value,
        }
        if holdings.can_hash(content, stat):
            makers[b"user.dat.sha256"] = lambda: self.drive.sha256(seq)
        return makers

    def _availability(self, content: SparseRegister, stat: Stat, path: Path) -> Availability:
        try:
            if self.drive.check_bytes is not None:
                self.drive.check_bytes(stat, show_path(path))
        except Gone:
            return Availability.GONE
        except CorruptStorage:
            pass  # a file that was edited: reading tells
        return holdings.availability(content, stat)

    def stats(self) -> TreeStats:
        """Bytes of the content register and number of changes, as far as they are known here.

        Before anything of the content came, by what the newest entry claims, which is mostly the end of it.
        """
        content = self.drive.content
        known = content.register.byte_length if content is not None else 0
        return TreeStats(bytes=max(known, self._claimed_bytes), entries=self.version)

    def news(self, directory: Entry) -> int:
        """See :meth:`datfs.vfs.FileTree.news`."""
        return self.drive.metadata.news


def _content_end(newest: Record | None) -> int:
    stat = newest.stat if newest is not None else None
    return stat.byte_offset + stat.size if stat is not None and plausible(stat, None) is None else 0


def _seq_of(entry: Entry) -> int:
    return entry.identity[1]


def _file(key: bytes, path: Path, seq: int, stat: Stat) -> Entry:
    mode, _, _, size, _, _, _, modified, changed = stat
    mtime = mtime_ns(modified)
    # One object for both times where they are equal: there may be a million of these.
    ctime = mtime if changed == modified else mtime_ns(changed)
    # Half the time of Entry(...), once for each name of a listing.
    return tuple.__new__(Entry, (path, Kind.FILE, size, mode & 0o777, mtime, ctime, (key, seq)))


def _directory(path: Path, newest: int, dated: Stat | None, own: Stat | None = None) -> Entry:
    """A directory's entry, with the permissions of its own if it has one, and the times of ``dated``.

    ``newest``: the newest chunk at or below it.
    """
    return Entry(
        path=path,
        kind=Kind.DIRECTORY,
        size=0,
        permissions=own.mode & 0o777 if own is not None else 0o755,
        mtime_ns=mtime_ns(dated.mtime) if dated is not None else 0,
        ctime_ns=mtime_ns(dated.ctime) if dated is not None else 0,
        identity=(path, newest),
    )
