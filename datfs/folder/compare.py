"""What is different between a folder and its drive, in the order in which the reference would import it.

Reads names and attributes, and bytes only where those do not decide. Changes nothing. The reference does not notice
folders that are gone, nor a folder where a file was or the reverse: those are noticed here (dat-cli.md section 3).
"""

from __future__ import annotations

import errno
import os
import stat as stat_bits
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from datfs.confined import allowed
from datfs.folder.ignore import IgnoreRules
from datfs.folder.tree import Branch, in_order
from datfs.metadata import Path as DrivePath
from datfs.metadata import Stat


class Kind(Enum):
    """What a change is."""

    NEW = "new"
    CHANGED = "changed"
    REMOVED = "removed"


@dataclass(frozen=True, slots=True)
class Change:
    """A file that is not in the drive as it is in the folder. ``size``: bytes of the file, 0 if it is gone."""

    kind: Kind
    path: DrivePath
    size: int = 0


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A name that cannot be part of the drive. ``failed``: a person would expect it there, so it is an error."""

    path: DrivePath
    why: str
    failed: bool


@dataclass(slots=True)
class Comparison:
    """``changes``: in order; ``left_out``; ``files`` and ``size``: of what the folder would give the drive."""

    changes: list[Change] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    files: int = 0
    size: int = 0


Unchanged = Callable[[DrivePath, Stat, os.stat_result], bool]
"""Whether a file, by its attributes or else its bytes, is what the drive's entry says. May raise OSError."""


def compare(
    folder: Path, drive: Branch, rules: IgnoreRules, unchanged: Unchanged, paths: Sequence[DrivePath] = ((),)
) -> Comparison:
    """What is at and below ``paths``, in the folder against the drive; a path in neither of them changes nothing."""
    walk = _Walk(os.fsencode(folder), rules, unchanged)
    for path in paths:
        walk.at(path, drive)
    return walk.found


class _Walk:
    """One comparison. Not recursive: how deep a folder goes is its owner's choice."""

    def __init__(self, top: bytes, rules: IgnoreRules, unchanged: Unchanged) -> None:
        self.found = Comparison()
        self._top = top
        self._rules = rules
        self._unchanged = unchanged
        self._told: set[DrivePath] = set()  # files that stood where folders are now

    def at(self, path: DrivePath, drive: Branch) -> None:
        """Compares what is at a path and below it."""
        if not self._reachable(path, drive):
            return
        pending: list[tuple[DrivePath, Branch | None]] = [(path, drive.find(path))]
        while pending:
            here, branch = pending.pop()
            if self._is_folder(here, branch):
                pending += self._names_in(here, branch)

    def _reachable(self, path: DrivePath, drive: Branch) -> bool:
        """Looks at the folders above a path: whether they are such."""
        for depth in range(1, len(path)):
            above, branch = path[:depth], drive.find(path[:depth])
            try:
                mode = os.lstat(self._place(above)).st_mode
            except (FileNotFoundError, NotADirectoryError):
                return True  # then the path is gone too
            except OSError as error:
                self._leave_out(above, _why(error), failed=True)
                return False
            if stat_bits.S_ISLNK(mode):
                self._leave_out(path, "it is beyond a symbolic link, which is not followed", failed=True)
                return False
            if stat_bits.S_ISDIR(mode):
                self._file_gone(above, branch)
        return True

    def _names_in(self, path: DrivePath, branch: Branch | None) -> list[tuple[DrivePath, Branch | None]]:
        """The names in a folder that are still to compare, last one first; those that are gone are found here."""
        try:
            names = set(os.listdir(self._place(path)))
        except (FileNotFoundError, NotADirectoryError):
            names = set()
        except OSError as error:
            self._leave_out(path, _why(error), failed=True)  # what is in it is not gone
            return []
        below = branch.below if branch is not None else {}
        for name in sorted(below.keys() - names, key=in_order, reverse=True):
            self._gone((*path, name), below[name])
        return [((*path, name), below.get(name)) for name in sorted(names, key=in_order, reverse=True)]

    def _is_folder(self, path: DrivePath, branch: Branch | None) -> bool:
        """Compares what a name stands for, unless it is a folder whose names are to be compared one by one."""
        place = self._place(path)
        try:
            found = os.lstat(place)
            if stat_bits.S_ISDIR(found.st_mode):
                return self._enters(path, branch)
            if self._rules.ignored(path):
                return False
            if stat_bits.S_ISLNK(found.st_mode):
                found = os.stat(place)
        except OSError as error:
            self._not_there(path, branch, error)
            return False
        if not _is_text(path):
            self._leave_out(path, "its name is not UTF-8, and a drive has no other names: rename it", failed=True)
        elif not allowed(path):
            self._leave_out(path, "no drive may have a file of this name", failed=True)
        elif stat_bits.S_ISREG(found.st_mode):
            self._file(path, branch, found)
        else:
            what = "a symbolic link to a folder" if stat_bits.S_ISDIR(found.st_mode) else _special(found.st_mode)
            self._leave_out(path, f"it is {what}", failed=False)
            self._gone(path, branch)
        return False

    def _enters(self, path: DrivePath, branch: Branch | None) -> bool:
        if path and self._rules.prunes(path):
            return False
        self._file_gone(path, branch)
        return True

    def _not_there(self, path: DrivePath, branch: Branch | None, error: OSError) -> None:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            if os.path.islink(self._place(path)):
                why = "links that lead in a circle" if error.errno == errno.ELOOP else "a symbolic link to nothing"
                self._leave_out(path, f"it is {why}", failed=False)
            self._gone(path, branch)
        else:
            self._leave_out(path, _why(error), failed=True)

    def _file(self, path: DrivePath, branch: Branch | None, found: os.stat_result) -> None:
        stat = branch.stat if branch is not None else None
        for name in sorted(branch.below if branch is not None else (), key=in_order, reverse=True):
            assert branch is not None
            self._gone((*path, name), branch.below[name])  # there was a folder of this name
        self.found.files += 1
        self.found.size += found.st_size
        if stat is None or stat.kind != "file":
            self.found.changes.append(Change(Kind.NEW, path, found.st_size))
            return
        try:
            same = self._unchanged(path, stat, found)
        except OSError as error:
            self._leave_out(path, _why(error), failed=True)
            return
        if not same:
            self.found.changes.append(Change(Kind.CHANGED, path, found.st_size))

    def _file_gone(self, path: DrivePath, branch: Branch | None) -> None:
        """A folder is where the drive has, besides what is below, a file."""
        if branch is None or branch.stat is None or branch.stat.kind == "directory" or path in self._told:
            return
        self._told.add(path)
        if not self._rules.ignored(path):
            self.found.changes.append(Change(Kind.REMOVED, path))

    def _gone(self, path: DrivePath, branch: Branch | None) -> None:
        for entry, _ in branch.entries(path) if branch is not None else ():
            if not self._rules.ignored(entry):
                self.found.changes.append(Change(Kind.REMOVED, entry))

    def _leave_out(self, path: DrivePath, why: str, *, failed: bool) -> None:
        self.found.left_out.append(LeftOut(path, why, failed))

    def _place(self, path: DrivePath) -> bytes:
        return b"/".join((self._top, *path))


def _is_text(path: DrivePath) -> bool:
    try:
        b"/".join(path).decode()
    except UnicodeDecodeError:
        return False
    return True


def _special(mode: int) -> str:
    for test, name in (
        (stat_bits.S_ISSOCK, "a socket"),
        (stat_bits.S_ISFIFO, "a named pipe"),
        (stat_bits.S_ISBLK, "a device"),
        (stat_bits.S_ISCHR, "a device"),
    ):
        if test(mode):
            return name
    return "no plain file"


def _why(error: OSError) -> str:
    return f"it cannot be read: {error.strerror}"
