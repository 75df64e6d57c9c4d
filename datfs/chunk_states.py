"""The states of a chunk of a register that lacks some.

Owns what may follow what; :class:`datfs.wants.Wants` does it, with sets and dictionaries instead of a state
for each chunk: what it holds are a million bits, what it lacks and nobody wants is nowhere. Pure. The table is the
authority, the drawing is for people::

    ┌────────┐   WANT   ┌────────┐   ASK    ┌───────────┐  REFUSE  ┌─────────┐
    │ ABSENT ├─────────►│ WANTED ├─────────►│ IN_FLIGHT ├─────────►│ REFUSED ├─ RETRY ─► WANTED
    │        │◄─────────┤        │◄─────────┤           │          │         │
    └─┬────▲─┘   DROP   └────────┘ RELEASE  └──┬─────▲──┘          └──┬───▲──┘
      │    │                              DROP │     │ WANT      DROP │   │ WANT
      │    │             RELEASE            ┌──▼─────┴──┐  REFUSE  ┌──▼───┴──┐
      │    └────────────────────────────────┤ UNWANTED  ├─────────►│ SHELVED ├─ RETRY ─► ABSENT
      └────────────────────────────────────►│           │          │         │
                     ASK                    └───────────┘          └─────────┘

    STORE leads from all of them to HELD, where a chunk stays. REFUSE leads also from ABSENT to SHELVED and
    from WANTED to REFUSED: an answer came that nobody counted on any more.

A chunk is asked of one peer at a time: while IN_FLIGHT or UNWANTED it belongs to that one's requests. What the disk
refused is not asked for again before somebody new needs it or the disk takes another chunk: it would be fetched again
and again.
"""

from __future__ import annotations

import enum


class ChunkState(enum.Enum):
    """Where a chunk is in its life."""

    ABSENT = "absent"  # not here, and nobody wants it
    WANTED = "wanted"  # goes to the next peer that has it and has room
    IN_FLIGHT = "in flight"  # asked of a peer
    UNWANTED = "unwanted"  # asked of a peer, to learn the length or for somebody who does not want it any more
    REFUSED = "refused"  # wanted, came, and the disk did not take it
    SHELVED = "shelved"  # the same, and nobody wants it any more
    HELD = "held"


class ChunkEvent(enum.Enum):
    """What happens to a chunk."""

    WANT = enum.auto()  # by the first one
    DROP = enum.auto()  # by the last one
    ASK = enum.auto()
    RELEASE = enum.auto()  # the peer was late, denied it, sent something else or is gone
    STORE = enum.auto()  # verified and written, or our own writer made it
    REFUSE = enum.auto()  # verified, and the disk is full or broken
    RETRY = enum.auto()  # somebody new needs it, or the disk took another chunk


CHUNK = {
    (ChunkState.ABSENT, ChunkEvent.WANT): ChunkState.WANTED,
    (ChunkState.ABSENT, ChunkEvent.ASK): ChunkState.UNWANTED,
    (ChunkState.ABSENT, ChunkEvent.REFUSE): ChunkState.SHELVED,
    (ChunkState.ABSENT, ChunkEvent.STORE): ChunkState.HELD,
    (ChunkState.WANTED, ChunkEvent.DROP): ChunkState.ABSENT,
    (ChunkState.WANTED, ChunkEvent.ASK): ChunkState.IN_FLIGHT,
    (ChunkState.WANTED, ChunkEvent.REFUSE): ChunkState.REFUSED,
    (ChunkState.WANTED, ChunkEvent.STORE): ChunkState.HELD,
    (ChunkState.IN_FLIGHT, ChunkEvent.DROP): ChunkState.UNWANTED,
    (ChunkState.IN_FLIGHT, ChunkEvent.RELEASE): ChunkState.WANTED,
    (ChunkState.IN_FLIGHT, ChunkEvent.REFUSE): ChunkState.REFUSED,
    (ChunkState.IN_FLIGHT, ChunkEvent.STORE): ChunkState.HELD,
    (ChunkState.UNWANTED, ChunkEvent.WANT): ChunkState.IN_FLIGHT,
    (ChunkState.UNWANTED, ChunkEvent.RELEASE): ChunkState.ABSENT,
    (ChunkState.UNWANTED, ChunkEvent.REFUSE): ChunkState.SHELVED,
    (ChunkState.UNWANTED, ChunkEvent.STORE): ChunkState.HELD,
    (ChunkState.REFUSED, ChunkEvent.DROP): ChunkState.SHELVED,
    (ChunkState.REFUSED, ChunkEvent.RETRY): ChunkState.WANTED,
    (ChunkState.REFUSED, ChunkEvent.STORE): ChunkState.HELD,
    (ChunkState.SHELVED, ChunkEvent.WANT): ChunkState.REFUSED,
    (ChunkState.SHELVED, ChunkEvent.RETRY): ChunkState.ABSENT,
    (ChunkState.SHELVED, ChunkEvent.STORE): ChunkState.HELD,
}
"""What is not here cannot happen, or changes nothing."""
