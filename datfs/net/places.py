"""How many connections there may be: altogether, in each direction, and with one host. Pure.

A connection takes its place before it is made and gives it back when it has ended. Places in each direction are kept
from the other one: whoever fills all that are open to callers does not keep us from dialing.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from typing import TypeAlias

Address: TypeAlias = tuple[str, int]
"""Host and port."""

CONNECTIONS_MOST = 64
INBOUND_MOST = 48  # so that 16 are left to dial with
DIALED_MOST = 32
OF_HOST_MOST = 4  # a household behind one address has room, one caller does not take it all


def host_of(host: str) -> str | None:
    """What counts as one host: an IPv4 address, the /64 network of an IPv6 one, a name. None on this machine.

    Programs of this machine need no limit: who starts a thousand of them has other ways to harm it.
    """
    try:
        ip = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None if host.lower() == "localhost" else host.lower()
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is None:
            return None if ip.is_loopback else str(ipaddress.ip_network((ip, 64), strict=False))
        ip = ip.ipv4_mapped
    return None if ip.is_loopback else str(ip)


class Places:
    """The connections that exist or are being made."""

    def __init__(self) -> None:
        self._inbound = 0
        self._dialed = 0
        self._of_host: Counter[str] = Counter()

    def take(self, host: str | None, *, dialed: bool) -> bool:
        """Takes a place for a connection with ``host``, as :func:`host_of` names it. False if there is none."""
        if self._inbound + self._dialed >= CONNECTIONS_MOST:
            return False
        if (self._dialed >= DIALED_MOST) if dialed else (self._inbound >= INBOUND_MOST):
            return False
        if host is not None:
            if self._of_host[host] >= OF_HOST_MOST:
                return False
            self._of_host[host] += 1
        if dialed:
            self._dialed += 1
        else:
            self._inbound += 1
        return True

    def give_back(self, host: str | None, *, dialed: bool) -> None:
        """The connection that took a place so has ended."""
        if dialed:
            self._dialed -= 1
        else:
            self._inbound -= 1
        if host is not None:
            self._of_host[host] -= 1
            if not self._of_host[host]:
                del self._of_host[host]
