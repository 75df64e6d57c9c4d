"""Peers on the same network, by multicast DNS in the way of Dat (spec discovery.md, section 4).

Whoever wants peers asks the group for the drive's name; whoever announces the drive answers, to the group, its own
question included. There is no negative answer. :class:`Conversation` is what is said; :class:`MulticastDns` says it.
"""

from __future__ import annotations

import base64
import logging
import math
import random
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractContextManager
from typing import Protocol

import trio

from datfs.errors import FormatError
from datfs.net.discovery import packets
from datfs.net.discovery.addresses import Fresh
from datfs.net.discovery.multicast import MulticastSocket
from datfs.net.transport import Address

log = logging.getLogger(__name__)

ROUND = (60.0, 70.0)  # seconds between rounds (section 2)
EARLY = (0.0, 1.0, 3.0)  # when a search begins: datagrams get lost; RFC 6762 section 5.2 spaces them like this
PATIENCE_WITHOUT_NETWORK = 5.0
REPLIES_PER_SECOND = 10


class Conversation:
    """One drive's part of what goes over the group: packets in, packets and addresses out. No socket, no clock.

    ``announce_port``: where we serve the drive, None if we do not. ``token``: random text by which we recognise our own
    answers.
    """

    def __init__(self, discovery_key: bytes, announce_port: int | None, token: str) -> None:
        self.id = packets.short_id(discovery_key)
        self.replies: list[tuple[bytes, int]] = []
        """Packets to send, each with the UDP port to send it to."""
        self._announce_port = announce_port
        self._token = token
        self._replied_in = -math.inf
        self._replies_left = REPLIES_PER_SECOND

    def query(self) -> bytes:
        """Who has the drive?"""
        return packets.encode(0, packets.QUERY, questions=[self.id])

    def receive(self, data: bytes, source: Address, now: float) -> list[Address]:
        """The addresses in a packet; garbage gives none."""
        try:
            packet = packets.parse(data)
        except FormatError as error:
            log.debug("from %s: %s", source[0], error)
            return []
        if any(isinstance(one, packets.Txt) and one.values.get("token") == self._token for one in packet.records):
            return []
        if not packet.response and self.id in packet.questions:
            self._reply(source[1], now)
        return packet.peers(self.id, source)

    def _reply(self, port: int, now: float) -> None:
        # Our own query comes back and is answered as well: so the group hears of us when we begin to announce.
        if self._announce_port is None or not self._may_reply(now):
            return
        peers = packets.encode_peers([(packets.ANY_SENDER, self._announce_port)])
        answer = packets.Txt(self.id, {"token": self._token, "peers": peers})
        self.replies.append((packets.encode(0, packets.RESPONSE, questions=[self.id], answers=[answer]), port))

    def _may_reply(self, now: float) -> bool:
        second = math.floor(now)
        if second != self._replied_in:
            self._replied_in, self._replies_left = second, REPLIES_PER_SECOND
        self._replies_left -= 1
        return self._replies_left >= 0


class Group(Protocol):
    """What a search needs of a :class:`.multicast.MulticastSocket`."""

    def join(self) -> None:
        """Takes part on networks that have come since. Raises OSError."""
        ...

    async def send(self, data: bytes, port: int | None = None) -> int:
        """Sends to the group; returns on how many networks. Raises OSError."""
        ...

    async def receive(self) -> tuple[bytes, Address]:
        """The next packet, and who sent it. Raises OSError."""
        ...


class _Search:
    """The rounds of one conversation over one socket."""

    def __init__(self, group: Group, conversation: Conversation, rng: random.Random) -> None:
        self._group = group
        self._conversation = conversation
        self._rng = rng
        self._fresh = Fresh()
        self._early = [trio.current_time() + delay for delay in EARLY]
        self._next = self._early[0]

    async def heard(self) -> list[Address]:
        """Asks if it is time, then waits for one packet or the next time. Raises OSError."""
        conversation = self._conversation
        now = trio.current_time()
        if now >= self._next:
            self._schedule(now)
            await self._group.send(conversation.query())
        found: list[Address] = []
        with trio.move_on_at(self._next):
            data, source = await self._group.receive()
            found = self._fresh.take(conversation.receive(data, source, trio.current_time()), source[0])
            for reply, port in conversation.replies:
                try:
                    await self._group.send(reply, port)
                except OSError as error:  # whoever asked from a port that nothing can be sent to gets no answer
                    log.debug("no reply to port %d: %s", port, error.strerror)
            conversation.replies.clear()
        return found

    def _schedule(self, now: float) -> None:
        if self._early:
            self._early.pop(0)
        else:
            self._fresh.new_round()
            self._group.join()
        self._next = self._early[0] if self._early else now + self._rng.uniform(*ROUND)


class MulticastDns:
    """Finds peers on the networks that this machine is on, and is found by them if ``announce_port`` is given.

    ``open_group``: joins the multicast group for one search. ``problem`` says why nothing can be found at the moment;
    it is None while all is well.
    """

    name = "mdns"

    def __init__(
        self,
        announce_port: int | None = None,
        *,
        open_group: Callable[[], AbstractContextManager[Group]] = MulticastSocket,
        rng: random.Random | None = None,
    ) -> None:
        self.announce_port = announce_port
        self.problem: str | None = None
        self._open_group = open_group
        self._rng = rng or random.SystemRandom()

    async def find(self, discovery_key: bytes) -> AsyncGenerator[Address, None]:
        """Addresses as they are heard of, each once in a round; never ends. Announces for as long as it runs."""
        token = base64.b64encode(self._rng.randbytes(32)).decode()
        conversation = Conversation(discovery_key, self.announce_port, token)
        while True:
            try:
                with self._open_group() as group:
                    search = _Search(group, conversation, self._rng)
                    while True:
                        found = await search.heard()
                        self.problem = None
                        for address in found:
                            yield address
            except OSError as error:
                self._failed(error)
            await trio.sleep(PATIENCE_WITHOUT_NETWORK)

    def _failed(self, error: OSError) -> None:
        problem = f"multicast does not work: {error.strerror or error}"
        if problem != self.problem:
            log.info("%s", problem)
        self.problem = problem
