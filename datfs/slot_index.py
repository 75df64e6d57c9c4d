"""Which slot of a table has a thing: a hash table of small numbers in two arrays, for a million things in memory.

A dict of a million would take 100 MB with its keys and values; this takes some twelve bytes each. What is in a slot,
the owner of the table knows: it gives hashes, and says of a slot with the right hash whether it is the right one.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")
_HASH = 2**32 - 1
_SMALLEST = 64


class SlotIndex(Generic[T]):
    """Slots from 1 on by the hashes of what is in them; open addressing with linear probing.

    ``is_in(slot, thing)``: whether a slot has it.
    """

    def __init__(self, is_in: Callable[[int, T], bool]) -> None:
        self._is_in = is_in
        self._places = array("I", bytes(4 * _SMALLEST))  # slots; 0 is none
        self._hashes: array[int] = array("I")  # by slot, the low half
        self._mask = _SMALLEST - 1
        self._used = 0

    def __len__(self) -> int:
        return self._used

    def find(self, hashed: int, thing: T) -> int:
        """The slot that has ``thing``, whose hash is given; 0 if none has."""
        hashed &= _HASH
        places, hashes, mask = self._places, self._hashes, self._mask
        place = hashed & mask
        while slot := places[place]:
            if hashes[slot] == hashed and self._is_in(slot, thing):
                return slot
            place = (place + 1) & mask
        return 0

    def add(self, hashed: int, slot: int) -> None:
        """A slot got something. It must not be known here, nor be far beyond all that were."""
        hashes = self._hashes
        while slot >= len(hashes):
            hashes.append(0)
        hashes[slot] = hashed & _HASH
        self._used += 1
        if 3 * self._used > 2 * len(self._places):
            self._grow()
        self._place(slot)

    def remove(self, slot: int) -> None:
        """A slot that was added has nothing any more."""
        places, hashes, mask = self._places, self._hashes, self._mask
        gap = hashes[slot] & mask
        while places[gap] != slot:
            gap = (gap + 1) & mask
        # What was pushed on past the gap moves back into it, so that no search ends too early.
        place = gap
        while other := places[place := (place + 1) & mask]:
            if (place - hashes[other]) & mask >= (place - gap) & mask:
                places[gap] = other
                gap = place
        places[gap] = 0
        self._used -= 1

    def _place(self, slot: int) -> None:
        places, mask = self._places, self._mask
        place = self._hashes[slot] & mask
        while places[place]:
            place = (place + 1) & mask
        places[place] = slot

    def _grow(self) -> None:
        before = self._places
        self._places = array("I", bytes(8 * len(before)))
        self._mask = len(self._places) - 1
        for slot in before:
            if slot:
                self._place(slot)
