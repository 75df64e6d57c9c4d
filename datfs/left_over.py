"""Content chunks that no entry names, at the end of a writer's register: what an interrupted import left.

They are signed, so they stay for ever; a file that has the same bytes is taken from them instead of being appended
again, so that an import that goes on ends as if it had never stopped.
"""

from __future__ import annotations

import os

from datfs.crypto import leaf_hash
from datfs.hashed_file import CHUNK_BYTES
from datfs.register import Register


class LeftOver:
    """The chunks ``first .. stop-1`` of a register."""

    def __init__(self, content: Register, first: int) -> None:
        self._content = content
        self._first = min(first, content.length)
        self.stop = content.length

    def taken(self, stop: int) -> None:
        """The chunks before ``stop`` have an entry now."""
        self._first = max(self._first, min(stop, self.stop))

    def find(self, fd: int, size: int) -> tuple[int, int]:
        """Where a file's chunks are, as the first one and how many bytes of it are there; else the end and 0.

        All of them are there, or as many as there are up to the end of the register, so that the rest may follow.
        """
        end = self._content.length
        if self._first >= self.stop or not size:
            return end, 0
        leaf = leaf_hash(os.pread(fd, CHUNK_BYTES, 0))
        for first in range(self._first, self.stop):
            node = self._content.node(2 * first)
            if node is not None and node.hash == leaf and (done := self._matching(fd, size, first)):
                return first, done
        return end, 0

    def _matching(self, fd: int, size: int, first: int) -> int:
        """How many bytes of a file are those of the chunks from ``first`` on; 0 unless that is of use."""
        done, index = 0, first
        while done < size and index < self.stop:
            data = os.pread(fd, CHUNK_BYTES, done)
            node = self._content.node(2 * index)
            if node is None or node.size != len(data) or leaf_hash(data) != node.hash:
                return 0
            done, index = done + len(data), index + 1
        # A last chunk that is cut short cannot be gone on with.
        return done if done == size or (self.stop == self._content.length and not done % CHUNK_BYTES) else 0
