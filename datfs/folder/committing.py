"""Bringing the changes of a folder into its drive (dat-cli.md section 3).

Owns the order of things and what happens to files that cannot be added; the drive's bytes are
:mod:`datfs.dat_folder`'s. An interruption, or a disk that is full, leaves a drive with whole files only, and the next
commit goes on where this one stopped.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from datfs.dat_folder import INNER, DatFolderWriter
from datfs.errors import FileChanged, NotFound
from datfs.folder.compare import Change, Comparison, Kind, LeftOut, compare
from datfs.folder.ignore import IgnoreRules
from datfs.folder.seen import Seen
from datfs.folder.staged import Staged
from datfs.folder.told import Nobody, Told
from datfs.folder.tree import in_order
from datfs.metadata import Path as DrivePath
from datfs.metadata import Stat, name_of

FLUSH_SECONDS = 5.0  # at most so much work is done again after a crash
DISK_ERRORS = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EMFILE, errno.ENFILE))
EVERYTHING: tuple[DrivePath, ...] = ((),)


@dataclass(frozen=True, slots=True)
class Done:
    """A change that is in the drive now. ``stat``: None for a deletion."""

    version: int
    kind: Kind
    path: DrivePath
    stat: Stat | None


@dataclass(slots=True)
class Report:
    """What a commit did, durably, also one that was interrupted."""

    done: list[Done] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)


def now_ms() -> int:
    """The time as entries have it."""
    return time.time_ns() // 1_000_000


class WorkingFolder:
    """A folder whose drive is open for writing. ``clock``: in ms since 1970. ``drive``: the tree of its newest version.

    Raises what :meth:`DatFolderWriter.entries` does, BadStore.
    """

    def __init__(self, folder: Path, writer: DatFolderWriter, clock: Callable[[], int] = now_ms) -> None:
        self.folder = folder
        self.writer = writer
        self.staged = Staged(folder / INNER)
        self.drive = writer.entries()
        self.pending: list[Done] = []  # what the disk has not taken yet
        self._clock = clock
        self._seen = Seen(folder / INNER, writer.files, writer.content, clock())

    def clock_behind(self) -> float:
        """How many seconds the clock is behind the newest entry; 0 if it is not."""
        newest = max((stat.mtime for _, stat in self.drive.entries()), default=0)
        return max(0, newest - self._clock()) / 1000

    def compare(self, paths: Sequence[DrivePath] = EVERYTHING, told: Told | None = None) -> Comparison:
        """What differs at and below ``paths``. ``told`` learns of files that have to be read for it."""
        self._seen.start(self._clock(), told or Nobody())
        return compare(self.folder, self.drive, IgnoreRules(self.folder), self._seen.unchanged, paths)

    def staged_changes(self, told: Told | None = None) -> Comparison:
        """What :meth:`commit` would do with what is staged."""
        return self._with_drops(self.compare(in_walking_order(self.staged.take), told), self.staged.drop)

    def changes_at(self, paths: Sequence[DrivePath], told: Told | None = None) -> Comparison:
        """What differs at and below ``paths``, staged removals included. Raises NotFound for a path of nothing."""
        drops = {drop for drop in self.staged.drop if any(drop[: len(path)] == path for path in paths)}
        for path in paths:
            if self.drive.find(path) is None and not os.path.lexists(self._place(path)):
                raise NotFound(f"{os.fsdecode(self._place(path))}: there is no such file, nor is it in the drive")
        return self._with_drops(self.compare(paths, told), drops)

    def commit(self, changes: Iterable[Change], told: Told | None = None, report: Report | None = None) -> Report:
        """Brings changes into the drive, and makes them durable, also when it is interrupted.

        Raises OSError if the disk refuses, and whatever ``told`` raises; ``report`` has then what is durable. What is
        not is ``pending``, for the next call.
        """
        report = report if report is not None else Report()
        told = told or Nobody()
        flushed = time.monotonic()
        try:
            for change in changes:
                told.file(name_of(change.path))
                done = self._remove(change) if change.kind is Kind.REMOVED else self._add(change, told, report)
                if done is not None:
                    self.pending.append(done)
                    self.drive.set(done.path, done.stat)
                    if done.stat is not None:
                        told.file_done()
                if time.monotonic() - flushed > FLUSH_SECONDS:
                    self._make_durable(report)
                    flushed = time.monotonic()
        finally:
            self._make_durable(report)
            self.staged.save()
            self._seen.save()
        return report

    def _make_durable(self, report: Report) -> None:
        self.writer.flush()
        for done in self.pending:
            self.staged.forget(done.path)
        report.done += self.pending
        self.pending = []

    def save_seen(self) -> None:
        """Keeps what comparing has found out."""
        self._seen.save()

    def remove_file(self, path: DrivePath) -> None:
        """Takes a file out of the folder, and the folders above that are empty then. Raises OSError."""
        self.writer.files.remove(path)

    def _with_drops(self, found: Comparison, drops: set[DrivePath]) -> Comparison:
        found.changes = [change for change in found.changes if change.path not in drops]
        gone = [Change(Kind.REMOVED, path) for path in in_walking_order(drops) if self._entry(path) is not None]
        found.changes[:0] = gone
        return found

    def _entry(self, path: DrivePath) -> Stat | None:
        branch = self.drive.find(path)
        return branch.stat if branch is not None else None

    def _remove(self, change: Change) -> Done:
        version = self.writer.delete(change.path)
        self._seen.forget(change.path)
        return Done(version, Kind.REMOVED, change.path, None)

    def _add(self, change: Change, told: Told, report: Report) -> Done | None:
        """Adds a file; None if it cannot be, which is said in ``report``."""
        why = ""
        for _ in range(2):  # a file that was just being saved is whole the second time
            begun = self._clock()
            try:
                added = self.writer.import_file(change.path, mtime=begun, progress=told.advance)
            except FileChanged:
                why = "it is being written, and was left out: commit it again when that is done"
                continue
            except OSError as error:
                if error.errno in DISK_ERRORS:
                    raise
                why = f"it cannot be read: {error.strerror}"
                break
            self._seen.note(change.path, added.stat.byte_offset, added.found, begun)
            return Done(added.version, change.kind, change.path, added.stat)
        report.left_out.append(LeftOut(change.path, why, failed=True))
        return None

    def _place(self, path: DrivePath) -> bytes:
        return b"/".join((os.fsencode(self.folder), *path))


def in_walking_order(paths: Iterable[DrivePath]) -> list[DrivePath]:
    """As a walk through the folder would come across them."""
    return sorted(paths, key=lambda path: tuple(map(in_order, path)))
