"""Which folder a person means, and which of its files (``docs/folders.md``)."""

from __future__ import annotations

import os
from pathlib import Path

from datfs.confined import PRIVATE
from datfs.dat_folder import INNER
from datfs.errors import BadLink, NotADrive
from datfs.metadata import Path as DrivePath


def drive_folder(start: Path) -> Path:
    """The folder with a drive in it that ``start`` is, or is in. Raises NotADrive."""
    start = start.absolute()
    for folder in (start, *start.parents):
        if (folder / INNER / "metadata.key").exists():
            return folder
    raise NotADrive(f"there is no drive in {start} nor in any folder above: make one with 'datfs init', or name it")


def path_in(folder: Path, name: str, start: Path) -> DrivePath:
    """The path in the drive of a file that a person names from ``start``. Raises BadLink if it is none of its files.

    Links are not resolved: they are files of the drive themselves.
    """
    place = os.path.normpath(os.path.join(start.absolute(), name))
    below = os.path.relpath(place, folder)
    if below == os.curdir:
        return ()
    parts = tuple(os.fsencode(below).split(b"/"))
    if parts[0] == b"..":
        raise BadLink(f"{name}: it is outside of {folder}, the folder of the drive")
    if parts[0] == PRIVATE:
        raise BadLink(f"{name}: the drive's own registers are there, which are never part of it")
    return parts
