"""Whether this machine is on any network: what decides whether it is worth waiting for peers to be found.

Only says what the kernel says (Linux, ``/proc`` and ``/sys``); nothing is sent. Where that cannot be read, or in doubt,
there is a network.
"""

from __future__ import annotations

import os
from pathlib import Path

LOOPBACK = "lo"
UP = ("up", "unknown")  # many drivers of tunnels never say
_LINK_SCOPE = "20"  # of an IPv6 address that every interface gives to itself


def on_a_network(root: Path = Path("/")) -> bool:
    """Whether an interface other than loopback is up and has an address that somebody could answer to."""
    try:
        return any(_is_up(root, name) for name in _with_addresses(root))
    except OSError:
        return True


def _with_addresses(root: Path) -> set[str]:
    """The interfaces that have an IPv4 route, as each address makes one, or an IPv6 address beyond the link."""
    names = {line.split("\t", 1)[0] for line in (root / "proc/net/route").read_text().splitlines()[1:]}
    inet6 = root / "proc/net/if_inet6"
    if os.path.exists(inet6):  # not in a kernel without IPv6
        names |= {words[5] for line in inet6.read_text().splitlines() if (words := line.split())[3] != _LINK_SCOPE}
    return names - {LOOPBACK, ""}


def _is_up(root: Path, name: str) -> bool:
    try:
        return (root / "sys/class/net" / name / "operstate").read_text().strip() in UP
    except OSError:
        return True  # /sys may be that of another network namespace, and not know it
