"""Fetching in advance into a store that another process has open: it is asked to, again and again, at its socket.

The other side is :mod:`datfs.orders`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import trio

from datfs.bitfield import Bitfield
from datfs.errors import CacheFull, NoPeers, TimedOut
from datfs.holdings import runs
from datfs.local_service import Place
from datfs.orders import RANGES_MOST
from datfs.owner_wants import AT_ONCE, Ranges, order
from datfs.prefetch import Report, Wanted, Watcher

POLL = 0.3  # seconds


async def report_of_owner(place: Place, files: Sequence[Wanted]) -> Report:
    """What the owner has of these files, also what it has not written to the disk yet.

    Raises Unavailable if it does not answer.
    """
    return _report(files, await _missing(place, files))


async def _missing(place: Place, files: Sequence[Wanted]) -> Ranges:
    return await missing_at_owner(place, [(file.first, file.stop) for file in files if file.stop > file.first])


async def missing_at_owner(place: Place, ranges: Ranges, register: str = "content") -> Ranges:
    """Which of these chunks (none of the ranges is empty) of "content" or "metadata" the owner lacks.

    Raises Unavailable if it does not answer, DatfsError if it cannot tell.
    """
    missing: Ranges = []
    for number in range(0, len(ranges), AT_ONCE):
        part = ranges[number : number + AT_ONCE]
        while part:
            found, _ = await order(place, register, part, look=True)
            missing += found
            part = _beyond(part, found[-1][1]) if len(found) == RANGES_MOST else []
    return missing


def _beyond(ranges: Ranges, stop: int) -> Ranges:
    """What lies behind the last answer, if there was more than fits one."""
    number = next(n for n, (first, last) in enumerate(ranges) if first < stop <= last)
    return [(stop, ranges[number][1]), *ranges[number + 1 :]]


def _report(files: Sequence[Wanted], missing: Ranges) -> Report:
    lacks = Bitfield()
    for first, stop in missing:
        lacks.set_range(first, stop, True)
    result = Report()
    for file in files:
        gone = lacks.count(file.first, file.stop)
        result.files += 1
        result.size += file.size
        result.chunks += file.stop - file.first
        result.chunks_held += file.stop - file.first - gone
        result.size_held += file.size - file.size * gone // max(1, file.stop - file.first)
        if gone:
            result.missing.append(file)
    return result


async def prefetch_by_owner(place: Place, files: Sequence[Wanted], watcher: Watcher, timeout: float) -> Report:
    """As :func:`datfs.prefetch.prefetch`, by the process that has the store open. Raises as that does."""
    missing = await _missing(place, files)
    lacking = _report(files, missing).missing
    before = _report(lacking, missing)
    watcher.start(len(lacking), sum(file.size for file in lacking))

    def came(left: Ranges) -> None:
        nonlocal before
        now = _report(lacking, left)
        watcher.advance(now.size_held - before.size_held)
        watcher.file_done(len(before.missing) - len(now.missing))
        before = now
        if left:
            watcher.file(b"/" + b"/".join(now.missing[0].path))

    await _fetch(place, "content", missing, timeout, came)
    return await report_of_owner(place, files)


async def copy_names_to_owner(place: Place, metadata: Bitfield, timeout: float) -> None:
    """Lets the owner have all the metadata that are in ``metadata``, which was needed to find the files.

    Without them what is fetched could not be found when nobody else is there. Raises as :func:`prefetch_by_owner` does.
    """
    held = list(runs(metadata, 0, (metadata.last_set() or 0) + 1))
    missing = await missing_at_owner(place, held, "metadata")
    await _fetch(place, "metadata", missing, timeout, lambda left: None)


async def _fetch(place: Place, register: str, missing: Ranges, timeout: float, came: Callable[[Ranges], None]) -> None:
    """Has these chunks fetched; ``came`` is told now and then which are missing yet."""
    last, most = trio.current_time(), _count(missing)
    while missing:
        asked, later = missing[:AT_ONCE], missing[AT_ONCE:]
        left, answer = await order(place, register, asked)
        if len(left) == RANGES_MOST:
            later = [*_beyond(asked, left[-1][1]), *later]
        missing = left + later
        if _count(missing) < most:
            last, most = trio.current_time(), _count(missing)
        elif answer["full"]:
            raise CacheFull("the cache has no room for it within the --cache-size of the process that has it open")
        elif answer["hopeless"] is not None:
            raise NoPeers(str(answer["hopeless"]))
        elif trio.current_time() - last > timeout:
            raise TimedOut(f"nothing more came within {timeout:g} s")
        came(missing)
        if missing:
            await trio.sleep(POLL)


def _count(ranges: Ranges) -> int:
    return sum(stop - first for first, stop in ranges)
