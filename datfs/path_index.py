"""Walks through the path index of a drive: list, find, stat, diff (drive.md sections 4 and 8).

Owns the algorithms of the append-tree, and no records: each walk is a generator that yields the numbers of
the chunks it needs next, as many as possible at once (one batch for each level of the path), and when it is
resumed asks ``records`` for them. Whoever drives it fetches them in between, or has them all already
(:func:`run`)::

    walk ── yields {3, 17} ──► caller fetches ── resumes ──► walk calls records(3), records(17) ...

``records(seq)`` raises BadMetadata for a chunk that does not decode. A walk passes that on only if its answer
depends on the chunk: one that matches is taken, whatever its neighbours are.

Hostile drives (drive.md section 9): a walk follows an element only if it is below the directory in question
and has one more component in common with the path than the record that named it. That alone ends every walk,
whatever the lists say; :meth:`datfs.metadata.Record.children` sees to it that no list names a later chunk. In
a list with two elements of the same name the first wins. Names with invalid components are never shown.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias, TypeVar, cast

from datfs.errors import BadMetadata
from datfs.metadata import EntryKind, Path, Record, Stat, valid_component

T = TypeVar("T")
Steps: TypeAlias = Generator[Collection[int], None, T]
Records = Callable[[int], Record]
PlainFiles = Callable[[int], tuple[bytes, Stat] | None]

# A directory that was made with mkdir has an entry of its own, somewhere among those of its children, and only for its
# mode. All of them are looked through in directories up to the first figure. In larger ones only as many as the second
# figure says, from the oldest on, where mkdir's entry nearly always is: a listing looks into every sub-directory, and
# must not fetch names that nobody asked for. (Drives of the `dat` command never have such entries.)
EXPLICIT_SEARCH_ALL = 8
EXPLICIT_SEARCH_FIRST = 2

TIMES_SEARCHED = 4  # chunks that are looked at for the time of a directory if the newest one tells none


@dataclass(frozen=True, slots=True)
class Found:
    """What is at a path.

    ``record``: the file's entry; for a directory that of its mkdir, or None if it is only implied, or has so
    many children that its entry was not looked for (``EXPLICIT_SEARCH_ALL``). ``newest``: the number of the
    newest chunk at or below the path, 0 for the root of an empty drive. ``dated``: that of the newest that tells a
    time, if one is known: a deletion tells none.
    """

    kind: EntryKind
    record: Record | None
    newest: int
    dated: int


class Child(NamedTuple):
    """One name in a directory: ``seq`` and ``stat`` of the entry that :class:`Found` has as its record.

    ``seq`` is 0 and ``stat`` None for a directory without an entry of its own.
    """

    name: bytes
    kind: EntryKind
    seq: int
    stat: Stat | None
    newest: int
    dated: int


@dataclass(frozen=True, slots=True)
class Change:
    """One difference between two versions. ``record``: the new entry of a put, the old one of a del."""

    kind: Literal["put", "del"]
    path: Path
    record: Record


def run(steps: Steps[T]) -> T:
    """Runs a walk to its end when every chunk that it may ask for is there."""
    try:
        while True:
            next(steps)
    except StopIteration as done:
        result: T = done.value
        return result


# --- reading ------------------------------------------------------------------------------------------------


def list_index(records: Records, head: int, directory: Path) -> Steps[tuple[int, ...]]:
    """The list of ``directory`` in version ``head``: a chunk number for each child, and perhaps for itself.

    Empty if the directory does not exist. Raises BadMetadata.
    """
    nearest = yield from _walk(records, head, directory)
    return nearest.children(len(directory)) if nearest else ()


def list_children(records: Records, head: int, directory: Path) -> Steps[dict[bytes, int]]:
    """The names in ``directory``, each with the number of the newest chunk at or below it.

    Chunks that do not decode are left out, for their names are not known. A name may turn out to be nothing
    that a file system can show (:func:`child_entries`). Raises BadMetadata if the directory cannot be
    reached.
    """
    found = yield from _representatives(records, head, directory)
    return {name: record.seq for name, record in found.items()}


def get(records: Records, head: int, path: Path) -> Steps[Record | None]:
    """The entry of exactly this path; None if there is none or it is deleted. Raises BadMetadata."""
    nearest = yield from _walk(records, head, path)
    if nearest is None:
        return None
    if nearest.path != path:
        others = _without(nearest.children(len(path)), nearest.seq)
        yield others
        nearest = _first(records, others, path, exact=True)
    return nearest if nearest is not None and nearest.value is not None else None


def stat_path(records: Records, head: int, path: Path) -> Steps[Found | None]:
    """What a file system shows at ``path``: a file, a directory, or nothing (None).

    A directory wins when anything is below; the root always is one. Raises BadMetadata if the entry of this
    path, or one that it takes to get there, does not decode.
    """
    if not all(map(valid_component, path)):
        return None
    nearest = yield from _walk(records, head, path)
    if nearest is None:
        return None if path else Found("directory", None, 0, 0)
    candidates = _candidates(nearest, path)
    yield candidates
    return _judge(records, nearest, path, candidates)


def child_entries(records: Records, head: int, directory: Path, plain: PlainFiles | None = None) -> Steps[list[Child]]:
    """Everything that a listing of ``directory`` with attributes needs, in order of the newest change.

    Takes one batch more than :func:`list_children` if there are sub-directories: their own entries, searched
    for in all of them together, at most ``EXPLICIT_SEARCH_ALL`` chunks for each. Names that are neither file
    nor directory are left out, and so are those whose attributes do not decode; :func:`stat_path` says why.
    Raises BadMetadata if the directory cannot be reached.

    ``plain``: what :func:`datfs.metadata.decode_plain` says of a chunk, asked before ``records``. It changes nothing
    but the time that this takes.
    """
    numbers = yield from list_index(records, head, directory)
    yield numbers
    depth = len(directory) + 1
    found: dict[bytes, Child | Record] = {}
    all_plain = True
    for seq in numbers:
        if plain is not None and (file := plain(seq)) is not None:
            name, stat = file
            if name not in found:
                found[name] = tuple.__new__(Child, (name, "file", seq, stat, seq, seq))  # half the time of Child(...)
            continue
        all_plain = False
        try:
            record = records(seq)
        except BadMetadata:
            continue
        if _is_below(record.path, directory):
            found.setdefault(record.path[depth - 1], record)
    if all_plain:
        return cast("list[Child]", list(found.values()))
    plans = [
        (name, one, () if isinstance(one, Child) else _candidates(one, (*directory, name)))
        for name, one in found.items()
        if isinstance(one, Child) or not _is_gone(one, depth)
    ]
    yield {seq for _, _, candidates in plans for seq in candidates}
    children = []
    for name, one, candidates in plans:
        if isinstance(one, Child):
            children.append(one)
            continue
        try:
            verdict = _judge(records, one, (*directory, name), candidates)
        except BadMetadata:
            continue
        if verdict is not None:
            own = verdict.record
            about = (own.seq, own.stat) if own else (0, None)
            children.append(Child(name, verdict.kind, *about, one.seq, verdict.dated))
    return children


def _walk(records: Records, head: int, path: Path) -> Steps[Record | None]:
    """The newest record at or below ``path``; None if there is nothing."""
    if not head:
        return None
    yield (head,)
    record = records(head)
    while (depth := _common(record.path, path)) < len(path):
        others = _without(record.children(depth), record.seq)
        yield others
        closer = _first(records, others, path[: depth + 1])
        if closer is None:
            return None
        record = closer
    return record


def _representatives(records: Records, head: int, directory: Path) -> Steps[dict[bytes, Record]]:
    """For each valid name in ``directory`` the record that stands for it."""
    numbers = yield from list_index(records, head, directory)
    yield numbers
    depth = len(directory)
    found: dict[bytes, Record] = {}
    for record in _decodable(records, numbers):
        path = record.path
        if _is_below(path, directory):
            found.setdefault(path[depth], record)
    return {name: record for name, record in found.items() if not _is_gone(record, depth + 1)}


def _is_gone(record: Record, depth: int) -> bool:
    # A deletion stands for the directories above it that live on, and even for one whose own entry it deletes
    # (drive.md section 10, 3). Its list for that level is then not empty.
    return record.value is None and not record.children(depth)


def _candidates(nearest: Record, path: Path) -> tuple[int, ...]:
    """The chunks that :func:`_judge` wants to see, given the newest record at or below ``path``."""
    others = _without(nearest.children(len(path)), nearest.seq)
    if others and nearest.path == path and (stat := nearest.stat) is not None and stat.kind == "directory":
        return ()  # its mkdir is the newest change
    candidates = others if len(others) <= EXPLICIT_SEARCH_ALL else others[:EXPLICIT_SEARCH_FIRST]
    if nearest.value is not None:
        return candidates
    # A deletion tells no time. What it names last, in each directory on its way, is the newest that is left there.
    levels = range(len(path), len(nearest.path))
    newest = {seq for depth in levels for seq in _without(nearest.children(depth), nearest.seq)[-1:]}
    return tuple(sorted({*candidates, *sorted(newest)[-TIMES_SEARCHED:]}))


def _judge(records: Records, nearest: Record, path: Path, candidates: Sequence[int]) -> Found | None:
    if path and _is_gone(nearest, len(path)):
        return None
    own: Record | None = None
    inhabited = not path
    seen = (nearest, *_decodable(records, candidates))
    for record in seen:
        if record.path == path:
            own = own or record
        elif _is_below(record.path, path) and not _is_gone(record, len(path) + 1):
            inhabited = True
    stat = own.stat if own is not None else None
    kind = stat.kind if stat is not None else None
    dated = nearest.seq
    if nearest.stat is None:
        dated = max((record.seq for record in seen if record.stat is not None), default=dated)
    if inhabited or kind == "directory":
        return Found("directory", own if kind == "directory" else None, nearest.seq, dated)
    if own is not None and own.stat_error is not None:
        raise BadMetadata(f"metadata chunk {own.seq}: {own.stat_error}")
    return Found(kind, own, nearest.seq, dated) if kind is not None else None


def _is_below(path: Path, directory: Path) -> bool:
    """Whether ``path`` makes ``directory`` have a name in it that can be shown."""
    depth = len(directory)
    return len(path) > depth and path[:depth] == directory and valid_component(path[depth])


def _common(a: Path, b: Path) -> int:
    length = 0
    for ours, theirs in zip(a, b, strict=False):
        if ours != theirs:
            break
        length += 1
    return length


def _without(numbers: tuple[int, ...], own: int) -> tuple[int, ...]:
    return numbers[:-1] if numbers and numbers[-1] == own else numbers


def _decodable(records: Records, numbers: Iterable[int]) -> Iterable[Record]:
    for seq in numbers:
        try:
            yield records(seq)
        except BadMetadata:
            continue


def _first(records: Records, numbers: Iterable[int], path: Path, exact: bool = False) -> Record | None:
    """The first record at ``path`` or (unless ``exact``) below it.

    Raises BadMetadata if there is none, but a chunk that does not decode might have been it.
    """
    depth = len(path)
    bad: BadMetadata | None = None
    for seq in numbers:
        try:
            other = records(seq).path
        except BadMetadata as error:
            bad = bad or error
            continue
        if (other if exact else other[:depth]) == path:
            return records(seq)
    if bad is not None:
        raise bad
    return None


# --- differences --------------------------------------------------------------------------------------------


def diff(records: Records, from_head: int, to_head: int) -> Steps[list[Change]]:
    """What leads from one version to another (drive.md section 8), from the root downwards.

    A replaced entry appears as a del of the old and a put of the new one, in this order. Sub-trees that are
    equal are not visited. Directories appear only if they have entries of their own. Either version may be
    the newer one. Raises BadMetadata if a chunk in a part that differs does not decode.
    """
    yield [head for head in (from_head, to_head) if head]
    pending: list[tuple[Path, Record | None, Record | None]] = [
        ((), records(from_head) if from_head else None, records(to_head) if to_head else None)
    ]
    changes: list[Change] = []
    while pending:
        differing = [(path, *_differing(old, new, len(path))) for path, old, new in pending]
        yield {seq for _, old, new in differing for seq in (*old, *new)}
        pending = []
        for path, old_numbers, new_numbers in differing:
            old_own, old_children = _sort(records, old_numbers, path)
            new_own, new_children = _sort(records, new_numbers, path)
            if old_own is not None:
                changes.append(Change("del", path, old_own))
            if new_own is not None:
                changes.append(Change("put", path, new_own))
            for name in old_children | new_children:
                pending.append(((*path, name), old_children.get(name), new_children.get(name)))
    return changes


def _differing(old: Record | None, new: Record | None, level: int) -> tuple[list[int], list[int]]:
    """The elements that only one of the two has in its list: the others are the same sub-trees."""
    before = old.children(level) if old is not None else ()
    after = new.children(level) if new is not None else ()
    same = set(before).intersection(after)
    return [seq for seq in before if seq not in same], [seq for seq in after if seq not in same]


def _sort(records: Records, numbers: Iterable[int], path: Path) -> tuple[Record | None, dict[bytes, Record]]:
    """The entry of ``path`` itself, if it has one among these, and those that stand for its children."""
    own: Record | None = None
    children: dict[bytes, Record] = {}
    for seq in numbers:
        record = records(seq)
        if record.path == path and record.value is not None:
            own = own or record
        elif _is_below(record.path, path):
            children.setdefault(record.path[len(path)], record)
    return own, children
