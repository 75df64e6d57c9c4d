"""Inode numbers and lookup counts: what the kernel holds of a tree (fuse.md section 6).

Owns the maps number -> entry and entry -> number and how often the kernel was told each of them. Knows no
attributes, no handles and no FUSE library.

A number means one thing for the life of the mount: one content for files, which a tree may show at several paths (its
old versions), one path for directories. It is given once and never again, so the generation of the protocol stays 0 and
pages the kernel keeps can never belong to something else. An open file keeps its own object, not a number, so a number
may go while a handle is still open.
"""

from __future__ import annotations

import errno
from collections.abc import Hashable

from datfs.vfs import Entry, Kind

ROOT_NUMBER = 1  # FUSE_ROOT_ID: the kernel knows it without a lookup and never forgets it


class LookupCountError(Exception):
    """The kernel gave back references that it never had: a bug in one of the two."""


class InodeTable:
    """The entries the kernel knows, by number. The root is always there, as number 1."""

    def __init__(self, root: Entry) -> None:
        # Plain dicts, and no count of one: a kernel with much memory knows a million entries.
        self._entries = {ROOT_NUMBER: root}
        self._more: dict[int, int] = {}  # references beyond the first
        self._files: dict[Hashable, int] = {}
        self._directories: dict[Hashable, int] = {root.path: ROOT_NUMBER}
        self._next = ROOT_NUMBER + 1

    def __len__(self) -> int:
        return len(self._entries)

    def entry(self, number: int) -> Entry:
        """What ``number`` stands for. Raises OSError(ESTALE) if the kernel has no right to ask."""
        entry = self._entries.get(number)
        if entry is None:
            raise OSError(errno.ESTALE, f"inode {number} is not known")
        return entry

    def count(self, number: int) -> int:
        """How many references the kernel has; 0 for an unknown number and for the root."""
        return 1 + self._more.get(number, 0) if number in self._entries and number != ROOT_NUMBER else 0

    def _numbers_like(self, entry: Entry) -> tuple[dict[Hashable, int], Hashable]:
        """Where the number of ``entry`` stands, and under what. A directory stays itself when its times change."""
        if entry.kind is Kind.DIRECTORY:
            return self._directories, entry.path
        return self._files, entry.identity

    def number_of(self, entry: Entry) -> int:
        """The number of ``entry``; a fresh one if it has none. A fresh one is kept from :meth:`taken` on."""
        numbers, key = self._numbers_like(entry)
        number = numbers.get(key)
        if number is None:
            number = self._next
            self._next += 1
        return number

    def directories(self) -> dict[tuple[bytes, ...], int]:
        """The numbers of the directories that the kernel knows, by path."""
        return {self._entries[number].path: number for number in self._directories.values()}

    def parent_of(self, number: int) -> int:
        """The number of the directory that a directory is in; of the root its own, as nothing beyond it is known."""
        if number == ROOT_NUMBER:
            return ROOT_NUMBER
        return self._directories.get(self.entry(number).path[:-1], ROOT_NUMBER)

    def replace_root(self, root: Entry) -> None:
        """The root of a newer version; it must have the same path. Its number stays."""
        self._entries[ROOT_NUMBER] = root

    def taken(self, number: int, entry: Entry) -> None:
        """Counts one reference more; call it when the kernel was told ``number`` for ``entry``."""
        known = self._entries.get(number)
        numbers, key = self._numbers_like(entry)
        if known is None:
            self._entries[number] = entry
            numbers[key] = number
            return
        if self._numbers_like(known) != (numbers, key):
            raise LookupCountError(f"inode {number} belongs to another entry")
        self._entries[number] = entry
        if number != ROOT_NUMBER:
            self._more[number] = self._more.get(number, 0) + 1

    def forget(self, number: int, references: int) -> None:
        """Takes back ``references``; the number goes with the last one. The root stays whatever is given
        back.

        Raises LookupCountError, and changes nothing, if that is more than the kernel has.
        """
        if number == ROOT_NUMBER:
            return
        known = self._entries.get(number)
        if known is None:
            raise LookupCountError(f"the kernel forgets inode {number}, which it does not know")
        count = self.count(number)
        if not 0 < references <= count:
            raise LookupCountError(f"the kernel forgets inode {number} {references} times, it has {count}")
        left = count - references
        if left > 1:
            self._more[number] = left - 1
            return
        self._more.pop(number, None)
        if not left:
            del self._entries[number]
            numbers, key = self._numbers_like(known)
            del numbers[key]
