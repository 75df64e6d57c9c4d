"""The DNS packets of Dat's discovery, multicast and unicast: bytes to values and back (spec discovery.md, section 3).

Owns names, TXT strings, SRV targets and the list of peers in them. Not who sends what to whom: :mod:`.mdns` and
:mod:`.dns_servers` do that. dnspython knows the DNS format; this module knows what Dat puts into it.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import dns.exception
import dns.message
import dns.name
import dns.rdataclass
import dns.rdatatype
import dns.rdtypes.ANY.TXT
import dns.rdtypes.IN.SRV
import dns.rrset

from datfs.errors import FormatError
from datfs.net.transport import Address

DOMAIN = "dat.local"
ID_BYTES = 20
PEER_BYTES = 6
PEERS_MOST = 100  # what a server gives at most in one answer
PACKET_MOST = 9000  # RFC 6762 section 17; ordinary packets here have less than 1,500 bytes

QUERY = 0x0000  # flags of a multicast query
QUERY_SERVER = 0x0100
RESPONSE = 0x8400  # flags of a multicast response
RESPONSE_SERVER = 0x8000

ANY_SENDER = "0.0.0.0"  # in a record: the sender of the packet

_HEADER = struct.Struct(">6H")
_QUESTION = struct.Struct(">2H")
_SUFFIX = tuple(DOMAIN.encode().split(b"."))
_MARK = re.compile(rb"\x03dat", re.IGNORECASE)  # no packet of ours is without it, even when names are compressed


@dataclass(frozen=True, slots=True)
class Txt:
    """A TXT record. ``id``: what stands before the domain, empty for the domain itself. ``values``: its strings."""

    id: str
    values: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Srv:
    """An SRV record: one peer. ``port`` 0 and ``host`` ``0.0.0.0`` stand for those of the packet."""

    id: str
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Packet:
    """What a packet says about our domain; records of other domains and types are left out.

    ``questions``: the ids that TXT records are asked for. ``records``: those of all sections, in their order.
    """

    number: int
    response: bool
    questions: tuple[str, ...] = ()
    records: tuple[Txt | Srv, ...] = field(default=())

    def peers(self, id: str, source: Address) -> list[Address]:
        """The addresses that the packet's records give for ``id``; ``source`` sent the packet. Unfiltered."""
        found: list[Address] = []
        for record in self.records:
            if record.id != id:
                continue
            if isinstance(record, Srv):
                found.append((record.host, record.port or source[1]))
            else:
                found += decode_peers(record.values.get("peers", ""))
        return [(source[0] if host == ANY_SENDER else host, port) for host, port in found]


def short_id(discovery_key: bytes) -> str:
    """The name of a drive in discovery: 40 hex digits (section 1)."""
    return discovery_key[:ID_BYTES].hex()


def parse(data: bytes) -> Packet:
    """Takes a packet apart. Raises FormatError if it is not DNS; one of another domain gives an empty Packet."""
    if len(data) < _HEADER.size or len(data) > PACKET_MOST:
        raise FormatError(f"a packet of {len(data)} bytes is no DNS message")
    number, flags = struct.unpack_from(">2H", data)
    response = bool(flags & 0x8000)
    if _MARK.search(data) is None:
        # Most of what goes over a multicast group is not for us: a printer's announcements need no parsing.
        return Packet(number, response)
    try:
        message = dns.message.from_wire(data, one_rr_per_rrset=True, ignore_trailing=True)
    except (dns.exception.DNSException, ValueError) as error:
        raise FormatError(f"not a DNS message: {error}") from error
    questions = tuple(
        id
        for question in message.question
        if question.rdtype == dns.rdatatype.TXT and (id := _id_of(question.name)) is not None
    )
    sections = (message.answer, message.authority, message.additional)
    records = tuple(
        record for section in sections for rrset in section for record in _records_of(rrset) if record is not None
    )
    return Packet(number, response, questions, records)


def _id_of(name: dns.name.Name) -> str | None:
    labels = [label.lower() for label in name.labels if label]
    if tuple(labels[-len(_SUFFIX) :]) != _SUFFIX:
        return None
    return b".".join(labels[: -len(_SUFFIX)]).decode("ascii", "replace")


def _records_of(rrset: dns.rrset.RRset) -> Iterable[Txt | Srv | None]:
    id = _id_of(rrset.name)
    if id is None:
        return
    for rdata in rrset:
        if isinstance(rdata, dns.rdtypes.ANY.TXT.TXT):
            yield Txt(id, dict(_key_and_value(text) for text in rdata.strings))
        elif isinstance(rdata, dns.rdtypes.IN.SRV.SRV):
            target = b".".join(label for label in rdata.target.labels if label).decode("ascii", "replace")
            yield Srv(id, target, rdata.port) if _is_ipv4(target) else None


def _key_and_value(text: bytes) -> tuple[str, str]:
    key, equals, value = text.decode("utf-8", "replace").partition("=")
    return key, value if equals else "true"


def _is_ipv4(text: str) -> bool:
    try:
        ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return True


def decode_peers(text: str) -> list[Address]:
    """The value of ``peers``: base64 of records of 6 bytes. What is not base64, or a piece of a record, is dropped."""
    try:
        packed = base64.b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError):
        return []
    whole = min(len(packed) // PEER_BYTES, PEERS_MOST)
    found = struct.iter_unpack(">4sH", packed[: whole * PEER_BYTES])
    return [(str(ipaddress.IPv4Address(host)), port) for host, port in found]


def encode_peers(peers: Iterable[Address]) -> str:
    """The other way round. Raises ValueError for a host that is not dotted IPv4."""
    packed = b"".join(struct.pack(">4sH", ipaddress.IPv4Address(host).packed, port) for host, port in peers)
    return base64.b64encode(packed).decode()


def encode(
    number: int,
    flags: int,
    *,
    questions: Sequence[str] = (),
    answers: Sequence[Txt | Srv] = (),
    additionals: Sequence[Txt | Srv] = (),
) -> bytes:
    """A packet; names stand in it uncompressed, as the reference sends them. All questions are for TXT records."""
    parts = [_HEADER.pack(number, flags, len(questions), len(answers), 0, len(additionals))]
    for id in questions:
        parts += (_name(id).to_wire() or b"", _QUESTION.pack(dns.rdatatype.TXT, dns.rdataclass.IN))
    for record in (*answers, *additionals):
        data = _rdata(record)
        # Type, class, time to live (0: nobody is to keep it), length of the data.
        fixed = struct.pack(">2HIH", _type(record), dns.rdataclass.IN, 0, len(data))
        parts += (_name(record.id).to_wire() or b"", fixed, data)
    return b"".join(parts)


def _name(id: str) -> dns.name.Name:
    return dns.name.from_text(f"{id}.{DOMAIN}." if id else f"{DOMAIN}.")


def _type(record: Txt | Srv) -> dns.rdatatype.RdataType:
    return dns.rdatatype.TXT if isinstance(record, Txt) else dns.rdatatype.SRV


def _rdata(record: Txt | Srv) -> bytes:
    if isinstance(record, Srv):
        return struct.pack(">3H", 0, 0, record.port) + (dns.name.from_text(f"{record.host}.").to_wire() or b"")
    strings = [f"{key}={value}".encode() for key, value in record.values.items()]
    return dns.rdtypes.ANY.TXT.TXT(dns.rdataclass.IN, dns.rdatatype.TXT, strings).to_wire() or b""
