"""All connections of one drive: dials, accepts, bans, and brings the chunks that its registers want.

Owns the set of sessions, the known addresses with their back-off, and the bans. Implements
:class:`datfs.sparse.ChunkSource`.

An address::

    new ──► dialing ──connected──► in session ──ended──► resting ──back-off, or a reader who wants──► dialing
               │ failed                │ bad data
               └──────► resting        └──► banned

There is hope for a reader as long as one address is new, dialing, in session, or discovery is still looking, and for
:data:`GRACE` seconds after a peer that had brought something was lost: it may just be starting anew.
"""

from __future__ import annotations

import enum
import logging
import math
import os
import random
import secrets
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing

import trio

from datfs.errors import BadProof, DatfsError, ForkedRegister, IntegrityError, NoPeers, RemoteProtocolError
from datfs.link import discovery_key
from datfs.net import transport
from datfs.net.connection import Connection
from datfs.net.discovery import Discovery
from datfs.net.session import Session, describe
from datfs.net.transport import Address, show_address
from datfs.sparse import SparseRegister

log = logging.getLogger(__name__)

BACKOFF_FIRST = 0.5
BACKOFF_MOST = 20.0  # less than a reader's usual patience of 30 s, also with the spread
GRACE = 3.0
REST_LEAST = 1.0  # seconds after a failure before a reader's wish alone makes us dial again
SESSIONS_MOST = 64
SEARCH_TIMEOUT = 10.0  # readers have hope for so long that somebody is found; the search goes on after it
ADDRESSES_MOST = 256  # beyond, an address that never worked has to go before a new one is taken
BANNED_MOST = 1024  # ids remembered
QUIET = 6.0  # seconds; the reference sends something every 5 s, so a connection without may be dead


BANNING = (BadProof, ForkedRegister)  # what ends a peer for good


class AddressState(enum.Enum):
    """Where an address is in its life."""

    NEW = "new"
    DIALING = "dialing"
    SESSION = "connected"
    RESTING = "resting"
    BANNED = "banned"


class _Known:
    """An address and what came of it."""

    def __init__(self, address: Address, source: str) -> None:
        self.address = address
        self.source = source
        self.state = AddressState.NEW
        self.error: str = ""
        self.failed_at = -math.inf
        self.hope_until = -math.inf
        self.worked = False
        self.scope = trio.CancelScope()
        self.backoff = BACKOFF_FIRST
        self.nudge = trio.Event()


class Swarm:
    """The peers of one drive. Make it, add registers, then :meth:`run` it in a nursery.

    ``discoveries``: where addresses come from. ``upload``: answer requests of peers. ``rng``: for ids and nonces.
    """

    def __init__(
        self,
        *,
        discoveries: Sequence[Discovery] = (),
        upload: bool = True,
        rng: Callable[[int], bytes] = secrets.token_bytes,
        connect: Callable[[Address], Awaitable[trio.abc.Stream]] = transport.connect,
    ) -> None:
        self.upload = upload
        self.id = rng(32)
        self.sessions: set[Session] = set()
        self._rng = rng
        self._connect = connect
        self._discoveries = list(discoveries)
        self._searching = len(self._discoveries)
        self._search_until = float("inf")
        self._registers: list[SparseRegister] = []
        self._known: dict[Address, _Known] = {}
        self._banned_ids: dict[bytes, None] = {}  # in the order in which they were banned
        self._fatal: ForkedRegister | None = None
        self._past_bytes = (0, 0)  # in and out, of connections that ended
        self._nursery: trio.Nursery | None = None

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
    def bytes_in(self) -> int:
        """Bytes received on the wire since the start."""
        return self._past_bytes[0] + sum(session.connection.bytes_in for session in self.sessions)

    @property
    def bytes_out(self) -> int:
        """Bytes sent on the wire since the start."""
        return self._past_bytes[1] + sum(session.connection.bytes_out for session in self.sessions)

    # -- ChunkSource

    def wants_changed(self, register: SparseRegister) -> None:
        """Lets every peer look at the want list; wakes resting addresses when nobody is connected."""
        for session in list(self.sessions):
            session.kick(register)
        if not self.sessions:
            self._nudge()

    def hopeless(self, register: SparseRegister) -> DatfsError | None:
        """Why no peer will bring anything now; None while there is hope."""
        if self._fatal is not None:
            return ForkedRegister(str(self._fatal))
        now = trio.current_time()
        if self.sessions or (self._searching and now < self._search_until):
            return None
        for known in self._known.values():
            if known.state in (AddressState.NEW, AddressState.DIALING) or now < known.hope_until:
                return None
        if not self._known:
            problems = "; ".join(f"{one.name}: {one.problem}" for one in self._discoveries if one.problem)
            where = f" ({problems})" if problems else ""
            return NoPeers(f"no peer was found for this drive{where}: name one with --peer HOST:PORT")
        reasons = "; ".join(f"{show_address(k.address)}: {k.error}" for k in self._known.values())
        if any(known.state is AddressState.BANNED for known in self._known.values()):
            return IntegrityError(f"no peer has data that verify ({reasons})")
        return NoPeers(f"no peer can be reached ({reasons})")

    def undecided(self, register: SparseRegister) -> bool:
        """Whether a peer is being dialed, or connected and has not told yet what it has."""
        states = (AddressState.NEW, AddressState.DIALING)
        if self._searching or any(known.state in states for known in self._known.values()):
            return True
        return any(not session.has_told(register) for session in self.sessions)

    def _nudge(self) -> None:
        now = trio.current_time()
        for known in self._known.values():
            if known.state is AddressState.RESTING and now - known.failed_at >= REST_LEAST:
                known.state = AddressState.DIALING
                known.nudge.set()

    def _check_hope(self) -> None:
        """Readers are told at once when the last hope is gone."""
        for register in self._registers:
            error = self.hopeless(register)
            if error is not None:
                register.fail(_again(error))
            else:
                register.reconsider()

    # -- tasks

    async def run(self) -> None:
        """Finds, dials and talks to peers until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                self._search_until = trio.current_time() + SEARCH_TIMEOUT
                for discovery in self._discoveries:
                    nursery.start_soon(self._discover, discovery)
                await trio.sleep(SEARCH_TIMEOUT)
                self._check_hope()
                await trio.sleep_forever()
        finally:
            self._nursery = None

    async def _discover(self, discovery: Discovery) -> None:
        try:
            async with aclosing(discovery.find(discovery_key(self._registers[0].register.key))) as found:
                async for address in found:
                    self.add_address(address, discovery.name)
        except (DatfsError, OSError) as error:
            log.warning("looking for peers by %s ended: %s", discovery.name, error)
        finally:
            self._searching -= 1
        self._check_hope()

    def add_address(self, address: Address, source: str) -> None:
        """A peer may be here: dial it, now and again. Only while :meth:`run` runs."""
        if address in self._known or self._nursery is None:
            return
        if len(self._known) >= ADDRESSES_MOST and not self._forget_one():
            log.debug("too many addresses; %s is not tried", show_address(address))
            return
        known = self._known[address] = _Known(address, source)
        self._nursery.start_soon(self._keep_dialing, known)

    def _forget_one(self) -> bool:
        """Makes room for an address: the longest known one that rests and never worked has to go."""
        for known in self._known.values():
            if known.state is AddressState.RESTING and not known.worked:
                known.scope.cancel()
                del self._known[known.address]
                return True
        return False

    async def _keep_dialing(self, known: _Known) -> None:
        with known.scope:
            await self._dial_and_talk(known)

    async def _dial_and_talk(self, known: _Known) -> None:
        while known.state is not AddressState.BANNED:
            known.state = AddressState.DIALING
            known.nudge = trio.Event()
            try:
                stream = await self._connect(known.address)
            except (OSError, trio.TooSlowError, ValueError) as error:  # ValueError: a name that no host can have
                known.error = _why_not(error)
                log.debug("%s: %s", show_address(known.address), known.error)
            else:
                known.state = AddressState.SESSION
                session = self._new_session(stream, show_address(known.address), dialed=True)
                await self._talk(session)
                self._judge(known, session)
                if known.state is AddressState.DIALING:
                    continue
            await self._rest(known)

    def _judge(self, known: _Known, session: Session) -> None:
        """What a session's end says about its address."""
        known.error = describe(session.error)
        if isinstance(session.error, BANNING):
            known.state = AddressState.BANNED
            log.warning("peer %s is banned: %s", session.name, known.error)
            self._check_hope()
            return
        log.info("peer %s is gone: %s", session.name, known.error)
        if any(peer.chunks_received for peer in session.downloads):
            # It worked, however it ended: try again at once.
            known.worked = True
            known.backoff = BACKOFF_FIRST
            known.state = AddressState.DIALING
            known.hope_until = trio.current_time() + GRACE

    async def _rest(self, known: _Known) -> None:
        if known.state is AddressState.BANNED:
            return
        known.state = AddressState.RESTING
        known.failed_at = trio.current_time()
        self._check_hope()
        pause = known.backoff * random.uniform(0.75, 1.25)
        known.backoff = min(known.backoff * 2, BACKOFF_MOST)
        if known.failed_at < known.hope_until:
            pause = min(pause, known.hope_until - known.failed_at)  # the last try that readers wait for
        with trio.move_on_after(pause):
            await known.nudge.wait()

    async def listen(self, listeners: Sequence[trio.SocketListener]) -> None:
        """Serves peers that connect to us until cancelled."""

        async def accept(stream: trio.SocketStream) -> None:
            if len(self.sessions) >= SESSIONS_MOST:
                await trio.aclose_forcefully(stream)
                return
            try:
                peer = stream.socket.getpeername()
            except OSError:  # it is gone already
                await trio.aclose_forcefully(stream)
                return
            await self.serve(stream, show_address(peer[:2]))

        await trio.serve_listeners(accept, list(listeners))

    async def serve(self, stream: trio.abc.Stream, name: str) -> None:
        """Talks to a peer that connected to us, until it or we have had enough. ``name``: the peer, for people."""
        session = self._new_session(stream, name, dialed=False)
        await self._talk(session)
        log.info("peer %s is gone: %s", name, describe(session.error))
        self._check_hope()

    def _new_session(self, stream: trio.abc.Stream, name: str, *, dialed: bool) -> Session:
        key = self._registers[0].register.key if dialed else None
        connection = Connection(id=self.id, nonce=self._rng(24), key=key, now=trio.current_time())
        session = Session(self, stream, connection, name, dialed=dialed)
        if dialed:
            for register in self._registers:
                connection.open(register.register.key)
        return session

    async def _talk(self, session: Session) -> None:
        self.sessions.add(session)
        try:
            await session.run()
        finally:
            self.sessions.discard(session)
            past, connection = self._past_bytes, session.connection
            self._past_bytes = (past[0] + connection.bytes_in, past[1] + connection.bytes_out)
        if isinstance(session.error, ForkedRegister):
            self._fatal = session.error
        if isinstance(session.error, BANNING) and session.peer_id:
            self._banned_ids[session.peer_id] = None
            if len(self._banned_ids) > BANNED_MOST:
                del self._banned_ids[next(iter(self._banned_ids))]
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

    # -- what sessions call

    def stored(self, session: Session, register: SparseRegister, index: int) -> None:
        """Tells the other peers that we hold one more chunk."""
        if self.upload:
            for other in self.sessions:
                if other is not session:
                    other.announce(register, index)

    def accept_handshake(self, session: Session, peer_id: bytes) -> None:
        """Refuses connections to ourselves, to banned peers, and all but one to the same peer."""
        if peer_id == self.id:
            raise RemoteProtocolError("that is ourselves")
        if peer_id in self._banned_ids:
            raise RemoteProtocolError("this peer sent data that did not verify before")
        for other in self.sessions:
            if other is not session and other.peer_id == peer_id and peer_id:
                if not self._replaces(session, other, peer_id):
                    raise RemoteProtocolError("already connected to this peer")
                other.end(RemoteProtocolError("there is a newer connection to this peer"))

    def _replaces(self, new: Session, old: Session, peer_id: bytes) -> bool:
        """Which of two connections to one peer stays: the one that the side with the smaller id began (discovery.md 7.5).

        Every peer decides like that, so that both end the same one. An older one that seems dead goes in any case.
        """
        by_smaller = new.dialed == (self.id < peer_id)
        return by_smaller or trio.current_time() - old.heard > QUIET


def _again(error: DatfsError) -> Callable[[], DatfsError]:
    """Makes equal errors, one for each reader."""
    return lambda: type(error)(*error.args)


def _why_not(error: OSError | trio.TooSlowError | ValueError) -> str:
    """Why an address could not be reached, without the address."""
    if isinstance(error, trio.TooSlowError):
        return "no answer"
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno)
    cause = error.__cause__
    if isinstance(cause, BaseExceptionGroup):  # several addresses of one name were tried
        cause = cause.exceptions[0]
    if isinstance(cause, OSError) and cause.errno is not None:
        return os.strerror(cause.errno)
    return str(error)
