"""Open files: right bytes for any chunk sizes, only the chunks that are needed, read-ahead that grows and resets."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from datfs.bitfield import Bitfield
from datfs.crypto import key_pair
from datfs.errors import BadMetadata, CorruptStorage, NoPeers
from datfs.metadata import Stat
from datfs.open_file import READ_AHEAD_MAX, OpenFile
from datfs.register import Register
from datfs.sources import CopySource, NoSource
from datfs.sparse import SparseRegister
from datfs.storage import MemoryStorage, OpenStorage, RandomAccess, memory_storage
from tests.helpers import SEED

BEFORE = [b"another file", b"x" * 7]


def source_with(chunks: list[bytes]) -> tuple[Register, Stat, bytes]:
    """A content register in which a file of these chunks follows another and is followed by a third."""
    register = Register.create(memory_storage(), key_pair(SEED))
    register.append([*BEFORE, *chunks, b"a third file"], sync=False)
    data = b"".join(chunks)
    stat = Stat(
        mode=0o100644, size=len(data), blocks=len(chunks), offset=len(BEFORE), byte_offset=sum(map(len, BEFORE))
    )
    return register, stat, data


class CountingSource(CopySource):
    """Remembers which chunks it was asked for."""

    def __init__(self, origin: Register) -> None:
        super().__init__(origin)
        self.brought: list[int] = []

    def wants_changed(self, register: SparseRegister) -> None:
        before = set(register.wants)
        super().wants_changed(register)
        self.brought += sorted(before)


def sparse_copy(origin: Register, storage: OpenStorage | None = None) -> tuple[SparseRegister, CountingSource]:
    source = CountingSource(origin)
    return SparseRegister(Register.open(storage or memory_storage(), key=origin.key), source, name="content"), source


def run(work: Any) -> None:
    trio.run(work)


@settings(max_examples=60)
@given(
    sizes=st.lists(st.integers(1, 3000), min_size=1, max_size=25),
    reads=st.lists(st.tuples(st.integers(0, 40_000), st.integers(0, 9000)), min_size=1, max_size=20),
)
def test_any_chunk_sizes_any_reads(sizes: list[int], reads: list[tuple[int, int]]) -> None:
    """Every read gives the bytes of the file, whatever its chunk sizes, in whatever order."""
    chunks = [random.Random(n).randbytes(size) for n, size in enumerate(sizes)]
    origin, stat, data = source_with(chunks)
    copy, _ = sparse_copy(origin)

    async def work() -> None:
        file = OpenFile(copy, stat, "/f")
        for offset, length in reads:
            now = file.read_nowait(offset, length)
            assert now is None or now == data[offset : offset + length]
            assert await file.read(offset, length) == data[offset : offset + length]
        file.close()
        assert not copy.wants

    run(work)


def equal_chunks(count: int) -> list[bytes]:
    return [bytes([number % 251]) * 65_536 for number in range(count)]


def test_an_isolated_read_moves_one_chunk() -> None:
    """4 KiB in the middle of a file of usual chunks need one chunk, and nothing is read ahead."""
    origin, stat, data = source_with(equal_chunks(40))
    copy, source = sparse_copy(origin)

    async def work() -> None:
        file = OpenFile(copy, stat, "/f")
        assert await file.read(1_500_000, 4096) == data[1_500_000:1_504_096]
        assert await file.read(200_000, 4096) == data[200_000:204_096]

    run(work)
    assert source.brought == [len(BEFORE) + 1_500_000 // 65_536, len(BEFORE) + 200_000 // 65_536]


def test_odd_sizes_cost_few_chunks() -> None:
    """Sizes made so that every guess is off by almost everything: a byte is still found by halving."""
    origin, stat, data = source_with([bytes([number % 7]) for number in range(3000)] + [bytes(3_000_000)])
    copy, source = sparse_copy(origin)

    async def work() -> None:
        file = OpenFile(copy, stat, "/f")
        assert await file.read(2_990, 20) == data[2_990:3_010]
        assert await file.read(1_500, 1) == data[1_500:1_501]

    run(work)
    assert len(source.brought) < 80


def test_sequential_reads_read_ahead_and_a_seek_stops_it() -> None:
    """Reading in a row fetches ahead of the reader, more as it goes on; a seek begins anew."""
    origin, stat, data = source_with(equal_chunks(200))
    copy, _ = sparse_copy(origin)

    async def work() -> None:
        file = OpenFile(copy, stat, "/f")
        ahead = []
        for offset in range(0, 3_000_000, 131_072):
            now = file.read_nowait(offset, 131_072)
            if now is None:
                now = await file.read(offset, 131_072)
            assert now == data[offset : offset + 131_072]
            held = copy.register.data_bits.count(0, len(data))
            ahead.append(held * 65_536 - offset)
        assert ahead[0] < 300_000
        assert min(ahead[-5:]) > 1_000_000
        assert max(ahead) <= 2 * READ_AHEAD_MAX
        count = copy.register.data_bits.count(0, 300)
        await file.read(12_000_000, 4096)
        assert copy.register.data_bits.count(0, 300) == count + 1
        file.close()
        assert not copy.wants

    run(work)


class TracingStorage(MemoryStorage):
    """Counts reads."""

    reads = 0

    def read(self, offset: int, length: int) -> bytes:
        self.reads += 1
        return super().read(offset, length)


def test_a_local_read_is_one_read_of_the_store() -> None:
    """A complete file: every read is answered at once, by exactly one read of the data file."""
    chunks = equal_chunks(20)
    data_file = TracingStorage("data")
    files = memory_storage()

    def open_storage(name: str) -> RandomAccess:
        return data_file if name == "data" else files(name)

    register = Register.create(open_storage, key_pair(SEED))
    register.append(chunks, sync=False)
    stat = Stat(mode=0o100644, size=20 * 65_536, blocks=20, offset=0, byte_offset=0)

    async def work() -> None:
        file = OpenFile(SparseRegister(register, NoSource("offline")), stat, "/f")
        assert file.complete
        for offset in range(0, stat.size, 131_072):
            before = data_file.reads
            assert file.read_nowait(offset, 131_072) == b"".join(chunks)[offset : offset + 131_072]
            assert data_file.reads == before + 1

    run(work)


@pytest.mark.parametrize(
    "change",
    [
        {"byte_offset": 3},
        {"byte_offset": 10**9},
        {"size": 5000},
        {"size": 300_000},
        {"offset": 1},
        {"blocks": 2, "size": 200_000},
        {"blocks": 1 << 60, "size": 1 << 60},
        {"offset": 900},
    ],
    ids=str,
)
def test_entries_that_lie(change: dict[str, int]) -> None:
    """An entry that does not fit its content is an error, never other bytes and never an endless loop."""
    origin, stat, _ = source_with(equal_chunks(3))
    copy, _ = sparse_copy(origin)
    lying = stat._replace(**change)

    async def read_here_and_there() -> None:
        file = OpenFile(copy, lying, "/f")
        for offset in (0, lying.size // 2, lying.size - 1):
            await file.read(offset, 1)

    async def work() -> None:
        await copy.ensure(range(origin.length))
        copy.claim("a peer", origin.length)
        with trio.fail_after(5), pytest.raises((BadMetadata, NoPeers)):
            await read_here_and_there()

    run(work)


def test_an_edited_working_file_is_an_error() -> None:
    """Bytes of a store that others may change are hashed before they are shown."""
    chunks = equal_chunks(3)
    storage = memory_storage()
    register = Register.create(storage, key_pair(SEED))
    register.append(chunks, sync=False)
    stat = Stat(mode=0o100644, size=3 * 65_536, blocks=3, offset=0, byte_offset=0)
    content = SparseRegister(register, NoSource("offline"), trusted=False)

    async def work() -> None:
        file = OpenFile(content, stat, "/f")
        assert file.read_nowait(0, 10) is None
        assert await file.read(65_530, 10) == b"".join(chunks)[65_530:65_540]
        storage("data").write(70_000, b"edited")
        assert await file.read(0, 100) == chunks[0][:100]
        with pytest.raises(CorruptStorage, match=r"/f.*changed"):
            await file.read(65_536, 100)

    run(work)


def test_the_end_of_a_file() -> None:
    """Reads at and beyond the end are empty, a read across it is cut."""
    origin, stat, data = source_with([b"abc", b"defgh"])
    copy, _ = sparse_copy(origin)

    async def work() -> None:
        file = OpenFile(copy, stat, "/f")
        assert await file.read(6, 100) == data[6:]
        assert await file.read(8, 100) == b""
        assert await file.read(1 << 40, 1) == b""
        assert file.read_nowait(8, 5) == b""

    run(work)


async def test_progress_tells_whether_a_wait_was_in_vain() -> None:
    """It grows by what came of the range; by what came of others only while somebody has the rest of the range."""

    class Peers(CopySource):
        held: tuple[Bitfield, ...] = ()

        def wants_changed(self, register: SparseRegister) -> None:
            pass

        def held_by_peers(self, register: SparseRegister) -> Sequence[Bitfield]:
            return self.held

    origin, stat, _ = source_with([bytes([number]) * 100 for number in range(10)])
    source = Peers(origin)
    copy = SparseRegister(Register.open(memory_storage(), key=origin.key), source, name="content")
    file = OpenFile(copy, stat, "f")

    def bring(index: int) -> None:
        assert copy.reserve(index)
        proof = origin.proof(index, copy.register.digest(index))
        copy.put(index, origin.get(index), proof.nodes, proof.signature)

    assert file.progress(500, 200) == 0
    bring(stat.offset + 1)
    assert file.progress(500, 200) == 0
    bring(stat.offset + 5)
    assert file.progress(500, 200) == 1
    source.held = (origin.data_bits,)
    before = file.progress(500, 200)
    bring(stat.offset + 2)
    assert file.progress(500, 200) > before
    assert file.progress(stat.size, 10) == 0
