"""What an open drive tells of itself: versions, chunks, peers, wants, blocked reads; and why a file does not come.

Made of facts that others own; nothing here waits or changes anything. Values are those of JSON (docs/json.md).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

from datfs.bitfield import Bitfield
from datfs.drive import Drive
from datfs.errors import FormatError, NotFound
from datfs.link import discovery_key
from datfs.net.report import PeerReport, SwarmReport
from datfs.net.swarm import Swarm
from datfs.net.traffic import Traffic
from datfs.sparse import SparseRegister, Urgency
from datfs.store import Store

PROTOCOL = 1
ASK = "ask"
RANGES_MOST = 1000


def answer_to(
    asked: dict[str, Any], drive: Drive, swarm: Swarm | None, store: Store, activity: dict[str, Any]
) -> dict[str, Any]:
    """The answer to a question. Raises FormatError for one that is none, NotFound for a path that is not known."""
    if asked.get(ASK) == "status":
        return status(drive, swarm, store) | activity
    if asked.get(ASK) == "why":
        chunks = asked.get("chunks")
        if not (isinstance(chunks, list) and len(chunks) == 2 and all(isinstance(one, int) for one in chunks)):
            raise FormatError("'why' needs chunks: [first, stop]")
        return why(drive, swarm, *chunks)
    raise FormatError(f"there is no question {asked.get(ASK)!r}")


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
        "registers": {name: _register(register) for name, register in registers.items()},
        "wants": {name: wants(register) for name, register in registers.items()},
        "network": swarm is not None and swarm.looks,
        "peers": [_peer(peer) for peer in report.peers],
        "ways": [{"name": way.name, "problem": way.problem, "found": way.found} for way in report.ways],
        "listening": list(report.listening),
        "limits": {"up": report.up_limit, "down": report.down_limit},
        "traffic": _traffic(report.traffic),
    }


def _register(register: SparseRegister) -> dict[str, Any]:
    log = register.register
    return {
        "length": log.length,
        "held": log.data_bits.count(0, log.length),
        "bytes": log.byte_length,
        "claimed": register.longest_claim,
    }


def wants(register: SparseRegister) -> dict[str, int]:
    """How many chunks are wanted by urgency, how many of them are on their way, and how many readers wait for."""
    counts = {urgency.name.lower(): register.count_wanted(urgency) for urgency in Urgency}
    return counts | {"in_flight": register.count_in_flight, "waited_for": register.waiting}


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


def why(drive: Drive, swarm: Swarm | None, first: int, stop: int) -> dict[str, Any]:
    """What keeps chunks ``first .. stop-1`` of the content: which are missing, who has them, who was asked.

    Ranges are ``[first, stop]``. Raises NotFound if there is no content yet.
    """
    content = drive.content
    if content is None:
        raise NotFound("the drive's header is not here yet, so nothing is known of its files")
    stop = min(stop, max(first, content.register.length, content.longest_claim or 0))
    missing = _ranges(index for index in range(first, stop) if not content.register.has(index))
    report = swarm.report() if swarm is not None else SwarmReport()
    told = [] if swarm is None else swarm.holders(content)
    hopeless = content.source.hopeless(content)
    return {
        "protocol": PROTOCOL,
        "chunks": stop - first,
        "missing": missing,
        "readers_wait_for": _ranges(index for index in _each(missing) if content.is_needed(index)),
        "peers": [
            {
                "address": holder.address,
                "has": _ranges(index for index in _each(missing) if _has(holder.held, index)),
                "asked_for": _ranges(index for index in _each(missing) if index in holder.asked),
            }
            for holder in told
        ],
        "not_connected": [
            {"address": peer.address, "state": peer.state.value, "error": peer.error or None}
            for peer in report.peers
            if peer.connected is None
        ],
        "looking": [{"name": way.name, "problem": way.problem} for way in report.ways],
        "hopeless": str(hopeless) if hopeless is not None else None,
    }


def _has(held: Bitfield, index: int) -> bool:
    return held.get(index)


def _each(ranges: Sequence[Sequence[int]]) -> Iterable[int]:
    return (index for first, stop in ranges for index in range(first, stop))


def _ranges(indices: Iterable[int]) -> list[list[int]]:
    """Ascending indices as ``[first, stop]``; the first thousand ranges."""
    ranges: list[list[int]] = []
    for index in indices:
        if ranges and ranges[-1][1] == index:
            ranges[-1][1] = index + 1
        elif len(ranges) == RANGES_MOST:
            break
        else:
            ranges.append([index, index + 1])
    return ranges
