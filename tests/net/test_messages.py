"""Messages to payloads and back; the reference's own bytes."""

from __future__ import annotations

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from datfs.crypto import TreeNode
from datfs.errors import LocalProtocolError, RemoteProtocolError
from datfs.net import wire_pb2
from datfs.net.messages import (
    DATA,
    EXTENSION,
    FEED,
    HANDSHAKE,
    HAVE,
    INFO,
    LARGE_VALUE,
    MAX_FIELDS,
    REQUEST,
    UNHAVE,
    WANT,
    Cancel,
    Data,
    Extension,
    Feed,
    Handshake,
    Have,
    Info,
    Message,
    Request,
    Unhave,
    Unwant,
    Want,
    decode,
    encode,
    encode_pieces,
    type_of,
)
from tests import strategies
from tests.net.recording import RECORDINGS, Frame, Recording

FRAMES = [
    pytest.param(frame, id=f"{recording.name}-{direction}-{frame.offset}")
    for recording in RECORDINGS
    for direction, frames in (("a", recording.a.frames), ("b", recording.b.frames))
    for frame in frames
    if frame.message is not None
]


@pytest.mark.parametrize("frame", FRAMES)
def test_recorded_payload_decodes(frame: Frame) -> None:
    """Each recorded payload decodes to the message that the reference decoded."""
    assert frame.message is not None
    assert type_of(frame.message) == frame.type
    assert decode(frame.type, memoryview(frame.payload)) == frame.message


@pytest.mark.parametrize("frame", FRAMES)
def test_encoding_is_that_of_the_reference(frame: Frame) -> None:
    """Our bytes are the reference's, but for fields that it was told to leave out and that dat peers never
    do.
    """
    assert frame.message is not None
    shortened = frame.message in (Info(), Request(0), Cancel(1)) and len(frame.payload) < 4
    if shortened:
        assert len(frame.payload) < len(encode(frame.message))
    else:
        assert encode(frame.message) == frame.payload


@pytest.mark.parametrize(
    ("message", "payload"),
    [
        (Handshake(b"\xaa" * 32), "0a20" + "aa" * 32 + "10002800"),
        (
            Handshake(b"\xaa" * 32, True, None, ("ext",)),
            "0a20" + "aa" * 32 + "100122036578742800",
        ),
        (Want(0, 2**20), "080010808040"),
        (Have(2), "0802"),
        (Have(0, 2**20, b"\x02\xe0"), "0800108080401a0202e0"),
        (Have(0, 8192, b""), "08001080401a00"),
        (Have(0, ack=True), "080010012001"),
        (Request(2), "0802100018002000"),
        (Request(3, nodes=6), "0803100018002006"),
        (Info(True, False), "08011000"),
        (Info(False, False), "08001000"),
        (Extension(0, b"hello"), "0068656c6c6f"),
    ],
)
def test_bytes_of_the_specification(message: Message, payload: str) -> None:
    """The payloads that wire.md prints."""
    assert encode(message).hex() == payload
    assert decode(type_of(message), memoryview(bytes.fromhex(payload))) == message


@given(strategies.messages)
def test_decode_reverses_encode(message: Message) -> None:
    """Every message survives being sent."""
    assert decode(type_of(message), memoryview(encode(message))) == message


@given(st.sampled_from([*range(10), EXTENSION]), strategies.messages, st.data())
def test_decoded_values_do_not_share_the_buffer(type_: int, message: Message, data: st.DataObject) -> None:
    """The buffer may be used again: a message that came out of it stays the same, but for a large chunk."""
    buffer = bytearray(encode(message))
    decoded = decode(type_of(message), memoryview(buffer))
    buffer[:] = data.draw(st.binary(min_size=len(buffer), max_size=len(buffer)))
    assert decoded == message


LARGE = bytes(range(256)) * (LARGE_VALUE // 256)
NODES = (TreeNode(3, b"h" * 32, 2**40), TreeNode(9, b"i" * 32, 0))


@pytest.mark.parametrize("index", [0, 127, 128, 2**53 - 1])
@pytest.mark.parametrize("signature", [None, b"s" * 64])
@pytest.mark.parametrize("nodes", [(), NODES])
def test_a_large_chunk_is_not_copied(index: int, signature: bytes | None, nodes: tuple[TreeNode, ...]) -> None:
    """It goes out as the object that it is, and comes in as a view; the bytes are those that protobuf makes."""
    message = Data(index, LARGE, nodes, signature)
    pieces = encode_pieces(message)
    assert any(piece is LARGE for piece in pieces)
    payload = bytearray(b"".join(pieces))
    assert payload == encode(message)
    decoded = decode(DATA, memoryview(payload))
    assert decoded == message
    assert isinstance(decoded, Data)
    assert isinstance(decoded.value, memoryview)
    assert decoded.value.obj is payload


data_fields = st.sampled_from(
    [
        b"\x08\x05",
        b"\x08\x80\x01",
        b"\x88\x00\x05",  # the tag in more bytes than it needs
        b"\x12\x01x",
        b"\x12\x80\x80\x01" + LARGE,
        b"\x12\xff\xff\x7f" + LARGE,  # says that it is longer than it is
        b"\x1a\x26\x08\x03\x12\x20" + b"h" * 32 + b"\x18\x07",
        b"\x1a\x02\x08\x03",  # a node that lacks what it needs
        b"\x22\x40" + b"s" * 64,
        b"\x2a\x03new",
        b"\x30",
        b"",
    ]
)


@given(st.lists(data_fields, max_size=6))
def test_large_data_in_any_order(fields: list[bytes]) -> None:
    """However a message is put together, it is what protobuf makes of it."""
    payload = b"".join([*fields, b"\x2a\x80\x80\x01" + LARGE])
    try:
        wire = wire_pb2.Data.FromString(payload)
    except DecodeError:
        wire = None
    decoded = decode(DATA, memoryview(payload))
    if wire is None or not wire.IsInitialized():
        assert decoded is None
        return
    nodes = tuple(TreeNode(node.index, node.hash, node.size) for node in wire.nodes)
    value = wire.value if wire.HasField("value") else None
    assert decoded == Data(wire.index, value, nodes, wire.signature if wire.HasField("signature") else None)


@pytest.mark.parametrize(
    ("type_", "payload", "message"),
    [
        (HAVE, "0805", Have(5, 1)),
        (UNHAVE, "0805", Unhave(5, 1)),
        (WANT, "0800", Want(0, 0)),
        (6, "0800", Unwant(0, 0)),
        (REQUEST, "0805", Request(5, 0, False, 0)),
        (8, "0805", Cancel(5, 0, False)),
        (DATA, "0805", Data(5, None, (), None)),
        (DATA, "08051200", Data(5, b"", (), None)),
        (INFO, "", Info(False, False)),
        (HANDSHAKE, "", Handshake(b"")),
        (HAVE, "0805ca3e0568656c6c6f", Have(5)),
        (HAVE, "10030801", Have(1, 3)),
    ],
    ids=str,
)
def test_absent_and_unknown_fields(type_: int, payload: str, message: Message) -> None:
    """Fields that are left out have the defaults of wire.md section 2; unknown ones are skipped; any order
    will do.
    """
    assert decode(type_, memoryview(bytes.fromhex(payload))) == message


@pytest.mark.parametrize("type_", range(10, 15))
def test_unknown_types_are_ignored(type_: int) -> None:
    """Types 10 to 14 mean nothing, whatever they hold."""
    assert decode(type_, memoryview(b"\x08\x00")) is None


@pytest.mark.parametrize(
    ("type_", "payload"),
    [
        (FEED, ""),
        (HAVE, ""),
        (HAVE, "1001"),
        (HAVE, "08"),
        (HAVE, "08ffffffffffffffffffffff01"),
        (HAVE, "08001a05ff"),
        (DATA, "1200"),
        (DATA, "08001a020801"),
        (DATA, "0800ff"),
        (EXTENSION, ""),
        (EXTENSION, "80"),
    ],
)
def test_undecodable_payloads_are_ignored(type_: int, payload: str) -> None:
    """A payload that is cut or lacks a required field is no message and no error (wire.md section 9)."""
    assert decode(type_, memoryview(bytes.fromhex(payload))) is None


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (Feed(bytes(31)), "discovery key of 31 bytes"),
        (Feed(bytes(32), bytes(32)), "nonce of 32 bytes"),
        (Feed(bytes(32), b""), "nonce of 0 bytes"),
        (Data(0, b"", (TreeNode(0, bytes(31), 1),)), "hash of 31 bytes"),
        (Data(0, b"", (TreeNode(0, bytes(32), 2**53),)), "number 9007199254740992"),
        (Data(0, b"", (TreeNode(2**53, bytes(32), 0),)), "number 9007199254740992"),
        (Data(2**53, b""), "number 9007199254740992"),
        (Data(0, b"", (), bytes(63)), "signature of 63 bytes"),
        (Data(0, b"", (), b""), "signature of 0 bytes"),
        (Have(2**53), "number 9007199254740992"),
        (Have(2**53 - 1, 2), "number 9007199254740993"),
        (Have(0, 2**64 - 1), "number"),
        (Unhave(1, 2**53 - 1), "number 9007199254740992"),
        (Request(2**53), "number"),
        (Request(0, 2**53), "number"),
        (Cancel(0, 2**63), "number"),
        (Want(2**53), "number"),
        (Want(0, 2**32), "wants 4294967296 chunks"),
        (Unwant(2**53), "number"),
    ],
    ids=str,
)
def test_impossible_values_end_the_connection(message: Message, why: str) -> None:
    """Keys, hashes and signatures of other lengths and numbers beyond 2^53 are the peer's mistake, told in
    words.
    """
    with pytest.raises(RemoteProtocolError, match=why):
        decode(type_of(message), memoryview(encode(message)))


def test_name_that_is_not_text() -> None:
    """An extension's name that is not UTF-8 is kept readable and does not cost the Handshake."""
    payload = wire_pb2.Handshake(id=b"x", extensions=[b"\xff", b"ok"]).SerializeToString()
    assert decode(HANDSHAKE, memoryview(payload)) == Handshake(b"x", extensions=("\ufffd", "ok"))


def many_fields(count: int, size: int) -> memoryview:
    """A Data of ``count`` fields and ``size`` bytes of value."""
    nodes = (TreeNode(1, bytes(32), 1),) * (count - 2)
    return memoryview(encode(Data(0, bytes(size), nodes)))


def test_number_of_fields_is_limited() -> None:
    """A large message may have 256 fields; 257 are refused, since they could cost more memory than the
    message.
    """
    size = 256 * 1024
    decoded = decode(DATA, many_fields(MAX_FIELDS, size))
    assert isinstance(decoded, Data)
    assert len(decoded.nodes) == MAX_FIELDS - 2
    with pytest.raises(RemoteProtocolError, match="more than 256 fields"):
        decode(DATA, many_fields(MAX_FIELDS + 1, size))


@pytest.mark.parametrize(
    "end",
    ["5d00000000", "59" + "00" * 8, "5000", "5a0100", ""],
    ids=["32 bits", "64 bits", "varint", "bytes", "none"],
)
def test_fields_of_all_kinds_are_counted(end: str) -> None:
    """Unknown fields of any kind pass in a large message, and one too many does not."""
    field = bytes.fromhex(end)
    large = encode(Data(0, bytes(256 * 1024)))
    assert decode(DATA, memoryview(large + field * (MAX_FIELDS - 2))) == Data(0, bytes(256 * 1024))
    if field:
        with pytest.raises(RemoteProtocolError, match="fields"):
            decode(DATA, memoryview(large + field * (MAX_FIELDS - 1)))


@pytest.mark.parametrize("end", ["ff", "ff" * 11, "5a", "5a05", "50", "50ff"])
def test_large_and_cut(end: str) -> None:
    """A large payload that is cut is ignored like a small one."""
    assert decode(DATA, memoryview(encode(Data(0, bytes(256 * 1024))) + bytes.fromhex(end))) is None


def test_large_message_with_groups_is_refused() -> None:
    """A group, which could hold any number of fields, is not let in by the count."""
    with pytest.raises(RemoteProtocolError, match="fields"):
        decode(DATA, memoryview(encode(Data(0, bytes(256 * 1024))) + bytes.fromhex("5b5c")))


@pytest.mark.parametrize("message", [Have(-1), Request(2**64), Data(0, b"", (TreeNode(-1, b"", 0),))], ids=str)
def test_our_impossible_values(message: Message) -> None:
    """A value that has no encoding is our mistake."""
    with pytest.raises(LocalProtocolError, match="cannot be encoded"):
        encode(message)


def test_recordings_have_every_message() -> None:
    """The recordings leave no type untested."""
    seen = {frame.type for recording in RECORDINGS for frame in _frames(recording)}
    assert seen >= {*range(10), EXTENSION}


def _frames(recording: Recording) -> list[Frame]:
    return [frame for frame in recording.a.frames + recording.b.frames if frame.message is not None]
