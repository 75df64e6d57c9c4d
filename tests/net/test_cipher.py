"""The XSalsa20 stream: known answers, positions, and refusal of a libsodium that cannot be trusted."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datfs import sodium
from datfs.net import cipher
from datfs.net.cipher import CipherUnavailable, StreamCipher

VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "xsalsa20.json").read_text())
KEY = bytes.fromhex("03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8")
NONCE = bytes(range(0x40, 0x58))


@pytest.mark.parametrize("vector", VECTORS)
def test_chunks_continue_one_stream(vector: dict[str, object]) -> None:
    """The reference's chunks, of odd lengths and empty ones, encrypt one after the other to its bytes."""
    stream = StreamCipher(bytes.fromhex(str(vector["key"])), bytes.fromhex(str(vector["nonce"])))
    chunks = vector["chunks"]
    assert isinstance(chunks, list)
    for chunk in chunks:
        assert stream.process(bytes.fromhex(chunk["plain"])).hex() == chunk["cipher"]
    assert stream.position == sum(chunk["length"] for chunk in chunks)


def test_key_stream_of_the_specification() -> None:
    """Zeros encrypt to the key stream that wire.md section 3 prints, at each position it names."""
    stream = StreamCipher(KEY, NONCE).process(bytes(130))
    assert stream[:8].hex() == "940944b5c55d6814"
    assert stream[64:80].hex() == "8b29e8a22c989ff45bcc7747decf6734"
    assert stream[128:].hex() == "2605"


@given(st.lists(st.integers(0, 200), max_size=12))
def test_cuts_do_not_matter(sizes: list[int]) -> None:
    """Any cuts give the same bytes as one call for all."""
    whole = StreamCipher(KEY, NONCE).process(bytes(sum(sizes)))
    cut = StreamCipher(KEY, NONCE)
    assert b"".join(cut.process(bytes(size)) for size in sizes) == whole


@given(st.integers(0, 130), st.integers(0, 200), st.integers(0, 130))
def test_in_place_touches_only_its_view(before: int, size: int, skip: int) -> None:
    """A view in the middle of a buffer is decrypted where it lies and its surroundings stay."""
    stream = StreamCipher(KEY, NONCE)
    stream.process(bytes(skip))
    expected = StreamCipher(KEY, NONCE).process(bytes(skip + size))[skip:]
    buffer = bytearray(before + size + 7)
    stream.xor(memoryview(buffer)[before : before + size])
    assert buffer == bytes(before) + expected + bytes(7)


@pytest.mark.parametrize(("key", "nonce"), [(31, 24), (33, 24), (32, 23), (32, 32)])
def test_wrong_lengths_are_refused(key: int, nonce: int) -> None:
    """libsodium would read beyond a short key or nonce."""
    with pytest.raises(ValueError, match="XSalsa20 takes"):
        StreamCipher(bytes(key), bytes(nonce))


def test_read_only_bytes_are_refused() -> None:
    """Decrypting in place must not change an immutable object behind Python's back."""
    with pytest.raises(TypeError):
        StreamCipher(KEY, NONCE).xor(memoryview(bytes(10)))


@pytest.fixture
def _unchecked() -> Iterator[None]:
    """Has the known-answer test run again, before and after."""
    cipher._xsalsa20_xor.cache_clear()
    yield
    cipher._xsalsa20_xor.cache_clear()


class _IdleSodium:
    """A library with a function of the right name that encrypts nothing."""

    def __init__(self) -> None:
        self.crypto_stream_xsalsa20_xor_ic = ctypes.CFUNCTYPE(ctypes.c_int)(lambda: 0)


@pytest.mark.usefixtures("_unchecked")
def test_untrustworthy_library_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A libsodium that fails the known answer is never used, and the message says what to install."""
    monkeypatch.setattr(sodium, "load", _IdleSodium)
    with pytest.raises(CipherUnavailable, match=r"wrong answer.*pip install"):
        StreamCipher(KEY, NONCE)
