"""What an open drive tells of itself: versions, chunks, peers, wants.

Made of facts that others own; nothing here waits or changes anything. Values are those of JSON (docs/json.md).
"""

from __future__ import annotations

import os
from typing import Any

from datfs.drive import Drive
from datfs.holdings import bytes_between
from datfs.link import discovery_key
from datfs.net.report import PeerReport, SwarmReport
from datfs.net.swarm import Swarm
from datfs.net.traffic import Traffic
from datfs.register import Register
from datfs.sparse import SparseRegister
from datfs.store import Store
from datfs.wants import Urgency

PROTOCOL = 1
RUNS_MOST = 1000  # pieces of a register that are added up to say how many bytes are here


def status(drive: Drive, swarm: Swarm | None, store: Store) -> dict[str, Any]:
    """Everything about a drive and its peers."""
    registers = {"metadata": drive.metadata} | ({"content": drive.content} if drive.content is not None else {})
    report = swarm.report() if swarm is not None else SwarmReport()
    return {
        "protocol": PROTOCOL,
        "pid": os.getpid(),
        "link": f"dat://{drive.key.hex()}",
        "discovery_key": discovery_key(drive.key).hex(),
        "version": drive.version,
        "store": str(store.folder) if store.folder is not None else None,
        "registers": {
            name: register_facts(register.register, register.longest_claim) for name, register in registers.items()
        },
        "wants": {name: wants(register) for name, register in registers.items()},
        "network": swarm is not None and swarm.looks,
        "peers": [_peer(peer) for peer in report.peers],
        "ways": [{"name": way.name, "problem": way.problem, "found": way.found} for way in report.ways],
        "listening": list(report.listening),
        "limits": {"up": report.up_limit, "down": report.down_limit},
        "traffic": _traffic(report.traffic),
    }


def register_facts(log: Register, claimed: int | None = None) -> dict[str, Any]:
    """Of one register. ``claimed``: the greatest length that a peer claims."""
    return {
        "length": log.length,
        "held": log.data_bits.count(0, log.length),
        "bytes": log.byte_length,
        "bytes_held": bytes_between(log, 0, log.length, RUNS_MOST),
        "claimed": claimed,
    }


def wants(register: SparseRegister) -> dict[str, int]:
    """How many chunks are wanted by urgency, how many of them are on their way, and how many readers wait for."""
    counts = {urgency.name.lower(): register.wants.count(urgency) for urgency in Urgency}
    return counts | {"in_flight": len(register.wants.in_flight), "waited_for": register.waiting}


def _traffic(traffic: Traffic) -> dict[str, Any]:
    return {
        "received": traffic.received,
        "sent": traffic.sent,
        "receiving": round(traffic.receiving),
        "sending": round(traffic.sending),
    }


def _peer(peer: PeerReport) -> dict[str, Any]:
    return {
        "address": peer.address,
        "source": peer.source,
        "direction": peer.direction.value,
        "state": peer.state.value,
        "error": peer.error or None,
        "next_try": peer.next_try,
        "connected": peer.connected,
        "worked": peer.worked,
        "traffic": _traffic(peer.traffic),
        "holds": {
            held.register: {"length": held.length, "chunks": held.chunks, "in_flight": held.in_flight}
            for held in peer.held
        },
    }
