"""The addresses where peers of a drive may be, and what came of each. Pure: time and chance are passed in.

Owns the state of each address (:mod:`datfs.net.address_states`), its back-off, and how many there may be. Says what is
due; :mod:`datfs.net.dialer` does it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from datfs.net.address_states import ADDRESS, AddressEvent, AddressState
from datfs.net.places import Address, host_of
from datfs.net.traffic import Meters

BACKOFF_FIRST = 0.5
BACKOFF_MOST = 20.0  # less than a reader's usual patience of 30 s, also with the spread
# Seconds of hope after a peer was lost that had brought something, or was there for as long: it may just begin anew.
GRACE = 3.0
REST_LEAST = 1.0  # seconds after a failure before a reader's wish or another finding makes us dial again
ELSEWHERE_CHECK = 600.0  # an impostor with the id of another peer does not keep that one away for longer
FORGET_AFTER = 600.0  # seconds of failures after which an address that never worked has to be found anew
ADDRESSES_MOST = 256  # beyond, an address that never worked has to go before a new one is taken
ADDRESSES_OF_HOST = 8  # nobody makes us try all ports of somebody
LASTING = frozenset({"given", "remembered"})  # sources that name an address once only, so it is never forgotten

HOPEFUL = (AddressState.NEW, AddressState.DIALING)
FINAL = (AddressState.BANNED, AddressState.OURSELVES, AddressState.FORGOTTEN)


class Known:
    """An address and what came of it. Everything but ``worked``, ``peer_id`` and ``error`` is the book's to change.

    ``error``: why it failed last. ``due``: when it is dialed next, if it rests. ``worked``: whether anything that
    verified came from it. ``peer_id``: of the peer that was there last. ``meters``: of all its connections.
    """

    def __init__(self, address: Address, source: str, meters: Meters, now: float) -> None:
        self.address = address
        self.source = source
        self.meters = meters
        self.state = AddressState.NEW
        self.error = ""
        self.worked = False
        self.peer_id = b""
        self.due = now
        self.failed_at = -math.inf
        self.hope_until = -math.inf
        self.backoff = BACKOFF_FIRST
        self.since = now  # it was found, or something came from it
        self.connected_at = -math.inf


class AddressBook:
    """The addresses of one drive. ``spread``: a random factor for each pause, so that peers do not return in step.

    ``changed`` is told of each address whose state changed.
    """

    def __init__(
        self, spread: Callable[[], float] = lambda: 1.0, changed: Callable[[Known], None] = lambda known: None
    ) -> None:
        self._spread = spread
        self._changed = changed
        self._known: dict[Address, Known] = {}

    def __iter__(self) -> Iterator[Known]:
        """All that are known, longest known first."""
        return iter(list(self._known.values()))

    def __len__(self) -> int:
        """How many are known."""
        return len(self._known)

    def get(self, address: Address) -> Known | None:
        """What is known of an address."""
        return self._known.get(address)

    def add(self, address: Address, source: str, meters: Meters, now: float) -> Known | None:
        """Takes in a new address; another one may have to be forgotten for it. None if there is no room."""
        if not self._make_room(address, source, now):
            return None
        known = self._known[address] = Known(address, source, meters, now)
        return known

    def _make_room(self, address: Address, source: str, now: float) -> bool:
        host = host_of(address[0])
        crowd = [] if host is None or source in LASTING else [one for one in self if host_of(one.address[0]) == host]
        if len(crowd) < ADDRESSES_OF_HOST:
            if len(self._known) < ADDRESSES_MOST:
                return True
            crowd = list(self)
        for known in crowd:  # the longest known one that rests and never worked has to go
            if known.state is AddressState.RESTING and not known.worked and known.source not in LASTING:
                return self.step(known, AddressEvent.FORGET, now)
        return False

    def step(self, known: Known, event: AddressEvent, now: float) -> bool:
        """Lets something happen to an address. False if it changes nothing in the state that it is in."""
        state = ADDRESS.get((known.state, event))
        if state is None:
            return False
        soon = known.failed_at + REST_LEAST
        if event in (AddressEvent.WANT, AddressEvent.FIND) and now < soon:
            if known.state is AddressState.RESTING and known.due > soon:
                known.due = soon  # not now, and not forgotten either
                self._changed(known)
            return False
        known.state = state
        if state is AddressState.RESTING:
            if event is AddressEvent.RETREAT and known.peer_id and now - known.connected_at > GRACE:
                known.hope_until = now + GRACE
            self._rest(known, now)
        elif state is AddressState.CONNECTED:
            known.connected_at = now
        elif state is AddressState.ELSEWHERE:
            known.due = now + ELSEWHERE_CHECK * self._spread()
        elif state is AddressState.FORGOTTEN:
            del self._known[known.address]
        elif event is AddressEvent.DROP:
            known.worked = True
            known.since = now
            known.backoff = BACKOFF_FIRST
            known.hope_until = now + GRACE
        self._changed(known)
        return True

    def _rest(self, known: Known, now: float) -> None:
        if known.connected_at > known.failed_at and now - known.connected_at > BACKOFF_MOST:
            known.backoff = BACKOFF_FIRST  # it was there for long, so there is no reason to stay away from it
        known.failed_at = now
        pause = known.backoff * self._spread()
        known.backoff = min(known.backoff * 2, BACKOFF_MOST)
        if now < known.hope_until:
            pause = min(pause, known.hope_until - now)  # the last try that readers wait for
        known.due = now + pause

    def is_stale(self, known: Known, now: float) -> bool:
        """Whether an address has failed for so long that it should be forgotten until it is found anew."""
        return not known.worked and known.source not in LASTING and now - known.since > FORGET_AFTER

    def hopeful(self, now: float) -> bool:
        """Whether a peer may come of any address soon."""
        return any(known.state in HOPEFUL or now < known.hope_until for known in self._known.values())

    def undecided(self) -> bool:
        """Whether any address is about to be dialed, or being dialed."""
        return any(known.state in HOPEFUL for known in self._known.values())
