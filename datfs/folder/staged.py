"""What a person chose for the next commit: names, not bytes. A commit takes the files as they are then."""

from __future__ import annotations

import json
from pathlib import Path

from datfs.errors import BadStore
from datfs.folder.private_files import write_whole
from datfs.metadata import Path as DrivePath
from datfs.metadata import name_of, path_of

NAME = "datfs.staged"


class Staged:
    """``take``: files to be in the drive as they are, or to go if they are gone. ``drop``: to go in any case.

    Raises BadStore if the file is not ours, OSError.
    """

    def __init__(self, base: Path) -> None:
        self._file = base / NAME
        self.take: set[DrivePath] = set()
        self.drop: set[DrivePath] = set()
        try:
            found = json.loads(self._file.read_bytes())
            self.take, self.drop = ({path_of(name) for name in found[key]} for key in ("take", "drop"))
        except FileNotFoundError:
            pass
        except (ValueError, KeyError, TypeError, AttributeError):
            raise BadStore(f"{self._file} is damaged (offset 0): remove it, and stage the files again") from None

    def stage(self, path: DrivePath) -> None:
        """The file as it will be."""
        self.take.add(path)
        self.drop.discard(path)

    def stage_removal(self, path: DrivePath) -> None:
        """The file is to leave the drive, whatever is on the disk."""
        self.drop.add(path)
        self.take.discard(path)

    def forget(self, path: DrivePath) -> None:
        """It was committed, or shall not be."""
        self.take.discard(path)
        self.drop.discard(path)

    def save(self) -> None:
        """Keeps it for the next command. Raises OSError; what was there before stays then."""
        if not self.take and not self.drop:
            self._file.unlink(missing_ok=True)
            return
        names = {key: sorted(map(_text, paths)) for key, paths in (("take", self.take), ("drop", self.drop))}
        write_whole(self._file, json.dumps(names).encode())


def _text(path: DrivePath) -> str:
    return name_of(path).decode("utf-8", "surrogateescape")
