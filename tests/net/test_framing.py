"""Cutting frames out of a stream and making them."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datfs import varint
from datfs.errors import LocalProtocolError, RemoteProtocolError
from datfs.net.framing import (
    MAX_FRAME,
    FrameReader,
    encode_frame,
    split_header,
)
from tests.net.pair import bytewise, whole

some_frames = st.lists(st.binary(max_size=300), max_size=8)


def joined(frames: list[bytes]) -> bytes:
    """The stream of these frames."""
    return b"".join(varint.encode(len(frame)) + frame for frame in frames)


def frames_of(reader: FrameReader, pieces: list[bytes]) -> list[bytes]:
    """What a reader finds, with each piece in the same buffer."""
    found = []
    buffer = bytearray(max(map(len, pieces), default=0))
    for piece in pieces:
        buffer[: len(piece)] = piece
        reader.receive(memoryview(buffer)[: len(piece)])
        found += [bytes(frame) for frame in reader]
        buffer[:] = bytes(len(buffer))
    return found


@given(some_frames, st.data())
def test_cuts_do_not_matter(frames: list[bytes], data: st.DataObject) -> None:
    """Wherever the stream is cut, and though the buffer is used again, the same frames come out."""
    stream = joined(frames)
    places = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    pieces = [stream[a:b] for a, b in zip([0, *places], [*places, len(stream)], strict=True)]
    for way in (pieces, list(whole(stream)), list(bytewise(stream))):
        reader = FrameReader()
        assert frames_of(reader, way) == frames
        assert not reader.mid_frame


def test_keep_alive_is_an_empty_frame() -> None:
    """A zero byte is a frame of no bytes, between others and alone."""
    assert frames_of(FrameReader(), [b"\0\x02ab\0\0\x01c\0"]) == [b"", b"ab", b"", b"", b"c", b""]


def test_frame_inside_a_buffer_is_not_copied() -> None:
    """A frame that lies in one buffer is a view of it; one that spans two is not."""
    buffer = bytearray(b"\x03abc\x03d")
    reader = FrameReader()
    reader.receive(buffer)
    first = next(reader)
    buffer[1:4] = b"xyz"
    assert bytes(first) == b"xyz"
    assert list(reader) == []
    reader.receive(b"ef")
    buffer[5:] = b"?"
    assert [bytes(frame) for frame in reader] == [b"def"]


def test_frames_not_taken_are_kept() -> None:
    """What was not taken before the next receive comes first."""
    reader = FrameReader()
    reader.receive(b"\x01a\x01b\x02c")
    assert bytes(next(reader)) == b"a"
    reader.receive(b"d")
    assert [bytes(frame) for frame in reader] == [b"b", b"cd"]


@pytest.mark.parametrize("way", [whole, bytewise], ids=["whole", "bytewise"])
def test_longest_frame(way: type) -> None:
    """8,388,608 bytes are accepted, one more is refused, and so is a length of five bytes, even one that
    means 0.
    """
    reader = FrameReader()
    assert frames_of(reader, list(way(varint.encode(MAX_FRAME)))) == []
    reader.receive(bytes(MAX_FRAME))
    assert [len(frame) for frame in reader] == [MAX_FRAME]
    for length in (varint.encode(MAX_FRAME + 1), b"\x80\x80\x80\x80\x01", b"\x80\x80\x80\x80\x00"):
        with pytest.raises(RemoteProtocolError, match="8 MiB"):
            frames_of(FrameReader(), list(way(length)))


def test_length_in_more_bytes_than_needed() -> None:
    """A length may be padded up to four bytes, as the reference allows."""
    assert frames_of(FrameReader(), [b"\x82\x80\x80\x00ab\x80\x00"]) == [b"ab", b""]


@pytest.mark.parametrize("start", [b"\x80", b"\x05", b"\x05abc"])
def test_mid_frame(start: bytes) -> None:
    """A stream that ends in a length or in a frame is known to be cut."""
    reader = FrameReader()
    frames_of(reader, [start])
    assert reader.mid_frame


def test_memory_is_that_of_one_frame() -> None:
    """Claims of 8 MiB, and long frames received in many pieces, never cost more than one frame."""
    reader = FrameReader()
    piece = bytes(64 * 1024)
    tracemalloc.start()
    try:
        for _ in range(2):
            reader.receive(varint.encode(MAX_FRAME))
            assert list(reader) == []
            for _ in range(MAX_FRAME // len(piece)):
                reader.receive(piece)
                assert [len(frame) for frame in reader] in ([], [MAX_FRAME])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert not reader.mid_frame
    assert peak < MAX_FRAME + 256 * 1024


@given(st.integers(0, 255), st.integers(0, 15), st.binary(max_size=300))
def test_encoded_frame_reads_back(channel: int, type_: int, payload: bytes) -> None:
    """What encode_frame makes is read as one frame with the same channel, type and payload."""
    reader = FrameReader()
    reader.receive(encode_frame(channel, type_, payload))
    (frame,) = reader
    *header, rest = split_header(frame)
    assert (header, bytes(rest)) == ([channel, type_], payload)


def test_frame_too_long_to_send() -> None:
    """We do not send what every peer refuses; just below is sent."""
    assert len(encode_frame(0, 9, bytes(MAX_FRAME - 1))) == 4 + MAX_FRAME
    with pytest.raises(LocalProtocolError, match="8 MiB"):
        encode_frame(0, 9, bytes(MAX_FRAME))


def test_cut_header_is_refused() -> None:
    """A header that goes on beyond its frame ends the connection."""
    with pytest.raises(RemoteProtocolError, match="invalid header"):
        split_header(memoryview(b"\x80\x80"))
