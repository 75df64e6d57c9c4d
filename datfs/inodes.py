"""Inode numbers and lookup counts: what the kernel holds of a tree (fuse.md section 6).

Owns the maps number -> entry and entry -> number and how often the kernel was told each of them. Knows no
attributes, no handles and no FUSE library.

A number means one thing for the life of the mount: one content for files, which a tree may show at several paths (its
old versions), one path for directories. It is given once and never again, so the generation of the protocol stays 0 and
pages the kernel keeps can never belong to something else. An open file keeps its own object, not a number, so a number
may go while a handle is still open.

A kernel with much memory knows a million files, which as objects would take half a gigabyte. So files are kept in
slots, packed, and their entries are made again when they are asked for, which is rare: the kernel keeps attributes
itself. A number is a slot in its low half and in its high half how many numbers the slot had before.
"""

from __future__ import annotations

import errno
from array import array
from collections.abc import Hashable
from struct import Struct, error
from typing import TypeAlias

from datfs.slot_index import SlotIndex
from datfs.vfs import Entry, Kind

ROOT_NUMBER = 1  # FUSE_ROOT_ID: the kernel knows it without a lookup and never forgets it

_SLOT_BITS = 32
_SLOT = (1 << _SLOT_BITS) - 1
_GENERATIONS = 2**31  # that a slot can have, so that numbers fit 63 bits

# Of a file: identity[1], size, mtime, permissions; ctime if they have the bit that says so; then the name. Nearly all
# fit, and the others are kept as they are.
_PACKED = Struct("<IIQH")
_WITH_CTIME = Struct("<IIQHQ")
_HAS_CTIME = 1 << 15

_Home: TypeAlias = tuple[tuple[bytes, ...], Hashable]
"""What many files have in common: the path of their directory, and identity[0]."""


class LookupCountError(Exception):
    """The kernel gave back references that it never had: a bug in one of the two."""


class InodeTable:
    """The entries the kernel knows, by number. The root is always there, as number 1."""

    def __init__(self, root: Entry) -> None:
        # Each by slot; slot 0 is never used.
        self._kept: list[bytes | Entry | None] = [None, root]
        self._homes: list[_Home | None] = [None, None]  # of packed files
        self._counts: array[int] = array("Q", (0, 0))
        self._generations: array[int] = array("I", (0, 0))
        self._free: array[int] = array("I")
        self._files = SlotIndex(self._has_file)
        self._directories = {root.path: ROOT_NUMBER}
        self._home: _Home = ((), None)  # the last one, as files of one directory come together
        self._found: tuple[Entry | None, int] = (None, 0)  # the file that was asked for last, if it has a number

    def __len__(self) -> int:
        return len(self._files) + len(self._directories)

    def entry(self, number: int) -> Entry:
        """What ``number`` stands for. Raises OSError(ESTALE) if the kernel has no right to ask."""
        slot = self._slot_of(number)
        if not slot:
            raise OSError(errno.ESTALE, f"inode {number} is not known")
        return self._entry_in(slot)

    def count(self, number: int) -> int:
        """How many references the kernel has; 0 for an unknown number and for the root."""
        return self._counts[self._slot_of(number)]

    def number_of(self, entry: Entry) -> int:
        """The number of ``entry``; a fresh one if it has none, which the next call of :meth:`taken` may take."""
        if entry.kind is Kind.DIRECTORY:
            return self._directories.get(entry.path) or self._fresh()
        slot = self._files.find(hash(entry.identity), entry)
        if not slot:
            return self._fresh()
        number = self._generations[slot] << _SLOT_BITS | slot
        self._found = entry, number
        return number

    def directories(self) -> dict[tuple[bytes, ...], int]:
        """The numbers of the directories that the kernel knows, by path."""
        return dict(self._directories)

    def parent_of(self, number: int) -> int:
        """The number of the directory that a directory is in; of the root its own, as nothing beyond it is known."""
        if number == ROOT_NUMBER:
            return ROOT_NUMBER
        return self._directories.get(self.entry(number).path[:-1], ROOT_NUMBER)

    def replace_root(self, root: Entry) -> None:
        """The root of a newer version; it must have the same path. Its number stays."""
        self._kept[ROOT_NUMBER] = root

    def taken(self, number: int, entry: Entry) -> None:
        """Counts one reference more; call it when the kernel was told ``number`` for ``entry``."""
        if self._found[0] is entry and self._found[1] == number:
            slot = number & _SLOT
        elif slot := self._slot_of(number):
            if not self._has(slot, number, entry):
                raise LookupCountError(f"inode {number} belongs to another entry")
        elif number == self._fresh():
            slot = self._occupy(number, entry)
        else:
            raise LookupCountError(f"the kernel was told inode {number}, which belongs to nothing")
        if slot != ROOT_NUMBER:
            self._counts[slot] += 1
        # Also if it was known: at the path of today, with the times of today.
        if entry.kind is Kind.DIRECTORY:
            self._kept[slot] = entry
        else:
            self._pack(slot, entry)

    def forget(self, number: int, references: int) -> None:
        """Takes back ``references``; the number goes with the last one. The root stays whatever is given
        back.

        Raises LookupCountError, and changes nothing, if that is more than the kernel has.
        """
        if number == ROOT_NUMBER:
            return
        slot = self._slot_of(number)
        if not slot:
            raise LookupCountError(f"the kernel forgets inode {number}, which it does not know")
        count = self._counts[slot]
        if not 0 < references <= count:
            raise LookupCountError(f"the kernel forgets inode {number} {references} times, it has {count}")
        self._counts[slot] = count - references
        if count == references:
            self._vacate(slot)

    # -- slots

    def _slot_of(self, number: int) -> int:
        """Where a number that the kernel has stands; 0 for others."""
        slot = number & _SLOT
        if slot < len(self._kept) and self._kept[slot] is not None and self._generations[slot] == number >> _SLOT_BITS:
            return slot
        return 0

    def _fresh(self) -> int:
        if not self._free:
            return len(self._kept)
        slot = self._free[-1]
        return self._generations[slot] << _SLOT_BITS | slot

    def _occupy(self, number: int, entry: Entry) -> int:
        slot = number & _SLOT
        if self._free:
            self._free.pop()
        else:
            self._kept.append(None)
            self._homes.append(None)
            self._counts.append(0)
            self._generations.append(0)
        if entry.kind is Kind.DIRECTORY:
            self._directories[entry.path] = number
        else:
            self._files.add(hash(entry.identity), slot)
        return slot

    def _vacate(self, slot: int) -> None:
        kept = self._kept[slot]
        if isinstance(kept, Entry) and kept.kind is Kind.DIRECTORY:
            del self._directories[kept.path]
        else:
            self._files.remove(slot)
        self._found = None, 0
        self._kept[slot] = self._homes[slot] = None
        self._generations[slot] += 1
        if self._generations[slot] < _GENERATIONS:
            self._free.append(slot)

    def _has(self, slot: int, number: int, entry: Entry) -> bool:
        """Whether a slot that is in use is that of ``entry``."""
        if entry.kind is Kind.DIRECTORY:
            # A directory stays itself when its times change.
            return self._directories.get(entry.path) == number
        kept = self._kept[slot]
        return not (isinstance(kept, Entry) and kept.kind is Kind.DIRECTORY) and self._has_file(slot, entry)

    def _has_file(self, slot: int, entry: Entry) -> bool:
        kept, home = self._kept[slot], self._homes[slot]
        if home is None:
            return isinstance(kept, Entry) and kept.identity == entry.identity
        assert isinstance(kept, bytes)
        of, number = entry.identity
        return home[1] == of and _PACKED.unpack_from(kept)[0] == number

    # -- packing

    def _pack(self, slot: int, entry: Entry) -> None:
        of, number = entry.identity
        ctime = entry.ctime_ns
        try:
            if not 0 <= entry.permissions < _HAS_CTIME:
                raise error
            if ctime == entry.mtime_ns:
                fixed = _PACKED.pack(number, entry.size, ctime, entry.permissions)
            else:
                fixed = _WITH_CTIME.pack(number, entry.size, entry.mtime_ns, entry.permissions | _HAS_CTIME, ctime)
        except error:
            self._kept[slot], self._homes[slot] = entry, None
            return
        folder = entry.path[:-1]
        home = self._home
        if home[1] is not of or home[0] != folder:
            home = self._home = (folder, of)
        self._kept[slot], self._homes[slot] = fixed + entry.path[-1], home

    def _entry_in(self, slot: int) -> Entry:
        kept = self._kept[slot]
        if isinstance(kept, Entry):
            return kept
        home = self._homes[slot]
        assert kept is not None
        assert home is not None
        number, size, mtime, permissions = _PACKED.unpack_from(kept)
        ctime, end = mtime, _PACKED.size
        if permissions & _HAS_CTIME:
            permissions ^= _HAS_CTIME
            ctime, end = _WITH_CTIME.unpack_from(kept)[4], _WITH_CTIME.size
        return Entry((*home[0], kept[end:]), Kind.FILE, size, permissions, mtime, ctime, (home[1], number))
