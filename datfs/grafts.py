"""A tree shown below a directory of another one: entries translated in both directions.

For trees that are made of trees. Knows :mod:`datfs.vfs` and nothing of drives.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Generic, TypeVar, overload

from datfs.vfs import Entry, FileTree, Kind, TreeFile

Path = tuple[bytes, ...]
Paths = list[Path]
Identity = tuple[Hashable, int]
T = TypeVar("T")


class Graft:
    """``tree`` with its root at the path ``at`` of another tree.

    ``tag``: told apart by it are files of grafts whose trees may have equal identities for different files. Grafts with
    the same tag must have the same content wherever their trees have the same identity: those files share an inode.
    """

    def __init__(self, tree: FileTree, at: Path, tag: Hashable) -> None:
        self.tree = tree
        self.at = at
        self._tag = tag
        self._of: tuple[Hashable, Hashable] = (tag, None)

    @property
    def root(self) -> Entry:
        """The root of the tree, at its place."""
        return self.outward(self.tree.root)

    def outward(self, entry: Entry) -> Entry:
        """An entry of the tree as the other one shows it."""
        path = self.at + entry.path[len(self.tree.root.path) :]
        of, number = entry.identity
        if of is not self._of[1]:
            self._of = (self._tag, of)  # one for all files of a drive
        return _at(entry, path, (self._of, number))

    def inward(self, entry: Entry) -> Entry:
        """The tree's own entry for what :meth:`outward` made; also of another graft with the same tag and place."""
        return _at(entry, self.tree.root.path + entry.path[len(self.at) :], inward_identity(entry))

    async def lookup(self, directory: Entry, name: bytes) -> Entry:
        """See :meth:`datfs.vfs.FileTree.lookup`."""
        return self.outward(await self.tree.lookup(self.inward(directory), name))

    async def list(self, directory: Entry) -> Sequence[Entry]:
        """See :meth:`datfs.vfs.FileTree.list`."""
        return MadeLater(await self.tree.list(self.inward(directory)), self.outward)

    async def open(self, entry: Entry) -> TreeFile:
        """See :meth:`datfs.vfs.FileTree.open`."""
        return await self.tree.open(self.inward(entry))

    def facts(self, entry: Entry) -> Mapping[bytes, bytes]:
        """See :meth:`datfs.vfs.FileTree.facts`."""
        return self.tree.facts(self.inward(entry))

    def changed(self, paths: Iterable[Path]) -> Paths:
        """Paths of the tree that changed, as the other one shows them; those outside of its root left out."""
        root = self.tree.root.path
        return [self.at + path[len(root) :] for path in paths if path[: len(root)] == root]


class MadeLater(Sequence[Entry], Generic[T]):
    """A listing whose entries are made when they are looked at: the kernel takes a few at a time, often not all."""

    def __init__(self, of: Sequence[T], make: Callable[[T], Entry]) -> None:
        self._of = of
        self._make = make

    def __len__(self) -> int:
        return len(self._of)

    @overload
    def __getitem__(self, place: int) -> Entry: ...

    @overload
    def __getitem__(self, place: slice) -> Sequence[Entry]: ...

    def __getitem__(self, place: int | slice) -> Entry | Sequence[Entry]:
        if isinstance(place, slice):
            return MadeLater(self._of[place], self._make)
        return self._make(self._of[place])


def inward_identity(entry: Entry) -> Identity:
    """The identity in its own tree of what :meth:`Graft.outward` made."""
    of, number = entry.identity
    assert isinstance(of, tuple)
    return of[1], number


def directory(path: Path, time_ns: int, identity: Identity) -> Entry:
    """A directory that no tree has."""
    return Entry(path, Kind.DIRECTORY, 0, 0o755, time_ns, time_ns, identity)


def _at(entry: Entry, path: Path, identity: Identity) -> Entry:
    # Not dataclasses.replace, which takes several times as long: this is done for every name of a listing.
    return Entry(path, entry.kind, entry.size, entry.permissions, entry.mtime_ns, entry.ctime_ns, identity)
