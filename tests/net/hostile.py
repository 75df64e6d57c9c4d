"""Peers that lie, stall, leave, flood or talk nonsense; each in one way, all over memory streams.

:data:`HARMLESS` are odd but deliver. :data:`USELESS` deliver nothing, or not all. :data:`LIARS` send data that does not
verify. Each value makes a fresh peer for a register.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable

import trio

from datfs import varint
from datfs.bitfield import rle_encode
from datfs.crypto import TreeNode
from datfs.net.framing import MAX_FRAME
from datfs.net.messages import MAX_NUMBER, Data, Have, Info, Message, Request, Unhave, Unwant, Want
from datfs.register import Register
from tests.helpers import Answer, ScriptedPeer, honest, make_register

REGION = 1 << 20
MakePeer = Callable[[Register], ScriptedPeer]


def changed(change: Callable[[Data], Data]) -> Answer:
    """Answers as a good peer does, with a change."""

    def answer(register: Register, request: Request) -> list[Message]:
        [data] = honest(register, request)
        assert isinstance(data, Data)
        return [change(data)]

    return answer


def nothing(register: Register, request: Request) -> list[Message]:
    """No answer at all."""
    return []


def wrong_bytes(data: Data) -> Data:
    """One bit of the chunk."""
    assert data.value
    return Data(data.index, bytes([data.value[0] ^ 1]) + data.value[1:], data.nodes, data.signature)


def wrong_hash(data: Data) -> Data:
    """A node of the proof with another hash; where there is none, one is made up."""
    node = data.nodes[0] if data.nodes else TreeNode(data.index * 2 ^ 2, bytes(32), 5)
    return Data(data.index, data.value, (TreeNode(node.index, b"\1" * 32, node.size), *data.nodes[1:]), data.signature)


def wrong_size(data: Data) -> Data:
    """A node of the proof with a size of a petabyte."""
    nodes = tuple(TreeNode(node.index, node.hash, 1 << 50) for node in data.nodes)
    return Data(data.index, b"short", nodes, data.signature)


def wrong_signature(data: Data) -> Data:
    """A signature of zeros, also where none is due, and other bytes, which it would have to cover."""
    return Data(data.index, data.value, data.nodes, bytes(64) if data.signature else None)


def frame(channel: int, type_: int, payload: bytes) -> bytes:
    """One frame of any type."""
    body = varint.encode(channel << 4 | type_) + payload
    return varint.encode(len(body)) + body


def answering(answer: Answer) -> MakePeer:
    """A peer that does so with every Request."""
    return lambda register: ScriptedPeer([register], answer)


def saying(*messages: Message) -> MakePeer:
    """An honest peer that says this first."""
    return lambda register: ScriptedPeer([register], on_open=lambda _: list(messages))


def sending(*frames: bytes) -> MakePeer:
    """An honest peer that sends these frames first."""

    def make(register: Register) -> ScriptedPeer:
        peer = ScriptedPeer([register])
        peer.raw = list(frames)
        return peer

    return make


def _data_nobody_asked_for(register: Register) -> ScriptedPeer:
    unasked: list[Message] = []
    for index in range(register.length):
        unasked += honest(register, Request(index))
        unasked.append(Data(index, b"nonsense"))
    return ScriptedPeer([register], on_open=lambda _: unasked)


def _unhave_in_the_middle(register: Register) -> ScriptedPeer:
    answered = 0

    def answer(register: Register, request: Request) -> list[Message]:
        nonlocal answered
        answered += 1
        return honest(register, request) if answered <= 3 else [Unhave(0, 1 << 20)]

    return ScriptedPeer([register], answer)


def _announces_again_and_again(register: Register) -> ScriptedPeer:
    def answer(register: Register, request: Request) -> list[Message]:
        return [Unhave(request.index), Have(request.index)] if random.random() < 0.99 else []

    return ScriptedPeer([register], answer)


class _Silent(ScriptedPeer):
    """Accepts the connection and says nothing."""

    async def serve(self, stream: trio.abc.Stream) -> None:
        self.connections += 1
        while await stream.receive_some(65536):
            pass


def _other_drive(register: Register) -> ScriptedPeer:
    return ScriptedPeer([make_register([b"of another drive"], hashlib.sha256(b"other").digest())])


def _noise(register: Register) -> ScriptedPeer:
    return sending(random.Random(3).randbytes(5000))(register)


HARMLESS: dict[str, MakePeer] = {
    "unknown types": sending(*(frame(0, type_, b"something") for type_ in range(10, 15))),
    "undecodable messages": sending(*(frame(0, type_, b"\xff" * 20) for type_ in range(2, 10))),
    "empty frames": sending(b"\x00" * 5000, *(frame(0, type_, b"") for type_ in range(2, 15))),
    "a second handshake": sending(frame(0, 1, b"\x0a\x03abc")),
    "have of 2^52 chunks": saying(Have(0, 1 << 52), Have(1 << 52, (1 << 52) - 1), Have(MAX_NUMBER - 1)),
    "have flood": saying(*[Have(0, REGION, rle_encode(b"\xff" * (REGION // 8)))] * 500),
    "want flood": saying(*[Want(0, REGION)] * 3000, *[Want(0, 0)] * 3000, *[Want(REGION * 5, REGION)] * 3000),
    "unhave of everything, then have": saying(Unhave(0, MAX_NUMBER)),
    "data nobody asked for": _data_nobody_asked_for,
    "requests for what nobody has": saying(
        Request(MAX_NUMBER), Request(0, bytes=MAX_NUMBER), Request(5, nodes=2**64 - 1), *[Request(7)] * 5000
    ),
    "cancel, unwant, info": saying(Unwant(0, 5), Info(False, False), Info(True, True)),
}
USELESS: dict[str, MakePeer] = {
    "closes at once": lambda register: ScriptedPeer([register], after_bytes=0),
    "closes in the middle of a message": lambda register: ScriptedPeer([register], after_bytes=130),
    "silent": lambda register: _Silent([register]),
    "stalls": answering(nothing),
    "wrong key": _other_drive,
    "wrong index": answering(lambda register, request: honest(register, Request(39))),
    "proof without bytes": answering(changed(lambda data: Data(data.index, None, data.nodes, data.signature))),
    "unhave in the middle": _unhave_in_the_middle,
    "announces and denies": _announces_again_and_again,
    "oversized frame": sending(varint.encode(MAX_FRAME + 1)),
    "endless length": sending(b"\xff" * 20),
    "noise": _noise,
    "a channel nobody opened": sending(frame(9, 7, b"\x08\x01")),
    "channel 2^20": sending(frame(1 << 20, 7, b"\x08\x01")),
    "cut bitfield": saying(Have(0, REGION, b"\x07\x02")),
    "bitfield of a gigabyte": saying(Have(0, REGION, b"\xff\xff\xff\xff\x0f")),
    "bitfield at chunk 3": saying(Have(3, REGION, b"\x07")),
    "fields without end": sending(frame(0, 9, b"\x1a\x00" * 400_000)),
}
LIARS: dict[str, MakePeer] = {
    "wrong bytes": answering(changed(wrong_bytes)),
    "wrong hash in the proof": answering(changed(wrong_hash)),
    "wrong size in the proof": answering(changed(wrong_size)),
    "wrong signature": answering(changed(wrong_signature)),
    "no proof": answering(changed(lambda data: Data(data.index, data.value))),
}
