"""Which ways of finding peers to use: what ``--discovery`` says, and the objects that it stands for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from datfs.errors import BadLink
from datfs.net.discovery import Discovery
from datfs.net.transport import Address

NAMES = ("mdns", "dns", "dht")
NONE = "none"
SEARCH_LOOPBACK = 0.5  # a program on this machine answers within milliseconds
SEARCH_LOCAL_SERVER = 10.0


@dataclass(frozen=True, slots=True)
class Ways:
    """``names``: some of :data:`NAMES`. ``dns_servers``: as :func:`.dns_servers.parse_server` takes them.

    ``dht_bootstrap``: the nodes to begin with. Empty: the usual ones.
    """

    names: Sequence[str] = ()
    dns_servers: Sequence[str] = ()
    dht_bootstrap: Sequence[Address] = ()

    def search_alone(self) -> float:
        """Seconds for which it is worth waiting for peers where there is no network: others may be on this machine."""
        servers = [server.partition(":")[0] for server in self.dns_servers] if "dns" in self.names else []
        nodes = [host for host, _ in self.dht_bootstrap] if "dht" in self.names else []
        if any(host == "localhost" or host.startswith("127.") for host in (*servers, *nodes)):
            return SEARCH_LOCAL_SERVER
        return SEARCH_LOOPBACK if "mdns" in self.names else 0.0

    def discoveries(self, announce_port: int | None) -> list[Discovery]:
        """One object for each way and server. ``announce_port``: where we listen for peers, None to look only.

        Raises BadLink for a server that is none, and Unavailable for the DHT without its extra.
        """
        # Each is imported when it is used: they and their libraries take a third of the time of a short command.
        made: list[Discovery] = []
        if "mdns" in self.names:
            from datfs.net.discovery.mdns import MulticastDns

            made.append(MulticastDns(announce_port))
        if "dns" in self.names:
            from datfs.net.discovery.dns_servers import DEFAULT_SERVERS, DnsServer, parse_server

            servers = self.dns_servers or DEFAULT_SERVERS
            made += [DnsServer(*parse_server(server), announce_port) for server in servers]
        if "dht" in self.names:
            from datfs.net.discovery.dht import DEFAULT_BOOTSTRAP, MainlineDht

            made.append(MainlineDht(announce_port, bootstrap=self.dht_bootstrap or DEFAULT_BOOTSTRAP))
        return made


def parse_ways(text: str) -> tuple[str, ...]:
    """``mdns,dns,dht``, some of these, or ``none``. Raises BadLink."""
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    if names == (NONE,):
        return ()
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        raise BadLink(f"{unknown[0]!r} is no way to find peers: expected some of {','.join(NAMES)}, or {NONE}")
    return names


def default_ways() -> tuple[str, ...]:
    """All that work here: the DHT only where its extra is installed."""
    from datfs.net.discovery import dht

    return tuple(name for name in NAMES if name != "dht" or dht.is_available())
