"""When chunks were last used: the order in which a full cache gives them up.

Times are microseconds since 1970, each greater than the one before, so that uses have an order however close they are.
In a store they survive in the file :data:`USES_NAME`, to the second and joined into runs: a hint, written now and then
and not synced. Chunks of which it says nothing count as used when the data file was last written.

No I/O but on that file; the clock is passed in.
"""

from __future__ import annotations

import contextlib
import os
import struct
import time
from array import array
from collections.abc import Callable, Iterator
from itertools import groupby, repeat
from pathlib import Path

from datfs.bitfield import Bitfield

USES_NAME = "uses"
SECOND = 1_000_000
_MAGIC = b"datfs uses 1\n"
_RUN = struct.Struct("<QQQ")  # first, stop, second
_PAGE = 4096  # chunks
_MOST_BYTES = 1 << 26


def microseconds() -> int:
    """Now."""
    return time.time_ns() // 1000


class ChunkUses:
    """The last use of each chunk of a content register.

    ``unknown``: when chunks were used of which nothing is noted.
    """

    def __init__(self, clock: Callable[[], int] = microseconds, unknown: int = 0) -> None:
        self._clock = clock
        self._last = 0
        self._pages: dict[int, array[int]] = {}
        self.unknown = unknown
        self.changed = False

    def note(self, first: int, stop: int) -> None:
        """Chunks ``first .. stop-1`` are used now."""
        self._last = max(self._last + 1, self._clock())
        self._set(first, stop, self._last)
        self.changed = True

    def _set(self, first: int, stop: int, when: int) -> None:
        while first < stop:
            number, start = divmod(first, _PAGE)
            end = min(_PAGE, start + stop - first)
            page = self._pages.get(number)
            if page is None:
                page = self._pages[number] = array("Q", bytes(8 * _PAGE))
            for place in range(start, end):
                page[place] = when
            first += end - start

    def when(self, index: int) -> int:
        """When the chunk was last used, as far as that is known."""
        page = self._pages.get(index // _PAGE)
        return (page[index % _PAGE] if page is not None else 0) or self.unknown

    def by_age(self, held: Bitfield) -> list[tuple[int, int]]:
        """All chunks that are held as (time, index), the one that was used longest ago first."""
        return sorted(
            pair
            for first, stop in held.runs()
            for pair in zip(self._times(first, stop), range(first, stop), strict=True)
        )

    def newest(self, held: Bitfield) -> int:
        """The last use of any chunk that is held; 0 if none is."""
        return max((time for first, stop in held.runs() for time in self._times(first, stop)), default=0)

    def _times(self, first: int, stop: int) -> Iterator[int]:
        """:meth:`when` of each chunk, quicker."""
        unknown = self.unknown
        while first < stop:
            number, start = divmod(first, _PAGE)
            end = min(_PAGE, start + stop - first)
            page = self._pages.get(number)
            if page is None:
                yield from repeat(unknown, end - start)
            else:
                yield from (time or unknown for time in page[start:end])
            first += end - start

    # -- in a store

    @classmethod
    def load(cls, folder: Path, clock: Callable[[], int] = microseconds) -> ChunkUses:
        """What is known of the store in a folder. A file that is missing or damaged tells nothing."""
        uses = cls(clock)
        with contextlib.suppress(OSError):
            uses.unknown = int((folder / "content.data").stat().st_mtime * SECOND)
        for first, stop, second in _runs_in(folder / USES_NAME):
            uses._set(first, stop, second * SECOND)
        return uses

    @staticmethod
    def oldest_in(folder: Path) -> int | None:
        """When the chunk of a store was used that was not for the longest time; None if no chunk is there.

        Going by the files only, the store is not opened: the chunk may have been given up since.
        """
        try:
            found = (folder / "content.data").stat()
        except OSError:
            return None
        if not found.st_blocks:
            return None
        return min((run[2] * SECOND for run in _runs_in(folder / USES_NAME)), default=int(found.st_mtime * SECOND))

    def save(self, folder: Path, held: Bitfield) -> None:
        """Writes down the uses of what is held, to the second, if something changed. Raises OSError."""
        if not self.changed:
            return
        runs = b"".join(_RUN.pack(*run) for run in self._runs(held))
        temporary = folder / f"{USES_NAME}.new"
        temporary.write_bytes(_MAGIC + runs)
        os.replace(temporary, folder / USES_NAME)
        self.changed = False

    def _runs(self, held: Bitfield) -> Iterator[tuple[int, int, int]]:
        for first, stop in held.runs():
            for second, same in groupby(when // SECOND for when in self._times(first, stop)):
                after = first + sum(1 for _ in same)
                yield first, after, second
                first = after


def _runs_in(path: Path) -> Iterator[tuple[int, int, int]]:
    try:
        if path.stat().st_size > _MOST_BYTES:
            return
        data = path.read_bytes()
    except OSError:
        return
    if not data.startswith(_MAGIC) or (len(data) - len(_MAGIC)) % _RUN.size:
        return
    past = 0
    for first, stop, second in _RUN.iter_unpack(data[len(_MAGIC) :]):
        if not past <= first < stop <= 1 << 28 or second >= 1 << 40:
            return
        past = stop
        yield first, stop, second
