"""What a swarm tells of itself for ``datfs status``: addresses, connections, what peers hold, bytes and rates."""

from __future__ import annotations

import random

import trio.testing

from datfs.net.address_states import AddressState
from datfs.net.report import INBOUND, Direction, HeldReport
from tests.helpers import ScriptedPeer, make_register, reported, swarm_of

CHUNKS = [random.Random(number).randbytes(1000) for number in range(20)]
SOURCE = make_register(CHUNKS)


async def test_a_connected_peer(autojump_clock: trio.testing.MockClock) -> None:
    """Address, source, what the peer holds, and the bytes of both directions are told; the swarm's are their sum."""
    peer = ScriptedPeer([SOURCE], held=lambda index: index % 2 == 1)
    async with swarm_of([SOURCE.key], peer) as ([copy], swarm, _):
        await copy.ensure(range(1, 20, 2))
        report = swarm.report()
        [told] = report.peers
        assert (told.address, told.source, told.direction) == ("peer0:1", "given", Direction.OUT)
        assert (told.state, told.error, told.next_try, told.worked) == (AddressState.CONNECTED, "", None, True)
        assert told.held == (HeldReport("metadata", 20, 10, 0),)
        assert told.traffic.received > 10_000
        assert told.traffic.receiving > 2_000
        assert told.traffic == report.traffic
        assert report.connected == report.peers
        assert [(way.name, way.found) for way in report.ways] == [("given", 1)]
        before = told.traffic.received
        await trio.sleep(3600)
        told = reported(swarm, "peer0:1")
        assert told.traffic.received >= before
        assert told.traffic.receiving < 10  # keep-alives
        assert told.connected is not None
        assert told.connected >= 3600


async def test_an_address_that_fails(autojump_clock: trio.testing.MockClock) -> None:
    """Why it failed and when it is tried again are told."""
    refused = ConnectionRefusedError(111, "Connection refused")
    async with swarm_of([SOURCE.key], refused) as (_, swarm, _):
        await trio.sleep(0.1)
        [told] = swarm.report().peers
        assert (told.state, told.error) == (AddressState.RESTING, "Connection refused")
        assert told.next_try is not None
        assert 0 < told.next_try < 1
        assert told.connected is None
        assert not swarm.report().connected


async def test_bytes_outlive_their_connection(autojump_clock: trio.testing.MockClock) -> None:
    """An address counts over all of its connections, and the swarm over all addresses."""
    peer = ScriptedPeer([SOURCE], after_bytes=6000)
    async with swarm_of([SOURCE.key], peer) as ([copy], swarm, _):
        await copy.ensure(range(20))
        assert peer.connections > 3
        [told] = swarm.report().peers
        assert told.traffic.received > 20_000
        assert swarm.bytes_in == told.traffic.received


async def test_a_peer_that_calls(autojump_clock: trio.testing.MockClock) -> None:
    """Inbound connections are among the peers, by the name of their address."""
    peer = ScriptedPeer([SOURCE])
    async with swarm_of([SOURCE.key]) as ([copy], swarm, _), trio.open_nursery() as nursery:
        ours, theirs = trio.testing.memory_stream_pair()
        nursery.start_soon(peer.serve, theirs)
        nursery.start_soon(swarm.serve, ours, "10.0.0.7:5555")
        await trio.sleep(1)
        await copy.ensure([3])
        told = reported(swarm, "10.0.0.7:5555")
        assert (told.source, told.direction, told.state) == (INBOUND, Direction.IN, AddressState.CONNECTED)
        assert told.held[0].chunks == 20
        assert told.worked
        nursery.cancel_scope.cancel()
