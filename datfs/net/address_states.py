"""The states of an address where a peer may be.

Owns what may follow what; :mod:`datfs.net.address_book` keeps the addresses, :mod:`datfs.net.dialer` dials them. Pure.
The table is the authority, the drawing is for people::

        ┌─────┐ DIAL  ┌─────────┐ CONNECT  ┌───────────┐   LIE   ┌────────┐
    ───►│ NEW ├──────►│ DIALING ├─────────►│ CONNECTED ├────────►│ BANNED │
        └▲─▲─▲┘       └▲─▲────┬─┘          └─┬─┬─┬─┬───┘         └────────┘
         │ │ │ DROP    │ │    │              │ │ │ │       ECHO  ┌───────────┐
         │ │ └─────────│─│────│──────────────┘ │ │ └────────────►│ OURSELVES │
         │ │           │ │    │ FAIL           │ │               └───────────┘
         │ │      DIAL │ │ ┌──▼──────┐ RETREAT │ │        FORGET ┌───────────┐
         │ │           │ └─┤ RESTING │◄────────┘ │     ┌────────►│ FORGOTTEN │
         │ └───────────│───┤         ├───────────│─────┤         └───────────┘
         │  WANT, FIND │   └─────────┘           │     │
         │        DIAL │   ┌───────────┐ DOUBLE  │     │
         │             └───┤ ELSEWHERE │◄────────┘     │
         └─────────────────┤           ├───────────────┘
              FREE         └───────────┘

A connection's end is DROP if it had brought something (it is dialed again at once), DOUBLE if there is another one to
the same peer, ECHO if the peer is this program, LIE if what it sent did not verify, else RETREAT.
"""

from __future__ import annotations

import enum


class AddressState(enum.Enum):
    """Where an address is in its life."""

    NEW = "new"  # to be dialed as soon as there is room
    DIALING = "dialing"
    CONNECTED = "connected"
    RESTING = "resting"  # it failed, and is dialed again later
    ELSEWHERE = "elsewhere"  # the peer behind it is connected by another way
    OURSELVES = "ourselves"  # never dialed again
    BANNED = "banned"  # never dialed again
    FORGOTTEN = "forgotten"  # may come in again as a new one


class AddressEvent(enum.Enum):
    """What happens to an address."""

    DIAL = enum.auto()  # it is its turn
    CONNECT = enum.auto()
    FAIL = enum.auto()  # nobody answers
    DROP = enum.auto()
    RETREAT = enum.auto()
    DOUBLE = enum.auto()
    ECHO = enum.auto()
    LIE = enum.auto()
    WANT = enum.auto()  # a reader waits and nobody is connected
    FIND = enum.auto()  # it was named anew
    FREE = enum.auto()  # the other connection to the peer is gone
    FORGET = enum.auto()


ADDRESS = {
    (AddressState.NEW, AddressEvent.DIAL): AddressState.DIALING,
    (AddressState.DIALING, AddressEvent.CONNECT): AddressState.CONNECTED,
    (AddressState.DIALING, AddressEvent.FAIL): AddressState.RESTING,
    (AddressState.CONNECTED, AddressEvent.DROP): AddressState.NEW,
    (AddressState.CONNECTED, AddressEvent.RETREAT): AddressState.RESTING,
    (AddressState.CONNECTED, AddressEvent.DOUBLE): AddressState.ELSEWHERE,
    (AddressState.CONNECTED, AddressEvent.ECHO): AddressState.OURSELVES,
    (AddressState.CONNECTED, AddressEvent.LIE): AddressState.BANNED,
    (AddressState.RESTING, AddressEvent.DIAL): AddressState.DIALING,
    (AddressState.RESTING, AddressEvent.WANT): AddressState.NEW,
    (AddressState.RESTING, AddressEvent.FIND): AddressState.NEW,
    (AddressState.RESTING, AddressEvent.FORGET): AddressState.FORGOTTEN,
    (AddressState.ELSEWHERE, AddressEvent.DIAL): AddressState.DIALING,
    (AddressState.ELSEWHERE, AddressEvent.FREE): AddressState.NEW,
    (AddressState.ELSEWHERE, AddressEvent.FORGET): AddressState.FORGOTTEN,
}
"""What is not here cannot happen, or changes nothing."""
