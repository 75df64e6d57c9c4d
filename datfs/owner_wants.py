"""What readers of this process need and nobody brings: the process that has the cache is asked to fetch it.

:class:`OwnerWants` is a source of chunks: the peers, of which the owner is one, and behind them its status socket, at
which chunks are ordered (:mod:`datfs.orders`). What the owner gets it announces as any peer does.

Owns what was ordered and when, and nothing of what is wanted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import trio

from datfs.bitfield import Bitfield
from datfs.errors import CacheFull, DatfsError, NoPeers, Unavailable
from datfs.holdings import lost_among
from datfs.local_service import Place, ask
from datfs.orders import CHUNK_NUMBERS, CHUNKS_MOST
from datfs.sparse import ChunkSource, SparseRegister
from datfs.wants import Urgency

AT_ONCE = 256  # ranges of one question
LOOK = 0.1  # seconds between two looks at what is needed; besides whenever something more is
MOMENT = 0.2  # seconds for peers of our own to be there and tell what they have
RENEW = 2.0  # seconds after which what did not come is ordered again: less than an order is good for
LOST_SECONDS = 5.0  # for which we believe the owner that nobody has a chunk

Ranges = list[tuple[int, int]]


async def order(
    place: Place, register: str, ranges: Ranges, *, look: bool = False, soon: bool = False
) -> tuple[Ranges, dict[str, Any]]:
    """Has chunks of "metadata" or "content" fetched by the owner, or only looks: which it lacks, and its whole answer.

    ``ranges``: :data:`AT_ONCE` of them at most. ``soon``: a program waits for them. Raises Unavailable if the owner
    does not answer, DatfsError if it cannot tell.
    """
    try:
        chunks = [list(one) for one in ranges]
        answer = await ask(place, "fetch", register=register, chunks=chunks, look=look, soon=soon)
        if "error" in answer:
            raise DatfsError(f"the process that has the drive open: {answer['error']}")
        answer["lost"] = [int(index) for index in answer["lost"]]
        return [(int(first), int(stop)) for first, stop in answer["missing"]], answer
    except (OSError, trio.TooSlowError, trio.BrokenResourceError, ValueError, KeyError, TypeError) as error:
        raise Unavailable(f"the process that has the drive open does not answer: {error}") from None


def ranges_of(indices: Iterable[int]) -> Ranges:
    """Chunk numbers, ascending, as ranges."""
    ranges: Ranges = []
    for index in indices:
        if ranges and ranges[-1][1] == index:
            ranges[-1] = (ranges[-1][0], index + 1)
        else:
            ranges.append((index, index + 1))
    return ranges


@dataclass(slots=True)
class _Ordered:
    """Of one register, by chunk: since when nobody has been there to bring it, when it was ordered, until when lost."""

    since: dict[int, float] = field(default_factory=dict)
    when: dict[int, float] = field(default_factory=dict)
    lost: dict[int, float] = field(default_factory=dict)


class OwnerWants:
    """``peers``: the source that knows who is connected. ``place``: where the owner answers questions.

    ``offline``: nothing is ordered, as nothing may be fetched because of us; readers of what neither we nor the owner
    have are told at once.
    """

    def __init__(self, peers: ChunkSource, place: Place, *, offline: bool) -> None:
        self._peers = peers
        self.place = place
        self._offline = offline
        self._registers: dict[SparseRegister, _Ordered] = {}
        self._changed = trio.Event()

    # -- ChunkSource

    def wants_changed(self, register: SparseRegister) -> None:
        """Peers are asked first; what none of them has is ordered soon."""
        self._registers.setdefault(register, _Ordered())
        self._peers.wants_changed(register)
        self._changed.set()

    def hopeless(self, register: SparseRegister) -> DatfsError | None:
        """As the peers have it: the owner is one of them."""
        return self._peers.hopeless(register)

    def undecided(self, register: SparseRegister) -> bool:
        """As the peers have it."""
        return self._peers.undecided(register)

    def held_by_peers(self, register: SparseRegister) -> Sequence[Bitfield]:
        """As the peers have it."""
        return self._peers.held_by_peers(register)

    def all_told(self, register: SparseRegister, stop: int) -> bool:
        """Besides the owner must have told that nobody whom it could ask has the last of these chunks."""
        if not self._peers.all_told(register, stop):
            return False
        ordered = self._registers.get(register)
        return self._offline or (ordered is not None and trio.current_time() < ordered.lost.get(stop - 1, 0.0))

    # -- ordering

    async def run(self) -> None:
        """Orders what is needed, or lets readers go, until cancelled."""
        while True:
            with trio.move_on_after(LOOK):
                await self._changed.wait()
            self._changed = trio.Event()
            for register, ordered in list(self._registers.items()):
                await self._look(register, ordered)

    async def _look(self, register: SparseRegister, ordered: _Ordered) -> None:
        now = trio.current_time()
        nowhere = self._nowhere(register, Urgency.NOW)
        ordered.since = {index: ordered.since.get(index, now) for index in nowhere}
        if not nowhere:
            return
        lost = set(lost_among(register, nowhere, self._peers))
        if self._offline:
            for index in lost:
                why = "neither here nor at the process that has the drive open, and we are offline (--offline)"
                register.fail_one(index, partial(NoPeers, f"{register.name} chunk {index} is {why}"))
            return
        # While the owner brings things there is no use in waiting for others before each of them.
        brings = any(now - when < RENEW for when in ordered.when.values())
        due = [
            index
            for index in nowhere
            if now - ordered.when.get(index, -math.inf) >= RENEW
            and (brings or index in lost or now - ordered.since[index] >= MOMENT)
        ]
        if due:
            await self._order(register, ordered, due)

    def _nowhere(self, register: SparseRegister, urgency: Urgency) -> list[int]:
        """What is wanted, was not asked of anybody, and nobody has who is connected."""
        wanted = [index for index in register.wants.unasked(urgency) if index < CHUNK_NUMBERS]
        held = self._peers.held_by_peers(register) if wanted else ()
        return [index for index in wanted if not any(bits.get(index) for bits in held)]

    async def _order(self, register: SparseRegister, ordered: _Ordered, due: list[int]) -> None:
        now = trio.current_time()
        ranges = ranges_of(due[:CHUNKS_MOST])[:AT_ONCE]
        asked = {index for first, stop in ranges for index in range(first, stop)}
        again = asked & ordered.when.keys()
        ordered.when = {index: when for index, when in ordered.when.items() if now - when < 2 * RENEW}
        ordered.when.update(dict.fromkeys(asked, now))
        ordered.lost = {index: until for index, until in ordered.lost.items() if now < until}
        if len(asked) < len(due):
            self._changed.set()  # the rest comes next
        ahead = ranges_of(self._nowhere(register, Urgency.SOON))  # readers need these next
        try:
            missing, answer = await order(self.place, register.name, [*ranges, *ahead][:AT_ONCE], soon=True)
        except DatfsError:
            return  # it ended, hangs, or has not read its header yet; perhaps others come who have them
        ordered.lost.update(dict.fromkeys(answer["lost"], now + LOST_SECONDS))
        lacks = {index for first, stop in missing for index in range(first, stop)} & asked
        if answer["hopeless"] is not None:
            self._give_up(register, ordered, lacks, NoPeers, str(answer["hopeless"]))
        elif answer["full"]:  # perhaps not for long
            self._give_up(register, ordered, lacks & again, CacheFull, "its cache has no room within --cache-size")

    def _give_up(
        self, register: SparseRegister, ordered: _Ordered, lacks: set[int], kind: type[DatfsError], reason: str
    ) -> None:
        for index in lost_among(register, sorted(lacks), self._peers):
            if register.is_waited_for(index):
                why = f"the process that has the drive open does not get it: {reason}"
                register.fail_one(index, partial(kind, f"{register.name} chunk {index} is not here, and {why}"))
                del ordered.when[index]  # the next reader asks anew
