"""Peers from a discovery server, by the unicast DNS protocol of Dat (spec discovery.md, section 5).

One :class:`DnsServer` asks one server; for several make several, so that one that is away does not hold up the others.
What it says is in :mod:`.dns_exchange`; here are the socket, the server's address and the rounds.
"""

from __future__ import annotations

import logging
import random
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import trio

from datfs.errors import BadLink
from datfs.net.discovery import packets
from datfs.net.discovery.addresses import Fresh
from datfs.net.discovery.dns_exchange import Exchange, State
from datfs.net.transport import Address

log = logging.getLogger(__name__)

DEFAULT_SERVERS = ("discovery1.datprotocol.com", "discovery2.datprotocol.com")  # section 2
DEFAULT_PORTS = (5300, 53)
ROUND = (60.0, 70.0)  # seconds between rounds (section 2): announcements are not kept alive by the server
RESOLVE_TIMEOUT = 5.0
LEAVE_TIMEOUT = 1.0  # how long the end of a search may wait for the server to confirm that we left


class Datagrams(Protocol):
    """What is needed of a UDP socket."""

    def sendto(self, data: bytes, address: Address, /) -> Awaitable[int]:
        """Sends one packet. Raises OSError."""
        ...

    def recvfrom(self, size: int, /) -> Awaitable[tuple[bytes, Any]]:
        """The next packet, and who sent it. Raises OSError."""
        ...


def parse_server(text: str) -> tuple[str, tuple[int, ...]]:
    """``HOST``, ``HOST:PORT`` or ``HOST:PORT,PORT``: the host and its ports in the order to try. Raises BadLink."""
    host, colon, rest = text.partition(":")
    ports = rest.split(",") if colon else []
    if not host or not all(port.isdecimal() and 0 < int(port) < 65536 for port in ports):
        raise BadLink(f"{text!r} is not a discovery server: expected HOST, or HOST:PORT with a port from 1 to 65535")
    return host, tuple(map(int, ports)) or DEFAULT_PORTS


class DnsServer:
    """Asks one discovery server, and is found through it if ``announce_port`` is given.

    ``host``: name or IPv4 address. ``ports``: tried in this order. ``problem`` says why the server is of no use at the
    moment; it is None while all is well. ``works``: whether it has answered.
    """

    def __init__(
        self,
        host: str,
        ports: Sequence[int] = DEFAULT_PORTS,
        announce_port: int | None = None,
        *,
        rng: random.Random | None = None,
        new_socket: Callable[[], AbstractContextManager[Datagrams]] | None = None,
    ) -> None:
        self.name = f"dns {host}"
        self.announce_port = announce_port
        self.problem: str | None = None
        self.works = False
        self._host = host
        self._ports = list(ports)
        self._rng = rng or random.SystemRandom()
        self._new_socket = new_socket or _udp_socket

    async def find(self, discovery_key: bytes) -> AsyncGenerator[Address, None]:
        """Addresses as the server tells them, each once in a round; never ends. Announces for as long as it runs.

        At its end, that is when the iterator is closed or cancelled, the announcement is taken back (1 s at most).
        """
        with self._new_socket() as sock:
            search = _Search(Exchange(discovery_key, self.announce_port, self._rng), sock)
            try:
                while True:
                    if search.server is None or self.problem is not None:
                        search.server = await self._resolve()
                    search.begin_round(self._rng.uniform(*ROUND), others=len(self._ports) - 1)
                    while trio.current_time() < search.next_round:
                        for address in await search.heard():
                            yield address
                        self._judge(search)
            finally:
                await search.leave()

    async def _resolve(self) -> Address:
        """The server's address; asked for again and again while there is none."""
        while True:
            error: Exception | None = None
            try:
                with trio.move_on_after(RESOLVE_TIMEOUT):
                    infos = await trio.socket.getaddrinfo(self._host, 0, socket.AF_INET, socket.SOCK_DGRAM)
                    return str(infos[0][4][0]), self._ports[0]
            except (OSError, UnicodeError) as failed:
                error = failed
            why = "no answer" if error is None else getattr(error, "strerror", None) or str(error)
            self._report(f"the address of {self._host} cannot be found: {why}")
            await trio.sleep(self._rng.uniform(*ROUND))

    def _judge(self, search: _Search) -> None:
        """After each packet: notes whether the server answers; the next port is tried at once if it does not."""
        state = search.exchange.state
        if state is State.RESTING:
            self.works = True
            self._report(None)
        elif state is State.SILENT and search.ports_left:
            self._ports.append(self._ports.pop(0))
            search.turn_to(self._ports[0])
        elif state is State.SILENT:
            self._report(f"the discovery server {self._host} does not answer")

    def _report(self, problem: str | None) -> None:
        if problem is not None and problem != self.problem:
            log.info("%s", problem)
        self.problem = problem


class _Search:
    """An exchange on its way: the socket, the server's address, the time of the next round."""

    def __init__(self, exchange: Exchange, sock: Datagrams) -> None:
        self.exchange = exchange
        self.socket = sock
        self.server: Address | None = None
        self.next_round = 0.0
        self.ports_left = 0
        self._fresh = Fresh()

    def begin_round(self, seconds: float, others: int) -> None:
        """For so many seconds, with so many other ports to turn to."""
        now = trio.current_time()
        self.next_round = now + seconds
        self.ports_left = others
        self._fresh.new_round()
        self.exchange.begin(now)

    def turn_to(self, port: int) -> None:
        """Begins again on another port of the server."""
        assert self.server is not None
        self.ports_left -= 1
        self.server = (self.server[0], port)
        self.exchange.forget_token()
        self.exchange.begin(trio.current_time())

    async def heard(self) -> list[Address]:
        """Sends what there is to send, then waits for one packet or the next deadline."""
        await self._send()
        deadline = self.exchange.next_deadline()
        found: list[Address] = []
        with trio.move_on_at(self.next_round if deadline is None else min(deadline, self.next_round)):
            try:
                data, source = await self.socket.recvfrom(packets.PACKET_MOST)
            except OSError as error:  # an ICMP message about what we sent; the deadline deals with silence
                log.debug("discovery server: %s", error.strerror)
                await trio.lowlevel.checkpoint()
                return []
            if self.server is not None and source[0] == self.server[0]:
                found = self._fresh.take(self.exchange.receive(data, source, trio.current_time()), source[0])
                await self._send(source)
        self.exchange.tick(trio.current_time())
        return found

    async def leave(self) -> None:
        """Takes the announcement back, and waits a little until the server has heard it."""
        with trio.CancelScope(shield=True, deadline=trio.current_time() + LEAVE_TIMEOUT):
            self.exchange.leave(trio.current_time())
            self.next_round = trio.current_time() + LEAVE_TIMEOUT
            while self.exchange.state is State.LEAVING:
                await self.heard()

    async def _send(self, to: Address | None = None) -> None:
        for data in self.exchange.data_to_send():
            target = to or self.server
            assert target is not None
            try:
                await self.socket.sendto(data, target)
            except OSError as error:  # no network at the moment; it is sent again
                log.debug("discovery server: %s", error.strerror)


def _udp_socket() -> trio.socket.SocketType:
    return trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
