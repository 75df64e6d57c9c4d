"""The files of a drive's version as a tree in memory, to compare a folder with (drive.md section 4)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from datfs.confined import allowed
from datfs.metadata import Path, Record, Stat
from datfs.path_index import Records


@dataclass(slots=True)
class Branch:
    """A name in a drive. ``stat``: of its own entry, if it has one; ``below``: the names in it."""

    stat: Stat | None = None
    below: dict[bytes, Branch] = field(default_factory=dict)

    def find(self, path: Path) -> Branch | None:
        """What is at a path below this one."""
        here: Branch | None = self
        for name in path:
            here = here.below.get(name) if here is not None else None
        return here

    def set(self, path: Path, stat: Stat | None) -> None:
        """Says what the entry of a path is now; None takes it out, and the names that are empty then."""
        way = [self]
        for name in path:
            child = way[-1].below.get(name)
            if child is None:
                if stat is None:
                    return
                child = way[-1].below[name] = Branch()
            way.append(child)
        way[-1].stat = stat
        for depth in range(len(path), 0, -1):
            if way[depth].stat is None and not way[depth].below:
                del way[depth - 1].below[path[depth - 1]]

    def entries(self, path: Path = ()) -> Iterator[tuple[Path, Stat]]:
        """Every entry at and below, ``path`` being this one's own: names falling, a folder after what is in it."""
        pending: list[tuple[Path, Branch, bool]] = [(path, self, False)]
        while pending:
            at, branch, seen = pending.pop()
            if not seen and branch.below:
                pending.append((at, branch, True))
                pending += [((*at, name), branch.below[name], False) for name in sorted(branch.below, key=in_order)]
            elif branch.stat is not None:
                yield at, branch.stat


def in_order(name: bytes) -> bytes:
    """The key by which the reference sorts names: UTF-16 units, as JavaScript compares text."""
    return name.decode("utf-8", "surrogateescape").encode("utf-16-be", "surrogatepass")


def tree_of(records: Records, head: int) -> Branch:
    """All entries of version ``head`` that a folder may have. Raises BadMetadata if a part does not decode."""
    root = Branch()
    pending: list[tuple[Path, Branch, tuple[int, ...]]] = []
    if head:
        pending.append(((), root, records(head).children(0)))
    while pending:
        directory, branch, numbers = pending.pop()
        for seq in numbers:  # of two of the same name the first one counts
            record = records(seq)
            if record.path == directory:
                branch.stat = branch.stat or _stat(record)
            elif record.path[: len(directory)] == directory and allowed(record.path):
                name = record.path[len(directory)]
                if name in branch.below:
                    continue
                below = record.children(len(directory) + 1)
                if below == (seq,) and len(record.path) == len(directory) + 1:
                    branch.below[name] = Branch(_stat(record))
                elif below:
                    child = branch.below[name] = Branch()
                    pending.append(((*directory, name), child, below))
    return root


def _stat(record: Record) -> Stat | None:
    """What an entry says; None for a deletion. A value that does not decode is something else than any file."""
    stat = record.stat
    return Stat(0) if stat is None and record.value is not None else stat
