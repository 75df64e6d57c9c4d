"""Varints: round trips, known bytes, and what must be refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datfs import varint

MOST = 2**64 - 1


@pytest.mark.parametrize(
    ("number", "encoded"),
    [(0, "00"), (1, "01"), (127, "7f"), (128, "8001"), (300, "ac02"), (2**32, "8080808010"), (MOST, "ff" * 9 + "01")],
)
def test_known_bytes(number: int, encoded: str) -> None:
    """A number has exactly the bytes that protobuf gives it."""
    assert varint.encode(number).hex() == encoded
    assert varint.decode(bytes.fromhex(encoded), 0) == (number, len(encoded) // 2)


@given(st.integers(0, 300) | st.integers(0, MOST), st.binary(max_size=5), st.binary(max_size=5))
def test_round_trip_inside_other_bytes(number: int, before: bytes, after: bytes) -> None:
    """Decoding gives the number back and stops where it ends, whatever stands round it and in any buffer."""
    encoded = varint.encode(number)
    buffer = before + encoded + after
    for kind in (bytes, bytearray, memoryview):
        assert varint.decode(kind(buffer), len(before)) == (number, len(before) + len(encoded))


@given(st.integers(0, MOST))
def test_every_cut_is_refused(number: int) -> None:
    """A varint that ends in the middle is an error, never a smaller number."""
    encoded = varint.encode(number)
    for end in range(len(encoded)):
        with pytest.raises(ValueError, match="cut off"):
            varint.decode(encoded[:end], 0)


@pytest.mark.parametrize("encoded", ["ff" * 9 + "02", "ff" * 10, "80" * 10 + "01", "80" * 200], ids=str.__len__)
def test_more_than_64_bits_are_refused(encoded: str) -> None:
    """A number above 2**64-1 is an error, and so is an endless run of continuation bits."""
    with pytest.raises(ValueError, match="64 bits"):
        varint.decode(bytes.fromhex(encoded), 0)


@pytest.mark.parametrize("number", [-1, MOST + 1])
def test_only_64_bits_are_encoded(number: int) -> None:
    """What does not fit is refused instead of cut."""
    with pytest.raises(ValueError, match="64 bits"):
        varint.encode(number)


def test_padded_numbers_are_read() -> None:
    """A longer form of a small number is read as that number: other encoders may write it."""
    assert varint.decode(b"\x85\x80\x00", 0) == (5, 3)
