"""Writing out files of a version of a drive into a folder: never outside of it, whatever the metadata say.

A file is written beside its place and then renamed, so that what is there is always whole: the old one or the new one.
What is there with other content stays, unless ``force`` is said.
"""

from __future__ import annotations

import os
import stat as stat_bits
from collections.abc import Awaitable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from datfs.confined import ConfinedFolder, allowed
from datfs.drive import DriveTree
from datfs.errors import Conflict
from datfs.metadata import Path as DrivePath
from datfs.text import show_path
from datfs.vfs import Entry, Kind, TreeFile

READ_BYTES = 1 << 20
T = TypeVar("T")


class Told(Protocol):
    """Who is told how far the files are."""

    def start(self, files: int, size: int) -> None:
        """So much there is to do."""
        ...

    def file(self, name: bytes | str) -> None:
        """This file is being written."""
        ...

    def advance(self, size: int) -> None:
        """So many more bytes are there."""
        ...

    def file_done(self, files: int = 1) -> None:
        """So many more files are there."""
        ...


class Waits(Protocol):
    """Who puts a deadline to waits, and says what is waited for."""

    async def wait(self, what: str, work: Awaitable[T]) -> T:
        """The result of ``work``."""
        ...


@dataclass(slots=True)
class Written:
    """``files`` that were written, their ``size`` in bytes, and how many were there already (``same``)."""

    files: int = 0
    size: int = 0
    same: int = 0


async def write_out(
    tree: DriveTree, paths: list[DrivePath], folder: Path, *, force: bool, waits: Waits, told: Told
) -> Written:
    """Writes what is at and below ``paths`` of the drive to the same paths of ``folder``, which is made if need be.

    Raises Conflict if other content is in the way: before the first file is written if that can be told by its size.
    Raises NotFound, Unavailable, BadMetadata, OSError.
    """
    entries = [entry for path in paths for entry in await _below(tree, path, waits)]
    files = [entry for entry in entries if entry.kind is Kind.FILE]
    place = _made(folder)
    try:
        if not force:
            blocking = [entry.path for entry in files if _is_in_the_way(place, entry)]
            if blocking:
                raise Conflict(_conflict(folder, blocking))
        told.start(len(files), sum(entry.size for entry in files))
        written = Written()
        umask = os.umask(0o077)
        os.umask(umask)
        for entry in files:
            told.file(entry.name)
            file = await waits.wait(show_path(entry.path), tree.open(entry))
            try:
                await _write(place, entry, file, umask, force, waits, told, written)
            finally:
                file.close()
            told.file_done()
        return written
    finally:
        place.close()


def _made(folder: Path) -> ConfinedFolder:
    folder.mkdir(parents=True, exist_ok=True)
    return ConfinedFolder(folder)


async def _below(tree: DriveTree, path: DrivePath, waits: Waits) -> list[Entry]:
    """The entry at a path and everything below it that a folder may have."""
    top = await waits.wait(show_path(path), tree.find(path))
    found, pending = [top], [top]
    while pending:
        directory = pending.pop()
        if directory.kind is not Kind.DIRECTORY:
            continue
        for child in await waits.wait(show_path(directory.path), tree.list(directory)):
            if allowed(child.path):
                found.append(child)
                pending.append(child)
    return found


def _is_in_the_way(place: ConfinedFolder, entry: Entry) -> bool:
    """Whether what is there is surely another file; one of the same size is compared when it is written."""
    found = place.look(entry.path)
    return found is not None and (not stat_bits.S_ISREG(found.st_mode) or found.st_size != entry.size)


async def _write(
    place: ConfinedFolder,
    entry: Entry,
    file: TreeFile,
    umask: int,
    force: bool,
    waits: Waits,
    told: Told,
    written: Written,
) -> None:
    if await _is_same(place, entry, file, waits):
        written.same += 1
        told.advance(entry.size)
        return
    if not force and place.look(entry.path) is not None:
        raise Conflict(_conflict(Path(place.name), [entry.path]))
    with place.replacing(entry.path) as fd:
        for offset in range(0, entry.size, READ_BYTES):
            what = f"{show_path(entry.path)} from byte {offset} of {entry.size}"
            data = memoryview(await waits.wait(what, file.read(offset, READ_BYTES)))
            size = len(data)
            while data:
                data = data[os.write(fd, data) :]
            told.advance(size)
        os.fchmod(fd, entry.permissions & 0o777 & ~umask | 0o600)
        os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))
    written.files += 1
    written.size += entry.size


async def _is_same(place: ConfinedFolder, entry: Entry, file: TreeFile, waits: Waits) -> bool:
    found = place.look(entry.path)
    if found is None or not stat_bits.S_ISREG(found.st_mode) or found.st_size != entry.size:
        return False
    fd = place.open_file(entry.path)
    try:
        for offset in range(0, entry.size, READ_BYTES):
            wanted = await waits.wait(show_path(entry.path), file.read(offset, READ_BYTES))
            if os.pread(fd, READ_BYTES, offset) != wanted:
                return False
        return True
    finally:
        os.close(fd)


def _conflict(folder: Path, paths: list[DrivePath]) -> str:
    more = f" and {len(paths) - 5} more" if len(paths) > 5 else ""
    names = ", ".join(show_path(path) for path in paths[:5])
    return (
        f"{folder}: something else is at {names}{more}. Name another folder with -o, move it away,"
        " or give --force to have it overwritten"
    )
