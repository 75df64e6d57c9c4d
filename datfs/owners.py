"""Finding the processes that have drives open on this machine, and asking them.

By a store in the cache, or by a mount. Everything here ends within seconds, also when a process hangs or is dead.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from datfs import local_sockets, mountpoints
from datfs.link import discovery_key
from datfs.local_service import STATUS, Place, ask
from datfs.local_sockets import STATUS_NAME
from datfs.mountpoints import Mount
from datfs.store import cache_folder

FAILURES = (OSError, trio.TooSlowError, trio.BrokenResourceError, ValueError)
"""What :func:`datfs.local_service.ask` raises when nobody answers."""

PROBE_SECONDS = 2.0
MOUNT_MEMBERS = ("mountpoint", "open_handles", "requests_waiting")
LINKS_MOST = 40  # as the kernel


@dataclass(frozen=True, slots=True)
class MountFacts:
    """A mount of ours. ``state``: "alive", "dead" (its process has ended) or "hung" (it does not answer).

    ``status``: what its process tells, None if that is not for us or nobody answers.
    """

    mount: Mount
    state: str
    status: dict[str, Any] | None


def places_of_drive(key: bytes, cache_dir: Path) -> list[Place]:
    """Where processes may answer that have a drive open: the owner of its store first."""
    return [(cache_folder(key, cache_dir), STATUS_NAME), *local_sockets.drive_sockets(discovery_key(key))]


def mount_of(path: Path) -> tuple[Mount, str] | None:
    """The mount of ours that a path is on, and the path below it; None if it is on none.

    Symlinks are followed, but nothing on the mount itself is touched: it may hang.
    """
    points = {mount.point: mount for mount in mountpoints.mounts()}
    parts = deque(os.path.join(os.getcwd(), path).split("/"))
    at, links = "/", 0
    while parts:
        part = parts.popleft()
        if part in ("", "."):
            continue
        if part == "..":
            at = os.path.dirname(at)
            continue
        at = os.path.join(at, part)
        mount = points.get(at)
        if mount is not None and mount.type == mountpoints.OUR_TYPE:
            rest = os.path.normpath("/" + "/".join(parts)).lstrip("/")
            return mount, rest
        try:
            target = os.readlink(at)
        except OSError:
            continue
        links += 1
        if links > LINKS_MOST:
            return None
        at = "/" if target.startswith("/") else os.path.dirname(at)
        parts.extendleft(reversed(target.split("/")))
    return None


def place_of_mount(mount: Mount) -> Place:
    """Where the process of a mount answers."""
    usual, name = local_sockets.mount_socket(mount.device)
    for folder in local_sockets.known_dirs():
        if (folder / name).exists():
            return folder, name
    return usual, name


async def all_statuses(cache_dir: Path, notice: Callable[[str], None]) -> list[dict[str, Any]]:
    """What every process tells that has a drive open: our mounts, owners of stores in the cache, and others.

    ``notice`` is told of those that hang.
    """
    places = [place_of_mount(mount) for mount in _ours()] + _stores(cache_dir) + local_sockets.drive_sockets()
    answers: dict[tuple[int, str], dict[str, Any]] = {}
    found: list[dict[str, Any] | None] = [None] * len(places)

    async def one(number: int) -> None:
        try:
            found[number] = await ask(places[number], STATUS)
        except trio.TooSlowError:
            notice(f"the process behind {Path(*places[number])} does not answer")
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
    """The statuses of the drives in an answer: one; or for a mount of all drives those, each with its own files."""
    if "drives" not in answer:
        return [answer]
    place = {name: answer[name] for name in MOUNT_MEMBERS if name in answer}
    return [
        drive | place | {"files": [file for file in answer.get("files", ()) if file["link"] == drive["link"]]}
        for drive in answer["drives"]
    ]


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
        told = await ask(place_of_mount(mount), STATUS)
        return MountFacts(mount, "alive", told if "error" not in told else None)
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
    return [(path.parent, path.name) for path in sorted(cache_dir.glob(f"*/{STATUS_NAME}"))]


def _ours() -> list[Mount]:
    return [mount for mount in mountpoints.mounts() if mount.type == mountpoints.OUR_TYPE]
