"""How much of a file is here and who has the rest: exact figures, nothing fetched, hostile entries harmless."""

from __future__ import annotations

import hashlib

import pytest
import trio
import trio.testing

from datfs import holdings
from datfs.holdings import Availability
from datfs.metadata import Stat
from datfs.register import Register
from datfs.sources import CopySource, NoSource
from datfs.sparse import SparseRegister
from datfs.storage import memory_storage
from tests.helpers import ScriptedPeer, drive_of, make_drive, make_register, noise_chunks
from tests.vector_drives import read

DATA = bytes(range(256)) * 1024  # four chunks
CHUNKS = noise_chunks(12)


def copy_of(origin: Register, held: set[int]) -> SparseRegister:
    """A copy that holds some chunks and knows nobody."""
    copy = SparseRegister(Register.open(memory_storage(), key=origin.key), CopySource(origin))
    for index in held:
        proof = origin.proof(index, copy.register.digest(index))
        copy.put(index, origin.get(index), proof.nodes, proof.signature)
    copy.source = NoSource("we are offline")
    return copy


@pytest.mark.parametrize("held", [set(), {0}, {3}, {2, 4, 6}, {2, 3, 4, 7}, {1, 8}, set(range(12))], ids=str)
def test_chunks_and_bytes_that_are_here(held: set[int]) -> None:
    """Exactly those of the file, whatever lies between them and round it."""
    copy = copy_of(make_register(CHUNKS), held)
    stat = Stat(0o100644, size=sum(map(len, CHUNKS[2:8])), blocks=6, offset=2, byte_offset=sum(map(len, CHUNKS[:2])))
    inside = held & set(range(2, 8))
    assert holdings.chunks_held(copy, stat) == len(inside)
    assert holdings.bytes_held(copy, stat) == sum(len(CHUNKS[index]) for index in inside)


def test_entries_that_lie() -> None:
    """A size that is too small, a place that is not the file's, and an absurd number of chunks do no harm."""
    copy = copy_of(make_register(CHUNKS), set(range(12)))
    small = Stat(0o100644, size=1, blocks=6, offset=2, byte_offset=3)
    assert holdings.bytes_held(copy, small) is None
    assert holdings.sha256(copy, small) is None
    displaced = Stat(0o100644, size=len(CHUNKS[0]), blocks=1, offset=0, byte_offset=7)
    assert holdings.can_hash(copy, displaced)
    assert holdings.sha256(copy, displaced) is None
    absurd = Stat(0o100644, size=1 << 50, blocks=1 << 50, offset=0)
    assert holdings.chunks_held(copy, absurd) == 12
    assert holdings.availability(copy, absurd) is Availability.UNKNOWN
    assert not holdings.can_hash(copy, absurd)


def test_the_hash_of_a_file() -> None:
    """That of its bytes, and of nothing for an empty file; not for one that is not whole."""
    copy = copy_of(make_register(CHUNKS), {2, 3})
    start = sum(map(len, CHUNKS[:2]))
    stat = Stat(0o100644, size=len(CHUNKS[2] + CHUNKS[3]), blocks=2, offset=2, byte_offset=start)
    assert holdings.sha256(copy, stat) == hashlib.sha256(CHUNKS[2] + CHUNKS[3]).hexdigest()
    assert holdings.sha256(copy, Stat(0o100644)) == hashlib.sha256(b"").hexdigest()
    assert not holdings.can_hash(copy, Stat(0o100644, size=9, blocks=3, offset=2, byte_offset=start))


async def test_offline_nobody_is_asked_and_nothing_is_certain() -> None:
    """What is missing offline may be anywhere: unknown, not gone."""
    copy = copy_of(make_register(CHUNKS), {0})
    assert holdings.availability(copy, Stat(0o100644, size=9, blocks=2, offset=0)) is Availability.UNKNOWN
    assert not holdings.is_lost(copy, 5)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ({0, 1, 2, 3}, set(), Availability.PEERS),
        ({0, 1}, {2, 3}, Availability.PEERS),
        ({0, 1}, {3}, Availability.PARTLY),
        (set(), set(), Availability.GONE),
    ],
)
async def test_what_peers_have_told(
    first: set[int], second: set[int], expected: Availability, autojump_clock: trio.testing.MockClock
) -> None:
    """Together they may have all, some or nothing of it; who has all alone is counted. Nothing is fetched for that."""
    writer = make_drive({"a.bin": DATA, "b.txt": b"other"})
    peers = [
        ScriptedPeer([writer.metadata, writer.content], held=lambda index, held=held: index in held)  # type: ignore[misc]
        for held in (first, second)
    ]
    async with drive_of(writer, *peers) as (drive, _, _):
        tree = await drive.checkout()
        facts = tree.facts(await tree.find((b"a.bin",)))
        await trio.sleep(12)
        assert facts[b"user.dat.availability"] == expected.value.encode()
        assert facts[b"user.dat.peers_with_all"] == str([first, second].count({0, 1, 2, 3})).encode()
        assert facts[b"user.dat.chunks_held"] == b"0"
        assert drive.content is not None
        assert not drive.content.register.data_bits.count(0, 5)


async def test_facts_of_a_drive(autojump_clock: trio.testing.MockClock) -> None:
    """Of which drive, version and entry, and after reading the hash; a directory has those that make sense."""
    writer = make_drive({"d/a.bin": DATA, "d/b.txt": b"other", "c": b""})
    async with drive_of(writer, ScriptedPeer([writer.metadata, writer.content])) as (drive, _, _):
        tree = await drive.checkout()
        entry = await tree.find((b"d", b"a.bin"))
        common = {b"user.dat.key": drive.key.hex().encode(), b"user.dat.version": b"3"}
        assert dict(tree.facts(await tree.find((b"d",)))) == common | {b"user.dat.seq": b"2"}
        assert dict(tree.facts(tree.root)) == common | {b"user.dat.seq": b"3"}
        before = tree.facts(entry)
        assert b"user.dat.sha256" not in before
        assert (before[b"user.dat.seq"], before[b"user.dat.chunk_first"]) == (b"1", b"0")
        assert await read(tree, entry) == DATA
        after = dict(tree.facts(entry))
        assert after[b"user.dat.sha256"] == hashlib.sha256(DATA).hexdigest().encode()
        assert (after[b"user.dat.chunks_held"], after[b"user.dat.bytes_held"]) == (b"4", str(len(DATA)).encode())
        assert after[b"user.dat.availability"] == b"here"
