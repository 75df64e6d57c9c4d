"""Registers: byte for byte what the reference writes, and what can be asked of them."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datfs import flat
from datfs.crypto import TreeNode, key_pair
from datfs.errors import BadStore, CorruptStorage, NotFound, ReadOnly
from datfs.register import ChunkMissing, Register, SeekUnknown
from datfs.storage import FileStorage, MemoryStorage, directory_storage
from tests.helpers import make_register
from tests.register_kit import (
    KEYS,
    VECTORS,
    Counting,
    Disk,
    chunk,
    chunks,
    contents_of,
    copied,
    empty_copy,
    fetch,
    files_of,
    storage_with,
    vectors,
    written,
)

FACTS = vectors("registers")
BOUNDARY = vectors("page-boundary")["registers"]


def name_of(case: dict[str, Any]) -> str:
    """The folder of a vector, for the test's name."""
    return str(case.get("name") or Path(case["directory"]).name)


# --- vectors


@pytest.mark.parametrize("case", FACTS["full"], ids=name_of)
def test_full_registers(case: dict[str, Any], tmp_path: Path) -> None:
    """Files are the reference's for every length, and the register knows the same of itself."""
    register = Register.create(directory_storage(tmp_path), KEYS)
    if case["appended"] == "in one batch":
        register.append(chunks(0, case["length"]))
    else:
        for index in range(case["length"]):
            assert register.append([chunk(index)], sync=index % 100 == 0) == index
    assert (register.length, register.byte_length) == (case["length"], case["byteLength"])
    roots = [TreeNode(root["index"], bytes.fromhex(root["hash"]), root["size"]) for root in case["roots"]]
    assert register.roots() == roots
    if case["length"]:
        assert register.signature(case["length"] - 1) == bytes.fromhex(case["signature"])
    register.close()
    found = files_of(tmp_path)
    assert found.pop("secret_key") == KEYS.secret
    assert found == files_of(VECTORS / case["directory"])


@pytest.mark.parametrize("case", FACTS["sparse"], ids=name_of)
def test_sparse_registers(case: dict[str, Any], tmp_path: Path) -> None:
    """Files are the reference's after the same answers, and so are the digests of all requests."""
    register = Register.open(directory_storage(tmp_path), key=KEYS.public)
    for step in case["steps"]:
        if not step["hash"]:
            assert register.digest(step["index"]) == step["digest"]
        nodes = [TreeNode(node["index"], bytes.fromhex(node["hash"]), node["size"]) for node in step["nodes"]]
        signature = bytes.fromhex(step["signature"]) if step.get("signature") else None
        register.put(step["index"], None if step["hash"] else chunk(step["index"]), nodes, signature)
    for first, stop in case.get("cleared", []):
        register.clear(first, stop)
    assert [index for index in range(case["length"]) if register.has(index)] == case["blocks"]
    register.close()
    found, expected = files_of(tmp_path), files_of(VECTORS / case["directory"])
    if "cleared" in case:  # the reference may leave the bytes where they are
        assert len(found.pop("data")) == len(expected.pop("data"))
    assert found == expected


@pytest.mark.parametrize("case", [*FACTS["full"], *FACTS["sparse"]], ids=name_of)
def test_reading_the_references_files(case: dict[str, Any]) -> None:
    """What the reference wrote opens with the same length, chunks and signature, and nothing in it is changed."""
    contents = files_of(VECTORS / case["directory"])
    storage = storage_with(contents)
    register = Register.open(storage)
    assert (register.length, register.byte_length) == (case["length"], case["byteLength"])
    held = case.get("blocks", list(range(case["length"])))
    assert [index for index in range(case["length"] + 9) if register.has(index)] == held
    assert [register.get(index) for index in held] == [chunk(index) for index in held]
    assert register.audit().ok
    register.close()
    assert contents_of(storage) == {name: data for name, data in contents.items() if data}


@pytest.mark.parametrize("case", BOUNDARY, ids=name_of)
def test_page_boundaries(case: dict[str, Any], tmp_path: Path) -> None:
    """Beyond one page of the bitfield the files are the reference's too, however the chunks were appended."""
    storage = directory_storage(tmp_path)
    Register.create(storage, KEYS).close()
    openings = [list(range(1, case["singly"] + 1))] if "singly" in case else case["openings"]
    for lengths in openings:
        register = Register.open(storage)
        for length in lengths:
            register.append(chunks(register.length, length), sync=False)
        register.close()
    assert {name: hashlib.sha256(data).hexdigest() for name, data in files_of(tmp_path).items()} == case["sha256"]


# --- creating and opening


def test_new_keys() -> None:
    """Without a key pair a new one is made, and its secret is kept beside the register unless told otherwise."""
    storage = storage_with({})
    made = Register.create(storage)
    assert made.writable
    assert storage("secret_key").read(0, 64) == made.secret_key
    assert Register.open(storage).writable
    secretless = storage_with({})
    register = Register.create(secretless, KEYS, store_secret=False)
    register.append([b"a"])
    assert secretless("secret_key").size() == 0
    assert not Register.open(secretless).writable
    with pytest.raises(ReadOnly, match="secret key is not here"):
        Register.open(secretless).append([b"b"])
    again = Register.open(secretless, secret_key=KEYS.secret)
    assert again.append([b"b"]) == 1


def test_create_refuses_to_overwrite() -> None:
    """A register that is there already is not made anew, nor is its secret key touched."""
    storage = storage_with({})
    Register.create(storage, KEYS)
    with pytest.raises(BadStore, match="key: there is a register here already"):
        Register.create(storage)
    assert storage("secret_key").read(0, 64) == KEYS.secret


def test_prefixes() -> None:
    """Two registers share storage by their prefixes."""
    storage = storage_with({})
    first = Register.create(storage, KEYS, prefix="metadata.")
    second = Register.create(storage, prefix="content/")
    first.append([b"a"])
    second.append([b"bb"])
    assert storage("metadata.data").read(0, 9) == b"a"
    assert storage("content/data").read(0, 9) == b"bb"
    assert Register.open(storage, prefix="content/").key == second.key


@pytest.mark.parametrize(
    ("name", "data", "why"),
    [
        ("key", b"", "key: there is no register here"),
        ("key", KEYS.public[:31], r"a key of 32 bytes should be here \(offset 0\), not 31 bytes"),
        ("key", KEYS.public + b"x", r"a key of 32 bytes should be here \(offset 0\), not 33 bytes"),
        ("key", bytes(1 << 21), "far too many bytes"),
        ("secret_key", KEYS.secret[:32], r"a key of 64 bytes should be here \(offset 0\), not 32 bytes"),
        ("secret_key", KEYS.secret + b"\n", r"a key of 64 bytes should be here \(offset 0\), not 65 bytes"),
        ("secret_key", key_pair(b"\x01" * 32).secret, r"secret_key: the secret key \(offset 0\) does not belong"),
        ("secret_key", b"\x01" * 32 + KEYS.public, r"secret_key: the secret key \(offset 0\) does not belong"),
    ],
)
def test_bad_key_files(name: str, data: bytes, why: str) -> None:
    """A key file of the wrong length, or a secret that belongs to another register, is refused and left alone."""
    made = storage_with({})
    Register.create(made, KEYS).append([b"a"])
    contents = {**contents_of(made), name: data}
    storage = storage_with(contents)
    with pytest.raises(BadStore, match=why):
        Register.open(storage)
    assert contents_of(storage) == {name: data for name, data in contents.items() if data}


def test_another_register_is_stored_here() -> None:
    """Opening with a key that is not the stored one is refused, with both named."""
    storage = storage_with({})
    Register.create(storage, KEYS)
    other = key_pair(b"\x01" * 32).public
    with pytest.raises(BadStore, match=f"another register.*{KEYS.public.hex()}, not {other.hex()}"):
        Register.open(storage, key=other)


def test_wrong_secret_key_given() -> None:
    """A secret key that is passed in must belong to the register as well."""
    storage = storage_with({})
    Register.create(storage, KEYS)
    for secret in (key_pair(b"\x01" * 32).secret, b"short", KEYS.secret[:32]):
        with pytest.raises(BadStore, match="does not belong"):
            Register.open(storage, secret_key=secret)


class Unreadable(MemoryStorage):
    """A file that may not be read."""

    def read(self, offset: int, length: int) -> bytes:
        """Fails."""
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), self.name)


@pytest.mark.parametrize("name", ["key", "secret_key", "tree", "signatures", "bitfield"])
def test_unreadable_is_not_absent(name: str) -> None:
    """A file that cannot be read is an error, never taken for one that is not there."""
    made = storage_with({})
    Register.create(made, KEYS).append([b"a"])
    before = contents_of(made)

    def open_file(wanted: str) -> MemoryStorage:
        found = Unreadable(wanted) if wanted == name else made(wanted)
        assert isinstance(found, MemoryStorage)
        return found

    with pytest.raises(PermissionError) as caught:
        Register.open(open_file, key=KEYS.public)
    assert caught.value.filename == name
    with pytest.raises(PermissionError) if name == "key" else pytest.raises(BadStore):
        Register.create(open_file, KEYS)
    assert contents_of(made) == before


def test_read_only_writes_nothing(tmp_path: Path) -> None:
    """Opening a folder read-only, reading, auditing and closing leaves its bytes and times as they were."""
    storage = directory_storage(tmp_path)
    register = Register.create(storage, KEYS)
    register.append(chunks(0, 20))
    register.close()
    (tmp_path / "bitfield").write_bytes((tmp_path / "bitfield").read_bytes()[:-100])  # torn: not even that is mended
    before = {
        path.name: (path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_ino) for path in tmp_path.iterdir()
    }
    opened = Register.open(directory_storage(tmp_path, read_only=True), read_only=True)
    assert [opened.get(index) for index in range(20)] == chunks(0, 20)
    assert opened.audit().ok
    assert not opened.writable
    for change in (
        lambda: opened.append([b"x"]),
        lambda: opened.clear(0, 1),
        lambda: opened.put(0, chunk(0), [], None),
    ):
        with pytest.raises(ReadOnly):
            change()
    opened.close()
    after = {path.name: (path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_ino) for path in tmp_path.iterdir()}
    assert after == before


def test_read_only_without_files(tmp_path: Path) -> None:
    """An empty folder opened read-only with a key is an empty register, and stays an empty folder."""
    opened = Register.open(directory_storage(tmp_path, read_only=True), key=KEYS.public, read_only=True)
    assert (opened.length, opened.byte_length, opened.seek(0)) == (0, 0, (0, 0))
    opened.close()
    assert list(tmp_path.iterdir()) == []


def test_read_only_needs_no_secret(tmp_path: Path) -> None:
    """A folder of somebody else, whose secret key we may not read, can be read."""
    storage = directory_storage(tmp_path)
    register = Register.create(storage, KEYS)
    register.append([b"a"])
    register.close()
    (tmp_path / "secret_key").unlink()
    (tmp_path / "secret_key").symlink_to("secret_key")
    with pytest.raises(OSError, match="secret_key"):
        Register.open(storage)
    assert Register.open(directory_storage(tmp_path, read_only=True), read_only=True).get(0) == b"a"


def open_files() -> int:
    """File descriptors of this process."""
    return len(os.listdir("/proc/self/fd"))


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    """An open register has four files open; closing it, or failing to open it, leaves none."""
    before = open_files()
    register = Register.create(directory_storage(tmp_path), KEYS)
    register.append([b"a"])
    assert open_files() == before + 4
    register.close()
    register.close()
    assert open_files() == before
    (tmp_path / "signatures").write_bytes(b"no signatures")
    with pytest.raises(BadStore):
        Register.open(directory_storage(tmp_path))
    assert open_files() == before


# --- appending


@settings(max_examples=30)
@given(st.lists(st.lists(st.binary(max_size=20), max_size=9), max_size=8), st.booleans(), st.booleans())
def test_append_against_a_list(batches: list[list[bytes]], sync: bool, reopen: bool) -> None:
    """A register holds what was appended, in order, and its tree follows, over any openings."""
    storage = storage_with({})
    register, model = Register.create(storage, KEYS), list[bytes]()
    for batch in batches:
        assert register.append(batch, sync=sync) == len(model)
        model += batch
        if reopen:
            register.close()
            register = Register.open(storage)
        assert register.length == len(model)
        assert register.byte_length == sum(map(len, model))
        assert [register.get(index) for index in range(len(model))] == model
        assert [register.byte_offset(index) for index in range(len(model) + 1)] == [
            sum(map(len, model[:index])) for index in range(len(model) + 1)
        ]
        assert [root.index for root in register.roots()] == flat.full_roots(2 * len(model))
        report = register.audit()
        assert report.ok
        assert (report.chunks, report.bytes) == (len(model), register.byte_length)


def test_append_any_buffer() -> None:
    """Chunks may be bytes, byte arrays or views."""
    register = written([b"abc", bytearray(b"de"), memoryview(b"-fgh-")[1:4], b""])
    assert [register.get(index) for index in range(4)] == [b"abc", b"de", b"fgh", b""]


def test_append_nothing() -> None:
    """Appending no chunks changes nothing."""
    register = written([b"a"])
    assert register.append([]) == 1
    assert register.length == 1


def test_batch_costs_few_calls() -> None:
    """A batch has one signature, and few writes for thousands of chunks."""
    storage = Counting()
    register = Register.create(storage, KEYS)
    before = storage.calls()
    register.append([b"x" * 100] * 5000)
    assert storage.calls() - before <= 15
    assert [register.signature(index) is not None for index in (0, 2500, 4999)] == [False, False, True]


def test_single_appends_without_sync_cost_one_call() -> None:
    """Appending without sync writes the bytes; the rest follows at the flush."""
    storage = Counting()
    register = Register.create(storage, KEYS)
    before = storage.calls()
    for index in range(100):
        register.append([chunk(index)], sync=False)
    assert storage.calls() - before <= 100 + 2
    register.flush()
    after = storage.calls()
    register.flush()
    assert storage.calls() == after


# --- putting


def test_put_costs_one_call() -> None:
    """Storing a chunk of a download is one write; nodes, signatures and bits wait for the flush."""
    origin, storage = written(chunks(0, 500)), Counting()
    copy = empty_copy(storage)
    fetch(copy, origin, 499)
    copy.flush()
    before = storage.calls()
    for index in range(64):
        fetch(copy, origin, index)
    assert storage.files["data"].writes == 65
    assert storage.calls() - before <= 64 + 2  # and the pages of the tree that nobody has looked at yet


def test_put_again_changes_nothing() -> None:
    """The same answer twice is accepted twice."""
    origin = written(chunks(0, 5))
    copy = copied(origin, [2, 2, 2])
    found = origin.proof(2)
    assert not copy.put(2, chunk(2), found.nodes, found.signature)
    assert copy.get(2) == chunk(2)
    assert copy.audit().ok


@pytest.mark.parametrize("fails", [1, 2])
def test_put_that_cannot_be_written(fails: int) -> None:
    """A chunk whose bytes could not be written is not held, neither then nor after a flush; a later try succeeds."""
    origin = written(chunks(0, 8))
    disk = Disk()
    copy = empty_copy(disk)
    for index in range(fails - 1):
        fetch(copy, origin, index)
    disk.fail_at = {disk.steps + 1}
    before = copy.length
    with pytest.raises(OSError) as caught:
        fetch(copy, origin, 5)
    assert caught.value.errno == errno.ENOSPC
    assert not copy.has(5)
    assert copy.node(10) is None
    assert copy.length == before
    copy.flush()
    again = Register.open(storage_with(disk.after(lambda: 1.0)))
    assert not again.has(5)
    assert again.audit().ok
    fetch(copy, origin, 5)
    assert copy.get(5) == chunk(5)
    assert copy.audit().ok


def test_put_after_the_buffer_is_reused() -> None:
    """What was put does not depend on the buffer it came in."""
    origin, copy = written([b"a" * 70_000, b"b"]), empty_copy()
    buffer = bytearray(origin.get(0))
    found = origin.proof(0)
    copy.put(0, memoryview(buffer), found.nodes, found.signature)
    buffer[:] = bytes(len(buffer))
    assert copy.get(0) == b"a" * 70_000
    buffer.clear()


# --- reading


def test_missing_chunks() -> None:
    """A chunk that is not held is told apart from one that is damaged."""
    copy = copied(written(chunks(0, 5)), [1])
    for index in (0, 4, 5, 1 << 60):
        with pytest.raises(ChunkMissing):
            copy.get(index)
    copy._data.truncate(copy.byte_offset(1) + 3)
    with pytest.raises(
        CorruptStorage, match=r"data: chunk 1 should have 7 bytes at byte 7, only 3 are there"
    ) as caught:
        copy.get(1)
    assert (caught.value.store, caught.value.offset) == ("data", 7)
    with pytest.raises(CorruptStorage, match="9 bytes should be at byte 5"):
        copy.read(5, 9)


def test_damaged_node_is_named() -> None:
    """A node that the bits claim and the tree file lacks is named with file and offset."""
    storage = storage_with({})
    register = Register.create(storage, KEYS)
    register.append(chunks(0, 6))
    register.close()
    storage("tree").write(32 + 40 * 4, bytes(40))
    again = Register.open(storage)
    with pytest.raises(CorruptStorage, match="tree: node 4 should be at byte 192 and is not there"):
        again.get(2)
    assert again.get(4) == chunk(4)


def test_cached_lookup_makes_no_call() -> None:
    """Proving a chunk whose nodes were looked at before reads only its signature, and asks nothing of the tree file."""
    storage = Counting()
    written(chunks(0, 400), storage).close()
    register = Register.open(storage)
    for _ in range(2):
        before = storage.files["tree"].reads
        for index in range(400):
            register.proof(index)
            register.byte_offset(index)
    assert storage.files["tree"].reads == before


# --- seeking


def naive_seek(values: Sequence[bytes], byte: int) -> tuple[int, int]:
    """The chunk that holds a byte, by counting."""
    for index, value in enumerate(values):
        if byte < len(value):
            return index, byte
        byte -= len(value)
    return len(values), 0


VALUES = st.lists(st.integers(0, 6).map(lambda size: b"x" * size), max_size=30)


@given(VALUES)
def test_seek(values: list[bytes]) -> None:
    """Seeking in a complete register is what counting gives; empty chunks hold no byte; beyond the end is nothing."""
    register = written(values)
    size = sum(map(len, values))
    for byte in range(1, size + 1):
        assert register.seek(byte) == naive_seek(values, byte)
        assert register.seek_chunk(byte) == (None if byte == size else naive_seek(values, byte)[0])
    assert register.seek(0) == (0, 0)
    with pytest.raises(NotFound, match=f"has {size} bytes"):
        register.seek(size + 1)
    assert register.seek_chunk(size + 1) is None


def test_seek_examples() -> None:
    """The examples of register.md section 9."""
    register = written([b"x" * (10 + number) for number in range(16)])
    assert [register.seek(byte) for byte in (9, 10, 20, 21, 280)] == [(0, 9), (1, 0), (1, 10), (2, 0), (16, 0)]


@settings(max_examples=60)
@given(VALUES.filter(bool), st.data())
def test_seek_in_a_sparse_copy(values: list[bytes], data: st.DataObject) -> None:
    """What a sparse copy answers is right, or a range that holds the right chunk; hash-only answers narrow it down."""
    origin = written(values)
    copy = copied(origin, data.draw(st.lists(st.integers(0, len(values) - 1), min_size=1, max_size=5)))
    size = sum(map(len, values))
    for byte in range(1, size):
        expected = naive_seek(values, byte)
        found = copy.seek(byte)
        while isinstance(found, SeekUnknown):
            assert found.first <= expected[0] < found.stop
            assert found.stop - found.first > 1
            proof = origin.proof(expected[0], copy.digest(expected[0]), hash_only=True)
            copy.put(expected[0], None, proof.nodes, proof.signature)
            found = copy.seek(byte)
        assert found == expected


# --- clearing


@settings(max_examples=40)
@given(
    VALUES,
    st.lists(st.tuples(st.integers(0, 32), st.integers(0, 32)), max_size=4),
    st.booleans(),
)
def test_clear_against_a_list(values: list[bytes], ranges: list[tuple[int, int]], reopen: bool) -> None:
    """Cleared chunks are gone, all others are there, and a cleared one can be fetched again."""
    storage = storage_with({})
    origin = written(values)
    register = copied(origin, range(len(values)), storage)
    gone = set[int]()
    for first, stop in ranges:
        register.clear(first, stop)
        gone |= set(range(first, stop))
        if reopen:
            register.close()
            register = Register.open(storage)
    for index, value in enumerate(values):
        assert register.has(index) == (index not in gone)
        if index not in gone:
            assert register.get(index) == value
    assert register.audit().ok
    for index in range(len(values)):
        fetch(register, origin, index)
        assert register.get(index) == values[index]
    assert register.audit().ok


def test_clear_gives_space_back(tmp_path: Path) -> None:
    """The bytes of cleared chunks are not on disk any more; at the end the file is cut."""
    register = Register.create(directory_storage(tmp_path), KEYS)
    register.append([bytes([number]) * 65_536 for number in range(16)])
    before = (tmp_path / "data").stat().st_blocks
    register.clear(2, 6)
    assert (tmp_path / "data").stat().st_blocks <= before - 4 * 128 + 16
    register.clear(12, 100)
    assert (tmp_path / "data").stat().st_size == 12 * 65_536
    assert register.get(11) == bytes([11]) * 65_536
    assert register.length == 16


def test_clear_gives_shared_blocks_back(tmp_path: Path) -> None:
    """Chunks smaller than a block, cleared one by one in any order, leave nothing of a block behind nor harm others."""
    register = Register.create(directory_storage(tmp_path), KEYS)
    values = [bytes([number]) * 1000 for number in range(64)]
    register.append(values)
    for number in [*range(1, 63, 2), *range(62, 0, -2)]:
        register.clear(number, number + 1)
    assert (register.get(0), register.get(63)) == (values[0], values[63])
    assert (tmp_path / "data").stat().st_blocks <= 2 * 8


def test_clear_gives_the_last_block_back(tmp_path: Path) -> None:
    """Chunks of odd sizes that come and go at the end, one after the other, leave nothing of a block behind."""
    values = [bytes([number]) * 5001 for number in range(64)]
    copy = copied(written(values), [0], directory_storage(tmp_path))
    origin = written(values)
    for number in range(1, 64):
        fetch(copy, origin, number)
        copy.clear(number, number + 1)
    assert copy.get(0) == values[0]
    assert (tmp_path / "data").stat().st_blocks <= 2 * 8


def test_reclaim(tmp_path: Path) -> None:
    """What lies between held chunks, and behind the last, comes back; held bytes stay, next to it in one block, too."""
    values = [bytes([number + 1]) * 5001 for number in range(64)]
    copy = copied(written(values), [3, 4, 40], directory_storage(tmp_path))
    data = tmp_path / "data"
    copy.flush()
    with data.open("r+b") as file:
        file.write(b"".join(values))
    assert data.stat().st_blocks >= 64 * 5000 // 512
    copy.reclaim()
    assert data.stat().st_size == 41 * 5001
    assert data.stat().st_blocks <= 5 * 8 + 16
    assert [copy.get(number) for number in (3, 4, 40)] == [values[number] for number in (3, 4, 40)]
    assert copy.audit().ok
    none = Register.open(directory_storage(tmp_path), key=copy.key)
    none.clear(0, 64)
    none.reclaim()
    assert data.stat().st_size == 0
    with pytest.raises(ReadOnly):
        Register.open(directory_storage(tmp_path), read_only=True).reclaim()


def test_clear_what_is_not_held() -> None:
    """Clearing chunks that are not held does nothing, not even a flush."""
    storage = Counting()
    copy = copied(written(chunks(0, 9)), [3], storage)
    copy.flush()
    before = storage.calls()
    copy.clear(4, 1 << 60)
    copy.clear(3, 3)
    assert storage.calls() == before


# --- audit


def test_audit_names_bad_chunks() -> None:
    """A changed byte is found with the chunk's index, place and size; clearing it makes the register right again."""
    origin = written([*chunks(0, 30), b"y" * 300_000, *chunks(31, 40)])
    storage = storage_with({})
    copy = copied(origin, [*range(3, 9), *range(28, 36), 39], storage)
    seen: list[int] = []
    assert copy.audit(seen.append).ok
    assert seen == [copy.size_of(index) for first, stop in copy.data_bits.runs() for index in range(first, stop)]
    for index in (5, 30, 39):
        offset = copy.byte_offset(index) + copy.size_of(index) - 1
        storage("data").write(offset, bytes([copy.get(index)[-1] ^ 1]))
    report = copy.audit()
    assert not report.ok
    assert [(bad.index, bad.offset, bad.size) for bad in report.bad_chunks] == [
        (index, copy.byte_offset(index), copy.size_of(index)) for index in (5, 30, 39)
    ]
    assert (report.chunks, report.bad_nodes, report.signature_ok) == (15, [], True)
    for bad in report.bad_chunks:
        copy.clear(bad.index, bad.index + 1)
    assert copy.audit().ok
    fetch(copy, origin, 30)
    assert copy.get(30) == b"y" * 300_000


def test_audit_finds_cut_data() -> None:
    """Chunks whose bytes are beyond the end of the file are bad."""
    register = written(chunks(0, 10))
    register._data.truncate(register.byte_offset(8) + 2)
    assert [bad.index for bad in register.audit().bad_chunks] == [8, 9]


@pytest.mark.parametrize("damage", [b"\x01" * 40, bytes(40)], ids=["changed", "missing"])
def test_audit_finds_bad_nodes(damage: bytes) -> None:
    """A changed or missing node is named, also if it is a leaf or a root, and the rest is still checked."""
    for number in (5, 8, 17):
        storage = storage_with({})
        register = Register.create(storage, KEYS)
        register.append(chunks(0, 10))
        register.close()
        register = Register.open(storage)
        storage("tree").write(32 + 40 * number, damage)
        register._tree = type(register._tree)(storage("tree"), read_only=True)
        report = register.audit()
        assert not report.ok
        assert number in report.bad_nodes or number - 1 in report.bad_nodes or flat.parent(number) in report.bad_nodes
        assert report.signature_ok == (number != 17)
        assert report.chunks >= 4


def test_audit_checks_the_signature() -> None:
    """A signature that is not right any more is reported."""
    register = written(chunks(0, 10))
    register._signatures.put(9, bytes(63) + b"\x01")
    assert not register.audit().signature_ok
    register._signatures.discard(9)
    assert not register.audit().signature_ok


# --- flushing


def test_flush_that_fails_is_tried_again() -> None:
    """Whatever step of a flush fails, nothing is lost: the next one writes it."""
    origin = written(chunks(0, 30))
    steps = 1
    while True:
        disk = Disk()
        copy = copied(origin, range(0, 30, 2), disk)
        start = disk.steps
        disk.fail_at = {start + steps}
        try:
            copy.flush()
        except OSError:
            pass
        else:
            break
        assert copy.has(4)
        disk.fail_at = set()
        copy.flush()
        again = Register.open(storage_with(disk.after(lambda: 0.0)))
        assert [index for index in range(30) if again.has(index)] == list(range(0, 30, 2))
        assert again.audit().ok
        steps += 1
    assert steps > 6


class SlowDisk(Disk):
    """Its syncs of the data wait until they are let go."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting, self.go = threading.Event(), threading.Event()
        self.go.set()

    def step(self, file: Any, change: Any) -> None:
        """Waits in a sync."""
        if change is None and file.name == "data":
            self.waiting.set()
            assert self.go.wait(10)
        super().step(file, change)


def test_puts_while_a_flush_is_in_its_thread() -> None:
    """Chunks stored while the disk is synced in another thread are not claimed by that flush, and are by the next;
    chunks cleared meanwhile are not brought back by it.
    """
    origin, disk = written(chunks(0, 40)), SlowDisk()
    copy = copied(origin, range(10), disk)
    disk.go.clear()
    disk.waiting.clear()
    pending = copy.begin_flush()
    thread = threading.Thread(target=pending.sync)
    thread.start()
    assert disk.waiting.wait(10)
    for index in range(10, 20):
        fetch(copy, origin, index)
    disk.go.set()
    thread.join(10)
    pending.finish()
    durable = Register.open(storage_with(disk.after(lambda: 0.0)))
    assert [index for index in range(40) if durable.has(index)] == list(range(10))
    assert durable.audit().ok
    slow = copy.begin_flush()
    slow.sync()
    copy.clear(3, 5)
    slow.finish()
    found = Register.open(storage_with(disk.after(lambda: 0.0)))
    assert [index for index in range(40) if found.has(index)] == [0, 1, 2, *range(5, 20)]
    assert found.audit().ok


def test_failing_flush_in_a_thread() -> None:
    """A sync that fails in another thread leaves everything to the next flush."""
    disk = Disk()
    copy = copied(written(chunks(0, 10)), range(10), disk)
    pending = copy.begin_flush()
    disk.fail_at = {disk.steps + 1}
    errors: list[OSError] = []

    def sync() -> None:
        try:
            pending.sync()
        except OSError as error:
            errors.append(error)

    thread = threading.Thread(target=sync)
    thread.start()
    thread.join(10)
    assert [error.errno for error in errors] == [errno.ENOSPC]
    copy.flush()
    assert Register.open(storage_with(disk.after(lambda: 0.0))).has_range(0, 10)


def test_close_flushes_and_closes_in_any_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Closing flushes; if that fails the error is told, and the files are closed all the same."""
    before = open_files()
    copy = copied(written(chunks(0, 4)), [1], directory_storage(tmp_path))

    def broken(self: FileStorage) -> None:
        raise OSError(errno.EIO, "broken", self.name)

    with monkeypatch.context() as patch:
        patch.setattr(FileStorage, "sync", broken)
        with pytest.raises(OSError, match="broken"):
            copy.close()
    assert open_files() == before
    copy.close()
    assert not Register.open(directory_storage(tmp_path)).has(1)


def test_twenty_registers_are_small() -> None:
    """The memory that an open register takes is bounded, whatever was read of it."""
    storage = Counting()
    register = Register.create(storage, KEYS)
    register.append([b"x"] * 200_000, sync=False)
    register.flush()
    for index in range(0, 200_000, 50):
        register.proof(index)
    pages = register._tree._pages
    assert sum(len(page.data) for page in pages.values()) <= 6 << 20
    assert not register._tree._dirty


@pytest.mark.parametrize(("first", "stop"), [(0, 300), (60, 67), (63, 64), (7, 130), (5, 5)])
def test_a_run_of_chunks_is_what_they_are_one_by_one(tmp_path: Path, first: int, stop: int) -> None:
    """Read at once, over pages of the tree file, with empty chunks among them, and once more from where it ended."""
    chunks = [bytes([number % 251]) * (number % 7) for number in range(300)]
    register = Register.create(directory_storage(tmp_path), key_pair(bytes(32)))
    register.append(chunks)
    register.close()
    copy = Register.open(directory_storage(tmp_path), key=register.key)
    assert copy.get_run(first, stop) == chunks[first:stop]
    assert copy.get_run(stop, 300) == chunks[stop:]
    copy.close()


def test_a_run_with_a_chunk_that_is_not_here() -> None:
    """Named in the error, as if it alone had been asked for; the others can be read."""
    register = make_register([bytes([number]) * 10 for number in range(20)])
    register.clear(7, 8)
    with pytest.raises(ChunkMissing, match="chunk 7 "):
        register.get_run(5, 10)
    assert register.get_run(8, 10) == [bytes([8]) * 10, bytes([9]) * 10]
    assert register.get_run(5, 7) == [bytes([5]) * 10, bytes([6]) * 10]
