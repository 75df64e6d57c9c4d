"""Serving a tree on a mount point from beginning to end: the mount, its tuning, the order of shut-down.

Owns pyfuse3's session, of which a process has one. Does not own signals, networks or stores: those are the
caller's, who ends the mount by setting an event. See fuse.md section 9 and docs/fuse.md.

Nothing here looks at a path under the mount point after mounting: this process would wait for itself.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial

import pyfuse3
import trio

from datfs import fuse_control, fuse_session, mountpoints, programs
from datfs.appearance import Appearance
from datfs.errors import MountError
from datfs.fuse_ops import MAX_TASKS, Operations
from datfs.mount_options import MountOptions
from datfs.vfs import FileTree, Update

log = logging.getLogger(__name__)

# After the waiting requests were ended, their handlers need a few turns of the loop. More than this is a bug.
_ANSWER_SECONDS = 5.0

# Longer than an answer that was written takes to be taken up by the kernel.
_ANSWER_UNDER_WAY = 0.25


Deliver = Callable[[Update], Awaitable[None]]
Follow = Callable[[Deliver], Awaitable[None]]


async def serve(
    tree: FileTree,
    mountpoint: str,
    *,
    options: MountOptions,
    timeout: float,
    ready: Callable[[], None],
    stop: trio.Event,
    before_unmount: Callable[[], Awaitable[None]] | None = None,
    follow: Follow | None = None,
    began: Callable[[Operations, tuple[int, int]], None] | None = None,
) -> None:
    """Mounts ``tree`` and serves it until ``stop`` is set or somebody unmounts it; then nothing is left
    mounted.

    ``timeout``: seconds any request may wait. ``ready`` is called once, when the mount answers.
    ``began``: called once, before it, with what answers and the device of the mount.
    ``follow``: called with where to deliver newer versions of the tree; it runs as long as the mount does.
    ``before_unmount``: called when the last request is answered, with the mount still there: end networks and
    write down state in it.

    If anything else ends it (a bug, or the cancellation of this task) the mount stays and answers errors, as
    it must not turn into an empty folder under a program that copies it; the next mount on the same place
    clears it. Raises MountError if the mount cannot be made.
    """
    mountpoints.check_device()
    point = mountpoints.prepare(mountpoint)
    look = Appearance(uid=options.uid, gid=options.gid, umask=options.umask)
    denied = options.deny_programs
    operations = Operations(
        tree,
        timeout=timeout,
        appearance=look,
        show_facts=options.xattrs,
        is_denied=(lambda pid: programs.is_one_of(pid, denied)) if denied else None,
    )
    mount = _mount(operations, point, options)
    orderly = True
    try:
        await fuse_session.greet(fuse_session.descriptor())
        orderly = False
        async with trio.open_nursery() as nursery:
            if began is not None:
                began(operations, mount.device)
            nursery.start_soon(_announce, operations, mount.device, options, ready)
            nursery.start_soon(_end_when_stopped, operations, stop, nursery.cancel_scope)
            nursery.start_soon(_end_when_detached, operations, mount.device, nursery.cancel_scope)
            nursery.start_soon(operations.watch)
            if follow is not None:
                nursery.start_soon(follow, partial(_update, operations))
            with fuse_session.without_withdrawn(), fuse_session.unblocked(fuse_session.descriptor()):
                await pyfuse3.main(max_tasks=MAX_TASKS)
            nursery.cancel_scope.cancel()
        orderly = True
        operations.close()
        if before_unmount is not None:
            await before_unmount()
    finally:
        operations.let_go()
        # Only if it is our mount that lies on top there: the path is all that libfuse goes by.
        pyfuse3.close(unmount=orderly and _is_on_top(mount, point))
    if _is_on_top(mount, point):
        # An aborted connection is not unmounted by libfuse.
        mountpoints.clear_dead(point)


async def _update(operations: Operations, update: Update) -> None:
    """Shows a newer version: the kernel forgets the names that differ and asks for them again.

    Twice: an answer of ours may have been on its way into the kernel's cache when it was told the first time.
    """
    names, directories = operations.replace(update)
    for pause in (0, _ANSWER_UNDER_WAY):
        await trio.sleep(pause)
        if operations.over:  # whoever tells of changes need not end before the mount
            return
        for number, name in names:
            # The synchronous call would wait for a lock that a lookup of ours may hold.
            pyfuse3.invalidate_entry_async(pyfuse3.InodeT(number), pyfuse3.FileNameT(name), ignore_enoent=True)
        for number in directories:
            try:
                pyfuse3.invalidate_inode(pyfuse3.InodeT(number), attr_only=True)
            except OSError as error:
                if error.errno != errno.ENOENT:  # the kernel may have forgotten it already
                    raise


def _is_on_top(mount: mountpoints.Mount, point: str) -> bool:
    top = mountpoints.mount_at(point)
    return top is not None and top.device == mount.device


async def _announce(
    operations: Operations, device: tuple[int, int], options: MountOptions, ready: Callable[[], None]
) -> None:
    """Tunes the connection, which INIT would undo before it, and tells that the mount answers."""
    await operations.started.wait()
    operations.buffer_incomplete = fuse_control.raise_background_limit(device)
    if options.read_ahead_kb is not None:
        fuse_control.set_read_ahead(device, options.read_ahead_kb)
    ready()


async def _end_when_stopped(operations: Operations, stop: trio.Event, main: trio.CancelScope) -> None:
    await stop.wait()
    await _end(operations, main)


async def _end_when_detached(operations: Operations, device: tuple[int, int], main: trio.CancelScope) -> None:
    """Ends the serving of a mount that was detached or aborted while requests wait.

    pyfuse3 would go on until the last file of a detached mount is closed, and the last wait of an aborted one
    over.
    """
    session = fuse_session.descriptor()
    with _changes(session) as changes:
        while mountpoints.is_mounted(device):
            await trio.lowlevel.wait_readable(changes.fileno())
            if any(fd == session for fd, _ in changes.poll(0)):
                main.cancel()  # nobody is left who could be answered
                return
    await _end(operations, main)


async def _end(operations: Operations, main: trio.CancelScope) -> None:
    # Waiting requests are answered before anything is cancelled: a cancelled handler never answers.
    operations.close()
    pyfuse3.terminate()
    await trio.sleep(_ANSWER_SECONDS)
    log.error("%d requests did not end when they were told to; leaving them", operations.waiting)
    main.cancel()


@contextmanager
def _changes(session: int | None) -> Iterator[select.epoll]:
    """Readable after each change of the mount table, and when the connection of ``session`` was aborted."""
    with open(fuse_control.MOUNTINFO, "rb") as file, select.epoll() as changes:
        # The file itself is always readable; a change shows as an error condition, which epoll reports
        # anyway.
        changes.register(file.fileno(), select.EPOLLPRI)
        if session is not None:
            changes.register(session, 0)  # errors only, among which is the abort; requests are pyfuse3's
        yield changes


def _mount(operations: Operations, point: str, options: MountOptions) -> mountpoints.Mount:
    with _stderr_of_libraries() as said:
        try:
            pyfuse3.init(operations, point, options.for_libfuse())
        except RuntimeError as error:
            failure: RuntimeError | None = error
        else:
            failure = None
    if failure is None:
        mount = mountpoints.mount_at(point)
        if mount is not None and mount.type == mountpoints.OUR_TYPE:
            return mount
        pyfuse3.close(unmount=False)
        raise MountError(f"{point} was unmounted while it was being mounted")
    reason = " ".join(said) or str(failure)
    hint = ""
    if "allow_" in reason:
        hint = "; as root: echo user_allow_other >> /etc/fuse.conf"
    elif "permitted" in reason.lower() or "permission" in reason.lower():
        hint = "; in a container: --device /dev/fuse --cap-add SYS_ADMIN"
    raise MountError(f"{point} cannot be mounted: {reason}{hint}")


@contextmanager
def _stderr_of_libraries() -> Iterator[list[str]]:
    """Gathers what libfuse and fusermount3 write to descriptor 2: the only place where they give reasons."""
    lines: list[str] = []
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with tempfile.TemporaryFile() as file:
            os.dup2(file.fileno(), 2)
            try:
                yield lines
            finally:
                os.dup2(kept, 2)
                file.seek(0)
                lines += file.read().decode(errors="replace").split("\n")
                lines[:] = [line.strip() for line in lines if line.strip()]
    finally:
        os.close(kept)
