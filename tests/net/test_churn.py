"""Ten minutes of peers that come, stall, lie, cut and go, in virtual time: nothing is lost, nothing is left over."""

from __future__ import annotations

import gc
import os
import random
import tracemalloc
from collections import Counter
from collections.abc import AsyncGenerator, Callable

import pytest
import trio
import trio.testing

from datfs.net.address_book import FINAL
from datfs.net.connection import Connection
from datfs.net.messages import Data, Have, Message, Request, Unhave
from datfs.net.replication import PeerState
from datfs.net.session import Session
from datfs.net.swarm import Swarm
from datfs.net.transport import Address
from datfs.net.upload import UploadState
from datfs.register import Register
from datfs.sources import NoSource
from datfs.sparse import SparseRegister, _Waiter
from datfs.storage import memory_storage
from tests.helpers import PeerWorld, ScriptedPeer, honest, make_register

CHUNKS = [random.Random(number).randbytes(50 + number % 50) for number in range(3000)]
MINUTES = 10
AT_ONCE = 8
READERS = 6
ROUNDS = 5
PAUSE = MINUTES * 60 / len(CHUNKS) * READERS  # between chunks of one reader, so that there is enough to read
PATIENCE = 30.0
GROWTH_MOST = 2 << 20  # bytes; what is read after the first round is 200 KB and its proofs, a session has 256 KB
COUNTED = (Session, Connection, PeerState, UploadState, SparseRegister, Swarm, _Waiter, trio.Event, trio.CancelScope)


class Comings:
    """Addresses as they are found, in the order in which peers come."""

    name = "comings"
    problem: str | None = None

    def __init__(self) -> None:
        self.send, self._receive = trio.open_memory_channel[Address](100)

    async def find(self, discovery_key: bytes) -> AsyncGenerator[Address, None]:
        """Until the test ends."""
        async for address in self._receive:
            yield address


class DatfsPeer:
    """A swarm that has all of a register and serves whoever connects."""

    def __init__(self, source: Register) -> None:
        self._swarm = Swarm()
        self._swarm.add_register(SparseRegister(source, NoSource("it has all")))
        self.streams: list[trio.abc.Stream] = []

    async def serve(self, stream: trio.abc.Stream) -> None:
        """What a ScriptedPeer does."""
        self.streams.append(stream)
        await self._swarm.serve(stream, "a caller")


def a_peer(source: Register, dice: random.Random) -> ScriptedPeer | DatfsPeer:
    """Somebody new: good, good for something, or bad in one of many ways."""

    def wrong(register: Register, request: Request) -> list[Message]:
        [data] = honest(register, request)
        assert isinstance(data, Data)
        return [Data(data.index, b"wrong", data.nodes, data.signature)]

    def lossy(register: Register, request: Request) -> list[Message]:
        return honest(register, request) if dice.random() < 0.7 else []

    def forgetful(register: Register, request: Request) -> list[Message]:
        return honest(register, request) if dice.random() < 0.5 else [Unhave(request.index)]

    def elsewhere(register: Register, request: Request) -> list[Message]:
        return honest(register, Request(index=(request.index + 1) % len(CHUNKS)))

    def silent(register: Register, request: Request) -> list[Message]:
        return []

    boast: Callable[[Register], list[Message]] = lambda register: [Have(0, 1 << 52)]  # noqa: E731
    third = dice.randrange(3)
    id = dice.randbytes(32)
    kinds: dict[str, Callable[[], ScriptedPeer | DatfsPeer]] = {
        "good": lambda: ScriptedPeer([source], id=id),
        "datfs": lambda: DatfsPeer(source),
        "a third": lambda: ScriptedPeer([source], id=id, held=lambda index: index % 3 == third),
        "liar": lambda: ScriptedPeer([source], wrong, id=id),
        "lossy": lambda: ScriptedPeer([source], lossy, id=id),
        "forgetful": lambda: ScriptedPeer([source], forgetful, id=id),
        "elsewhere": lambda: ScriptedPeer([source], elsewhere, id=id),
        "silent": lambda: ScriptedPeer([source], silent, id=id),
        "boastful": lambda: ScriptedPeer([source], silent, id=id, on_open=boast),
        "cut": lambda: ScriptedPeer([source], id=id, after_bytes=dice.randrange(10, 20_000)),
    }
    return kinds[dice.choice(list(kinds))]()


class Churn:
    """The world of one copy: peers that come and go at its addresses, readers, and counts of what is alive."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.source = make_register(CHUNKS)
        self.dice = random.Random("churn")
        self.way = Comings()
        self.world = PeerWorld(nursery, {})
        self.swarm = Swarm(discoveries=[self.way], connect=self.world.connect, rng=self.dice.randbytes)
        self.copy = SparseRegister(Register.open(memory_storage(), key=self.source.key), self.swarm, name="content")
        self.swarm.add_register(self.copy)
        self.order = list(range(len(CHUNKS)))
        self.dice.shuffle(self.order)
        self.came = 0

    async def peers(self) -> None:
        """One place: somebody comes, stays for a while, and goes without a word."""
        while True:
            self.came += 1
            address = (f"host{self.came}", 1)
            peer = a_peer(self.source, self.dice)
            self.world.peers[address] = peer  # type: ignore[assignment]  # a DatfsPeer serves as well
            await self.way.send.send(address)
            await trio.sleep(self.dice.uniform(3, 40))
            self.world.peers[address] = refused()
            await hang_up(peer)
            await trio.sleep(self.dice.uniform(0, 5))

    async def faithful(self) -> None:
        """One good peer comes back again and again, so that no reader waits in vain."""
        address = ("faithful", 1)
        while True:
            peer = ScriptedPeer([self.source], id=b"f" * 32)
            self.world.peers[address] = peer
            await self.way.send.send(address)
            await trio.sleep(self.dice.uniform(10, 20))
            self.world.peers[address] = refused()
            await hang_up(peer)
            await trio.sleep(self.dice.uniform(0, 3))

    async def a_round(self, seconds: float) -> None:
        """So many seconds of this; then everybody goes, and some time passes."""
        async with trio.open_nursery() as nursery:
            for _ in range(AT_ONCE):
                nursery.start_soon(self.peers)
            nursery.start_soon(self.faithful)
            async with trio.open_nursery() as readers:
                for _ in range(READERS):
                    readers.start_soon(self.reader, trio.current_time() + seconds)
            nursery.cancel_scope.cancel()
        for address, peer in self.world.peers.items():
            if not isinstance(peer, Exception):
                self.world.peers[address] = refused()
                await hang_up(peer)
        await trio.sleep(60)

    async def reader(self, until: float) -> None:
        """Reads what nobody read before, a few chunks at a time; sometimes it loses patience at once."""
        while self.order and trio.current_time() < until:
            wanted = [self.order.pop() for _ in range(min(len(self.order), self.dice.randint(1, 4)))]
            if self.dice.random() < 0.2:
                with trio.move_on_after(self.dice.random()):
                    await self.copy.ensure(wanted)
            with trio.fail_after(PATIENCE):
                await self.copy.ensure(wanted)
            for index in wanted:
                assert self.copy.register.get(index) == CHUNKS[index]
            await trio.sleep(self.dice.uniform(0, 4.0 * PAUSE))


def refused() -> Exception:
    """Nobody is at an address. A new one each time: raised exceptions keep frames, and with them what is counted."""
    return ConnectionRefusedError(111, "Connection refused")


async def hang_up(peer: ScriptedPeer | DatfsPeer) -> None:
    """The peer is gone."""
    for stream in peer.streams:
        await trio.aclose_forcefully(stream)


def alive() -> Counter[str]:
    """How many objects there are of each of our kinds."""
    gc.collect()
    return Counter(type(one).__name__ for one in gc.get_objects() if isinstance(one, COUNTED))


def descriptors() -> int:
    """How many this process has open."""
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.time_limit(120)
@pytest.mark.expect_log("banned")
async def test_ten_minutes_of_churn(autojump_clock: trio.testing.MockClock) -> None:
    """Every read is right and in time; tasks, sessions, waiters, claims, memory and descriptors do not pile up."""
    before, open_before = alive(), descriptors()
    tasks_before = trio.lowlevel.current_statistics().tasks_living
    tracemalloc.start()
    try:
        await ten_minutes()
    finally:
        tracemalloc.stop()
    assert trio.lowlevel.current_statistics().tasks_living == tasks_before
    left_over = alive() - before
    assert not left_over
    assert descriptors() == open_before


async def ten_minutes() -> None:
    """Rounds of churn, with nobody there after each; all of them leave the same behind."""
    memory: list[int] = []
    tasks: list[int] = []
    async with trio.open_nursery() as nursery:
        churn = Churn(nursery)
        nursery.start_soon(churn.swarm.run)
        for _ in range(ROUNDS):
            await churn.a_round(MINUTES * 60 / ROUNDS)
            assert not churn.swarm.sessions
            assert (churn.copy.waiting, len(churn.copy.wants), churn.copy.peers) == (0, 0, 0)
            assert not churn.copy.length_wanted
            gc.collect()
            memory.append(tracemalloc.get_traced_memory()[0])
            dialed = [peer for peer in churn.swarm.report().peers if peer.state not in FINAL]
            tasks.append(trio.lowlevel.current_statistics().tasks_living - len(dialed))  # each has one that dials it
        assert churn.came > 100
        assert len(churn.order) < len(CHUNKS) / 2
        assert max(tasks) - min(tasks) < 10, tasks  # of more than a hundred peers
        assert memory[-1] - memory[0] < GROWTH_MOST, memory
        churn.copy.close()
        nursery.cancel_scope.cancel()
