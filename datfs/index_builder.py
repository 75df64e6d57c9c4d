"""The path indexes of new entries, one after the other, each made from that of the entry before (drive.md section 5).

Owns the lists of the directories on the way to the last path, encoded, so that one more file in a directory of n names
copies n bytes, and decodes nothing: by :mod:`datfs.path_index` alone it would be n records for each file. Pure. Byte
for byte what the reference writes; deletions keep what it would forget (:meth:`IndexBuilder.delete`).
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from itertools import pairwise

from datfs import varint
from datfs.index_lists import skip
from datfs.metadata import Path
from datfs.path_index import Records


class _Level:
    """The list of one directory. ``own``: its element that stands for the next step of the path, None without one.

    ``numbers``: the others, ascending, and ``stored`` the same as an index has them.
    """

    def __init__(self, numbers: tuple[int, ...] = ()) -> None:
        self.numbers = list(numbers)
        differences = [number - previous for previous, number in pairwise((0, *numbers))]
        small = max(differences, default=0) < 0x80
        self.stored = bytearray(differences) if small else bytearray(b"".join(map(varint.encode, differences)))
        self.own: int | None = None
        self._names: dict[bytes | None, int] | None = None if numbers else {}

    def take(self, name: bytes | None, depth: int, records: Records) -> None:
        """Makes the element of this name the own one; None is the directory's own entry."""
        if self._names is None:
            self._names = {}
            for seq in self.numbers:
                self._names.setdefault(_component(records(seq).path, depth), seq)
        self.own = self._names.pop(name, None)
        if self.own is not None:
            self._remove(self.own)

    def give(self, name: bytes | None) -> None:
        """Puts the own element among the others."""
        if self.own is None:
            return
        at = bisect.bisect(self.numbers, self.own)
        before = self.numbers[at - 1] if at else 0
        if at == len(self.numbers):
            self.stored += varint.encode(self.own - before)
        else:
            start = skip(self.stored, 0, at)
            new = varint.encode(self.own - before) + varint.encode(self.numbers[at] - self.own)
            self.stored[start : skip(self.stored, start, 1)] = new
        self.numbers.insert(at, self.own)
        if self._names is not None:
            self._names[name] = self.own
        self.own = None

    def encoded(self, own: int | None = None) -> bytes:
        """The list in an index, with ``own`` at its end."""
        if own is None:
            return varint.encode(len(self.numbers)) + self.stored
        last = self.numbers[-1] if self.numbers else 0
        return varint.encode(len(self.numbers) + 1) + self.stored + varint.encode(own - last)

    def newest_first(self) -> Iterator[int]:
        """All elements."""
        if self.own is not None and (not self.numbers or self.own > self.numbers[-1]):
            yield self.own
            yield from reversed(self.numbers)
        else:
            yield from sorted((*self.numbers, *(() if self.own is None else (self.own,))), reverse=True)

    def _remove(self, seq: int) -> None:
        at = bisect.bisect_left(self.numbers, seq)
        before = self.numbers[at - 1] if at else 0
        start = skip(self.stored, 0, at)
        if at + 1 == len(self.numbers):
            del self.stored[start:]
        else:
            self.stored[start : skip(self.stored, start, 2)] = varint.encode(self.numbers[at + 1] - before)
        del self.numbers[at]


class IndexBuilder:
    """For one drive whose only writer this is. ``records``: any entry so far, by its number."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._path: Path = ()
        self._levels: list[_Level] = []
        self._head = -1  # the version that the levels are right for; -1: none

    def find(self, head: int, path: Path) -> int | None:
        """The number of the entry at exactly this path, None if there is none. Raises BadMetadata."""
        self._go_to(head, path)
        self._head = head
        return self._levels[-1].own

    def put(self, head: int, seq: int, path: Path) -> bytes:
        """The index of a new entry ``seq`` at ``path`` in version ``head``. Raises BadMetadata."""
        self._go_to(head, path)
        for level in self._levels:
            level.own = seq
        self._head = seq
        return b"\1" + b"".join(level.encoded() for level in self._levels)

    def delete(self, head: int, seq: int, path: Path) -> bytes:
        """The index of a deletion ``seq`` of an entry that is there. Raises BadMetadata.

        Nearly always that of the reference. It forgets a directory, though, whose last entry with a value is deleted,
        although there may be more below sub-directories that only deletions stand for.
        """
        self._go_to(head, path)
        depth = max(self._reach(path), self._inhabited())
        levels = self._levels[: depth + 1]
        for level in levels[:depth]:
            level.own = seq
        encoded = [level.encoded(seq) for level in levels[:depth]] + [levels[depth].encoded()]
        levels[depth].own = None
        self._levels, self._path, self._head = levels, path[:depth], seq
        levels[depth].take(None, depth, self._records)
        return b"\0" + b"".join(encoded)

    def _go_to(self, head: int, path: Path) -> None:
        """Makes the levels those of ``path`` and of the directories above."""
        if head != self._head:
            self._path, self._levels = (), [_Level(self._records(head).children(0) if head else ())]
            self._levels[0].take(None, 0, self._records)
        self._head = -1  # until all of it is done
        depth = _common(self._path, path)
        if depth < len(self._path) or depth < len(path):
            level = self._levels[depth]
            level.give(_component(self._path, depth))
            del self._levels[depth + 1 :]
            level.take(_component(path, depth), depth, self._records)
        for below in range(depth + 1, len(path) + 1):
            above = self._levels[below - 1].own
            level = _Level(self._records(above).children(below) if above is not None else ())
            level.take(_component(path, below), below, self._records)
            self._levels.append(level)
        self._path = path

    def _reach(self, path: Path) -> int:
        """How deep the reference goes on standing for the directories of a deleted path."""
        for level in reversed(self._levels):
            for seq in level.newest_first():
                record = self._records(seq)
                if record.value is not None and record.path != path:
                    return _common(record.path, path)
        return 0

    def _inhabited(self) -> int:
        """The deepest directory in which there is anything else."""
        for depth in range(len(self._levels) - 1, 0, -1):
            for seq in reversed(self._levels[depth].numbers):
                record = self._records(seq)
                if record.value is not None or record.children(depth + 1):
                    return depth
        return 0


def _component(path: Path, depth: int) -> bytes | None:
    return path[depth] if depth < len(path) else None


def _common(a: Path, b: Path) -> int:
    length = 0
    for ours, theirs in zip(a, b, strict=False):
        if ours != theirs:
            break
        length += 1
    return length
