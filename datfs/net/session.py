"""One connection to one peer: moves bytes and waits; decides nothing that a test would want to check.

Drives one :class:`~datfs.net.connection.Connection` over one trio stream, with a reader, a writer and a timer, and
hands messages to the :class:`~datfs.net.replication.PeerState` and :class:`~datfs.net.upload.UploadState` of their
register. What goes wrong ends this session and nothing else.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

import trio

from datfs.errors import BadProof, DatfsError, ForkedRegister, ProtocolError, RemoteProtocolError
from datfs.net.connection import (
    ChannelClosed,
    ChannelOpened,
    Connection,
    Event,
    HandshakeReceived,
    KeyNeeded,
    MessageReceived,
)
from datfs.net.messages import Data, Have, Message, Request, Unhave, Want
from datfs.net.replication import PeerState
from datfs.net.transport import receive_into
from datfs.net.upload import UploadState
from datfs.sparse import SparseRegister

log = logging.getLogger(__name__)

RECEIVE_BYTES = 256 * 1024
SEND_BYTES = 1024 * 1024  # answers are made while less than this waits to be sent
HANDSHAKE_TIMEOUT = 10.0
SEND_TIMEOUT = 60.0  # a peer that reads nothing for so long is gone
TICK = 1.0

EXPECTED = (
    ProtocolError,
    BadProof,
    ForkedRegister,
    OSError,
    trio.BrokenResourceError,
    trio.ClosedResourceError,
)


class Host(Protocol):
    """What a session needs of the swarm."""

    upload: bool

    def register_for(self, discovery_key: bytes) -> SparseRegister | None:
        """The register with this discovery key, if we serve or want it."""
        ...

    def registers(self) -> list[SparseRegister]:
        """All registers of the drive, metadata first."""
        ...

    def stored(self, session: Session, register: SparseRegister, index: int) -> None:
        """A chunk that ``session`` brought was stored."""
        ...

    def accept_handshake(self, session: Session, peer_id: bytes) -> None:
        """Raises RemoteProtocolError if this connection is one too many (to ourselves, or a second one)."""
        ...


@dataclass(slots=True)
class _Channel:
    """Both directions of one register on this connection."""

    number: int
    register: SparseRegister
    download: PeerState
    upload: UploadState


class Session:
    """One connection. ``name`` is the peer for people: its address and where that came from."""

    def __init__(self, host: Host, stream: trio.abc.Stream, connection: Connection, name: str) -> None:
        self._host = host
        self._stream = stream
        self.connection = connection
        self.name = name
        self.error: Exception | None = None  # why it ended; None if the peer just left
        self.peer_id: bytes | None = None
        self._channels: dict[int, _Channel] = {}
        self._wake = trio.Event()
        self._drained = trio.Event()
        self._scope: trio.CancelScope | None = None

    @property
    def downloads(self) -> list[PeerState]:
        """What the peer has of each register that both know."""
        return [channel.download for channel in self._channels.values()]

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
                await trio.aclose_forcefully(self._stream)

    def end(self, error: Exception | None = None) -> None:
        """Ends the session from outside."""
        if self.error is None:
            self.error = error
        if self._scope is not None:
            self._scope.cancel()

    def open_register(self, register: SparseRegister) -> None:
        """Opens a channel for a register that became known after the connection was made."""
        self.connection.open(register.register.key)
        self._handle_events()
        self.flush()

    def kick(self, register: SparseRegister) -> None:
        """Something is wanted: ask this peer if it can bring it."""
        now = trio.current_time()
        for channel in self._channels.values():
            if channel.register is register:
                channel.download.refill(now)
        self.flush()

    def announce(self, register: SparseRegister, start: int, length: int = 1) -> None:
        """Tells the peer that we hold these chunks, if it wants to know."""
        for channel in self._channels.values():
            if channel.register is register:
                channel.upload.announce(start, length)
        self.flush()

    # -- tasks

    async def _guard(self, task: Callable[[], Awaitable[None]]) -> None:
        try:
            await task()
        except trio.TooSlowError:
            self.end(RemoteProtocolError("the peer did not read what we sent"))
        except EXPECTED as error:
            self.end(error)

    async def _read(self) -> None:
        buffer = bytearray(RECEIVE_BYTES)
        view = memoryview(buffer)
        connection = self.connection
        while True:
            while any(channel.upload.full for channel in self._channels.values()):
                self._drained = trio.Event()
                await self._drained.wait()
            count = await receive_into(self._stream, buffer)
            if not count:
                connection.receive_eof()
                return
            connection.receive(view[:count], trio.current_time())
            self._handle_events()
            self.flush()

    async def _write(self) -> None:
        while True:
            self._answer()
            data = self.connection.data_to_send()
            if data:
                with trio.fail_after(SEND_TIMEOUT):
                    await self._stream.send_all(data)
            else:
                self._wake = trio.Event()
                await self._wake.wait()

    async def _watch(self) -> None:
        started = trio.current_time()
        while True:
            await trio.sleep(TICK)
            now = trio.current_time()
            if self.peer_id is None and now - started > HANDSHAKE_TIMEOUT:
                raise RemoteProtocolError("no handshake came: is that a dat peer, and does it have this drive?")
            self.connection.tick(now)
            for channel in list(self._channels.values()):
                channel.download.tick(now)
            self.flush()

    # -- events

    def _handle_events(self) -> None:
        for event in self.connection.events():
            self._handle(event)

    def _handle(self, event: Event) -> None:
        if isinstance(event, MessageReceived):
            channel = self._channels.get(event.channel)
            if channel is not None:
                self._on_message(channel, event.message)
        elif isinstance(event, KeyNeeded):
            register = self._host.register_for(event.discovery_key)
            if register is None:
                raise RemoteProtocolError("the peer asks for a drive that is not here")
            for register in self._host.registers():
                self.connection.open(register.register.key)
        elif isinstance(event, ChannelOpened):
            self._open_channel(event.channel, event.key)
        elif isinstance(event, HandshakeReceived):
            self._host.accept_handshake(self, event.id)
            self.peer_id = event.id
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
                self._channels[number] = channel
                if self.peer_id is not None:
                    channel.download.start(trio.current_time())

    def _on_message(self, channel: _Channel, message: Message) -> None:
        now = trio.current_time()
        if isinstance(message, Data):
            if channel.download.on_data(message, now):
                self._host.stored(self, channel.register, message.index)
            channel.download.refill(now)
        elif isinstance(message, Have):
            channel.download.on_have(message, now)
        elif isinstance(message, Unhave):
            channel.download.on_unhave(message, now)
        elif self._host.upload and isinstance(message, Request):
            channel.upload.on_request(message)
        elif self._host.upload and isinstance(message, Want):
            channel.upload.on_want(message)

    def flush(self) -> None:
        """Encodes what the states want to say and wakes the writer."""
        for channel in self._channels.values():
            for outgoing in (channel.download.outgoing, channel.upload.outgoing):
                if outgoing:
                    for message in outgoing:
                        self.connection.send(channel.number, message)
                    outgoing.clear()
        if self.connection.bytes_pending or any(c.upload.waiting for c in self._channels.values()):
            self._wake.set()

    def _answer(self) -> None:
        """Makes answers to requests, in turn for each register, while little waits to be sent."""
        connection = self.connection
        busy = True
        while busy and connection.bytes_pending < SEND_BYTES:
            busy = False
            for channel in self._channels.values():
                answer = channel.upload.answer_next()
                if answer is not None:
                    connection.send(channel.number, answer)
                    busy = True
        if not any(channel.upload.full for channel in self._channels.values()):
            self._drained.set()


def describe(error: BaseException | None) -> str:
    """Why a session ended, in one line for people."""
    if error is None:
        return "the peer closed the connection"
    if isinstance(error, DatfsError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
