"""Pins: paths of a drive whose chunks a full cache does not give up.

Kept in the store's folder, in the file :data:`PINS_NAME`: a JSON list of paths, the root as ``"/"``. A pin is for the
path, not for one version of it: every version of what is at or below it, as far as its metadata is here, stays.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path as FilePath

from datfs.bitfield import Bitfield
from datfs.errors import BadMetadata, BadStore
from datfs.metadata import Path, decode_record, path_of
from datfs.register import Register
from datfs.verification import LENGTH_MOST

PINS_NAME = "pins.json"


def load(folder: FilePath) -> list[Path]:
    """The pinned paths of a store. Raises BadStore if the file does not say, OSError."""
    path = folder / PINS_NAME
    try:
        found = json.loads(path.read_text(encoding="utf-8", errors="surrogateescape"))
    except FileNotFoundError:
        return []
    except ValueError:
        found = None
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise BadStore(f"{path}: a JSON list of paths should be there: remove it to unpin everything")
    return [path_of(one) for one in found]


def save(folder: FilePath, paths: Iterable[Path]) -> None:
    """Replaces the pins of a store, durably. Raises OSError."""
    path = folder / PINS_NAME
    if not (wanted := sorted(set(paths))):
        path.unlink(missing_ok=True)
        return
    texts = ["/" + b"/".join(one).decode("utf-8", "surrogateescape") for one in wanted]
    temporary = folder / f"{PINS_NAME}.new"
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(texts, file)  # ASCII: lone surrogates are escaped
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def covers(pins: Sequence[Path], path: Path) -> bool:
    """Whether something at or above ``path`` is pinned."""
    return any(path[: len(pin)] == pin for pin in pins)


class PinnedChunks:
    """Which content chunks the pins of a store keep; grows with the metadata, and follows changes of the file."""

    def __init__(self, folder: FilePath, metadata: Register) -> None:
        self._folder = folder
        self._metadata = metadata
        self._mark: tuple[int, int] | None = None
        self._pins: list[Path] = []
        self._chunks = Bitfield()
        self._seen = Bitfield()

    @property
    def everything(self) -> bool:
        """Whether the whole drive is pinned. Brings the rest up to date. Raises BadStore, OSError."""
        try:
            found = (self._folder / PINS_NAME).stat()
            mark = (found.st_mtime_ns, found.st_ino)
        except FileNotFoundError:
            mark = None
        if mark != self._mark:
            self._pins = load(self._folder)
            self._mark = mark
            self._chunks, self._seen = Bitfield(), Bitfield()
        if self._pins and () not in self._pins:
            self._read_on()
        return () in self._pins

    def others(self, held: Bitfield) -> Bitfield:
        """Of the chunks that are held those that no path pins."""
        return held.without(self._chunks)

    def __contains__(self, index: int) -> bool:
        return self._chunks.get(index)

    def _read_on(self) -> None:
        """Looks at the metadata chunks that came since the last time."""
        for seq in self._unseen():
            self._seen.set(seq)
            try:
                record = decode_record(seq, self._metadata.get(seq))
            except BadMetadata:
                continue
            stat = record.stat
            if stat is not None and stat.blocks and covers(self._pins, record.path):
                stop = min(stat.offset + stat.blocks, LENGTH_MOST)
                self._chunks.set_range(min(stat.offset, stop), stop, True)

    def _unseen(self) -> Iterator[int]:
        for first, stop in self._metadata.data_bits.runs(1):
            while (seq := self._seen.next_clear(first, stop)) is not None:
                yield seq
                first = seq + 1
