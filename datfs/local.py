"""The registers of a drive that is on this machine, opened alone: no network, no event loop, no header needed.

For looking at what is stored (``datfs verify``, ``datfs debug``). :mod:`datfs.client` opens drives for reading them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from datfs.errors import DatfsError, NotADrive
from datfs.link import Link
from datfs.metadata import decode_header
from datfs.register import Register
from datfs.storage import directory_storage
from datfs.store import Store, cache_folder, cache_store, cache_view, closed_with, folder_store
from datfs.working_files import WorkingFiles, working_content


@dataclass(slots=True)
class LocalDrive:
    """What a folder or the cache holds.

    ``cached``: the folder is ours and can be fetched again. ``registers``: by name ("metadata", "content"; "register"
    for a folder with only one). ``failures``: those that cannot be opened, and why. ``files``: the files that are the
    content, if the folder is of that layout.
    """

    folder: Path
    cached: bool
    read_only: bool
    registers: dict[str, Register] = field(default_factory=dict)
    failures: dict[str, DatfsError] = field(default_factory=dict)
    files: WorkingFiles | None = None


@contextmanager
def open_local(place: Link | Path, cache_dir: Path, *, own: bool = False, write: bool = False) -> Iterator[LocalDrive]:
    """Opens what is stored of a drive. ``own``: no other process may have the cache. ``write``: chunks can be cleared.

    A folder may also hold a single register (``key``, ``tree``, ...). Folders are opened read-only whatever is asked.
    Raises NotADrive, StoreLocked, OSError.
    """
    with ExitStack() as stack:
        if isinstance(place, Link):
            folder = cache_folder(place.key, cache_dir)
            if not (folder / "metadata.key").exists():
                raise NotADrive(f"nothing of this drive is in the cache ({folder}): give a folder, or fetch it first")
            store = cache_view(place.key, cache_dir)
            if own:
                owned = stack.enter_context(cache_store(place.key, cache_dir))
                store = owned if write else store
            drive = LocalDrive(folder, True, store.read_only)
            _open_drive(store, drive, stack, place.key)
        elif (place / "key").exists():
            drive = LocalDrive(place, False, True)
            store = closed_with(Store(directory_storage(place, read_only=True), "", "", True, folder=place), stack)
            _try_open(drive, stack, "register", lambda: _plain(store, ""))
        else:
            store = folder_store(place)
            drive = LocalDrive(store.folder or place, False, True)
            _open_drive(store, drive, stack, None)
        yield drive


def _open_drive(store: Store, drive: LocalDrive, stack: ExitStack, key: bytes | None) -> None:
    store = closed_with(store, stack)
    metadata = _try_open(drive, stack, "metadata", lambda: _plain(store, store.metadata_prefix, key))
    content_key = None
    if not store.open_storage(store.content_prefix + "key").size():
        content_key = _key_in_header(metadata)
        if content_key is None:
            return  # nothing of the content was ever here
    if store.working is None or metadata is None:
        _try_open(drive, stack, "content", lambda: _plain(store, store.content_prefix, content_key))
        return

    def open_working() -> Register:
        register, drive.files = working_content(store, metadata, content_key)
        return register

    _try_open(drive, stack, "content", open_working)


def _plain(store: Store, prefix: str, key: bytes | None = None) -> Register:
    return Register.open(store.open_storage, key=key, read_only=store.read_only, prefix=prefix)


def _try_open(drive: LocalDrive, stack: ExitStack, name: str, open_it: Callable[[], Register]) -> Register | None:
    try:
        register = open_it()
    except DatfsError as error:
        drive.failures[name] = error
        return None
    stack.callback(register.close)
    drive.registers[name] = register
    return register


def _key_in_header(metadata: Register | None) -> bytes | None:
    if metadata is None or not metadata.has(0):
        return None
    try:
        return decode_header(metadata.get(0)).content_key
    except DatfsError:
        return None  # the audit of the metadata says what is wrong with it
