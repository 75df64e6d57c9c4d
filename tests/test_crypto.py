"""Hashes, keys and signatures are those of the reference (vectors/hashes.json, keys.json)."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datfs import crypto
from datfs.crypto import TreeNode
from datfs.link import discovery_key

VECTORS = Path(__file__).parent / "vectors"
HASHES: dict[str, list[dict[str, Any]]] = json.loads((VECTORS / "hashes.json").read_text())
KEYS: list[dict[str, Any]] = json.loads((VECTORS / "keys.json").read_text())


def _data(row: dict[str, Any]) -> bytes:
    if "repeat" in row:
        return bytes.fromhex(row["repeat"]["byte"]) * int(row["repeat"]["count"])
    return bytes.fromhex(row["data"])


def _node(row: dict[str, Any]) -> TreeNode:
    return TreeNode(row["index"], bytes.fromhex(row["hash"]), row["size"])


@pytest.mark.parametrize("row", HASHES["leaves"], ids=lambda row: str(row["size"]))
def test_leaves(row: dict[str, Any]) -> None:
    """The hash of a chunk is the reference's, from empty ones to 64 KiB."""
    assert crypto.leaf_hash(_data(row)).hex() == row["hash"]


@given(st.sampled_from([0, 1, 4095, 4096, 4097, 65536]), st.integers(0, 255))
def test_every_kind_of_buffer_has_the_same_hash(size: int, byte: int) -> None:
    """Bytes, byte arrays and views, writable or not, hash alike: two code paths, one function."""
    value = bytes((byte + i) & 255 for i in range(size))
    inside = bytearray(b"##" + value + b"##")
    hashes = {
        crypto.leaf_hash(value),
        crypto.leaf_hash(bytearray(value)),
        crypto.leaf_hash(memoryview(value)),
        crypto.leaf_hash(memoryview(bytearray(value))),
        crypto.leaf_hash(memoryview(inside)[2 : 2 + size]),
    }
    assert len(hashes) == 1


def test_hashing_lets_go_of_the_buffer() -> None:
    """A receive buffer can be resized right after its chunk was hashed."""
    buffer = bytearray(65536)
    view = memoryview(buffer)
    crypto.leaf_hash(view)
    view.release()
    buffer.clear()


@pytest.mark.parametrize("row", HASHES["parents"], ids=lambda row: str(row["size"]))
def test_parents(row: dict[str, Any]) -> None:
    """A parent has the reference's hash, the sum of the sizes, and stands between its children."""
    left, right = sorted((_node(row["left"]), _node(row["right"])))
    parent = crypto.parent_node(left, right)
    assert parent == ((left.index + right.index) // 2, bytes.fromhex(row["hash"]), row["size"])


@pytest.mark.parametrize("row", HASHES["roots"], ids=lambda row: f"{len(row['roots'])} roots")
def test_root_checksums(row: dict[str, Any]) -> None:
    """What is signed is the reference's checksum of the roots."""
    assert crypto.root_checksum([_node(root) for root in row["roots"]]).hex() == row["hash"]


@pytest.mark.parametrize("row", KEYS, ids=lambda row: str(row["name"]))
def test_keys_and_signatures(row: dict[str, Any]) -> None:
    """Key pair, discovery key, derived content key pair and signatures are the reference's."""
    keys = crypto.key_pair(bytes.fromhex(row["seed"]))
    assert (keys.public.hex(), keys.secret.hex()) == (row["publicKey"], row["secretKey"])
    assert discovery_key(keys.public).hex() == row["discoveryKey"]
    content = crypto.content_key_pair(keys.secret)
    assert (content.public.hex(), content.secret.hex()) == (row["content"]["publicKey"], row["content"]["secretKey"])
    for signed in row["signatures"]:
        message, signature = bytes.fromhex(signed["message"]), bytes.fromhex(signed["signature"])
        assert crypto.sign(keys.secret, message) == signature
        assert crypto.verify(keys.public, message, signature)


def test_new_keys_come_from_the_randomness_given() -> None:
    """Key generation asks its one source for 32 bytes, and two calls without one differ."""
    asked: list[int] = []

    def random(count: int) -> bytes:
        asked.append(count)
        return bytes(range(count))

    assert crypto.key_pair(random=random) == crypto.key_pair(bytes(range(32)))
    assert asked == [32]
    assert crypto.key_pair() != crypto.key_pair()


@given(st.integers(0, 64 * 8 - 1))
def test_a_flipped_bit_is_no_signature(bit: int) -> None:
    """No single bit of a signature can be changed."""
    keys = crypto.key_pair(bytes(32))
    signature = bytearray(crypto.sign(keys.secret, b"message"))
    signature[bit // 8] ^= 1 << bit % 8
    assert not crypto.verify(keys.public, b"message", bytes(signature))


@pytest.mark.parametrize("length", [0, 1, 63, 65, 1000])
def test_a_signature_of_another_length_is_wrong_and_no_error(length: int) -> None:
    """What a peer sends as a signature may have any length."""
    assert not crypto.verify(crypto.key_pair(bytes(32)).public, b"message", bytes(length))


@pytest.mark.parametrize("key", [bytes(31), bytes(33), b"\xff" * 32])
def test_a_key_that_is_none_verifies_nothing(key: bytes) -> None:
    """A key of another length, or no point of the curve, is no reason for an exception either."""
    assert not crypto.verify(key, b"message", bytes(64))


def test_hashing_in_threads() -> None:
    """Threads that hash at the same time do not disturb each other: libsodium runs without the interpreter's lock."""
    values = [bytes([i]) * 500_000 for i in range(16)]
    expected = [crypto.leaf_hash(value) for value in values]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            assert list(pool.map(crypto.leaf_hash, values)) == expected
