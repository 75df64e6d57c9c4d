"""Networks in memory for the tests of discovery: one for datagrams, one multicast group, and a small discovery server.

Nothing here opens a socket; delays are virtual time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import trio

from datfs.net.discovery import packets
from datfs.net.discovery.packets import Packet, Srv, Txt
from datfs.net.transport import Address

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "discovery.json").read_text(encoding="utf-8"))
ID: str = VECTORS["id"]
KEY = bytes.fromhex(ID) + bytes(12)
"""A discovery key; only its first 20 bytes matter here."""


def captured(name: str) -> bytes:
    """A packet of the reference."""
    return bytes.fromhex(VECTORS["packets"][name])


class Datagrams:
    """A network: what is sent to an address is received there, or nowhere."""

    def __init__(self) -> None:
        self.sockets: dict[Address, DatagramSocket] = {}
        self.sent: list[tuple[float, Address, Address, bytes]] = []
        """When, from, to, what."""
        self.down = False
        self.lose: Callable[[bytes], bool] = lambda data: False

    @contextlib.contextmanager
    def socket(self, address: Address) -> Iterator[DatagramSocket]:
        """A socket for as long as the context lasts."""
        assert address not in self.sockets
        sock = self.sockets[address] = DatagramSocket(self, address)
        try:
            yield sock
        finally:
            del self.sockets[address]


class DatagramSocket:
    """One end on the network."""

    def __init__(self, network: Datagrams, address: Address) -> None:
        self.address = address
        self._network = network
        self._in, self._out = trio.open_memory_channel[tuple[bytes, Address]](1000)

    async def sendto(self, data: bytes, address: Address) -> int:
        """Sends one packet."""
        await trio.lowlevel.checkpoint()
        if self._network.down:
            raise OSError(101, "Network is unreachable")
        self._network.sent.append((trio.current_time(), self.address, address, data))
        target = self._network.sockets.get(address)
        if target is not None and not self._network.lose(data):
            target._in.send_nowait((data, self.address))
        return len(data)

    async def recvfrom(self, size: int) -> tuple[bytes, Address]:
        """The next packet."""
        return await self._out.receive()


class Server:
    """A discovery server as section 5 of the specification describes it."""

    def __init__(self, secret: bytes = b"secret") -> None:
        self.secret = secret
        self.peers: dict[str, set[Address]] = defaultdict(set)
        self.subscribers: dict[str, set[Address]] = defaultdict(set)

    def token(self, host: str) -> str:
        """What a client on this host must show."""
        return hashlib.sha256(self.secret + host.encode()).hexdigest()

    async def run(self, sock: DatagramSocket) -> None:
        """Answers until cancelled."""
        while True:
            data, source = await sock.recvfrom(packets.PACKET_MOST)
            packet = packets.parse(data)
            if not packet.response:
                await sock.sendto(self._answer(packet, source), source)
                for record in packet.records:
                    if isinstance(record, Txt) and record.values.get("token") == self.token(source[0]):
                        await self._told(record, source, sock)

    def _answer(self, packet: Packet, source: Address) -> bytes:
        id = packet.questions[0]
        values = {"token": self.token(source[0])}
        if not id:
            values |= {"host": source[0], "port": str(source[1])}
        elif self.peers[id]:
            values["peers"] = packets.encode_peers(sorted(self.peers[id]))
        answers = [Txt(id, values)]
        return packets.encode(packet.number, packets.RESPONSE_SERVER, questions=[id], answers=answers)

    async def _told(self, said: Txt, source: Address, sock: DatagramSocket) -> None:
        if "announce" in said.values:
            peer = (source[0], int(said.values["announce"]))
            if peer not in self.peers[said.id]:
                self.peers[said.id].add(peer)
                push = packets.encode(7, packets.QUERY_SERVER, additionals=[Srv(said.id, *peer)])
                for subscriber in self.subscribers[said.id]:
                    await sock.sendto(push, subscriber)
        if "unannounce" in said.values:
            self.peers[said.id].discard((source[0], int(said.values["unannounce"])))
        if "subscribe" in said.values:
            self.subscribers[said.id].add(source)
        else:
            self.subscribers[said.id].discard(source)


class Group:
    """A multicast group: what one sends everybody receives, the sender too."""

    def __init__(self) -> None:
        self.members: list[GroupMember] = []
        self.sent: list[tuple[float, str, bytes]] = []
        """When, from which host, what."""
        self.broken = False

    @contextlib.contextmanager
    def join(self, host: str) -> Iterator[GroupMember]:
        """A member for as long as the context lasts."""
        if self.broken:
            raise OSError(19, "No such device")
        member = GroupMember(self, host)
        self.members.append(member)
        try:
            yield member
        finally:
            self.members.remove(member)


class GroupMember:
    """One member's socket."""

    def __init__(self, group: Group, host: str) -> None:
        self.host = host
        self._group = group
        self._in, self._out = trio.open_memory_channel[tuple[bytes, Address]](10_000)

    def join(self) -> None:
        """There is only the one network."""

    async def send(self, data: bytes, port: int | None = None) -> int:
        """To all; returns the number of networks."""
        await trio.lowlevel.checkpoint()
        self._group.sent.append((trio.current_time(), self.host, data))
        for member in self._group.members:
            member._in.send_nowait((data, (self.host, 5353)))
        return 1

    async def receive(self) -> tuple[bytes, Address]:
        """The next packet."""
        if self._group.broken:
            raise OSError(100, "Network is down")
        return await self._out.receive()


class _Real(DatagramSocket):
    """A socket of the system in the place of one in memory."""

    def __init__(self, sock: trio.socket.SocketType) -> None:
        self._socket = sock

    async def sendto(self, data: bytes, address: Address) -> int:
        return await self._socket.sendto(data, address)

    async def recvfrom(self, size: int) -> tuple[bytes, Address]:
        return await self._socket.recvfrom(size)


@contextlib.asynccontextmanager
async def serve_dns() -> AsyncIterator[int]:
    """The small server on a real port of loopback, which is yielded."""
    with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as sock:
        await sock.bind(("127.0.0.1", 0))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Server().run, _Real(sock))
            yield sock.getsockname()[1]
            nursery.cancel_scope.cancel()
