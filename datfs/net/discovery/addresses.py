"""Which of the addresses that strangers name are worth a connection, and how many (spec discovery.md, section 9)."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from datfs.net.transport import Address

ADDRESSES_MOST = 256
"""Addresses for one drive, from one way of finding them, in one round: beyond it somebody floods us."""


def is_usable(address: Address, source: str) -> bool:
    """Whether somebody could be there. ``source``: the host that named the address.

    Port 0, multicast, broadcast and reserved addresses are refused; loopback too, unless it was named from there.
    """
    host, port = address
    try:
        ip = ipaddress.IPv4Address(host)
    except ValueError:
        return False
    if not 0 < port < 65536 or ip.is_multicast or ip.is_reserved or ip.packed[0] == 0:
        return False
    return not ip.is_loopback or ipaddress.ip_address(source).is_loopback


class Fresh:
    """Lets each usable address through once in a round, and only so many."""

    def __init__(self, most: int = ADDRESSES_MOST) -> None:
        self._most = most
        self._seen: set[Address] = set()

    def new_round(self) -> None:
        """What is named from now on is passed on again: an address that failed may have come back."""
        self._seen.clear()

    def take(self, addresses: Iterable[Address], source: str) -> list[Address]:
        """Those that are new in this round."""
        taken = []
        for address in addresses:
            if address not in self._seen and len(self._seen) < self._most and is_usable(address, source):
                self._seen.add(address)
                taken.append(address)
        return taken
