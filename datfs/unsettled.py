"""Names of which nobody knows yet what they stand for, and that the kernel must have an answer for all the same.

While a lookup waits, the kernel lets every other program that looks up this name wait for the same answer, deaf even
to SIGKILL. When one of them is to end, the lookup is answered with a stand-in: a directory that may not be kept. All go
on, and each asks for its attributes next, for the permission to open it or to go further. That question is the
program's own: it waits until the name is settled, and is answered ESTALE, on which the kernel goes back and looks the
name up again. See docs/fuse.md, "Signals".

Knows no FUSE; :mod:`datfs.fuse_ops` asks.
"""

from __future__ import annotations

from itertools import count

from datfs.vfs import Entry, Kind

_MODE = 0o555  # nobody is refused before the name is settled
_UNSETTLED = "unsettled"  # what all of them have in common, as nothing of a drive has

_numbers = count()


def stand_in(directory: Entry, name: bytes, until: float) -> Entry:
    """Something for the table of inodes that has no path of its own there; see :func:`shown`.

    ``until``: when whoever looked the name up first has waited long enough (trio's clock).
    """
    return Entry((*directory.path, name), Kind.FILE, 0, _MODE, round(until * 1e9), 0, (_UNSETTLED, next(_numbers)))


def is_stand_in(entry: Entry) -> bool:
    """Whether an entry is none of the tree."""
    return entry.identity[0] is _UNSETTLED


def until(entry: Entry) -> float:
    """When those who wait for a stand-in have waited long enough (trio's clock)."""
    return entry.mtime_ns / 1e9


def shown(entry: Entry) -> Entry:
    """A stand-in as the kernel is to take it: any name can be that of a directory, and only then it goes further."""
    return entry._replace(kind=Kind.DIRECTORY)
