"""Where the registers of a drive live on this machine.

Three places: a cache folder of ours, named by the discovery key (the key itself is the right to read, so it never
appears in a path that others can list) and owned by one process at a time; memory; or a folder that another program
made, which is opened read-only in place (sleep.md section 7).
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from datfs.errors import BadLink, BadStore, NotADrive, StoreLocked
from datfs.link import discovery_key
from datfs.storage import OpenStorage, RandomAccess, directory_storage, memory_storage

LOCK_NAME = "lock"
PEERS_NAME = "peers.json"  # addresses that worked; datfs.net.discovery.remembered owns what is in it
BRIEFLY = "briefly"
BRIEF_SECONDS = 2.0  # for so long a process that took the lock for a moment only is waited for
LOOK_SECONDS = 0.05
BRIEF_PAUSE = 0.01


@dataclass(frozen=True, slots=True)
class Store:
    """Storage for the two registers of a drive, by prefix.

    ``folder``: None in memory. ``working``: the folder whose files are the content, else None.
    ``cached``: the folder is in our cache, and can be fetched again.
    """

    open_storage: OpenStorage
    metadata_prefix: str
    content_prefix: str
    read_only: bool
    folder: Path | None = None
    working: Path | None = None
    cached: bool = False


def closed_with(store: Store, stack: contextlib.ExitStack) -> Store:
    """The same store, every file of which is closed with ``stack``: also those of a register that cannot be opened."""

    def open_storage(name: str) -> RandomAccess:
        file = store.open_storage(name)
        stack.callback(file.close)
        return file

    return dataclasses.replace(store, open_storage=open_storage)


def default_cache_dir() -> Path:
    """``$XDG_CACHE_HOME/datfs``, or the platform's place for such. Raises BadStore if the user has no home folder."""
    try:
        return platformdirs.user_cache_path("datfs", appauthor=False)
    except RuntimeError:
        raise BadStore(
            "there is no place for a cache, as this user has no home folder (HOME is not set):"
            " name one with --cache-dir, or with --memory keep nothing"
        ) from None


def memory_store() -> Store:
    """A store that is gone with the process."""
    return Store(memory_storage(), "metadata.", "content.", read_only=False)


def cache_folder(key: bytes, cache_dir: Path) -> Path:
    """Where a drive is cached, whether it is there or not."""
    return cache_dir / discovery_key(key).hex()


def cached_keys(cache_dir: Path) -> list[bytes]:
    """The keys of the drives that are cached; what cannot be read is left out."""
    keys = []
    for folder in cache_dir.glob("[0-9a-f]*"):
        with contextlib.suppress(OSError):
            key = (folder / "metadata.key").read_bytes()
            if cache_folder(key, cache_dir) == folder:
                keys.append(key)
    return keys


@contextlib.contextmanager
def cache_store(key: bytes, cache_dir: Path) -> Iterator[Store]:
    """The cache folder of a drive, made if need be, owned until the context ends.

    Raises StoreLocked if another process owns it, OSError if the folder cannot be made.
    """
    folder = cache_folder(key, cache_dir)
    fd = _own(folder)
    try:
        yield Store(directory_storage(folder), "metadata.", "content.", read_only=False, folder=folder, cached=True)
        _forget_if_empty(folder)
    finally:
        os.close(fd)  # and with it the lock


def cache_view(key: bytes, cache_dir: Path) -> Store:
    """The cache folder of a drive to look into only, whoever owns it; what its owner has not flushed is not seen.

    What is there is what was verified: the owner writes the bits that say so last (``docs/storage.md``).
    """
    folder = cache_folder(key, cache_dir)
    return Store(
        directory_storage(folder, read_only=True), "metadata.", "content.", read_only=True, folder=folder, cached=True
    )


@contextlib.contextmanager
def owned_briefly(folder: Path) -> Iterator[None]:
    """Owns a folder of the cache that is there, for a moment: who wants to open it meanwhile waits that long.

    Raises StoreLocked if another process owns it, OSError.
    """
    if not folder.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder))
    fd = _own(folder, BRIEFLY)
    try:
        yield
    finally:
        os.close(fd)


def owner_of(folder: Path) -> int | None:
    """The process that owns a folder of the cache, 0 if it does not say which it is; None if nobody does."""
    try:
        fd = os.open(folder / LOCK_NAME, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        words = os.pread(fd, 32, 0).decode("ascii", "replace").split()
        return int(words[0]) if words and words[0].isdecimal() else 0
    finally:
        os.close(fd)
    return None


def _own(folder: Path, how: str = "") -> int:
    """Makes the folder and takes its lock; returns the lock's file descriptor. Raises StoreLocked, OSError."""
    path = folder / LOCK_NAME
    started = time.monotonic()
    while True:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            continue  # the previous owner has just removed the folder
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and os.path.samestat(os.fstat(fd), os.stat(path)):
                os.ftruncate(fd, 0)
                os.pwrite(fd, f"{os.getpid()} {how}".rstrip().encode() + b"\n", 0)
                return fd
            os.close(fd)  # the lock of a folder that is gone
        except OSError as error:
            owner = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
            os.close(fd)
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            number, _, manner = owner.partition(" ")
            # Whoever looks whether it is owned has it for an instant too.
            if time.monotonic() < started + (BRIEF_SECONDS if manner == BRIEFLY else LOOK_SECONDS):
                time.sleep(BRIEF_PAUSE)
                continue
            pid = int(number) if number.isdecimal() else 0
            raise StoreLocked(
                f"the cache of this drive ({folder}) is in use by process {pid or '(unknown)'}: "
                "use --memory, or another --cache-dir",
                pid,
            ) from None


def begin_empty(key: bytes, cache_dir: Path) -> Path:
    """The cache folder of a drive, made if need be, of which it can be told which drive it is of. Raises OSError."""
    folder = cache_folder(key, cache_dir)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        fd = os.open(folder / "metadata.key", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(fd, "wb") as file:
            file.write(key)
    return folder


def forget_if_empty(folder: Path) -> None:
    """Removes a cache folder in which nothing of the drive is, and that nobody has open. Raises OSError."""
    with contextlib.suppress(StoreLocked), owned_briefly(folder):
        _forget_if_empty(folder)


def _forget_if_empty(folder: Path) -> None:
    """Leaves nothing of a drive that nobody had, or of a key with a typing mistake in it; pins are wanted."""
    if any((folder / name).exists() for name in ("metadata.data", "content.data", "pins.json")):
        return
    for name in ("uses", "uses.new", "grant", "pins.json.new", "unsettled"):
        (folder / name).unlink(missing_ok=True)
    for name in ("metadata", "content"):
        for part in ("key", "tree", "signatures", "bitfield"):
            (folder / f"{name}.{part}").unlink(missing_ok=True)
    (folder / PEERS_NAME).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # another program keeps a file of its own there
        (folder / LOCK_NAME).unlink()
        folder.rmdir()


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
