"""The connection's machine: recordings of the reference, wire.md row by row, deadlines, two ends."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datfs import varint
from datfs.crypto import TreeNode
from datfs.errors import LocalProtocolError, RemoteProtocolError
from datfs.link import discovery_key
from datfs.net.cipher import StreamCipher
from datfs.net.connection import (
    MAX_CHANNELS,
    MAX_QUEUED,
    MAX_QUEUED_BYTES,
    MAX_SEALED_BYTES,
    ChannelClosed,
    ChannelOpened,
    Connection,
    Event,
    HandshakeReceived,
    KeyNeeded,
    MessageReceived,
)
from datfs.net.framing import MAX_FRAME, encode_frame
from datfs.net.messages import (
    DATA,
    EXTENSION,
    HAVE,
    WANT,
    Data,
    Extension,
    Feed,
    Handshake,
    Have,
    Info,
    Message,
    Request,
    Unhave,
    Want,
    encode,
    type_of,
)
from datfs.net.states import RECEIVING, SENDING, Receiving, Sending, Step
from tests import strategies
from tests.net.pair import Cut, Pair, at_random, bytewise, connection, feed, whole
from tests.net.recording import RECORDINGS, Direction, Recording

KEY = bytes(range(32))
SECOND = bytes(range(32, 64))
THIRD = bytes(range(64, 96))
DK, DK2, DK3 = (discovery_key(key) for key in (KEY, SECOND, THIRD))
NONCE = bytes(range(24))
HELLO = Handshake(b"\x22" * 32, live=True)
OPENED = [ChannelOpened(0, KEY), HandshakeReceived(HELLO.id, True, (), False)]

CUTS = [
    pytest.param(whole, id="whole"),
    pytest.param(bytewise, id="bytewise"),
    pytest.param(at_random(1, 7), id="random-7"),
    pytest.param(at_random(2, 1000), id="random-1000"),
]


def frame(channel: int, message: Message) -> bytes:
    """The frame of a message on a channel of the peer."""
    return encode_frame(channel, type_of(message), encode(message))


def stream(*frames: bytes, key: bytes = KEY) -> bytes:
    """What a peer sends: the first frame as it is, the rest encrypted for NONCE."""
    return frames[0] + StreamCipher(key, NONCE).process(b"".join(frames[1:]))


def greeting(*frames: bytes) -> bytes:
    """A correct beginning, and then these frames."""
    return stream(frame(0, Feed(DK, NONCE)), frame(0, HELLO), *frames)


def replay(data: bytes, cut: Cut = whole, **options: Any) -> list[Event]:
    """The events of these bytes on a connection that has opened KEY."""
    return list(feed(connection(key=KEY, **options), data, cut))


def refused(data: bytes, why: str, cut: Cut = whole) -> None:
    """Says that these bytes end the connection with this reason."""
    end = connection(key=KEY)
    with pytest.raises(RemoteProtocolError, match=why):
        list(feed(end, data, cut))
    with pytest.raises(LocalProtocolError, match="over"):
        end.receive(bytearray(b"more"), 0.0)
    assert end.next_deadline() is None


# -- recordings


def receiver(recording: Recording, direction: Direction) -> Connection:
    """The other end of a recorded direction, with both registers open."""
    other = recording.b if direction is recording.a else recording.a
    end = connection(key=recording.keys[0], extensions=other.handshake.extensions)
    end.open(recording.keys[1])
    return end


def expected_events(recording: Recording, direction: Direction) -> Iterator[Event]:
    """What the description of a recording says must happen."""
    other = recording.b if direction is recording.a else recording.a
    theirs, ours = direction.handshake, other.handshake
    for recorded in direction.frames:
        match recorded.message:
            case Feed():
                yield ChannelOpened(recorded.channel, recording.keys[recorded.channel])
            case Handshake(id_, live, _, extensions, ack):
                yield HandshakeReceived(id_, live, extensions, ack)
            case Extension(number) if theirs.extensions[number] not in ours.extensions:
                pass
            case None:
                pass
            case message if recorded.payload:
                yield MessageReceived(recorded.channel, message)


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("side", ["a", "b"])
@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda r: r.name)
def test_recording_gives_its_events(recording: Recording, side: str, cut: Cut) -> None:
    """However a recorded conversation is cut, it gives exactly the events of its description."""
    direction: Direction = getattr(recording, side)
    end = receiver(recording, direction)
    events = list(feed(end, direction.wire, cut))
    assert events == list(expected_events(recording, direction))
    assert len(events) > 2
    assert end.bytes_in == len(direction.wire)
    end.receive_eof()


@pytest.mark.parametrize("side", ["a", "b"])
def test_our_bytes_are_those_of_the_reference(side: str) -> None:
    """Told to say the same, we send the reference's conversation of two-files byte for byte."""
    recording = RECORDINGS[0]
    direction: Direction = getattr(recording, side)
    end = Connection(id=direction.handshake.id, nonce=direction.nonce, key=recording.keys[0], live=True, now=0)
    sent = bytearray()
    for recorded in direction.frames[2:]:
        if isinstance(recorded.message, Feed):
            assert end.open(recording.keys[recorded.channel]) == recorded.channel
        else:
            assert recorded.message is not None
            end.send(recorded.channel, recorded.message)
        if recorded.offset % 3 == 0:
            sent += end.data_to_send()
    sent += end.data_to_send()
    assert sent == direction.wire
    assert end.bytes_out == len(direction.wire)


def test_our_keep_alive_is_that_of_the_reference() -> None:
    """A keep-alive is a zero byte at the running position of the key stream."""
    recording = RECORDINGS[1]
    end = Connection(
        id=recording.b.handshake.id,
        nonce=recording.b.nonce,
        key=recording.keys[0],
        live=False,
        extensions=("gamma", "beta"),
        now=0,
    )
    end.open(recording.keys[1])
    end.data_to_send()
    end.tick(4.0)
    assert end.data_to_send() == recording.b.wire[-1:]


# -- wire.md section 9, row by row


@pytest.mark.parametrize("cut", CUTS)
def test_first_feed_with_another_key(cut: Cut) -> None:
    """Row 1: another first register ends the connection."""
    refused(frame(0, Feed(DK2, NONCE)), "another register first", cut)


@pytest.mark.parametrize(
    ("first", "why"),
    [
        (Feed(DK), "has no nonce"),
        (Feed(DK, bytes(23)), "nonce of 23 bytes"),
        (Feed(DK[:31], NONCE), "discovery key of 31 bytes"),
        (Feed(DK + b"x", NONCE), "discovery key of 33 bytes"),
    ],
)
def test_first_feed_with_wrong_lengths(first: Feed, why: str) -> None:
    """Row 2: a first Feed without nonce, or with lengths that are wrong, ends the connection; so does one
    that is cut.
    """
    refused(frame(0, first), why)
    refused(encode_frame(0, 0, b"\x0a\x20short"), "invalid Feed")


@pytest.mark.parametrize("message", [HELLO, Have(0), Data(0, b"x"), Extension(0, b"x")], ids=str)
def test_first_message_is_not_feed(message: Message) -> None:
    """Row 3: anything else before the first Feed ends the connection, an unknown type too."""
    refused(frame(0, message), "first message is not a Feed")
    refused(encode_frame(0, 12, b"??"), "first message is not a Feed")
    refused(b"GET / HTTP/1.1\r\n" + bytes(100), "is not a Feed|invalid header|used channel")


def test_first_feed_on_another_channel() -> None:
    """Row 4: the first Feed may be on any channel."""
    events = replay(stream(frame(7, Feed(DK, NONCE)), frame(7, HELLO), frame(7, Have(3))))
    assert events == [*OPENED, MessageReceived(0, Have(3))]


def test_longest_message() -> None:
    """Row 5: a frame of 8 MiB is accepted, one byte more or a length of five bytes ends the connection."""
    value = bytes(MAX_FRAME - 1 - 2 - 5)
    big = frame(0, Data(1, value))
    assert big[:4] == varint.encode(MAX_FRAME)
    assert replay(greeting(big), at_random(3, 1 << 20)) == [*OPENED, MessageReceived(0, Data(1, value))]
    refused(greeting(varint.encode(MAX_FRAME + 1)), "8 MiB")
    refused(greeting(b"\x80\x80\x80\x80\x01"), "8 MiB")


@pytest.mark.parametrize(
    "ignored",
    [
        *(encode_frame(0, type_, b"\x08\x00") for type_ in range(10, 15)),
        encode_frame(0, HAVE, b"\x08"),
        encode_frame(0, HAVE, b"\x10\x01"),
        encode_frame(0, DATA, b"\x0a\xff"),
        encode_frame(0, EXTENSION, b"\x80"),
        b"\x01\x03",
        b"\x01\x00",
        b"\x01\xf3",
        b"\x00",
    ],
    ids=bytes.hex,
)
@pytest.mark.parametrize("cut", CUTS[:2])
def test_ignored(ignored: bytes, cut: Cut) -> None:
    """Row 6: unknown types, undecodable payloads, bodies of one byte and keep-alives change nothing."""
    events = replay(greeting(ignored, frame(0, Have(3)), ignored), cut)
    assert events == [*OPENED, MessageReceived(0, Have(3))]


def test_keep_alive_before_the_first_feed() -> None:
    """Keep-alives may come before everything, in the clear, and do not move the key stream."""
    assert replay(b"\0\0" + greeting(frame(0, Have(3))))[-1] == MessageReceived(0, Have(3))


def test_unopened_channel() -> None:
    """Row 7: a message on a channel without Feed, or a channel beyond 255, ends the connection."""
    refused(greeting(frame(1, Have(0))), "channel 1 without opening it")
    refused(greeting(frame(256, Have(0))), "channel 256")
    refused(greeting(frame(256, Feed(DK2))), "channel 256")
    refused(greeting(frame(2**40, Have(0))), "channel 1099511627776")
    refused(greeting(b"\x02\xff\xff"), "invalid header")


def test_too_many_messages_before_we_open() -> None:
    """Row 8: 17 messages for a register that we have not opened are kept, and delivered once we do."""
    kept = [Have(i) for i in range(MAX_QUEUED)]
    second = [frame(1, Feed(DK2)), *(frame(1, have) for have in kept)]
    unheeded = [frame(1, Extension(0, b"x")), encode_frame(1, 11, b"??"), encode_frame(1, HAVE, b"")]
    end = connection(key=KEY)
    assert list(feed(end, greeting(*second, *unheeded * 20))) == OPENED
    assert end.open(SECOND) == 1
    assert list(end.events()) == [ChannelOpened(1, SECOND), *(MessageReceived(1, have) for have in kept)]
    refused(greeting(*second, frame(1, Have(99))), "too many messages")


def test_too_many_bytes_before_we_open() -> None:
    """What is kept is limited in bytes too, over all of the registers together, and room comes back when we
    open one.
    """
    value = bytes(MAX_QUEUED_BYTES // 2 - 100)
    both = [frame(1, Feed(DK2)), frame(2, Feed(DK3)), frame(1, Data(0, value)), frame(2, Data(0, value))]
    refused(greeting(*both, frame(1, Data(1, bytes(300)))), "too many messages")
    end = connection(key=KEY)
    parts = at_random(4, 1 << 20)
    data = greeting(*both, frame(2, Data(1, value)))
    before = len(data) - len(frame(2, Data(1, value)))
    list(feed(end, data[:before], parts))
    end.open(SECOND)
    assert len(list(end.events())) == 2
    assert list(feed(end, data[before:], parts)) == []


def test_a_chunk_that_waits_is_not_a_view() -> None:
    """Kept for a register that is not open yet, it stays as it came when the buffer is used again."""
    end = connection(key=KEY)
    buffer = bytearray(greeting(frame(1, Feed(DK2)), frame(1, Data(0, bytes(100_000)))))
    end.receive(buffer, 0.0)
    assert list(end.events()) == OPENED
    buffer[:] = b"\xff" * len(buffer)
    end.open(SECOND)
    assert list(end.events())[1:] == [MessageReceived(1, Data(0, bytes(100_000)))]


@pytest.mark.parametrize(
    "message",
    [
        Want(1, 8192),
        Want(0, 0),
        Want(2**50, 2**20),
        Request(2**40),
        Request(0, 2**50),
        Have(0, 8, b"\x06"),
        Have(3, 8, b"\x07"),
        Data(0, None, (TreeNode(0, bytes(32), 0),)),
        Data(0),
        Data(0, b"wrong", (), bytes(64)),
    ],
    ids=str,
)
def test_left_to_replication(message: Message) -> None:
    """Rows 9, 10, 12 to 19: well formed messages are delivered as they are, whatever they mean for the
    register.
    """
    assert replay(greeting(frame(0, message), frame(0, message))) == [
        *OPENED,
        *[MessageReceived(0, message)] * 2,
    ]


def test_want_that_kills_the_reference() -> None:
    """Row 11: a Want of 2^32 chunks is the peer's mistake here; one less is not."""
    refused(greeting(frame(0, Want(0, 2**32))), "wants 4294967296 chunks")
    assert replay(greeting(frame(0, Want(0, 2**32 - 1))))[2:] == [MessageReceived(0, Want(0, 2**32 - 1))]


def test_second_handshake_is_ignored() -> None:
    """Row 20: the first Handshake counts; one that does not decode is not the first, one on another channel
    may be.
    """
    other = Handshake(b"\x33" * 32, extensions=("x",))
    assert replay(greeting(frame(0, other), frame(0, Have(1)))) == [*OPENED, MessageReceived(0, Have(1))]
    data = stream(frame(0, Feed(DK, NONCE)), encode_frame(0, 1, b"\x0a\xff"), frame(1, Feed(DK2)), frame(1, HELLO))
    assert replay(data) == OPENED


def test_feed_again() -> None:
    """Row 21: a Feed on a number in use closes the register there; it is ours to open again, with a number of
    its own.
    """
    end = connection(key=KEY)
    data = greeting(frame(0, Feed(DK)), frame(0, Have(1)), frame(0, Feed(DK2)), frame(0, Have(2)))
    assert list(feed(end, data)) == [*OPENED, ChannelClosed(0)]
    with pytest.raises(LocalProtocolError, match="closed by the peer"):
        end.send(0, Have(0))
    assert end.open(SECOND) == 1
    assert list(end.events()) == [ChannelOpened(1, SECOND), MessageReceived(1, Have(2))]
    assert end.open(KEY) == 2
    assert list(end.events()) == []


def test_two_numbers_for_one_register() -> None:
    """A register may be opened under a second number; when the first is given up, both are."""
    data = greeting(frame(4, Feed(DK)), frame(4, Have(1)), frame(0, Feed(DK2)), frame(4, Have(2)), frame(4, Feed(DK3)))
    assert replay(data) == [*OPENED, MessageReceived(0, Have(1)), ChannelClosed(0)]


# -- opening


def test_both_speak_at_once() -> None:
    """A connection with a key has Feed and Handshake ready before anything came; so have both ends."""
    pair = Pair(connection(1, KEY), connection(2, KEY, live=False, ack=True), latency=0.05)
    pair.settle()
    assert pair.now == 0.05
    assert pair.a.events == [ChannelOpened(0, KEY), HandshakeReceived(b"\2" * 32, False, (), True)]
    assert pair.b.events == [ChannelOpened(0, KEY), HandshakeReceived(b"\1" * 32, True, (), False)]


@pytest.mark.parametrize("cut", CUTS)
def test_acceptor_is_told_the_key(cut: Cut) -> None:
    """An acceptor without key asks for it, loses nothing meanwhile, and is answered at once or later."""
    data = greeting(frame(0, Have(1)), frame(1, Feed(DK2)), frame(1, Want(0, 8192)))
    rest = [*OPENED, MessageReceived(0, Have(1)), ChannelOpened(1, SECOND), MessageReceived(1, Want(0, 8192))]

    at_once = connection()
    events = []
    for event in feed(at_once, data, cut):
        events.append(event)
        if isinstance(event, KeyNeeded):
            assert event.discovery_key == DK
            assert not at_once.bytes_pending
            assert at_once.open(KEY) == 0
            assert at_once.open(SECOND) == 1
    assert events == [KeyNeeded(DK), *rest]

    later = connection()
    assert list(feed(later, data, cut)) == [KeyNeeded(DK)]
    assert later.open(KEY) == 0
    assert later.open(SECOND) == 1
    assert sorted(map(str, later.events())) == sorted(map(str, rest))


def test_bytes_may_come_between_open_and_events() -> None:
    """After a late open, more may be received before the events are taken."""
    end = connection()
    data = greeting(frame(0, Have(1)), frame(0, Have(2)))
    assert list(feed(end, data[:-3])) == [KeyNeeded(DK)]
    end.open(KEY)
    end.receive(bytearray(data[-3:]), 0.0)
    assert list(end.events()) == [*OPENED, MessageReceived(0, Have(1)), MessageReceived(0, Have(2))]


def test_bytes_before_the_key_are_limited() -> None:
    """A peer cannot fill the memory while the key is looked up."""
    end = connection()
    assert list(feed(end, frame(0, Feed(DK, NONCE)) + b"x")) == [KeyNeeded(DK)]
    end.receive(bytearray(MAX_SEALED_BYTES - 1), 0.0)
    with pytest.raises(RemoteProtocolError, match="too much before"):
        end.receive(bytearray(1), 0.0)


def test_acceptor_opens_the_wrong_register() -> None:
    """Answering with another register than the peer's is our mistake, and can be corrected."""
    end = connection()
    list(feed(end, greeting()))
    with pytest.raises(LocalProtocolError, match="the peer's first"):
        end.open(SECOND)
    assert end.open(KEY) == 0
    assert list(end.events()) == OPENED


def test_opening_twice() -> None:
    """Opening an open register gives its number and sends nothing."""
    end = connection(key=KEY)
    end.open(SECOND)
    pending = end.bytes_pending
    assert (end.open(KEY), end.open(SECOND), end.bytes_pending) == (0, 1, pending)


def test_numbers_differ_between_the_sides() -> None:
    """Each side numbers in its own order; events and sending use ours."""
    a, b = connection(1, KEY), connection(2, KEY)
    assert [a.open(SECOND), a.open(THIRD), b.open(THIRD), b.open(SECOND)] == [1, 2, 1, 2]
    pair = Pair(a, b)
    pair.settle()
    a.send(1, Have(11))
    a.send_many(2, [Have(12), Have(13)])
    b.send(1, Have(21))
    pair.settle()
    assert pair.b.messages() == [(2, Have(11)), (1, Have(12)), (1, Have(13))]
    assert pair.a.messages() == [(2, Have(21))]


def test_256_channels() -> None:
    """256 registers fit in each direction; we do not try one more."""
    a, b = connection(1, KEY), connection(2, KEY)
    for number in range(1, MAX_CHANNELS):
        key = bytes((number,)) * 32
        assert a.open(key) == b.open(key) == number
    pair = Pair(a, b, cut=at_random(5))
    pair.settle()
    a.send(255, Have(1))
    pair.settle()
    assert pair.b.messages() == [(255, Have(1))]
    with pytest.raises(LocalProtocolError, match="256 registers"):
        a.open(b"\xff" * 31 + b"\xfe")


def test_events_come_one_by_one() -> None:
    """A frame is not looked at before the event of the one before was dealt with."""
    end = connection(key=KEY)
    end.receive(bytearray(greeting(frame(0, Have(1)), frame(9, Have(2)))), 0.0)
    events = end.events()
    assert [next(events) for _ in range(3)] == [*OPENED, MessageReceived(0, Have(1))]
    with pytest.raises(RemoteProtocolError, match="channel 9"):
        next(events)


def test_extensions_both_know_are_delivered() -> None:
    """An extension message comes through, by the sender's number, if both announced the name; else not."""
    a = connection(1, KEY, extensions=("gamma", "alpha", "beta"))
    b = connection(2, KEY, extensions=("gamma", "delta"))
    pair = Pair(a, b)
    pair.settle()
    assert isinstance(pair.b.events[1], HandshakeReceived)
    assert pair.b.events[1].extensions == ("alpha", "beta", "gamma")
    a.send_many(0, [Extension(0, b"no"), Extension(1, b"no"), Extension(2, b"yes")])
    pair.settle()
    assert pair.b.messages() == [(0, Extension(2, b"yes"))]
    with pytest.raises(LocalProtocolError, match="extension 2 was not announced"):
        b.send(0, Extension(2))
    assert replay(greeting(frame(0, Extension(0, b"unknown"))), extensions=("x",)) == OPENED


# -- our mistakes


@pytest.mark.parametrize("channel", [-1, 1, 300])
def test_sending_on_a_channel_never_opened(channel: int) -> None:
    """We must open before we send."""
    with pytest.raises(LocalProtocolError, match="never opened"):
        connection(key=KEY).send(channel, Have(0))


def test_sending_before_opening() -> None:
    """Nothing can be said before the first register."""
    with pytest.raises(LocalProtocolError, match="MESSAGE cannot be sent"):
        connection().send(0, Have(0))


@pytest.mark.parametrize("message", [Feed(DK), HELLO], ids=str)
def test_sending_what_open_sends(message: Message) -> None:
    """Feed and Handshake are not for sending."""
    with pytest.raises(LocalProtocolError, match="open\\(\\) only"):
        connection(key=KEY).send(0, message)


def test_wrong_lengths_of_ours() -> None:
    """A key or nonce of another length is refused before it is used."""
    with pytest.raises(LocalProtocolError, match="public key"):
        connection(key=KEY[1:])
    with pytest.raises(LocalProtocolError, match="nonce"):
        Connection(id=bytes(32), nonce=bytes(23), key=KEY, now=0)


def test_nothing_after_a_mistake_of_the_peer() -> None:
    """Once the peer broke the protocol, nothing can be opened or sent; what was ready may still go."""
    end = connection(key=KEY)
    with pytest.raises(RemoteProtocolError):
        list(feed(end, greeting(frame(9, Have(0)))))
    with pytest.raises(LocalProtocolError, match="while the connection is OVER"):
        end.send(0, Have(0))
    with pytest.raises(LocalProtocolError, match="while the connection is OVER"):
        end.open(SECOND)
    assert list(end.events()) == []
    end.tick(1000.0)
    assert end.data_to_send()
    assert end.data_to_send() == b""


# -- the end


def test_end_of_stream() -> None:
    """The peer may stop sending between two messages; we may still send; nothing is due any more."""
    end = connection(key=KEY)
    list(feed(end, greeting()))
    end.receive_eof()
    end.receive_eof()
    assert end.next_deadline() is None
    end.send(0, Info(False, False))
    with pytest.raises(LocalProtocolError, match="over"):
        end.receive(bytearray(1), 0.0)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "probably does not have this drive"),
        (greeting()[:10], "probably does not have this drive"),
        (greeting(frame(0, Have(1)))[:-1], "cut in the middle"),
    ],
)
def test_stream_ends_too_early(data: bytes, why: str) -> None:
    """A connection that ends before the first Feed, or inside a message, ends with a reason."""
    end = connection(key=KEY)
    list(feed(end, data))
    with pytest.raises(RemoteProtocolError, match=why):
        end.receive_eof()


# -- time


def test_idle_connection_is_kept_alive() -> None:
    """Two idle ends send one byte each per 4 s, and neither times out."""
    a, b = connection(1, KEY), connection(2, KEY)
    pair = Pair(a, b)
    pair.settle()
    sent = a.bytes_out
    pair.run(60.0)
    assert a.bytes_out - sent == b.bytes_out - sent == 15


def test_silent_peer_times_out() -> None:
    """After 20 s without a byte the connection ends, at that moment and with that reason."""
    pair = Pair(connection(1, KEY), connection(2, KEY))
    pair.settle()
    pair.lose()
    with pytest.raises(RemoteProtocolError, match="silent for 20 s"):
        pair.run(60.0)
    assert pair.now == pytest.approx(20.05)


def test_deadlines() -> None:
    """The next deadline is the keep-alive, put off by sending, or the peer's silence, put off by any byte."""
    end = connection(key=None, keepalive_interval=3.0, silence_limit=7.0)
    assert end.next_deadline() == 7.0
    end.tick(1.0)
    end.open(KEY)
    assert end.next_deadline() == 4.0
    end.data_to_send()
    end.tick(3.9)
    assert not end.bytes_pending
    end.tick(4.0)
    assert len(end.data_to_send()) == 1
    end.receive(bytearray(b"\0"), 6.5)
    assert end.next_deadline() == 7.0
    end.tick(7.0)
    end.data_to_send()
    end.tick(10.0)
    end.data_to_send()
    end.tick(13.0)
    assert end.next_deadline() == 13.5
    with pytest.raises(RemoteProtocolError, match="silent for 7 s"):
        end.tick(13.5)


def test_keep_alives_do_not_pile_up() -> None:
    """While the peer does not read, no keep-alives are added to what waits."""
    end = connection(key=KEY, silence_limit=1e9)
    pending = end.bytes_pending
    for second in range(100):
        end.tick(float(second))
    assert end.bytes_pending == pending
    deadline = end.next_deadline()
    assert deadline is not None
    assert deadline > 99


# -- two ends


@given(st.lists(strategies.register_messages, max_size=20), st.integers(0, 2**32), st.integers(1, 300))
def test_everything_arrives_in_order(many: list[Message], seed: int, longest: int) -> None:
    """Any messages over any cuts arrive as they were sent, on both channels."""
    a, b = connection(1, KEY), connection()
    pair = Pair(a, b, cut=at_random(seed, longest))

    def answer(event: Event) -> None:
        if isinstance(event, KeyNeeded):
            b.open(KEY)
            b.open(SECOND)

    pair.b.on_event = answer
    pair.settle()
    a.open(SECOND)
    for position, message in enumerate(many):
        a.send(position % 2, message)
    pair.settle()
    assert pair.b.messages() == [(position % 2, message) for position, message in enumerate(many)]


# -- the tables


def test_every_transition_is_taken() -> None:
    """The tables name every state but the last as a start, and no way leads out of the last."""
    assert {state for state, _ in RECEIVING} == set(Receiving) - {Receiving.OVER}
    assert {state for state, _ in SENDING} == set(Sending) - {Sending.OVER}
    assert set(RECEIVING.values()) | {Receiving.FRESH} == set(Receiving)
    assert {step for _, step in (*RECEIVING, *SENDING)} == set(Step)


def test_unhave_and_requests_pass_both_ways() -> None:
    """An answer given while events are taken goes out in the same turn."""
    a, b = connection(1, KEY), connection(2, KEY)
    pair = Pair(a, b)

    def answer(event: Event) -> None:
        if isinstance(event, MessageReceived) and isinstance(event.message, Request):
            b.send(event.channel, Unhave(event.message.index))

    pair.b.on_event = answer
    a.send(0, Request(5))
    pair.settle()
    assert pair.a.messages() == [(0, Unhave(5))]
    assert WANT not in {type_of(message) for _, message in pair.b.messages()}
