"""Every hostile peer beside a good one: a reader notices only time. Alone: an error in time, and nothing is left."""

from __future__ import annotations

import random

import pytest
import trio
import trio.testing

from datfs.errors import IntegrityError, Unavailable
from datfs.net.address_states import AddressState
from tests.helpers import ScriptedPeer, make_register, swarm_of
from tests.net.hostile import HARMLESS, LIARS, USELESS, MakePeer

CHUNKS = [random.Random(number).randbytes(40 + number) for number in range(40)]
SOURCE = make_register(CHUNKS)
PATIENCE = 30.0


@pytest.mark.expect_log("banned")
@pytest.mark.parametrize("make", [pytest.param(m, id=name) for name, m in (USELESS | HARMLESS | LIARS).items()])
async def test_beside_a_good_peer(make: MakePeer, autojump_clock: trio.testing.MockClock) -> None:
    """All chunks are read, in any order and with some reads given up, each well within a reader's patience."""
    hostile, good = make(SOURCE), ScriptedPeer([SOURCE], id=b"g" * 32)
    async with swarm_of([SOURCE.key], hostile, good) as ([copy], _, _):
        with trio.fail_after(PATIENCE):
            with trio.move_on_after(0.001):
                await copy.ensure(range(20, 30))
            for index in random.Random(1).sample(range(40), 40):
                await copy.ensure([index])
        assert [copy.register.get(index) for index in range(40)] == CHUNKS
        assert not copy.wants
        assert not copy.waiting
        await trio.sleep(60)
        assert not copy.wants.in_flight
    assert hostile.connections


@pytest.mark.parametrize("make", [pytest.param(m, id=name) for name, m in HARMLESS.items()])
async def test_odd_but_honest(make: MakePeer, autojump_clock: trio.testing.MockClock) -> None:
    """What the protocol says to ignore, and claims and floods that cost little, do not end a peer that delivers."""
    peer = make(SOURCE)
    async with swarm_of([SOURCE.key], peer) as ([copy], _, _):
        with trio.fail_after(PATIENCE):
            await copy.ensure(range(40))
    assert peer.connections == 1


@pytest.mark.parametrize("make", [pytest.param(m, id=name) for name, m in USELESS.items()])
async def test_useless_alone(make: MakePeer, autojump_clock: trio.testing.MockClock) -> None:
    """The reader is told that nobody delivers, or its own deadline ends the wait; nothing is wanted afterwards."""
    async with swarm_of([SOURCE.key], make(SOURCE)) as ([copy], _, _):
        with pytest.raises((Unavailable, trio.TooSlowError)):
            with trio.fail_after(5):
                await copy.ensure(range(40))
        assert not copy.wants
        assert not copy.waiting
        assert trio.current_time() <= 5.001


@pytest.mark.expect_log("banned")
@pytest.mark.parametrize("make", [pytest.param(m, id=name) for name, m in LIARS.items()])
async def test_liars_are_banned(make: MakePeer, autojump_clock: trio.testing.MockClock) -> None:
    """One answer that does not verify: the peer is dialed no more, is refused when it calls, and readers learn why."""
    liar = make(SOURCE)
    async with swarm_of([SOURCE.key], liar) as ([copy], swarm, _):
        for index in (3, 4):
            started = trio.current_time()
            with pytest.raises(IntegrityError, match="verify"):
                await copy.ensure([index])
            assert trio.current_time() - started < 1
            assert not copy.register.has(index)
        await trio.sleep(200)
        assert liar.connections == 1
        [known] = swarm.report().peers
        assert known.state is AddressState.BANNED
        ours, theirs = trio.testing.memory_stream_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(liar.serve, theirs)
            with trio.fail_after(5):
                await swarm.serve(ours, "caller")
            nursery.cancel_scope.cancel()
        assert not swarm.sessions
        assert not copy.wants.in_flight
