"""One register on one connection, as the side that serves (wire.md sections 7.1 and 7.3). Pure.

Owns the Requests and Wants of the peer that wait for an answer, and what the peer is believed to hold of the tree. A
bounded queue, answered only as fast as the peer reads: while it is full the session reads nothing more from the peer,
so one that asks without reading costs no memory.
"""

from __future__ import annotations

from collections import deque

from datfs.bitfield import rle_encode
from datfs.crypto import leaf_hash
from datfs.errors import DatfsError
from datfs.net.messages import MAX_NUMBER, Data, Have, Message, Request, Unhave, Want
from datfs.proof import PresenceSet
from datfs.sparse import SparseRegister

ALIGNMENT = 8192  # Wants that are not aligned to this are ignored, as the reference does
QUEUE_MOST = 1024  # requests that wait for an answer; the reference sends 16, this program 128
REGION = 1 << 20


class UploadState:
    """What one peer wants of one register."""

    def __init__(self, register: SparseRegister) -> None:
        self.register = register
        self.outgoing: list[Message] = []
        self.subscribed = False  # has sent a Want: is told of changes
        self._queue: deque[Request | Want] = deque()
        self._remote = PresenceSet()

    @property
    def full(self) -> bool:
        """True while no further requests should be read."""
        return len(self._queue) >= QUEUE_MOST

    @property
    def waiting(self) -> int:
        """Requests and Wants that wait for an answer."""
        return len(self._queue)

    def on_want(self, want: Want) -> None:
        """Queues a Want and tells of changes from now on; the length goes out at once (wire.md section 7.1)."""
        if want.start % ALIGNMENT or want.length % ALIGNMENT:
            return
        register = self.register.register
        length = register.length
        if not self.subscribed and length and register.has(length - 1):
            self.outgoing.append(Have(start=length - 1))
        self.subscribed = True
        self._queue.append(want)

    def on_request(self, request: Request) -> None:
        """Queues a request; :attr:`full` tells the session when to stop reading."""
        if request.index < MAX_NUMBER:  # else there is no saying that it is not here either
            self._queue.append(request)

    def announce(self, start: int, length: int = 1) -> None:
        """New chunks are held. One that follows on the last is told together with it."""
        if not self.subscribed:
            return
        last = self.outgoing[-1] if self.outgoing else None
        if isinstance(last, Have) and last.bitfield is None and not last.ack and last.start + last.length == start:
            self.outgoing[-1] = Have(start=last.start, length=last.length + length)
        else:
            self.outgoing.append(Have(start=start, length=length))

    def retract(self, start: int, length: int = 1) -> None:
        """Chunks are held no longer."""
        if self.subscribed:
            self.outgoing.append(Unhave(start=start, length=length))

    def answer_next(self) -> Message | None:
        """The answer to the oldest Request or Want; None if none waits. An Unhave where we lack what was asked for."""
        if not self._queue:
            return None
        asked = self._queue.popleft()
        return self._answer_want(asked) if isinstance(asked, Want) else self._answer_request(asked)

    def _answer_want(self, want: Want) -> Message:
        register = self.register.register
        stop = min(register.length, want.start + min(want.length or register.length, REGION))
        held = register.data_bits.to_bytes(want.start, stop) if stop > want.start else b""
        return Have(start=want.start, length=want.length, bitfield=rle_encode(held))

    def _answer_request(self, request: Request) -> Message:
        register = self.register.register
        index, digest = request.index, request.nodes
        try:
            if request.bytes:
                found = register.seek_chunk(request.bytes)
                if found is not None:
                    index, digest = found, 0
            value = None if request.hash else register.get(index)
            if value is not None and not self._unchanged(index, value):
                return Unhave(start=index)
            proof = register.proof(index, digest, request.hash, self._remote)
        except (DatfsError, OSError):
            return Unhave(start=index)
        return Data(index=index, value=value, nodes=tuple(proof.nodes), signature=proof.signature)

    def _unchanged(self, index: int, value: bytes) -> bool:
        """Files of a working folder may have been edited since: never send what peers would have to reject."""
        if self.register.trusted:
            return True
        register = self.register.register
        if self.register.vouched(register.byte_offset(index + 1) - len(value), len(value)):
            return True
        node = register.node(2 * index)
        return node is not None and node.size == len(value) and leaf_hash(value) == node.hash
