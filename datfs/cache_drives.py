"""The drives in a cache folder: what they are, and giving up chunks of those that no process has open.

Owns nothing for longer than a call: the lock of a store is taken for a moment (:func:`datfs.store.owned_briefly`), and
whoever opens the drive meanwhile waits that long. Looking (:func:`facts_of`) takes no lock and changes nothing.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from datfs import path_index, pins
from datfs.chunk_uses import SECOND, ChunkUses
from datfs.crypto import leaf_hash
from datfs.errors import DatfsError, StoreLocked
from datfs.link import KEY_BYTES
from datfs.metadata import Path as DrivePath
from datfs.metadata import Record, decode_record
from datfs.pins import PinnedChunks
from datfs.register import Register
from datfs.room import space_of, stores_in
from datfs.storage import directory_storage
from datfs.store import owned_briefly, owner_of

log = logging.getLogger(__name__)

NEVER = 1 << 62  # later than any time in microseconds: nothing of the drive can be given up
UNSETTLED_NAME = "unsettled"  # there while a process fills the store
TITLE_FILE = (b"dat.json",)
TITLE_MOST = 200  # characters
TITLE_FILE_MOST = 64 * 1024  # bytes


@dataclass(frozen=True, slots=True)
class DriveFacts:
    """What is known of a drive in the cache without opening it.

    ``key``: None if the folder does not say. ``owner``: the process that has it open, 0 if it does not say which it is,
    None if none has. ``last_used``: seconds since 1970. ``space``: bytes of disk, ``files_space`` those of chunks of
    files. ``title``, ``version``: None if they are not known. ``own``: we can write it. ``error``: what cannot be read.
    """

    folder: Path
    key: bytes | None
    owner: int | None
    space: int
    files_space: int
    last_used: float
    pins: tuple[DrivePath, ...] = ()
    own: bool = False
    version: int | None = None
    title: str | None = None
    chunks_held: int = 0
    chunks: int = 0
    error: str | None = None


def is_own(folder: Path) -> bool:
    """Whether a secret key lies in the store: chunks of our own drives may be the only ones there are."""
    return any((folder / f"{name}.secret_key").exists() for name in ("metadata", "content"))


def key_of(folder: Path) -> bytes | None:
    """The key of the drive in a store."""
    try:
        key = (folder / "metadata.key").read_bytes()
    except OSError:
        return None
    return key if len(key) == KEY_BYTES else None


def facts_of(folder: Path) -> DriveFacts:
    """Looks at one store. Never raises but for a folder that cannot be read at all (OSError)."""
    files_space, last_used = 0, folder.stat().st_mtime
    with contextlib.suppress(OSError):
        found = (folder / "content.data").stat()
        files_space, last_used = found.st_blocks * 512, found.st_mtime
    more: dict[str, Any] = {}
    try:
        more["pins"] = tuple(pins.load(folder))
        with _registers(folder, read_only=True) as (metadata, content):
            more |= _contents(metadata, content)
            if content is not None:
                used = ChunkUses.load(folder).newest(content.data_bits)
                last_used = used / SECOND if used else last_used
    except (DatfsError, OSError) as error:
        more["error"] = str(error)
    return DriveFacts(
        folder=folder,
        key=key_of(folder),
        owner=owner_of(folder),
        space=space_of(folder),
        files_space=files_space,
        last_used=last_used,
        own=is_own(folder),
        **more,
    )


def _contents(metadata: Register, content: Register | None) -> dict[str, Any]:
    if not metadata.length:
        return {}  # its owner has not written it down yet
    found: dict[str, Any] = {"version": metadata.length - 1}
    if content is not None:
        found["chunks"] = content.length
        found["chunks_held"] = content.data_bits.count(0, content.length)
        found["title"] = _title(metadata, content)
    return found


def version_without(folder: Path, path: DrivePath) -> int | None:
    """The newest version that is here, if it is known that nothing is at ``path`` in it. Never raises."""
    with contextlib.suppress(DatfsError, OSError), _registers(folder, read_only=True) as (metadata, _):
        version = metadata.length - 1
        steps = path_index.stat_path(lambda seq: decode_record(seq, metadata.get(seq)), version, path)
        if version > 0 and path_index.run(steps) is None:
            return version
    return None


def _title(metadata: Register, content: Register) -> str | None:
    """What ``dat.json`` says the drive is called, if all of it is here."""

    def record(seq: int) -> Record:
        return decode_record(seq, metadata.get(seq))

    try:
        found = path_index.run(path_index.stat_path(record, metadata.length - 1, TITLE_FILE))
        stat = found.record.stat if found is not None and found.record is not None else None
        if stat is None or not 0 < stat.size <= TITLE_FILE_MOST or stat.blocks > stat.size:
            return None
        data = b""
        for index in range(stat.offset, stat.offset + stat.blocks):
            chunk, node = content.get(index), content.node(2 * index)
            if node is None or node.hash != leaf_hash(chunk):  # its owner may have just cleared it
                return None
            data += chunk
        title = json.loads(data).get("title")
    except (DatfsError, OSError, ValueError, AttributeError, RecursionError):
        return None
    return title[:TITLE_MOST] if isinstance(title, str) else None


@contextmanager
def _registers(folder: Path, *, read_only: bool) -> Iterator[tuple[Register, Register | None]]:
    """Metadata and content of a store; the content is None as long as nothing of it was ever here."""
    with contextlib.ExitStack() as stack:
        files = directory_storage(folder, read_only=read_only)
        opened = []
        for name in ("metadata", "content"):
            if (folder / f"{name}.key").exists() or name == "metadata":
                register = Register.open(files, read_only=read_only, prefix=f"{name}.")
                stack.callback(register.close)
                opened.append(register)
        yield opened[0], opened[1] if len(opened) > 1 else None


# -- after a crash


def begin_to_fill(folder: Path) -> bool:
    """Notes that a process fills the store, until :func:`end_in_order`; whether one that did so before was killed.

    Then there may be space in use that no bit tells of: :meth:`datfs.register.Register.reclaim`. What cannot be noted,
    as the disk is full, is not: the drive can be read all the same.
    """
    try:
        os.close(os.open(folder / UNSETTLED_NAME, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        return True
    except OSError as error:
        log.info("%s: %s", folder, error)
    return False


def end_in_order(folder: Path) -> None:
    """Everything that is stored is noted as held. Raises OSError."""
    (folder / UNSETTLED_NAME).unlink(missing_ok=True)


# -- giving up chunks


def runs_of(indices: Iterable[int]) -> list[tuple[int, int]]:
    """Chunk numbers as ranges ``(first, stop)``, ascending."""
    runs: list[tuple[int, int]] = []
    for index in sorted(indices):
        if runs and runs[-1][1] == index:
            runs[-1] = runs[-1][0], index + 1
        else:
            runs.append((index, index + 1))
    return runs


def prune_store(folder: Path, need: int, older_than: int = NEVER) -> tuple[int, int]:
    """Gives up chunks of files of a store, those used longest ago first, until ``need`` bytes are free.

    ``older_than``: microseconds; chunks used later stay. Returns what came free, and when the oldest of what could
    still be given up was used (:data:`NEVER` if there is none). Raises StoreLocked if a process has it open,
    BadStore, OSError.
    """
    with owned_briefly(folder):
        if is_own(folder):
            return 0, NEVER
        before = space_of(folder)
        with _registers(folder, read_only=False) as (metadata, content):
            if (folder / UNSETTLED_NAME).exists():
                for register in (metadata, content):
                    if register is not None:
                        register.reclaim()
                end_in_order(folder)
            pinned = PinnedChunks(folder, metadata)
            if content is None or pinned.everything:
                return max(0, before - space_of(folder)), NEVER
            uses = ChunkUses.load(folder)
            left = uses.by_age(pinned.others(content.data_bits))
            while left and left[0][0] < older_than and before - space_of(folder) < need:
                gathered, count = 0, 0
                while count < len(left) and left[count][0] < older_than and gathered < need:
                    gathered += content.size_of(left[count][1])
                    count += 1
                content.clear_ranges(runs_of(index for _, index in left[:count]))
                del left[:count]
                uses.changed = True
            uses.save(folder, content.data_bits)
        return max(0, before - space_of(folder)), left[0][0] if left else NEVER


class IdleDrives:
    """The drives in a cache folder besides one, as a source of room. Remembers when each was used last."""

    def __init__(self, cache_dir: Path, besides: Path | None = None) -> None:
        self._cache_dir = cache_dir
        self._besides = besides
        self._oldest: dict[Path, int] = {}

    def forget(self) -> None:
        """Looks at everything again: others may have used what was idle."""
        self._oldest.clear()

    def _oldest_of(self, folder: Path) -> int:
        if owner_of(folder) is not None or is_own(folder):
            return NEVER
        found = ChunkUses.oldest_in(folder)
        return NEVER if found is None else found

    def oldest(self) -> tuple[int, Path | None]:
        """When the chunk was used that is the next to go, and the store it is in."""
        for folder in stores_in(self._cache_dir):
            if folder != self._besides and folder not in self._oldest:
                self._oldest[folder] = self._oldest_of(folder)
        return min(((when, folder) for folder, when in self._oldest.items()), default=(NEVER, None))

    def free(self, need: int, older_than: int = NEVER) -> int:
        """Gives up what was used longest ago, before ``older_than``, until ``need`` bytes are free; says how many"""
        freed = 0
        while freed < need:
            when, folder = self.oldest()
            if folder is None or when >= older_than:
                break
            others = [time for other, time in self._oldest.items() if other != folder]
            try:
                got, left = prune_store(folder, need - freed, min([older_than, *others, NEVER]) + 1)
            except StoreLocked:
                got, left = 0, NEVER
            except (DatfsError, OSError) as error:
                log.warning("%s: nothing of it can be given up: %s", folder, error)
                got, left = 0, NEVER
            freed += got
            if got or left == NEVER or left > when:
                self._oldest[folder] = left
            else:
                self._oldest[folder] = NEVER
        return freed


# -- removing a drive


def remove(folder: Path, *, force: bool = False) -> int:
    """Removes a drive from the cache; returns the bytes that come free.

    Raises StoreLocked while a process has it open, DatfsError if it is pinned or can be written from here; with
    ``force`` pins and owners are overlooked: who has it open goes on with what was there. Raises OSError.
    """
    if is_own(folder):
        raise DatfsError(f"the secret key of this drive is in {folder}: remove the folder yourself if you mean it")
    owner = owner_of(folder)
    if not force and owner is not None:
        raise StoreLocked(f"the drive is in use by process {owner or '(unknown)'}: unmount it, or use --force", owner)
    if not force and pins.load(folder):
        raise DatfsError("the drive is pinned: datfs unpin it first, or use --force")
    space = space_of(folder)
    take_away: Callable[[], None] = partial(shutil.rmtree, folder)
    if owner is not None:
        take_away()
        return space
    with owned_briefly(folder):
        take_away()
    return space
