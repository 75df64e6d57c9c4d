"""Keeping a cache below its limit while drives are read: whether a chunk may be stored, and which ones go for it.

:class:`CacheKeeper` is the :class:`datfs.sparse.Keeper` of one open drive. It notes when chunks are used, limit or
not, so that ``datfs cache prune`` and later mounts know what is old. With a limit it makes room *before* a chunk is
stored: first by a greater grant (:mod:`datfs.room`), then by giving up what was used longest ago, of this drive or of
one that nobody has open. A chunk for which there is no room even so is stored only if a reader waits for it, and is
the next to go, pinned or not: so the limit is passed by one chunk for each file that is being read at most.

Everything happens in one thread and without waiting but for the disk; :meth:`CacheKeeper.run` does the slow things,
once a second.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import trio

from datfs.cache_drives import NEVER, IdleDrives, begin_to_fill, end_in_order, is_own, runs_of
from datfs.chunk_uses import ChunkUses, microseconds
from datfs.errors import DatfsError
from datfs.pins import PinnedChunks
from datfs.register import Register
from datfs.room import SharedRoom, space_of
from datfs.sparse import SparseRegister
from datfs.text import show_size

log = logging.getLogger(__name__)

TICK = 1.0
SAVE_TICKS = 10  # uses are written down this often
LOOK_TICKS = 30  # drives that nobody has open are looked at again this often
BATCH_MOST = 16 << 20  # bytes given up at a time
READ_PAUSE = 0.01  # after so long a reader has taken the chunk for which the limit was passed
BLOCK = 4096
SLACK_MOST = 256 << 10  # kept free for tree and bitfield, which are written at the next flush
READ_AHEAD_PART = 8  # read-ahead of one file may fill this part of the limit

Retract = Callable[[SparseRegister, int, int], None]


class CacheKeeper:
    """The keeper of one drive in the cache. ``limit``: bytes for all of ``cache_dir``; None for no limit.

    ``retract``: told of chunks that are held no longer, so that peers learn of it. Raises OSError.
    """

    def __init__(
        self,
        folder: Path,
        metadata: Register,
        retract: Retract,
        *,
        cache_dir: Path,
        limit: int | None = None,
        clock: Callable[[], int] = microseconds,
    ) -> None:
        self.tick = 0
        self.uses = ChunkUses.load(folder, clock)
        self._folder = folder
        self._retract = retract
        self._content: SparseRegister | None = None
        self._pinned = PinnedChunks(folder, metadata)
        self._idle = IdleDrives(cache_dir, folder)
        self._room = SharedRoom(cache_dir, folder, limit) if limit is not None else None
        self._settled = False
        self._crashed = begin_to_fill(folder)  # and its content was not looked at yet
        if self._crashed and not metadata.writable:
            metadata.reclaim()
        self._used = space_of(folder)
        self._queue: Iterator[tuple[int, int]] = iter(())
        self._next: tuple[int, int] | None = None
        self._said = False
        self._passed = trio.Event()  # the limit is passed, for a chunk that a reader waits for
        self._over: set[int] = set()  # these chunks: pinned or not, they are the next to go

    @property
    def limit(self) -> int | None:
        """Bytes of disk that the cache may take, None for no limit."""
        return self._room.limit if self._room is not None else None

    def watch(self, content: SparseRegister) -> None:
        """The drive's content is open: from now on its uses are noted, and its chunks can be given up.

        After a crash its data file is freed of what is not held. Raises OSError.
        """
        self._content = content
        content.keeper = self
        if self._crashed:
            if not self._is_own(content):
                content.register.reclaim()
            self._crashed = False
            self._used = space_of(self._folder)
        if self._room is not None:
            content.read_ahead_most = self._room.limit // READ_AHEAD_PART

    def settled(self) -> None:
        """The registers were closed in order, and the store is ours yet. A second call does nothing. Raises OSError."""
        if not (self._crashed or self._settled):
            end_in_order(self._folder)
        self._settled = True

    def close(self) -> None:
        """Writes the uses down and gives the grant back. The registers are still open. Raises OSError."""
        try:
            self._save()
        finally:
            if self._room is not None:
                self._room.close()
                self._room = None

    def _save(self) -> None:
        if self._content is not None:
            self.uses.save(self._folder, self._content.register.data_bits)

    # -- what readers and peers cause

    def used(self, register: SparseRegister, first: int, stop: int) -> None:
        """See :class:`datfs.sparse.Keeper`."""
        if register is self._content:
            self.uses.note(first, stop)

    def admit(self, register: SparseRegister, index: int, size: int) -> bool:
        """See :class:`datfs.sparse.Keeper`."""
        room, content = self._room, self._content
        blocks = (size + 2 * BLOCK - 1) & -BLOCK
        if room is not None and self._used + blocks > room.granted - self._slack and not self._make_room(room, blocks):
            if register is content and not self._may_pass(content, index):
                return False
            self._passed.set()
        self._used += blocks
        if register is content:
            self.uses.note(index, index + 1)
        return True

    def _may_pass(self, content: SparseRegister, index: int) -> bool:
        """Whether a chunk may be stored although there is no room: one for each file that is read."""
        content.cramped = True
        if not content.is_in_hand(index):
            return False
        self._drop_passed()
        if len(self._over) >= max(1, content.readers):
            return False
        self._over.add(index)
        return True

    def _drop_passed(self) -> None:
        """Gives up chunks for which there was no room, those that were read since. Raises OSError."""
        content = self._content
        if content is None:
            return
        held = {index for index in self._over if content.register.has(index)}
        self._over = {index for index in held if content.is_in_hand(index)}
        if (read := held - self._over) and not self._is_own(content):
            self._clear(content, sorted(read))

    def _is_own(self, content: SparseRegister) -> bool:
        return content.register.writable or is_own(self._folder)

    @property
    def _slack(self) -> int:
        assert self._room is not None
        return min(self._room.limit // 32, SLACK_MOST)

    def _make_room(self, room: SharedRoom, need: int) -> bool:
        """Whether ``need`` bytes fit, after all that can be done for it."""
        self._used = space_of(self._folder)
        batch = min(room.limit // 64, BATCH_MOST)
        while (lacking := self._used + need + self._slack - room.granted) > 0:
            if room.ask(room.granted + lacking):
                break
            lacking = max(self._used + need + self._slack - room.granted, batch)
            own = self._oldest_own()
            other, _ = self._idle.oldest()
            if other < NEVER and other <= own and self._idle.free(lacking, own):
                continue
            if not self._give_up(lacking):
                break
            batch = min(2 * batch, BATCH_MOST)  # small chunks share blocks: little may have come free
        fits = self._used + need <= room.granted - self._slack
        if not fits and not self._said:
            log.warning(
                "the cache is full (--cache-size %s) of what cannot be given up: chunks are fetched and not kept",
                show_size(room.limit),
            )
            self._said = True
        return fits

    # -- giving up chunks of this drive

    def _candidates(self) -> Iterator[tuple[int, int]]:
        """What may go now, longest unused first; looks at each chunk again when its turn comes."""
        content = self._content
        if content is None or self._is_own(content):
            return
        when = self.uses.when
        # As many as may go: were those that are pinned sorted too, a cache full of them would take long for each chunk.
        for time, index in self.uses.by_age(self._pinned.others(content.register.data_bits)):
            if when(index) == time:
                yield time, index

    def _peek(self, *, go_on: bool = False) -> tuple[int, int] | None:
        """The next chunk to go; None if none may. ``go_on``: only of those looked at before."""
        content = self._content
        if content is None or self._everything_is_pinned():
            return None
        for last in (go_on, True):
            if self._next is None:
                self._next = next(self._queue, None)
            while self._next is not None:
                time, index = self._next
                fresh = content.register.has(index) and self.uses.when(index) == time
                if fresh and index not in self._pinned and not content.is_in_hand(index):
                    return self._next
                self._next = next(self._queue, None)
            if last:
                break
            self._queue = self._candidates()
        return None

    def _everything_is_pinned(self) -> bool:
        try:
            return self._pinned.everything
        except (DatfsError, OSError) as error:
            if not self._said:
                log.warning("nothing of this drive is given up, as its pins cannot be read: %s", error)
            self._said = True
            return True

    def _oldest_own(self) -> int:
        found = self._peek()
        return found[0] if found is not None else NEVER

    def _give_up(self, need: int) -> bool:
        """Clears about ``need`` bytes of chunks, more if they were small; False if nothing may go. Raises OSError."""
        content = self._content
        chosen: list[int] = []
        gathered = 0
        while gathered < need and (found := self._peek(go_on=bool(chosen))) is not None:
            assert content is not None
            chosen.append(found[1])
            gathered += content.register.size_of(found[1])
            self._next = None
        if not chosen:
            return False
        assert content is not None
        self._clear(content, chosen)
        return True

    def _clear(self, content: SparseRegister, indices: Sequence[int]) -> None:
        runs = runs_of(indices)
        content.clear_ranges(runs)
        self._used = space_of(self._folder)
        for first, stop in runs:
            self._retract(content, first, stop - first)

    # -- now and then

    async def run(self) -> None:
        """Counts seconds, writes down uses, and comes down to what others leave, until cancelled."""
        while True:
            end = trio.current_time() + TICK
            self._try(self.look)
            while trio.current_time() < end:
                self._passed = trio.Event()
                with trio.move_on_at(end):
                    await self._passed.wait()
                    await trio.sleep(READ_PAUSE)
                    self._try(self.come_down)

    def _try(self, what: Callable[[], None]) -> None:
        try:
            what()
        except OSError as error:
            log.warning("the cache's limit cannot be kept at the moment: %s", error)

    def look(self) -> None:
        """What is to be done once a second. Raises OSError."""
        self.tick += 1
        if self.tick % SAVE_TICKS == 0:
            self._save()
        if self.tick % LOOK_TICKS == 0:
            self._idle.forget()
        self.come_down()
        room, content = self._room, self._content
        if room is None or content is None or not content.cramped:
            return
        if room.ask(self._used + BLOCK + self._slack):
            self._said = False
            content.room_again()

    def come_down(self) -> None:
        """Gives up what is over the limit, or too much as others lack room. Raises OSError."""
        if self._room is None:
            return
        self._used = space_of(self._folder)
        room = self._room
        aim = room.settle(self._used)
        too_much = self._used > aim
        if too_much:
            self._drop_passed()
        else:
            self._over.clear()  # by now there is room for them
        while self._used > aim:
            if self._idle.free(self._used - aim, self._oldest_own()):
                aim = room.settle(self._used)
            elif not self._give_up(min(self._used - aim, BATCH_MOST)):
                break
        if too_much:
            room.lower(max(self._used, aim))

    def prune(self, need: int) -> int:
        """Gives up chunks of this drive until ``need`` bytes are free, as far as it can; returns how many are."""
        before = self._used = space_of(self._folder)
        while before - self._used < need and self._give_up(need - (before - self._used)):
            pass
        return max(0, before - self._used)
