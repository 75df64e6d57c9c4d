"""Which slot of a table has which file: a map from identities to small numbers, for a million files in memory.

A dict of a million would take 170 MB with its keys and values. Identities are pairs of something that many files share
and a number, and files that lie together have numbers that do. So slots are in short arrays, one for each run of
numbers: some ten bytes for each file, 300 for one that is alone in its run.
"""

from __future__ import annotations

from array import array
from collections.abc import Hashable

_RUN_BITS = 5
_RUN = 1 << _RUN_BITS
_REST = _RUN - 1
_NONE = bytes(4 * _RUN)


class SlotIndex:
    """Slots, from 1 on, by the identity of the file in them."""

    def __init__(self) -> None:
        self._runs: dict[Hashable, dict[int, array[int]]] = {}
        self._used = 0

    def __len__(self) -> int:
        return self._used

    def find(self, identity: tuple[Hashable, int]) -> int:
        """The slot of a file; 0 if it was not added."""
        of, number = identity
        runs = self._runs.get(of)
        run = runs.get(number >> _RUN_BITS) if runs is not None else None
        return run[number & _REST] if run is not None else 0

    def add(self, identity: tuple[Hashable, int], slot: int) -> None:
        """A file that has no slot got one."""
        of, number = identity
        runs = self._runs.get(of)
        if runs is None:
            runs = self._runs[of] = {}
        run = runs.get(number >> _RUN_BITS)
        if run is None:
            run = runs[number >> _RUN_BITS] = array("I", _NONE)
        run[number & _REST] = slot
        self._used += 1

    def remove(self, identity: tuple[Hashable, int]) -> None:
        """A file that was added has no slot any more. Raises KeyError for others."""
        of, number = identity
        runs = self._runs[of]
        run = runs[number >> _RUN_BITS]
        if not run[number & _REST]:
            raise KeyError(identity)
        run[number & _REST] = 0
        self._used -= 1
        if not any(run):
            del runs[number >> _RUN_BITS]
            if not runs:
                del self._runs[of]
