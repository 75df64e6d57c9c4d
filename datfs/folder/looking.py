"""What a folder with a drive in it has, against the drive: read-only, and without the secret key."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from datfs import key_files, secret_keys
from datfs.confined import ConfinedFolder
from datfs.dat_folder import OWNER, drive_in
from datfs.errors import BadStore
from datfs.folder.compare import Comparison, Kind, compare
from datfs.folder.ignore import IgnoreRules
from datfs.folder.seen import Seen
from datfs.folder.staged import Staged
from datfs.folder.told import Told
from datfs.folder.tree import Branch, tree_of
from datfs.metadata import Record, decode_header, decode_record
from datfs.register import Register
from datfs.storage import directory_storage
from datfs.store import closed_with, folder_store
from datfs.working_files import working_content


@dataclass(frozen=True, slots=True)
class Look:
    """A folder's drive as it is now. ``why_not``: why nothing can be written, None if it can. ``files``, ``size``: of
    the newest version."""

    folder: Path
    key: bytes
    version: int
    why_not: str | None
    staged: Staged
    drive: Branch
    files: int
    size: int
    seen: Seen

    def compare(self, now: int, told: Told) -> Comparison:
        """What differs. A file that a reader's folder does not hold is no change."""
        self.seen.start(now, told)
        found = compare(self.folder, self.drive, IgnoreRules(self.folder), self.seen.unchanged)
        if self.why_not is not None:
            found.changes = [change for change in found.changes if change.kind is not Kind.REMOVED]
        return found


@contextmanager
def look_into(folder: Path, now: int, *, home: Path | None = None) -> Iterator[Look]:
    """Opens a folder to look at. Raises NotADrive, BadStore, BadMetadata, OSError."""
    base = drive_in(folder)
    with ExitStack() as stack:
        store = closed_with(folder_store(folder), stack)
        metadata = Register.open(store.open_storage, read_only=True, prefix=store.metadata_prefix)
        key = decode_header(metadata.get(0)).content_key if metadata.length and metadata.has(0) else None
        content, _ = working_content(store, metadata, key)
        confined = stack.enter_context(closing(ConfinedFolder(folder)))

        def record(seq: int) -> Record:
            return decode_record(seq, metadata.get(seq))

        version = max(0, metadata.length - 1)
        drive = tree_of(record, version)
        stats = [stat for _, stat in drive.entries() if stat.kind == "file"]
        yield Look(
            folder,
            metadata.key,
            version,
            why_not_writable(base, metadata.key, home),
            Staged(base),
            drive,
            len(stats),
            sum(stat.size for stat in stats),
            Seen(base, confined, content, now),
        )


def why_not_writable(base: Path, key: bytes, home: Path | None = None) -> str | None:
    """Why the drive whose registers are in ``base`` cannot be written here; None if it can."""
    try:
        found = secret_keys.load(key, base / OWNER, home=home)
        storage = directory_storage(base, read_only=True)
        if key_files.secret(storage, "metadata.", key, found, look=True) is not None:
            return None
    except (BadStore, OSError) as error:
        return str(error)
    return "its secret key is not here"
