"""The states of a connection (wire.md sections 1, 3 and 4).

Owns what may follow what, in each direction; :mod:`datfs.net.connection` does it. Each direction has its own
machine. The tables below are the authority, the drawing is for people::

    receiving
                                          ┌─────┐ FEED,          ┌─────┐ FEED, MESSAGE,
    ┌───────┐ FEED ┌────────┐ KEY ┌───────┴──┐  │ MESSAGE  ┌─────┴┐    │ HANDSHAKE
    │ FRESH ├─────►│ SEALED ├────►│ GREETING │◄─┘          │ OPEN │◄───┘
    └───┬───┘      └───┬────┘     │          ├────────────►│      │
        │              │          └────┬─────┘  HANDSHAKE  └──┬───┘
        │ END          │ END           │ END                  │ END     ┌──────┐
        └──────────────┴───────────────┴──────────────────────┴────────►│ OVER │
                                                                        └──────┘
    sending
                      ┌─────┐ FEED, MESSAGE,
    ┌───────┐ FEED ┌──┴───┐ │ KEEP_ALIVE
    │ FRESH ├─────►│ OPEN │◄┘
    └───┬───┘      └──┬───┘
        │ END         │ END     ┌──────┐
        └─────────────┴────────►│ OVER │
                                └──────┘

* FRESH: the first frame comes in the clear. It must be a Feed; only keep-alives may come before it.
* SEALED: what follows is encrypted with a key that we have not been told yet. An acceptor is asked for it by
  :class:`KeyNeeded`; a connection that was made with a key does not stay here.
* GREETING: encrypted. Handshake is due but other messages are accepted, as the reference does.
* OVER: the end of the stream, or a mistake of the peer. Both directions go there together after a mistake.
"""

from __future__ import annotations

import enum


class Receiving(enum.Enum):
    """Where the peer's direction is."""

    FRESH = enum.auto()
    SEALED = enum.auto()
    GREETING = enum.auto()
    OPEN = enum.auto()
    OVER = enum.auto()


class Sending(enum.Enum):
    """Where our direction is."""

    FRESH = enum.auto()
    OPEN = enum.auto()
    OVER = enum.auto()


class Step(enum.Enum):
    """What moves either machine."""

    FEED = enum.auto()
    KEY = enum.auto()
    HANDSHAKE = enum.auto()
    MESSAGE = enum.auto()
    KEEP_ALIVE = enum.auto()
    END = enum.auto()


RECEIVING = {
    (Receiving.FRESH, Step.FEED): Receiving.SEALED,
    (Receiving.FRESH, Step.END): Receiving.OVER,
    (Receiving.SEALED, Step.KEY): Receiving.GREETING,
    (Receiving.SEALED, Step.END): Receiving.OVER,
    (Receiving.GREETING, Step.FEED): Receiving.GREETING,
    (Receiving.GREETING, Step.MESSAGE): Receiving.GREETING,
    (Receiving.GREETING, Step.HANDSHAKE): Receiving.OPEN,
    (Receiving.GREETING, Step.END): Receiving.OVER,
    (Receiving.OPEN, Step.FEED): Receiving.OPEN,
    (Receiving.OPEN, Step.MESSAGE): Receiving.OPEN,
    (Receiving.OPEN, Step.HANDSHAKE): Receiving.OPEN,
    (Receiving.OPEN, Step.END): Receiving.OVER,
}

SENDING = {
    (Sending.FRESH, Step.FEED): Sending.OPEN,
    (Sending.FRESH, Step.END): Sending.OVER,
    (Sending.OPEN, Step.FEED): Sending.OPEN,
    (Sending.OPEN, Step.MESSAGE): Sending.OPEN,
    (Sending.OPEN, Step.KEEP_ALIVE): Sending.OPEN,
    (Sending.OPEN, Step.END): Sending.OVER,
}
