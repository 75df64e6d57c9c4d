"""The bitfield against a set of numbers, and the run-length coding against the reference."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datfs.bitfield import Bitfield, rle_decode, rle_encode
from tests.register_kit import vectors

INDEX = st.integers(0, 20_000)
OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("set"), INDEX, st.booleans()),
        st.tuples(st.just("range"), INDEX, INDEX, st.booleans()),
        st.tuples(st.just("many"), st.lists(INDEX, max_size=20), st.booleans()),
    ),
    max_size=12,
)
CASES = vectors("bitfield-rle")


@given(OPERATIONS, INDEX, INDEX)
def test_against_a_set(operations: list[tuple[object, ...]], first: int, stop: int) -> None:
    """After any changes every question has the answer that a set of the numbers gives."""
    bits, model = Bitfield(), set[int]()
    for operation in operations:
        match operation:
            case ("set", int(index), bool(on)):
                assert bits.set(index, on) == (on != (index in model))
                (model.add if on else model.discard)(index)
            case ("range", int(low), int(high), bool(on)):
                bits.set_range(low, high, on)
                model = model | set(range(low, high)) if on else model - set(range(low, high))
            case ("many", list(indices), bool(on)):
                bits.set_many(indices, on)
                model = model | set(indices) if on else model - set(indices)
    inside = sorted(index for index in model if first <= index < stop)
    clear = sorted(set(range(first, stop)) - model)
    assert bits.get(first) == (first in model)
    assert bits.next_set(first, stop) == (inside[0] if inside else None)
    assert bits.next_clear(first, stop) == (clear[0] if clear else None)
    assert bits.all_set(first, stop) == (not clear)
    assert bits.any_set(first, stop) == bool(inside)
    assert bits.count(first, stop) == len(inside)
    assert bits.last_set() == max(model, default=None)
    assert [index for low, high in bits.runs() for index in range(low, high)] == sorted(model)
    assert [i for low, high in bits.runs(first) for i in range(low, high)] == sorted(i for i in model if i >= first)
    assert list(bits.every(first, 3, 9)) == [first + 3 * i in model for i in range(9)]


def test_bit_order() -> None:
    """The first bit is the highest of the first byte."""
    bits = Bitfield()
    for index in (0, 7, 9):
        bits.set(index)
    assert bits.to_bytes(0, 16).hex() == "8140"
    assert Bitfield(bytes.fromhex("8140")).get(9)


def test_beyond_the_end() -> None:
    """What was never set is clear, at any index, and asking or clearing costs no memory."""
    bits = Bitfield()
    assert not bits.get(1 << 60)
    assert not bits.set(1 << 60, False)
    bits.set_range(5, 1 << 60, False)
    assert bits.to_bytes(1 << 20, (1 << 20) + 16) == bytes(2)
    assert len(bits) == 0


@given(st.integers(0, 300).map(lambda i: 8 * i), st.binary(max_size=40))
def test_update(first: int, data: bytes) -> None:
    """Bytes replace the bits they stand for and no others."""
    bits = Bitfield(b"\xaa" * 400)
    bits.update(first, data)
    expected = bytearray(b"\xaa" * 400)
    expected[first // 8 : first // 8 + len(data)] = data
    assert bits.to_bytes(0, 8 * len(expected)) == expected


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_run_length_vectors(case: dict[str, object]) -> None:
    """Coding gives the reference's bytes, and decoding gives the bits back without zeros at the end."""
    if "bitmap" in case:
        bitmap = bytes.fromhex(str(case["bitmap"]))
    else:
        repeat = case["repeat"]
        assert isinstance(repeat, dict)
        bitmap = bytes.fromhex(str(repeat["byte"])) * int(repeat["count"])
    assert rle_encode(bitmap).hex() == case["encoded"]
    decoded = rle_decode(bytes.fromhex(str(case["encoded"])), len(bitmap))
    assert decoded == bitmap.rstrip(b"\0")
    assert len(decoded) == case["decodedLength"]


RUNS = st.lists(
    st.one_of(st.binary(max_size=9), st.integers(1, 400).map(bytes), st.integers(1, 400).map(b"\xff".__mul__))
)


@given(RUNS.map(b"".join))
def test_run_length_round_trip(data: bytes) -> None:
    """Any bits come back, and coding never makes more than a few bytes of them."""
    coded = rle_encode(data)
    assert rle_decode(coded, len(data)) == data.rstrip(b"\0")
    assert len(coded) <= len(data) + 3


@given(st.binary(max_size=30))
def test_decoding_garbage(data: bytes) -> None:
    """Any bytes decode to at most the limit, or are refused with ValueError."""
    try:
        assert len(rle_decode(data, 1000)) <= 1000
    except ValueError:
        pass


@pytest.mark.parametrize(("data", "why"), [("ffffffffff7f", "more than"), ("1400", "cut off"), ("80", "cut off")])
def test_decoding_refuses(data: str, why: str) -> None:
    """A run that would need too much memory, or is cut off, is refused before any is made."""
    with pytest.raises(ValueError, match=why):
        rle_decode(bytes.fromhex(data), 1024)
