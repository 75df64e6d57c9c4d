"""What a hostile peer can do to a Connection.

The invariant: whatever bytes a peer sends, cut in any way, we get events or RemoteProtocolError and nothing
else; the cutting changes neither; once it was an error the connection is over; and what the connection holds
on to stays below a bound that does not depend on how much the peer sends.

"Inside" means that the bytes are hostile after decryption: encryption does not authenticate, so that is no
harder.
"""

from __future__ import annotations

import gc
import itertools
import tracemalloc
from collections.abc import Iterable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from datfs import varint
from datfs.errors import RemoteProtocolError
from datfs.link import discovery_key
from datfs.net.cipher import StreamCipher
from datfs.net.connection import Connection, Event, KeyNeeded
from datfs.net.framing import MAX_FRAME, encode_frame
from datfs.net.messages import EXTENSION, Data, Extension, Feed, Handshake, Have, Message, encode, type_of
from tests import strategies
from tests.net.pair import Cut, at_random, bytewise, connection, feed, whole

KEY = bytes(range(32))
OTHERS = [bytes((number,)) * 32 for number in range(4)]
NONCE = bytes(range(24))
MIB = 1 << 20

Outcome = tuple[list[Event], str | None]


def frame(channel: int, message: Message) -> bytes:
    """The frame of a message on a channel of the peer."""
    return encode_frame(channel, type_of(message), encode(message))


def outcome(data: bytes, cut: Cut, *, told: bool) -> Outcome:
    """The events of these bytes and the peer's mistake, if they end with one. Any other exception comes out.

    ``told``: whether the connection was made with its key, or asks for it.
    """
    end = connection(key=KEY if told else None, extensions=("a", "b"))
    if told:
        end.open(OTHERS[0])
    events = []
    try:
        for event in feed(end, data, cut):
            events.append(event)
            if isinstance(event, KeyNeeded) and event.discovery_key == discovery_key(KEY):
                end.open(KEY)
                end.open(OTHERS[0])
    except RemoteProtocolError as error:
        assert end.next_deadline() is None
        assert list(end.events()) == []
        return events, str(error)
    return events, None


def inside(body: bytes) -> bytes:
    """A correct first Feed, and then these bytes, encrypted."""
    return frame(0, Feed(discovery_key(KEY), NONCE)) + StreamCipher(KEY, NONCE).process(body)


def check(data: bytes, seed: int) -> Outcome:
    """Holds bytes against the invariant, for a connection with a key and for one that asks."""
    for told in (True, False):
        results = [outcome(data, cut, told=told) for cut in (whole, bytewise, at_random(seed, 50))]
        assert results[0] == results[1] == results[2]
    return results[0]


seeds = st.integers(0, 2**32)

channels = st.sampled_from([0, 0, 0, 1, 1, 1, 2, 2, 3])
any_frame = st.builds(encode_frame, channels, st.integers(1, 15), st.binary(max_size=60))
bad_feed = st.builds(encode_frame, channels, st.just(0), st.binary(max_size=60))
good_frame = st.builds(frame, channels, strategies.messages)
register_frame = st.builds(frame, channels, strategies.register_messages)
extension_frame = st.builds(frame, channels, st.builds(Extension, st.integers(0, 2), st.binary(max_size=9)))
feed_frame = st.builds(frame, st.integers(0, 4), st.sampled_from(OTHERS).map(lambda key: Feed(discovery_key(key))))

# The second register is one that we open too, the third is not; so most of what follows has somewhere to go.
begun = frame(0, Handshake(b"x", extensions=("a",))) + b"".join(
    frame(number + 1, Feed(discovery_key(OTHERS[number]))) for number in range(2)
)
conversation = st.builds(
    lambda begin, frames, end: begin + b"".join(frames) + end,
    st.sampled_from([begun, begun, begun, b""]),
    st.lists(
        st.one_of(
            register_frame,
            register_frame,
            register_frame,
            extension_frame,
            feed_frame,
            any_frame,
            good_frame,
            st.just(b"\0"),
        ),
        max_size=30,
    ),
    st.just(b"") | bad_feed,
)


@given(st.binary(max_size=300), seeds)
def test_noise(data: bytes, seed: int) -> None:
    """Bytes of no form at all."""
    check(data, seed)


@given(st.binary(max_size=300), seeds)
@example(b"\xff" * 10, 0)
@example(b"\x80\x80\x80\x80\x00", 0)
@example(b"\x01\x03\x02\x03", 0)
def test_noise_inside(data: bytes, seed: int) -> None:
    """The same after a correct first Feed."""
    check(inside(data), seed)


@given(conversation, seeds)
@settings(max_examples=200)
def test_conversation(data: bytes, seed: int) -> None:
    """Frames that are correct one by one, and some that are not, in an order that makes no sense."""
    check(inside(data), seed)


@given(conversation, st.lists(st.tuples(st.integers(0), st.integers(0, 7)), min_size=1, max_size=5), seeds)
def test_flipped_bits(data: bytes, flips: list[tuple[int, int]], seed: int) -> None:
    """A conversation with bits flipped on the way, in its first frame too."""
    damaged = bytearray(inside(data))
    for place, bit in flips:
        damaged[place % len(damaged)] ^= 1 << bit
    check(bytes(damaged), seed)


@given(conversation, st.integers(0, 2000))
def test_cut_off(data: bytes, keep: int) -> None:
    """A conversation that ends anywhere: the end of the stream is in order or the peer's mistake."""
    end = connection(key=KEY)
    try:
        list(feed(end, inside(data)[:keep]))
        end.receive_eof()
    except RemoteProtocolError:
        pass  # it is allowed to be one
    assert end.next_deadline() is None


def held_after(data: Iterable[bytes], end: Connection) -> int:
    """The most memory in use, in bytes beyond the start, while these pieces came; events are thrown away."""
    buffer = bytearray(MIB)
    pieces = iter(data)
    first = next(pieces)
    gc.collect()
    tracemalloc.start()
    try:
        for piece in itertools.chain((first,), pieces):
            view = memoryview(buffer)[: len(piece)]
            view[:] = piece
            end.receive(view, 0.0)
            for _ in end.events():
                pass
        _, peak = tracemalloc.get_traced_memory()
    except RemoteProtocolError:
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return peak


def slices(data: bytes) -> list[bytes]:
    """Pieces of at most 1 MiB."""
    return [data[start : start + MIB] for start in range(0, len(data), MIB)]


def quarter_frames(channels: int) -> bytes:
    """For each of some channels that we have not opened, its Feed and large messages."""
    many = Data(0, bytes(MAX_FRAME // 4))
    opened = b"".join(frame(c, Feed(discovery_key(bytes((c,)) * 32))) for c in range(1, channels + 1))
    return opened + b"".join(frame(c, many) for c in range(1, channels + 1))


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"\0" * (MIB // 4), id="keep-alives"),
        pytest.param(quarter_frames(8), id="messages-for-unopened-registers"),
        pytest.param(frame(1, Feed(bytes(32))) * 20_000, id="one-channel-opened-again-and-again"),
        pytest.param(encode_frame(0, 9, b"\x08\x00" + b"\x1a\x00" * (4 * MIB - 100)), id="tiny-nodes"),
        pytest.param(encode_frame(0, 1, b"\x22\x00" * (4 * MIB - 100)), id="tiny-extension-names"),
        pytest.param(encode_frame(0, EXTENSION, b"\x80" * (MAX_FRAME - 1)), id="endless-extension-number"),
        pytest.param(frame(0, Have(0, 2**20, b"\xff" * (MAX_FRAME - 100))), id="long-bitfield"),
        pytest.param(frame(0, Handshake(bytes(MAX_FRAME - 100))), id="long-id"),
        pytest.param(varint.encode(MAX_FRAME) + b"x" * 10, id="a-claim-only"),
    ],
)
def test_memory_is_bounded(body: bytes) -> None:
    """However much comes and whatever is claimed, we hold a few times the longest frame at most."""
    data = slices(inside(body))
    end = connection(key=KEY)
    assert held_after(data, end) < 4 * MAX_FRAME


def test_memory_while_the_key_is_unknown() -> None:
    """Nothing is kept beyond 8 MiB while we do not know the peer's register."""
    end = connection()
    assert held_after(slices(inside(bytes(3 * MAX_FRAME))), end) < 4 * MAX_FRAME
    assert end.next_deadline() is None
