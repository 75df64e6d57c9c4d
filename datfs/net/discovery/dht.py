"""Peers from BitTorrent's mainline DHT (BEP 5; spec discovery.md, section 6), by way of libtorrent.

libtorrent is an optional extra and is imported when a search begins. It works in threads of its own; what it has to
say comes to us as alerts, which are collected on trio's thread. Of BitTorrent nothing else is used: no torrent, no
port mapping, no local discovery. An announcement cannot be taken back in the DHT: nodes forget it after half an hour.
"""

from __future__ import annotations

import importlib
import importlib.util
import ipaddress
import logging
import random
import socket
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import trio

from datfs.errors import Unavailable
from datfs.net.discovery.addresses import Fresh
from datfs.net.discovery.packets import ID_BYTES
from datfs.net.transport import Address, show_address

log = logging.getLogger(__name__)

DEFAULT_BOOTSTRAP: tuple[Address, ...] = tuple(
    (f"bootstrap{n}.datprotocol.com", 6881) for n in range(1, 5)
)  # section 2
ROUND = (600.0, 900.0)  # seconds between rounds
EARLY = (10.0, 60.0)  # further rounds at the beginning: the first one may meet an empty table of nodes
ROUND_WITHOUT_NODES = 60.0
BOOTSTRAP_TIMEOUT = 15.0
BOOTSTRAP_RETRY = 0.1  # then 0.2, 0.4 and so on: a datagram may be lost, or the node be a moment late
MISSING = "the DHT needs the library libtorrent: pip install 'datfs[dht]', or leave dht out of --discovery"


def is_available() -> bool:
    """Whether the optional extra is installed."""
    return importlib.util.find_spec("libtorrent") is not None


class MainlineDht:
    """Finds peers in the DHT, and is found there if ``announce_port`` is given.

    ``bootstrap``: nodes to begin with. ``listen``: address of the UDP socket, port 0 for a free one. ``problem`` says
    why nothing can be found at the moment; it is None while all is well. ``works``: whether nodes have answered. Raises
    Unavailable if the extra is not installed.
    """

    name = "dht"

    def __init__(
        self,
        announce_port: int | None = None,
        *,
        bootstrap: Sequence[Address] = DEFAULT_BOOTSTRAP,
        listen: Address = ("0.0.0.0", 0),
        rng: random.Random | None = None,
    ) -> None:
        if not is_available():
            raise Unavailable(MISSING)
        self.announce_port = announce_port
        self.problem: str | None = None
        self.works = False
        self._bootstrap = list(bootstrap)
        self._listen = listen
        # A DHT on this machine has peers on this machine.
        self._trusted = "127.0.0.1" if any(_is_loopback(host) for host, _ in self._bootstrap) else "0.0.0.0"
        self._rng = rng or random.SystemRandom()

    async def find(self, discovery_key: bytes) -> AsyncGenerator[Address, None]:
        """Addresses as nodes tell them, each once in a round; never ends. Announces for as long as it runs."""
        info_hash = discovery_key[:ID_BYTES]
        early = list(EARLY)
        fresh = Fresh()
        node = await trio.to_thread.run_sync(_Node, settings(self._bootstrap, self._listen))
        try:
            await node.begin(self._bootstrap)
            while True:
                self._judge(node)
                next_round = trio.current_time() + self._pause(node, early)
                fresh.new_round()
                node.count()
                node.ask(info_hash, self.announce_port)
                while trio.current_time() < next_round:
                    for address in fresh.take(await node.heard(next_round), self._trusted):
                        yield address
                if not node.known_nodes:
                    await node.begin(self._bootstrap)
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(node.close)

    def _pause(self, node: _Node, early: list[float]) -> float:
        """Seconds until the next round."""
        if not node.known_nodes:
            return ROUND_WITHOUT_NODES
        return early.pop(0) if early else self._rng.uniform(*ROUND)

    def _judge(self, node: _Node) -> None:
        self.works = self.works or node.known_nodes > 0
        problem = None if node.known_nodes else "no node of the DHT answers"
        if problem is not None and problem != self.problem:
            log.info("%s", problem)
        self.problem = problem


def settings(bootstrap: Sequence[Address], listen: Address) -> dict[str, Any]:
    """libtorrent's settings for a DHT node and nothing else.

    Its rules against forged nodes (BEP 42, one node per address or network) are for the public DHT; they would make a
    DHT of a few nodes on one private network impossible, so that there, as the bootstrap nodes show, they are off.
    """
    public = not any(_is_local(host) for host, _ in bootstrap)
    return {
        "listen_interfaces": show_address(listen),
        "dht_bootstrap_nodes": "",  # libtorrent asks those once, and never counts them among its nodes
        "enable_dht": True,
        "enable_lsd": False,
        "enable_upnp": False,
        "enable_natpmp": False,
        "enable_incoming_tcp": False,
        "enable_outgoing_tcp": False,
        "enable_incoming_utp": False,
        "enable_outgoing_utp": False,
        "dht_restrict_routing_ips": public,
        "dht_restrict_search_ips": public,
        "dht_ignore_dark_internet": public,
        "dht_enforce_node_id": False,
        "dht_prefer_verified_node_ids": public,
    }


def _is_local(host: str) -> bool:
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return host == "localhost"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _Node:
    """A libtorrent session. Made and closed in a thread, since both may wait; everything else returns at once."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._lt = importlib.import_module("libtorrent")
        category = self._lt.alert.category_t
        mask = category.dht_notification | category.dht_operation_notification | category.stats_notification
        self._session = self._lt.session({**options, "alert_mask": mask})
        # A byte comes with the first alert of each batch. libtorrent could call us instead, but only with Python's
        # lock, which is held while the session is destroyed: that would wait for ever.
        self._bell, self._bell_rope = socket.socketpair()
        for end in (self._bell, self._bell_rope):
            end.setblocking(False)
        self._session.set_alert_fd(self._bell_rope.fileno())
        self.known_nodes = 0
        """How many nodes our table has, when it was last counted."""

    async def begin(self, bootstrap: Sequence[Address]) -> None:
        """Waits until the first nodes are known, but not longer than 15 s."""
        pause = BOOTSTRAP_RETRY
        with trio.move_on_after(BOOTSTRAP_TIMEOUT):
            while not self.known_nodes:
                for node in bootstrap:
                    self._session.add_dht_node(node)
                await trio.sleep(pause)
                pause *= 2
                self.count()
                await self.heard(trio.current_time() + BOOTSTRAP_RETRY)

    def count(self) -> None:
        """Has the nodes of our table counted."""
        self._session.post_dht_stats()

    def ask(self, info_hash: bytes, announce_port: int | None) -> None:
        """Begins one round: looks for peers, and announces."""
        wanted = self._lt.sha1_hash(info_hash)
        self._session.dht_get_peers(wanted)
        if announce_port is not None:
            self._session.dht_announce(wanted, announce_port, 0)

    async def heard(self, until: float) -> list[Address]:
        """The addresses in the alerts that have come, once some have or it is ``until``."""
        found: list[Address] = []
        alerts: list[Any] = []
        with trio.move_on_at(until):
            alerts = await self._alerts()
        for alert in alerts:
            if isinstance(alert, self._lt.dht_get_peers_reply_alert):
                found += [(str(host), int(port)) for host, port in alert.peers()]
            elif isinstance(alert, self._lt.dht_stats_alert):
                self.known_nodes = sum(int(bucket["num_nodes"]) for bucket in alert.routing_table)
        return found

    async def _alerts(self) -> list[Any]:
        await trio.lowlevel.wait_readable(self._bell)
        self._bell.recv(1024)
        return list(self._session.pop_alerts())

    def close(self) -> None:
        """Ends the session and waits for its threads."""
        del self._session
        self._bell.close()
        self._bell_rope.close()
