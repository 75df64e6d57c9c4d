"""Forged, incomplete and contradicting answers: refused, and nothing of them stored."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datfs.crypto import TreeNode, key_pair, leaf_hash, parent_node, root_checksum, sign
from datfs.errors import BadProof, ForkedRegister
from datfs.proof import PresenceSet
from datfs.register import Proof, Register
from datfs.verification import LENGTH_MOST, check
from tests.register_kit import KEYS, chunk, chunks, copied, empty_copy, fetch, storage_with, written

ORIGIN = written(chunks(0, 11))


def state(register: Register) -> object:
    """Everything that can be seen of a register."""
    nodes = [register.node(number) for number in range(60)]
    signatures = [register.signature(index) for index in range(30)]
    held = [*register.data_bits.runs()]
    values = [register.get(index) for first, stop in held for index in range(first, stop)]
    return register.length, register.byte_length, nodes, signatures, held, values


def refused(copy: Register, index: int, value: bytes | None, nodes: Sequence[TreeNode], signature: bytes | None) -> str:
    """Puts what must be refused, and why it was; nothing may have changed, in memory or on disk."""
    before = state(copy)
    copy.flush()
    with pytest.raises(BadProof) as caught:
        copy.put(index, value, nodes, signature)
    assert caught.value.index == index
    assert state(copy) == before
    copy.flush()
    return caught.value.why


def answer(index: int, copy: Register, origin: Register = ORIGIN, *, hash_only: bool = False) -> Proof:
    """The honest answer to a copy's request."""
    return origin.proof(index, copy.digest(index), hash_only)


def flipped(data: bytes, bit: int) -> bytes:
    """The bytes with one bit changed."""
    return bytes(byte ^ (1 << bit % 8 if at == bit // 8 % len(data) else 0) for at, byte in enumerate(data))


HELD = st.sets(st.integers(0, 10), max_size=4)


@settings(max_examples=80)
@given(HELD, st.integers(0, 10), st.data())
def test_one_flipped_bit(held: set[int], index: int, data: st.DataObject) -> None:
    """A bit changed anywhere in what is needed of an answer makes it worthless."""
    copy = copied(ORIGIN, sorted(held))
    found = answer(index, copy)
    nodes, signature, value = list(found.nodes), found.signature, ORIGIN.get(index)
    parts = ["value", *(["nodes"] if nodes else []), *(["signature"] if signature else [])]
    match data.draw(st.sampled_from(parts)):
        case "value":
            value = flipped(value, data.draw(st.integers(0, 8 * len(value) - 1)))
        case "nodes":
            at = data.draw(st.integers(0, len(nodes) - 1))
            index_of, digest, size = nodes[at]
            match data.draw(st.sampled_from(["hash", "size", "index"])):
                case "hash":
                    digest = flipped(digest, data.draw(st.integers(0, 255)))
                case "size":
                    size ^= 1 << data.draw(st.integers(0, 60))
                case "index":
                    index_of ^= 1 << data.draw(st.integers(0, 60))
            nodes[at] = TreeNode(index_of, digest, size)
        case "signature":
            assert signature is not None
            signature = flipped(signature, data.draw(st.integers(0, 511)))
    refused(copy, index, value, nodes, signature)
    fetch(copy, ORIGIN, index)
    assert copy.get(index) == ORIGIN.get(index)


@settings(max_examples=60)
@given(HELD, st.integers(0, 10), st.booleans(), st.data())
def test_missing_extra_and_shuffled_nodes(held: set[int], index: int, hash_only: bool, data: st.DataObject) -> None:
    """Any list of genuine nodes is refused, or leads to exactly the genuine register."""
    copy = copied(ORIGIN, sorted(held))
    genuine = [node for number in range(21) if (node := ORIGIN.node(number)) is not None]
    nodes = data.draw(st.lists(st.sampled_from(genuine), max_size=7))
    signature = data.draw(st.sampled_from([None, ORIGIN.signature(10)]))
    try:
        copy.put(index, None if hash_only else ORIGIN.get(index), nodes, signature)
    except BadProof:
        pass
    assert copy.length in (0, 11)
    for number in range(40):
        assert copy.node(number) is None or copy.node(number) == ORIGIN.node(number)
    assert copy.audit().ok


def test_forgery_that_the_reference_accepts() -> None:
    """Arbitrary bytes for a chunk whose leaf is known, with the genuine roots and signature (pitfall 12.1)."""
    copy = copied(ORIGIN, [0])
    assert copy.node(2) is not None
    forged = b"X" * len(chunk(1))
    roots, signature = ORIGIN.roots(), ORIGIN.signature(10)
    assert "verified hash" in refused(copy, 1, forged, roots, signature)
    assert "no root" in refused(empty_copy(), 1, forged, roots, signature)
    assert "no root" in refused(copied(ORIGIN, [10]), 1, forged, roots, signature)


def test_hash_only_with_another_leaf() -> None:
    """A hash-only answer must begin with the leaf that was asked for."""
    found = ORIGIN.proof(4, 0, hash_only=True)
    why = refused(empty_copy(), 5, None, found.nodes, found.signature)
    assert why == "the answer has neither the chunk nor its leaf"


def test_neither_value_nor_nodes() -> None:
    """An empty answer is refused, with or without a signature."""
    for signature in (None, ORIGIN.signature(10)):
        assert "neither" in refused(empty_copy(), 5, None, [], signature)
        assert "neither" in refused(copied(ORIGIN, [4]), 5, None, [], signature)


def test_missing_root() -> None:
    """A root that is neither sent nor held is missed."""
    found = ORIGIN.proof(0)
    assert [node.index for node in found.nodes] == [2, 5, 11, 17, 20]
    assert "root 17 is missing" in refused(
        empty_copy(), 0, chunk(0), [*found.nodes[:3], found.nodes[4]], found.signature
    )


def test_extra_node() -> None:
    """A node that nothing needs is refused where roots are checked."""
    found = ORIGIN.proof(0)
    extra = ORIGIN.node(13)
    assert extra is not None
    twice = [*found.nodes, found.nodes[-1]]
    assert "node 20 is not needed" in refused(empty_copy(), 0, chunk(0), twice, found.signature)
    for at in range(6):
        refused(empty_copy(), 0, chunk(0), [*found.nodes[:at], extra, *found.nodes[at:]], found.signature)


def test_full_proofs_are_accepted_by_those_who_need_none() -> None:
    """More nodes than needed, in an honest full proof, are no reason to refuse."""
    copy = copied(ORIGIN, range(0, 11, 3))
    for index in range(11):
        found = ORIGIN.proof(index)
        copy.put(index, chunk(index), found.nodes, found.signature)
    assert copy.has_range(0, 11)
    assert copy.audit().ok


def test_signature_is_needed() -> None:
    """Roots without a signature are refused, also of a register of which nothing is known (a frozen one)."""
    found = ORIGIN.proof(0)
    assert "no signature" in refused(empty_copy(), 0, chunk(0), found.nodes, None)
    small = written([b"a"])
    frozen = root_checksum(small.roots())
    with pytest.raises(BadProof, match="no signature"):
        check(frozen, lambda number: None, 0, b"a", [], None)


@pytest.mark.parametrize("signature", [b"", bytes(64), b"\xff" * 64, b"short"])
def test_no_signature_at_all(signature: bytes) -> None:
    """Bytes that are no signature are refused."""
    found = ORIGIN.proof(0)
    assert "not the writer's" in refused(empty_copy(), 0, chunk(0), found.nodes, signature)


def test_signature_of_another_length() -> None:
    """The signature of a shorter length does not cover a longer one, nor the other way round."""
    shorter = written(chunks(0, 6))
    found = ORIGIN.proof(2)
    assert "not the writer's" in refused(empty_copy(), 2, chunk(2), found.nodes, shorter.signature(5))
    found = shorter.proof(2)
    assert "not the writer's" in refused(empty_copy(), 2, chunk(2), found.nodes, ORIGIN.signature(10))


def test_shorter_signed_length_is_accepted() -> None:
    """A peer that lags proves its shorter length; ours stays, and its signature is kept beside ours."""
    copy = copied(ORIGIN, [10])
    lagging = written(chunks(0, 6))
    found = lagging.proof(5, 0)
    assert not copy.put(5, chunk(5), found.nodes, found.signature)
    assert copy.length == 11
    assert copy.signature(5) == lagging.signature(5)
    assert copy.audit().ok
    served = copied(copy, [5])
    assert served.get(5) == chunk(5)


def test_signature_of_another_writer() -> None:
    """What somebody else signed is refused."""
    other = key_pair(b"\x09" * 32)
    made = Register.create(storage_with({}), other)
    made.append(chunks(0, 11))
    found = made.proof(3)
    assert "not the writer's" in refused(empty_copy(), 3, chunk(3), found.nodes, found.signature)


# --- sizes


def lie(nodes: Sequence[TreeNode], more: int) -> list[TreeNode]:
    """A hash-only answer whose leaf claims ``more`` bytes and whose first uncle as many fewer."""
    leaf, uncle, *rest = nodes
    return [leaf._replace(size=leaf.size + more), uncle._replace(size=uncle.size - more), *rest]


@pytest.mark.parametrize("first", [2, 3])
def test_lied_sizes_are_corrected(first: int) -> None:
    """Sizes that a hash-only answer lied about are right again as soon as either chunk is there."""
    copy = empty_copy()
    found = ORIGIN.proof(2, 0, hash_only=True)
    copy.put(2, None, lie(found.nodes, 4), found.signature)
    assert copy.size_of(2) == len(chunk(2)) + 4
    for index in (first, 5 - first):
        fetch(copy, ORIGIN, index)
        assert copy.get(index) == chunk(index)
        assert (copy.size_of(2), copy.size_of(3)) == (len(chunk(2)), len(chunk(3)))
        assert copy.byte_offset(3) == ORIGIN.byte_offset(3)
    assert copy.audit().ok


def test_lies_do_not_replace_verified_sizes() -> None:
    """A hash-only answer about held nodes cannot change their sizes."""
    copy = copied(ORIGIN, [2, 3])
    found = ORIGIN.proof(2, 0, hash_only=True)
    before = state(copy)
    copy.put(2, None, lie(found.nodes, 4), found.signature)
    assert state(copy) == before
    # The sibling's size was signed, the leaf is not known yet.
    copy = copied(written(chunks(0, 1)), [0])
    fetch(copy, ORIGIN, 10)
    assert copy.node(2) is None
    leaf, uncle = ORIGIN.node(2), ORIGIN.node(0)
    assert leaf is not None
    assert uncle is not None
    found = ORIGIN.proof(1, 0, hash_only=True)
    assert [node.index for node in found.nodes[:2]] == [2, 0]
    assert "another size" in refused(copy, 1, None, lie(found.nodes, 4), found.signature)
    assert copy.get(0) == chunk(0)


@pytest.mark.parametrize("size", [-1, 1 << 53, 1 << 63])
def test_impossible_sizes(size: int) -> None:
    """Sizes that no register can have are refused before anything is computed from them."""
    found = ORIGIN.proof(0)
    nodes = [found.nodes[0]._replace(size=size), *found.nodes[1:]]
    assert "impossible" in refused(empty_copy(), 0, chunk(0), nodes, found.signature)


def test_hash_of_another_length() -> None:
    """A node whose hash has not 32 bytes is refused."""
    found = ORIGIN.proof(0)
    nodes = [found.nodes[0]._replace(hash=b"short"), *found.nodes[1:]]
    assert "impossible" in refused(empty_copy(), 0, chunk(0), nodes, found.signature)


@pytest.mark.parametrize("index", [-1, LENGTH_MOST, 1 << 53, 1 << 63])
def test_impossible_indices(index: int) -> None:
    """Chunk numbers beyond what we keep bits for are refused."""
    with pytest.raises(BadProof, match="not supported"):
        empty_copy().put(index, b"", [], None)


def test_the_writer_does_not_choose_our_memory() -> None:
    """A validly signed register of absurd length is refused before its bitfield would be made."""
    number = 2 * LENGTH_MOST - 1  # the node above the first 2 ** 28 chunks
    left, far = TreeNode(number, b"\x01" * 32, 1), TreeNode(2 * LENGTH_MOST, leaf_hash(b"x"), 1)
    signature = sign(KEYS.secret, root_checksum([left, far]))
    with pytest.raises(BadProof, match="not supported"):
        empty_copy().put(LENGTH_MOST, b"x", [left], signature)
    inside = TreeNode(0, leaf_hash(b"x"), 1)
    with pytest.raises(BadProof, match=r"impossible|not supported"):
        empty_copy().put(0, b"x", [TreeNode(1 << 50, b"\x01" * 32, 1)], sign(KEYS.secret, root_checksum([inside])))


def test_too_large_chunk() -> None:
    """A chunk larger than any message is refused."""
    assert "larger" in refused(empty_copy(), 0, bytes(8 * 1024 * 1024 + 1), [], None)


# --- forks

FORK = written([*chunks(0, 4), b"another", *chunks(5, 12)])
"""The same writer has signed a register that differs from :data:`ORIGIN` in chunk 4."""


@pytest.mark.parametrize(
    ("held", "index"),
    [
        pytest.param([4], 4, id="the chunk itself"),
        pytest.param([5], 4, id="its leaf, known as a sibling"),
        pytest.param([4], 5, id="the sibling, of a chunk that is the same in both"),
        pytest.param([0], 6, id="a node above"),
        pytest.param([10], 0, id="a root"),
    ],
)
def test_signed_contradiction_is_a_fork(held: list[int], index: int) -> None:
    """A complete, validly signed answer that contradicts what is held is a fork, wherever it shows."""
    copy = copied(ORIGIN, held)
    before = state(copy)
    found = FORK.proof(index)
    with pytest.raises(ForkedRegister, match="two different histories"):
        copy.put(index, FORK.get(index), found.nodes, found.signature)
    assert state(copy) == before


def test_hash_only_fork() -> None:
    """A hash-only answer proves a fork as well."""
    copy = copied(ORIGIN, [4])
    found = FORK.proof(4, 0, hash_only=True)
    with pytest.raises(ForkedRegister):
        copy.put(4, None, found.nodes, found.signature)


def test_contradiction_without_signature_is_the_peers_fault() -> None:
    """What is not signed proves nothing about the writer."""
    copy = copied(ORIGIN, [4])
    found = FORK.proof(4)
    assert "verified hash" in refused(copy, 4, b"another", found.nodes, None)
    other = ORIGIN.signature(10)
    assert "verified hash" in refused(copy, 4, b"another", found.nodes, other)


def test_fork_beyond_what_is_held_is_not_seen_as_forgery() -> None:
    """Until a contradiction shows, a forked register looks like any other: the same beginning is accepted."""
    copy = copied(written(chunks(0, 4)), [0])
    fetch(copy, FORK, 11)
    assert copy.length == 12


def test_contradicting_uncle_in_a_signed_answer() -> None:
    """An uncle that differs from the held one, in an answer that leads past it to signed roots."""
    short, other = written([b"a"]), written([b"b", b"c", b"d"])
    copy = copied(short, [0])
    found = other.proof(1)
    assert [node.index for node in found.nodes] == [0, 4]
    with pytest.raises(ForkedRegister):
        copy.put(1, b"c", found.nodes, found.signature)
    assert copy.get(0) == b"a"


def test_every_step_is_needed() -> None:
    """A climb by hand: parents, roots and the signature over them are what the register has."""
    leaves = [TreeNode(2 * number, leaf_hash(chunk(number)), len(chunk(number))) for number in range(3)]
    roots = [parent_node(leaves[0], leaves[1]), leaves[2]]
    signature = sign(KEYS.secret, root_checksum(roots))
    accepted = check(KEYS.public, lambda number: None, 1, chunk(1), [leaves[0], leaves[2]], signature)
    assert accepted.length == 3
    assert list(accepted.roots) == roots
    assert sorted(accepted.nodes) == [leaves[0], roots[0], leaves[1], leaves[2]]


def test_remote_sets_of_two_peers_do_not_mix() -> None:
    """Each peer's set is its own: what one is believed to hold is sent to the other."""
    first, second = PresenceSet(), PresenceSet()
    ORIGIN.proof(1, copied(ORIGIN, [0]).digest(1), remote=first)
    assert ORIGIN.proof(1, 0, remote=second).nodes == ORIGIN.proof(1, 0).nodes
