"""Which files of a folder were found to be what the drive says, so that nobody reads them again (``docs/folders.md``).

A file counts as unchanged if size and times are those it had when its bytes were the drive's. What is not noted, or has
other times, is judged as the ``dat`` command does, by size and the time of the entry, where that is safe: the file was
neither written nor put in its place since, as far as its two times tell, and the clock did not go back. All others are
compared byte for byte with the signed hashes. The notes are only to save work: a missing or damaged file of them costs
a reading of the folder, and nothing else.
"""

from __future__ import annotations

import os
import stat as stat_bits
from pathlib import Path

from datfs.confined import ConfinedFolder
from datfs.crypto import leaf_hash
from datfs.folder import seen_notes
from datfs.folder.told import Nobody, Told
from datfs.hashed_file import marks_of
from datfs.metadata import Path as DrivePath
from datfs.metadata import Stat, name_of
from datfs.register import Register

RACY_MS = 50
"""A file written less than so long before it was read may be written again without its times telling (they are
those of the kernel's last tick)."""


class Seen:
    """The notes of a folder, and the judgement that they save. ``now``: the clock, in ms since 1970."""

    def __init__(self, base: Path, files: ConfinedFolder, content: Register, now: int) -> None:
        self._file = base / seen_notes.NAME
        self._files = files
        self._content = content
        self._now = now
        self._told: Told = Nobody()
        self._notes = seen_notes.load(self._file)
        self._changed = False

    def start(self, now: int, told: Told) -> None:
        """A comparison begins. ``told``: of the files that have to be read for it."""
        self._now, self._told = now, told

    def unchanged(self, path: DrivePath, stat: Stat, found: os.stat_result) -> bool:
        """Whether a file has the bytes of the drive's entry. Raises OSError if it has to be read and cannot be."""
        if found.st_size != stat.size or not self._content.has_range(stat.offset, stat.offset + stat.blocks):
            return False
        noted = self._notes.get(name_of(path))
        if noted == (stat.byte_offset, *marks_of(found)):
            return True
        written = max(found.st_mtime_ns, found.st_ctime_ns) // 1_000_000
        if noted is None and written + RACY_MS < stat.mtime <= self._now:
            return True
        if not self._same_bytes(path, stat):
            return False
        self.note(path, stat.byte_offset, found, self._now)
        return True

    def note(self, path: DrivePath, byte_offset: int, found: os.stat_result, read_at: int) -> None:
        """Says that the bytes of a file are those at ``byte_offset`` of the drive, as read at ``read_at`` (ms)."""
        if max(found.st_mtime_ns, found.st_ctime_ns) // 1_000_000 + RACY_MS >= read_at:
            self.forget(path)
            return
        self._notes[name_of(path)] = (byte_offset, *marks_of(found))
        self._changed = True

    def forget(self, path: DrivePath) -> None:
        """Takes a note back."""
        self._changed |= self._notes.pop(name_of(path), None) is not None

    def save(self) -> None:
        """Keeps the notes for the next time, if the disk lets us."""
        if self._changed:
            seen_notes.save(self._file, self._notes)
            self._changed = False

    def _same_bytes(self, path: DrivePath, stat: Stat) -> bool:
        content = self._content
        self._told.file(name_of(path))
        fd = self._files.open_file(path, follow=True)
        try:
            if not stat_bits.S_ISREG(os.fstat(fd).st_mode):
                return False
            for index in range(stat.offset, stat.offset + stat.blocks):
                leaf = content.node(2 * index)
                if leaf is None:
                    return False
                data = os.read(fd, leaf.size)
                self._told.advance(len(data))
                if len(data) != leaf.size or leaf_hash(data) != leaf.hash:
                    return False
            return not os.read(fd, 1)
        finally:
            os.close(fd)
