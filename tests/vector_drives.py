"""The drives that the reference made (vectors/drives), and folders compared before and after."""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from datfs.vfs import Entry, FileTree, Kind

DRIVES = Path(__file__).parent / "vectors" / "drives"
SEED = bytes(range(32))
SIMPLE_KEY = "03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8"
"""The key of all of them: they have the same seed."""

Facts = dict[str, Any]


@functools.cache
def manifest(name: str) -> Facts:
    """What the reference says is in a drive."""
    facts: Facts = json.loads((DRIVES / f"{name}.json").read_text(encoding="utf-8"))
    return facts


def shown(fact: Facts) -> bool:
    """Whether a file system shows it: the modes drive has type bits of links and fifos."""
    mode = fact.get("mode")
    return mode is None or mode & 0o170000 in (0o100000, 0o040000)


def copy_drive(name: str, to: Path) -> Path:
    """A copy of a drive that a test may damage."""
    return Path(shutil.copytree(DRIVES / name, to / name))


def snapshot(folder: Path) -> dict[str, tuple[int, int, str]]:
    """Everything in a folder: time of change, mode and hash of each file."""
    return {
        str(path.relative_to(folder)): (
            path.stat().st_mtime_ns,
            path.stat().st_mode,
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "",
        )
        for path in sorted(folder.rglob("*"))
    }


async def walk(tree: FileTree, top: Entry | None = None) -> dict[str, Entry]:
    """Every entry of a version by path, without the root; or those below ``top``, by their paths from there."""
    found: dict[str, Entry] = {}
    pending = [top or tree.root]
    depth = len(top.path) if top is not None else 0
    while pending:
        for entry in await tree.list(pending.pop()):
            found["/" + b"/".join(entry.path[depth:]).decode()] = entry
            if entry.kind is Kind.DIRECTORY:
                pending.append(entry)
    return found


async def read(tree: FileTree, entry: Entry, step: int = 1 << 20) -> bytes:
    """All bytes of a file."""
    file = await tree.open(entry)
    try:
        pieces = [await file.read(offset, step) for offset in range(0, entry.size, step)]
    finally:
        file.close()
    return b"".join(pieces)
