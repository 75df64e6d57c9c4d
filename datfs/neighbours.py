"""Small files of one folder that are opened one after the other: the next ones are fetched before they are asked for.

Copying, packing and searching a folder goes through its files in the order of the listing, which is the one in which
they were added and in which their chunks lie. Each would cost a round trip of its own. Nothing is fetched ahead for a
file that is opened alone. Knows numbers of chunks only; names, and which tree it is, are the caller's.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Sequence

from datfs.metadata import Stat
from datfs.sparse import SparseRegister
from datfs.wants import Urgency

SMALL = 65_536  # bytes of a small file; of one chunk, too
IN_A_ROW = 3  # with this one it begins
SKIPPED_MOST = 8  # files passed over, or opened late, by somebody who reads several at once or chooses some
AHEAD_FILES = 64
AHEAD_BYTES = 1024 * 1024
FOLDERS_KEPT = 8  # read at the same time


class _Folder:
    """``seqs``: the metadata chunks of its files, ascending. Places are indices into it."""

    def __init__(self, seqs: Sequence[int]) -> None:
        self.seqs = seqs
        self.last = -1
        self.in_a_row = 0
        self.planned = 0  # places before this one were looked at
        self.ahead: deque[tuple[int, int]] = deque()  # place, and the chunk that is wanted for it

    def moved_to(self, place: int) -> bool:
        """Notes that a file was opened. False if it does not follow the one before."""
        if self.last - SKIPPED_MOST <= place <= self.last:
            return True
        follows = self.last < place <= self.last + SKIPPED_MOST + 1
        self.in_a_row = self.in_a_row + 1 if follows and self.in_a_row else 1
        self.last = place
        return follows


class Neighbours:
    """``stat_of``: the attributes that a metadata chunk gives, None if it gives none."""

    def __init__(self, content: SparseRegister, stat_of: Callable[[int], Stat | None]) -> None:
        self._content = content
        self._stat_of = stat_of
        self._folders: OrderedDict[Hashable, _Folder] = OrderedDict()

    def opened(self, name: Hashable, files: Callable[[], Sequence[int]], seq: int, stat: Stat) -> None:
        """A file of metadata chunk ``seq`` was opened.

        ``name``: of its folder, another one for each version. ``files``: the metadata chunks of all files in it,
        ascending; called if something has to be fetched.
        """
        if not _is_small(stat):
            return
        folder = self._folders.get(name)
        if folder is None:
            if self._content.register.has(stat.offset):
                return
            folder = self._folders[name] = _Folder(files())
        self._folders.move_to_end(name)
        if len(self._folders) > FOLDERS_KEPT:
            self._drop(self._folders.popitem(last=False)[1], None)
        place = bisect_left(folder.seqs, seq)
        follows = folder.moved_to(place)
        self._drop(folder, place - SKIPPED_MOST if follows else None)
        if not follows:
            folder.planned = 0
        if folder.in_a_row >= IN_A_ROW and folder.planned <= folder.last + AHEAD_FILES // 2:
            self._plan(folder)

    def _plan(self, folder: _Folder) -> None:
        chunks: list[int] = []
        first = max(folder.planned, folder.last + 1)
        last = min(folder.last + 1 + AHEAD_FILES, len(folder.seqs))
        size = 0
        folder.planned = max(folder.planned, last)
        for place in range(first, last):
            stat = self._stat_of(folder.seqs[place])
            if stat is None or not _is_small(stat) or self._content.register.has(stat.offset):
                continue
            size += stat.size
            if size > AHEAD_BYTES:
                folder.planned = place
                break
            folder.ahead.append((place, stat.offset))
            chunks.append(stat.offset)
        if chunks:
            self._content.want(chunks, Urgency.SOON)
            self._content.source.wants_changed(self._content)

    def _drop(self, folder: _Folder, before: int | None) -> None:
        """Takes back what is wanted for places before ``before``, or all."""
        chunks: list[int] = []
        while folder.ahead and (before is None or folder.ahead[0][0] < before):
            chunks.append(folder.ahead.popleft()[1])
        self._content.drop(chunks, Urgency.SOON)


def _is_small(stat: Stat) -> bool:
    return stat.kind == "file" and stat.blocks == 1 and stat.size <= SMALL
