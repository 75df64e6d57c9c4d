"""The DNS packets of discovery: the reference's own bytes, round trips, and garbage."""

from __future__ import annotations

import random

import hypothesis.strategies as st
import pytest
from hypothesis import given

from datfs.errors import FormatError
from datfs.net.discovery import packets
from datfs.net.discovery.addresses import ADDRESSES_MOST, Fresh, is_usable
from datfs.net.discovery.packets import Srv, Txt
from tests.net.discovery_network import ID, KEY, VECTORS, captured

SOURCE = ("192.0.2.7", 5353)


def values_of(packet: packets.Packet) -> dict[str, str]:
    """The strings of the packet's only record."""
    (record,) = packet.records
    assert isinstance(record, Txt)
    assert record.id in (ID, "")
    return dict(record.values)


def test_the_short_id_is_the_first_twenty_bytes_of_the_discovery_key() -> None:
    """As 40 hex digits, not hashed again."""
    key = "daaf3d66c0c7b35b2a9ca711d5cac1154025f2a37f9dd714ee59a894edaa90a9"
    assert packets.short_id(bytes.fromhex(key)) == ID


def test_multicast_packets_are_the_bytes_of_the_reference() -> None:
    """Query and response, byte for byte."""
    assert packets.encode(0, packets.QUERY, questions=[ID]) == captured("multicast query")
    response = packets.parse(captured("multicast response"))
    assert response.response
    values = values_of(response)
    assert values["peers"] == packets.encode_peers([("0.0.0.0", 3282)])
    made = packets.encode(0, packets.RESPONSE, questions=[ID], answers=[Txt(ID, values)])
    assert made == captured("multicast response")


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("probe", None),
        ("lookup", ["subscribe", "token"]),
        ("announce", ["subscribe", "token", "announce"]),
        ("unannounce", ["token", "unannounce"]),
    ],
)
def test_what_clients_say_to_servers_is_the_bytes_of_the_reference(name: str, keys: list[str] | None) -> None:
    """Each question, with its strings in the reference's order."""
    theirs = packets.parse(captured(name))
    id = "" if keys is None else ID
    assert theirs.questions == (id,)
    said = [] if keys is None else [Txt(ID, {key: values_of(theirs)[key] for key in keys})]
    ours = packets.encode(theirs.number, packets.QUERY_SERVER, questions=[id], additionals=said)
    assert ours == captured(name)


@pytest.mark.parametrize("name", ["probe answer", "answer", "answer with peers"])
def test_what_servers_answer_is_understood(name: str) -> None:
    """A token in each; and written again it is the same bytes."""
    packet = packets.parse(captured(name))
    values = values_of(packet)
    assert packet.response
    assert len(values["token"]) == 44
    id = packet.questions[0]
    again = packets.encode(packet.number, packets.RESPONSE_SERVER, questions=[id], answers=[Txt(id, values)])
    assert again == captured(name)


def test_peers_of_the_reference() -> None:
    """An answer, a push, and a multicast response give addresses; 0.0.0.0 is who sent it."""
    assert packets.parse(captured("answer with peers")).peers(ID, SOURCE) == [("127.0.0.1", 3282)]
    assert packets.parse(captured("push")).peers(ID, SOURCE) == [("127.0.0.1", 3282)]
    assert packets.parse(captured("multicast response")).peers(ID, SOURCE) == [("192.0.2.7", 3282)]
    assert packets.parse(captured("push")).peers("0" * 40, SOURCE) == []


def test_a_push_and_its_answer_are_the_bytes_of_the_reference() -> None:
    """The SRV target is the address as four labels; the answer is twelve bytes."""
    number = packets.parse(captured("push")).number
    srv = Srv(ID, "127.0.0.1", 3282)
    assert packets.encode(number, packets.QUERY_SERVER, additionals=[srv]) == captured("push")
    assert packets.encode(number, packets.RESPONSE_SERVER) == captured("push answer")


def test_an_srv_record_may_stand_for_its_sender() -> None:
    """Target 0.0.0.0 and port 0 are those of the packet; a target that is a name is left out."""
    data = packets.encode(1, 0, additionals=[Srv(ID, "0.0.0.0", 0), Srv(ID, "example.org", 9)])
    assert packets.parse(data).peers(ID, SOURCE) == [SOURCE]


def test_compressed_names_are_read() -> None:
    """Other software compresses names: here the answer's name points to the question's."""
    plain = captured("multicast response")
    name = plain[12 : 12 + 52]
    compressed = plain[:68] + b"\xc0\x0c" + plain[68 + 52 :]
    assert plain[68:].startswith(name)
    assert packets.parse(compressed) == packets.parse(plain)


def test_upper_case_is_the_same_name() -> None:
    """DNS names have no case."""
    data = captured("multicast query").replace(b"local", b"LoCaL").replace(ID.encode(), ID.upper().encode())
    assert packets.parse(data).questions == (ID,)


def test_other_domains_are_nothing_to_us() -> None:
    """A printer on the same multicast group is not an error, and not a question."""
    printer = captured("multicast query").replace(b"\x03dat\x05local", b"\x04_ipp\x04_tcp")
    assert packets.parse(printer) == packets.Packet(0, response=False)
    near = captured("multicast query").replace(b"\x03dat\x05local", b"\x03dat\x05lokal")
    assert packets.parse(near).questions == ()


@given(st.lists(st.tuples(st.ip_addresses(v=4).map(str), st.integers(0, 65535)), max_size=packets.PEERS_MOST))
def test_peers_come_back_as_they_were(peers: list[tuple[str, int]]) -> None:
    """Encoding and decoding are each other's inverse, with base64 padding or without."""
    text = packets.encode_peers(peers)
    assert packets.decode_peers(text) == peers
    assert packets.decode_peers(text.rstrip("=")) == peers


@given(st.text(max_size=200))
def test_peers_that_are_none(text: str) -> None:
    """Any text is a list of addresses, if an empty one."""
    assert all(0 <= port < 65536 for _, port in packets.decode_peers(text))


@given(st.binary(max_size=300))
def test_garbage_is_refused(data: bytes) -> None:
    """Whatever comes: a packet or FormatError, and nothing else."""
    for garbage in (data, captured("push")[:12] + b"\x03dat" + data):
        try:
            packets.parse(garbage).peers(ID, SOURCE)
        except FormatError:
            pass


@given(st.sampled_from(sorted(VECTORS["packets"])), st.randoms(use_true_random=False))
def test_broken_packets_are_refused(name: str, rng: random.Random) -> None:
    """The reference's packets with some bytes changed or cut off: a packet or FormatError, and nothing else."""
    data = bytearray(captured(name))
    for _ in range(rng.randint(1, 6)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    try:
        packets.parse(bytes(data[: rng.randint(0, len(data))])).peers(ID, SOURCE)
    except FormatError:
        pass


@pytest.mark.parametrize(
    ("address", "source", "usable"),
    [
        (("192.0.2.1", 3282), "192.0.2.9", True),
        (("10.0.0.1", 1), "192.0.2.9", True),
        (("192.0.2.1", 0), "192.0.2.9", False),
        (("127.0.0.1", 3282), "192.0.2.9", False),
        (("127.0.0.1", 3282), "127.0.0.1", True),
        (("224.0.0.251", 5353), "127.0.0.1", False),
        (("255.255.255.255", 9), "127.0.0.1", False),
        (("0.0.0.0", 3282), "127.0.0.1", False),
        (("example.org", 3282), "127.0.0.1", False),
    ],
)
def test_which_addresses_are_worth_a_try(address: tuple[str, int], source: str, usable: bool) -> None:
    """Not those that nobody can have, nor our own machine on a stranger's word."""
    assert is_usable(address, source) is usable


def test_addresses_pass_once_in_a_round_and_not_without_end() -> None:
    """Copies are dropped, a flood is cut, and the next round begins anew."""
    fresh = Fresh()
    flood = [(f"10.0.{n // 250}.{n % 250 + 1}", 3282) for n in range(2 * ADDRESSES_MOST)]
    assert fresh.take([flood[0], flood[0]], "192.0.2.1") == [flood[0]]
    assert len(fresh.take(flood, "192.0.2.1")) == ADDRESSES_MOST - 1
    assert fresh.take(flood, "192.0.2.1") == []
    fresh.new_round()
    assert fresh.take(flood[:1], "192.0.2.1") == flood[:1]


def test_the_key_of_these_tests_has_the_id_of_the_vectors() -> None:
    """So that the other tests of discovery speak of the same drive."""
    assert packets.short_id(KEY) == ID
