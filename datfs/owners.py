"""Finding the processes that have drives open on this machine, and asking them.

By a store in the cache, or by a mount. Everything here ends within seconds, also when a process hangs or is dead.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from datfs import local_sockets, mountpoints
from datfs.link import Link
from datfs.local_service import Place, ask
from datfs.local_sockets import STATUS_NAME
from datfs.mountpoints import Mount
from datfs.store import cache_folder

FAILURES = (OSError, trio.TooSlowError, trio.BrokenResourceError, ValueError)
"""What :func:`datfs.local_service.ask` raises when nobody answers."""

PROBE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class MountFacts:
    """A mount of ours. ``state``: "alive", "dead" (its process has ended) or "hung" (it does not answer).

    ``status``: what its process tells, None if that is not for us or nobody answers.
    """

    mount: Mount
    state: str
    status: dict[str, Any] | None


def place_of_link(link: Link, cache_dir: Path) -> Place:
    """Where the owner of a drive in the cache answers."""
    return cache_folder(link.key, cache_dir), STATUS_NAME


def mount_of(path: Path) -> Mount | None:
    """The mount of ours that a path is on, without touching the path's end, which may hang."""
    absolute = os.path.abspath(path)
    own = mountpoints.resolve(absolute)
    for candidate in (own, absolute):
        at = candidate
        while True:
            mount = mountpoints.mount_at(at)
            if mount is not None:
                return mount if mount.type == mountpoints.OUR_TYPE else None
            if at == "/":
                break
            at = os.path.dirname(at)
    return None


def place_of_mount(mount: Mount) -> Place:
    """Where the process of a mount answers."""
    return local_sockets.mount_socket(mount.device)


async def all_statuses(cache_dir: Path) -> list[dict[str, Any]]:
    """What every process tells that has a drive open: owners of stores in the cache, and our mounts."""
    places = [place_of_mount(mount) for mount in _ours()] + _stores(cache_dir)
    answers: dict[tuple[int, str], dict[str, Any]] = {}
    found: list[dict[str, Any] | None] = [None] * len(places)

    async def one(number: int) -> None:
        try:
            found[number] = await ask(places[number], "status")
        except FAILURES:
            found[number] = None

    async with trio.open_nursery() as nursery:
        for number in range(len(places)):
            nursery.start_soon(one, number)
    for answer in found:
        if answer is not None and "pid" in answer:
            for drive in drives_of(answer):
                answers.setdefault((drive["pid"], drive["link"]), drive)
    return list(answers.values())


def drives_of(answer: dict[str, Any]) -> list[dict[str, Any]]:
    """The statuses of the drives in an answer, which is one, or that of a mount of all drives."""
    drives: list[dict[str, Any]] = answer.get("drives", [answer])
    return drives


async def all_mounts() -> list[MountFacts]:
    """Every mount of ours in this mount namespace, dead ones and those that hang included."""
    mounts = _ours()
    found: list[MountFacts | None] = [None] * len(mounts)

    async def one(number: int) -> None:
        found[number] = await _facts(mounts[number])

    async with trio.open_nursery() as nursery:
        for number in range(len(mounts)):
            nursery.start_soon(one, number)
    return [facts for facts in found if facts is not None]


async def _facts(mount: Mount) -> MountFacts:
    try:
        return MountFacts(mount, "alive", await ask(place_of_mount(mount), "status"))
    except FAILURES:
        pass
    state = "hung"
    with trio.move_on_after(PROBE_SECONDS):
        # A mount that hangs keeps the thread; it is left behind.
        dead = await trio.to_thread.run_sync(mountpoints.is_dead, mount, abandon_on_cancel=True)
        state = "dead" if dead else "alive"
    return MountFacts(mount, state, None)


def _stores(cache_dir: Path) -> list[Place]:
    """The stores in the cache whose owner answers, or was killed."""
    folders = sorted(cache_dir.iterdir()) if cache_dir.is_dir() else []
    return [(folder, STATUS_NAME) for folder in folders if (folder / STATUS_NAME).exists()]


def _ours() -> list[Mount]:
    return [mount for mount in mountpoints.mounts() if mount.type == mountpoints.OUR_TYPE]
