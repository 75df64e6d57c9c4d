"""What is wanted of one register and asked for: the scheduler, as a machine without clock, tasks or peers.

Owns the want list (index → urgency, counted), what was asked of somebody and has not come, and what the disk refused.
Who waits for a chunk, and what arrives, is :class:`datfs.sparse.SparseRegister`'s; who is asked,
:mod:`datfs.net.turns`'s.
What a chunk goes through is the table of :mod:`datfs.chunk_states`. Pure.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence

from datfs.bitfield import Bitfield
from datfs.chunk_states import ChunkState

Refusal = Callable[[], Exception]
"""Makes the exception that tells a reader why the disk did not take a chunk."""


class Urgency(enum.IntEnum):
    """How soon a chunk is needed; lower values are asked for first."""

    NOW = 0  # a reader waits for it
    SOON = 1  # read-ahead of a sequential reader
    LATER = 2  # asked for in advance by a person or a command
    BACKGROUND = 3  # a whole drive that is to be here some day


BLOCK = 1024  # chunks that are passed over at once if a peer has none of them


class _Open:
    """Chunks that may be asked for now, in the order in which they came to be, roughly: block by block."""

    def __init__(self) -> None:
        self._blocks: dict[int, dict[int, None]] = {}

    def add(self, index: int) -> None:
        self._blocks.setdefault(index // BLOCK, {})[index] = None

    def discard(self, index: int) -> None:
        number = index // BLOCK
        block = self._blocks.get(number)
        if block is not None:
            block.pop(index, None)
            if not block:
                del self._blocks[number]

    def __bool__(self) -> bool:
        return bool(self._blocks)

    def __iter__(self) -> Iterator[int]:
        return (index for block in self._blocks.values() for index in block)

    @property
    def blocks(self) -> Iterable[int]:
        """The numbers of the blocks in which there are some."""
        return self._blocks.keys()

    def held_by(self, held: Bitfield) -> Iterator[int]:
        """Those that ``held`` has. A whole drive may be wanted, of which a peer has a part."""
        for number, block in self._blocks.items():
            if len(block) == 1 or held.any_set(number * BLOCK, (number + 1) * BLOCK):
                yield from filter(held.get, block)


class Wants:
    """``has``: whether a chunk is held. After it changed, call :meth:`settle`."""

    def __init__(self, has: Callable[[int], bool]) -> None:
        self._has = has
        self._levels: tuple[dict[int, int], ...] = tuple({} for _ in Urgency)
        # What of each level may be asked for now: neither held nor in flight nor refused. Kept apart so that the
        # choice of the next request does not go through all that was wanted at once.
        self._open = tuple(_Open() for _ in Urgency)
        self._in_flight: set[int] = set()
        self._refused: dict[int, Refusal] = {}

    # -- what readers want

    def add(self, indices: Iterable[int], urgency: Urgency) -> None:
        """Counts a want for each index. Undone by :meth:`drop`."""
        level, is_open = self._levels[urgency], self._open[urgency]
        for index in indices:
            level[index] = level.get(index, 0) + 1
            if self._may_be_asked(index):
                is_open.add(index)

    def drop(self, indices: Iterable[int], urgency: Urgency) -> None:
        """Takes back what :meth:`add` counted."""
        level = self._levels[urgency]
        for index in indices:
            left = level[index] - 1
            if left:
                level[index] = left
            else:
                del level[index]
                self._open[urgency].discard(index)

    def __iter__(self) -> Iterator[int]:
        """The indices that are wanted, most urgent first, each once."""
        return iter(dict.fromkeys(index for level in self._levels for index in level))

    def __len__(self) -> int:
        """How many different chunks are wanted."""
        return len(set().union(*self._levels))

    def count(self, urgency: Urgency) -> int:
        """How many different chunks are wanted with this urgency, held ones not counted."""
        return sum(not self._has(index) for index in self._levels[urgency])

    @property
    def needed(self) -> list[int]:
        """The chunks that readers need now, though they may wait for others first; ascending, none of them here."""
        return sorted(index for index in self._levels[Urgency.NOW] if not self._has(index))

    @property
    def urgent(self) -> bool:
        """Whether a chunk that a reader waits for has not been asked for yet."""
        return bool(self._open[Urgency.NOW])

    def unasked(self, urgency: Urgency) -> list[int]:
        """What is wanted with this urgency and nobody was asked for, though somebody may be; ascending."""
        return sorted(self._open[urgency])

    def places(self, size: int) -> Iterable[int]:
        """In which parts of ``size`` chunks, a multiple of :data:`BLOCK`, some may be asked for; most urgent first."""
        return dict.fromkeys(number * BLOCK // size for is_open in self._open for number in is_open.blocks)

    def state_of(self, index: int) -> ChunkState:
        """Where a chunk is in its life (:mod:`datfs.chunk_states`)."""
        wanted = any(index in level for level in self._levels)
        if self._has(index):
            return ChunkState.HELD
        if index in self._refused:
            return ChunkState.REFUSED if wanted else ChunkState.SHELVED
        if index in self._in_flight:
            return ChunkState.IN_FLIGHT if wanted else ChunkState.UNWANTED
        return ChunkState.WANTED if wanted else ChunkState.ABSENT

    # -- what somebody is asked for

    @property
    def in_flight(self) -> Collection[int]:
        """The chunks that somebody was asked for and has not sent yet."""
        return self._in_flight

    def take(self, held: Bitfield, limit: int, *, only_now: bool, among: Container[int] | None = None) -> list[int]:
        """Up to ``limit`` wanted chunks that ``held`` has and nobody was asked for yet; they are in flight from now on.

        Each must end in :meth:`release`, :meth:`refuse`, or be held when :meth:`settle` is called. ``only_now``: leave
        what is not urgent. ``among``: leave everything else.
        """
        chosen: list[int] = []
        for is_open in self._open[:1] if only_now else self._open:
            for index in is_open.held_by(held):
                if among is None or index in among:
                    chosen.append(index)
                    if len(chosen) == limit:
                        break
            for index in chosen:
                self._take(index)
            if len(chosen) == limit:
                break
        return chosen

    def take_one(self, index: int) -> bool:
        """The same for one chunk that need not be wanted. False if it is held, in flight or refused."""
        if not self._may_be_asked(index):
            return False
        self._take(index)
        return True

    def release(self, indices: Iterable[int]) -> None:
        """They will not come from where they were asked for, and may be asked for again."""
        for index in indices:
            if index in self._in_flight:
                self.settle(index)

    def settle(self, index: int) -> None:
        """It came, or is gone, or nobody brings it: puts the chunk into, or takes it out of, what may be asked for."""
        self._in_flight.discard(index)
        may = self._may_be_asked(index)
        for level, is_open in zip(self._levels, self._open, strict=True):
            if may and index in level:
                is_open.add(index)
            else:
                is_open.discard(index)

    def cleared(self, ranges: Sequence[tuple[int, int]]) -> bool:
        """Chunks ``first .. stop-1`` are not held any more. Whether one of them is needed now.

        What is wanted ahead only is not asked for again: it would be fetched and cleared in turns.
        """
        needed = [index for index in self._levels[Urgency.NOW] if any(first <= index < stop for first, stop in ranges)]
        for index in filter(self._may_be_asked, needed):
            self._open[Urgency.NOW].add(index)
        return bool(needed)

    # -- what the disk refused

    def refuse(self, index: int, why: Refusal) -> None:
        """It came, and the disk did not take it: not asked for again before :meth:`retry`."""
        self._refused[index] = why
        self.settle(index)

    def retry(self, indices: Iterable[int]) -> None:
        """Chunks that the disk refused may be asked for again."""
        for index in list(indices):
            if self._refused.pop(index, None) is not None:
                self.settle(index)

    @property
    def refused(self) -> Mapping[int, Refusal]:
        """What the disk refused, and why."""
        return self._refused

    def _may_be_asked(self, index: int) -> bool:
        return index not in self._in_flight and index not in self._refused and not self._has(index)

    def _take(self, index: int) -> None:
        self._in_flight.add(index)
        for is_open in self._open:
            is_open.discard(index)
