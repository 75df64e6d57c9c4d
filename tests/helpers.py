"""Small drives, and a swarm whose peers are scripts on memory streams: no sockets, virtual time."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

import trio
import trio.testing

from datfs.bitfield import rle_encode
from datfs.crypto import key_pair
from datfs.drive import Drive
from datfs.errors import RemoteProtocolError
from datfs.net.connection import ChannelOpened, Connection, MessageReceived
from datfs.net.discovery import Discovery
from datfs.net.discovery.static import StaticPeers
from datfs.net.messages import Data, Have, Message, Request, Want
from datfs.net.report import PeerReport
from datfs.net.swarm import Swarm
from datfs.net.transport import Address
from datfs.register import Register
from datfs.sparse import SparseRegister
from datfs.storage import memory_storage
from datfs.writer import DriveWriter, chunks_of

SEED = hashlib.sha256(b"a drive for tests").digest()
TIME = 1_500_000_000_000


def make_drive(files: Mapping[str, bytes], seed: bytes = SEED) -> DriveWriter:
    """A drive in memory with these files, in this order."""
    writer = DriveWriter.create(memory_storage(), key_pair(seed))
    for path, data in files.items():
        writer.put(tuple(path.strip("/").encode().split(b"/")), chunks_of(data), mtime=TIME)
    return writer


def make_register(chunks: list[bytes], seed: bytes = SEED) -> Register:
    """A register in memory, a signature for each chunk."""
    register = Register.create(memory_storage(), key_pair(seed))
    for chunk in chunks:
        register.append([chunk], sync=False)
    return register


def noise_chunks(count: int) -> list[bytes]:
    """Chunks of different sizes and bytes."""
    return [bytes([number]) * (3 * number + 1) for number in range(count)]


Answer = Callable[[Register, Request], list[Message]]


def honest(register: Register, request: Request) -> list[Message]:
    """What a good peer answers."""
    proof = register.proof(request.index, request.nodes)
    return [Data(request.index, register.get(request.index), tuple(proof.nodes), proof.signature)]


class ScriptedPeer:
    """Accepts connections and serves registers; ``answer`` decides what a Request gets.

    ``held``: says it has these chunks of content registers (the second one), default all.
    ``on_open``: further messages for each channel when it opens, and ``raw`` whole frames, which may be anything.
    ``asked``: every Request, in order.
    """

    def __init__(
        self,
        registers: list[Register],
        answer: Answer = honest,
        *,
        held: Callable[[int], bool] | None = None,
        on_open: Callable[[Register], list[Message]] = lambda register: [],
        after_bytes: int | None = None,
        id: bytes | None = None,
    ) -> None:
        self.registers = registers
        self.answer = answer
        self.held = held
        self.on_open = on_open
        self.after_bytes = after_bytes
        self.id = hashlib.sha256(repr(self).encode()).digest() if id is None else id
        self.asked: list[tuple[int, Request]] = []
        self.connections = 0
        self.streams: list[trio.abc.Stream] = []
        self.error: Exception | None = None
        self.raw: list[bytes] = []

    async def serve(self, stream: trio.abc.Stream) -> None:
        """Talks until the other side ends it or the script does."""
        self.connections += 1
        self.streams.append(stream)
        connection = Connection(id=self.id, nonce=bytes(24), key=self.registers[0].key, now=trio.current_time())
        for register in self.registers:
            connection.open(register.key)
        channels: dict[int, Register] = {}
        sent = 0
        try:
            while True:
                for event in connection.events():
                    if isinstance(event, ChannelOpened):
                        channels[event.channel] = next(r for r in self.registers if r.key == event.key)
                        for message in self.on_open(channels[event.channel]):
                            connection.send(event.channel, message)
                        for frame in self.raw:
                            connection._queue((frame,))
                    elif isinstance(event, MessageReceived):
                        register = channels[event.channel]
                        for message in self._react(register, event.message):
                            connection.send(event.channel, message)
                data = connection.data_to_send()
                if data:
                    if self.after_bytes is not None and sent + len(data) > self.after_bytes:
                        await stream.send_all(data[: self.after_bytes - sent])
                        return
                    sent += len(data)
                    await stream.send_all(data)
                with trio.move_on_after(4):
                    received = await stream.receive_some(65536)
                    if not received:
                        return
                    connection.receive(bytearray(received), trio.current_time())
                    continue
                connection.tick(trio.current_time())
        except (trio.BrokenResourceError, trio.ClosedResourceError, RemoteProtocolError) as error:
            self.error = error
        finally:
            await trio.aclose_forcefully(stream)

    def _react(self, register: Register, message: Message) -> list[Message]:
        if isinstance(message, Want):
            bits = register.data_bits.to_bytes(0, register.length)
            if self.held is not None and register is self.registers[-1]:
                flags = [self.held(index) for index in range(register.length)]
                bits = bytes(
                    sum(0x80 >> k for k, flag in enumerate(flags[i : i + 8]) if flag) for i in range(0, len(flags), 8)
                )
            return [Have(message.start, message.length, rle_encode(bits))]
        if isinstance(message, Request):
            self.asked.append((self.registers.index(register), message))
            return self.answer(register, message)
        return []


class PeerWorld:
    """Addresses and what answers there: a ScriptedPeer, or an exception for the one who dials."""

    def __init__(self, nursery: trio.Nursery, peers: Mapping[Address, ScriptedPeer | Exception]) -> None:
        self.peers = dict(peers)
        self.dialed: list[Address] = []
        self._nursery = nursery

    async def connect(self, address: Address) -> trio.abc.Stream:
        """What :class:`Swarm` calls to dial."""
        await trio.lowlevel.checkpoint()
        self.dialed.append(address)
        peer = self.peers[address]
        if isinstance(peer, Exception):
            raise peer.with_traceback(None)  # not the frames of all times it was raised before
        ours, theirs = trio.testing.memory_stream_pair()
        self._nursery.start_soon(peer.serve, theirs)
        return ours


def reported(swarm: Swarm, address: str) -> PeerReport:
    """What the swarm says of one address."""
    [peer] = [peer for peer in swarm.report().peers if peer.address == address]
    return peer


@asynccontextmanager
async def swarm_of(
    keys: list[bytes], *peers: ScriptedPeer | Exception, upload: bool = True, ways: Sequence[Discovery] | None = None
) -> AsyncIterator[tuple[list[SparseRegister], Swarm, PeerWorld]]:
    """A fresh copy of the registers with these keys, in a swarm that dials each of ``peers``, or finds them so."""
    async with trio.open_nursery() as nursery:
        world = PeerWorld(nursery, {(f"peer{number}", 1): peer for number, peer in enumerate(peers)})
        if ways is None:
            ways = [StaticPeers(list(world.peers))]
        swarm = Swarm(discoveries=ways, upload=upload, connect=world.connect)
        copies = []
        for number, key in enumerate(keys):
            register = Register.open(memory_storage(), key=key)
            copies.append(SparseRegister(register, swarm, name=("metadata", "content")[number]))
            swarm.add_register(copies[-1])
        nursery.start_soon(swarm.run)
        yield copies, swarm, world
        for copy in copies:
            copy.close()
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def drive_of(
    writer: DriveWriter, *peers: ScriptedPeer | Exception
) -> AsyncIterator[tuple[Drive, Swarm, PeerWorld]]:
    """A fresh copy of a drive, header and length known, in a swarm that dials ``peers``."""
    async with swarm_of([writer.metadata.key], *peers) as ([metadata], swarm, world):

        def open_content(key: bytes) -> SparseRegister:
            content = SparseRegister(Register.open(memory_storage(), key=key), swarm, name="content")
            swarm.add_register(content)
            return content

        drive = Drive(metadata, open_content)
        await metadata.learn_length()
        await drive.load_header()
        try:
            yield drive, swarm, world
        finally:
            drive.close()
