"""Proofs and digests: the reference's, row by row, and complete for any asker."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datfs import flat, proof
from datfs.bitfield import Bitfield
from datfs.proof import PresenceSet, close_upwards, digest, length_of, proof_nodes, verified_by
from datfs.register import ChunkMissing, Register
from tests.register_kit import KEYS, chunk, chunks, copied, empty_copy, fetch, vectors, written

PROOFS = vectors("proofs")["proofs"]
SPARSE = vectors("registers")["sparse"]


@cache
def register(length: int) -> Register:
    """A complete register of the vectors, with a signature for each length. Not to be changed."""
    made = written([])
    for index in range(length):
        made.append([chunk(index)], sync=False)
    return made


@pytest.mark.parametrize("case", PROOFS, ids=lambda case: f"length {case['length']}")
def test_rows(case: dict[str, Any]) -> None:
    """The answer to every request of the vectors has the same nodes in the same order, and a signature or none."""
    made = register(case["length"])
    assert [root.index for root in made.roots()] == case["roots"]
    signature = made.signature(case["length"] - 1)
    assert signature is not None
    assert signature.hex() == case["signature"]
    for index, asked, hash_only, nodes, signed in case["proofs"]:
        found = made.proof(index, asked, hash_only)
        assert [node.index for node in found.nodes] == nodes, (index, asked, hash_only)
        assert found.signature == (signature if signed else None)
    for number, facts in (case.get("nodes") or {}).items():
        node = made.node(int(number))
        assert node is not None
        assert (node.hash.hex(), node.size) == (facts["hash"], facts["size"])


def test_rows_are_many() -> None:
    """The vectors have lengths with one root and with several."""
    assert sum(len(case["proofs"]) for case in PROOFS) == 1385


@pytest.mark.parametrize(
    ("held", "index", "expected"),
    [
        ({0, 1, 2, 3, 5, 7, 11}, 1, 0b1),
        ({0, 1, 2, 3, 5, 7, 11}, 2, 0b101),
        ({0, 1, 2, 3, 5, 7, 11}, 4, 0b1001),
        ({0}, 1, 0b10),
        ({0, 1, 2, 4}, 5, 0),
        ({1, 4}, 0, 0b101),
        ({3, 8}, 5, 0b1010),
        ({0, 1, 2, 3, 5, 9}, 6, 0b1100),
    ],
)
def test_digest_table(held: set[int], index: int, expected: int) -> None:
    """The digests in the tables of register.md section 6."""
    bits = Bitfield()
    bits.set_many(sorted(held), True)
    assert digest(bits, 2 * index) == expected


def test_length_of_examples() -> None:
    """The examples of register.md section 4."""
    bits = Bitfield()
    assert length_of(bits) == 0
    bits.set_many([3, 8], True)
    assert length_of(bits) == 5
    assert verified_by(bits, 8) == 10
    assert verified_by(bits, 4) == 0
    assert all(verified_by(register(6).tree_bits, node) == 12 for node in (0, 1, 2, 3, 4, 5, 6, 8, 9, 10))


@given(st.sets(st.integers(0, 40), max_size=20))
def test_closing_upwards(nodes: set[int]) -> None:
    """Whatever is added in whatever order, a parent is in if both of its children are."""
    held = set[int]()
    for node in nodes:
        close_upwards(node, held.__contains__, held.add)
    assert nodes <= held
    for node in held:
        assert flat.sibling(node) not in held or flat.parent(node) in held


def test_presence_set() -> None:
    """What a peer holds grows, with parents, and starts empty."""
    peer = PresenceSet()
    assert not peer.get(0)
    for node in (0, 2, 5):
        peer.add(node)
    assert [node for node in range(8) if peer.get(node)] == [0, 1, 2, 3, 5]
    assert len(peer) > 5


@pytest.mark.parametrize("asked", [1 << 53, (1 << 64) - 1, -1])
def test_impossible_digests_teach_nothing(asked: int) -> None:
    """A digest that no honest peer could send is answered as one that says nothing."""
    peer = PresenceSet()
    assert register(10).proof(3, asked, remote=peer) == register(10).proof(3)
    assert not any(peer.get(node) for node in range(20))


def test_what_is_not_held_is_not_proved() -> None:
    """A chunk whose leaf is missing, at any index, is refused; so is one whose signature is missing."""
    with pytest.raises(ChunkMissing, match="its leaf is not here"):
        register(3).proof(3)
    with pytest.raises(ChunkMissing, match="its leaf is not here"):
        register(3).proof(1 << 53)
    copy = copied(register(3), [0])
    copy._signatures.discard(2)
    with pytest.raises(ChunkMissing, match="signature of length 3 is not here"):
        copy.proof(0)


@pytest.mark.parametrize("case", SPARSE, ids=lambda case: case["directory"].rpartition("/")[2])
def test_next_digests(case: dict[str, Any]) -> None:
    """After the downloads of the vectors, the digest for each chunk is the one the reference would send."""
    origin, copy = register(case["sourceLength"]), empty_copy()
    for step in case["steps"]:
        found = origin.proof(step["index"], step["digest"], step["hash"])
        value = None if step["hash"] else origin.get(step["index"])
        copy.put(step["index"], value, found.nodes, found.signature)
    for row in case["nextDigests"]:
        assert copy.digest(row["index"]) == row["digest"]
    assert [node for node in range(len(copy.tree_bits)) if copy.tree_bits.get(node)] == case["treeNodes"]
    assert (copy.length, copy.byte_length) == (case["length"], case["byteLength"])


SIZES = st.lists(st.sampled_from([0, 1, 2, 3, 9, 70]), min_size=1, max_size=40)


@settings(max_examples=60)
@given(SIZES, st.data())
def test_clones_serve_each_other(sizes: list[int], data: st.DataObject) -> None:
    """A growing register and sparse copies, each fetching from any other: every answer is accepted and all bytes are
    right; what is held is stored and follows from its children; offsets of all held chunks are known.
    """
    values = [bytes([number % 256]) * size for number, size in enumerate(sizes)]
    writer = written([])
    copies = [empty_copy() for _ in range(3)]
    remotes: dict[tuple[int, int], PresenceSet] = {}
    for _ in range(data.draw(st.integers(1, 25))):
        more = data.draw(st.integers(0, 7))
        writer.append(values[writer.length : writer.length + more], sync=False)
        peers = [writer, *copies]
        asker, answerer = data.draw(st.integers(1, 3)), data.draw(st.integers(0, 3))
        if asker == answerer:
            continue
        copy, origin = peers[asker], peers[answerer]
        held = [index for first, stop in origin.data_bits.runs() for index in range(first, stop)]
        if not held:
            continue
        index = data.draw(st.sampled_from(held))
        remote = remotes.setdefault((asker, answerer), PresenceSet()) if data.draw(st.booleans()) else None
        hash_only, blind = data.draw(st.booleans()), data.draw(st.booleans())
        found = origin.proof(index, 0 if blind else copy.digest(index), hash_only, None if blind else remote)
        before = copy.length
        grew = copy.put(index, None if hash_only else origin.get(index), found.nodes, found.signature)
        assert grew == (copy.length > before)
        assert copy.length <= writer.length
        if not hash_only:
            assert copy.get(index) == values[index]
    for copy in copies:
        assert copy.length == length_of(copy.tree_bits)
        assert copy.byte_length == sum(map(len, values[: copy.length]))
        for first, stop in copy.data_bits.runs():
            for index in range(first, stop):
                assert copy.get(index) == values[index]
                assert copy.byte_offset(index) == sum(map(len, values[:index]))
        for node in range(len(copy.tree_bits)):
            if copy.tree_bits.get(node):
                assert copy.node(node) == writer.node(node)
        assert copy.audit().ok


def test_several_requests_in_flight() -> None:
    """Requests made before the first answer all ask for everything, and all their answers are accepted."""
    origin, copy = register(100), empty_copy()
    answers = [(index, origin.proof(index)) for index in range(100)]
    for index, found in answers:
        copy.put(index, chunk(index), found.nodes, found.signature)
    assert copy.has_range(0, 100)
    assert copy.audit().ok


def test_remote_grows_from_digests_only() -> None:
    """What was sent is not taken as received: the same question gets the same answer."""
    peer = PresenceSet()
    first = register(20).proof(5, 0, remote=peer)
    assert register(20).proof(5, 0, remote=peer) == first


def test_pure_functions_agree_with_the_register() -> None:
    """The register asks :mod:`datfs.proof` with its own bits."""
    origin = register(10)
    found = proof_nodes(origin.tree_bits, 6, 0, False, PresenceSet())
    assert found is not None
    assert found[0] == [node.index for node in origin.proof(3).nodes]
    assert found[1] == 20
    assert proof.digest(origin.tree_bits, 6) == origin.digest(3) == 1
    assert KEYS.public == origin.key
    assert chunks(0, 10) == [origin.get(index) for index in range(10)]


def test_fetching_the_newest_chunk_tells_the_length() -> None:
    """One answer brings a copy from nothing, or from any older length, to the length of its origin."""
    copy = empty_copy()
    assert fetch(copy, register(3), 2)
    assert copy.length == 3
    assert not fetch(copy, register(3), 0)
    assert fetch(copy, register(17), 16)
    assert (copy.length, copy.byte_length) == (17, register(17).byte_length)
