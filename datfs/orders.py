"""What other programs of this machine may have the owner of a store do: fetch chunks in advance, and make room.

The owner's side of two questions at its socket (docs/json.md, "Status"). An order to fetch is good for
:data:`ORDER_SECONDS`: whoever still wants it says so again, so that nothing is fetched for a program that has gone.
Who asks is :mod:`datfs.prefetch_owner`, for a person, and :mod:`datfs.owner_wants`, for readers of another process.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import trio

from datfs.cache_limit import CacheKeeper
from datfs.drive import Drive
from datfs.errors import FormatError, NotFound
from datfs.holdings import lost_among
from datfs.sparse import SparseRegister
from datfs.wants import Urgency

ORDER_SECONDS = 10.0
CHUNKS_MOST = 1024  # of one order to fetch
RANGES_MOST = 1000  # of one question
CHUNK_NUMBERS = 1 << 28  # that can be asked about
TICK = 1.0

Answer = dict[str, Any]


class Orders:
    """For one open drive. ``keeper``: None if the store is not one of the cache."""

    def __init__(self, drive: Drive, keeper: CacheKeeper | None) -> None:
        self._drive = drive
        self._keeper = keeper
        self._open: list[tuple[float, SparseRegister, list[int], Urgency]] = []

    def questions(self) -> dict[str, Callable[[Answer], Answer]]:
        """What can be asked, by its name."""
        return {"fetch": self.fetch, "prune": self.prune}

    def fetch(self, asked: Answer) -> Answer:
        """Which of ``chunks`` (ranges) of ``register`` are missing; the first 1,024 are fetched unless ``look``.

        Raises FormatError for a question that is none, NotFound while nothing of the content is known.
        """
        register = self._register(asked.get("register", "content"))
        missing: list[list[int]] = []
        for first, stop in _ranges(asked.get("chunks")):
            held = register.register.data_bits
            while (begin := held.next_clear(first, stop)) is not None and len(missing) < RANGES_MOST:
                first = held.next_set(begin, stop) or stop
                missing.append([begin, first])
        wanted: list[int] = []
        if missing and not asked.get("look"):
            for first, stop in missing:
                wanted += range(first, min(stop, first + CHUNKS_MOST - len(wanted)))
            # A program that waits comes before what a person has fetched in advance, and behind the owner's readers.
            self._order(register, wanted, Urgency.SOON if asked.get("soon") else Urgency.LATER)
        hopeless = register.hopeless() if missing else None
        return {
            "missing": missing,
            "lost": lost_among(register, wanted, register.source),
            "full": register.cramped,
            "hopeless": None if hopeless is None else str(hopeless),
        }

    def _register(self, name: object) -> SparseRegister:
        if name == "metadata":
            return self._drive.metadata
        if name != "content":
            raise FormatError("'fetch' needs a register: metadata or content")
        if self._drive.content is None:
            raise NotFound("the drive's header is not here yet, so nothing is known of its files")
        return self._drive.content

    def _order(self, register: SparseRegister, wanted: list[int], urgency: Urgency) -> None:
        register.want(wanted, urgency)
        self._open.append((trio.current_time() + ORDER_SECONDS, register, wanted, urgency))
        register.source.wants_changed(register)

    def prune(self, asked: Answer) -> Answer:
        """Gives up chunks of files until ``bytes`` are free, as far as may be. Raises FormatError."""
        need = asked.get("bytes")
        if not isinstance(need, int) or need < 0:
            raise FormatError("'prune' needs bytes: a number")
        return {"freed": self._keeper.prune(need) if self._keeper is not None else 0}

    async def run(self) -> None:
        """Takes back orders that were not renewed, until cancelled."""
        while True:
            await trio.sleep(TICK)
            while self._open and self._open[0][0] <= trio.current_time():
                _, register, wanted, urgency = self._open.pop(0)
                register.drop(wanted, urgency)


def _ranges(value: Any) -> list[tuple[int, int]]:
    if not isinstance(value, list) or len(value) > RANGES_MOST:
        raise FormatError(f"'fetch' needs chunks: at most {RANGES_MOST} of [first, stop]")
    for one in value:
        if not (isinstance(one, list) and len(one) == 2 and all(type(end) is int for end in one)):
            raise FormatError("'fetch' needs chunks: each of them [first, stop]")
        if not 0 <= one[0] <= one[1] <= CHUNK_NUMBERS:
            raise FormatError(f"{one} are no chunks")
    return [(first, stop) for first, stop in value]
