"""The status of a folder with a drive in it: what is staged, and what differs from the drive."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datfs.cli.interrupts import interruptible
from datfs.cli.output import count, path_text, print_json, write_name
from datfs.cli.progress import Progress
from datfs.folder.committing import now_ms
from datfs.folder.compare import Change, Comparison, Kind, LeftOut
from datfs.folder.looking import Look, look_into
from datfs.folder.place import drive_folder
from datfs.link import discovery_key
from datfs.metadata import Path as DrivePath
from datfs.metadata import name_of
from datfs.text import show_size

HEADINGS = (
    ("staged", "to be committed"),
    ("changed", "changed"),
    ("untracked", "not in the drive"),
    ("removed", "gone from the folder"),
)


@dataclass(frozen=True, slots=True)
class FolderStatus:
    """What to say. ``staged``: with what a commit would do with them; the others are what it would leave as it is."""

    staged: Sequence[Change]
    changed: Sequence[Change]
    untracked: Sequence[Change]
    removed: Sequence[Change]
    left_out: Sequence[LeftOut]


def show_folder_status(folder: Path, as_json: bool, *, quiet: bool = False) -> None:
    """Prints the status of the drive in a folder, or in one above it. Raises NotADrive, BadStore, OSError."""
    with look_into(drive_folder(folder), now := now_ms()) as look:
        with Progress("comparing", "compared", quiet=quiet) as progress, interruptible(progress) as told:
            found = look.compare(now, told)
        status = sorted_out(look, found)
    if as_json:
        print_json(_facts(look, status))
    else:
        _print(look, status)


def sorted_out(look: Look, found: Comparison) -> FolderStatus:
    """What is staged, and what is not."""
    drops = {path for path in look.staged.drop if _in_drive(look, path)}
    staged = [Change(Kind.REMOVED, path) for path in sorted(drops)]
    staged += [change for change in found.changes if change.path in look.staged.take and change.path not in drops]
    chosen = {change.path for change in staged}
    rest = [change for change in found.changes if change.path not in chosen]
    by_kind = {kind: [change for change in rest if change.kind is kind] for kind in Kind}
    return FolderStatus(staged, by_kind[Kind.CHANGED], by_kind[Kind.NEW], by_kind[Kind.REMOVED], found.left_out)


def _in_drive(look: Look, path: DrivePath) -> bool:
    branch = look.drive.find(path)
    return branch is not None and branch.stat is not None


def _facts(look: Look, status: FolderStatus) -> dict[str, Any]:
    def changes(those: Sequence[Change]) -> list[dict[str, Any]]:
        return [{"path": path_text(one.path), "change": one.kind.value, "size": one.size} for one in those]

    return {
        "link": f"dat://{look.key.hex()}",
        "discovery_key": discovery_key(look.key),
        "folder": str(look.folder),
        "version": look.version,
        "files": look.files,
        "size": look.size,
        "writable": look.why_not is None,
        "why_not_writable": look.why_not,
        **{name: changes(getattr(status, name)) for name, _ in HEADINGS},
        "left_out": [{"path": path_text(one.path), "why": one.why, "failed": one.failed} for one in status.left_out],
    }


def _print(look: Look, status: FolderStatus) -> None:
    print(f"Link:          dat://{look.key.hex()}")
    print(f"Discovery key: {discovery_key(look.key).hex()}")
    print(f"Version:       {look.version}, {count(look.files, 'file')}, {show_size(look.size)}")
    print(f"Writable:      {'yes' if look.why_not is None else 'no: ' + look.why_not}")
    for name, heading in HEADINGS:
        changes: Sequence[Change] = getattr(status, name)
        if changes:
            print(f"\n{heading}:")
        for one in changes:
            write_name(name_of(one.path), before=f"  {one.kind.value:8} " if name == "staged" else "  ")
    if status.left_out:
        print("\ncannot be in the drive:")
    for left in status.left_out:
        write_name(name_of(left.path), before="  ", after=f": {left.why}")
    if not any(getattr(status, name) for name, _ in HEADINGS):
        print("\nThe folder is as the drive.")
