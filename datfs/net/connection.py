"""Connection: the wire protocol of one connection as a machine of bytes and events (wire.md sections 1, 3, 4,
5 and 9).

Owns the cipher positions, the channel numbers of both sides, the Handshake and the deadlines. Opens no socket
and reads no clock: received bytes and the time go in, events and bytes to send come out. What the messages of
a register mean is for the replication above.

The states of both directions and their transitions are in :mod:`datfs.net.states`. Rules that its tables do
not show: a second Handshake has no effect; a Feed on a number in use closes the register that was there;
messages of a register that we have not opened are kept for :meth:`Connection.open`, up to a limit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from datfs.crypto import Buffer
from datfs.errors import LocalProtocolError, RemoteProtocolError
from datfs.link import discovery_key
from datfs.net import messages
from datfs.net.cipher import NONCE_BYTES, StreamCipher
from datfs.net.framing import MAX_FRAME, FrameReader, frame_start, split_header
from datfs.net.messages import Data, Extension, Feed, Handshake, Message
from datfs.net.states import RECEIVING, SENDING, Receiving, Sending, Step

MAX_CHANNELS = 256  # of each side; the reference closes the connection at number 256
MAX_QUEUED = 17  # messages for a register that we have not opened; the reference closes at the next one
MAX_QUEUED_BYTES = MAX_FRAME  # of all of those together, else 256 channels of 17 messages could hold 35 GB
MAX_SEALED_BYTES = MAX_FRAME  # bytes that wait for the key
KEEP_ALIVE_INTERVAL = 4.0  # seconds; the reference gives up after 6.25 to 7.5 s of silence
SILENCE_LIMIT = 20.0  # seconds; the reference sends something every 5 s
_KEEP_ALIVE = b"\x00"


# -- events


@dataclass(frozen=True, slots=True)
class KeyNeeded:
    """The peer opened its first register and we have named no key: call ``open`` with the key of this
    register.
    """

    discovery_key: bytes


@dataclass(frozen=True, slots=True)
class ChannelOpened:
    """Both sides have opened the register with this public key; ``channel`` is our number for it."""

    channel: int
    key: bytes


@dataclass(frozen=True, slots=True)
class HandshakeReceived:
    """The peer's Handshake: its id (empty if it sent none), whether it stays, its extensions, whether it
    wants acks.
    """

    id: bytes
    live: bool
    extensions: tuple[str, ...]
    ack: bool


@dataclass(frozen=True, slots=True)
class MessageReceived:
    """A message for a register; ``channel`` is *our* number for it. A large chunk in it is a view of the received
    bytes, good until :meth:`Connection.events` ends.
    """

    channel: int
    message: Message


@dataclass(frozen=True, slots=True)
class ChannelClosed:
    """The peer gave up the register that we call ``channel``: nothing can be sent on it any more."""

    channel: int


Event: TypeAlias = KeyNeeded | ChannelOpened | HandshakeReceived | MessageReceived | ChannelClosed


@dataclass(slots=True, eq=False)
class _Register:
    """One register as this connection knows it; opened by either side, or by both."""

    discovery_key: bytes
    key: bytes | None = None  # ours to know; None until we open it
    channel: int = -1  # our number
    opened_by_peer: bool = False
    closed: bool = False
    queue: list[tuple[Message, int]] = field(default_factory=list)  # with the size of the payload


class Connection:
    """The protocol of one connection, from our side.

    ``id`` (32 bytes) tells us apart from other peers, ``nonce`` (24 random bytes) must never be used twice.
    ``key`` is the public key of the first register: with it, our Feed and Handshake are ready to be sent at
    once. Without it (an acceptor) the peer's Feed makes a :class:`KeyNeeded`, to be answered with
    :meth:`open`. ``now`` and all of the times are seconds on one clock of the caller's choice.

    Methods that are given bytes of the peer, :meth:`events` and :meth:`tick` raise RemoteProtocolError when
    the peer breaks the protocol; the connection is over then. LocalProtocolError means that we did.
    """

    def __init__(
        self,
        *,
        id: bytes,
        nonce: bytes,
        key: bytes | None,
        live: bool = True,
        ack: bool = False,
        extensions: Iterable[str] = (),
        keepalive_interval: float = KEEP_ALIVE_INTERVAL,
        silence_limit: float = SILENCE_LIMIT,
        now: float,
    ) -> None:
        if len(nonce) != NONCE_BYTES:
            raise LocalProtocolError(f"a nonce has {NONCE_BYTES} bytes, not {len(nonce)}")
        # Sorted because the reference maps our names to its own with a merge of two sorted lists.
        self._handshake = Handshake(bytes(id), live, None, tuple(sorted(extensions)), ack)
        self._nonce = bytes(nonce)
        self._keepalive_interval = keepalive_interval
        self._silence_limit = silence_limit
        self._now = self._last_received = self._last_sent = now

        self._receiving = Receiving.FRESH
        self._sending = Sending.FRESH
        self._registers: dict[bytes, _Register] = {}  # by discovery key
        self._ours: list[_Register] = []  # by our number
        self._theirs: dict[int, _Register] = {}  # by the peer's number
        self._queued_bytes = 0
        self._first_ours: bytes | None = None  # public key
        self._first_theirs: Feed | None = None
        self._remote_extensions: tuple[str, ...] = ()

        self._frames = FrameReader()
        self._sealed = bytearray()
        self._pending: deque[Event] = deque()
        self._decrypt: StreamCipher | None = None
        self._encrypt: StreamCipher | None = None
        self._clear = b""  # our first frame, which is never encrypted
        self._outgoing: list[Buffer] = []
        self._outgoing_bytes = 0
        self.bytes_in = 0
        self.bytes_out = 0
        if key is not None:
            self.open(key)

    # -- receiving

    def receive(self, data: bytearray | memoryview, now: float) -> None:
        """Takes bytes of the peer. ``data`` is decrypted where it lies and must stay as it is until
        :meth:`events` ends.
        """
        if self._receiving is Receiving.OVER:
            raise LocalProtocolError("the connection is over; nothing more can be received")
        self._now = self._last_received = now
        self.bytes_in += len(data)
        if self._receiving is Receiving.SEALED:
            if len(self._sealed) + len(data) > MAX_SEALED_BYTES:
                raise self._fail(RemoteProtocolError("the peer sent too much before we knew its register"))
            self._sealed += data
            return
        if self._decrypt is not None:
            self._decrypt.xor(data)
        self._frames.receive(data)

    def receive_eof(self) -> None:
        """The peer sends no more. Raises RemoteProtocolError if that cuts a message, or comes before its
        first one.
        """
        if self._receiving is Receiving.OVER:
            return
        if self._receiving is Receiving.FRESH:
            raise self._fail(
                RemoteProtocolError("the peer closed the connection at once; it probably does not have this drive")
            )
        if self._frames.mid_frame:
            raise self._fail(RemoteProtocolError("the connection was cut in the middle of a message"))
        self._step_receiving(Step.END)

    def events(self) -> Iterator[Event]:
        """What happened, one by one and only as far as it is asked for, so that each event can be dealt with,
        and answered by :meth:`open` or :meth:`send`, before the next is looked at. To be exhausted after each
        receive and open.
        """
        while True:
            while self._pending:
                yield self._pending.popleft()
            if self._receiving in (Receiving.SEALED, Receiving.OVER):
                return
            try:
                frame = next(self._frames, None)
                if frame is None:
                    return
                if len(frame) > 1:  # else a keep-alive, or a header alone, which the reference ignores
                    self._on_frame(frame)
            except RemoteProtocolError as error:
                self._fail(error)
                raise

    def _on_frame(self, frame: memoryview) -> None:
        channel, type_, payload = split_header(frame)
        if channel >= MAX_CHANNELS:
            raise RemoteProtocolError(f"the peer used channel {channel}; {MAX_CHANNELS - 1} is the highest")
        if type_ == messages.FEED:
            self._on_feed(channel, payload)
            return
        self._step_receiving(Step.MESSAGE)
        register = self._theirs.get(channel)
        if register is None:
            raise RemoteProtocolError(f"the peer sent a message on channel {channel} without opening it")
        message = messages.decode(type_, payload)
        if message is None or register.closed:
            return
        if isinstance(message, Handshake):
            self._on_handshake(message)
        elif isinstance(message, Extension) and not self._is_shared(message):
            return
        elif register.key is not None:
            self._pending.append(MessageReceived(register.channel, message))
        else:
            self._enqueue(register, message, len(payload))

    def _on_feed(self, channel: int, payload: memoryview) -> None:
        self._step_receiving(Step.FEED)
        feed = messages.decode(messages.FEED, payload)
        if not isinstance(feed, Feed):
            raise RemoteProtocolError("the peer sent an invalid Feed")
        if self._first_theirs is None:
            self._on_first_feed(feed)
        elif (old := self._theirs.get(channel)) is not None:
            self._close(old)
        register = self._register(feed.discovery_key)
        self._theirs[channel] = register
        if not register.opened_by_peer:
            register.opened_by_peer = True
            if register.key is not None:
                self._pending.append(ChannelOpened(register.channel, register.key))

    def _on_first_feed(self, feed: Feed) -> None:
        if feed.nonce is None:
            raise RemoteProtocolError("the peer's first Feed has no nonce")
        self._first_theirs = feed
        if self._first_ours is None:
            self._sealed += self._frames.unread()
            self._frames.discard_unread()
            self._pending.append(KeyNeeded(feed.discovery_key))
            return
        if feed.discovery_key != discovery_key(self._first_ours):
            raise RemoteProtocolError("the peer opened another register first; it is a peer of another drive")
        self._unseal(self._first_ours, feed.nonce, self._frames.unread())

    def _unseal(self, key: bytes, nonce: bytes, received: bytearray | memoryview) -> None:
        """From here on, the peer's bytes are encrypted; ``received`` are those that have come already."""
        self._step_receiving(Step.KEY)
        self._decrypt = StreamCipher(key, nonce)
        self._decrypt.xor(received)

    def _on_handshake(self, handshake: Handshake) -> None:
        is_first = self._receiving is Receiving.GREETING
        self._step_receiving(Step.HANDSHAKE)
        if is_first:
            self._remote_extensions = handshake.extensions
            self._pending.append(HandshakeReceived(handshake.id, handshake.live, handshake.extensions, handshake.ack))

    def _is_shared(self, message: Extension) -> bool:
        names = self._remote_extensions
        return message.number < len(names) and names[message.number] in self._handshake.extensions

    def _enqueue(self, register: _Register, message: Message, size: int) -> None:
        if isinstance(message, Extension):
            return  # the reference neither keeps nor counts them
        self._queued_bytes += size
        if len(register.queue) >= MAX_QUEUED or self._queued_bytes > MAX_QUEUED_BYTES:
            raise RemoteProtocolError("the peer sent too many messages on a channel that we have not opened")
        if isinstance(message, Data) and message.value is not None:
            message = replace(message, value=bytes(message.value))  # it is a view of a buffer that is used again
        register.queue.append((message, size))

    def _take_queue(self, register: _Register) -> list[Message]:
        queue, register.queue = register.queue, []
        self._queued_bytes -= sum(size for _, size in queue)
        return [message for message, _ in queue]

    def _close(self, register: _Register) -> None:
        """The peer uses the number of ``register`` for something else."""
        if register.closed:
            return
        register.closed = True
        del self._registers[register.discovery_key]
        self._take_queue(register)
        if register.key is not None:
            self._pending.append(ChannelClosed(register.channel))

    def _register(self, discovery_key: bytes) -> _Register:
        register = self._registers.get(discovery_key)
        if register is None:
            register = self._registers[discovery_key] = _Register(discovery_key)
        return register

    # -- sending

    def open(self, key: bytes) -> int:
        """Opens the register with this public key, if it is not open yet, and gives our channel number for
        it.

        The first one must be the one that the peer opened first. May make events, also from messages that
        waited for this.
        """
        if len(key) != messages.KEY_BYTES:
            raise LocalProtocolError(f"a public key has {messages.KEY_BYTES} bytes, not {len(key)}")
        key = bytes(key)
        register = self._register(discovery_key(key))
        if register.key is not None:
            return register.channel
        channel = len(self._ours)
        if channel >= MAX_CHANNELS:
            raise LocalProtocolError(f"a connection has room for {MAX_CHANNELS} registers")
        theirs = self._first_theirs
        is_first = self._first_ours is None
        if is_first and theirs is not None and theirs.discovery_key != register.discovery_key:
            raise LocalProtocolError("the first register to open must be the peer's first")
        self._step_sending(Step.FEED)
        register.key = key
        register.channel = channel
        self._ours.append(register)
        if is_first:
            self._first_ours = key
            self._encrypt = StreamCipher(key, self._nonce)
            self._clear = b"".join(_frame(channel, Feed(register.discovery_key, self._nonce)))
            self._queue(_frame(channel, self._handshake))
        else:
            self._queue(_frame(channel, Feed(register.discovery_key)))
        if self._receiving is Receiving.SEALED and theirs is not None and theirs.nonce is not None:
            self._unseal(key, theirs.nonce, self._sealed)
            self._frames.receive(self._sealed)
            self._sealed = bytearray()
        if register.opened_by_peer:
            self._pending.append(ChannelOpened(channel, key))
            self._pending.extend(MessageReceived(channel, message) for message in self._take_queue(register))
        return channel

    def send(self, channel: int, message: Message) -> None:
        """Makes a message ready to be sent on a channel of ours. The peer need not have opened the register
        yet.
        """
        self.send_many(channel, (message,))

    def send_many(self, channel: int, many: Iterable[Message]) -> None:
        """Makes several ready."""
        self._step_sending(Step.MESSAGE)
        if not 0 <= channel < len(self._ours):
            raise LocalProtocolError(f"channel {channel} was never opened")
        if self._ours[channel].closed:
            raise LocalProtocolError(f"channel {channel} was closed by the peer")
        for message in many:
            if isinstance(message, (Feed, Handshake)):
                raise LocalProtocolError(f"{type(message).__name__} is sent by open() only")
            if isinstance(message, Extension) and message.number >= len(self._handshake.extensions):
                raise LocalProtocolError(f"extension {message.number} was not announced")
            self._queue(_frame(channel, message))

    def data_to_send(self) -> bytearray:
        """All that is ready, encrypted, to be sent exactly once and in this order. Empty if nothing is."""
        if not self.bytes_pending:
            return bytearray()
        data = bytearray().join(self._outgoing)
        if self._encrypt is not None:
            self._encrypt.xor(data)
        if self._clear:
            data[:0] = self._clear
            self._clear = b""
        self._outgoing.clear()
        self._outgoing_bytes = 0
        self.bytes_out += len(data)
        return data

    @property
    def bytes_pending(self) -> int:
        """How much :meth:`data_to_send` would give."""
        return len(self._clear) + self._outgoing_bytes

    def _queue(self, frame: Sequence[Buffer]) -> None:
        self._outgoing += frame
        self._outgoing_bytes += sum(map(len, frame))
        # The last time that we were told of: too early at worst, so a keep-alive may come sooner than it had
        # to.
        self._last_sent = self._now

    # -- time

    def next_deadline(self) -> float | None:
        """When :meth:`tick` wants to be called at the latest; None once the peer sends no more."""
        if self._receiving is Receiving.OVER:
            return None
        silence = self._last_received + self._silence_limit
        if self._sending is not Sending.OPEN:
            return silence
        return min(silence, self._last_sent + self._keepalive_interval)

    def tick(self, now: float) -> None:
        """Lets time pass: makes a keep-alive ready when we were silent for long. Raises RemoteProtocolError
        if the peer was.
        """
        self._now = now
        if self._receiving is Receiving.OVER:
            return
        if now >= self._last_received + self._silence_limit:
            raise self._fail(RemoteProtocolError(f"the peer was silent for {self._silence_limit:g} s"))
        if self._sending is Sending.OPEN and now >= self._last_sent + self._keepalive_interval:
            self._last_sent = now
            if not self.bytes_pending:  # else there is enough to be heard already, if only the peer would read
                self._step_sending(Step.KEEP_ALIVE)
                self._queue((_KEEP_ALIVE,))

    # -- steps

    def _step_receiving(self, step: Step) -> None:
        state = RECEIVING.get((self._receiving, step))
        if state is None:
            raise RemoteProtocolError("the peer's first message is not a Feed; is that a dat peer?")
        self._receiving = state

    def _step_sending(self, step: Step) -> None:
        state = SENDING.get((self._sending, step))
        if state is None:
            raise LocalProtocolError(f"{step.name} cannot be sent while the connection is {self._sending.name}")
        self._sending = state

    def _fail(self, error: RemoteProtocolError) -> RemoteProtocolError:
        """Ends both directions."""
        if self._receiving is not Receiving.OVER:
            self._step_receiving(Step.END)
        if self._sending is not Sending.OVER:
            self._step_sending(Step.END)
        self._frames.discard_unread()
        self._sealed.clear()
        return error


def _frame(channel: int, message: Message) -> list[Buffer]:
    """The pieces of a frame, not joined: a chunk is copied once, when all that is to be sent is put together."""
    pieces = messages.encode_pieces(message)
    return [frame_start(channel, messages.type_of(message), sum(map(len, pieces))), *pieces]
