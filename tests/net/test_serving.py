"""The serving side: what peers are told and given, and that asking too much costs them, not us."""

from __future__ import annotations

import random

import trio
import trio.testing

from datfs.bitfield import rle_decode
from datfs.net.connection import ChannelOpened, Connection, MessageReceived
from datfs.net.messages import Data, Have, Info, Message, Request, Unhave, Want
from datfs.net.session import MESSAGES_IN_A_ROW, Session
from datfs.net.swarm import Swarm
from datfs.net.upload import QUEUE_MOST, UploadState
from datfs.proof import PresenceSet
from datfs.register import Register
from datfs.sources import NoSource
from datfs.sparse import SparseRegister
from datfs.storage import memory_storage
from tests.helpers import make_register

CHUNKS = [random.Random(number).randbytes(50 + number) for number in range(40)]
REGION = 1 << 20


def upload_of(register: Register, *, trusted: bool = True) -> UploadState:
    return UploadState(SparseRegister(register, NoSource("offline"), trusted=trusted))


def test_the_first_want_gets_the_length_then_the_bits() -> None:
    """An eager Have of the last chunk, then one that echoes the Want with all bits (wire.md section 7.1)."""
    upload = upload_of(make_register(CHUNKS))
    upload.on_want(Want(0, REGION))
    assert upload.outgoing == [Have(39)]
    bits = upload.answer_next()
    assert isinstance(bits, Have)
    assert (bits.start, bits.length) == (0, REGION)
    assert rle_decode(bits.bitfield or b"", 1000) == b"\xff" * 5
    upload.outgoing.clear()
    upload.on_want(Want(REGION, REGION))
    assert upload.answer_next() == Have(REGION, REGION, b"")
    assert not upload.outgoing


def test_wants_that_are_not_aligned_are_ignored() -> None:
    """As the reference does; and nobody is subscribed by one."""
    upload = upload_of(make_register(CHUNKS))
    upload.on_want(Want(3, REGION))
    upload.on_want(Want(0, 100))
    assert not upload.outgoing
    assert not upload.waiting
    upload.announce(40)
    assert not upload.outgoing


def test_a_want_without_length_means_everything() -> None:
    """Old peers ask so, and get the bitfield of the whole register with length 0."""
    upload = upload_of(make_register(CHUNKS))
    upload.on_want(Want(0, 0))
    assert upload.answer_next() == Have(0, 0, b"\x17")


def test_a_lacking_chunk_is_an_unhave() -> None:
    """What we cannot give is said, for any index, instead of a silence that costs the peer its time."""
    register = make_register(CHUNKS)
    register.clear(5, 6)
    upload = upload_of(register)
    for index in (5, 40, 1 << 52):
        upload.on_request(Request(index))
        assert upload.answer_next() == Unhave(index)
    assert upload.answer_next() is None


def test_answers_verify_at_the_asker() -> None:
    """Plain, hash-only and byte-seek requests are answered with what the asker can verify."""
    source = make_register(CHUNKS)
    upload = upload_of(source)
    copy = Register.open(memory_storage(), key=source.key)
    for index in (7, 0, 39, 8):
        upload.on_request(Request(index, nodes=copy.digest(index)))
        answer = upload.answer_next()
        assert isinstance(answer, Data)
        copy.put(answer.index, answer.value, answer.nodes, answer.signature)
        assert copy.get(index) == CHUNKS[index]
    upload = upload_of(source)
    upload.on_request(Request(20, hash=True))
    answer = upload.answer_next()
    assert isinstance(answer, Data)
    assert answer.value is None
    assert answer.nodes[0].index == 40
    byte = sum(map(len, CHUNKS[:13])) + 3
    upload.on_request(Request(20, bytes=byte, hash=True))
    found = upload.answer_next()
    assert isinstance(found, Data)
    assert found.index == 13
    assert isinstance(upload._remote, PresenceSet)


def test_changed_files_are_not_sent() -> None:
    """Chunks of a working folder that no longer have their hash are not offered to peers as data."""
    register = make_register(CHUNKS)
    storage = register._data
    upload = upload_of(register, trusted=False)
    upload.on_request(Request(3))
    assert isinstance(upload.answer_next(), Data)
    storage.write(register.byte_offset(3), b"edited")
    upload.on_request(Request(3))
    assert upload.answer_next() == Unhave(3)


def test_what_is_vouched_for_is_not_hashed_again() -> None:
    """The chunk's own place is asked about, after it was read."""
    register = make_register(CHUNKS)
    asked: list[tuple[int, int]] = []

    def vouched(offset: int, size: int) -> bool:
        asked.append((offset, size))
        return offset == register.byte_offset(3)

    upload = upload_of(register, trusted=False)
    upload.register.vouched = vouched
    for index in (3, 4, len(CHUNKS) - 1):
        register._data.write(register.byte_offset(index), b"?")
    for index in (3, 4, len(CHUNKS) - 1):
        upload.on_request(Request(index))
    found = upload.answer_next()
    assert isinstance(found, Data)
    assert found.value is not None
    assert bytes(found.value[:1]) == b"?", "the test shows nothing if it was compared"
    assert upload.answer_next() == Unhave(4)
    assert upload.answer_next() == Unhave(len(CHUNKS) - 1)
    assert asked == [(register.byte_offset(index), register.size_of(index)) for index in (3, 4, len(CHUNKS) - 1)]


class Asker:
    """A peer that asks by script, over a memory stream, of a swarm that serves ``register``."""

    def __init__(self, register: Register, *, live: bool = True, ack: bool = False) -> None:
        self.register = register
        self.swarm = Swarm()
        self.copy = SparseRegister(register, self.swarm, name="metadata")
        self.swarm.add_register(self.copy)
        self.received: list[Message] = []
        ours, theirs = trio.testing.memory_stream_pair()
        self.stream: trio.abc.Stream = ours
        self.theirs = theirs
        self.connection = Connection(id=b"a" * 32, nonce=b"n" * 24, key=register.key, live=live, ack=ack, now=0)
        self.opened = False

    def accept(self) -> Session:
        return self.swarm._new_session(self.theirs, "asker", dialed=False)

    async def talk(self, seconds: float) -> None:
        """Sends what is queued and handles what comes for so long."""
        with trio.move_on_after(seconds):
            while True:
                data = self.connection.data_to_send()
                if data:
                    await self.stream.send_all(data)
                received = await self.stream.receive_some(65536)
                if not received:
                    return
                self.connection.receive(bytearray(received), trio.current_time())
                for event in self.connection.events():
                    if isinstance(event, ChannelOpened):
                        self.opened = True
                    elif isinstance(event, MessageReceived):
                        self.received.append(event.message)


async def test_an_acceptor_learns_the_drive_from_the_peer(autojump_clock: trio.testing.MockClock) -> None:
    """Who connects to us names the drive; we answer with our Feed, a Want of our own, and its answers."""
    asker = Asker(make_register(CHUNKS))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(asker.accept().run)
        await asker.talk(1)
        assert asker.opened
        asker.connection.send(0, Want(0, REGION))
        for index in range(40):
            asker.connection.send(0, Request(index))
        await asker.talk(1)
        data = [message for message in asker.received if isinstance(message, Data)]
        assert {message.index: message.value for message in data} == dict(enumerate(CHUNKS))
        nursery.cancel_scope.cancel()


async def test_requests_without_reading_are_bounded(autojump_clock: trio.testing.MockClock) -> None:
    """A peer that asks for a million chunks and reads no answer stops being read from; little is queued."""
    asker = Asker(make_register([bytes(60_000)] * 40))
    session = asker.accept()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(session.run)
        await asker.talk(1)
        asker.theirs.send_stream.send_all_hook = trio.sleep_forever
        requests = [Request(number % 40) for number in range(20_000)]
        asker.connection.send_many(0, requests)
        await asker.stream.send_all(asker.connection.data_to_send())
        await trio.sleep(2)
        [channel] = session._channels.values()
        assert channel.upload.waiting <= QUEUE_MOST + MESSAGES_IN_A_ROW
        assert session.connection.bytes_pending < 3 << 20
        nursery.cancel_scope.cancel()


async def test_new_chunks_are_announced(autojump_clock: trio.testing.MockClock) -> None:
    """A subscribed peer learns of chunks as they are appended to what we serve."""
    asker = Asker(make_register(CHUNKS[:5]))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(asker.swarm.serve, asker.theirs, "asker")
        await asker.talk(1)
        asker.connection.send(0, Want(0, REGION))
        await asker.talk(1)
        asker.received.clear()
        first = asker.register.append(CHUNKS[5:8], sync=False)
        asker.swarm.announce(asker.copy, first, 3)
        await asker.talk(1)
        assert asker.received == [Have(5, 3)]
        nursery.cancel_scope.cancel()


async def test_a_peer_that_is_not_live_is_let_go(autojump_clock: trio.testing.MockClock) -> None:
    """Who is done and does not want to stay is told that we want nothing either."""
    asker = Asker(make_register(CHUNKS), live=False)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(asker.accept().run)
        await asker.talk(1)
        asker.connection.send(0, Info(uploading=True, downloading=False))
        await asker.talk(1)
        assert asker.received[-1] == Info(uploading=False, downloading=False)
        nursery.cancel_scope.cancel()


async def test_stored_chunks_are_acknowledged_if_asked_for(autojump_clock: trio.testing.MockClock) -> None:
    """A serving peer that asked for it in its Handshake gets a Have for each chunk that we stored."""
    source = make_register(CHUNKS)
    asker = Asker(Register.open(memory_storage(), key=source.key), ack=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(asker.swarm.serve, asker.theirs, "asker")
        await asker.talk(1)
        asker.connection.send(0, Have(0, REGION, b"\x17"))
        nursery.start_soon(asker.copy.ensure, [3])
        await asker.talk(1)
        request = next(message for message in asker.received if isinstance(message, Request))
        proof = source.proof(request.index, request.nodes)
        asker.connection.send(0, Data(3, CHUNKS[3], tuple(proof.nodes), proof.signature))
        await asker.talk(1)
        assert asker.received[-1] == Have(3, 1, ack=True)
        nursery.cancel_scope.cancel()


async def test_cleared_chunks_are_retracted(autojump_clock: trio.testing.MockClock) -> None:
    """A subscribed peer learns that chunks are gone, and no longer gets them."""
    asker = Asker(make_register(CHUNKS))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(asker.swarm._talk, asker.accept())
        await asker.talk(1)
        asker.connection.send(0, Want(0, REGION))
        await asker.talk(1)
        asker.received.clear()
        asker.register.clear(5, 9)
        asker.swarm.retract(asker.copy, 5, 4)
        await asker.talk(1)
        assert asker.received == [Unhave(5, 4)]
        nursery.cancel_scope.cancel()
