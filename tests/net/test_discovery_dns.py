"""Discovery servers: what is said to them, when, and what becomes of a search when they are slow, new, or away."""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import aclosing, nullcontext
from itertools import pairwise

import pytest
import trio
import trio.lowlevel
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from datfs.errors import BadLink
from datfs.net.discovery import packets
from datfs.net.discovery.dns_exchange import (
    RESEND_AFTER,
    TOKEN_LIFE,
    TRANSITIONS,
    Event,
    Exchange,
    State,
)
from datfs.net.discovery.dns_servers import DEFAULT_PORTS, LEAVE_TIMEOUT, ROUND, DnsServer, parse_server
from datfs.net.discovery.packets import Srv, Txt
from datfs.net.transport import Address
from tests.net.discovery_network import ID, KEY, Datagrams, Server, captured, serve_dns

SERVER = ("192.0.2.53", 5300)
SERVER_2 = ("192.0.2.53", 53)


def exchange(announce_port: int | None = 4000) -> Exchange:
    """One that asks questions with the same numbers every time."""
    return Exchange(KEY, announce_port, random.Random(1))


def said(data: bytes) -> dict[str, str]:
    """The strings of a packet's record; none for a probe."""
    records = packets.parse(data).records
    return dict(records[0].values) if records and isinstance(records[0], Txt) else {}


def answer(question: bytes, values: dict[str, str]) -> bytes:
    """A server's answer to a question."""
    packet = packets.parse(question)
    id = packet.questions[0]
    return packets.encode(packet.number, packets.RESPONSE_SERVER, questions=[id], answers=[Txt(id, values)])


def begun(announce_port: int | None = 4000) -> tuple[Exchange, bytes]:
    """An exchange that has its token, and the question that it has just asked."""
    one = exchange(announce_port)
    one.begin(0.0)
    (probe,) = one.data_to_send()
    one.receive(answer(probe, {"token": "t1"}), SERVER, 0.1)
    (question,) = one.data_to_send()
    return one, question


# ---------------------------------------------------------------- what is said


def test_every_state_is_left_by_time_or_an_answer() -> None:
    """No state waits for something that may never come, but the two in which nothing was asked."""
    waiting = set(State) - {State.RESTING, State.SILENT, State.GONE}
    assert {state for state, event in TRANSITIONS if event is Event.EXPIRED} == waiting


def test_a_probe_and_then_an_announcement() -> None:
    """In the reference's words."""
    one = exchange()
    one.begin(0.0)
    (probe,) = one.data_to_send()
    assert probe[2:] == captured("probe")[2:]
    assert one.receive(answer(probe, {"token": "t1", "host": "192.0.2.1", "port": "9"}), SERVER, 0.1) == []
    (question,) = one.data_to_send()
    assert list(said(question).items()) == [("subscribe", "true"), ("token", "t1"), ("announce", "4000")]
    peers = packets.encode_peers([("192.0.2.9", 3282)])
    assert one.receive(answer(question, {"token": "t1", "peers": peers}), SERVER, 0.2) == [("192.0.2.9", 3282)]
    assert one.state is State.RESTING
    assert one.next_deadline() is None


def test_a_reader_only_looks() -> None:
    """Nothing is announced, and nothing is taken back at the end."""
    one, question = begun(None)
    assert said(question) == {"subscribe": "true", "token": "t1"}
    one.receive(answer(question, {"token": "t1"}), SERVER, 0.2)
    one.leave(1.0)
    assert one.data_to_send() == []


def test_the_token_is_kept_for_the_next_rounds() -> None:
    """Until it is old: then there is a probe again."""
    one, question = begun()
    one.receive(answer(question, {"token": "t1"}), SERVER, 0.2)
    one.begin(60.0)
    (again,) = one.data_to_send()
    assert said(again)["token"] == "t1"
    one.receive(answer(again, {"token": "t1"}), SERVER, 60.1)
    one.begin(61.0 + TOKEN_LIFE)
    (probe,) = one.data_to_send()
    assert packets.parse(probe).questions == ("",)


def test_an_announcement_under_an_old_token_is_made_again() -> None:
    """A server that was started anew ignores what we said; it is said once more, and not without end."""
    one, question = begun()
    one.receive(answer(question, {"token": "t2"}), SERVER, 0.2)
    (again,) = one.data_to_send()
    assert said(again) == {"subscribe": "true", "token": "t2", "announce": "4000"}
    one.receive(answer(again, {"token": "t3"}), SERVER, 0.3)
    assert one.data_to_send() == []
    assert one.state is State.RESTING


def test_a_question_is_repeated_and_then_given_up() -> None:
    """At growing intervals, 7.5 s in all; the same bytes each time."""
    one = exchange()
    one.begin(0.0)
    sent = [(0.0, data) for data in one.data_to_send()]
    while (deadline := one.next_deadline()) is not None:
        one.tick(deadline)
        sent += [(deadline, data) for data in one.data_to_send()]
    assert [time for time, _ in sent] == [0.0, 0.5, 1.5, 3.5]
    assert len({data for _, data in sent}) == 1
    assert one.state is State.SILENT


def test_leaving_takes_the_announcement_back() -> None:
    """In the reference's words: no subscription any more."""
    one, question = begun()
    one.receive(answer(question, {"token": "t1"}), SERVER, 0.2)
    one.leave(5.0)
    (leaving,) = one.data_to_send()
    assert list(said(leaving).items()) == [("token", "t1"), ("unannounce", "4000")]
    one.receive(answer(leaving, {"token": "t1"}), SERVER, 5.1)
    assert one.state is State.GONE
    one.leave(6.0)
    assert one.data_to_send() == []


def test_a_push_gives_an_address_and_is_confirmed() -> None:
    """With the twelve bytes of the reference; without them the server repeats it."""
    one, question = begun()
    one.receive(answer(question, {"token": "t1"}), SERVER, 0.2)
    assert one.receive(captured("push"), SERVER, 9.0) == [("127.0.0.1", 3282)]
    assert one.data_to_send() == [captured("push answer")]
    assert one.state is State.RESTING


def test_answers_to_nobodys_question_change_nothing() -> None:
    """A wrong number, a second copy, or an answer that comes too late: no addresses, no new question."""
    one, question = begun()
    peers = {"token": "t9", "peers": packets.encode_peers([("192.0.2.9", 3282)])}
    wrong = bytearray(answer(question, peers))
    wrong[0] ^= 1
    assert one.receive(bytes(wrong), SERVER, 0.2) == []
    assert one.state is State.ASKING
    assert one.receive(answer(question, {"token": "t1"}), SERVER, 0.3) == []
    assert one.receive(answer(question, peers), SERVER, 0.4) == []
    assert one.data_to_send() == []


def test_a_token_that_could_not_be_sent_back_is_none() -> None:
    """A string in DNS has at most 255 bytes."""
    one = exchange()
    one.begin(0.0)
    (probe,) = one.data_to_send()
    one.receive(answer(probe, {"token": "t" * 240}), SERVER, 0.1)
    assert one.state is State.PROBING


@given(st.lists(st.one_of(st.binary(max_size=80), st.sampled_from(["answer", "push", "announce"])), max_size=8))
def test_garbage_from_the_server(pieces: list[bytes | str]) -> None:
    """Whatever comes, with the right number even, the exchange neither falls over nor stops asking."""
    one, question = begun()
    for piece in pieces:
        data = captured(piece) if isinstance(piece, str) else question[:2] + b"\x80\0" + piece
        for address in one.receive(data, SERVER, 0.2):
            assert 0 <= address[1] < 65536
        assert all(packets.parse(out) for out in one.data_to_send())
    while (deadline := one.next_deadline()) is not None:
        one.tick(deadline)
    one.data_to_send()
    one.begin(60.0)
    assert one.data_to_send()


# ---------------------------------------------------------------- searches


class World:
    """A network with a server and clients on it."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.network = Datagrams()
        self.server = Server()
        self.found: dict[str, list[Address]] = {}
        self.clients: dict[str, DnsServer] = {}
        self._nursery = nursery

    async def serve(self, at: Address = SERVER) -> trio.CancelScope:
        """The server is there until the scope that is returned is cancelled."""
        scope: trio.CancelScope = await self._nursery.start(self._serve, at)
        return scope

    async def _serve(self, at: Address, *, task_status: trio.TaskStatus[trio.CancelScope]) -> None:
        with trio.CancelScope() as scope, self.network.socket(at) as sock:
            task_status.started(scope)
            await self.server.run(sock)

    def search(self, host: str, announce_port: int | None = None, ports: Sequence[int] = (5300,)) -> trio.CancelScope:
        """Looks, or announces, until the scope that is returned is cancelled."""
        scope = trio.CancelScope()
        self.found[host] = []
        client = DnsServer(
            SERVER[0],
            ports,
            announce_port,
            rng=random.Random(host),
            new_socket=lambda: self.network.socket((host, 7000)),
        )
        self.clients[host] = client
        self._nursery.start_soon(self._search, host, client, scope)
        return scope

    async def _search(self, host: str, client: DnsServer, scope: trio.CancelScope) -> None:
        with scope:
            async with aclosing(client.find(KEY)) as found:
                async for address in found:
                    self.found[host].append(address)


@pytest.fixture
async def world(nursery: trio.Nursery) -> World:
    """Nobody is on the network yet."""
    return World(nursery)


async def test_a_reader_finds_who_announced_before(autojump_clock: MockClock, world: World) -> None:
    """From the server's answer, once in a round."""
    await world.serve()
    world.search("192.0.2.1", 1001)
    await trio.sleep(1)
    world.search("192.0.2.2")
    await trio.sleep(1)
    assert world.found["192.0.2.2"] == [("192.0.2.1", 1001)]


async def test_a_reader_finds_who_announces_later(autojump_clock: MockClock, world: World) -> None:
    """The server pushes the newcomer's address."""
    await world.serve()
    world.search("192.0.2.2")
    await trio.sleep(1)
    world.search("192.0.2.1", 1001)
    await trio.sleep(1)
    assert world.found["192.0.2.2"] == [("192.0.2.1", 1001)]


async def test_announcements_are_repeated_every_minute(autojump_clock: MockClock, world: World) -> None:
    """The server does not keep them alive."""
    await world.serve()
    world.search("192.0.2.1", 1001)
    await trio.sleep(600)
    times = [time for time, _, to, data in world.network.sent if to == SERVER and "announce" in said(data)]
    assert len(times) >= 9
    assert all(ROUND[0] <= later - earlier <= ROUND[1] + 1 for earlier, later in pairwise(times))


async def test_who_ends_is_no_longer_announced(autojump_clock: MockClock, world: World) -> None:
    """Also when the end is a cancellation; the server has confirmed it when the search is over."""
    await world.serve()
    scope = world.search("192.0.2.1", 1001)
    await trio.sleep(1)
    assert world.server.peers[ID] == {("192.0.2.1", 1001)}
    scope.cancel()
    await trio.lowlevel.checkpoint()
    await trio.testing.wait_all_tasks_blocked()
    assert world.server.peers[ID] == set()
    assert world.server.subscribers[ID] == set()
    assert list(world.network.sockets) == [SERVER]


async def test_an_end_does_not_wait_for_a_dead_server(autojump_clock: MockClock, world: World) -> None:
    """A second at most."""
    server = await world.serve()
    scope = world.search("192.0.2.1", 1001)
    await trio.sleep(1)
    server.cancel()
    await trio.sleep(1)
    scope.cancel()
    await trio.sleep(LEAVE_TIMEOUT / 2)
    assert world.network.sockets
    await trio.sleep(LEAVE_TIMEOUT / 2 + 0.01)
    assert not world.network.sockets


async def test_a_server_that_comes_later_is_found(autojump_clock: MockClock, world: World) -> None:
    """The search says that it does not answer, and is well again when it does."""
    world.search("192.0.2.1", 1001)
    await trio.sleep(30)
    assert "does not answer" in (world.clients["192.0.2.1"].problem or "")
    await world.serve()
    await trio.sleep(ROUND[1])
    assert world.server.peers[ID] == {("192.0.2.1", 1001)}
    assert world.clients["192.0.2.1"].problem is None


async def test_a_server_that_was_started_anew_is_told_again(autojump_clock: MockClock, world: World) -> None:
    """It knows neither us nor its old tokens; our next round is enough."""
    await world.serve()
    world.search("192.0.2.1", 1001)
    await trio.sleep(1)
    world.server.secret = b"another"
    world.server.peers.clear()
    await trio.sleep(ROUND[1])
    assert world.server.peers[ID] == {("192.0.2.1", 1001)}


async def test_the_second_port_is_tried(autojump_clock: MockClock, world: World) -> None:
    """At once, when the first one is silent; and kept for the next round."""
    await world.serve(SERVER_2)
    world.search("192.0.2.1", 1001, ports=DEFAULT_PORTS)
    await trio.sleep(sum(RESEND_AFTER) + 1)
    assert world.server.peers[ID] == {("192.0.2.1", 1001)}
    world.network.sent.clear()
    await trio.sleep(ROUND[1])
    assert {to for _, sender, to, _ in world.network.sent if sender[0] == "192.0.2.1"} == {SERVER_2}


async def test_lost_packets_are_sent_again(autojump_clock: MockClock, world: World) -> None:
    """Half of them are lost: it takes a little longer."""
    rng = random.Random(3)
    world.network.lose = lambda data: rng.random() < 0.5
    await world.serve()
    world.search("192.0.2.1", 1001)
    world.search("192.0.2.2")
    await trio.sleep(2 * ROUND[1])
    assert world.found["192.0.2.2"][:1] == [("192.0.2.1", 1001)]


async def test_a_network_that_is_down_is_waited_for(autojump_clock: MockClock, world: World) -> None:
    """Nothing is raised, and the next round works."""
    world.network.down = True
    await world.serve()
    world.search("192.0.2.1", 1001)
    await trio.sleep(20)
    world.network.down = False
    await trio.sleep(ROUND[1])
    assert world.server.peers[ID] == {("192.0.2.1", 1001)}


async def test_strangers_are_not_listened_to(autojump_clock: MockClock, world: World) -> None:
    """Only the server's host may name peers."""
    await world.serve()
    world.search("192.0.2.2")
    await trio.sleep(1)
    push = packets.encode(7, packets.QUERY_SERVER, additionals=[Srv(ID, "192.0.2.66", 666)])
    with world.network.socket(("192.0.2.66", 5300)) as liar:
        await liar.sendto(push, ("192.0.2.2", 7000))
        await trio.sleep(1)
    assert world.found["192.0.2.2"] == []


async def test_a_name_without_address_is_waited_for(autojump_clock: MockClock) -> None:
    """It says so; a search for it can be ended."""
    client = DnsServer("nowhere.invalid", new_socket=lambda: nullcontext(_Unused()))
    trio.socket.set_custom_hostname_resolver(_NoNames())
    with trio.move_on_after(100):
        async with aclosing(client.find(KEY)) as found:
            async for address in found:
                pytest.fail(f"found {address}")
    assert client.problem == "the address of nowhere.invalid cannot be found: Name or service not known"


class _NoNames(trio.abc.HostnameResolver):
    async def getaddrinfo(self, *args: object, **more: object) -> list[object]:  # type: ignore[override]
        raise OSError(-2, "Name or service not known")

    async def getnameinfo(self, *args: object) -> tuple[str, str]:
        raise NotImplementedError


class _Unused:
    async def sendto(self, data: bytes, address: Address) -> int:
        raise AssertionError("there is no address to send to")

    async def recvfrom(self, size: int) -> tuple[bytes, Address]:
        raise AssertionError("nothing was sent")


async def test_real_sockets() -> None:
    """The same over loopback, with the small server of these tests."""
    with trio.fail_after(10):
        async with serve_dns() as port, trio.open_nursery() as nursery:
            nursery.start_soon(_announce, port)
            async with aclosing(DnsServer("127.0.0.1", [port]).find(KEY)) as found:
                async for address in found:
                    assert address == ("127.0.0.1", 1001)
                    break
            nursery.cancel_scope.cancel()


async def _announce(port: int) -> None:
    async with aclosing(DnsServer("127.0.0.1", [port], 1001).find(KEY)) as found:
        async for _ in found:
            pass


@pytest.mark.parametrize(
    ("text", "server"),
    [
        ("example.org", ("example.org", (5300, 53))),
        ("192.0.2.1:53", ("192.0.2.1", (53,))),
        ("example.org:5300,53", ("example.org", (5300, 53))),
    ],
)
def test_servers_as_people_write_them(text: str, server: tuple[str, tuple[int, ...]]) -> None:
    """As the dat command takes them."""
    assert parse_server(text) == server


@pytest.mark.parametrize("text", ["", ":53", "host:", "host:0", "host:x", "host:70000", "host:1,"])
def test_servers_that_are_none(text: str) -> None:
    """Said so, with what is expected."""
    with pytest.raises(BadLink, match="discovery server"):
        parse_server(text)
