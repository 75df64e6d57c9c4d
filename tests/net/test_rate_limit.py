"""Limits on traffic: the token bucket alone, and sessions that keep to it without being late or silent."""

from __future__ import annotations

import random

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from datfs.net.discovery.static import StaticPeers
from datfs.net.messages import Have
from datfs.net.rate_limit import BURST, RATE_LEAST, TURN, RateLimit
from datfs.net.replication import PeerState
from datfs.net.swarm import Swarm
from datfs.register import Register
from datfs.sources import NoSource
from datfs.sparse import SparseRegister
from datfs.storage import memory_storage
from datfs.wants import Urgency
from tests.helpers import PeerWorld, ScriptedPeer, make_register

CHUNK = 16_384
CHUNKS = [random.Random(number).randbytes(CHUNK) for number in range(60)]
SOURCE = make_register(CHUNKS)


@given(
    st.integers(RATE_LEAST, 10**9),
    st.lists(st.tuples(st.floats(0, 10), st.integers(0, 10**6)), min_size=1, max_size=30),
)
def test_never_more_than_the_rate_and_a_burst(rate: int, takes: list[tuple[float, int]]) -> None:
    """Whoever waits as told has sent, at any moment, no more than the burst and the rate's share of the time."""
    limit = RateLimit(rate)
    now = total = 0.0
    for idle, size in takes:
        now += idle
        total += size
        now += limit.take(size, now)
        assert total <= rate * (now + BURST) * (1 + 1e-9) + 1


def test_an_idle_limit_saves_up_a_burst_only() -> None:
    """A day of nothing allows no more at once than a moment of nothing."""
    limit = RateLimit(1_000_000)
    limit.take(1, 0.0)
    assert limit.take(int(1_000_000 * BURST), 86_400.0) == 0.0
    assert limit.take(500_000, 86_400.0) == pytest.approx(0.5)


def test_turns_are_short_at_every_limit() -> None:
    """With as many connections as there may be, each has its turn before its peer thinks that it is dead."""
    for rate in (RATE_LEAST, 10_000, 1_000_000, 10**9):
        limit = RateLimit(rate)
        assert 64 * limit.piece / rate < 6
    with pytest.raises(ValueError, match="1024"):
        RateLimit(RATE_LEAST - 1)


class Limited:
    """A copy that fetches from scripted peers under limits."""

    def __init__(self, nursery: trio.Nursery, *peers: ScriptedPeer, up: int | None = None, down: int | None = None):
        self.world = PeerWorld(nursery, {(f"peer{number}", 1): peer for number, peer in enumerate(peers)})
        ways = [StaticPeers(list(self.world.peers))]
        self.swarm = Swarm(discoveries=ways, connect=self.world.connect, up=up, down=down)
        register = Register.open(memory_storage(), key=SOURCE.key)
        self.copy = SparseRegister(register, self.swarm, name="metadata")
        self.swarm.add_register(self.copy)
        nursery.start_soon(self.swarm.run)


async def test_a_limited_download_is_as_slow_as_asked_for(autojump_clock: trio.testing.MockClock) -> None:
    """Everything comes, at the limit, from peers that nobody calls late: each chunk is asked for once."""
    async with trio.open_nursery() as nursery:
        peers = [ScriptedPeer([SOURCE], id=bytes([number]) * 32) for number in range(3)]
        limited = Limited(nursery, *peers, down=20_000)
        started = trio.current_time()
        await limited.copy.ensure(range(60))
        seconds = trio.current_time() - started
        received = limited.swarm.bytes_in
        assert received >= 60 * CHUNK
        assert received / 20_000 - BURST - 3 * TURN <= seconds <= received / 20_000 * 1.1 + 1
        assert sorted(request.index for peer in peers for _, request in peer.asked) == list(range(60))
        assert limited.swarm.report().traffic.receiving == pytest.approx(20_000, rel=0.2)
        assert limited.swarm.report().down_limit == 20_000
        nursery.cancel_scope.cancel()


async def test_every_peer_gets_its_turn(autojump_clock: trio.testing.MockClock) -> None:
    """Under a limit that is far below what peers give, they bring about equally much."""
    async with trio.open_nursery() as nursery:
        peers = [ScriptedPeer([SOURCE], id=bytes([number]) * 32) for number in range(3)]
        limited = Limited(nursery, *peers, down=100_000)
        await limited.copy.ensure(range(60))
        assert all(len(peer.asked) >= 12 for peer in peers)
        nursery.cancel_scope.cancel()


async def test_a_chunk_slower_than_all_patience(autojump_clock: trio.testing.MockClock) -> None:
    """At the smallest limit a chunk takes longer than a peer may be late, and is asked for once nevertheless."""
    async with trio.open_nursery() as nursery:
        peers = [ScriptedPeer([SOURCE], id=bytes([number]) * 32) for number in range(2)]
        limited = Limited(nursery, *peers, down=RATE_LEAST)
        await limited.copy.ensure([7, 8, 9, 10])
        assert sorted(request.index for peer in peers for _, request in peer.asked) == [7, 8, 9, 10]
        assert all(peer.connections == 1 for peer in peers)
        nursery.cancel_scope.cancel()


async def test_little_is_on_the_way_to_a_reader(autojump_clock: trio.testing.MockClock) -> None:
    """Read-ahead fills the limit, but a reader's chunk comes within a few seconds all the same."""
    async with trio.open_nursery() as nursery:
        limited = Limited(nursery, ScriptedPeer([SOURCE]), down=40_000)
        limited.copy.want(range(50), Urgency.SOON)
        limited.swarm.wants_changed(limited.copy)
        await trio.sleep(5)
        with trio.fail_after(4):
            await limited.copy.ensure([59])
        nursery.cancel_scope.cancel()


async def test_a_limited_upload(autojump_clock: trio.testing.MockClock) -> None:
    """What we serve goes out at the limit, in the peers' turns; our own requests do not wait behind it for long."""
    async with trio.open_nursery() as nursery:
        server = Swarm(up=20_000)
        server.add_register(SparseRegister(SOURCE, server, name="metadata"))
        wants: list[SparseRegister] = []
        for number in range(2):

            async def connect(address: object, name: str = f"caller {number}") -> trio.abc.Stream:
                ours, theirs = trio.testing.memory_stream_pair()
                nursery.start_soon(server.serve, theirs, name)
                return ours

            swarm = Swarm(discoveries=[StaticPeers([("server", 1)])], connect=connect)
            wants.append(SparseRegister(Register.open(memory_storage(), key=SOURCE.key), swarm))
            swarm.add_register(wants[-1])
            nursery.start_soon(swarm.run)
        started = trio.current_time()
        ends: list[float] = []

        async def read(copy: SparseRegister) -> None:
            await copy.ensure(range(20))
            ends.append(trio.current_time() - started)

        async with trio.open_nursery() as readers:
            for copy in wants:
                readers.start_soon(read, copy)
        assert ends[0] >= ends[1] * 0.8  # neither had to wait for the other to end
        assert server.bytes_out / 20_000 - BURST - 2 * TURN <= ends[1] <= server.bytes_out / 20_000 * 1.1 + 1
        assert len(server.sessions) == 2
        nursery.cancel_scope.cancel()


async def test_programs_of_this_machine_are_not_limited(autojump_clock: trio.testing.MockClock) -> None:
    """A session that is not limited is not slowed down, and is measured all the same."""
    async with trio.open_nursery() as nursery:
        limited = Limited(nursery, down=RATE_LEAST, up=RATE_LEAST)
        ours, theirs = trio.testing.memory_stream_pair()
        nursery.start_soon(ScriptedPeer([SOURCE]).serve, theirs)
        async with trio.open_nursery() as serving:

            async def serve() -> None:
                await limited.swarm.serve(ours, "neighbour", limited=False)

            serving.start_soon(serve)
            await trio.sleep(0.1)
            with trio.fail_after(1):
                await limited.copy.ensure(range(60))
            serving.cancel_scope.cancel()
        assert limited.swarm.bytes_in > 60 * CHUNK
        nursery.cancel_scope.cancel()


def test_an_excused_peer_is_not_late() -> None:
    """Time in which we did not listen is no time in which the peer was silent; time in which we did is."""
    source: SparseRegister = SparseRegister(SOURCE, NoSource("a test"))
    copy = SparseRegister(Register.open(memory_storage(), key=SOURCE.key), NoSource("a test"))
    peer = PeerState(copy)
    copy.want([3], Urgency.NOW)
    peer.on_have(Have(0, source.register.length), 0.0)
    peer.refill(0.0)
    assert peer.in_flight == 1
    for second in range(1, 200):
        peer.excuse(1.0, float(second))
        peer.tick(float(second))
    assert peer.in_flight == 1
    peer.tick(240.0)
    assert peer.in_flight == 0
