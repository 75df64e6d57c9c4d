"""Reading a captured session: one direction of a connection, as the bytes were on the wire (wire.md sections 1 to 3).

Pure. Lenient where a live connection is not: whatever can be told of a frame is told, and the rest goes on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

from datfs import varint
from datfs.errors import FormatError, RemoteProtocolError
from datfs.link import discovery_key
from datfs.net.cipher import StreamCipher
from datfs.net.framing import MAX_FRAME, split_header
from datfs.net.messages import FEED, Feed, Message, decode

NAMES = ("Feed", "Handshake", "Info", "Have", "Unhave", "Want", "Unwant", "Request", "Cancel", "Data")
EXTENSION_TYPE = 15


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame. ``offset``, ``length``: bytes in the capture, the length prefix included.

    ``channel``, ``message``: None for a keep-alive; ``message`` also if it does not decode, and ``error`` says why.
    """

    offset: int
    length: int
    type: str
    channel: int | None = None
    message: Message | None = None
    error: str | None = None

    def fields(self) -> dict[str, Any]:
        """The fields of the message by name; tree nodes as dictionaries, bytes as they are."""
        if self.message is None:
            return {}
        found = {field.name: getattr(self.message, field.name) for field in fields(self.message)}
        if "nodes" in found and not isinstance(found["nodes"], int):
            found["nodes"] = [node._asdict() for node in found["nodes"]]
        return found


def frames(data: bytes, key: bytes) -> Iterator[Frame]:
    """The frames of one direction. ``key``: the public key of the first register, which all but the first need.

    Raises FormatError, naming the offset, where the capture is no session or is cut off.
    """
    first = _first_feed(data)
    yield first
    assert isinstance(first.message, Feed)
    nonce = first.message.nonce
    assert nonce is not None
    if first.message.discovery_key != discovery_key(key):
        raise FormatError(f"this session is of another register: the discovery key {first.message.discovery_key.hex()}")
    start = first.length
    plain = StreamCipher(key, nonce).process(data[start:])
    offset = 0
    while offset < len(plain):
        frame = _frame(plain, offset, start)
        yield frame
        offset += frame.length


def _first_feed(data: bytes) -> Frame:
    try:
        frame = _frame(data, 0, 0)
    except FormatError:
        frame = None
    if frame is None or not isinstance(frame.message, Feed) or frame.message.nonce is None:
        raise FormatError("this is no captured session: its first frame is not a Feed with a nonce (offset 0)")
    return frame


def _frame(plain: bytes, offset: int, start: int) -> Frame:
    """The frame at ``offset`` of ``plain``, which begins at byte ``start`` of the capture."""
    at = start + offset
    try:
        size, body = varint.decode(plain, offset)
    except ValueError:
        raise FormatError(f"the capture is cut off in the length of a frame (offset {at})") from None
    if size > MAX_FRAME:
        raise FormatError(f"a frame of {size} bytes is impossible: is it the right key? (offset {at})")
    stop = body + size
    if stop > len(plain):
        raise FormatError(f"the capture is cut off in a frame of {size} bytes (offset {at})")
    length = stop - offset
    if size == 0:
        return Frame(at, length, "KeepAlive")
    try:
        channel, type_, payload = split_header(memoryview(plain)[body:stop])
    except RemoteProtocolError as error:
        return Frame(at, length, "?", error=str(error))
    name = NAMES[type_] if FEED <= type_ < len(NAMES) else "Extension" if type_ == EXTENSION_TYPE else f"type {type_}"
    try:
        message = decode(type_, payload)
    except RemoteProtocolError as error:
        return Frame(at, length, name, channel, error=str(error))
    wrong = None if message is not None else "its payload does not decode"
    return Frame(at, length, name, channel, message, wrong)
