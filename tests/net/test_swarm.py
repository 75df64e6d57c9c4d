"""The swarm with scripted peers: readers notice only time when peers lie, stall, leave or know little."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator

import pytest
import trio

from datfs.errors import Closed, ForkedRegister, IntegrityError, NoPeers, Unavailable
from datfs.net.address_states import AddressState
from datfs.net.dialer import SEARCH_TIMEOUT
from datfs.net.messages import Data, Have, Message, Request, Unhave
from datfs.net.swarm import Swarm
from datfs.net.transport import Address
from datfs.register import Register
from datfs.sparse import SparseRegister
from datfs.storage import memory_storage
from datfs.wants import Urgency
from tests.helpers import SEED, ScriptedPeer, drive_of, honest, make_drive, make_register, reported, swarm_of

CHUNKS = [bytes([number]) * (100 + number) for number in range(60)]


def flipped(register: Register, request: Request) -> list[Message]:
    """The right proof with wrong bytes."""
    [data] = honest(register, request)
    assert isinstance(data, Data)
    assert data.value is not None
    return [Data(data.index, bytes([data.value[0] ^ 1]) + data.value[1:], data.nodes, data.signature)]


def silent(register: Register, request: Request) -> list[Message]:
    """No answer at all."""
    return []


async def read_all(copy: object, count: int = len(CHUNKS)) -> None:
    await copy.ensure(range(count))  # type: ignore[attr-defined]
    assert [copy.register.get(index) for index in range(count)] == CHUNKS[:count]  # type: ignore[attr-defined]


async def test_everything_from_one_peer(autojump_clock: trio.testing.MockClock) -> None:
    """A good peer delivers every chunk, each asked for once."""
    peer = ScriptedPeer([make_register(CHUNKS)])
    async with swarm_of([peer.registers[0].key], peer) as ([copy], _, _):
        await read_all(copy)
        asked = [request.index for _, request in peer.asked]
        assert sorted(asked) == list(range(60))
        assert not copy.wants


async def test_spread_over_three_peers(autojump_clock: trio.testing.MockClock) -> None:
    """Three peers with every third chunk make a whole; nobody is asked for what it lacks."""
    source = make_register(CHUNKS)
    peers = [
        ScriptedPeer([source], held=set(range(rest, 60, 3)).__contains__, id=bytes([rest]) * 32) for rest in range(3)
    ]
    async with swarm_of([source.key], *peers) as ([copy], _, _):
        await read_all(copy)
    for rest, peer in enumerate(peers):
        assert {request.index % 3 for _, request in peer.asked} == {rest}


@pytest.mark.expect_log("banned")
async def test_a_lying_peer_is_banned_and_others_deliver(autojump_clock: trio.testing.MockClock) -> None:
    """Bad bytes end the peer that sent them; the reader gets the right ones from the other."""
    source = make_register(CHUNKS)
    liar, good = ScriptedPeer([source], flipped, id=b"l" * 32), ScriptedPeer([source], id=b"g" * 32)
    async with swarm_of([source.key], liar, good) as ([copy], swarm, world):
        await read_all(copy)
        await trio.sleep(100)
        assert liar.connections == 1
        assert reported(swarm, "peer0:1").state is AddressState.BANNED
        assert world.dialed.count(("peer0", 1)) == 1


@pytest.mark.expect_log("banned")
async def test_only_liars_is_an_integrity_error(autojump_clock: trio.testing.MockClock) -> None:
    """When every peer was banned for bad data, readers learn that, now and later, at once."""
    source = make_register(CHUNKS)
    async with swarm_of([source.key], ScriptedPeer([source], flipped)) as ([copy], _, _):
        for _ in range(2):
            started = trio.current_time()
            with pytest.raises(IntegrityError, match="verify"):
                await copy.ensure([5])
            assert trio.current_time() - started < 1
        assert not copy.register.has(5)


async def test_a_stalled_peer_is_left_for_another(autojump_clock: trio.testing.MockClock) -> None:
    """Chunks asked of a peer that does not answer are asked of another before a usual deadline."""
    source = make_register(CHUNKS)
    stalled, good = ScriptedPeer([source], silent, id=b"s" * 32), ScriptedPeer([source], id=b"g" * 32)
    async with swarm_of([source.key], stalled, good) as ([copy], _, _):
        with trio.fail_after(30):
            await read_all(copy)


async def test_a_reader_stops_waiting_at_its_deadline(autojump_clock: trio.testing.MockClock) -> None:
    """A deadline ends the wait for a silent peer, and no want is left behind."""
    source = make_register(CHUNKS)
    async with swarm_of([source.key], ScriptedPeer([source], silent)) as ([copy], _, _):
        with pytest.raises(trio.TooSlowError):
            with trio.fail_after(5):
                await copy.ensure([1, 2, 3])
        assert not copy.wants
        assert not copy.waiting


async def test_dropped_connections_lose_nothing(autojump_clock: trio.testing.MockClock) -> None:
    """A peer that cuts each connection after some bytes is dialed again until everything is here."""
    source = make_register(CHUNKS)
    peer = ScriptedPeer([source], after_bytes=3000)
    async with swarm_of([source.key], peer) as ([copy], _, _):
        await read_all(copy)
    assert peer.connections > 2


async def test_no_peer_is_told_at_once(autojump_clock: trio.testing.MockClock) -> None:
    """With nobody to ask a reader fails as soon as that is known, and names the reason."""
    source = make_register(CHUNKS)
    refused = ConnectionRefusedError(111, "Connection refused")
    async with swarm_of([source.key], refused) as ([copy], _, _):
        started = trio.current_time()
        with pytest.raises(NoPeers, match="Connection refused"):
            await copy.ensure([1])
        assert trio.current_time() - started < 1
    async with swarm_of([source.key]) as ([copy], _, _):
        with pytest.raises(NoPeers, match="--peer"):
            await copy.ensure([1])


async def test_a_peer_that_comes_back_is_used(autojump_clock: trio.testing.MockClock) -> None:
    """An address that refused is dialed again later, and when a reader wants something."""
    source = make_register(CHUNKS)
    async with swarm_of([source.key], ConnectionRefusedError(111, "Connection refused")) as ([copy], _, world):
        with pytest.raises(NoPeers):
            await copy.ensure([1])
        world.peers["peer0", 1] = ScriptedPeer([source])
        await trio.sleep(2)
        await copy.ensure([1])
        assert copy.register.get(1) == CHUNKS[1]


async def test_another_drive_at_the_address(autojump_clock: trio.testing.MockClock) -> None:
    """A peer of another drive is no peer: the reader is told, nothing hangs."""
    other = make_register(CHUNKS, b"x" * 32)
    async with swarm_of([make_register(CHUNKS).key], ScriptedPeer([other])) as ([copy], _, _):
        with pytest.raises(Unavailable):
            with trio.fail_after(20):
                await copy.ensure([1])


async def test_unhave_moves_the_request(autojump_clock: trio.testing.MockClock) -> None:
    """A peer that says it no longer has a chunk is not waited for."""
    source = make_register(CHUNKS)

    def gone(register: Register, request: Request) -> list[Message]:
        return [Unhave(request.index)]

    forgetful, good = ScriptedPeer([source], gone, id=b"f" * 32), ScriptedPeer([source], id=b"g" * 32)
    async with swarm_of([source.key], forgetful, good) as ([copy], _, _):
        started = trio.current_time()
        await read_all(copy)
        assert trio.current_time() - started < 2


async def test_wrong_index_and_unasked_data_are_ignored(autojump_clock: trio.testing.MockClock) -> None:
    """Data that was not asked for is dropped, whatever it is; the chunk comes from another peer."""
    source = make_register(CHUNKS)

    def next_one(register: Register, request: Request) -> list[Message]:
        return honest(register, Request(index=(request.index + 7) % 60))

    wrong, good = ScriptedPeer([source], next_one, id=b"w" * 32), ScriptedPeer([source], id=b"g" * 32)
    async with swarm_of([source.key], wrong, good) as ([copy], _, _):
        with trio.fail_after(40):
            await copy.ensure([3])
        assert copy.register.get(3) == CHUNKS[3]


@pytest.mark.expect_log("two different histories")
async def test_a_fork_is_told_and_held_data_stay(autojump_clock: trio.testing.MockClock) -> None:
    """Two histories signed by one writer: readers are told why, what is here still reads."""
    one = make_register(CHUNKS[:8])
    two = make_register([b"other " + chunk for chunk in CHUNKS[:8]])
    peer = ScriptedPeer([one])
    async with swarm_of([one.key], peer) as ([copy], _, _):
        await copy.ensure(range(4))
        peer.answer = lambda register, request: honest(two, Request(index=request.index))
        with pytest.raises((ForkedRegister, IntegrityError)):
            with trio.fail_after(60):
                await copy.ensure([6])
        assert copy.register.get(2) == CHUNKS[2]
        assert not copy.register.has(6)


async def test_huge_claims_cost_nothing(autojump_clock: trio.testing.MockClock) -> None:
    """A Have of 2^52 chunks is a claim like any other: no memory, no endless loop, and good data still come."""
    source = make_register(CHUNKS)
    peer = ScriptedPeer([source], on_open=lambda register: [Have(0, 1 << 52), Have((1 << 52) - 1, 1)])
    async with swarm_of([source.key], peer) as ([copy], swarm, _):
        await copy.ensure([1])
        [session] = swarm.sessions
        assert all(len(state.held) <= 1 << 20 for state in session.downloads)


async def test_bad_bitfields_end_the_peer(autojump_clock: trio.testing.MockClock) -> None:
    """A Have whose bitfield is broken, misaligned or a bomb ends that connection; the next peer serves."""
    source = make_register(CHUNKS)
    bombs = [Have(0, 1 << 20, b"\x07\x02"), Have(3, 1 << 20, b"\x07"), Have(0, 1 << 20, b"\xff\xff\xff\xff\x0f")]
    for bomb in bombs:
        first_word: list[Message] = [bomb]
        bad = ScriptedPeer([source], on_open=lambda register, say=first_word: say, id=b"b" * 32)  # type: ignore[misc]
        good = ScriptedPeer([source], id=b"g" * 32)
        async with swarm_of([source.key], bad, good) as ([copy], _, _):
            await copy.ensure([1])


async def test_closed_while_waiting(autojump_clock: trio.testing.MockClock) -> None:
    """Closing lets every waiting reader go with Closed, and later ones too."""
    source = make_register(CHUNKS)
    outcomes: list[str] = []

    async def read(index: int) -> None:
        try:
            await copy.ensure([index])
        except Closed:
            outcomes.append("closed")

    async with swarm_of([source.key], ScriptedPeer([source], silent)) as ([copy], _, _):
        async with trio.open_nursery() as nursery:
            for index in range(5):
                nursery.start_soon(read, index)
            await trio.sleep(1)
            copy.close()
        await read(7)
    assert outcomes == ["closed"] * 6


@pytest.mark.expect_log("banned")
async def test_random_faults_and_readers(autojump_clock: trio.testing.MockClock) -> None:
    """Eight peers, most of them bad in their own way: every reader gets the right bytes in time, nothing leaks."""
    source = make_register(CHUNKS)
    rng = random.Random(8)

    def lossy(register: Register, request: Request) -> list[Message]:
        return honest(register, request) if rng.random() < 0.7 else []

    peers: list[ScriptedPeer | Exception] = [
        ScriptedPeer([source], id=b"a" * 32, held=lambda index: index % 2 == 0),
        ScriptedPeer([source], id=b"b" * 32, held=lambda index: index % 2 == 1),
        ScriptedPeer([source], flipped, id=b"c" * 32),
        ScriptedPeer([source], silent, id=b"d" * 32),
        ScriptedPeer([source], lossy, id=b"e" * 32),
        ScriptedPeer([source], id=b"f" * 32, after_bytes=2000),
        ScriptedPeer([source], id=b"g" * 32, after_bytes=10),
        ConnectionRefusedError(111, "Connection refused"),
    ]

    async def reader(number: int) -> None:
        order = random.Random(number)
        for _ in range(30):
            index = order.randrange(60)
            with trio.fail_after(30):
                await copy.ensure([index])
            assert copy.register.get(index) == CHUNKS[index]

    async with swarm_of([source.key], *peers) as ([copy], _, _):
        async with trio.open_nursery() as nursery:
            for number in range(6):
                nursery.start_soon(reader, number)
        assert not copy.wants
        assert not copy.waiting


async def test_a_growing_register_is_followed(autojump_clock: trio.testing.MockClock) -> None:
    """Who waits for a longer register gets it from the announcement of its newest chunk."""
    source = make_register(CHUNKS[:5])
    peer = ScriptedPeer([source])
    async with swarm_of([source.key], peer) as ([copy], _, _):
        await copy.learn_length()
        assert copy.register.length == 5
        assert not await copy.learn_length()
        lengths: list[int] = []

        async def follow() -> None:
            lengths.append(await copy.grown_beyond(5))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(follow)
            await trio.sleep(1)
            source.append([CHUNKS[5]], sync=False)
            copy_session = next(iter(copy.source.sessions))  # type: ignore[attr-defined]
            copy_session.downloads[0].on_have(Have(5), trio.current_time())
            copy_session.flush()
        assert lengths == [6]


async def test_read_ahead_alone_never_raises(autojump_clock: trio.testing.MockClock) -> None:
    """Chunks wanted ahead come without anybody waiting, most urgent ones first."""
    source = make_register(CHUNKS)
    peer = ScriptedPeer([source])
    async with swarm_of([source.key], peer) as ([copy], swarm, _):
        copy.want(range(10, 60), Urgency.LATER)
        copy.want([3], Urgency.SOON)
        swarm.wants_changed(copy)
        await trio.sleep(5)
        assert copy.register.has_range(10, 60)
        assert peer.asked[0][1].index == 3
        copy.drop(range(10, 60), Urgency.LATER)
        copy.drop([3], Urgency.SOON)
        assert not copy.wants


async def test_a_drive_through_peers(autojump_clock: trio.testing.MockClock) -> None:
    """A drive opens with the content key of its header; an isolated read moves only the chunk it needs."""
    data = random.Random(1).randbytes(500_000)
    writer = make_drive({"/a/big.bin": data, "/a/small": b"small"}, SEED)
    peer = ScriptedPeer([writer.metadata, writer.content])
    async with drive_of(writer, peer) as (drive, _, _):
        tree = await drive.checkout()
        file = await tree.open(await tree.find((b"a", b"big.bin")))
        assert await file.read(200_000, 4096) == data[200_000:204_096]
        assert [request.index for register, request in peer.asked if register == 1] == [3]
        file.close()
        assert drive.content is not None
        assert not drive.content.wants


class FindsNobody:
    """A way of discovery that goes on looking."""

    name = "hopeful"
    problem: str | None = "nobody answers"

    def __init__(self) -> None:
        self.closed = False

    async def find(self, discovery_key: bytes) -> AsyncGenerator[Address, None]:
        try:
            await trio.sleep(80_000)
            yield ("never", 1)
        finally:
            self.closed = True


async def test_a_search_that_finds_nobody_gives_hope_for_a_while_only(autojump_clock: trio.testing.MockClock) -> None:
    """Readers wait for discovery for a while, then learn why; later ones at once. It is closed at the end."""
    way = FindsNobody()
    swarm = Swarm(discoveries=[way])
    copy = SparseRegister(Register.open(memory_storage(), key=make_register(CHUNKS).key), swarm)
    swarm.add_register(copy)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(swarm.run)
        for most in (SEARCH_TIMEOUT + 1, 0.1):
            with trio.fail_after(most), pytest.raises(NoPeers, match="hopeful: nobody answers"):
                await copy.ensure([1])
        assert trio.current_time() >= SEARCH_TIMEOUT
        nursery.cancel_scope.cancel()
    assert way.closed
