"""The conversations of the reference that were recorded in tests/vectors/wire, with what it decoded."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datfs.crypto import TreeNode
from datfs.net.framing import FrameReader, split_header
from datfs.net.messages import (
    EXTENSION,
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
)

FOLDER = Path(__file__).parent.parent / "vectors" / "wire"


@dataclass(frozen=True)
class Frame:
    """One recorded frame; ``message`` is as the reference decoded it, None for a keep-alive."""

    offset: int
    channel: int
    type: int
    payload: bytes
    message: Message | None


@dataclass(frozen=True)
class Direction:
    """What one side sent: the bytes on the wire, the same in the clear, and the frames."""

    wire: bytes
    plain: bytes
    nonce: bytes
    frames: tuple[Frame, ...]

    @property
    def handshake(self) -> Handshake:
        """Its only Handshake."""
        (handshake,) = (f.message for f in self.frames if isinstance(f.message, Handshake))
        return handshake


@dataclass(frozen=True)
class Recording:
    """One conversation. ``keys`` are the public keys of channels 0 and 1, which both sides number alike."""

    name: str
    keys: tuple[bytes, bytes]
    a: Direction
    b: Direction


def load(name: str) -> Recording:
    """Reads a recording, checking that its file and its description agree."""
    folder = FOLDER / name
    session = json.loads((folder / "session.json").read_text())
    second = session.get("contentKey") or session["secondKey"]
    return Recording(
        name,
        (bytes.fromhex(session["key"]), bytes.fromhex(second)),
        _direction(folder, "a-to-b", session["aNonce"], session["aToB"]),
        _direction(folder, "b-to-a", session["bNonce"], session["bToA"]),
    )


def _direction(folder: Path, name: str, nonce: str, described: list[dict[str, Any]]) -> Direction:
    plain = (folder / f"{name}.plain.bin").read_bytes()
    frames = []
    for item in described:
        body = plain[item["offset"] : item["offset"] + item["length"]]
        reader = FrameReader()
        reader.receive(body)
        (frame,) = reader
        if item["type"] == "keepalive":
            assert not frame
            frames.append(Frame(item["offset"], 0, -1, b"", None))
        else:
            channel, type_, payload = split_header(frame)
            assert channel == item["channel"]
            message = _message(item, type_, bytes(payload))
            frames.append(Frame(item["offset"], channel, type_, bytes(payload), message))
    return Direction((folder / f"{name}.bin").read_bytes(), plain, bytes.fromhex(nonce), tuple(frames))


def _message(item: dict[str, Any], type_: int, payload: bytes) -> Message:
    if type_ == EXTENSION:
        return Extension(item["extension"], bytes.fromhex(item["payload"]))
    values = item["message"]
    match item["type"]:
        case "Feed":
            return Feed(bytes.fromhex(values["discoveryKey"]), _bytes(values["nonce"]))
        case "Handshake":
            return Handshake(
                bytes.fromhex(values["id"]),
                values["live"],
                _bytes(values["userData"]),
                tuple(values["extensions"]),
                values["ack"],
            )
        case "Have":
            return Have(values["start"], values["length"], _bytes(values["bitfield"]), values["ack"])
        case "Data":
            nodes = tuple(TreeNode(n["index"], bytes.fromhex(n["hash"]), n["size"]) for n in values["nodes"])
            value = _value(values["value"], payload)
            return Data(values["index"], value, nodes, _bytes(values["signature"]))
        case name:
            kind: Any = {
                "Info": Info,
                "Unhave": Unhave,
                "Want": Want,
                "Unwant": Unwant,
                "Request": Request,
                "Cancel": Cancel,
            }[name]
            message: Message = kind(**values)
            return message


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else bytes.fromhex(text)


def _value(described: str | dict[str, Any] | None, payload: bytes) -> bytes | None:
    """The value of a Data; of a long one the description has only length and hash, so it is found by them."""
    if not isinstance(described, dict):
        return _bytes(described)
    length = described["length"]
    for start in range(min(len(payload) - length, 20) + 1):
        value = payload[start : start + length]
        if hashlib.sha256(value).hexdigest() == described["sha256"]:
            return value
    raise AssertionError("the recorded value is not in the payload")


RECORDINGS = (load("two-files"), load("every-message"))
