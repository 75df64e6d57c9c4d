"""Which peer is asked for what is newly wanted: the one that should have it here first. Pure.

Owns nothing; what a peer is expected to need, :class:`datfs.net.replication.PeerState` knows.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from datfs.net.replication import PeerState

Pace = tuple[float, float]
"""Seconds of the quickest answer, and seconds from one answer to the next while there is a queue."""

UNKNOWN: Pace = (0.0, 1.0)
"""Of everybody, while nobody has answered yet: then it only matters who has the shorter queue."""


def ask_in_turn(peers: Sequence[PeerState], now: float) -> None:
    """Queues requests for what is wanted, chunk by chunk, each at the peer that should bring it first.

    A peer that has not answered yet is taken for an average one: it is tried once the quick ones have something to do.
    """
    if len(peers) == 1:
        peers[0].refill(now)
        return
    known = [peer.pace for peer in peers if peer.pace is not None]
    average = (_mean([first for first, _ in known]), _mean([next_ for _, next_ in known])) if known else UNKNOWN
    paces = [peer.pace or average for peer in peers]
    line = [
        (first + peer.in_flight * next_, number)
        for number, (peer, (first, next_)) in enumerate(zip(peers, paces, strict=True))
    ]
    heapq.heapify(line)
    while line:
        seconds, number = line[0]
        before = peers[number].in_flight
        peers[number].refill(now, most=1)
        more = peers[number].in_flight - before
        if more:
            heapq.heapreplace(line, (seconds + more * paces[number][1], number))
        else:
            heapq.heappop(line)  # it has no room, or nothing of what is left to ask for


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
