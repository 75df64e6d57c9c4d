"""Where the registers of a drive live on this machine.

Three places: a cache folder of ours, named by the discovery key (the key itself is the right to read, so it never
appears in a path that others can list) and owned by one process at a time; memory; or a folder that another program
made, which is opened read-only in place (sleep.md section 7).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import platformdirs

from datfs.errors import BadLink, NotADrive, StoreLocked
from datfs.link import discovery_key
from datfs.storage import OpenStorage, directory_storage, memory_storage

LOCK_NAME = "lock"


class Layout(Enum):
    """How a folder holds a drive."""

    SLEEP = "metadata.* and content.* with the content's bytes"
    DAT = "made by the dat command: .dat/, and the files themselves are the content"
    PLAIN = "metadata/ and content/, as hyperdrive writes a plain folder"


@dataclass(frozen=True, slots=True)
class Store:
    """Storage for the two registers of a drive, by prefix.

    ``folder``: None in memory. ``working``: the folder whose files are the content (layout DAT), else None.
    """

    open_storage: OpenStorage
    metadata_prefix: str
    content_prefix: str
    read_only: bool
    folder: Path | None = None
    working: Path | None = None


def default_cache_dir() -> Path:
    """``$XDG_CACHE_HOME/datfs``, or the platform's place for such."""
    return platformdirs.user_cache_path("datfs", appauthor=False)


def memory_store() -> Store:
    """A store that is gone with the process."""
    return Store(memory_storage(), "metadata.", "content.", read_only=False)


def cache_folder(key: bytes, cache_dir: Path) -> Path:
    """Where a drive is cached, whether it is there or not."""
    return cache_dir / discovery_key(key).hex()


@contextlib.contextmanager
def cache_store(key: bytes, cache_dir: Path) -> Iterator[Store]:
    """The cache folder of a drive, made if need be, owned until the context ends.

    Raises StoreLocked if another process owns it, OSError if the folder cannot be made.
    """
    folder = cache_folder(key, cache_dir)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _owned(folder):
        yield Store(directory_storage(folder), "metadata.", "content.", read_only=False, folder=folder)


@contextlib.contextmanager
def _owned(folder: Path) -> Iterator[None]:
    path = folder / LOCK_NAME
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            owner = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
            pid = int(owner) if owner.isdecimal() else 0
            raise StoreLocked(
                f"the cache of this drive ({folder}) is in use by process {pid or '(unknown)'}: "
                "use --memory, or another --cache-dir",
                pid,
            ) from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(fd)  # and with it the lock


def folder_store(folder: Path) -> Store:
    """A folder that holds a drive, in any of the layouts, read-only. Raises NotADrive, BadLink."""
    folder = folder.absolute()
    inner = folder / ".dat"
    for base, working in ((inner, folder), (folder, folder.parent if folder.name == ".dat" else None)):
        if (base / "metadata.key").exists():
            in_place = working is not None and not (base / "content.data").exists()
            return Store(
                directory_storage(base, read_only=True),
                "metadata.",
                "content.",
                read_only=True,
                folder=base,
                working=working if in_place else None,
            )
    if (folder / "metadata" / "key").exists():
        return Store(directory_storage(folder, read_only=True), "metadata/", "content/", read_only=True, folder=folder)
    if not folder.exists():
        raise BadLink(f"{folder}: there is no such folder, and it is not a dat:// link either")
    raise NotADrive(
        f"{folder} holds no drive: expected .dat/metadata.key, metadata.key or metadata/key in it"
        " (a dat link is dat:// and 64 hexadecimal digits)"
    )
