"""The want list: what is wanted is asked for once, arrives or is let go, and readers wake or learn why not."""

from __future__ import annotations

import errno

import pytest
import trio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from datfs.bitfield import Bitfield
from datfs.chunk_states import CHUNK, ChunkEvent, ChunkState
from datfs.errors import Closed, CorruptStorage, NoPeers
from datfs.register import Register
from datfs.sources import CopySource, NoSource
from datfs.sparse import SparseRegister
from datfs.storage import MemoryStorage, memory_storage
from datfs.wants import Urgency
from tests.helpers import make_register

CHUNKS = [bytes([number]) * (number + 1) for number in range(24)]


class Nobody:
    """A source that brings nothing and has not given up hope."""

    def wants_changed(self, register: SparseRegister) -> None:
        pass

    def hopeless(self, register: SparseRegister) -> None:
        return None

    def undecided(self, register: SparseRegister) -> bool:
        return False

    def held_by_peers(self, register: SparseRegister) -> list[Bitfield]:
        return []

    def all_told(self, register: SparseRegister, stop: int) -> bool:
        return False


async def test_offline_fails_at_once() -> None:
    """Without a source a missing chunk is NoPeers at once; a held one is no wait at all."""
    origin = make_register(CHUNKS)
    copy = SparseRegister(Register.open(memory_storage(), key=origin.key), NoSource("we are offline"))
    with pytest.raises(NoPeers, match="offline"):
        await copy.ensure([3])
    assert not copy.wants
    copy.source = CopySource(origin)
    await copy.ensure([3])
    copy.source = NoSource("we are offline")
    await copy.ensure([3])


async def test_two_readers_share_one_wait(autojump_clock: trio.testing.MockClock) -> None:
    """Readers of one chunk wait together, and the one that gives up takes only its own want along."""
    origin = make_register(CHUNKS)
    copy = SparseRegister(Register.open(memory_storage(), key=origin.key), Nobody())
    woken = []

    async def read(number: int, patience: float) -> None:
        with trio.move_on_after(patience):
            await copy.ensure([5])
            woken.append(number)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read, 1, 1)
        nursery.start_soon(read, 2, 100)
        await trio.sleep(2)
        assert list(copy.wants) == [5]
        assert copy.waiting == 1
        proof = origin.proof(5, copy.register.digest(5))
        copy.put(5, CHUNKS[5], proof.nodes, proof.signature)
    assert woken == [2]
    assert not copy.wants
    assert not copy.waiting


class FullDisk(MemoryStorage):
    """Refuses writes while ``full``."""

    full = True
    attempts = 0

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Raises ENOSPC."""
        self.attempts += 1
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device", "data")
        super().write(offset, data)


def on_full_disk(origin: Register) -> tuple[SparseRegister, FullDisk]:
    """A copy that cannot be written, of an origin that is at hand."""
    disk, files = FullDisk("data"), memory_storage()
    register = Register.open(lambda name: disk if name == "data" else files(name), key=origin.key)
    return SparseRegister(register, CopySource(origin)), disk


async def test_a_full_disk_is_the_readers_error(autojump_clock: trio.testing.MockClock) -> None:
    """A write that fails gives the waiting reader its errno; nothing is fetched ahead until one succeeds."""
    origin = make_register(CHUNKS)
    copy, disk = on_full_disk(origin)
    copy.source = Nobody()
    copy.want([7], Urgency.SOON)
    proof = origin.proof(5, 0)

    async def read() -> None:
        with pytest.raises(OSError, match="No space") as caught:
            await copy.ensure([5])
        assert caught.value.errno == errno.ENOSPC

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await trio.sleep(1)
        assert list(copy.next_wants(origin.data_bits, 1)) == [5]
        copy.put(5, CHUNKS[5], proof.nodes, proof.signature)
    assert not copy.register.has(5)
    assert list(copy.next_wants(origin.data_bits, 9)) == []
    disk.full = False
    copy.reserve(6)
    proof = origin.proof(6, copy.register.digest(6))
    copy.put(6, CHUNKS[6], proof.nodes, proof.signature)
    assert list(copy.next_wants(origin.data_bits, 9)) == [7]


async def test_a_full_disk_is_tried_once_for_each_reader() -> None:
    """Many chunks wanted and none can be stored: each is fetched once, not in a circle; later readers try again."""
    copy, disk = on_full_disk(make_register(CHUNKS))
    copy.want(range(20, 24), Urgency.SOON)
    with pytest.raises(OSError, match="No space"):
        await copy.ensure(range(10))
    assert disk.attempts == 14  # all were asked for before the first was refused
    with pytest.raises(OSError, match="No space"):
        await copy.ensure([3])
    assert disk.attempts == 15
    disk.full = False
    await copy.ensure([3, 4])
    assert copy.register.has_range(20, 24)


async def test_a_full_disk_ends_a_wait_for_the_length() -> None:
    """Who waits for a newer version gets the errno too, and the next one tries again."""
    copy, disk = on_full_disk(make_register(CHUNKS))
    with pytest.raises(OSError, match="No space"):
        await copy.learn_length()
    assert disk.attempts == 1
    disk.full = False
    assert await copy.learn_length()
    assert copy.register.length == 24


async def test_a_broken_tree_is_the_readers_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that lost its nodes cannot verify what arrives: the reader learns that, the peer is not to blame."""
    origin = make_register(CHUNKS)
    files = memory_storage()
    copy = SparseRegister(Register.open(files, key=origin.key), CopySource(origin))
    await copy.ensure([0])

    def refuse(*_: object) -> bool:
        raise CorruptStorage("tree: node 3 should be at byte 152 and is not there", "tree", 152)

    monkeypatch.setattr(copy.register, "put", refuse)
    with pytest.raises(CorruptStorage, match="node 3") as caught:
        await copy.ensure([1])
    assert (caught.value.store, caught.value.offset) == ("tree", 152)


async def test_what_we_append_wakes_readers(autojump_clock: trio.testing.MockClock) -> None:
    """Chunks that the writer itself appends are as good as chunks that arrive."""
    register = make_register(CHUNKS[:5])
    sparse = SparseRegister(register, Nobody())
    lengths = []

    async def follow() -> None:
        lengths.append(await sparse.grown_beyond(5))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow)
        nursery.start_soon(sparse.ensure, [6])
        await trio.sleep(1)
        sparse.appended(register.append(CHUNKS[5:7]), 2)
    assert lengths == [7]
    assert not sparse.wants


async def test_close_ends_length_waiters(autojump_clock: trio.testing.MockClock) -> None:
    """Who waits for a longer register is let go too."""
    copy = SparseRegister(Register.open(memory_storage(), key=make_register(CHUNKS).key), Nobody())

    async def follow() -> None:
        with pytest.raises(Closed):
            await copy.grown_beyond(0)
        with pytest.raises(Closed):
            await copy.learn_length()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow)
        await trio.sleep(1)
        copy.close()


def test_a_chunks_table_has_no_islands() -> None:
    """Every state can be reached from the first one, each event happens, and only what is held stays for ever."""
    reached = {ChunkState.ABSENT}
    while more := {after for (before, _), after in CHUNK.items() if before in reached} - reached:
        reached |= more
    assert reached == set(ChunkState)
    assert {state for state in ChunkState if not any(before is state for before, _ in CHUNK)} == {ChunkState.HELD}
    assert {event for _, event in CHUNK} == set(ChunkEvent)


class WantList(RuleBasedStateMachine):
    """Wants, reservations, arrivals, late ones too, and a disk that refuses, in any order, against the table.

    After each step every chunk is where the table says that the events of the step lead to.
    """

    def __init__(self) -> None:
        super().__init__()
        self.origin = make_register(CHUNKS)
        self.copy, self.disk = on_full_disk(self.origin)
        self.copy.source = Nobody()
        self.disk.full = self.refused = False
        self.wants: list[tuple[int, Urgency]] = []
        self.states = dict.fromkeys(range(len(CHUNKS)), ChunkState.ABSENT)

    def step(self, index: int, event: ChunkEvent) -> None:
        self.states[index] = CHUNK.get((self.states[index], event), self.states[index])

    def those(self, *states: ChunkState) -> set[int]:
        return {index for index, state in self.states.items() if state in states}

    @rule(index=st.integers(0, 23), urgency=st.sampled_from(Urgency))
    def want(self, index: int, urgency: Urgency) -> None:
        """Somebody wants it in advance."""
        self.copy.want([index], urgency)
        self.wants.append((index, urgency))
        self.step(index, ChunkEvent.WANT)

    @precondition(lambda self: self.wants)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        """One of them does not want it any more."""
        index, urgency = data.draw(st.sampled_from(self.wants))
        self.wants.remove((index, urgency))
        self.copy.drop([index], urgency)
        if all(other != index for other, _ in self.wants):
            self.step(index, ChunkEvent.DROP)

    @rule(peer=st.sets(st.integers(0, 23)), limit=st.integers(0, 5))
    def ask(self, peer: set[int], limit: int) -> None:
        """A peer with these chunks has room for some requests."""
        held = Bitfield()
        for index in peer:
            held.set(index)
        chosen = list(self.copy.next_wants(held, limit))
        possible = self.those(ChunkState.WANTED) & peer
        best = {index: min(urgency for i, urgency in self.wants if i == index) for index in possible}
        if self.refused:  # nothing is fetched ahead
            possible = {index for index in possible if best[index] is Urgency.NOW}
        assert len(chosen) == len(set(chosen)) == min(limit, len(possible))
        assert set(chosen) <= possible
        if chosen:
            assert max(best[index] for index in chosen) <= min(
                (best[index] for index in possible - set(chosen)), default=Urgency.BACKGROUND
            )
        for index in chosen:
            self.step(index, ChunkEvent.ASK)

    @rule(index=st.integers(0, 23))
    def reserve(self, index: int) -> None:
        """Any chunk may be asked for to learn the length, if it is neither here nor asked for nor refused."""
        free = self.states[index] in (ChunkState.ABSENT, ChunkState.WANTED)
        assert self.copy.reserve(index) == free
        if free:
            self.step(index, ChunkEvent.ASK)

    @rule(index=st.integers(0, 23))
    def release(self, index: int) -> None:
        """The request for it came to nothing."""
        self.copy.release([index])
        self.step(index, ChunkEvent.RELEASE)

    @precondition(lambda self: self.those(ChunkState.IN_FLIGHT, ChunkState.UNWANTED))
    @rule(data=st.data(), disk_works=st.booleans())
    def answer(self, data: st.DataObject, disk_works: bool) -> None:
        """An answer that was counted on."""
        flying = sorted(self.those(ChunkState.IN_FLIGHT, ChunkState.UNWANTED))
        self.arrive(data.draw(st.sampled_from(flying)), disk_works)

    @rule(index=st.integers(0, 23), disk_works=st.booleans())
    def late_answer(self, index: int, disk_works: bool) -> None:
        """An answer that comes after all."""
        if self.states[index] is not ChunkState.HELD:
            self.arrive(index, disk_works)

    def arrive(self, index: int, disk_works: bool) -> None:
        proof = self.origin.proof(index, self.copy.register.digest(index))
        self.disk.full = not disk_works
        self.copy.put(index, CHUNKS[index], proof.nodes, proof.signature)
        self.refused = not disk_works
        self.step(index, ChunkEvent.STORE if disk_works else ChunkEvent.REFUSE)
        if disk_works:
            for other in self.those(ChunkState.REFUSED, ChunkState.SHELVED):
                self.step(other, ChunkEvent.RETRY)

    @rule(index=st.integers(0, 23))
    def read(self, index: int) -> None:
        """A reader comes, asks for it, and has no patience at all."""

        async def look() -> None:
            with trio.move_on_after(0):
                await self.copy.ensure([index])

        trio.run(look)
        self.step(index, ChunkEvent.RETRY)

    @invariant()
    def agrees(self) -> None:
        assert {index: self.copy.wants.state_of(index) for index in self.states} == self.states
        assert set(self.copy.wants) == {index for index, _ in self.wants}
        wanted = {index for level in self.copy.wants._open for index in level}
        assert wanted == self.those(ChunkState.WANTED)  # none is forgotten, none could be asked for twice


TestWantList = WantList.TestCase
TestWantList.settings = settings(max_examples=40, stateful_step_count=40)
