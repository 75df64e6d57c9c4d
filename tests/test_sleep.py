"""SLEEP files: headers, pages of nodes, signatures and bits, in memory and on disk."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datfs import sleep
from datfs.bitfield_file import BitfieldFile
from datfs.crypto import TreeNode
from datfs.errors import BadStore
from datfs.sleep import (
    BITFIELD_HEADER,
    HEADER_BYTES,
    NODES_PER_PAGE,
    SIGNATURES_HEADER,
    TREE_HEADER,
    FileType,
    Header,
    NodeFile,
    SignatureFile,
    check_header,
    describe,
)
from datfs.storage import MemoryStorage
from tests.register_kit import CountingStorage

HEADERS = {
    "tree": (TREE_HEADER, "0502570200002807424c414b4532620000000000000000000000000000000000"),
    "signatures": (SIGNATURES_HEADER, "0502570100004007456432353531390000000000000000000000000000000000"),
    "bitfield": (BITFIELD_HEADER, "05025700000e0000" + "00" * 24),
}


def file_with(data: bytes, name: str = "some/file") -> MemoryStorage:
    """A file in memory."""
    file = MemoryStorage(name)
    file.write(0, data)
    return file


@pytest.mark.parametrize("name", HEADERS)
def test_headers(name: str) -> None:
    """Headers are written as the specification has them, and read back."""
    header, data = HEADERS[name]
    assert header.encode().hex() == data
    assert describe(bytes.fromhex(data), name) == header
    assert check_header(bytes.fromhex(data), name, header) == header
    assert check_header(b"", name, header) is None


def test_old_bitfield_is_known() -> None:
    """Pages of 3,328 bytes, as before hypercore 6.22.3, are accepted."""
    data = bytes.fromhex("05025700000d0000") + bytes(24)
    found = check_header(data, "bitfield", BITFIELD_HEADER)
    assert found is not None
    assert found.entry_size == 3328


def test_foreign_file_is_described() -> None:
    """A file of an unknown kind is told by its header, and not opened."""
    data = Header(7, 3, 99, "Rot13").encode()
    assert describe(data, "file") == Header(7, 3, 99, "Rot13")
    tree = Header(FileType.TREE, 0, 40, "Rot13").encode()
    assert describe(tree, "file").algorithm == "Rot13"
    with pytest.raises(BadStore, match=r"some/file: algorithm 'Rot13', not 'BLAKE2b' \(offset 8\)"):
        NodeFile(file_with(tree), read_only=False)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"\x05\x02\x58" + TREE_HEADER.encode()[3:], r"begins with 050258, not 050257 \(offset 0\)"),
        (b"PK\x03\x04" * 100, r"not a SLEEP file"),
        (SIGNATURES_HEADER.encode(), r"type 1, not 2 \(offset 3\)"),
        (Header(9, 0, 40, "BLAKE2b").encode(), r"type 9, not 2 \(offset 3\)"),
        (Header(2, 1, 40, "BLAKE2b").encode(), r"version 1 is not known, only 0 \(offset 4\)"),
        (Header(2, 0, 41, "BLAKE2b").encode(), r"entries of 41 bytes, not 40 \(offset 5\)"),
        (Header(2, 0, 0, "BLAKE2b").encode(), r"entries of 0 bytes, not 40 \(offset 5\)"),
        (TREE_HEADER.encode()[:7] + b"\x19" + bytes(24), r"name has 25 bytes, at most 24 fit \(offset 7\)"),
        (TREE_HEADER.encode()[:7] + b"\xff" + b"x" * 300, r"name has 255 bytes, at most 24 fit \(offset 7\)"),
        (Header(2, 0, 40, "").encode(), r"algorithm '', not 'BLAKE2b' \(offset 8\)"),
        (TREE_HEADER.encode()[:8] + b"BLAKE2\xff" + bytes(17), r"algorithm 'BLAKE2\\\\xff', not"),
        (b"\x05\x02\x99", r"the header is cut off: 3 of 32 bytes"),
        (bytes(40), r"begins with 000000, not 050257 \(offset 0\)"),
    ],
)
def test_bad_header(data: bytes, why: str) -> None:
    """What is wrong with a header is told with file and offset, and the file stays as it is."""
    file = file_with(data)
    with pytest.raises(BadStore, match=f"^some/file: .*{why}"):
        NodeFile(file, read_only=False)
    assert file.read(0, 1000) == data


@pytest.mark.parametrize("data", [b"", TREE_HEADER.encode()[:9], bytes(10), bytes(32)])
def test_unfinished_header(data: bytes) -> None:
    """What a crash leaves of a file that was just made counts as fresh, and is finished unless read-only."""
    file = file_with(data)
    assert NodeFile(file, read_only=True).fresh
    NodeFile(file, read_only=True).begin()
    assert file.read(0, 100) == data
    NodeFile(file, read_only=False).begin()
    assert file.read(0, 100) == TREE_HEADER.encode()
    assert not NodeFile(file, read_only=False).fresh


def test_header_is_written_once() -> None:
    """An existing file is not written to when it is opened, unlike by the reference."""
    file = CountingStorage("tree")
    file.write(0, TREE_HEADER.encode() + bytes(80))
    NodeFile(file, read_only=False).begin()
    assert file.writes == 1
    assert NodeFile(file, read_only=False).entries == 2


# --- tree


def node(index: int) -> TreeNode:
    """Some node; its contents tell its index."""
    return TreeNode(index, bytes([1 + index % 255]) * 32, 3 * index)


@settings(max_examples=25)
@given(st.lists(st.tuples(st.integers(0, 3000), st.booleans()), max_size=60), st.integers(1, 6))
def test_nodes_against_a_dict(puts: list[tuple[int, bool]], kept: int) -> None:
    """Nodes are read as they were put, before and after a flush, in spite of a cache of a few pages."""
    before, sleep.NODE_PAGES_KEPT = sleep.NODE_PAGES_KEPT, kept
    try:
        file = MemoryStorage()
        tree, model = NodeFile(file, read_only=False), dict[int, TreeNode]()
        tree.begin()
        for index, flush in puts:
            tree.put(node(index))
            model[index] = node(index)
            if flush:
                tree.flush()
        for index in [*model, *range(0, 3000, 77)]:
            assert tree.get(index) == model.get(index)
        tree.flush()
        again = NodeFile(file, read_only=True)
        assert {index for index in range(3001) if again.get(index) is not None} == set(model)
    finally:
        sleep.NODE_PAGES_KEPT = before


def test_empty_chunk_is_a_node() -> None:
    """A node of size 0 is there if its hash is."""
    tree = NodeFile(MemoryStorage(), read_only=False)
    tree.put(TreeNode(4, b"\x01" * 32, 0))
    assert tree.get(4) == TreeNode(4, b"\x01" * 32, 0)
    assert tree.get(5) is None


def test_cached_lookup_makes_no_call() -> None:
    """A node in a page that is in memory is found without touching the file."""
    file = CountingStorage("tree")
    tree = NodeFile(file, read_only=False)
    tree.begin()
    for index in range(2 * NODES_PER_PAGE):
        tree.put(node(index))
    tree.flush()
    again = NodeFile(file, read_only=True)
    again.get(0)
    reads = file.reads
    assert all(again.get(index) == node(index) for index in range(NODES_PER_PAGE))
    assert file.reads == reads


def test_sequential_nodes_are_written_together() -> None:
    """Pages that were filled one after the other reach the disk in one write."""
    file = CountingStorage("tree")
    tree = NodeFile(file, read_only=False)
    for index in range(20 * NODES_PER_PAGE):
        tree.put(node(index))
    tree.flush()
    assert file.writes == 1
    tree.put(node(3))
    tree.put(node(9 * NODES_PER_PAGE))
    tree.flush()
    assert file.writes == 3
    tree.flush()
    assert file.writes == 3


def test_discarded_node_is_gone() -> None:
    """A node that is taken back is gone from memory and, after the next flush, from the file."""
    file = MemoryStorage()
    tree = NodeFile(file, read_only=False)
    tree.begin()
    tree.put(node(6))
    tree.flush()
    tree.discard(6)
    assert tree.get(6) is None
    tree.flush()
    assert NodeFile(file, read_only=True).get(6) is None


# --- signatures


def test_signatures() -> None:
    """A slot is empty until put, survives the flush, and can be taken back."""
    file = MemoryStorage()
    signatures = SignatureFile(file, read_only=False)
    signatures.begin()
    signatures.put(5, b"\x07" * 64)
    assert signatures.get(5) == b"\x07" * 64
    signatures.flush()
    again = SignatureFile(file, read_only=False)
    assert [again.get(index) is not None for index in range(8)] == [False] * 5 + [True, False, False]
    assert again.entries == 6
    again.discard(5)
    assert again.get(5) is None
    again.flush()
    assert SignatureFile(file, read_only=True).get(5) is None


def test_neighbouring_signatures_are_written_together() -> None:
    """Each run of slots is one write, and slots between runs stay empty."""
    file = CountingStorage("signatures")
    signatures = SignatureFile(file, read_only=False)
    signatures.begin()
    writes = file.writes
    for index in (7, 3, 4, 5, 9):
        signatures.put(index, bytes([index]) * 64)
    signatures.flush()
    assert file.writes == writes + 3
    signatures.flush()
    assert file.writes == writes + 3
    again = SignatureFile(file, read_only=True)
    assert [again.get(index) for index in (3, 4, 5, 7, 9)] == [bytes([index]) * 64 for index in (3, 4, 5, 7, 9)]
    assert not any(again.get(index) for index in (0, 2, 6, 8))


def test_torn_signature_is_none() -> None:
    """A slot that is cut off is not a signature."""
    signatures = SignatureFile(file_with(SIGNATURES_HEADER.encode() + b"\x07" * 63), read_only=True)
    assert signatures.get(0) is None
    assert signatures.entries == 0


# --- bits


def index_of(data: bytes, pages: int) -> bytes:
    """The index part as sleep.md section 4 defines it, computed all at once."""
    data = data.ljust(pages * 1024, b"\0")
    index = bytearray(512 * pages)

    def code(byte: int) -> int:
        return 3 if byte == 255 else 1 if byte else 0

    def nibble(four: int) -> int:
        return 3 if four == 15 else 1 if four else 0

    def half(byte: int) -> int:
        return nibble(byte >> 4) << 2 | nibble(byte & 15)

    for group in range(256 * pages):
        a, b, c, d = (code(byte) for byte in data[4 * group : 4 * group + 4])
        index[2 * group] = a << 6 | b << 4 | c << 2 | d
    step = 1
    while step < len(index):
        for i in range(2 * step - 1, len(index), 4 * step):
            right = index[i + step] if i + step < len(index) else 0
            index[i] = half(index[i - step]) << 4 | half(right)
        step *= 2
    return bytes(index)


@settings(max_examples=25)
@given(
    st.lists(st.tuples(st.integers(0, 40_000), st.integers(0, 9000), st.booleans()), max_size=6),
    st.integers(0, 1 << 32),
)
def test_bitfield_pages(changes: list[tuple[int, int, bool]], seed: int) -> None:
    """Pages have data, tree and index parts as specified, whatever the changes and flushes between them were."""
    file, dice = MemoryStorage(), random.Random(seed)
    bits = BitfieldFile(file, read_only=False)
    bits.begin()
    for first, count, on in changes:
        bits.set_data_range(first, first + count, on)
        bits.set_data(dice.randrange(40_000), dice.random() < 0.5)
        bits.set_tree(dice.randrange(80_000), dice.random() < 0.8)
        if dice.random() < 0.5:
            bits.write(bits.snapshot())
        if dice.random() < 0.3:
            bits = BitfieldFile(file, read_only=False)
    bits.write(bits.snapshot())
    contents = file.read(HEADER_BYTES, file.size())
    pages = [contents[at : at + 3584].ljust(3584, b"\0") for at in range(0, len(contents), 3584)]
    data = b"".join(page[:1024] for page in pages)
    assert data == bits.data.to_bytes(0, 8192 * len(pages))
    assert b"".join(page[1024:3072] for page in pages) == bits.tree.to_bytes(0, 16_384 * len(pages))
    if pages:
        assert b"".join(page[3072:] for page in pages) == index_of(data, len(pages))


def test_wrong_index_is_made_right() -> None:
    """An index part that does not fit the bits, as a crash may leave it, is mended with the next change."""
    data = b"\xff" * 1000 + bytes(24)
    file = file_with(BITFIELD_HEADER.encode() + data + bytes(2048) + b"\x5a" * 512)
    bits = BitfieldFile(file, read_only=False)
    assert bits.snapshot() == []
    bits.set_data(8000)
    bits.write(bits.snapshot())
    page = file.read(HEADER_BYTES, 3584)
    assert page[3072:] == index_of(page[:1024], 1)


def test_old_pages_stay_old() -> None:
    """A file with pages of 3,328 bytes keeps them, and the bytes of its index."""
    header = bytes.fromhex("05025700000d0000") + bytes(24)
    pages = [b"\xf0" + bytes(1023) + b"\xfe" + bytes(2047) + bytes([number]) * 256 for number in (1, 2)]
    file = file_with(header + b"".join(pages))
    bits = BitfieldFile(file, read_only=False)
    bits.begin()
    assert [*bits.data.runs()] == [(0, 4), (8192, 8196)]
    bits.set_data(8196)
    bits.set_tree(16_384 + 9)
    bits.write(bits.snapshot())
    assert file.read(0, HEADER_BYTES) == header
    assert file.read(HEADER_BYTES, 3328) == pages[0]
    second = file.read(HEADER_BYTES + 3328, 4000)
    assert second == b"\xf8" + bytes(1023) + b"\xfe\x40" + bytes(2046) + b"\x02" * 256


def test_torn_page_is_zeros() -> None:
    """The missing tail of the last page reads as clear bits."""
    bits = BitfieldFile(file_with(BITFIELD_HEADER.encode() + b"\xff" * 5), read_only=True)
    assert [*bits.data.runs()] == [(0, 40)]
    assert [*bits.tree.runs()] == []


def test_many_pages_are_read_in_few_calls() -> None:
    """Opening a bitfield of a million chunks is a handful of reads."""
    file = CountingStorage("bitfield")
    file.write(0, BITFIELD_HEADER.encode() + b"\xff" * 3584 * 123)
    bits = BitfieldFile(file, read_only=True)
    assert bits.data.count(0, 1 << 30) == 123 * 8192
    assert file.reads <= 5


def test_older_snapshot_is_not_written_over_a_newer() -> None:
    """A flush that takes long does not bring back what was cleared and flushed meanwhile."""
    file = MemoryStorage()
    bits = BitfieldFile(file, read_only=False)
    bits.begin()
    bits.set_data_range(0, 10, True)
    slow = bits.snapshot()
    bits.set_data(3, False)
    bits.write(bits.snapshot())
    bits.write(slow)
    assert not BitfieldFile(file, read_only=True).data.get(3)


def test_snapshot_is_of_its_moment() -> None:
    """What changes after a snapshot is not in it, and is in the next one."""
    file = MemoryStorage()
    bits = BitfieldFile(file, read_only=False)
    bits.begin()
    bits.set_data(1)
    early = bits.snapshot()
    bits.set_data(2)
    bits.write(early)
    assert [*BitfieldFile(file, read_only=True).data.runs()] == [(1, 2)]
    bits.write(bits.snapshot())
    assert [*BitfieldFile(file, read_only=True).data.runs()] == [(1, 3)]


def test_redo() -> None:
    """Pages of a snapshot that could not be written are in the next one."""
    file = MemoryStorage()
    bits = BitfieldFile(file, read_only=False)
    bits.begin()
    bits.set_data(1)
    bits.redo(bits.snapshot())
    bits.write(bits.snapshot())
    assert BitfieldFile(file, read_only=True).data.get(1)


def test_sync_only_after_a_write() -> None:
    """Without a write between them a second sync does nothing; one that failed is repeated."""

    class Broken(CountingStorage):
        broken = False

        def sync(self) -> None:
            """Fails while broken."""
            super().sync()
            if self.broken:
                raise OSError(5, "broken")

    file = Broken("tree")
    tree = NodeFile(file, read_only=False)
    tree.begin()
    tree.sync()
    tree.sync()
    assert file.syncs == 1
    tree.put(node(3))
    tree.flush()
    file.broken = True
    with pytest.raises(OSError, match="broken"):
        tree.sync()
    file.broken = False
    tree.sync()
    assert file.syncs == 3
