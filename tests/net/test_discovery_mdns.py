"""mDNS in the way of Dat: who answers whom, how often, and what is heard of it."""

from __future__ import annotations

import random
import socket
from contextlib import aclosing
from functools import partial
from itertools import pairwise

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from datfs.net.discovery import packets
from datfs.net.discovery.mdns import EARLY, REPLIES_PER_SECOND, ROUND, Conversation, MulticastDns
from datfs.net.discovery.multicast import MulticastSocket
from datfs.net.transport import Address
from tests.net.discovery_network import ID, KEY, Group, captured

STRANGER = ("192.0.2.7", 5353)


def announcing() -> Conversation:
    """Our side of a drive that we serve on port 4000."""
    return Conversation(KEY, 4000, "token")


def test_a_query_of_the_reference_is_answered() -> None:
    """To the port it came from, with our port on the address we send from; the reference understands 0.0.0.0."""
    conversation = announcing()
    assert conversation.receive(captured("multicast query"), ("192.0.2.7", 6000), 0.0) == []
    ((reply, port),) = conversation.replies
    assert port == 6000
    packet = packets.parse(reply)
    assert packet.response
    assert packet.questions == (ID,)
    assert packet.peers(ID, ("192.0.2.1", 5353)) == [("192.0.2.1", 4000)]


def test_who_does_not_announce_is_silent() -> None:
    """A reader does not answer, and nobody answers for another drive."""
    reader = Conversation(KEY, None, "token")
    other = Conversation(bytes(32), 4000, "token")
    for conversation in (reader, other):
        conversation.receive(captured("multicast query"), STRANGER, 0.0)
        assert conversation.replies == []


def test_a_response_of_the_reference_gives_its_address() -> None:
    """0.0.0.0 in it is where it came from."""
    assert announcing().receive(captured("multicast response"), STRANGER, 0.0) == [("192.0.2.7", 3282)]


def test_our_own_answer_is_not_a_peer() -> None:
    """It comes back to us over the group and is known by its token."""
    ours, other = announcing(), Conversation(KEY, None, "another token")
    ours.receive(captured("multicast query"), STRANGER, 0.0)
    ((reply, _),) = ours.replies
    assert ours.receive(reply, ("192.0.2.1", 5353), 0.0) == []
    assert other.receive(reply, ("192.0.2.1", 5353), 0.0) == [("192.0.2.1", 4000)]


def test_a_flood_of_queries_is_not_answered_in_full() -> None:
    """So many replies a second at most; in the next second there are some again."""
    conversation = announcing()
    for _ in range(1000):
        conversation.receive(captured("multicast query"), STRANGER, 5.5)
    assert len(conversation.replies) == REPLIES_PER_SECOND
    conversation.receive(captured("multicast query"), STRANGER, 6.1)
    assert len(conversation.replies) == REPLIES_PER_SECOND + 1


@given(st.binary(max_size=200))
def test_garbage_changes_nothing(data: bytes) -> None:
    """Whatever is sent to the group, we neither fall over nor answer."""
    conversation = announcing()
    for garbage in (data, captured("multicast query")[:12] + data + b"\x03dat"):
        assert conversation.receive(garbage, STRANGER, 0.0) == []
    assert conversation.replies == []


class Party:
    """Some searches in one group; each writes down what it finds and when."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.group = Group()
        self.found: dict[str, list[tuple[float, Address]]] = {}
        self._nursery = nursery

    def start(self, host: str, announce_port: int | None = None) -> MulticastDns:
        """One more search, on a host of its own."""
        mdns = MulticastDns(announce_port, open_group=partial(self.group.join, host), rng=random.Random(host))
        self.found[host] = []
        self._nursery.start_soon(self._find, host, mdns)
        return mdns

    async def _find(self, host: str, mdns: MulticastDns) -> None:
        async with aclosing(mdns.find(KEY)) as found:
            async for address in found:
                self.found[host].append((trio.current_time(), address))

    def addresses(self, host: str) -> set[Address]:
        """What a search has found."""
        return {address for _, address in self.found[host]}


async def test_two_that_announce_find_each_other(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """At once, and neither finds itself."""
    party = Party(nursery)
    party.start("192.0.2.1", 1001)
    party.start("192.0.2.2", 1002)
    await trio.sleep(0.1)
    assert party.addresses("192.0.2.1") == {("192.0.2.2", 1002)}
    assert party.addresses("192.0.2.2") == {("192.0.2.1", 1001)}


async def test_a_reader_that_was_first_finds_the_one_that_comes(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """Not only in the reader's next round: the newcomer answers its own query. It is heard of once."""
    party = Party(nursery)
    party.start("192.0.2.1")
    await trio.sleep(20)
    party.start("192.0.2.2", 1002)
    await trio.sleep(10)
    assert [address for _, address in party.found["192.0.2.1"]] == [("192.0.2.2", 1002)]
    assert party.found["192.0.2.1"][0][0] < 20.1
    assert party.found["192.0.2.2"] == []


async def test_rounds_come_every_minute(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """Three queries in the beginning, since datagrams get lost, then one every 60 to 70 seconds."""
    party = Party(nursery)
    party.start("192.0.2.1")
    await trio.sleep(600)
    times = [time for time, _, data in party.group.sent if not packets.parse(data).response]
    assert times[: len(EARLY)] == pytest.approx(EARLY)
    assert all(ROUND[0] <= later - earlier <= ROUND[1] for earlier, later in pairwise(times[len(EARLY) - 1 :]))
    assert len(times) >= len(EARLY) + 8


async def test_many_readers_do_not_chatter(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """Nobody answers, and nobody asks because another did."""
    party = Party(nursery)
    for n in range(1, 5):
        party.start(f"192.0.2.{n}")
    await trio.sleep(59)
    assert len(party.group.sent) == 4 * len(EARLY)


async def test_a_peer_is_named_again_in_each_round(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """So that one whose address failed before is tried again."""
    party = Party(nursery)
    party.start("192.0.2.1")
    party.start("192.0.2.2", 1002)
    await trio.sleep(3 * ROUND[1])
    assert 3 <= len(party.found["192.0.2.1"]) <= 4


async def test_a_network_that_is_down_is_waited_for(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """The search says what is wrong, and goes on by itself when it is right again."""
    party = Party(nursery)
    party.group.broken = True
    mdns = party.start("192.0.2.1")
    party.start("192.0.2.2", 1002)
    await trio.sleep(30)
    assert mdns.problem is not None
    assert "No such device" in mdns.problem
    party.group.broken = False
    await trio.sleep(10)
    assert party.addresses("192.0.2.1") == {("192.0.2.2", 1002)}
    assert mdns.problem is None


async def test_an_end_leaves_the_group(autojump_clock: MockClock) -> None:
    """A search that is cancelled has closed its socket."""
    async with trio.open_nursery() as nursery:
        party = Party(nursery)
        party.start("192.0.2.1", 1001)
        await trio.sleep(1)
        assert len(party.group.members) == 1
        nursery.cancel_scope.cancel()
    assert party.group.members == []


def free_port() -> int:
    """A UDP port that nobody has at the moment."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("", 0))
        return int(sock.getsockname()[1])


async def test_real_multicast_on_loopback() -> None:
    """Two searches with sockets of their own, on one port of one machine, find each other."""
    open_group = partial(MulticastSocket, port=free_port(), interfaces=lambda: ["lo"])
    one, two = MulticastDns(1001, open_group=open_group), MulticastDns(1002, open_group=open_group)
    ports: dict[int, int] = {}

    async def first(name: int, mdns: MulticastDns) -> None:
        async with aclosing(mdns.find(KEY)) as found:
            async for _, port in found:
                ports[name] = port
                if len(ports) == 2:
                    nursery.cancel_scope.cancel()

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(first, 1, one)
            nursery.start_soon(first, 2, two)
    assert ports == {1: 1002, 2: 1001}


async def test_a_port_that_is_not_shared_is_an_error() -> None:
    """Another program that holds the port alone is a reason, not a crash."""
    taken = trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM)
    with taken:
        await taken.bind(("0.0.0.0", 0))
        with pytest.raises(OSError, match="in use"):
            MulticastSocket(port=taken.getsockname()[1], interfaces=lambda: ["lo"])


async def test_no_interface_is_an_error() -> None:
    """A machine without network says so."""
    with pytest.raises(OSError, match="no network interface"):
        MulticastSocket(port=free_port(), interfaces=list)
