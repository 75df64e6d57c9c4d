"""The bitfield of a register as a SLEEP file: which chunks and nodes are stored (sleep.md section 4)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from datfs.bitfield import Bitfield
from datfs.sleep import BITFIELD_HEADER, HEADER_BYTES, PAGE_BYTES, SleepFile
from datfs.storage import RandomAccess

DATA_BYTES = 1024
TREE_BYTES = 2048
CHUNKS_PER_PAGE = DATA_BYTES * 8
NODES_PER_BITFIELD_PAGE = TREE_BYTES * 8
PAGES_AT_ONCE = 64
_INDEX_BYTES = PAGE_BYTES - DATA_BYTES - TREE_BYTES
_CODE = bytes(3 if b == 255 else 1 if b else 0 for b in range(256))
_NIBBLE = (0, *(1,) * 14, 3)
_HALF = bytes(_NIBBLE[b >> 4] << 2 | _NIBBLE[b & 15] for b in range(256))


def _pages_of(first: int, stop: int) -> range:
    return range(first // CHUNKS_PER_PAGE, (stop - 1) // CHUNKS_PER_PAGE + 1)


class BitfieldFile(SleepFile):
    """The ``bitfield`` file: which chunks and nodes are stored. All bits are in memory.

    ``data``, ``tree``: the bits; change them only through the methods here, which note the pages to be written.
    ``stored``: the bits of chunks that the file may have: all of ``data``, unless :meth:`hold_back` was called.
    """

    def __init__(self, file: RandomAccess, read_only: bool) -> None:
        super().__init__(file, read_only, BITFIELD_HEADER)
        self.page_bytes = self.header.entry_size
        data, tree, rest = bytearray(), bytearray(), bytearray()
        for page in self._read_pages():
            data += page[:DATA_BYTES]
            tree += page[DATA_BYTES : DATA_BYTES + TREE_BYTES]
            rest += page[DATA_BYTES + TREE_BYTES :]
        self.data = self.stored = Bitfield(bytes(data))
        self.tree = Bitfield(bytes(tree))
        self._index = rest
        self._index_checked = False
        self.pages = len(data) // DATA_BYTES
        # A last page that is cut off is to be written whole.
        self._dirty = {self.pages - 1} if self.pages > self.entries else set()
        self._changed_groups: set[int] = set()  # groups of 32 chunks whose index bytes are stale
        # Of each page the newest snapshot that was not written, and what is to be written of it: less, if chunks were
        # cleared since. Asking memory at the time of writing would not do: the chunk may have come back meanwhile, with
        # bytes that no sync has covered.
        self._newest: dict[int, tuple[bytes, bytes]] = {}
        self._failed: list[int] = []  # pages to write again; another thread may append

    def _read_pages(self) -> Iterator[bytes]:
        """The pages; one that is cut off is filled up with zeros."""
        offset = HEADER_BYTES
        while pages := self.file.read(offset, PAGES_AT_ONCE * self.page_bytes):
            for at in range(0, len(pages), self.page_bytes):
                yield pages[at : at + self.page_bytes].ljust(self.page_bytes, b"\0")
            offset += len(pages)

    def hold_back(self) -> None:
        """From now on the bit of a chunk gets to the file only after :meth:`vouch`. Clearing one is not held back."""
        self.stored = Bitfield(self.data.to_bytes(0, len(self.data)))

    def vouch(self, first: int, stop: int) -> None:
        """The chunks ``first .. stop-1``, which are marked, may be marked in the file as well."""
        if first < stop:
            self.stored.set_range(first, stop, True)
            self._touch_data(first, stop)

    def set_data(self, index: int, on: bool = True) -> None:
        """Marks a chunk as stored or not."""
        changed = self.data.set(index, on)
        if self.stored is not self.data:
            changed = not on and self.stored.set(index, False)
        if changed:
            self._touch(index // CHUNKS_PER_PAGE)
            self._changed_groups.add(index >> 5)

    def set_data_range(self, first: int, stop: int, on: bool) -> None:
        """Marks chunks ``first .. stop-1``."""
        if first >= stop:
            return
        self.data.set_range(first, stop, on)
        if self.stored is not self.data:
            if on:
                return
            self.stored.set_range(first, stop, False)
        self._touch_data(first, stop)

    def _touch_data(self, first: int, stop: int) -> None:
        for page in _pages_of(first, stop):
            self._touch(page)
        self._changed_groups.update(range(first >> 5, ((stop - 1) >> 5) + 1))

    def set_tree(self, index: int, on: bool = True) -> None:
        """Marks a node as stored or not."""
        if self.tree.set(index, on):
            self._touch(index // NODES_PER_BITFIELD_PAGE)

    def set_nodes(self, indices: list[int], on: bool) -> None:
        """Marks many nodes as stored or not."""
        self.tree.set_many(indices, on)
        for page in {index // NODES_PER_BITFIELD_PAGE for index in indices}:
            self._touch(page)

    def _touch(self, page: int) -> None:
        self._dirty.add(page)
        self.pages = max(self.pages, page + 1)

    def snapshot(self) -> list[tuple[int, bytes]]:
        """The pages that differ from the file, as (page, bytes); they count as written unless :meth:`redo`."""
        while self._failed:
            self._dirty.add(self._failed.pop())
        if not self._dirty:
            return []
        if self.page_bytes == PAGE_BYTES:
            self._update_index()
        dirty, self._dirty = sorted(self._dirty), set()
        pages = [(number, self._page(number)) for number in dirty]
        self._newest.update((number, (page, page)) for number, page in pages)
        return pages

    def redo(self, pages: list[tuple[int, bytes]]) -> None:
        """Writing failed: these pages are to be written again. May be called from another thread."""
        self._failed.extend(number for number, _ in pages)

    def write_data_part(self, pages: list[tuple[int, bytes]]) -> None:
        """Writes of the pages that :meth:`write` would write only which chunks are stored. Raises OSError."""
        for number, page in self._unwritten(pages):
            self._write(self.offset_of(number), page[:DATA_BYTES])

    def write(self, pages: list[tuple[int, bytes]]) -> None:
        """Writes pages of a snapshot, except those of which there was a newer snapshot meanwhile. Raises OSError.

        An older page over a newer one would lose bits. Chunks that were cleared since are not brought back.
        """
        for number, page in self._unwritten(pages):
            self._write(self.offset_of(number), page)
            del self._newest[number]

    def _unwritten(self, pages: list[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
        newest = self._newest
        return [(number, newest[number][1]) for number, page in pages if number in newest and newest[number][0] is page]

    def take_away(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Takes the bits of chunks that memory no longer has from the file, durably, and adds none to it.

        So it need not wait for the contents of what was stored since the last flush. Raises OSError.
        """
        for number in sorted({n for first, stop in ranges for n in _pages_of(first, stop)}):
            if number in self._newest:
                snapshot, page = self._newest[number]
                self._newest[number] = snapshot, self._still_held(number, page[:DATA_BYTES]) + page[DATA_BYTES:]
            offset = self.offset_of(number)
            stored = self.file.read(offset, DATA_BYTES)
            left = self._still_held(number, stored)
            if left != stored:
                self._write(offset, left)
        self.sync()

    def _still_held(self, number: int, data: bytes) -> bytes:
        """Of the data bits of a page those that memory has too."""
        held = self.stored.to_bytes(number * CHUNKS_PER_PAGE, number * CHUNKS_PER_PAGE + 8 * len(data))
        return (int.from_bytes(held, "big") & int.from_bytes(data, "big")).to_bytes(len(data), "big")

    def _page(self, number: int) -> bytes:
        data = self.stored.to_bytes(number * CHUNKS_PER_PAGE, (number + 1) * CHUNKS_PER_PAGE)
        tree = self.tree.to_bytes(number * NODES_PER_BITFIELD_PAGE, (number + 1) * NODES_PER_BITFIELD_PAGE)
        # The pages before 6.22.3 have room for half of the index only; their bytes are left as they are.
        size = self.page_bytes - DATA_BYTES - TREE_BYTES
        rest = bytes(self._index[number * size : (number + 1) * size])
        return data + tree + rest.ljust(size, b"\0")

    def _update_index(self) -> None:
        """Brings the index part up to date: a tree over the data bytes, four to a leaf (sleep.md section 4).

        Changed index bytes may lie in pages other than the changed bits: parents do. What the file had is not
        trusted: the first time, all of it is made anew.
        """
        limit = self.pages * _INDEX_BYTES
        index = self._index
        index.extend(bytes(max(0, limit - len(index))))
        if not self._index_checked:
            self._index_checked = True
            self._changed_groups.update(range(limit // 2))
        level: set[int] = set()
        for group in self._changed_groups:
            level.add(2 * group)
            a, b, c, d = self.stored.to_bytes(group * 32, group * 32 + 32)
            self._set_index(2 * group, _CODE[a] << 6 | _CODE[b] << 4 | _CODE[c] << 2 | _CODE[d])
        self._changed_groups = set()
        half = 1
        while level:
            # Nodes of one depth: parents are at +half or -half, children of a parent at -half and +half.
            level = {i - half if (i >> 1) // half & 1 else i + half for i in level}
            level = {i for i in level if i < limit}
            for i in level:
                right = index[i + half] if i + half < limit else 0
                self._set_index(i, _HALF[index[i - half]] << 4 | _HALF[right])
            half *= 2

    def _set_index(self, i: int, value: int) -> None:
        if self._index[i] != value:
            self._index[i] = value
            self._dirty.add(i // _INDEX_BYTES)
