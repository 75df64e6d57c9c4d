"""Inode numbers and lookup counts: what the kernel holds of a tree (fuse.md section 6).

Owns the maps number -> entry and entry -> number and how often the kernel was told each of them. Knows no
attributes, no handles and no FUSE library.

A number means one thing for the life of the mount: one content for files, which a tree may show at several paths (its
old versions), one path for directories. So pages that the kernel keeps can never belong to something else, and the
generation of the protocol stays 0. And one thing has one number, also after the kernel forgot it: programs take a file
whose number changes for another one. So numbers are made of what they stand for:

* of a file which of the things it is from this is (``identity[0]``, in the order of their appearance), and
  ``identity[1]``;
* of a directory a hash of its path, or the next number if that is another directory's now;
* of the few files whose figures do not fit a count, which begins anew each time that the kernel forgot them.

An open file keeps its own object, not a number, so a number may go while a handle is still open.

A kernel with much memory knows a million files, which as objects would take half a gigabyte. So files are kept in
slots, packed, and their entries are made again when they are asked for, which is rare: the kernel keeps attributes
itself.
"""

from __future__ import annotations

import errno
from array import array
from collections.abc import Hashable
from hashlib import blake2b
from struct import Struct, error
from typing import TypeAlias

from datfs.slot_index import SlotIndex
from datfs.vfs import Entry, Kind

ROOT_NUMBER = 1  # FUSE_ROOT_ID: the kernel knows it without a lookup and never forgets it

# All numbers are less than 2**53, as some languages have no others than floats.
_DIRECTORY = 1 << 52  # from here on those of directories
_HASHES = 1 << 51
_LOOSE = _DIRECTORY + _HASHES  # and from here on those of files whose figures do not fit
_FIRST = ROOT_NUMBER + 1  # of the other files
_NUMBER_BITS = 32  # for identity[1]
_NUMBERS = 1 << _NUMBER_BITS
_SOURCES_MOST = (1 << 20) - 1  # values of identity[0]

_ROOT_SLOT = 1
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
        self._files = SlotIndex()
        self._free: array[int] = array("I")
        self._next = _ROOT_SLOT + 1  # the first slot that was never used
        self._extend()
        self._kept[_ROOT_SLOT] = root
        self._directories = {root.path: ROOT_NUMBER}
        self._slots = {ROOT_NUMBER: _ROOT_SLOT}  # of what has no packed number: directories and loose files
        self._loose: dict[int, int] = {}  # numbers of loose files by slot
        self._next_loose = _LOOSE
        self._sources: dict[Hashable, int] = {}
        self._by_source: list[Hashable] = []
        self._source: Hashable = None  # the last one
        self._source_first = 0  # the first number of its files
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
        """The number of ``entry``, whether the kernel knows it or not."""
        if entry.kind is Kind.DIRECTORY:
            number = self._directories.get(entry.path, 0)
            slot = self._slots[number] if number else 0
            number = number or self._number_of_directory(entry.path)
        else:
            identity = of, number = entry.identity
            slot = self._files.find(identity)
            if of is self._source and 0 <= number < _NUMBERS:
                number += self._source_first
            else:
                number = self._number_of_file(identity, slot)
        self._asked = entry, number, slot
        return number

    def directories(self) -> dict[tuple[bytes, ...], int]:
        """The numbers of the directories that the kernel knows, by path."""
        return dict(self._directories)

    def directory(self, path: tuple[bytes, ...]) -> Entry:
        """The directory at a path. Raises OSError(ESTALE) if the kernel does not know it."""
        return self.entry(self._directories.get(path, 0))

    def parent_of(self, number: int) -> int:
        """The number of the directory that a directory is in; of the root its own, as nothing beyond it is known."""
        if number == ROOT_NUMBER:
            return ROOT_NUMBER
        return self._directories.get(self.entry(number).path[:-1], ROOT_NUMBER)

    def replace_root(self, root: Entry) -> None:
        """The root of a newer version; it must have the same path. Its number stays."""
        self._kept[_ROOT_SLOT] = root

    def taken(self, number: int, entry: Entry) -> None:
        """Counts one reference more; call it when the kernel was told ``number`` for ``entry``."""
        asked, its_number, slot = self._asked
        if entry is not asked or number != its_number:
            if self.number_of(entry) != number:
                raise LookupCountError(f"inode {number} is not that of the entry")
            slot = self._asked[2]
        if slot == _ROOT_SLOT:
            self._kept[slot] = entry
            return
        if slot:
            self._counts[slot] += 1
            # It may be at another path today, a directory may have other times.
            self._renew(slot, entry)
        else:
            self._occupy(number, entry)

    def forget(self, number: int, references: int) -> None:
        """Takes back ``references``; with the last one the entry goes. The root stays whatever is given back.

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
            self._vacate(slot, number)

    # -- numbers

    def _number_of_file(self, identity: tuple[Hashable, int], slot: int) -> int:
        of, number = identity
        if of is not self._source:
            source = self._sources.get(of)
            if source is None:
                if len(self._by_source) >= _SOURCES_MOST:
                    return self._loose.get(slot, self._next_loose)
                source = self._sources[of] = len(self._by_source)
                self._by_source.append(of)
            self._source, self._source_first = of, (source << _NUMBER_BITS) + _FIRST
        if 0 <= number < _NUMBERS:
            return self._source_first + number
        return self._loose.get(slot, self._next_loose)

    def _number_of_directory(self, path: tuple[bytes, ...]) -> int:
        """That which it will have: most likely always the same, as a hash is nobody else's, or what comes next."""
        digest = int.from_bytes(blake2b(b"/".join(path), digest_size=8).digest(), "big")
        while (number := _DIRECTORY + digest % _HASHES) in self._slots:
            digest += 1
        return number

    def _slot_of(self, number: int) -> int:
        """Where a number that the kernel has stands; 0 for others."""
        if _FIRST <= number < _DIRECTORY:
            source, number = divmod(number - _FIRST, _NUMBERS)
            return self._files.find((self._by_source[source], number)) if source < len(self._by_source) else 0
        return self._slots.get(number, 0)

    # -- slots

    def _extend(self) -> None:
        self._kept.extend([None] * _SLOTS_AT_ONCE)
        self._homes.extend([None] * _SLOTS_AT_ONCE)
        self._counts.extend([0] * _SLOTS_AT_ONCE)

    def _occupy(self, number: int, entry: Entry) -> None:
        if self._free:
            slot = self._free.pop()
        else:
            slot = self._next
            self._next = slot + 1
            if self._next == len(self._kept):
                self._extend()
        if number < _DIRECTORY:
            self._files.add(entry.identity, slot)
            self._pack(slot, entry)
        elif number < _LOOSE:
            self._slots[number] = slot
            self._directories[entry.path] = number
            self._kept[slot] = entry
        else:
            self._slots[number] = slot
            self._files.add(entry.identity, slot)
            self._pack(slot, entry)
            self._loose[slot] = number
            self._next_loose += 1
        self._counts[slot] = 1
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

    def _vacate(self, slot: int, number: int) -> None:
        entry = self._entry_in(slot)
        if entry.kind is Kind.DIRECTORY:
            del self._directories[entry.path]
        else:
            self._files.remove(entry.identity)
            self._loose.pop(slot, None)
        self._slots.pop(number, None)
        self._kept[slot] = self._homes[slot] = None
        self._free.append(slot)
        self._asked = (self._asked[0], 0, 0)  # it may have been asked for before, and its slot is another's soon

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
