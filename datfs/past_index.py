"""When each version of a drive was made, and which versions changed which path.

Nothing in a drive leads from a path to its older versions, or from a date to a version, so all metadata are read once,
in order, and go on being read as the drive grows. Memory: about 330 bytes for each name, 20 for each change of it.
"""

from __future__ import annotations

import time
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterator

import trio

from datfs.errors import BadMetadata
from datfs.metadata import SAFE_INTEGER, Path, Record, decode_record, valid_component
from datfs.sparse import SparseRegister

FETCHED_AHEAD = 4096  # chunks wanted at once
READ_AT_ONCE = 256  # chunks decoded before other tasks get their turn
AHEAD_MS = 24 * 3600 * 1000  # how far in the future an entry may claim to be made


NOTHING: dict[bytes, Changes] = {}  # below files, which are most; never changed


class Changes:
    """What happened at one path.

    ``versions``: those that changed it. ``below``: names that were ever in it. ``newest``: the last change of both.
    """

    __slots__ = ("below", "newest", "versions")

    def __init__(self) -> None:
        self.newest = 0
        self.versions = array("q")  # ascending
        self.below: dict[bytes, Changes] = NOTHING

    def __contains__(self, version: int) -> bool:
        place = bisect_left(self.versions, version)
        return place < len(self.versions) and self.versions[place] == version


class PastIndex:
    """The history of a drive as far as :meth:`reach` has read it. ``clock``: seconds since 1970."""

    def __init__(self, metadata: SparseRegister, clock: Callable[[], float] = time.time) -> None:
        self._metadata = metadata
        self._clock = clock
        self._times = array("q", [0])  # by version, ms, never falling
        self._root = Changes()

    @property
    def version(self) -> int:
        """The newest version that was read; 0 before the first."""
        return len(self._times) - 1

    async def reach(self, version: int) -> None:
        """Reads on until ``version``. Raises as :meth:`SparseRegister.ensure` does; what was read stays."""
        metadata = self._metadata
        while self.version < version:
            start = self.version + 1
            await metadata.ensure(range(start, min(start + FETCHED_AHEAD, version + 1)))
            await trio.lowlevel.checkpoint()
            # Another reader may have gone on meanwhile.
            for seq in range(self.version + 1, min(start + READ_AT_ONCE, version + 1)):
                self._add(seq)

    def _add(self, seq: int) -> None:
        made = self._times[-1]
        try:
            record = decode_record(seq, self._metadata.register.get(seq))
        except BadMetadata:
            self._times.append(made)
            return
        self._times.append(max(made, self._time_of(record)))
        changes = self._root
        for component in record.path:
            if not valid_component(component):
                return
            if changes.below is NOTHING:
                changes.below = {}
            found = changes.below.get(component)
            if found is None:
                found = changes.below[component] = Changes()
            changes = found
            changes.newest = seq
        changes.versions.append(seq)

    def _time_of(self, record: Record) -> int:
        """0 if the record tells none, or one that cannot be."""
        made = time_of(record)
        return made if made <= self._clock() * 1000 + AHEAD_MS else 0

    def made(self, version: int) -> int:
        """When a version that was read was made, ms since 1970: never before the one before it."""
        return self._times[version]

    def newest_before(self, end: int) -> int:
        """The newest version that was read and made before ``end``, ms since 1970; 0 if there is none."""
        return bisect_left(self._times, end, lo=1) - 1

    def last_of_each(self, end_of_period: Callable[[int], int]) -> Iterator[int]:
        """Of each period in which something was made the newest version. ``end_of_period``: of that round a time."""
        version = 0
        while version < self.version:
            version = self.newest_before(max(end_of_period(self._times[version + 1]), self._times[version + 1] + 1))
            yield version

    def changes(self, path: Path) -> Changes | None:
        """What happened at and below a path, None if nothing ever did."""
        changes = self._root
        for component in path:
            found = changes.below.get(component)
            if found is None:
                return None
            changes = found
        return changes


def time_of(record: Record) -> int:
    """When a change was made, as its entry tells, ms since 1970; 0 if it does not (deletions never do)."""
    stat = record.stat
    made = (stat.ctime or stat.mtime) if stat is not None else 0
    return made if 0 <= made <= SAFE_INTEGER else 0
