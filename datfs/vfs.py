"""What the file system layer needs to know of a tree of files: the seam between drives and FUSE.

:mod:`datfs.fuse_ops` knows only these protocols; :mod:`datfs.drive` implements them for hyperdrive 9, the tests
for a tree in memory, and a later generation of drives will do so beside them (``docs/design.md``, "The seam").
Nothing is here that one of them does not use.

Names are ``bytes``: what the kernel gives and takes, never decoded on the way.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol


class Kind(enum.Enum):
    """What an entry is. Other types of the drive format are hidden (drive.md section 7)."""

    FILE = "file"
    DIRECTORY = "directory"


class Entry(NamedTuple):
    """One name of one version of a tree. Immutable; a changed file is another entry.

    ``path``: components from the root, none of them empty, ``.``, ``..``, or holding ``/`` or NUL.
    ``size``: bytes, 0 for directories. ``permissions``: the low nine mode bits. Times in nanoseconds since 1970.
    ``identity``: equal for two files only if they have the same content for ever; they share an inode, and a tree takes
    either for the other. Those of one path with different content differ. A pair of one object for many entries and a
    number, for the sake of memory.
    """

    path: tuple[bytes, ...]
    kind: Kind
    size: int
    permissions: int
    mtime_ns: int
    ctime_ns: int
    identity: tuple[Hashable, int]

    @property
    def name(self) -> bytes:
        """The last component; empty for the root."""
        return self.path[-1] if self.path else b""


@dataclass(frozen=True, slots=True)
class TreeStats:
    """What ``statfs`` tells. ``bytes`` and ``entries`` are those known without asking any peer."""

    bytes: int
    entries: int


@dataclass(frozen=True, slots=True)
class Update:
    """A newer version of a tree. ``changed``: the paths that differ; None if that is not known.

    ``lasting``: directories above changed paths that are there before and after; of others that is not known.
    """

    tree: FileTree
    changed: Sequence[tuple[bytes, ...]] | None
    lasting: Collection[tuple[bytes, ...]] = frozenset()


class TreeFile(Protocol):
    """An open file of one immutable version."""

    @property
    def complete(self) -> bool:
        """True if every byte is here, now and (unless the cache drops it) later."""
        ...

    @property
    def news(self) -> int:
        """A count that has grown if a read that got nothing may get something now."""
        ...

    def progress(self, offset: int, length: int) -> int:
        """A count that has grown if a wait for the range was not in vain, though it is not all here.

        Something of it came; or something else did, and those who brought it have the rest of this, too.
        """
        ...

    def read_nowait(self, offset: int, length: int) -> bytes | None:
        """The bytes of the range, cut at the end of the file; None if some are not here. No I/O but a local read."""
        ...

    async def read(self, offset: int, length: int) -> bytes:
        """The bytes of the range, cut at the end of the file, fetched if need be. Never short otherwise.

        Raises Unavailable (TimedOut is the caller's: put a deadline around), IntegrityError, BadMetadata, OSError.
        Can be cancelled at any time; its wants go with it.
        """
        ...

    def begin(self) -> None:
        """A program begins to read, and things may be fetched for it: also what it is likely to open next."""
        ...

    def close(self) -> None:
        """Lets go of read-ahead wants. Must not fail; a second call does nothing."""
        ...


class FileTree(Protocol):
    """One version of a tree of files, read-only."""

    @property
    def root(self) -> Entry:
        """The root directory; known without the network."""
        ...

    async def lookup(self, directory: Entry, name: bytes) -> Entry:
        """The entry called ``name`` in ``directory``.

        Raises NotFound, NotADirectory, BadMetadata, Unavailable, OSError.
        """
        ...

    async def list(self, directory: Entry) -> Sequence[Entry]:
        """All entries of ``directory``, in no particular order, hidden ones left out. Raises as lookup does."""
        ...

    async def open(self, entry: Entry) -> TreeFile:
        """Opens a file. Raises IsADirectory, BadMetadata, Unavailable, OSError."""
        ...

    def facts(self, entry: Entry) -> Mapping[bytes, bytes]:
        """Extended attributes by name (``user.…``); never waits."""
        ...

    def stats(self) -> TreeStats:
        """Figures for ``statfs``; never waits."""
        ...

    def news(self, directory: Entry) -> int:
        """A count that has grown if a lookup or listing in ``directory`` that got nothing may get something now."""
        ...
