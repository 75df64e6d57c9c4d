"""The path indexes of new entries by the algorithm as it is written in drive.md section 5: every sibling is asked.

What :mod:`datfs.index_builder` makes has to be the same.
"""

from __future__ import annotations

from datfs.metadata import Path, Record
from datfs.path_index import Records, Steps, _common, _first, _without

Lists = list[list[int]]


def put_lists(records: Records, head: int, length: int, path: Path) -> Steps[Lists]:
    """The index lists of a new entry at ``path``, which becomes chunk ``length`` (drive.md section 5).

    Byte for byte what the reference writes. Raises BadMetadata.
    """
    if not head:
        return [[length] for _ in range(len(path) + 1)]
    levels = yield from _levels(records, head, path)
    return [
        [*(seq for seq in level if records(seq).path[k : k + 1] != path[k : k + 1]), length]
        for k, level in enumerate(levels)
    ]


def delete_lists(records: Records, head: int, length: int, path: Path) -> Steps[Lists | None]:
    """The index lists of a deletion of ``path``, which becomes chunk ``length`` (drive.md section 5).

    None in a drive without any entry: nothing is appended then. A path that does not exist gets its deletion
    all the same. Byte for byte what the reference writes, which forgets a directory whose last entry *with a
    value* is deleted, although there may be more below sub-directories that only deletions stand for. Raises
    BadMetadata.
    """
    if not head:
        return None
    levels = yield from _levels(records, head, path)
    survivor: Path = ()
    for level in reversed(levels):
        alive = [seq for seq in level if records(seq).value is not None and records(seq).path != path]
        if alive:
            survivor = records(alive[-1]).path
            break
    depth = _common(path, survivor)
    lists = []
    for k, level in enumerate(levels[: depth + 1]):
        kept = [seq for seq in level if records(seq).path[k : k + 1] != path[k : k + 1]]
        # Above the last of them something else of our branch survives, and we stand for it.
        lists.append([*kept, length] if k < depth else kept)
    return lists


def _levels(records: Records, head: int, path: Path) -> Steps[list[tuple[int, ...]]]:
    """``list_index`` of the root, of each directory on the way, and of ``path`` itself, in one walk."""
    levels: list[tuple[int, ...]] = []
    yield (head,)
    record: Record | None = records(head)
    while record is not None:
        depth = _common(record.path, path)
        levels += [record.children(level) for level in range(len(levels), depth + 1)]
        if depth == len(path):
            break
        others = _without(levels[depth], record.seq)
        yield others
        record = _first(records, others, path[: depth + 1])
    levels += [()] * (len(path) + 1 - len(levels))
    yield {seq for level in levels for seq in level}
    return levels
