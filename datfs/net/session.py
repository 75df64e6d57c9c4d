"""One connection to one peer: moves bytes and waits; decides nothing that a test would want to check.

Drives one :class:`~datfs.net.connection.Connection` over one trio stream, with a reader, a writer and a timer, and
hands messages to the :class:`~datfs.net.replication.PeerState` and :class:`~datfs.net.upload.UploadState` of their
register. What goes wrong ends this session and nothing else (``docs/network.md``).

::

    stream ──► reader ──events──► PeerState, UploadState ──outgoing──┐
                                                                     ├─► writer ──► stream
    a reader's want, an announcement (other tasks) ── flush() wakes ─┘

Other tasks only change the states and wake the writer: nothing that is wrong with this connection can reach them.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

import trio

from datfs.errors import DatfsError, RemoteProtocolError
from datfs.net.connection import (
    ChannelClosed,
    ChannelOpened,
    Connection,
    Event,
    HandshakeReceived,
    KeyNeeded,
    MessageReceived,
)
from datfs.net.messages import Data, Have, Info, Message, Request, Unhave, Want
from datfs.net.rate_limit import RateLimit
from datfs.net.replication import PeerState
from datfs.net.traffic import Meters
from datfs.net.transport import ReceiveBuffer, receive_into
from datfs.net.upload import UploadState
from datfs.sparse import SparseRegister

log = logging.getLogger(__name__)

SEND_BYTES = 1024 * 1024  # answers are made while less than this waits to be sent
SEND_PIECE = 256 * 1024
UNSENT_MOST = 4096  # messages; from a peer that makes us say so much and does not read it, nothing more is read
MESSAGES_IN_A_ROW = 64  # then the other tasks have their turn
HANDSHAKE_TIMEOUT = 10.0
SEND_TIMEOUT = 60.0  # a peer that takes nothing of SEND_PIECE for so long is gone
TICK = 0.5
ON_THE_WAY = 2.0  # seconds' worth of a limit that may be on the way to us, so that a reader's chunk waits no longer

EXPECTED = (DatfsError, OSError, trio.BrokenResourceError, trio.ClosedResourceError)


class Host(Protocol):
    """What a session needs of the swarm."""

    upload: bool
    up: RateLimit | None
    down: RateLimit | None
    sessions: set[Session]

    def register_for(self, discovery_key: bytes) -> SparseRegister | None:
        """The register with this discovery key, if we serve or want it."""
        ...

    def registers(self) -> list[SparseRegister]:
        """All registers of the drive, metadata first."""
        ...

    def stored(self, session: Session, register: SparseRegister, index: int) -> None:
        """A chunk that ``session`` brought was stored."""
        ...

    def accept_handshake(self, session: Session, peer_id: bytes) -> float:
        """For how many seconds nothing is to be answered yet.

        Raises RemoteProtocolError if this connection is not wanted: to ourselves, a second one, a banned peer.
        """
        ...


@dataclass(slots=True)
class _Channel:
    """Both directions of one register on this connection."""

    number: int
    register: SparseRegister
    download: PeerState
    upload: UploadState
    leaving: bool = False  # the peer said that it is done


class Session:
    """One connection. ``name`` is the peer for people, its address. ``dialed``: we made the connection.

    ``meters`` count what goes over it; they may have counted earlier connections to the same address. ``limited``:
    the host's limits on traffic, and whether it uploads, hold for it; False for another program of this machine.
    """

    def __init__(
        self,
        host: Host,
        stream: trio.abc.Stream,
        connection: Connection,
        name: str,
        *,
        dialed: bool,
        meters: Meters | None = None,
        limited: bool = True,
    ) -> None:
        self._host = host
        self._stream = stream
        self.connection = connection
        self.name = name
        self.dialed = dialed
        self.meters = meters or Meters()
        self.uploads = host.upload or not limited  # whether it gets anything from us
        self.looks_in = not limited and not dialed  # a program of this machine that asks us
        self._up = host.up if limited else None
        self._down = host.down if limited else None
        self.error: Exception | None = None  # why it ended; None if the peer just left
        self.peer_id: bytes | None = None  # known once its Handshake came, also if that was refused
        self.ended = False
        self.brought = False  # something that verified
        self._refused = False
        self._answers_from = -math.inf
        self._peer_is_live = True
        self._peer_wants_acks = False
        self.started = self.heard = trio.current_time()  # heard: when something last came
        self._keyed = dialed  # the first register is open: now further ones may follow
        self._channels: dict[int, _Channel] = {}
        self._wake = trio.Event()
        self._drained = trio.Event()
        self._scope: trio.CancelScope | None = None

    @property
    def downloads(self) -> list[PeerState]:
        """What the peer has of each register that both know."""
        return [channel.download for channel in self._channels.values()]

    def has_told(self, register: SparseRegister) -> bool:
        """Whether the peer has said what it has of the register, or that it does not know it for too long."""
        for channel in self._channels.values():
            if channel.register is register:
                return channel.download.first_have
        return trio.current_time() - self.started > HANDSHAKE_TIMEOUT

    async def run(self) -> None:
        """Talks until either side has had enough; the reason is in :attr:`error`. Always closes the stream."""
        try:
            async with trio.open_nursery() as nursery:
                self._scope = nursery.cancel_scope
                nursery.start_soon(self._guard, self._write)
                nursery.start_soon(self._guard, self._watch)
                await self._guard(self._read)
                nursery.cancel_scope.cancel()
        finally:
            for channel in self._channels.values():
                channel.download.close()
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
                if self._refused:
                    await self._say_who_we_are()
                await trio.aclose_forcefully(self._stream)

    async def _say_who_we_are(self) -> None:
        """The peer, which may be ourselves, learns why it is not wanted by our id: else it would call for ever."""
        with contextlib.suppress(*EXPECTED):
            await self._stream.send_all(self.connection.data_to_send())

    def end(self, error: Exception | None = None) -> None:
        """Ends the session from outside. It takes no part in anything any more, even before :meth:`run` returns."""
        if self.error is None:
            self.error = error
        self.ended = True
        for channel in self._channels.values():
            channel.download.close()
        if self._scope is not None:
            self._scope.cancel()

    def open_register(self, register: SparseRegister) -> None:
        """Opens a channel for a register that became known after the connection was made."""
        if not self._keyed:
            return  # the peer names the first one; all that are known then are opened together
        try:
            self.connection.open(register.register.key)
            for event in self.connection.events():
                self._handle(event)
        except EXPECTED as error:
            self.end(error)
        self.flush()

    def download_of(self, register: SparseRegister) -> PeerState | None:
        """What this peer has of the register, and is asked for; None while it is not spoken of."""
        return next((channel.download for channel in self._channels.values() if channel.register is register), None)

    def announce(self, register: SparseRegister, start: int, length: int = 1) -> None:
        """Tells the peer that we hold these chunks, if it wants to know."""
        for channel in self._channels.values():
            if channel.register is register:
                channel.upload.announce(start, length)
                if channel.upload.outgoing:
                    self.flush()

    def retract(self, register: SparseRegister, start: int, length: int = 1) -> None:
        """Tells the peer that we no longer hold these chunks, if it was told of any."""
        for channel in self._channels.values():
            if channel.register is register:
                channel.upload.retract(start, length)
        self.flush()

    def flush(self) -> None:
        """Wakes the writer: something is to be said, or may be. Never raises."""
        self._wake.set()

    # -- tasks

    async def _guard(self, task: Callable[[], Awaitable[None]]) -> None:
        try:
            await task()
        except trio.TooSlowError:
            self.end(RemoteProtocolError("the peer did not read what we sent"))
        except EXPECTED as error:
            self.end(error)
        except Exception as error:
            # A mistake of ours that this peer has found must not take the drive away from its readers.
            log.exception("talking to %s failed unexpectedly", self.name)
            self.end(error)

    async def _read(self) -> None:
        buffer = ReceiveBuffer()
        connection = self.connection
        while True:
            view = buffer.view
            piece = view if self._down is None else view[: self._down.piece]
            count = await receive_into(self._stream, piece)
            if not count:
                connection.receive_eof()
                return
            self.heard = trio.current_time()
            self.meters.received.add(count, self.heard)
            connection.receive(view[:count], self.heard)
            for number, event in enumerate(connection.events(), 1):
                self._handle(event)
                if number % MESSAGES_IN_A_ROW == 0:
                    self.flush()
                    await self._until_clear()
            self.flush()
            buffer.fit(count)
            if self._down is not None:
                await self._listen_later(self._down.take(count, self.heard))

    async def _listen_later(self, pause: float) -> None:
        """Lets what comes wait in the kernel, and with it the peer, for the sake of our limit."""
        if pause:
            await trio.sleep(pause)
            for channel in self._channels.values():
                channel.download.excuse(pause, trio.current_time())

    @property
    def _clogged(self) -> bool:
        """Whether the peer asked for so much without reading the answers that we do not listen any more."""
        return any(
            channel.upload.full or len(channel.download.outgoing) + len(channel.upload.outgoing) > UNSENT_MOST
            for channel in self._channels.values()
        )

    async def _until_clear(self) -> None:
        await trio.lowlevel.checkpoint()
        while self._clogged:
            self._drained = trio.Event()
            await self._drained.wait()

    async def _write(self) -> None:
        while True:
            self._encode()
            data = self.connection.data_to_send()
            if not self._clogged:
                self._drained.set()
            if data:
                await self._send(data)
            else:
                self._wake = trio.Event()
                with trio.move_on_at(self._answers_from if self._holds_back else math.inf):
                    await self._wake.wait()

    @property
    def _holds_back(self) -> bool:
        """Whether answers wait until it is clear that this connection to the peer is the one that stays."""
        return trio.current_time() < self._answers_from

    async def _send(self, data: bytearray) -> None:
        size = SEND_PIECE if self._up is None else self._up.piece
        for start in range(0, len(data), size):
            piece = memoryview(data)[start : start + size]
            with trio.fail_after(SEND_TIMEOUT):
                await self._stream.send_all(piece)
            now = trio.current_time()
            self.meters.sent.add(len(piece), now)
            if self._up is not None:
                await trio.sleep(self._up.take(len(piece), now))

    async def _watch(self) -> None:
        started = trio.current_time()
        while True:
            await trio.sleep(TICK)
            now = trio.current_time()
            if self.peer_id is None and now - started > HANDSHAKE_TIMEOUT:
                raise RemoteProtocolError("no handshake came: is that a dat peer, and does it have this drive?")
            self.connection.tick(now)
            for channel in list(self._channels.values()):
                self._share_limit(channel.download)
                channel.download.tick(now)
            self.flush()

    # -- events

    def _handle(self, event: Event) -> None:
        if isinstance(event, MessageReceived):
            channel = self._channels.get(event.channel)
            if channel is not None:
                self._on_message(channel, event.message)
        elif isinstance(event, KeyNeeded):
            register = self._host.register_for(event.discovery_key)
            if register is None:
                raise RemoteProtocolError("the peer asks for a drive that is not here")
            self.connection.open(register.register.key)  # the peer's first one has to be ours
            self._keyed = True
            for other in self._host.registers():
                self.connection.open(other.register.key)
        elif isinstance(event, ChannelOpened):
            self._open_channel(event.channel, event.key)
        elif isinstance(event, HandshakeReceived):
            self.peer_id = event.id
            self._refused = True
            pause = self._host.accept_handshake(self, event.id)
            self._refused = False
            self._answers_from = trio.current_time() + pause
            self._peer_is_live = event.live
            self._peer_wants_acks = event.ack
            for channel in self._channels.values():
                channel.download.start(trio.current_time())
        elif isinstance(event, ChannelClosed):
            closed = self._channels.pop(event.channel, None)
            if closed is not None:
                closed.download.close()

    def _open_channel(self, number: int, key: bytes) -> None:
        for register in self._host.registers():
            if register.register.key == key:
                channel = _Channel(number, register, PeerState(register), UploadState(register))
                self._share_limit(channel.download)
                self._channels[number] = channel
                if self.peer_id is not None:
                    channel.download.start(trio.current_time())

    def _share_limit(self, download: PeerState) -> None:
        """What is on the way to us may be no more than the limit soon lets through, all peers together."""
        if self._down is not None:
            download.bytes_most = self._down.rate * ON_THE_WAY / max(1, len(self._host.sessions))

    def _on_message(self, channel: _Channel, message: Message) -> None:
        now = trio.current_time()
        if isinstance(message, Data):
            if channel.download.on_data(message, now):
                self._host.stored(self, channel.register, message.index)
                if self._peer_wants_acks:
                    channel.upload.outgoing.append(Have(start=message.index, ack=True))
            channel.download.refill(now, in_batches=True)
            if channel.leaving:
                self._let_go(channel)
        elif isinstance(message, Have):
            channel.download.on_have(message, now)
        elif isinstance(message, Unhave):
            channel.download.on_unhave(message, now)
        elif isinstance(message, Info):
            channel.leaving = not message.downloading
            self._let_go(channel)
        elif self.uploads and isinstance(message, Request):
            channel.upload.on_request(message)
        elif self.uploads and isinstance(message, Want):
            channel.upload.on_want(message)

    def _let_go(self, channel: _Channel) -> None:
        """Tells a peer that has all and does not want to stay that we are done with it too (wire.md section 7.5)."""
        if channel.leaving and not self._peer_is_live and not channel.download.in_flight:
            channel.leaving = False
            channel.upload.outgoing.append(Info(uploading=False, downloading=False))

    def _encode(self) -> None:
        """Encodes what the states want to say, then answers of each register in turn while little is to be sent."""
        connection = self.connection
        held_back = self._holds_back
        for channel in self._channels.values():
            for outgoing in (channel.download.outgoing, channel.upload.outgoing)[: 1 if held_back else 2]:
                if outgoing:
                    connection.send_many(channel.number, outgoing)
                    outgoing.clear()
        busy = not held_back
        # Under a limit what is encoded is on its way for long, and our own requests would have to wait behind it.
        most = SEND_BYTES if self._up is None else min(SEND_BYTES, self._up.piece)
        while busy and connection.bytes_pending < most:
            busy = False
            for channel in self._channels.values():
                answer = channel.upload.answer_next()
                if answer is not None:
                    connection.send(channel.number, answer)
                    busy = True
                    if isinstance(answer, Have):
                        return  # a map of a million chunks takes long to encode: others first


def describe(error: BaseException | None) -> str:
    """Why a session ended, in one line for people."""
    if error is None:
        return "the peer closed the connection"
    if isinstance(error, DatfsError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
