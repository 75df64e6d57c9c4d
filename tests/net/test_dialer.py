"""Addresses from the first finding to the last dial: ourselves, doubles, limits, forgetting, who is told of it."""

from __future__ import annotations

import contextlib
import errno
import random
from collections.abc import AsyncGenerator, Callable

import pytest
import trio
import trio.testing

from datfs.net.address_book import ADDRESSES_MOST, ADDRESSES_OF_HOST, BACKOFF_FIRST, FORGET_AFTER, REST_LEAST
from datfs.net.address_states import AddressEvent, AddressState
from datfs.net.discovery import Discovery
from datfs.net.discovery.static import StaticPeers
from datfs.net.places import DIALED_MOST, INBOUND_MOST, OF_HOST_MOST
from datfs.net.session import HANDSHAKE_TIMEOUT
from datfs.net.swarm import Swarm
from datfs.net.traffic import Meters
from datfs.net.transport import Address
from datfs.register import Register
from datfs.sparse import SparseRegister
from datfs.storage import memory_storage
from tests.helpers import PeerWorld, ScriptedPeer, make_register, reported

CHUNKS = [random.Random(number).randbytes(40 + number) for number in range(40)]
SOURCE = make_register(CHUNKS)
REFUSED = ConnectionRefusedError(111, "Connection refused")


class Told:
    """Remembers what it is told of addresses."""

    def __init__(self) -> None:
        self.of: list[tuple[str, Address]] = []

    def worked(self, address: Address) -> None:
        self.of.append(("worked", address))

    def reached(self, address: Address) -> None:
        self.of.append(("reached", address))

    def failed(self, address: Address) -> None:
        self.of.append(("failed", address))

    def lied(self, address: Address) -> None:
        self.of.append(("lied", address))


class Way:
    """Finds what a test tells it to."""

    problem: str | None = None

    def __init__(self, name: str, *addresses: Address, pause: float = 0.0) -> None:
        self.name = name
        self._addresses = addresses
        self._pause = pause

    async def find(self, discovery_key: bytes) -> AsyncGenerator[Address, None]:
        for address in self._addresses:
            if self._pause:
                await trio.sleep(self._pause)
            yield address


def empty() -> Register:
    return Register.open(memory_storage(), key=SOURCE.key)


def joined(swarm: Swarm, register: Register | None = None) -> SparseRegister:
    copy = SparseRegister(register or empty(), swarm, name="metadata")
    swarm.add_register(copy)
    return copy


async def test_an_address_of_ourselves_is_dialed_once() -> None:
    """Over real sockets: who finds itself, as every search with announcements does, notices and never calls again."""
    with trio.fail_after(20):
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        address: Address = ("127.0.0.1", listeners[0].socket.getsockname()[1])
        for _ in range(5):
            told = Told()
            swarm = Swarm(discoveries=[Way("dns", address)], outcomes=told)
            joined(swarm, SOURCE)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(swarm.listen, [trio.SocketListener(listeners[0].socket.dup())])
                nursery.start_soon(swarm.run)
                await until(lambda told=told: bool(told.of))  # type: ignore[misc]
                assert told.of == [("lied", address)]
                [peer] = swarm.report().peers
                assert (peer.state, peer.next_try) == (AddressState.OURSELVES, None)
                nursery.cancel_scope.cancel()
        await listeners[0].aclose()


async def test_ourselves_is_nobody_to_hope_for(autojump_clock: trio.testing.MockClock) -> None:
    """A drive that only we have: readers are told that no peer was found, not that we could not be reached."""
    async with trio.open_nursery() as nursery:

        async def connect(address: Address) -> trio.abc.Stream:
            ours, theirs = trio.testing.memory_stream_pair()
            nursery.start_soon(swarm.serve, theirs, "caller")
            return ours

        swarm = Swarm(discoveries=[Way("dns", ("1.2.3.4", 1))], connect=connect)
        copy = joined(swarm)
        nursery.start_soon(swarm.run)
        with trio.fail_after(5), pytest.raises(Exception, match="no peer was found"):
            await copy.ensure([1])
        nursery.cancel_scope.cancel()


async def test_the_other_address_of_a_connected_peer(autojump_clock: trio.testing.MockClock) -> None:
    """A peer with two addresses is connected once; the other address waits, and has its turn when that one is gone."""
    async with trio.open_nursery() as nursery:
        peer = ScriptedPeer([SOURCE], id=b"p" * 32)
        world = PeerWorld(nursery, {("home", 1): peer, ("abroad", 1): peer})
        swarm = Swarm(discoveries=[StaticPeers(list(world.peers))], connect=world.connect)
        copy = joined(swarm)
        nursery.start_soon(swarm.run)
        await copy.ensure([1])
        await trio.sleep(30)
        states = {told.address: told.state for told in swarm.report().peers}
        assert sorted(state.value for state in states.values()) == ["connected", "elsewhere"]
        assert len(world.dialed) == 2
        connected = next(address for address, state in states.items() if state is AddressState.CONNECTED)
        world.peers[connected.partition(":")[0], 1] = REFUSED
        await peer.streams[0].aclose()
        for stream in peer.streams:
            await stream.aclose()
        with trio.fail_after(1):
            await copy.ensure([2])
        assert reported(swarm, connected).state is AddressState.RESTING
        nursery.cancel_scope.cancel()


async def test_what_is_told_of_addresses(autojump_clock: trio.testing.MockClock) -> None:
    """An address worked once something that verified came from it; one that does not answer failed."""
    async with trio.open_nursery() as nursery:
        peer = ScriptedPeer([SOURCE])
        world = PeerWorld(nursery, {("good", 1): peer, ("gone", 1): REFUSED})
        told = Told()
        swarm = Swarm(discoveries=[StaticPeers(list(world.peers))], connect=world.connect, outcomes=told)
        copy = joined(swarm)
        nursery.start_soon(swarm.run)
        await trio.sleep(0.1)
        assert set(told.of) == {("failed", ("gone", 1))}
        await copy.ensure([1, 2, 3])
        assert told.of.count(("worked", ("good", 1))) == 1
        nursery.cancel_scope.cancel()


async def test_no_address_fails_because_we_are_offline(autojump_clock: trio.testing.MockClock) -> None:
    """While our own network is down nothing is told of addresses, however often they are tried."""
    async with trio.open_nursery() as nursery:
        unreachable = OSError(errno.ENETUNREACH, "Network is unreachable")
        several = OSError("all attempts to connect failed")
        several.__cause__ = ExceptionGroup("", [unreachable, unreachable])
        world = PeerWorld(nursery, {("one", 1): unreachable, ("other", 1): several})
        told = Told()
        swarm = Swarm(discoveries=[StaticPeers(list(world.peers))], connect=world.connect, outcomes=told)
        joined(swarm)
        nursery.start_soon(swarm.run)
        await trio.sleep(60)
        assert len(world.dialed) > 4
        assert not told.of
        assert {peer.error for peer in swarm.report().peers} == {"Network is unreachable"}
        nursery.cancel_scope.cancel()


async def test_a_peer_of_which_nothing_is_needed_was_reached(autojump_clock: trio.testing.MockClock) -> None:
    """An idle connection that ends says that somebody is there, and that nothing came."""
    async with trio.open_nursery() as nursery:
        peer = ScriptedPeer([SOURCE])
        world = PeerWorld(nursery, {("good", 1): peer})
        told = Told()
        swarm = Swarm(discoveries=[StaticPeers(list(world.peers))], connect=world.connect, outcomes=told)
        joined(swarm)
        nursery.start_soon(swarm.run)
        await trio.sleep(1)
        await peer.streams[0].aclose()
        await trio.sleep(0.1)
        assert told.of[0] == ("reached", ("good", 1))
        nursery.cancel_scope.cancel()


async def test_one_host_does_not_take_all_places(autojump_clock: trio.testing.MockClock) -> None:
    """Of many ports of one host, named by a stranger, a few are known and fewer dialed at a time."""
    at_once = most = 0

    async def connect(address: Address) -> trio.abc.Stream:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await trio.sleep(5)
        at_once -= 1
        raise REFUSED

    swarm = Swarm(discoveries=[Way("dns", *(("203.0.113.5", port) for port in range(1, 200)))], connect=connect)
    joined(swarm)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(swarm.run)
        await trio.sleep(60)
        assert most == OF_HOST_MOST
        assert len(swarm.report().peers) == ADDRESSES_OF_HOST
        nursery.cancel_scope.cancel()


async def test_dialing_is_limited(autojump_clock: trio.testing.MockClock) -> None:
    """Many addresses are dialed some at a time, and all of them in the end."""
    at_once = most = 0
    dialed: set[Address] = set()

    async def connect(address: Address) -> trio.abc.Stream:
        nonlocal at_once, most
        dialed.add(address)
        at_once += 1
        most = max(most, at_once)
        await trio.sleep(1)
        at_once -= 1
        raise REFUSED

    swarm = Swarm(discoveries=[Way("dht", *((f"203.0.113.{n}", 1) for n in range(1, 201)))], connect=connect)
    joined(swarm)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(swarm.run)
        await trio.sleep(120)
        assert most == DIALED_MOST
        assert len(dialed) == 200
        nursery.cancel_scope.cancel()


async def test_a_flood_while_there_is_no_place(autojump_clock: trio.testing.MockClock) -> None:
    """Addresses that had to go for others leave nothing behind, though no place to dial from is ever free."""
    dead = False

    async def connect(address: Address) -> trio.abc.Stream:
        if not dead:
            raise REFUSED
        await trio.sleep_forever()
        raise AssertionError

    swarm = Swarm(connect=connect)
    joined(swarm)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(swarm.run)
        await trio.sleep(0.1)
        for number in range(1000):
            swarm.add_address((f"10.0.{number // 250}.{number % 250}", 1), "flood")
            if number == ADDRESSES_MOST:
                await trio.sleep(0.1)
                dead = True
                await trio.sleep(60)
            await trio.lowlevel.checkpoint()
        assert len(swarm.report().peers) == ADDRESSES_MOST
        await trio.sleep(1)
        assert trio.lowlevel.current_statistics().tasks_living < ADDRESSES_MOST + 20
        nursery.cancel_scope.cancel()


async def test_addresses_that_never_work_are_forgotten(autojump_clock: trio.testing.MockClock) -> None:
    """A found address that fails for long is given up until it is found anew; one given by hand is not."""
    async with trio.open_nursery() as nursery:
        world = PeerWorld(nursery, {("by-hand", 1): REFUSED, ("found", 1): REFUSED})
        again = Way("dns", ("found", 1), ("found", 1), pause=FORGET_AFTER + 100)
        ways: list[Discovery] = [StaticPeers([("by-hand", 1)]), Way("dht", ("found", 1)), again]
        swarm = Swarm(discoveries=ways, connect=world.connect)
        joined(swarm)
        nursery.start_soon(swarm.run)
        await trio.sleep(10)
        assert {peer.address for peer in swarm.report().peers} == {"by-hand:1", "found:1"}
        await trio.sleep(FORGET_AFTER + 30)
        assert {peer.address for peer in swarm.report().peers} == {"by-hand:1"}
        await trio.sleep(100)
        assert reported(swarm, "found:1").source == "dns"
        nursery.cancel_scope.cancel()


async def test_an_address_that_is_found_anew_is_dialed_at_once(autojump_clock: trio.testing.MockClock) -> None:
    """Who announces itself again after a failure has probably just come back: its back-off ends."""
    async with trio.open_nursery() as nursery:
        world = PeerWorld(nursery, {("found", 1): REFUSED})
        way = Way("mdns", ("found", 1), ("found", 1), pause=51.0)
        swarm = Swarm(discoveries=[StaticPeers([("found", 1)]), way], connect=world.connect)
        joined(swarm)
        nursery.start_soon(swarm.run)
        await trio.sleep(50.9)
        world.peers["found", 1] = ScriptedPeer([SOURCE])
        await trio.sleep(0.2 + REST_LEAST)  # it may have been tried, and found away, just before
        assert len(swarm.sessions) == 1
        nursery.cancel_scope.cancel()


async def test_ways_that_need_not_look_come_first(autojump_clock: trio.testing.MockClock) -> None:
    """Addresses are dialed in the order of the ways that know them at once."""
    async with trio.open_nursery() as nursery:
        names = [("remembered", 1), ("given", 1), ("found", 1)]
        world = PeerWorld(nursery, dict.fromkeys(names, REFUSED))
        swarm = Swarm(discoveries=[Way(name, (name, 1)) for name, _ in names], connect=world.connect)
        joined(swarm)
        nursery.start_soon(swarm.run)
        await trio.sleep(0.1)
        assert world.dialed == names
        nursery.cancel_scope.cancel()


async def until(condition: Callable[[], bool]) -> None:
    """Returns when it is true."""
    while not condition():  # noqa: ASYNC110 counts and sockets have no event
        await trio.sleep(0.01)


async def test_callers_are_limited() -> None:
    """Over real sockets: more callers than there are places are turned away, until a place is free again."""
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(trio.fail_after(20))
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listeners[0].socket.getsockname()[1]
        swarm = Swarm(listeners=listeners)
        joined(swarm, SOURCE)
        assert swarm.report().listening == (f"127.0.0.1:{port}",)
        nursery = await stack.enter_async_context(trio.open_nursery())
        nursery.start_soon(swarm.run)

        async def call() -> trio.SocketStream:
            return await stack.enter_async_context(await trio.open_tcp_stream("127.0.0.1", port))

        silent = [await call() for _ in range(INBOUND_MOST)]
        await until(lambda: len(swarm.sessions) == INBOUND_MOST)
        assert await (await call()).receive_some() == b""
        assert len(swarm.sessions) == INBOUND_MOST
        await silent[0].aclose()
        await until(lambda: len(swarm.sessions) < INBOUND_MOST)
        await call()
        await until(lambda: len(swarm.sessions) == INBOUND_MOST)
        nursery.cancel_scope.cancel()


async def test_callers_that_say_nothing_lose_their_place(autojump_clock: trio.testing.MockClock) -> None:
    """Who calls has to shake hands soon."""
    swarm = Swarm()
    joined(swarm, SOURCE)
    ours, _theirs = trio.testing.memory_stream_pair()
    with trio.fail_after(HANDSHAKE_TIMEOUT + 2):
        await swarm.serve(ours, "silent caller")
    assert trio.current_time() >= HANDSHAKE_TIMEOUT
    assert not swarm.sessions


def test_pauses_of_many_addresses_differ() -> None:
    """Peers that lost somebody at once do not return in step: a pause is a quarter longer or shorter at most."""
    book = Swarm()._dialer.book
    pauses = set()
    for number in range(50):
        known = book.add((f"10.0.{number}.1", 1), "dht", Meters(), 0.0)
        assert known is not None
        book.step(known, AddressEvent.DIAL, 0.0)
        book.step(known, AddressEvent.FAIL, 0.0)
        pauses.add(known.due)
    assert len(pauses) > 40
    assert 0.75 * BACKOFF_FIRST <= min(pauses) < max(pauses) <= 1.25 * BACKOFF_FIRST
