"""An open file of a drive: a run of content chunks seen as bytes (drive.md section 6).

A file's chunks are consecutive, and the content register keeps chunks at their true byte offset, so a file is one
contiguous range of the store whatever its chunk sizes are: a read that is known to be here is two comparisons and one
``pread``. Everything else (finding chunks, fetching, read-ahead) happens in :meth:`OpenFile.read`.

Chunk sizes are not part of the format. Which chunk holds a byte is guessed, then checked against the sizes in the
verified tree, and the guess is moved until it fits; what the metadata claims about the range is checked on the way.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from itertools import count

import trio

from datfs.crypto import leaf_hash
from datfs.errors import BadMetadata, CorruptStorage, NoPeers
from datfs.metadata import Stat
from datfs.sparse import Keeper, SparseRegister
from datfs.wants import Urgency

USUAL_CHUNK = 65_536  # what the reference splits files into
READ_AHEAD_FIRST = 256 * 1024
READ_AHEAD_MAX = 8 * 1024 * 1024
SEQUENTIAL_TOLERANCE = 512 * 1024  # the kernel's requests of one stream come out of order by this much
Ensure = Callable[[Iterable[int]], Awaitable[None]]
NOTED = 1024 * 1024  # bytes of a file whose use is noted together
READ_AHEAD_CHUNKS = 512  # bound on what one file wants ahead, however small its chunks are


class OpenFile:
    """Implements :class:`datfs.vfs.TreeFile` for one version of one file of a drive.

    ``shown``: the path for messages, escaped by the caller. ``ensure``: what to call, and what it raises, instead of
    :meth:`SparseRegister.ensure` for what a reader waits for. ``began``: called by :meth:`begin`.
    """

    def __init__(
        self,
        content: SparseRegister,
        stat: Stat,
        shown: str,
        *,
        ensure: Ensure | None = None,
        began: Callable[[], None] | None = None,
    ) -> None:
        self._content = content
        self._ensure = ensure or content.ensure
        self._began = began
        self._register = content.register
        self._stat = stat
        self._shown = shown
        self._base = stat.byte_offset
        self._first = stat.offset
        self._stop = stat.offset + stat.blocks
        # Bytes lo..hi of the file may be read without further questions. Empty until the first look.
        self._lo = 0
        self._hi = 0
        self._clears = content.clears  # what is present was looked up when so much had been cleared
        self._noted = (0, 0, -1)  # bytes whose use was noted, and when
        self._next = 0  # where a sequential reader would go on
        self._run = 0  # bytes read in a row so far
        self._ahead: list[int] = []
        self._reads = 0  # that wait
        self._turn = trio.Lock()
        if stat.size and content.trusted and content.has_range(self._first, self._stop):
            self._check_whole()
            self._hi = stat.size

    @property
    def complete(self) -> bool:
        """True if all chunks are here."""
        return self._content.has_range(self._first, self._stop)

    @property
    def news(self) -> int:
        """Chunks of the register that came, and what peers told."""
        return self._content.news

    def progress(self, offset: int, length: int) -> int:
        """See :class:`datfs.vfs.TreeFile`."""
        end = min(offset + length, self._stat.size)
        if offset >= end:
            return 0
        content, bits = self._content, self._register.data_bits
        first, stop = self._guess(offset), self._guess(end - 1) + 1
        here = bits.count(first, stop)
        missing = bits.next_clear(first, stop)
        if missing is not None and any(held.get(missing) for held in content.source.held_by_peers(content)):
            here += content.came
        return here

    def read_nowait(self, offset: int, length: int) -> bytes | None:
        """Bytes of the present extent; None if the range leaves it (then call :meth:`read`)."""
        end = offset + length
        if end > self._stat.size:
            end = self._stat.size
            if offset >= end:
                return b""
        if self._clears != self._content.clears:
            self._look_again()
        if offset < self._lo or end > self._hi:
            return None
        keeper = self._content.keeper
        if keeper is not None:
            first, last, tick = self._noted
            if offset < first or end > last or tick != keeper.tick:
                self._note(offset, end, keeper)
        return self._register.read(self._base + offset, end - offset)

    async def read(self, offset: int, length: int) -> bytes:
        """See :meth:`datfs.vfs.TreeFile.read`. Raises BadMetadata if the entry cannot be right."""
        end = min(offset + length, self._stat.size)
        if offset >= end:
            return b""
        self._plan_read_ahead(offset, end)
        if not self._reads:
            self._content.readers += 1
        self._reads += 1
        try:
            return await (self._read_in_turn if self._content.cramped else self._read)(offset, end)
        finally:
            self._reads -= 1
            if not self._reads:
                self._content.readers -= 1

    async def _read(self, offset: int, end: int) -> bytes:
        chunk, start, size = await self._find(offset, end)
        stop = chunk + 1
        reached = start + size
        while reached < end:
            await self._fetch(stop, min(self._guess_from(stop, reached, end), self._stop))
            reached += self._size_at(stop, reached)  # chunks lie one behind the other
            stop += 1
        if not self._content.trusted:
            return self._read_hashed(chunk, stop, offset, end)
        if self._content.keeper is not None:
            self._content.keeper.used(self._content, chunk, stop)
        if not self._content.has_range(chunk, stop):  # some were cleared while we waited for others
            return await self._read_in_turn(offset, end)
        self._widen(start, stop, reached)
        return self._register.read(self._base + offset, end - offset)

    def begin(self) -> None:
        """See :class:`datfs.vfs.TreeFile`."""
        if self._began is not None:
            self._began()

    def close(self) -> None:
        """Takes back what was wanted ahead."""
        self._content.drop(self._ahead, Urgency.SOON)
        self._ahead = []

    async def _read_in_turn(self, offset: int, end: int) -> bytes:
        """Takes the bytes of each chunk as soon as it is here: the cache may have no room for all of them at once.

        One read after the other, as the limit is passed by one chunk for each file.
        """
        async with self._turn:
            chunk, start, _ = await self._find(offset, offset + 1)
            pieces = []
            reached = start
            while reached < end:
                await self._fetch(chunk, chunk + 1)
                reached += self._size_at(chunk, reached)
                pieces.append(self._register.get(chunk))
                chunk += 1
        return b"".join(pieces)[offset - start : end - start]

    async def _find(self, offset: int, end: int) -> tuple[int, int, int]:
        """The chunk in which a read of ``offset .. end`` begins, and its place in the file: offset and size in bytes.

        Fetched with the others of the range. Raises BadMetadata, and as ``ensure`` does.
        """
        chunk = self._guess(offset)
        bounds = (self._first, self._stop)
        for attempt in count():
            # Ask for the whole range in one round; the first chunk decides whether the guess was right.
            await self._fetch(chunk, min(self._guess_from(chunk, offset, end), bounds[1]))
            start, size = self._place(chunk)
            if offset < start:
                bounds = (bounds[0], chunk)
            elif offset >= start + size:
                bounds = (chunk + 1, bounds[1])
            else:
                break
            chunk = self._closer(chunk, start, size, offset, bounds, attempt)
        return chunk, start, size

    # -- finding chunks

    def _guess(self, offset: int) -> int:
        blocks, size = self._stat.blocks, self._stat.size
        usual = -(-size // USUAL_CHUNK)
        step = USUAL_CHUNK if blocks == usual else max(1, size // blocks)
        return self._first + min(offset // step, blocks - 1)

    def _guess_from(self, chunk: int, offset: int, end: int) -> int:
        """The chunk after the last one that a read of ``offset .. end`` needs, if it begins in ``chunk``."""
        return max(chunk + 1, chunk + 1 + self._guess(end - 1) - self._guess(offset))

    def _closer(self, chunk: int, start: int, size: int, offset: int, bounds: tuple[int, int], attempt: int) -> int:
        low, stop = bounds
        if low >= stop:
            raise self._wrong(f"no chunk holds byte {offset}")
        step = max(1, size)
        moved = chunk + (offset - start) // step
        # Every second step halves what is left: sizes may be such that guesses come closer by one chunk at a time.
        if attempt % 2 or not low <= moved < stop:
            moved = (low + stop) // 2
        return moved

    async def _fetch(self, first: int, stop: int) -> None:
        content = self._content
        if content.has_range(first, stop):
            return
        self._check_length(stop)
        await self._ensure(range(first, stop))

    def _check_length(self, stop: int) -> None:
        """Refuses chunks that the writer never made, as far as that can be known."""
        known = self._register.length
        claimed = self._content.longest_claim
        if known and stop > known and claimed is not None and stop > claimed:
            raise self._wrong(f"it ends at chunk {stop}, the content register has only {known}")

    def _place(self, chunk: int) -> tuple[int, int]:
        """Where a held chunk lies in the file: offset and size in bytes, checked against the file's own bounds."""
        start = self._register.byte_offset(chunk) - self._base
        if chunk == self._first and start != 0:
            raise self._wrong(f"its first chunk {chunk} lies at byte {start + self._base}, not {self._base}")
        return start, self._size_at(chunk, start)

    def _size_at(self, chunk: int, start: int) -> int:
        """The size in bytes of a held chunk that lies at ``start`` in the file, checked against its bounds."""
        size = self._register.size_of(chunk)
        if start < 0 or start + size > self._stat.size:
            raise self._wrong(f"chunk {chunk} lies outside of it")
        if chunk == self._stop - 1 and start + size != self._stat.size:
            raise self._wrong(f"its chunks end at byte {start + size}, not {self._stat.size}")
        return size

    def _check_whole(self) -> None:
        self._place(self._first)
        self._place(self._stop - 1)

    def _wrong(self, why: str) -> BadMetadata:
        return BadMetadata(f"{self._shown}: the drive's entry does not fit its content: {why}")

    # -- read-ahead and the present extent

    def _plan_read_ahead(self, offset: int, end: int) -> None:
        """Grows with the distance read in a row, is dropped by a seek; nothing for the first, isolated read.

        Reads inside of the extent were answered without coming here: a reader may be anywhere up to its end.
        """
        reached = max(self._next, self._hi)
        in_row = self._next - SEQUENTIAL_TOLERANCE <= offset <= reached + SEQUENTIAL_TOLERANCE
        if in_row and (self._run or offset in (self._next, reached)):
            self._run += max(0, end - self._next)
            self._next = max(self._next, end)
        else:
            self._run = 0
            self._next = end
        register = self._register
        window = 0
        if self._run > end - offset:
            window = min(max(READ_AHEAD_FIRST, self._run), READ_AHEAD_MAX, self._content.read_ahead_most)
        ahead: list[int] = []
        if window and self._hi < self._stat.size:
            first = self._guess(end - 1) + 1
            stop = min(self._guess(min(end + window, self._stat.size) - 1) + 1, first + READ_AHEAD_CHUNKS)
            ahead = [index for index in range(first, stop) if not register.has(index)]
        old, self._ahead = self._ahead, ahead
        self._content.want(ahead, Urgency.SOON)
        self._content.drop(old, Urgency.SOON)
        if ahead:
            self._content.source.wants_changed(self._content)

    def _widen(self, start: int, stop: int, reached: int) -> None:
        """Makes the run of held chunks round ``start .. reached`` the present extent.

        While chunks are missing the extent ends where read-ahead wants to be asked again.
        """
        if self._clears != self._content.clears:
            self._look_again()
        register = self._register
        limit = min(self._stop, stop + READ_AHEAD_CHUNKS)
        gap = register.data_bits.next_clear(stop, limit)
        last = limit if gap is None else gap
        if last > stop:
            reached = register.byte_offset(last - 1) + register.size_of(last - 1) - self._base
        if self._lo <= start <= self._hi:
            start = self._lo
        if reached > self._stat.size:
            raise self._wrong("its chunks are longer than it")
        self._lo, self._hi = start, reached
        if start == 0 and last == self._stop and register.has_range(self._first, self._stop):
            self._hi = self._stat.size
            return
        # Half of the window is still unread when the next one is asked for.
        window = min(max(READ_AHEAD_FIRST, self._run), READ_AHEAD_MAX)
        self._hi = min(self._hi, max(self._next + window // 2, start))

    def _look_again(self) -> None:
        """Chunks were cleared: what was present may be a hole by now."""
        content = self._content
        self._clears = content.clears
        self._lo = self._hi = 0
        if content.trusted and content.has_range(self._first, self._stop):
            with suppress(BadMetadata):  # then nothing is known to be here, and :meth:`read` says what is wrong
                self._check_whole()
                self._hi = self._stat.size

    def _note(self, offset: int, end: int, keeper: Keeper) -> None:
        """Notes that about these bytes were read: once a second for each :data:`NOTED`, not for each read."""
        first = offset - offset % NOTED
        last = min(end + -end % NOTED, self._stat.size)
        keeper.used(self._content, self._guess(first), self._guess(last - 1) + 1)
        self._noted = (first, last, keeper.tick)

    # -- stores that others may change

    def _read_hashed(self, first: int, stop: int, offset: int, end: int) -> bytes:
        """Reads whole chunks and compares each with its verified hash before any byte of it is shown."""
        register = self._register
        pieces = []
        for chunk in range(first, stop):
            try:
                value = register.get(chunk)
            except CorruptStorage:
                if not self._content.shared:
                    raise
                value = b""
            node = register.node(2 * chunk)
            if node is None or node.size != len(value) or leaf_hash(value) != node.hash:
                if self._content.shared:
                    raise NoPeers(f"{self._shown}: the process that owns the cache has dropped content chunk {chunk}")
                raise CorruptStorage(
                    f"{self._shown}: the file was changed after it was added to the drive (content chunk {chunk} "
                    "no longer has the signed hash)",
                    store="content.data",
                    offset=register.byte_offset(chunk),
                )
            pieces.append(value)
        start = register.byte_offset(first) - self._base
        return b"".join(pieces)[offset - start : end - start]
