"""A reader's folder as the ``dat`` command has it: chunks become the files of the drive (sleep.md sections 7 and 8).

Only one version of each file fits. Chunks are put for the version that :meth:`DatClone.clean` has made room for.
Whoever fetches them is told nothing here, and empty files and directories are never made, as the reference does it.
"""

from __future__ import annotations

import os
import stat as stat_bits
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

from datfs import path_index
from datfs.confined import ConfinedFolder, allowed
from datfs.crypto import leaf_hash
from datfs.dat_content import ClonedContent
from datfs.dat_folder import INNER, OWNER, drive_in, lock, mixed, unlock
from datfs.errors import BadMetadata, NotADrive, ReadOnly
from datfs.metadata import Path as DrivePath
from datfs.metadata import Record, decode_header, decode_record
from datfs.register import Register
from datfs.storage import FileStorage, directory_storage

LATEST = "metadata.latest"
LATEST_BYTES = 8


def open_dat_clone(folder: Path, key: bytes | None = None) -> DatClone:
    """Opens a reader's folder; with ``key`` one is made if it is not there.

    Raises NotADrive, ReadOnly for the folder of a writer, BadStore, StoreLocked, OSError.
    """
    base = folder / INNER
    if key is None:
        drive_in(folder)
    base.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        locked = lock(base, stack)
        if (base / "content.data").exists():
            raise NotADrive(f"{folder}: the content of this drive is in {base / 'content.data'}, not in the files")
        if any((base / name).exists() for name in (OWNER, "metadata.secret_key")):
            raise ReadOnly(f"{folder}: the drive is written here, so nothing is fetched into it")
        metadata = Register.open(directory_storage(base), key=key, prefix="metadata.")
        stack.callback(metadata.close)
        files = ClonedContent(ConfinedFolder(folder), metadata)
        stack.callback(files.close)
        clone = DatClone(base, metadata, files, locked)
        stack.pop_all()
    return clone


class CloneFile(NamedTuple):
    """A file of the version that a folder is for: ``blocks`` chunks from ``first`` on; ``size`` in bytes."""

    path: DrivePath
    first: int
    blocks: int
    size: int

    @property
    def stop(self) -> int:
        """One past the last chunk."""
        return self.first + self.blocks


class Plan(NamedTuple):
    """What :meth:`DatClone.clean` would do: ``gone``: files that are replaced or deleted; ``removed``: those deleted.

    ``put``: files that are new, or new in content.
    """

    version: int
    gone: list[CloneFile]
    removed: list[DrivePath]
    put: list[DrivePath]


class DatClone:
    """A reader's copy of a drive in a folder. ``latest``: the version whose files are, or will be, in the folder."""

    def __init__(self, base: Path, metadata: Register, files: ClonedContent, locked: int) -> None:
        self.metadata = metadata
        self.latest = min(read_latest(base), max(0, metadata.length - 1))
        self._base = base
        self._files = files
        self._lock = locked
        self._content: Register | None = None
        self._umask = os.umask(0o077)
        os.umask(self._umask)
        # Without a version nothing was ever cleaned away, and what is held may be of any.
        files.advance(self.latest or max(0, metadata.length - 1))

    @property
    def content(self) -> Register | None:
        """The content register; None until metadata chunk 0 is here. Raises BadMetadata, BadStore, OSError."""
        if self._content is None and self.metadata.has(0):
            key = decode_header(self.metadata.get(0)).content_key
            if key == self.metadata.key:
                raise BadMetadata("the drive's header names the drive itself as its content")
            self._content = Register.open(mixed(self._base, self._files), key=key, prefix="content.")
        return self._content

    def clean(self, version: int | None = None) -> int:
        """Makes room for a version (default: the newest), and returns it: its chunks can be put from then on.

        Forgets the chunks, and removes the files, of all that was replaced or deleted since :attr:`latest`, which is
        then written (sleep.md section 8, steps 1 to 3). A file of which nothing was fetched is not the drive's and
        stays. A crash in between leaves the rest to the next time, or at worst a file that no chunk is held of. Raises
        ChunkMissing, with nothing changed, if metadata are needed that are not here; BadMetadata, OSError.
        """
        content = self.content
        if content is None:
            return self.latest
        plan = self.plan(version)
        if plan.version <= self.latest:
            return self.latest
        gone = [file for file in plan.gone if content.data_bits.next_set(file.first, file.stop) is not None]
        self.metadata.flush()  # the version must not be there before its entries are
        for first, stop in _joined((file.first, file.stop) for file in gone):
            content.clear(first, stop)
        for file in gone:
            self._files.remove(file.path)
        write_latest(self._base, plan.version)
        self._files.advance(plan.version)
        self.latest = plan.version
        return plan.version

    def plan(self, version: int | None = None) -> Plan:
        """What :meth:`clean` would do for a version (default: the newest). Raises as it does, and changes nothing."""
        newest = max(0, self.metadata.length - 1)
        version = newest if version is None else min(version, newest)
        if version <= self.latest:
            return Plan(self.latest, [], [], [])
        changes = path_index.run(path_index.diff(self._record, self.latest, version))
        put = [change.path for change in changes if change.kind == "put" and change.path]
        kept = set(put)
        gone = [
            CloneFile(change.path, stat.offset, stat.blocks, stat.size)
            for change in changes
            if change.kind == "del" and (stat := change.record.stat) is not None
        ]
        return Plan(version, gone, [file.path for file in gone if file.path not in kept], put)

    def in_the_way(self, plan: Plan, wanted: Callable[[DrivePath], bool]) -> list[DrivePath]:
        """Paths that the plan would overwrite or remove though the drive did not put there what is there now.

        ``wanted``: whether the file of a path is to be fetched. Files that were fetched whole are hashed. Raises
        OSError.
        """
        ours = {file.path for file in plan.gone}
        blocking = [file.path for file in plan.gone if wanted(file.path) and self._was_changed(file)]
        for path in plan.put:
            if path in ours or not wanted(path) or not allowed(path):
                continue
            if any(path[:depth] in ours for depth in range(1, len(path))):
                continue  # a file of the drive becomes a folder
            found = self._files.look(path)
            if found is not None and not (stat_bits.S_ISDIR(found.st_mode) and self._gives_way(path, ours)):
                blocking.append(path)
        return blocking

    def _gives_way(self, path: DrivePath, ours: set[DrivePath]) -> bool:
        """Whether a folder where a file comes holds only files of the drive, which go."""
        below = {at[len(path)] for at in ours if at[: len(path)] == path}
        return bool(below) and set(self._files.folder.names(path)) <= below

    def _was_changed(self, file: CloneFile) -> bool:
        content = self.content
        if content is None or not file.blocks or not content.has_range(file.first, file.stop):
            return False  # nothing of it, or a part that we wrote ourselves
        found = self._files.look(file.path)
        if found is None:
            return False
        if not stat_bits.S_ISREG(found.st_mode) or found.st_size != file.size:
            return True
        for index in range(file.first, file.stop):
            node = content.node(2 * index)
            if node is None or leaf_hash(content.get(index)) != node.hash:
                return True
        return False

    def files(self) -> list[CloneFile]:
        """Every file of :attr:`latest` that may be in the folder, those without bytes too, in order of their chunks."""
        if not self.latest:
            return []
        found = [CloneFile(path, stat.offset, stat.blocks, stat.size) for path, stat in self._files.stats.items()]
        return sorted(found, key=attrgetter("first", "path"))

    def is_here(self, file: CloneFile) -> bool:
        """Whether a file need not be fetched. Raises OSError.

        One that a person removed is to be fetched again, one that a person changed is not.
        """
        content = self.content
        found = self._files.look(file.path)
        if not file.size:
            return found is not None
        if content is None or not content.has_range(file.first, file.stop):
            return False
        if found is None:
            content.clear(file.first, file.stop)
        return found is not None

    def finish(self, files: Iterable[CloneFile]) -> None:
        """Makes files that have no bytes, and gives all of them the drive's times and permissions. Raises OSError."""
        for file in files:
            self._files.finish(file.path, self._files.stats[file.path], self._umask)

    def wanted(self) -> list[tuple[int, int]]:
        """Chunks ``first .. stop-1`` of each file of :attr:`latest` that is not here whole, by its entry."""
        content = self.content
        if content is None or not self.latest:
            return []
        return [(first, stop) for first, stop in self._files.chunks() if not content.has_range(first, stop)]

    def flush(self) -> None:
        """Makes everything durable that was put."""
        for register in (self.metadata, self._content):
            if register is not None:
                register.flush()

    def close(self) -> None:
        """Flushes and closes everything, and lets others have the folder."""
        with ExitStack() as stack:
            stack.callback(unlock, self._lock)
            stack.callback(self._files.close)
            stack.callback(self.metadata.close)
            if self._content is not None:
                stack.callback(self._content.close)
        self._lock = -1

    def _record(self, seq: int) -> Record:
        return decode_record(seq, self.metadata.get(seq))


def read_latest(base: Path) -> int:
    """The version in ``metadata.latest``; 0 if the file is missing or short (sleep.md section 7). Raises OSError."""
    with closing(FileStorage(base / LATEST, read_only=True)) as file:
        data = file.read(0, LATEST_BYTES)
    return int.from_bytes(data, "big") if len(data) == LATEST_BYTES else 0


def write_latest(base: Path, version: int) -> None:
    """Writes ``metadata.latest``, durably. Raises OSError."""
    with closing(FileStorage(base / LATEST)) as file:
        file.write(0, version.to_bytes(LATEST_BYTES, "big"))
        file.sync()


def _joined(ranges: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The ranges in order, those that touch as one: each that is cleared costs a flush."""
    first = stop = 0
    for begin, end in sorted(ranges):
        if begin > stop:
            yield first, stop
            first = begin
        stop = max(stop, end)
    yield first, stop
