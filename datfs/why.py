"""Why what is at a path does not come: which chunks are missing, who has them, who was asked, what failed.

Of facts that others own. Values are those of JSON (docs/json.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import trio

from datfs.activity import Activity, Failure, Located
from datfs.bitfield import Bitfield
from datfs.drive import Drive
from datfs.errors import DatfsError, FormatError, NotFound, Unavailable
from datfs.net.report import SwarmReport
from datfs.net.swarm import Swarm
from datfs.sparse import SparseRegister
from datfs.status import PROTOCOL

LOOKUP_SECONDS = 1.5  # for a path to be found; if it takes longer, that is the answer
RANGES_MOST = 1000

Range = tuple[int, int]
Networked = tuple[Drive, Swarm | None]


async def why_path(
    path: object, activity: Activity | None, drives: Callable[[], Sequence[Networked]]
) -> dict[str, Any]:
    """The answer for a path below a mount. ``drives``: those that are mounted.

    Of a file: its chunks. Of a directory, and of what cannot be looked up: the chunks of the metadata that readers wait
    for. Raises FormatError for what is no path, NotFound, OSError, and other DatfsErrors of the lookup.
    """
    if not isinstance(path, str):
        raise FormatError("'why' needs a path")
    if activity is None:
        raise FormatError("the drive is not mounted, and only a mount knows paths")
    name = path.encode("utf-8", "surrogateescape")
    found: list[Located | Exception] = []
    done = trio.Event()

    async def look() -> None:
        try:
            found.append(await activity.locate(name))
        except (DatfsError, OSError) as error:
            found.append(error)
        done.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(look)
        with trio.move_on_after(LOOKUP_SECONDS):
            await done.wait()
        # Before the lookup is given up, for it tells what it waits for.
        lookup = _why_lookup(drives())
        nursery.cancel_scope.cancel()
    result = found[0] if found else None
    if isinstance(result, Exception) and not isinstance(result, Unavailable):
        raise result
    failure = _failure(activity.failure(name, result.entry if isinstance(result, Located) else None))
    if isinstance(result, Located) and result.chunks is not None:
        for drive, swarm in drives():
            if result.key in (None, drive.key):
                return why_file(drive, swarm, *result.chunks) | {"availability": result.availability} | failure
        raise NotFound("the drive was closed just now")
    return lookup | {"hopeless": str(result) if isinstance(result, Unavailable) else lookup["hopeless"]} | failure


def _failure(last: Failure | None) -> dict[str, Any]:
    """What went wrong when a program asked last."""
    told = {"error": last.error, "seconds_ago": round(last.ago, 1), "in_vain": round(last.in_vain, 1)} if last else None
    return {"failure": told}


def why_file(drive: Drive, swarm: Swarm | None, first: int, stop: int) -> dict[str, Any]:
    """What keeps a file that is chunks ``first .. stop-1`` of the content. Raises NotFound without any content."""
    content = drive.content
    if content is None:
        raise NotFound("the drive's header is not here yet, so nothing is known of its files")
    return why(content, swarm, [(first, stop)], stop)


def _why_lookup(drives: Sequence[Networked]) -> dict[str, Any]:
    """What keeps paths from being looked up: the chunks that readers need, of the drive where most are needed."""
    if not drives:
        raise NotFound("no drive is open yet: one is looked for, and nobody has told anything of it")
    drive, swarm = max(drives, key=lambda one: len(one[0].metadata.wants.needed))
    needed = drive.metadata.wants.needed
    return why(drive.metadata, swarm, [(index, index + 1) for index in needed], max(needed, default=-1) + 1)


def why(sparse: SparseRegister, swarm: Swarm | None, wanted: Sequence[Range], stop: int) -> dict[str, Any]:
    """What keeps chunks of a register: which are missing, who has them, who was asked, what failed.

    ``wanted``: ascending ranges ``(first, stop)``; what is beyond ``stop`` is not looked at. Of the missing ranges the
    first thousand are told, and of all how many chunks they are.
    """
    log = sparse.register
    wanted = [(first, min(end, stop)) for first, end in wanted if first < stop]
    chunks = sum(end - first for first, end in wanted)
    missing = list(islice(_clear(log.data_bits, wanted), RANGES_MOST))
    report = swarm.report() if swarm is not None else SwarmReport()
    hopeless = sparse.hopeless() if missing else None
    return {
        "protocol": PROTOCOL,
        "register": sparse.name,
        "chunks": chunks,
        "missing_chunks": chunks - sum(log.data_bits.count(first, end) for first, end in wanted),
        "missing": missing,
        "readers_wait_for": _among(sparse.wants.needed, missing),
        "peers": [
            {
                "address": holder.address,
                "has": list(islice(_set(holder.held, missing), RANGES_MOST)),
                "asked_for": _among(sorted(holder.asked), missing),
                "waiting": round(holder.waiting, 1) if holder.waiting is not None else None,
                "late": _among(sorted(holder.late), missing),
                "error": holder.error or None,
            }
            for holder in (swarm.holders(sparse) if swarm is not None else ())
        ],
        "not_connected": [
            {"address": peer.address, "state": peer.state.value, "error": peer.error or None}
            for peer in report.peers
            if peer.connected is None
        ],
        "looking": [{"name": way.name, "problem": way.problem} for way in report.ways],
        "hopeless": str(hopeless) if hopeless is not None else None,
        "availability": None,
        "failure": None,
    }


def _clear(bits: Bitfield, ranges: Iterable[Range]) -> Iterator[Range]:
    """The parts of the ranges whose bits are clear; those of neighbouring ranges joined."""
    last: Range | None = None
    for at, stop in ranges:
        while (first := bits.next_clear(at, stop)) is not None:
            at = bits.next_set(first, stop) or stop
            if last is not None and last[1] == first:
                last = (last[0], at)
                continue
            if last is not None:
                yield last
            last = (first, at)
    if last is not None:
        yield last


def _set(bits: Bitfield, ranges: Iterable[Range]) -> Iterator[Range]:
    for at, stop in ranges:
        while (first := bits.next_set(at, stop)) is not None:
            at = bits.next_clear(first, stop) or stop
            yield first, at


def _among(indices: Sequence[int], ranges: Sequence[Range]) -> list[Range]:
    """Those of the ascending indices that lie in the ascending ranges, as ranges."""
    found: list[Range] = []
    following = iter(ranges)
    first, stop = next(following, (0, 0))
    for index in indices:
        while stop <= index and stop:
            first, stop = next(following, (0, 0))
        if not first <= index < stop:
            continue
        if found and found[-1][1] == index:
            found[-1] = (found[-1][0], index + 1)
        else:
            found.append((index, index + 1))
    return found
