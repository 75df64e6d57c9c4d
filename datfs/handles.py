"""What programs hold open in a mount: of files who opened them and what failed a moment ago, of directories a snapshot.

Knows no FUSE; when to wait for what, :mod:`datfs.fuse_ops` decides.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from datfs.signals import Look, program_of
from datfs.vfs import Entry, FileTree, TreeFile

# When a read through the page cache fails, the kernel asks up to twice more for the same page before it tells
# the program. For this long after a time-out such a question is answered at once, lest the program wait three
# times; but not if something came (TreeFile.progress): on a slow link it may only be what is read ahead that is late.
ECHO_SECONDS = 0.5


@dataclass(slots=True)
class Handle:
    """``inode``: its number. ``opener``: the thread, and ``program`` that it is of, once it matters."""

    inode: int
    opener: int
    program: int = field(default=0, init=False)

    def find_program(self) -> None:
        """To be called before :meth:`is_called`, and soon: the thread may end before the program."""
        self.program = self.program or program_of(self.opener)

    def is_called(self, look: Look) -> bool:
        """Whether a reader of it has to answer a signal."""
        return look.reader_is_called(self.program, self.inode)


@dataclass(slots=True)
class FileHandle(Handle):
    """``late``: the range that last timed out, and when (trio's clock). ``waiting``: reads by offset, size, start.

    ``denied``: nothing is fetched for it.
    ``interrupted``: the same of a read that was given up because of a signal; ``left``: if it was so twice. The program
    came back after its handler ran, as one that has the file mapped must; it goes on when the read fails.
    """

    file: TreeFile
    entry: Entry
    buffered: bool
    denied: bool = False
    interrupted: tuple[int, int, float] = (0, 0, -math.inf)
    left: tuple[int, int, float] = (0, 0, -math.inf)
    late: tuple[int, int, float] = (0, 0, -math.inf)
    waiting: set[tuple[int, int, float]] = field(default_factory=set)

    def note_late(self, offset: int, end: int, now: float) -> None:
        """A read of this range timed out."""
        first, last, when = self.late
        if now - when < ECHO_SECONDS:
            offset, end = min(offset, first), max(end, last)
        self.late = (offset, end, now)

    def is_echo(self, offset: int, end: int, now: float) -> bool:
        """Whether a read of this range is the kernel's second question about one that failed."""
        if now - self.left[2] < ECHO_SECONDS and _overlap(self.left, offset, end):
            return True
        return self.buffered and now - self.late[2] < ECHO_SECONDS and _overlap(self.late, offset, end)

    def note_interrupted(self, offset: int, end: int, now: float) -> None:
        """A read of this range was given up because of a signal."""
        if _overlap(self.interrupted, offset, end):
            self.left = (offset, end, now)
        self.interrupted = (offset, end, now)


@dataclass(slots=True)
class DirectoryHandle(Handle):
    """``listing``: what it lists, and the tree that is of; None before it is read. ``parent``: the inode of ``..``."""

    parent: int
    listing: tuple[FileTree, Sequence[Entry]] | None = None

    def is_called(self, look: Look) -> bool:
        """As of any handle. Its program is found out only now: nearly all listings are answered before a look."""
        self.find_program()
        return Handle.is_called(self, look)


def _overlap(before: tuple[int, int, float], offset: int, end: int) -> bool:
    return offset < before[1] and end > before[0]
