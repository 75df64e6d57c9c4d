"""All connections of one drive: talks to peers, bans them, and brings the chunks that its registers want.

Owns the set of sessions, the bans, and with them whether there is hope for a reader. Implements
:class:`datfs.sparse.ChunkSource`. Addresses are found and dialed by :mod:`datfs.net.dialer`; their states are in
:mod:`datfs.net.address_states`.

There is hope as long as one address is new, dialing, connected, or discovery is still looking, and for some seconds
(:data:`~datfs.net.address_book.GRACE`) after a peer was lost that had brought something or was there for as long. Other
programs of this machine that look in are none, unless they have what we lack.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Sequence

import trio

from datfs.bitfield import Bitfield
from datfs.errors import BadProof, DatfsError, ForkedRegister, IntegrityError, NoPeers, RemoteProtocolError
from datfs.link import discovery_key
from datfs.net import transport
from datfs.net.address_book import Known
from datfs.net.address_states import AddressEvent, AddressState
from datfs.net.connection import Connection
from datfs.net.dialer import Connect, Dialer, Outcomes
from datfs.net.discovery import Discovery
from datfs.net.discovery.owner import Owner
from datfs.net.places import Places, host_of
from datfs.net.rate_limit import RateLimit
from datfs.net.report import INBOUND, Direction, Holder, PeerReport, SwarmReport, WayReport, held_by
from datfs.net.session import Session, describe
from datfs.net.traffic import Meters
from datfs.net.transport import Address, show_address
from datfs.net.turns import ask_in_turn
from datfs.sparse import SparseRegister

log = logging.getLogger(__name__)

BANNED_MOST = 1024  # ids remembered
DOUBLE_SECONDS = 0.25  # two peers that find each other dial at the same time, give or take a round trip
QUIET = 6.0  # seconds; the reference sends something every 5 s, so a connection without may be dead


BANNING = (BadProof, ForkedRegister)  # what ends a peer for good


class Swarm:
    """The peers of one drive. Make it, add registers, then :meth:`run` it in a nursery.

    ``discoveries``: where addresses come from. ``listeners``: where peers call; ``listening`` names these places.
    ``upload``: answer requests of peers. ``rng``: for ids and nonces. ``outcomes``: who remembers addresses that
    worked. ``up``, ``down``: limits on what is sent and received by all connections together, in bytes per second,
    at least :data:`~datfs.net.rate_limit.RATE_LEAST`. ``search_alone``: this machine is on no network; seconds for
    which readers have hope even so that somebody is found. ``refresh`` is called before a new peer is told what is
    here, for whose registers others append to.
    """

    def __init__(
        self,
        *,
        discoveries: Sequence[Discovery] = (),
        listeners: Sequence[trio.SocketListener] = (),
        upload: bool = True,
        rng: Callable[[int], bytes] = secrets.token_bytes,
        connect: Connect = transport.connect,
        outcomes: Outcomes | None = None,
        up: int | None = None,
        down: int | None = None,
        search_alone: float | None = None,
    ) -> None:
        self.upload = upload
        self.id = rng(32)
        self.sessions: set[Session] = set()
        self.up = RateLimit(up) if up is not None else None
        self.down = RateLimit(down) if down is not None else None
        self.meters = Meters()  # of all connections, those that ended included
        self.refresh: Callable[[], object] = lambda: None
        self._rng = rng
        self._places = Places()
        self._dialer = Dialer(self, discoveries, connect, self._places, self.meters, outcomes)
        self._alone = search_alone is not None
        if search_alone is not None:
            self._dialer.search_seconds = search_alone
        self._registers: list[SparseRegister] = []
        self._dialed: dict[Known, Session] = {}
        self.listening = tuple(show_address(listener.socket.getsockname()[:2]) for listener in listeners)
        self._listeners = list(listeners)
        self._banned_ids: dict[bytes, None] = {}  # in the order in which they were banned
        self._fatal: ForkedRegister | None = None

    # -- registers

    def add_register(self, register: SparseRegister) -> None:
        """Serves and fills one more register; the first one is the drive's metadata and keys the connections."""
        self._registers.append(register)
        for session in list(self.sessions):
            session.open_register(register)

    def registers(self) -> list[SparseRegister]:
        """All registers, metadata first."""
        return self._registers

    def register_for(self, wanted: bytes) -> SparseRegister | None:
        """The register with this discovery key."""
        for register in self._registers:
            if discovery_key(register.register.key) == wanted:
                return register
        return None

    @property
    def looks(self) -> bool:
        """Whether there is anybody to ask: addresses by hand, or a way of finding some."""
        return self._dialer.looks

    @property
    def bytes_in(self) -> int:
        """Bytes received on the wire since the start."""
        return self.meters.received.total

    @property
    def bytes_out(self) -> int:
        """Bytes sent on the wire since the start."""
        return self.meters.sent.total

    # -- ChunkSource

    def wants_changed(self, register: SparseRegister) -> None:
        """Asks the peers for what is wanted; wakes resting addresses when nobody is connected who may bring it."""
        downloads = {
            session: download for session in self.sessions if (download := session.download_of(register)) is not None
        }
        if downloads:
            ask_in_turn(list(downloads.values()), trio.current_time())
        for session, download in downloads.items():
            if download.outgoing:
                session.flush()
        if not self._has_sources(register):
            self._dialer.wake_all()

    def hopeless(self, register: SparseRegister) -> DatfsError | None:
        """Why no peer will bring anything now; None while there is hope."""
        if self._fatal is not None:
            return ForkedRegister(str(self._fatal))
        if self._dialer.hopeful() or self._has_sources(register):
            return None
        others = [known for known in self._dialer.book if known.state is not AddressState.OURSELVES]
        if not others:
            problems = "; ".join(f"{one.name}: {one.problem}" for one in self._dialer.discoveries if one.problem)
            if self._alone:
                problems = "this machine is on no network"
            where = f" ({problems})" if problems else ""
            return NoPeers(f"no peer was found for this drive{where}: name one with --peer HOST:PORT")
        reasons = "; ".join(f"{show_address(known.address)}: {known.error}" for known in others)
        if any(known.state is AddressState.BANNED for known in others):
            return IntegrityError(f"no peer has data that verify ({reasons})")
        return NoPeers(f"no peer can be reached ({reasons})")

    def _has_sources(self, register: SparseRegister) -> bool:
        return any(self._may_bring(session, register) for session in self.sessions)

    @staticmethod
    def _may_bring(session: Session, register: SparseRegister) -> bool:
        """Whether there is hope in a peer. Of a program of this machine that looks in only if it has what we lack."""
        if not session.looks_in or not session.has_told(register):
            return True
        here = register.register.data_bits
        holds = (download.held for download in session.downloads if download.register is register)
        return any(held.without(here).last_set() is not None for held in holds)

    def undecided(self, register: SparseRegister) -> bool:
        """Whether a peer is being dialed, or connected and has not told yet what it has."""
        if self._dialer.looking or self._dialer.book.undecided():
            return True
        return any(not session.has_told(register) for session in self.sessions)

    def held_by_peers(self, register: SparseRegister) -> list[Bitfield]:
        """What each connected peer has told to hold."""
        return [holder.held for holder in self.holders(register)]

    def all_told(self, register: SparseRegister, stop: int) -> bool:
        """Whether there are peers, each has told what it holds before ``stop``, and no other is about to be one."""
        if not self._has_sources(register) or self._dialer.hopeful():
            return False
        peers = [peer for session in self.sessions for peer in session.downloads if peer.register is register]
        return all(session.has_told(register) for session in self.sessions) and all(peer.told(stop) for peer in peers)

    def hope_changed(self) -> None:
        """Readers are told at once when the last hope is gone."""
        for register in self._registers:
            error = self.hopeless(register)
            if error is not None:
                register.fail(_again(error))
            else:
                register.reconsider()

    # -- tasks

    async def run(self) -> None:
        """Finds, dials, accepts and talks to peers until cancelled."""
        async with trio.open_nursery() as nursery:
            if self._listeners:
                nursery.start_soon(self.listen, self._listeners)
            await self._dialer.run(discovery_key(self._registers[0].register.key))

    def add_address(self, address: Address, source: str) -> None:
        """A peer may be here: dial it, now and again. Only while :meth:`run` runs."""
        self._dialer.add_address(address, source)

    async def talk(self, stream: trio.abc.Stream, known: Known) -> AddressEvent:
        """Talks over a connection that we made, to its end; says what that means for the address."""
        limited = known.source != Owner.name
        session = self._new_session(
            stream, show_address(known.address), dialed=True, meters=known.meters, limited=limited
        )
        self._dialed[known] = session
        try:
            await self._talk(session)
        finally:
            del self._dialed[known]
        known.error = describe(session.error)
        known.peer_id = session.peer_id or b""
        event = self._verdict(session)
        if event is AddressEvent.LIE:
            log.warning("peer %s is banned: %s", session.name, known.error)
        else:
            log.info("peer %s is gone: %s", session.name, known.error)
        return event

    def _verdict(self, session: Session) -> AddressEvent:
        """What a session's end says about its address."""
        if isinstance(session.error, BANNING) or session.peer_id in self._banned_ids:
            return AddressEvent.LIE
        if session.peer_id == self.id:
            return AddressEvent.ECHO
        if session.peer_id and self._sessions_with(session.peer_id):
            return AddressEvent.DOUBLE
        return AddressEvent.DROP if session.brought else AddressEvent.RETREAT

    def _sessions_with(self, peer_id: bytes) -> list[Session]:
        """Those that live and whose peer has this id."""
        return [session for session in self.sessions if session.peer_id == peer_id and not session.ended]

    async def listen(self, listeners: Sequence[trio.SocketListener]) -> None:
        """Serves peers that connect to us until cancelled."""

        async def accept(stream: trio.SocketStream) -> None:
            try:
                address: Address = stream.socket.getpeername()[:2]
            except OSError:  # it is gone already
                await trio.aclose_forcefully(stream)
                return
            host = host_of(address[0])
            if not self._places.take(host, dialed=False):
                log.debug("too many connections; %s is turned away", show_address(address))
                await trio.aclose_forcefully(stream)
                return
            try:
                await self.serve(stream, show_address(address))
            finally:
                self._places.give_back(host, dialed=False)
                self._dialer.place_freed()

        await trio.serve_listeners(accept, list(listeners))

    async def serve(self, stream: trio.abc.Stream, name: str, *, limited: bool = True) -> None:
        """Talks to a peer that connected to us, until it or we have had enough. ``name``: the peer, for people.

        ``limited``: the limits on traffic hold for it; False for another program of this machine.
        """
        session = self._new_session(stream, name, dialed=False, meters=Meters(self.meters), limited=limited)
        await self._talk(session)
        log.info("peer %s is gone: %s", name, describe(session.error))
        self.hope_changed()

    def _new_session(
        self, stream: trio.abc.Stream, name: str, *, dialed: bool, meters: Meters | None = None, limited: bool = True
    ) -> Session:
        key = self._registers[0].register.key if dialed else None
        connection = Connection(id=self.id, nonce=self._rng(24), key=key, now=trio.current_time())
        session = Session(self, stream, connection, name, dialed=dialed, meters=meters, limited=limited)
        if dialed:
            for register in self._registers:
                connection.open(register.register.key)
        return session

    async def _talk(self, session: Session) -> None:
        self.sessions.add(session)
        try:
            await session.run()
        finally:
            session.ended = True
            self.sessions.discard(session)
        if isinstance(session.error, ForkedRegister):
            self._fatal = session.error
        if isinstance(session.error, BANNING) and session.peer_id:
            self._banned_ids[session.peer_id] = None
            if len(self._banned_ids) > BANNED_MOST:
                del self._banned_ids[next(iter(self._banned_ids))]
        if session.peer_id and not self._sessions_with(session.peer_id):
            self._dialer.freed(session.peer_id)
        for register in self._registers:
            self.wants_changed(register)

    def announce(self, register: SparseRegister, start: int, length: int = 1) -> None:
        """Tells readers here and every peer that we hold these chunks: for after appending to a register."""
        register.appended(start, length)
        for session in list(self.sessions):
            session.announce(register, start, length)

    def retract(self, register: SparseRegister, start: int, length: int = 1) -> None:
        """Tells every peer that we no longer hold these chunks: for after clearing them in a register."""
        for session in list(self.sessions):
            session.retract(register, start, length)

    # -- for people

    def report(self) -> SwarmReport:
        """What goes on at this moment, peer by peer: addresses in the order they became known, then inbound peers."""
        now = trio.current_time()
        dialed = set(self._dialed.values())
        peers = [self._report_address(known, now) for known in self._dialer.book]
        peers += [
            PeerReport(
                address=session.name,
                source=INBOUND,
                direction=Direction.IN,
                state=AddressState.CONNECTED,
                connected=now - session.started,
                worked=session.brought,
                traffic=session.meters.traffic(now),
                held=tuple(held_by(download) for download in session.downloads),
            )
            for session in sorted(self.sessions - dialed, key=lambda session: session.started)
        ]
        sources = [known.source for known in self._dialer.book]
        return SwarmReport(
            peers=tuple(peers),
            ways=tuple(WayReport(way.name, way.problem, sources.count(way.name)) for way in self._dialer.discoveries),
            up_limit=self.up.rate if self.up is not None else None,
            down_limit=self.down.rate if self.down is not None else None,
            listening=self.listening,
            traffic=self.meters.traffic(now),
        )

    def holders(self, register: SparseRegister) -> list[Holder]:
        """What each connected peer holds of a register, and was asked for."""
        now = trio.current_time()
        errors = {session: known.error for known, session in self._dialed.items()}
        return [
            Holder(
                session.name,
                download.held,
                download.asked,
                download.waiting(now),
                download.late,
                errors.get(session, ""),
            )
            for session in self.sessions
            for download in session.downloads
            if download.register is register
        ]

    def _report_address(self, known: Known, now: float) -> PeerReport:
        session = self._dialed.get(known)
        waits = known.state in (AddressState.RESTING, AddressState.ELSEWHERE)
        return PeerReport(
            address=show_address(known.address),
            source=known.source,
            direction=Direction.OUT,
            state=known.state,
            error=known.error,
            next_try=max(0.0, known.due - now) if waits else None,
            connected=now - session.started if session is not None else None,
            worked=known.worked,
            traffic=known.meters.traffic(now),
            held=tuple(held_by(download) for download in session.downloads) if session is not None else (),
        )

    # -- what sessions call

    def stored(self, session: Session, register: SparseRegister, index: int) -> None:
        """Tells the other peers that we hold one more chunk."""
        if not session.brought:
            session.brought = True
            for known, dialed in self._dialed.items():
                if dialed is session:
                    self._dialer.worked(known)
        for other in self.sessions:
            if other is not session and other.uploads:
                other.announce(register, index)

    def accept_handshake(self, session: Session, peer_id: bytes) -> float:
        """Refuses connections to ourselves, to banned peers, and all but one to the same peer.

        Returns for how many seconds nothing is to be answered, since the connection may have to go for another one:
        the reference forgets what it asked for on a connection that is ended for a double (docs/network.md).
        """
        if peer_id == self.id:
            raise RemoteProtocolError("that is ourselves")
        if peer_id in self._banned_ids:
            raise RemoteProtocolError("this peer sent data that did not verify before")
        for other in self._sessions_with(peer_id) if peer_id else ():
            if other is not session:
                if not self._replaces(session, other, peer_id):
                    raise RemoteProtocolError("already connected to this peer")
                other.end(RemoteProtocolError("there is a newer connection to this peer"))
        self.refresh()
        may_be_doubled = bool(self.listening) if session.dialed else self._dialer.searches
        return DOUBLE_SECONDS if may_be_doubled and session.dialed != (self.id < peer_id) else 0.0

    def _replaces(self, new: Session, old: Session, peer_id: bytes) -> bool:
        """Which of two connections to one peer stays: the one that the side with the smaller id began
        (discovery.md 7.5).

        Every peer decides like that, so that both end the same one. An older one that seems dead goes in any case.
        """
        by_smaller = new.dialed == (self.id < peer_id)
        return by_smaller or trio.current_time() - old.heard > QUIET


def _again(error: DatfsError) -> Callable[[], DatfsError]:
    """Makes equal errors, one for each reader."""
    return lambda: type(error)(*error.args)
