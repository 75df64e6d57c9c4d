"""The file ``.dat/datfs.seen``: which files of a folder had the drive's bytes when last looked at (``folders.md``).

Who adds files to a drive or compares them with it writes the notes (:mod:`datfs.folder.seen`); who sends files to peers
goes by them too (:mod:`datfs.working_files`). They only save work: a missing or damaged file is one without notes.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from datfs.folder.private_files import write_whole

NAME = "datfs.seen"
Note = tuple[int, ...]
"""Where the bytes begin in the content register, then the marks of the file (:func:`datfs.hashed_file.marks_of`)."""

_HEADER = b"datfs seen 1\n"


def load(path: Path) -> dict[bytes, Note]:
    """The notes by the names of files, with a slash before each component."""
    try:
        header, *lines = path.read_bytes().split(b"\n")
        if header + b"\n" != _HEADER or not lines or lines.pop():
            return {}
        notes = {}
        for line in lines:
            *numbers, name = line.split(b" ")
            notes[bytes.fromhex(name.decode())] = tuple(map(int, numbers))
        return notes
    except (OSError, ValueError):
        return {}


def save(path: Path, notes: dict[bytes, Note]) -> None:
    """Keeps the notes, if the disk lets us."""
    lines = [b"%d %d %d %d %d %d " % note + name.hex().encode() for name, note in notes.items()]
    with suppress(OSError):
        write_whole(path, _HEADER + b"\n".join(lines) + b"\n")
