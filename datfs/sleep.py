"""SLEEP files: headers, tree nodes, signatures (sleep.md sections 1 to 3); bitfields: :mod:`datfs.bitfield_file`.

Each class owns one file of a register. All three write behind: what changes stays in memory until ``flush``, so that
the register decides what reaches the disk in which order (``docs/storage.md``).
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from itertools import groupby

from datfs.crypto import HASH_BYTES, SIGNATURE_BYTES, TreeNode
from datfs.errors import BadStore
from datfs.storage import Buffer, RandomAccess, Syncer

MAGIC = b"\x05\x02\x57"
HEADER_BYTES = 32
_NODE = struct.Struct(f">{HASH_BYTES}sQ")
_NO_HASH = bytes(HASH_BYTES)
NODE_BYTES = _NODE.size
ALGORITHM_MOST = 24


class FileType(IntEnum):
    """Byte 3 of a header."""

    BITFIELD = 0
    SIGNATURES = 1
    TREE = 2


@dataclass(frozen=True, slots=True)
class Header:
    """The first 32 bytes of a SLEEP file. ``entry_size``: bytes of one entry, or of one page of a bitfield."""

    type: int
    version: int
    entry_size: int
    algorithm: str

    def encode(self) -> bytes:
        """The 32 bytes."""
        name = self.algorithm.encode("ascii")
        head = MAGIC + bytes((self.type, self.version)) + self.entry_size.to_bytes(2, "big")
        return (head + bytes((len(name),)) + name).ljust(HEADER_BYTES, b"\0")


PAGE_BYTES = 3584
OLD_PAGE_BYTES = 3328  # hypercore before 6.22.3
TREE_HEADER = Header(FileType.TREE, 0, NODE_BYTES, "BLAKE2b")
SIGNATURES_HEADER = Header(FileType.SIGNATURES, 0, SIGNATURE_BYTES, "Ed25519")
BITFIELD_HEADER = Header(FileType.BITFIELD, 0, PAGE_BYTES, "")


def describe(data: bytes, name: str) -> Header:
    """The header of any SLEEP file, also of kinds we would not open. Raises BadStore, naming file and offset."""
    if len(data) < HEADER_BYTES:
        raise BadStore(f"{name}: the header is cut off: {len(data)} of {HEADER_BYTES} bytes")
    if data[:3] != MAGIC:
        raise BadStore(f"{name}: not a SLEEP file: it begins with {data[:3].hex()}, not {MAGIC.hex()} (offset 0)")
    length = data[7]
    if length > ALGORITHM_MOST:
        raise BadStore(f"{name}: the algorithm's name has {length} bytes, at most {ALGORITHM_MOST} fit (offset 7)")
    algorithm = data[8 : 8 + length].decode("ascii", "backslashreplace")
    return Header(data[3], data[4], int.from_bytes(data[5:7], "big"), algorithm)


def check_header(data: bytes, name: str, expected: Header) -> Header | None:
    """The header of a file that we want to trust; None if the file is still empty. Raises BadStore."""
    if not data:
        return None
    found = describe(data, name)
    if found.type != expected.type:
        raise BadStore(f"{name}: a SLEEP file of type {found.type}, not {expected.type} (offset 3)")
    if found.version != expected.version:
        raise BadStore(f"{name}: SLEEP version {found.version} is not known, only {expected.version} (offset 4)")
    sizes = (PAGE_BYTES, OLD_PAGE_BYTES) if expected.type == FileType.BITFIELD else (expected.entry_size,)
    if found.entry_size not in sizes:
        raise BadStore(f"{name}: entries of {found.entry_size} bytes, not {expected.entry_size} (offset 5)")
    if found.algorithm != expected.algorithm:
        raise BadStore(f"{name}: algorithm {found.algorithm!r}, not {expected.algorithm!r} (offset 8)")
    return found


class SleepFile:
    """What the three files of a register have in common: the header, and whether something is still to be synced.

    ``fresh``: nothing is in it yet, not even a whole header; :meth:`begin` makes one. Making a file may be cut short
    by a crash, so a file of at most 32 bytes counts as fresh if they begin a right header, or are zeros.
    """

    def __init__(self, file: RandomAccess, read_only: bool, expected: Header) -> None:
        self.file = file
        self.header = expected
        self._read_only = read_only
        self._syncer = Syncer(file)
        head = file.read(0, HEADER_BYTES)
        unfinished = len(head) < HEADER_BYTES or not any(head)
        self.fresh = unfinished and expected.encode().startswith(head.rstrip(b"\0")) and file.size() <= HEADER_BYTES
        if not self.fresh:
            found = check_header(head, file.name, expected)
            assert found is not None  # an empty file is fresh
            self.header = found

    def begin(self) -> None:
        """Writes the header of a fresh file, unless read-only, and makes it durable. Raises OSError.

        Durable before anything else: a file without a header that has contents is damage then, never a crash, and a
        writer is not led to begin anew over what it signed already.
        """
        if self.fresh and not self._read_only:
            self._write(0, self.header.encode())
            self.sync()

    def _write(self, offset: int, data: Buffer) -> None:
        self.file.write(offset, data)
        self._syncer.written()

    def sync(self) -> None:
        """Makes durable what was written. May be called from another thread. Raises OSError."""
        self._syncer.sync()

    @property
    def entries(self) -> int:
        """How many whole entries (or pages) the file has room for."""
        return max(0, self.file.size() - HEADER_BYTES) // self.header.entry_size

    def offset_of(self, entry: int) -> int:
        """Where an entry begins, in bytes."""
        return HEADER_BYTES + entry * self.header.entry_size


NODES_PER_PAGE = 128  # small: a proof of some chunk of a million touches a dozen pages, most of them for one node
NODE_PAGES_KEPT = 1024  # 5 MiB
FLUSH_JOIN = 1 << 20  # neighbouring pages are written together, up to about this many bytes
_NODE_PAGE = NODES_PER_PAGE * NODE_BYTES


class _NodePage:
    """Nodes in memory, and which of them differ from the file: ``low .. high`` in bytes, empty if low >= high."""

    __slots__ = ("data", "high", "low")

    def __init__(self, data: bytearray) -> None:
        self.data = data
        self.low = _NODE_PAGE
        self.high = 0


class NodeFile(SleepFile):
    """The ``tree`` file. A lookup in a page that is in memory makes no system call."""

    def __init__(self, file: RandomAccess, read_only: bool) -> None:
        super().__init__(file, read_only, TREE_HEADER)
        self._size = file.size()
        self._pages: OrderedDict[int, _NodePage] = OrderedDict()
        self._dirty: dict[int, _NodePage] = {}
        self._last = -1
        self._last_page: _NodePage | None = None

    def _page(self, number: int) -> _NodePage:
        if number == self._last and self._last_page is not None:
            return self._last_page
        page = self._pages.get(number) or self._dirty.get(number)
        if page is None:
            offset = self.offset_of(number * NODES_PER_PAGE)
            data = self.file.read(offset, _NODE_PAGE) if offset < self._size else b""
            page = _NodePage(bytearray(data.ljust(_NODE_PAGE, b"\0")))
        self._pages[number] = page
        self._pages.move_to_end(number)
        if len(self._pages) > NODE_PAGES_KEPT:
            self._pages.popitem(last=False)  # a dirty page stays in _dirty
        self._last, self._last_page = number, page
        return page

    def get(self, index: int) -> TreeNode | None:
        """The node, None if nothing is stored there."""
        number, slot = divmod(index, NODES_PER_PAGE)
        digest, size = _NODE.unpack_from(self._page(number).data, slot * NODE_BYTES)
        if not size and digest == _NO_HASH:
            return None
        return TreeNode(index, digest, size)

    def leaf_sizes(self, first: int, stop: int) -> list[int]:
        """The sizes of chunks ``first .. stop-1``, 0 where nothing is stored."""
        sizes: list[int] = []
        while first < stop:
            number, slot = divmod(2 * first, NODES_PER_PAGE)
            count = min(stop - first, (NODES_PER_PAGE - slot + 1) // 2)
            data = self._page(number).data
            sizes += [
                int.from_bytes(data[at : at + 8], "big")
                for at in range(slot * NODE_BYTES + 32, (slot + 2 * count - 1) * NODE_BYTES, 2 * NODE_BYTES)
            ]
            first += count
        return sizes

    def put(self, node: TreeNode) -> None:
        """Stores a node, in memory until :meth:`flush`."""
        number, slot = divmod(node.index, NODES_PER_PAGE)
        page = self._page(number)
        at = slot * NODE_BYTES
        page.data[at : at + NODE_BYTES] = node.hash + node.size.to_bytes(8, "big")
        if page.low >= page.high:
            self._dirty[number] = page
        page.low = min(page.low, at)
        page.high = max(page.high, at + NODE_BYTES)

    def put_many(self, nodes: Iterable[TreeNode]) -> None:
        """Stores nodes, in memory until :meth:`flush`."""
        for node in nodes:
            self.put(node)

    def flush(self) -> None:
        """Writes what changed. After an error the rest is still to be written."""
        for run in self._dirty_runs():
            first, last = run[0], run[-1]
            offset = self.offset_of(first * NODES_PER_PAGE) + self._dirty[first].low
            data = b"".join([self._dirty[number].data for number in run])
            end = len(data) - _NODE_PAGE + self._dirty[last].high
            self._write(offset, memoryview(data)[self._dirty[first].low : end])
            self._size = max(self._size, offset + end - self._dirty[first].low)
            for number in run:
                page = self._dirty.pop(number)
                page.low, page.high = _NODE_PAGE, 0

    def _dirty_runs(self) -> list[list[int]]:
        """The pages to be written, in runs without a gap between what changed in them."""
        runs: list[list[int]] = []
        end = -1
        for number in sorted(self._dirty):
            page = self._dirty[number]
            if number * _NODE_PAGE + page.low == end and len(runs[-1]) * _NODE_PAGE < FLUSH_JOIN:
                runs[-1].append(number)
            else:
                runs.append([number])
            end = number * _NODE_PAGE + page.high
        return runs

    def discard(self, index: int) -> None:
        """Takes back a node that was put; what a flush wrote of it already is written over by the next one."""
        self.put(TreeNode(index, bytes(32), 0))


class SignatureFile(SleepFile):
    """The ``signatures`` file: one slot for each chunk, most of them empty in a batch."""

    def __init__(self, file: RandomAccess, read_only: bool) -> None:
        super().__init__(file, read_only, SIGNATURES_HEADER)
        self._dirty: dict[int, bytes] = {}

    def get(self, index: int) -> bytes | None:
        """The signature that covers chunks ``0 .. index``, None if there is none."""
        found = self._dirty.get(index)
        if found is None:
            found = self.file.read(self.offset_of(index), SIGNATURE_BYTES)
        return found if len(found) == SIGNATURE_BYTES and any(found) else None

    def put(self, index: int, signature: bytes) -> None:
        """Stores a signature, in memory until :meth:`flush`."""
        self._dirty[index] = signature

    def flush(self) -> None:
        """Writes what changed. After an error the rest is still to be written."""
        # Slots one behind the other, as single appends leave them, go in one write.
        for _, group in groupby(enumerate(sorted(self._dirty)), key=lambda place: place[1] - place[0]):
            run = [index for _, index in group]
            self._write(self.offset_of(run[0]), b"".join([self._dirty[index] for index in run]))
            for index in run:
                del self._dirty[index]

    def discard(self, index: int) -> None:
        """Takes back a signature that was put; what a flush wrote of it already is written over by the next one."""
        self._dirty[index] = bytes(SIGNATURE_BYTES)
