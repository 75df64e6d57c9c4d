"""The messages of the wire protocol and their payloads (wire.md section 2).

Owns the type numbers, the translation between the records here and the generated protobuf classes, and the
checks of single values that every use relies on: lengths of keys, hashes and signatures, numbers below 2^53.
Does not judge whether a message makes sense where it stands; Connection and the replication above it do.

What we send has the fields that the reference sends, zeros and false included. What we receive follows
wire.md section 9: a payload that does not decode is ignored, and one that decodes to something impossible
ends the connection.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from google.protobuf.message import DecodeError, EncodeError

from datfs import varint
from datfs.crypto import Buffer, TreeNode
from datfs.errors import LocalProtocolError, RemoteProtocolError
from datfs.net import wire_pb2

KEY_BYTES = 32
NONCE_BYTES = 24
HASH_BYTES = 32
SIGNATURE_BYTES = 64
MAX_NUMBER = 2**53 - 1  # the reference's numbers are doubles: beyond, two peers do not mean the same chunk
MAX_WANT = 2**32 - 1  # chunks; the reference dies of more

# Parsing costs up to 34 bytes of memory for each byte of a message that is all tiny sub-messages (8 MiB made
# 286 MB). A Data has at most two nodes a level of the tree, so more fields than this are nobody's honest
# message.
MAX_FIELDS = 256
_FREE_BYTES = 128 * 1024  # not worth counting the fields below this: a chunk of 64 KiB should not wait for it
LARGE_VALUE = 16 * 1024  # bytes; from here on protobuf's copies of a chunk cost more than doing without it
_INDEX_TAG, _VALUE_TAG = 0x08, 0x12

FEED, HANDSHAKE, INFO, HAVE, UNHAVE, WANT, UNWANT, REQUEST, CANCEL, DATA = range(10)
EXTENSION = 15


@dataclass(frozen=True, slots=True)
class Feed:
    """Opens a channel. ``nonce`` (24 bytes) only in the first of each direction."""

    discovery_key: bytes
    nonce: bytes | None = None


@dataclass(frozen=True, slots=True)
class Handshake:
    """Follows the first Feed. ``id`` tells peers apart and is empty if none came; ``extensions`` are names,
    sorted.
    """

    id: bytes
    live: bool = False
    user_data: bytes | None = None
    extensions: tuple[str, ...] = ()
    ack: bool = False


@dataclass(frozen=True, slots=True)
class Info:
    """Whether the sender still uploads and downloads."""

    uploading: bool = False
    downloading: bool = False


@dataclass(frozen=True, slots=True)
class Have:
    """The sender holds ``length`` chunks from ``start`` on or, with ``bitfield`` (run-length coded), those
    with a bit.
    """

    start: int
    length: int = 1
    bitfield: bytes | None = None
    ack: bool = False


@dataclass(frozen=True, slots=True)
class Unhave:
    """The sender no longer holds ``length`` chunks from ``start`` on."""

    start: int
    length: int = 1


@dataclass(frozen=True, slots=True)
class Want:
    """Asks for Haves of this range and of what comes later. ``length`` 0: everything (old peers)."""

    start: int
    length: int = 0


@dataclass(frozen=True, slots=True)
class Unwant:
    """Takes a Want back. No known peer sends or heeds it."""

    start: int
    length: int = 0


@dataclass(frozen=True, slots=True)
class Request:
    """Asks for chunk ``index``, or the one at byte offset ``bytes`` if that is not 0; ``nodes`` is a digest.

    With ``hash``, only for the proof. See register.md sections 6 and 9.
    """

    index: int
    bytes: int = 0
    hash: bool = False
    nodes: int = 0


@dataclass(frozen=True, slots=True)
class Cancel:
    """Takes a Request back. No known peer sends or heeds it."""

    index: int
    bytes: int = 0
    hash: bool = False


@dataclass(frozen=True, slots=True)
class Data:
    """Answers a Request. ``value`` is None in an answer that is only proof, and ``b""`` for a chunk without
    bytes. A large one that was received is a view of where it was received.
    """

    index: int
    value: Buffer | None = None
    nodes: tuple[TreeNode, ...] = ()
    signature: bytes | None = None


@dataclass(frozen=True, slots=True)
class Extension:
    """Bytes for an extension. ``number`` is its place in the list that the *sender* announced."""

    number: int
    payload: bytes = b""


Message: TypeAlias = Feed | Handshake | Info | Have | Unhave | Want | Unwant | Request | Cancel | Data | Extension

_Parse: TypeAlias = Callable[[Any], Any]
_Translate: TypeAlias = Callable[[Any], Message]
_M = TypeVar("_M", bound=Message)

_TYPES: dict[type[Message], int] = {
    Feed: FEED,
    Handshake: HANDSHAKE,
    Info: INFO,
    Have: HAVE,
    Unhave: UNHAVE,
    Want: WANT,
    Unwant: UNWANT,
    Request: REQUEST,
    Cancel: CANCEL,
    Data: DATA,
    Extension: EXTENSION,
}


def type_of(message: Message) -> int:
    """The type number of a message (wire.md section 1)."""
    return _TYPES[type(message)]


# -- encoding


def encode(message: Message) -> bytes:
    """The payload of a message. Raises LocalProtocolError for values that do not fit: a negative index."""
    try:
        if isinstance(message, Extension):
            return varint.encode(message.number) + message.payload
        return bytes(_to_wire(message).SerializeToString())
    except (ValueError, TypeError, EncodeError) as error:
        raise LocalProtocolError(f"{type(message).__name__} cannot be encoded: {error}") from error


def encode_pieces(message: Message) -> list[Buffer]:
    """As :func:`encode`, in pieces to be joined: a large chunk is one of them and was not copied."""
    value = message.value if isinstance(message, Data) else None
    if value is None or len(value) < LARGE_VALUE:
        return [encode(message)]
    assert isinstance(message, Data)
    around = encode(Data(message.index, b"", message.nodes, message.signature))
    at = 2 + len(varint.encode(message.index))  # where the length of the chunk is, behind the index and two tags
    return [around[:at], varint.encode(len(value)), value, around[at + 1 :]]


def _to_wire(
    message: Feed | Handshake | Info | Have | Unhave | Want | Unwant | Request | Cancel | Data,
) -> Any:
    # None leaves a field out. So do the shorthands of the reference: a length of 1 in a Have that has nothing
    # more to say, and of 0 in a Want.
    match message:
        case Data(index, value, nodes, signature):
            data = wire_pb2.Data(index=index, value=None if value is None else bytes(value), signature=signature)
            for node in nodes:
                data.nodes.add(index=node.index, hash=node.hash, size=node.size)
            return data
        case Request(index, offset, hash_, nodes):
            return wire_pb2.Request(index=index, bytes=offset, hash=hash_, nodes=nodes)
        case Have(start, length, bitfield, ack):
            have = wire_pb2.Have(start=start, bitfield=bitfield)
            if length != 1 or bitfield is not None or ack:
                have.length = length
            if ack:
                have.ack = True
            return have
        case Unhave(start, length):
            return wire_pb2.Unhave(start=start, length=None if length == 1 else length)
        case Want(start, length):
            return wire_pb2.Want(start=start, length=length or None)
        case Unwant(start, length):
            return wire_pb2.Unwant(start=start, length=length or None)
        case Info(uploading, downloading):
            return wire_pb2.Info(uploading=uploading, downloading=downloading)
        case Cancel(index, offset, hash_):
            return wire_pb2.Cancel(index=index, bytes=offset, hash=hash_)
        case Feed(discovery_key, nonce):
            return wire_pb2.Feed(discovery_key=discovery_key, nonce=nonce)
        case Handshake(id_, live, user_data, extensions, ack):
            names = [name.encode() for name in extensions]
            return wire_pb2.Handshake(id=id_, live=live, user_data=user_data, extensions=names, ack=ack)


# -- decoding


def decode(type_: int, payload: memoryview) -> Message | None:
    """The message of a payload; its values are copies, but for large chunks. None for what peers ignore: an unknown
    type, or a payload that is cut or lacks a required field. Raises RemoteProtocolError for values that cannot be.
    """
    if type_ == EXTENSION:
        return _extension(payload)
    known = _DECODERS.get(type_)
    if known is None:
        return None
    parse, translate = known
    if len(payload) > _FREE_BYTES and not _few_fields(payload):
        raise RemoteProtocolError(f"the peer sent a message with more than {MAX_FIELDS} fields")
    if type_ == DATA and len(payload) >= LARGE_VALUE:
        return _large_data(payload)
    return _parsed(parse, translate, payload)


def _parsed(parse: _Parse, translate: Callable[[Any], _M], payload: Buffer) -> _M | None:
    try:
        wire = parse(payload)
    except DecodeError:
        return None
    return translate(wire) if wire.IsInitialized() else None


def _large_data(payload: memoryview) -> Message | None:
    """A Data whose chunk protobuf does not get to see, if index and chunk come first, as every peer sends them."""
    found = _value_in(payload)
    if found is not None:
        start, stop, before = found
        # What is left is a message of its own.
        rest = _parsed(wire_pb2.Data.FromString, _data, bytes(payload[:before]) + payload[stop:])
        if rest is None or rest.value is None:
            return rest and Data(rest.index, payload[start:stop], rest.nodes, rest.signature)
    return _parsed(wire_pb2.Data.FromString, _data, payload)


def _value_in(payload: memoryview) -> tuple[int, int, int] | None:
    """Where the chunk begins and ends, and where its field begins; None if the message is put together otherwise."""
    if payload[0] != _INDEX_TAG:
        return None
    try:
        _, before = varint.decode(payload, 1)
        if payload[before] != _VALUE_TAG:
            return None
        size, start = varint.decode(payload, before + 1)
    except (ValueError, IndexError):
        return None
    return (start, start + size, before) if start + size <= len(payload) else None


def _extension(payload: memoryview) -> Extension | None:
    try:
        number, offset = varint.decode(payload)
    except ValueError:
        return None
    return Extension(number, bytes(payload[offset:]))


def _feed(wire: wire_pb2.Feed) -> Feed:
    nonce = wire.nonce if wire.HasField("nonce") else None
    _need_length("Feed", "discovery key", wire.discovery_key, KEY_BYTES)
    if nonce is not None:
        _need_length("Feed", "nonce", nonce, NONCE_BYTES)
    return Feed(wire.discovery_key, nonce)


def _handshake(wire: wire_pb2.Handshake) -> Handshake:
    user_data = wire.user_data if wire.HasField("user_data") else None
    names = tuple(name.decode("utf-8", "replace") for name in wire.extensions)
    return Handshake(wire.id, wire.live, user_data, names, wire.ack)


def _info(wire: wire_pb2.Info) -> Info:
    return Info(wire.uploading, wire.downloading)


def _have(wire: wire_pb2.Have) -> Have:
    _need_numbers("Have", wire.start, wire.length, wire.start + wire.length)
    bitfield = wire.bitfield if wire.HasField("bitfield") else None
    return Have(wire.start, wire.length, bitfield, wire.ack)


def _unhave(wire: wire_pb2.Unhave) -> Unhave:
    _need_numbers("Unhave", wire.start, wire.length, wire.start + wire.length)
    return Unhave(wire.start, wire.length)


def _want(wire: wire_pb2.Want) -> Want:
    _need_numbers("Want", wire.start)
    if wire.length > MAX_WANT:
        raise RemoteProtocolError(f"the peer wants {wire.length} chunks at once")
    return Want(wire.start, wire.length)


def _unwant(wire: wire_pb2.Unwant) -> Unwant:
    _need_numbers("Unwant", wire.start, wire.length)
    return Unwant(wire.start, wire.length)


def _request(wire: wire_pb2.Request) -> Request:
    # The digest is a set of bits and no number that is counted with: all 64 may be in use.
    _need_numbers("Request", wire.index, wire.bytes)
    return Request(wire.index, wire.bytes, wire.hash, wire.nodes)


def _cancel(wire: wire_pb2.Cancel) -> Cancel:
    _need_numbers("Cancel", wire.index, wire.bytes)
    return Cancel(wire.index, wire.bytes, wire.hash)


def _data(wire: wire_pb2.Data) -> Data:
    _need_numbers("Data", wire.index)
    nodes = []
    for node in wire.nodes:
        index, digest, size = node.index, node.hash, node.size
        if index > MAX_NUMBER or size > MAX_NUMBER or len(digest) != HASH_BYTES:
            _need_numbers("Data", index, size)
            _need_length("Data", "hash", digest, HASH_BYTES)
        nodes.append(TreeNode(index, digest, size))
    signature = wire.signature if wire.HasField("signature") else None
    if signature is not None:
        _need_length("Data", "signature", signature, SIGNATURE_BYTES)
    value = wire.value if wire.HasField("value") else None
    return Data(wire.index, value, tuple(nodes), signature)


_DECODERS: dict[int, tuple[_Parse, _Translate]] = {
    FEED: (wire_pb2.Feed.FromString, _feed),
    HANDSHAKE: (wire_pb2.Handshake.FromString, _handshake),
    INFO: (wire_pb2.Info.FromString, _info),
    HAVE: (wire_pb2.Have.FromString, _have),
    UNHAVE: (wire_pb2.Unhave.FromString, _unhave),
    WANT: (wire_pb2.Want.FromString, _want),
    UNWANT: (wire_pb2.Unwant.FromString, _unwant),
    REQUEST: (wire_pb2.Request.FromString, _request),
    CANCEL: (wire_pb2.Cancel.FromString, _cancel),
    DATA: (wire_pb2.Data.FromString, _data),
}


def _need_length(message: str, what: str, value: bytes, length: int) -> None:
    if len(value) != length:
        raise RemoteProtocolError(f"the peer sent a {message} with a {what} of {len(value)} bytes, not {length}")


def _need_numbers(message: str, *values: int) -> None:
    for value in values:
        if value > MAX_NUMBER:
            raise RemoteProtocolError(f"the peer sent a {message} with the number {value}; 2^53 is too large")


def _few_fields(payload: memoryview) -> bool:
    """Whether protobuf would find at most MAX_FIELDS fields before the payload's end or a mistake in it."""
    position = 0
    try:
        for _ in range(MAX_FIELDS):
            if position >= len(payload):
                return True
            tag, position = varint.decode(payload, position)
            match tag & 7:
                case 0:
                    _, position = varint.decode(payload, position)
                case 1:
                    position += 8
                case 2:
                    length, position = varint.decode(payload, position)
                    position += length
                case 5:
                    position += 4
                case _:
                    # Groups have no use in this protocol and can hold any number of fields.
                    return False
    except ValueError:
        return True
    return position >= len(payload)
