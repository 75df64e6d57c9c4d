"""A UDP socket in a multicast group, on every network of this machine. It carries packets and does not know them."""

from __future__ import annotations

import logging
import socket
import struct
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

import trio

from datfs.net.transport import Address

log = logging.getLogger(__name__)

GROUP = "224.0.0.251"  # RFC 6762 section 3; discovery.md section 4
PORT = 5353
HOPS = 255  # RFC 6762 section 11
PACKET_MOST = 9000
LOOPBACK = "lo"


def all_interfaces() -> list[str]:
    """The names of the interfaces of this machine, loopback last."""
    names = [name for _, name in socket.if_nameindex()]
    return sorted(names, key=lambda name: name == LOOPBACK)


class MulticastSocket:
    """Joined on every interface that allows it; loopback only where there is no other.

    Raises OSError when the port is taken by a program that does not share it, or no interface takes part.
    """

    def __init__(
        self, group: str = GROUP, port: int = PORT, interfaces: Callable[[], Sequence[str]] = all_interfaces
    ) -> None:
        self.group, self.port = group, port
        self._interfaces = interfaces
        self._joined: set[int] = set()
        plain = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            # Both: other programs share the port with one or the other (avahi with both, Node with the first).
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            plain.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, HOPS)
            # To the group, not to every address: unicast answers to other programs on this port are not for us.
            plain.bind((group, port))
            self._socket = trio.socket.from_stdlib_socket(plain)
            self.join()
        except BaseException:
            plain.close()
            raise

    def join(self) -> None:
        """Joins on interfaces that have come since. Raises OSError if there is none at all."""
        here = {name: index for index, name in socket.if_nameindex()}
        self._joined &= set(here.values())
        failed: OSError | None = None
        for name in self._interfaces():
            index = here.get(name)
            if index is None or index in self._joined or (name == LOOPBACK and self._joined):
                continue
            try:
                self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, _request(self.group, index))
            except OSError as error:
                log.debug("%s takes no part in %s: %s", name, self.group, error.strerror)
                failed = error
            else:
                self._joined.add(index)
        if not self._joined:
            raise failed or OSError("this machine has no network interface")

    async def send(self, data: bytes, port: int | None = None) -> int:
        """Sends to the group on every interface; returns on how many. Raises OSError if none took it."""
        sent = 0
        failed: OSError | None = None
        for index in sorted(self._joined):
            try:
                self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, _request("0.0.0.0", index))
                await self._socket.sendto(data, (self.group, port or self.port))
                sent += 1
            except OSError as error:
                failed = error
        if failed is not None and not sent:
            raise failed
        return sent

    async def receive(self) -> tuple[bytes, Address]:
        """The next packet, and who sent it. Raises OSError."""
        data, source = await self._socket.recvfrom(PACKET_MOST)
        return data, source

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()


def _request(address: str, index: int) -> bytes:
    """A ``struct ip_mreqn``: an address, no local address, and the interface by its number."""
    return struct.pack("=4s4si", socket.inet_aton(address), b"\0\0\0\0", index)
