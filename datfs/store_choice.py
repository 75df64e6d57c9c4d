"""Which store a drive is opened with: the cache, memory, or memory and the process that owns the cache as a peer."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import trio

from datfs import local_sockets
from datfs.errors import StoreLocked
from datfs.local_service import ALIVE, ask
from datfs.local_sockets import PEER_NAME, STATUS_NAME
from datfs.net.discovery.owner import Owner
from datfs.store import Store, cache_folder, cache_store, cache_view, memory_store

ALIVE_SECONDS = 1.5  # for an owner to answer: one that was stopped or hangs brings nothing
COMING_SECONDS = 1.0  # for an owner that just begins or ends, and has no socket but the lock
PAUSE = 0.05


async def choose_store(
    key: bytes, cache_dir: Path, stack: ExitStack, notice: Callable[[str], None], *, share: bool, alone: bool
) -> tuple[Store, Owner | None]:
    """The cache of a drive, owned until ``stack`` ends; or, if another process owns it, memory and that process.

    ``share``: False to raise StoreLocked then. An owner that does not answer leaves what it has written, to look into,
    if we are ``alone``: if there are no other peers to ask. Raises StoreLocked, OSError.
    """
    give_up = trio.current_time() + COMING_SECONDS
    folder = cache_folder(key, cache_dir)
    while True:
        try:
            return stack.enter_context(cache_store(key, cache_dir)), None
        except StoreLocked as error:
            if not share:
                raise
            locked = error
        if await _answers(folder):
            return memory_store(), Owner(folder, locked.pid)
        if trio.current_time() >= give_up:
            break
        await trio.sleep(PAUSE)
    owner = f"the cache is in use by process {locked.pid or '(unknown)'}, which does not answer"
    if alone:
        notice(f"{owner}; showing what it has written so far")
        return cache_view(key, cache_dir), None
    notice(f"{owner}; fetching into memory instead")
    return memory_store(), None


async def _answers(folder: Path) -> bool:
    if not local_sockets.answers(folder, PEER_NAME):
        return False
    try:
        return "error" not in await ask((folder, STATUS_NAME), ALIVE, seconds=ALIVE_SECONDS)
    except (OSError, trio.TooSlowError, trio.BrokenResourceError, ValueError):
        return False
