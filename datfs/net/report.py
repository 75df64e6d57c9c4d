"""What a swarm tells of itself: facts of one moment, for people and programs. Pure values, made by ``Swarm.report()``.

Nothing here can be used to change anything, so it may be kept, compared and sent elsewhere.
"""

from __future__ import annotations

import enum
from collections.abc import Collection
from dataclasses import dataclass

from datfs.bitfield import Bitfield
from datfs.net.address_states import AddressState
from datfs.net.replication import PeerState
from datfs.net.traffic import NO_TRAFFIC, Traffic

INBOUND = "inbound"
"""The source of peers that connected to us."""


class Direction(enum.Enum):
    """Who made a connection."""

    IN = "in"  # the peer
    OUT = "out"  # we


@dataclass(frozen=True, slots=True)
class HeldReport:
    """What a peer has of one register, as far as it told.

    ``register``: "metadata" or "content". ``length``: chunks that it claims to know of. ``chunks``: how many of them
    it holds. ``in_flight``: requests of ours that it has not answered yet.
    """

    register: str
    length: int
    chunks: int
    in_flight: int


@dataclass(frozen=True, slots=True)
class Holder:
    """A connected peer and one register: the chunks it told of, and those it was asked for. To look at, not to keep.

    ``waiting``: seconds since the oldest request that it has not answered, None if there is none. ``late``: what it was
    asked for, and was given up. ``error``: why the last connection to it ended, empty if none did.
    """

    address: str
    held: Bitfield
    asked: Collection[int]
    waiting: float | None
    late: Collection[int]
    error: str


@dataclass(frozen=True, slots=True)
class PeerReport:
    """An address, and the connection to it if there is one; or a peer that connected to us.

    ``address``: ``host:port``. ``source``: the name of the way by which it was found (``given``: by hand), or
    :data:`INBOUND`. ``error``: why it could not be reached or the last connection ended, empty if neither happened.
    ``next_try``: seconds until it is dialed, None if it is not going to be. ``connected``: seconds since it is, None
    if it is not. ``worked``: whether anything that verified came from it in this run.
    """

    address: str
    source: str
    direction: Direction
    state: AddressState
    error: str = ""
    next_try: float | None = None
    connected: float | None = None
    worked: bool = False
    traffic: Traffic = NO_TRAFFIC
    held: tuple[HeldReport, ...] = ()


@dataclass(frozen=True, slots=True)
class WayReport:
    """A way of finding peers. ``problem``: why it finds nothing just now, None if it works.

    ``found``: how many of the addresses that are known it named first.
    """

    name: str
    problem: str | None
    found: int


@dataclass(frozen=True, slots=True)
class SwarmReport:
    """All of a drive's peers at one moment. ``listening``: our own addresses that peers may dial.

    ``up_limit``, ``down_limit``: bytes per second, None without a limit. ``traffic``: of all connections since the
    start, those that ended included.
    """

    peers: tuple[PeerReport, ...] = ()
    ways: tuple[WayReport, ...] = ()
    listening: tuple[str, ...] = ()
    up_limit: int | None = None
    down_limit: int | None = None
    traffic: Traffic = NO_TRAFFIC

    @property
    def connected(self) -> tuple[PeerReport, ...]:
        """Those that are connected."""
        return tuple(peer for peer in self.peers if peer.connected is not None)


def held_by(download: PeerState) -> HeldReport:
    """What the peer of one channel has."""
    held = download.held
    return HeldReport(download.register.name, download.length, held.count(0, len(held)), download.in_flight)
