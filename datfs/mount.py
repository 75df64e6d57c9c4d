"""A mounted drive, or directory of all drives, from opening to the last flush.

Joins the client and FUSE, signals, and the order of the end.

The only module that knows both :mod:`datfs.client` and :mod:`datfs.fuse_mount`.
"""

from __future__ import annotations

import gc
import logging
import signal
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import trio

from datfs import mountpoints
from datfs.client import Notice, OpenDrive, Options, open_drive
from datfs.drive_root import DriveRoot, RootTree
from datfs.errors import MountError, NotADirectory, TimedOut
from datfs.link import Link
from datfs.metadata import path_of
from datfs.mount_options import MountOptions
from datfs.mount_status import Serving, offer_status
from datfs.net.discovery.names import NamedLink
from datfs.status_text import statuses_text
from datfs.store import cached_keys, default_cache_dir
from datfs.time_travel import with_past
from datfs.vfs import FileTree, Kind, Update

log = logging.getLogger(__name__)

CYCLES_AFTER = 10_000  # new objects
HOW_TO_INSTALL = (
    "mounting needs pyfuse3, which is not installed: "
    "apt-get install libfuse3-dev fuse3 pkg-config gcc python3-dev && pip install 'datfs[fuse]'"
    " (datfs ls and datfs cat work without)"
)


def check_fuse() -> None:
    """Raises MountError, with the commands that help, if pyfuse3 is missing or /dev/fuse cannot be used."""
    try:
        import pyfuse3  # noqa: F401  # an extra: everything else works without it
    except ImportError as error:
        raise MountError(f"{HOW_TO_INSTALL} [{error}]" if "pyfuse3" not in str(error) else HOW_TO_INSTALL) from None
    mountpoints.check_device()


async def run(
    target: Link | NamedLink | Path,
    mountpoint: str,
    options: Options,
    mount_options: MountOptions,
    *,
    version: int | None,
    pin: bool,
    ready: Callable[[OpenDrive], None],
    notice: Notice,
) -> None:
    """Mounts a drive and serves it until unmounted, SIGINT or SIGTERM; leaves no mount, and the cache flushed.

    ``version``: an older one. Without, newer versions are shown as they come, unless ``pin``.
    ``ready`` is called when the mount answers. Raises MountError, and as :func:`datfs.client.open_drive` does.
    """
    check_fuse()
    mountpoint = mountpoints.resolve(mountpoint)  # once it is mounted, to look would be to wait for ourselves
    async with open_drive(target, options, notice=notice) as opened:
        if opened.store.folder is not None:
            mountpoints.refuse_inside(str(opened.store.folder), mountpoint, "the folder of the drive's chunks")
        wanted = version if version is not None else opened.link.version
        try:
            with trio.fail_after(options.timeout):
                tree = await opened.drive.checkout(wanted)
                if opened.link.path:
                    root = await tree.find(path_of(opened.link.path))
                    if root.kind is not Kind.DIRECTORY:
                        raise NotADirectory(f"{opened.link.path!r} is a file; only a directory can be mounted")
                    tree = tree.rooted_at(root)
        except trio.TooSlowError:
            raise TimedOut(f"the drive's newest entry did not come within {options.timeout:g} s") from None
        tree.root_facts = opened.facts
        shown = await with_past(opened.drive, tree)
        pinned = wanted is not None or pin
        follows = opened.swarm is not None and not opened.store.read_only
        await _serve(
            shown,
            mountpoint,
            options,
            mount_options,
            ready=lambda: ready(opened),
            on_signal=opened.drive.close,
            status_of=opened.local.status,
            began=partial(offer_status, opened.local, mountpoint),
            before_unmount=opened.shut_down,
            follow=partial(shown.follow, pinned=pinned) if follows else None,
        )


async def run_root(
    mountpoint: str,
    options: Options,
    mount_options: MountOptions,
    *,
    idle: float,
    ready: Callable[[], None],
) -> None:
    """Mounts a directory of all drives, each opened when it is walked into; otherwise as :func:`run`.

    ``idle``: seconds after which a drive that nobody uses is closed.
    """
    check_fuse()
    mountpoint = mountpoints.resolve(mountpoint)
    cache_dir = options.cache_dir or default_cache_dir()
    if not options.memory:
        mountpoints.refuse_inside(str(cache_dir), mountpoint, "the folder of the drives' chunks")
    drives = DriveRoot(options, idle=idle, known_keys=partial(cached_keys, cache_dir))
    async with drives.running():
        await _serve(
            RootTree(drives),
            mountpoint,
            options,
            mount_options,
            ready=ready,
            on_signal=drives.let_readers_go,
            status_of=drives.status,
            began=partial(offer_status, drives, mountpoint),
            before_unmount=drives.shut_down,
            follow=drives.follow,
        )


async def _serve(
    tree: FileTree,
    mountpoint: str,
    options: Options,
    mount_options: MountOptions,
    *,
    ready: Callable[[], None],
    on_signal: Callable[[], None],
    status_of: Callable[[], dict[str, Any]],
    before_unmount: Callable[[], Awaitable[None]],
    follow: Callable[[Callable[[Update], Awaitable[None]]], Awaitable[None]] | None,
    began: Callable[[Serving, tuple[int, int]], None],
) -> None:
    """Serves until unmounted or a signal comes; ``on_signal`` lets readers go before anything is cancelled.

    ``status_of``: what SIGUSR1 writes to the log.
    """
    from datfs.fuse_mount import serve  # needs pyfuse3, an extra

    # What a listing makes is kept and has no cycles: to look for some every 700 objects takes a fifth of its time.
    gc.freeze()
    gc.set_threshold(CYCLES_AFTER)
    stop = trio.Event()
    failed: Exception | None = None
    async with trio.open_nursery() as nursery:
        # Before anything is mounted: a signal that came earlier would leave a dead mount.
        await nursery.start(_signals, on_signal, status_of, stop)
        try:
            await serve(
                tree,
                mountpoint,
                options=mount_options,
                timeout=options.timeout,
                ready=ready,
                stop=stop,
                before_unmount=before_unmount,
                follow=follow,
                began=began,
            )
        except Exception as error:
            failed = error  # raised again outside, so that it does not come wrapped in a group
        nursery.cancel_scope.cancel()
    if failed is not None:
        raise failed


async def _signals(
    on_signal: Callable[[], None],
    status_of: Callable[[], dict[str, Any]],
    stop: trio.Event,
    *,
    task_status: trio.TaskStatus[None],
) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGUSR1) as signals:
        task_status.started()
        async for number in signals:
            if number == signal.SIGUSR1:
                log.warning("status\n%s", statuses_text(status_of()))
                continue
            on_signal()  # readers that wait are answered before anything is cancelled
            stop.set()
