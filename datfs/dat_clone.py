"""A reader's folder as the ``dat`` command has it: chunks become the files of the drive (sleep.md sections 7 and 8).

Only one version of each file fits. Chunks are put for the version that :meth:`DatClone.clean` has made room for.
Whoever fetches them is told nothing here, and empty files and directories are never made, as the reference does it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

from datfs import path_index
from datfs.confined import ConfinedFolder
from datfs.dat_content import ClonedContent
from datfs.dat_folder import INNER, OWNER, drive_in, lock, mixed, unlock
from datfs.errors import BadMetadata, NotADrive, ReadOnly
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


class DatClone:
    """A reader's copy of a drive in a folder. ``latest``: the version whose files are, or will be, in the folder."""

    def __init__(self, base: Path, metadata: Register, files: ClonedContent, locked: int) -> None:
        self.metadata = metadata
        self.latest = min(read_latest(base), max(0, metadata.length - 1))
        self._base = base
        self._files = files
        self._lock = locked
        self._content: Register | None = None
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
        newest = max(0, self.metadata.length - 1)
        version = newest if version is None else min(version, newest)
        content = self.content
        if version <= self.latest or content is None:
            return self.latest
        changes = path_index.run(path_index.diff(self._record, self.latest, version))
        gone = [
            (change.path, stat.offset, stat.offset + stat.blocks)
            for change in changes
            if change.kind == "del"
            and (stat := change.record.stat) is not None
            and content.data_bits.next_set(stat.offset, stat.offset + stat.blocks) is not None
        ]
        self.metadata.flush()  # the version must not be there before its entries are
        for first, stop in _joined((first, stop) for _, first, stop in gone):
            content.clear(first, stop)
        for path, _, _ in gone:
            self._files.remove(path)
        write_latest(self._base, version)
        self._files.advance(version)
        self.latest = version
        return version

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
