"""Finds addresses and dials them, again and again, for as long as a swarm runs.

Owns the tasks: one for each way of discovery, one for each address of the :class:`~datfs.net.address_book.AddressBook`.
What is said on a connection, and what its end means, is the :class:`Caller`'s.
"""

from __future__ import annotations

import errno
import logging
import os
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Protocol

import trio

from datfs.errors import DatfsError
from datfs.net.address_book import FINAL, AddressBook, Known
from datfs.net.address_states import AddressEvent, AddressState
from datfs.net.discovery import Discovery
from datfs.net.discovery.owner import Owner
from datfs.net.discovery.static import StaticPeers
from datfs.net.places import Address, Places, host_of
from datfs.net.traffic import Meters
from datfs.net.transport import show_address

log = logging.getLogger(__name__)

SEARCH_TIMEOUT = 10.0  # readers have hope for so long that somebody is found; the search goes on after it

OUR_NETWORK_IS_DOWN = (errno.ENETUNREACH, errno.ENETDOWN)  # that says nothing about an address

Connect = Callable[[Address], Awaitable[trio.abc.Stream]]


class Caller(Protocol):
    """Who wants connections."""

    async def talk(self, stream: trio.abc.Stream, known: Known) -> AddressEvent:
        """Talks over a new connection to its end; what that says about the address. Sets ``known.error``."""
        ...

    def hope_changed(self) -> None:
        """An address failed, or a search ended."""
        ...


class Outcomes(Protocol):
    """Who remembers addresses for another run."""

    def worked(self, address: Address) -> None:
        """Something that verified came from it."""
        ...

    def reached(self, address: Address) -> None:
        """A peer of the drive is there, though nothing was needed of it."""
        ...

    def failed(self, address: Address) -> None:
        """It could not be reached, or no peer of the drive is there."""
        ...

    def lied(self, address: Address) -> None:
        """What came from it did not verify, or it is no other peer."""
        ...


class Dialer:
    """``meters``: those of the whole swarm. ``outcomes``: who is told what came of each address, if anybody."""

    def __init__(
        self,
        caller: Caller,
        discoveries: Sequence[Discovery],
        connect: Connect,
        places: Places,
        meters: Meters,
        outcomes: Outcomes | None = None,
    ) -> None:
        self.book = AddressBook(lambda: random.uniform(0.75, 1.25), self._has_changed)
        self.discoveries = list(discoveries)
        self._caller = caller
        self._connect = connect
        self._places = places
        self._meters = meters
        self._outcomes = outcomes
        self._looking = len(self.discoveries)
        self.search_seconds = SEARCH_TIMEOUT
        self._search_until = float("inf")
        self._nursery: trio.Nursery | None = None
        self._changed: dict[Known, trio.Event] = {}  # what each task waits with
        self._without_place: set[trio.Event] = set()  # of those that wait for one; set when one is free

    # -- hope

    @property
    def searches(self) -> bool:
        """Whether addresses are found that nobody gave, such as those of peers that find us, too."""
        return any(not isinstance(one, StaticPeers | Owner) for one in self.discoveries)

    @property
    def looks(self) -> bool:
        """Whether there is any way of discovery, addresses given by hand included."""
        return any(not (isinstance(one, StaticPeers) and one.is_empty) for one in self.discoveries)

    @property
    def looking(self) -> bool:
        """Whether any way of discovery goes on."""
        return self._looking > 0

    def hopeful(self) -> bool:
        """Whether a peer may be found or reached soon."""
        now = trio.current_time()
        return (self.looking and now < self._search_until) or self.book.hopeful(now)

    # -- from outside

    def add_address(self, address: Address, source: str) -> None:
        """A peer may be here: dial it, now and again. Only while :meth:`run` runs."""
        if self._nursery is None:
            return
        now = trio.current_time()
        known = self.book.get(address)
        if known is not None:
            self._step(known, AddressEvent.FIND)
            return
        known = self.book.add(address, source, Meters(self._meters), now)
        if known is None:
            log.debug("too many addresses; %s is not tried", show_address(address))
            return
        self._changed[known] = trio.Event()
        self._nursery.start_soon(self._keep_dialing, known)

    def wake_all(self) -> None:
        """A reader waits, and nobody is connected: addresses that rest have their turn now."""
        for known in self.book:
            self._step(known, AddressEvent.WANT)

    def freed(self, peer_id: bytes) -> None:
        """No connection to this peer is left: those of its addresses that were not needed are."""
        for known in self.book:
            if known.peer_id == peer_id:
                self._step(known, AddressEvent.FREE)

    def worked(self, known: Known) -> None:
        """Something that verified came from it, the first time on this connection."""
        known.worked = True
        if self._outcomes is not None:
            self._outcomes.worked(known.address)

    def place_freed(self) -> None:
        """A connection ended: one that waits for a place may be made."""
        for changed in self._without_place:
            changed.set()

    def _step(self, known: Known, event: AddressEvent) -> None:
        self.book.step(known, event, trio.current_time())

    def _has_changed(self, known: Known) -> None:
        if known in self._changed:
            self._changed[known].set()

    # -- tasks

    async def run(self, discovery_key: bytes) -> None:
        """Looks for peers and dials until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                self._search_until = trio.current_time() + self.search_seconds
                for discovery in self.discoveries:
                    nursery.start_soon(self._discover, discovery, discovery_key)
                    await trio.lowlevel.checkpoint()  # those that need not look come first, in their order
                await trio.sleep_until(self._search_until)
                self._caller.hope_changed()
                await trio.sleep_forever()
        finally:
            self._nursery = None

    async def _discover(self, discovery: Discovery, discovery_key: bytes) -> None:
        try:
            async with aclosing(discovery.find(discovery_key)) as found:
                async for address in found:
                    self.add_address(address, discovery.name)
        except (DatfsError, OSError) as error:
            log.warning("looking for peers by %s ended: %s", discovery.name, error)
        finally:
            self._looking -= 1
        self._caller.hope_changed()

    async def _keep_dialing(self, known: Known) -> None:
        # Whoever names peers by hand may have several behind one address.
        host = None if known.source == StaticPeers.name else host_of(known.address[0])
        try:
            while True:
                await self._until_due(known)
                if known.state in FINAL:
                    return
                if not self._places.take(host, dialed=True):
                    await self._until_changed(known, waits_for_place=True)
                    continue
                try:
                    await self._dial(known)
                finally:
                    self._places.give_back(host, dialed=True)
                    self.place_freed()
        finally:
            del self._changed[known]

    async def _until_due(self, known: Known) -> None:
        while known.state not in (AddressState.NEW, *FINAL):
            now = trio.current_time()
            if known.state is AddressState.RESTING and self.book.is_stale(known, now):
                self._step(known, AddressEvent.FORGET)
            elif now >= known.due:
                return
            else:
                with trio.move_on_at(known.due):
                    await self._until_changed(known)

    async def _until_changed(self, known: Known, *, waits_for_place: bool = False) -> None:
        changed = self._changed[known] = trio.Event()
        if waits_for_place:
            self._without_place.add(changed)
        try:
            await changed.wait()
        finally:
            self._without_place.discard(changed)

    async def _dial(self, known: Known) -> None:
        self._step(known, AddressEvent.DIAL)
        offline = False
        try:
            stream = await self._connect(known.address)
        except (OSError, trio.TooSlowError, ValueError) as error:  # ValueError: a name that no host can have
            known.error = _why_not(error)
            log.debug("%s: %s", show_address(known.address), known.error)
            event = AddressEvent.FAIL
            offline = getattr(_cause(error), "errno", None) in OUR_NETWORK_IS_DOWN
        else:
            self._step(known, AddressEvent.CONNECT)
            event = await self._caller.talk(stream, known)
        self._step(known, event)
        if not offline:
            self._remember(known, event)
        self._caller.hope_changed()

    def _remember(self, known: Known, event: AddressEvent) -> None:
        if self._outcomes is None:
            return
        if event in (AddressEvent.LIE, AddressEvent.ECHO):
            self._outcomes.lied(known.address)
        elif event is AddressEvent.FAIL or not known.peer_id:
            self._outcomes.failed(known.address)
        else:
            self._outcomes.reached(known.address)


def _cause(error: OSError | trio.TooSlowError | ValueError) -> BaseException:
    """What went wrong in fact: trio tries several addresses of one name, and raises an error that says so."""
    if isinstance(error, OSError) and error.errno is not None:
        return error
    cause = error.__cause__
    return cause.exceptions[0] if isinstance(cause, BaseExceptionGroup) else cause or error


def _why_not(error: OSError | trio.TooSlowError | ValueError) -> str:
    """Why an address could not be reached, without the address."""
    cause = _cause(error)
    if isinstance(error, trio.TooSlowError):
        return "no answer"
    if isinstance(cause, OSError) and cause.errno is not None:
        return os.strerror(cause.errno)
    return str(error)
