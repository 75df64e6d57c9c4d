"""Whole swarms against each other, and what may go wrong round a session: nothing reaches readers but time."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from datfs.errors import Closed, NoPeers, RemoteProtocolError
from datfs.net.address_book import ADDRESSES_MOST, GRACE, AddressBook
from datfs.net.address_states import AddressState
from datfs.net.connection import Connection
from datfs.net.discovery.static import StaticPeers
from datfs.net.messages import Unhave
from datfs.net.replication import PeerState
from datfs.net.session import Session
from datfs.net.swarm import DOUBLE_SECONDS, Swarm
from datfs.net.traffic import Meters
from datfs.net.transport import Address
from datfs.register import Register
from datfs.sparse import SparseRegister
from datfs.storage import memory_storage
from datfs.wants import Urgency
from tests.helpers import ScriptedPeer, drive_of, honest, make_drive, make_register, reported, swarm_of

CHUNKS = [random.Random(number).randbytes(40 + number) for number in range(40)]
SOURCE = make_register(CHUNKS)
FIRST: Address = ("peer0", 1)


class Wire:
    """Swarms that reach each other by a host name over memory streams."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        self.swarms: dict[str, Swarm] = {}

    async def connect(self, address: Address) -> trio.abc.Stream:
        """Dials the swarm of this name."""
        await trio.lowlevel.checkpoint()
        if address[0] not in self.swarms:
            raise ConnectionRefusedError(111, "Connection refused")
        ours, theirs = trio.testing.memory_stream_pair()
        self.nursery.start_soon(self.swarms[address[0]].serve, theirs, f"caller of {address[0]}")
        return ours

    def join(self, name: str, registers: list[Register], *known: str) -> list[SparseRegister]:
        """A swarm with these registers that knows the addresses of others."""
        swarm = Swarm(discoveries=[StaticPeers([(other, 1) for other in known])], connect=self.connect)
        joined = [SparseRegister(register, swarm, name=f"{name}'s") for register in registers]
        for register in joined:
            swarm.add_register(register)
        self.swarms[name] = swarm
        self.nursery.start_soon(swarm.run)
        return joined


@asynccontextmanager
async def wire() -> AsyncIterator[Wire]:
    async with trio.open_nursery() as nursery:
        yield Wire(nursery)
        nursery.cancel_scope.cancel()


def empty(source: Register = SOURCE) -> Register:
    return Register.open(memory_storage(), key=source.key)


async def test_two_swarms_clone_from_each_other(autojump_clock: trio.testing.MockClock) -> None:
    """Each has one half, both know the other's address: both end with everything, over one connection."""
    halves = [empty(), empty()]
    for index in range(40):
        half = halves[index % 2]
        proof = SOURCE.proof(index, half.digest(index))
        half.put(index, CHUNKS[index], proof.nodes, proof.signature)
    async with wire() as net:
        [a], [b] = net.join("a", [halves[0]], "b"), net.join("b", [halves[1]], "a")
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(a.ensure, range(40))
                nursery.start_soon(b.ensure, range(40))
        assert [a.register.get(index) for index in range(40)] == CHUNKS
        assert [b.register.get(index) for index in range(40)] == CHUNKS
        await trio.sleep(30)
        assert len(net.swarms["a"].sessions) == len(net.swarms["b"].sessions) == 1


async def test_an_empty_peer_hides_nobody(autojump_clock: trio.testing.MockClock) -> None:
    """A peer that has nothing, and says so first, does not make a new reader think that there is nothing."""
    async with wire() as net:
        net.join("empty", [empty()])
        net.join("writer", [SOURCE])
        [copy] = net.join("reader", [empty()], "empty", "writer")
        assert await copy.learn_length()
        [alone] = net.join("alone", [empty()], "empty", "nobody")
        with trio.fail_after(1):
            assert not await alone.learn_length()


async def test_a_chain_passes_chunks_on(autojump_clock: trio.testing.MockClock) -> None:
    """Who reads from the middle gets what the middle fetches from the writer, as soon as it is announced."""
    async with wire() as net:
        net.join("writer", [SOURCE])
        [middle], [end] = net.join("middle", [empty()], "writer"), net.join("end", [empty()], "middle")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(end.ensure, range(40))
            await trio.sleep(2)
            assert not end.register.length
            with trio.fail_after(10):
                await middle.ensure(range(40))
        assert end.register.has_range(0, 40)


async def test_many_clients_at_once(autojump_clock: trio.testing.MockClock) -> None:
    """Ten readers of one server and of each other, each in an order of its own."""
    async with wire() as net:
        net.join("server", [SOURCE])
        copies = [net.join(f"client {n}", [empty()], "server", f"client {n - 1}")[0] for n in range(10)]

        async def read(copy: SparseRegister, seed: int) -> None:
            for index in random.Random(seed).sample(range(40), 40):
                await copy.ensure([index])

        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                for seed, copy in enumerate(copies):
                    nursery.start_soon(read, copy, seed)
        assert all(copy.register.get(7) == CHUNKS[7] for copy in copies)


async def test_growth_is_announced(autojump_clock: trio.testing.MockClock) -> None:
    """What a writer appends, and tells its swarm, reaches those who follow; through a third one too."""
    source = make_register(CHUNKS[:5])
    async with wire() as net:
        [writer] = net.join("writer", [source])
        [middle], [end] = net.join("middle", [empty(source)], "writer"), net.join("end", [empty(source)], "middle")
        assert await middle.learn_length()
        await trio.sleep(0.1)
        assert await end.learn_length()
        for copy in (middle, end):
            copy.want(range(8), Urgency.LATER)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(middle.grown_beyond, 5)
            nursery.start_soon(end.grown_beyond, 5)
            await trio.sleep(1)
            net.swarms["writer"].announce(writer, source.append(CHUNKS[5:8]), 3)
        await trio.sleep(1)
        assert end.register.length == 8
        assert end.register.get(7) == CHUNKS[7]


async def test_a_register_added_while_connections_begin(autojump_clock: trio.testing.MockClock) -> None:
    """A second register may be added at any moment: between accept and first Feed, and when all is running."""
    other = make_register([b"content"], b"c" * 32)
    async with wire() as net:
        for moment in range(6):
            net.join("server", [SOURCE])
            [copy] = net.join("client", [empty()], "server")
            for _ in range(moment):
                await trio.lowlevel.checkpoint()
            server, client = net.swarms["server"], net.swarms["client"]
            server.add_register(SparseRegister(other, server))
            content = SparseRegister(empty(other), client)
            client.add_register(content)
            with trio.fail_after(0.3):  # no second connection was needed
                await content.ensure([0])
                await copy.ensure([0])


async def test_a_caller_that_opens_the_content_first(autojump_clock: trio.testing.MockClock) -> None:
    """The first register of a connection may be any that we have."""
    async with wire() as net:
        content = make_register([b"content"], b"c" * 32)
        net.join("server", [SOURCE, content])
        [copy] = net.join("client", [empty(content)], "server")
        with trio.fail_after(1):
            await copy.ensure([0])


async def test_a_peer_that_starts_anew_is_waited_for(autojump_clock: trio.testing.MockClock) -> None:
    """A waiting read goes on when a peer that had delivered is back soon; if it stays away, the reader is told."""
    peer = ScriptedPeer([SOURCE])
    async with swarm_of([SOURCE.key], peer) as ([copy], _, world):
        await copy.ensure([1])
        peer.answer = lambda register, request: []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(copy.ensure, [2])
            await trio.sleep(1)
            world.peers[FIRST] = ConnectionRefusedError(111, "Connection refused")
            await peer.streams[-1].aclose()
            await trio.sleep(GRACE - 1.5)
            world.peers[FIRST] = ScriptedPeer([SOURCE])
        assert copy.register.has(2)
        world.peers[FIRST] = ConnectionRefusedError(111, "Connection refused")
        again = next(iter(copy.source.sessions))  # type: ignore[attr-defined]
        again.end()
        started = trio.current_time()
        with pytest.raises(NoPeers, match="refused"):
            await copy.ensure([3])
        assert trio.current_time() - started <= GRACE + 0.1


async def test_a_peer_that_never_answers_is_no_end_of_hope(autojump_clock: trio.testing.MockClock) -> None:
    """It is left, and dialed again while readers wait: they wait for their own time, as it is there."""
    peer = ScriptedPeer([SOURCE])
    async with swarm_of([SOURCE.key], peer) as ([copy], _, _world):
        peer.answer = lambda register, request: []
        with pytest.raises(trio.TooSlowError), trio.fail_after(200):
            await copy.ensure([2])
        assert len(peer.streams) > 3
        peer.answer = ScriptedPeer([SOURCE]).answer
        with trio.fail_after(40):
            await copy.ensure([2])


async def test_our_own_mistake_ends_one_session(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A bug that a peer's message finds is logged, and ends neither the swarm nor a reader."""

    def mistaken(self: PeerState, *arguments: object) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr(PeerState, "on_unhave", mistaken)
    bad = ScriptedPeer([SOURCE], on_open=lambda _: [Unhave(3)], id=b"b" * 32)
    async with swarm_of([SOURCE.key], bad, ScriptedPeer([SOURCE], id=b"g" * 32)) as ([copy], swarm, _):
        await copy.ensure(range(40))
        assert len(swarm.sessions) == 1
    assert "failed unexpectedly" in caplog.text


async def test_a_session_that_ended_takes_no_part(autojump_clock: trio.testing.MockClock) -> None:
    """Between the end of a session and its last breath, wants and announcements of others are no error."""
    peer = ScriptedPeer([SOURCE], lambda register, request: [])
    async with swarm_of([SOURCE.key], peer) as ([copy], swarm, _):
        with trio.move_on_after(1):
            await copy.ensure([1])
        [session] = swarm.sessions
        session.end(RemoteProtocolError("as a test"))
        session.announce(copy, 0, 5)
        swarm.wants_changed(copy)
        session.open_register(SparseRegister(make_register([b"x"], b"x" * 32), swarm))
        assert not copy.wants.in_flight
        with pytest.raises(NoPeers, match="as a test"):
            await copy.ensure([2])


async def test_dead_connections_are_replaced(autojump_clock: trio.testing.MockClock) -> None:
    """A peer whose connection fell silent calls again and is served at once; while it is heard, it is refused."""
    swarm = Swarm(rng=bytes)  # our id is the smaller one: what the other side began may not replace anything
    swarm.add_register(SparseRegister(SOURCE, swarm))
    async with trio.open_nursery() as nursery:

        async def call(patience: float) -> Connection:
            ours, theirs = trio.testing.memory_stream_pair()
            nursery.start_soon(swarm.serve, theirs, "caller")
            connection = Connection(id=b"i" * 32, nonce=bytes(24), key=SOURCE.key, now=0)
            await ours.send_all(connection.data_to_send())
            await trio.sleep(patience)
            return connection

        await call(1)
        [first] = swarm.sessions
        await call(1)
        assert swarm.sessions == {first}
        await trio.sleep(10)
        await call(1)
        assert first not in swarm.sessions
        assert len(swarm.sessions) == 1
        nursery.cancel_scope.cancel()


def session_of(swarm: Swarm, peer: bytes, *, dialed: bool) -> Session:
    ours, _ = trio.testing.memory_stream_pair()
    session = swarm._new_session(ours, "peer", dialed=dialed)
    session.peer_id = peer
    return session


async def test_both_sides_keep_the_same_connection() -> None:
    """Two that dial each other at once agree on which of the two connections stays."""
    low, high = (Swarm(rng=lambda count, byte=byte: byte * count) for byte in (b"1", b"2"))  # type: ignore[misc]
    for swarm in (low, high):
        swarm.add_register(SparseRegister(SOURCE, swarm))
    for swarm, other in ((low, high), (high, low)):
        dialed = session_of(swarm, other.id, dialed=True)
        accepted = session_of(swarm, other.id, dialed=False)
        assert swarm._replaces(dialed, accepted, other.id) == (swarm is low)
        assert swarm._replaces(accepted, dialed, other.id) == (swarm is high)


@pytest.mark.parametrize("weaker", [True, False])
@pytest.mark.parametrize("listening", [True, False])
async def test_nothing_is_answered_on_what_may_be_a_double(
    autojump_clock: trio.testing.MockClock, weaker: bool, listening: bool
) -> None:
    """Who dialed and has the greater id waits a moment before it says what it has, if the peer may dial it too."""
    ids = (b"2", b"1") if weaker else (b"1", b"2")
    sharer, clone = (Swarm(rng=lambda count, byte=byte: byte * count) for byte in ids)  # type: ignore[misc]
    sharer.listening = ("here",) if listening else ()
    sharer.add_register(SparseRegister(SOURCE, sharer))
    copy = SparseRegister(empty(), clone)
    clone.add_register(copy)
    ours, theirs = trio.testing.memory_stream_pair()
    known = AddressBook(spread=lambda: 1.0).add(FIRST, "test", Meters(), 0.0)
    assert known is not None
    started = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sharer.talk, ours, known)
        nursery.start_soon(clone.serve, theirs, "the sharer")
        await trio.testing.wait_all_tasks_blocked()
        await copy.ensure([0])
        waited = trio.current_time() - started
        nursery.cancel_scope.cancel()
    assert waited == pytest.approx(DOUBLE_SECONDS if weaker and listening else 0.0)


async def test_odd_addresses(autojump_clock: trio.testing.MockClock) -> None:
    """A name that no host can have is an address that does not answer, and no end of the swarm."""
    swarm = Swarm(discoveries=[StaticPeers([("a" * 70, 1), ("\ud800", 2), ("a..b", 3)])])
    copy = SparseRegister(empty(), swarm)
    swarm.add_register(copy)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(swarm.run)
        with pytest.raises(NoPeers):
            await copy.ensure([0])
        assert len(swarm.report().peers) == 3
        nursery.cancel_scope.cancel()


class BadDiscovery:
    """Finds one address and fails."""

    name = "a broken way"
    problem: str | None = None

    async def find(self, discovery_key: bytes) -> AsyncGenerator[Address, None]:
        yield FIRST
        raise OSError(101, "Network is unreachable")


@pytest.mark.expect_log("a broken way ended")
async def test_a_way_of_discovery_that_fails(autojump_clock: trio.testing.MockClock) -> None:
    """It is told in the log; what it found before, and the other ways, go on."""
    peer = ScriptedPeer([SOURCE])
    async with swarm_of([SOURCE.key], peer, ways=[BadDiscovery()]) as ([copy], _, world):
        await copy.ensure([1])
        assert world.dialed == [FIRST]


async def test_addresses_are_bounded(autojump_clock: trio.testing.MockClock) -> None:
    """A flood of addresses takes the place of others that never worked, not of those that did."""
    peer = ScriptedPeer([SOURCE])
    async with swarm_of([SOURCE.key], peer) as ([copy], swarm, world):
        await copy.ensure([1])
        refused = ConnectionRefusedError(111, "Connection refused")
        for number in range(2 * ADDRESSES_MOST):
            world.peers[f"flood{number}", 1] = refused
            swarm.add_address((f"flood{number}", 1), "a flood")
            if number % 50 == 0:
                await trio.sleep(0.1)
        assert len(swarm.report().peers) <= ADDRESSES_MOST
        assert reported(swarm, "peer0:1").state is AddressState.CONNECTED


async def test_a_drive_grows_while_it_is_read(autojump_clock: trio.testing.MockClock) -> None:
    """A drive that closes lets its readers go, also while chunks are on their way."""
    writer = make_drive({"/a": bytes(300_000)})
    slow = ScriptedPeer([writer.metadata, writer.content], lambda r, q: honest(r, q) if r is writer.metadata else [])
    async with drive_of(writer, slow) as (drive, _, _):
        tree = await drive.checkout()
        file = await tree.open(await tree.find((b"a",)))
        outcome: list[type[Exception]] = []

        async def read() -> None:
            try:
                await file.read(0, 100)
            except Closed as error:
                outcome.append(type(error))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.sleep(1)
            drive.close()
        assert outcome == [Closed]
