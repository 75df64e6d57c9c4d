"""The states of one register on one connection, as the side that downloads.

Owns what may follow what; :class:`datfs.net.replication.PeerState` does it. Pure. The table is the authority, the
drawing is for people::

        ┌─────┐ START ┌───────────┐ TELL ┌──────┐   ASK   ┌──────┐
    ───►│ NEW ├──────►│ LISTENING ├─────►│ IDLE ├────────►│ BUSY │
        └─────┘       └───────────┘      │      │◄────────┤      │
                                         └──▲───┘  EMPTY  └┬───▲─┘
                                    FORGIVE │         LATE │   │ FORGIVE
                                         ┌──┴────┐  ASK   ┌▼───┴──┐
                                         │ OWING ├───────►│ TRIED │
                                         │       │◄───────┤       │
                                         └───────┘ EMPTY  └───────┘

    CLOSE leads from all of them to CLOSED.

A peer that owes answers is asked for nothing while there are others; the only one is tried again.
"""

from __future__ import annotations

import enum


class PeerStage(enum.Enum):
    """How far a peer is, and how well it does."""

    NEW = "new"  # the handshake is still to come
    LISTENING = "listening"  # we asked what it has, and know of nothing yet
    IDLE = "idle"  # nothing is asked of it
    BUSY = "busy"  # requests wait for their answers
    OWING = "owing"  # it was late, and nothing more is asked of it
    TRIED = "tried"  # it was late, and requests wait for their answers nevertheless
    CLOSED = "closed"


class PeerEvent(enum.Enum):
    """What happens between us and a peer."""

    START = enum.auto()
    TELL = enum.auto()  # the answer to our Want, or the first chunk that it announces
    ASK = enum.auto()  # a request goes out
    EMPTY = enum.auto()  # the last request was answered, denied, or given up
    LATE = enum.auto()  # requests were given up
    FORGIVE = enum.auto()  # an answer came, or it was left alone for long enough
    CLOSE = enum.auto()  # the connection is gone


PEER = {
    (PeerStage.NEW, PeerEvent.START): PeerStage.LISTENING,
    (PeerStage.NEW, PeerEvent.CLOSE): PeerStage.CLOSED,
    (PeerStage.LISTENING, PeerEvent.TELL): PeerStage.IDLE,
    (PeerStage.LISTENING, PeerEvent.CLOSE): PeerStage.CLOSED,
    (PeerStage.IDLE, PeerEvent.ASK): PeerStage.BUSY,
    (PeerStage.IDLE, PeerEvent.CLOSE): PeerStage.CLOSED,
    (PeerStage.BUSY, PeerEvent.EMPTY): PeerStage.IDLE,
    (PeerStage.BUSY, PeerEvent.LATE): PeerStage.TRIED,
    (PeerStage.BUSY, PeerEvent.CLOSE): PeerStage.CLOSED,
    (PeerStage.TRIED, PeerEvent.EMPTY): PeerStage.OWING,
    (PeerStage.TRIED, PeerEvent.FORGIVE): PeerStage.BUSY,
    (PeerStage.TRIED, PeerEvent.CLOSE): PeerStage.CLOSED,
    (PeerStage.OWING, PeerEvent.ASK): PeerStage.TRIED,
    (PeerStage.OWING, PeerEvent.FORGIVE): PeerStage.IDLE,
    (PeerStage.OWING, PeerEvent.CLOSE): PeerStage.CLOSED,
}
"""What is not here cannot happen, or changes nothing."""
