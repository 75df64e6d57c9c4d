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
_SLOTS_AT_ONCE = 256

# Of a file: identity[1], size, mtime, permissions; ctime if they have the bit that says so; then the name. Nearly all
# fit, and the others are kept as they are.
_PACKED = Struct("<IIQH")
_WITH_CTIME = Struct("<IIQHQ")
_HAS_CTIME = 1 << 15

_Home: TypeAlias = tuple[Hashable, tuple[bytes, ...]]
"""What files of one directory have in common: identity[0], and the path of the directory."""


class LookupCountError(Exception):
    """The kernel gave back references that it never had: a bug in one of the two."""


class InodeTable:
    """The entries the kernel knows, by number. The root is always there, as number 1."""

    def __init__(self, root: Entry) -> None:
        # Each by slot; slot 0 is never used.
        self._kept: list[bytes | Entry | None] = []
        self._homes: list[_Home | None] = []  # of what is packed
        self._counts: array[int] = array("Q")
        self._generations: array[int] = array("I")
        self._files = SlotIndex()
        self._free: array[int] = array("I")
        self._next = ROOT_NUMBER + 1  # the first slot that never had a number
        self._extend()
        self._kept[ROOT_NUMBER] = root
        self._directories = {root.path: ROOT_NUMBER}
        self._home: _Home = (None, ())  # the last one, as files of one directory come together
        self._asked: tuple[Entry, int, int] = (root, 0, 0)  # of the last number_of: entry, number, slot if it has one

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
            number = self._directories.get(entry.path, 0)
            slot = number & _SLOT
        else:
            slot = self._files.find(entry.identity)
            number = self._generations[slot] << _SLOT_BITS | slot
        if not slot:
            number = self._fresh()
        self._asked = entry, number, slot
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
        asked, its_number, slot = self._asked
        if entry is not asked or number != its_number:
            if self.number_of(entry) != number:
                raise LookupCountError(f"inode {number} is not that of the entry")
            slot = self._asked[2]
        if slot == ROOT_NUMBER:
            self._kept[slot] = entry
            return
        if slot:
            self._counts[slot] += 1
            # It may be at another path today, a directory may have other times.
            self._renew(slot, entry)
        else:
            self._occupy(number, entry)

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
        if slot < self._next and self._kept[slot] is not None and self._generations[slot] == number >> _SLOT_BITS:
            return slot
        return 0

    def _fresh(self) -> int:
        if not self._free:
            return self._next
        slot = self._free[-1]
        return self._generations[slot] << _SLOT_BITS | slot

    def _extend(self) -> None:
        self._kept.extend([None] * _SLOTS_AT_ONCE)
        self._homes.extend([None] * _SLOTS_AT_ONCE)
        self._counts.extend([0] * _SLOTS_AT_ONCE)
        self._generations.extend([0] * _SLOTS_AT_ONCE)

    def _occupy(self, number: int, entry: Entry) -> None:
        slot = number & _SLOT
        if entry.kind is Kind.DIRECTORY:
            self._directories[entry.path] = number
            self._kept[slot] = entry
        else:
            self._files.add(entry.identity, slot)
            self._pack(slot, entry)
        self._counts[slot] = 1
        if self._free:
            self._free.pop()
        else:
            self._next = slot + 1
            if self._next == len(self._kept):
                self._extend()
        self._asked = entry, number, slot

    def _renew(self, slot: int, entry: Entry) -> None:
        if entry.kind is Kind.DIRECTORY:
            self._kept[slot] = entry
            return
        home, kept, path = self._homes[slot], self._kept[slot], entry.path
        if home is not None and home[1] == path[:-1]:
            assert isinstance(kept, bytes)
            if kept[_name_at(entry) :] == path[-1]:
                return
        self._pack(slot, entry)

    def _vacate(self, slot: int) -> None:
        entry = self._entry_in(slot)
        if entry.kind is Kind.DIRECTORY:
            del self._directories[entry.path]
        else:
            self._files.remove(entry.identity)
        self._kept[slot] = self._homes[slot] = None
        self._generations[slot] += 1
        if self._generations[slot] < _GENERATIONS:
            self._free.append(slot)
        self._asked = (self._asked[0], 0, 0)  # the next fresh number is another one

    # -- entries

    def _pack(self, slot: int, entry: Entry) -> None:
        path, _, size, permissions, mtime, ctime, (of, number) = entry
        try:
            if permissions >= _HAS_CTIME:
                raise error
            if ctime == mtime:
                fixed = _PACKED.pack(number, size, mtime, permissions)
            else:
                fixed = _WITH_CTIME.pack(number, size, mtime, permissions | _HAS_CTIME, ctime)
        except error:
            self._kept[slot], self._homes[slot] = entry, None
            return
        folder = path[:-1]
        home = self._home
        if home[1] != folder or home[0] is not of:
            home = self._home = (of, folder)
        self._kept[slot] = fixed + path[-1]
        self._homes[slot] = home

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
        return Entry((*home[1], kept[end:]), Kind.FILE, size, permissions, mtime, ctime, (home[0], number))


def _name_at(entry: Entry) -> int:
    return _PACKED.size if entry.ctime_ns == entry.mtime_ns else _WITH_CTIME.size
