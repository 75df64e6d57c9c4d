"""Inode numbers and lookup counts: what the kernel holds of a tree (fuse.md section 6).

Owns the two maps number -> entry and entry -> number and how often the kernel was told each of them. Knows no
attributes, no handles and no FUSE library.

A number means one thing for the life of the mount: one content for files, which a tree may show at several paths (its
old versions), one path for directories. It is given once and never again, so the generation of the protocol stays 0 and
pages the kernel keeps can never belong to something else. An open file keeps its own object, not a number, so a number
may go while a handle is still open.
"""

from __future__ import annotations

import errno
from collections.abc import Hashable
from dataclasses import dataclass

from datfs.vfs import Entry, Kind

ROOT_NUMBER = 1  # FUSE_ROOT_ID: the kernel knows it without a lookup and never forgets it


class LookupCountError(Exception):
    """The kernel gave back references that it never had: a bug in one of the two."""


@dataclass(slots=True)
class _Known:
    entry: Entry
    count: int


def _key(entry: Entry) -> Hashable:
    """Equal for two entries that share a number. A directory stays itself when its times change."""
    return (entry.kind, entry.path if entry.kind is Kind.DIRECTORY else entry.identity)


class InodeTable:
    """The entries the kernel knows, by number. The root is always there, as number 1."""

    def __init__(self, root: Entry) -> None:
        self._known = {ROOT_NUMBER: _Known(root, 0)}
        self._numbers: dict[Hashable, int] = {_key(root): ROOT_NUMBER}
        self._next = ROOT_NUMBER + 1

    def __len__(self) -> int:
        return len(self._known)

    def entry(self, number: int) -> Entry:
        """What ``number`` stands for. Raises OSError(ESTALE) if the kernel has no right to ask."""
        known = self._known.get(number)
        if known is None:
            raise OSError(errno.ESTALE, f"inode {number} is not known")
        return known.entry

    def count(self, number: int) -> int:
        """How many references the kernel has; 0 for an unknown number and for the root."""
        known = self._known.get(number)
        return known.count if known is not None else 0

    def number_of(self, entry: Entry) -> int:
        """The number of ``entry``; a fresh one if it has none. A fresh one is kept from :meth:`taken` on."""
        number = self._numbers.get(_key(entry))
        if number is None:
            number = self._next
            self._next += 1
        return number

    def directories(self) -> dict[tuple[bytes, ...], int]:
        """The numbers of the directories that the kernel knows, by path."""
        return {known.entry.path: number for number, known in self._known.items() if known.entry.kind is Kind.DIRECTORY}

    def replace_root(self, root: Entry) -> None:
        """The root of a newer version; it must have the same path. Its number stays."""
        self._known[ROOT_NUMBER].entry = root

    def taken(self, number: int, entry: Entry) -> None:
        """Counts one reference more; call it when the kernel was told ``number`` for ``entry``."""
        known = self._known.get(number)
        if known is None:
            self._known[number] = _Known(entry, 1)
            self._numbers[_key(entry)] = number
            return
        if _key(known.entry) != _key(entry):
            raise LookupCountError(f"inode {number} belongs to another entry")
        known.entry = entry
        if number != ROOT_NUMBER:
            known.count += 1

    def forget(self, number: int, references: int) -> None:
        """Takes back ``references``; the number goes with the last one. The root stays whatever is given
        back.

        Raises LookupCountError, and changes nothing, if that is more than the kernel has.
        """
        if number == ROOT_NUMBER:
            return
        known = self._known.get(number)
        if known is None:
            raise LookupCountError(f"the kernel forgets inode {number}, which it does not know")
        if not 0 < references <= known.count:
            raise LookupCountError(f"the kernel forgets inode {number} {references} times, it has {known.count}")
        known.count -= references
        if known.count == 0:
            del self._known[number]
            del self._numbers[_key(known.entry)]
