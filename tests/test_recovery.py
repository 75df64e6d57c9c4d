"""Opening files that a crash left torn, or that are damaged: mended, or refused with file and offset."""

from __future__ import annotations

import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datfs.errors import BadStore
from datfs.register import Register
from tests.register_kit import (
    KEYS,
    VECTORS,
    chunk,
    chunks,
    contents_of,
    copied,
    fetch,
    files_of,
    storage_with,
    written,
)

TEN = files_of(VECTORS / "registers" / "length-10")
BATCH = files_of(VECTORS / "registers" / "batch-10")


def refused(contents: dict[str, bytes], *, secret: bool = True) -> str:
    """Why the files are refused, with and without the right to write; nothing in them may change."""
    reasons = set()
    for read_only, secret_key in ((False, None), (True, None), (False, KEYS.secret if secret else None)):
        storage = storage_with(contents)
        with pytest.raises(BadStore) as caught:
            Register.open(storage, secret_key=secret_key, read_only=read_only)
        assert contents_of(storage) == {name: data for name, data in contents.items() if data}
        reasons.add(str(caught.value))
    assert len(reasons) == 1
    return reasons.pop()


# --- damage


@pytest.mark.parametrize("name", ["tree", "signatures", "bitfield"])
@pytest.mark.parametrize("size", [0, 1, 20, 31])
def test_cut_off_header(name: str, size: int) -> None:
    """A header that is cut off in a register that has chunks is refused, naming the file, also by a writer."""
    assert refused({**TEN, name: TEN[name][:size]}).startswith(name)


@pytest.mark.parametrize("name", ["tree", "signatures", "bitfield"])
def test_foreign_header(name: str) -> None:
    """A file of another kind is refused, naming it."""
    assert "not a SLEEP file" in refused({**TEN, name: b"PK\x03\x04" + TEN[name][4:]})
    other = "tree" if name != "tree" else "signatures"
    assert refused({**TEN, name: TEN[other]}).startswith(f"{name}: a SLEEP file of type")


@pytest.mark.parametrize("missing", [1, 39, 40, 41, 400])
def test_short_tree(missing: int) -> None:
    """A tree file without the nodes that the bitfield claims is refused, with the offset of the last one."""
    why = refused({**TEN, "tree": TEN["tree"][:-missing]})
    assert f"tree: it ends at byte {len(TEN['tree']) - missing}; by bitfield entry 18 should be at byte 752" in why


@pytest.mark.parametrize("missing", [1, 63, 64, 640])
def test_short_signatures(missing: int) -> None:
    """A signature file shorter than the length is refused, and does not make the register shorter."""
    why = refused({**TEN, "signatures": TEN["signatures"][:-missing]})
    size = len(TEN["signatures"]) - missing
    assert f"signatures: it ends at byte {size}; by bitfield entry 9 should be at byte 608" in why


def test_missing_signature() -> None:
    """A register without its newest signature (a frozen one, or a damaged one) is refused."""
    for contents in (TEN, BATCH):
        why = refused({**contents, "signatures": contents["signatures"][:-64] + bytes(64)})
        assert why.startswith("signatures: there is no signature for the 10 chunks that bitfield claims (offset 608)")


def test_wrong_signature() -> None:
    """A newest signature that does not verify is refused: going back to an older one would fork the register."""
    why = refused({**TEN, "signatures": TEN["signatures"][:-1] + b"\0"})
    assert why.startswith("signatures: the signature of 10 chunks (offset 608) is not right for the roots in tree")


def test_missing_root() -> None:
    """A root that is all zeros is refused, with its offset."""
    tree = TEN["tree"]
    why = refused({**TEN, "tree": tree[: 32 + 40 * 17] + bytes(40) + tree[32 + 40 * 18 :]})
    assert why.startswith("tree: node 17 (offset 712), which bitfield says is here, is all zeros")


def test_files_of_two_registers() -> None:
    """Files that belong to registers of different lengths, or to different keys, are refused."""
    six = files_of(VECTORS / "registers" / "length-6")
    for name in ("tree", "signatures"):
        assert refused({**TEN, name: six[name]}).startswith(f"{name}: it ends at byte")
    storage = storage_with({})
    Register.create(storage).append(chunks(0, 10))
    other = contents_of(storage)
    assert "is not right for the roots" in refused({**other, "key": TEN["key"], "secret_key": b""}, secret=True)


def test_lost_bitfield() -> None:
    """Without its bitfield a register is not taken for an empty one, which a writer would begin anew."""
    why = refused({name: data for name, data in TEN.items() if name != "bitfield"})
    assert why.startswith("bitfield: its header is missing or cut off (offset 0), though signatures has 10 entries")


@pytest.mark.expect_log("chunks were not written whole and will be fetched again")
@pytest.mark.parametrize("size", [0, 1, 7, 60, 84])
def test_short_data(size: int) -> None:
    """Chunks whose bytes are beyond the end of the data file are not held; all others are."""
    storage = storage_with({**TEN, "data": TEN["data"][:size]})
    register = Register.open(storage)
    assert register.length == 10
    for index in range(10):
        assert register.has(index) == (register.byte_offset(index) + register.size_of(index) <= size)
    assert register.audit().ok
    fetch(register, written(chunks(0, 10)), 9)
    assert register.get(9) == chunk(9)


@pytest.mark.expect_log("100000 chunks were not written whole")
def test_no_data_file_of_many_chunks() -> None:
    """A lost data file is noticed quickly in a register of many chunks."""
    contents = contents_of_many(100_000)
    started = time.perf_counter()
    register = Register.open(storage_with({**contents, "data": b""}))
    assert time.perf_counter() - started < 5
    assert not register.data_bits.any_set(0, 100_000)


def contents_of_many(count: int) -> dict[str, bytes]:
    """The files of a register of many chunks."""
    storage = storage_with({})
    register = Register.create(storage, KEYS)
    register.append([b"x"] * count, sync=False)
    register.close()
    return contents_of(storage)


def test_unsigned_register_of_old_pages() -> None:
    """A register with pages of 3,328 bytes opens, is appended to, and keeps its pages."""
    page = TEN["bitfield"][32:]
    old = bytes.fromhex("05025700000d0000") + bytes(24) + page[:3072] + bytes(256)
    storage = storage_with({**TEN, "bitfield": old})
    register = Register.open(storage, secret_key=KEYS.secret)
    assert register.audit().ok
    register.append([b"more"])
    register.close()
    assert len(contents_of(storage)["bitfield"]) == 32 + 3328
    again = Register.open(storage)
    assert again.get(10) == b"more"
    assert again.audit().ok


# --- crashes


@pytest.mark.parametrize("size", [0, 1, 2, 100, 1000, 1024])
def test_torn_bitfield_page_of_a_copy(size: int) -> None:
    """A bitfield whose page is cut off claims less, never wrongly, and all can be fetched again."""
    storage = storage_with({**TEN, "bitfield": TEN["bitfield"][: 32 + size]})
    register = Register.open(storage)
    assert register.length == 0
    assert not register.data_bits.any_set(0, 99)
    origin = written(chunks(0, 10))
    for index in range(10):
        fetch(register, origin, index)
    register.close()
    assert contents_of(storage) == TEN


@pytest.mark.parametrize("size", [0, 1, 2, 100, 1000, 1024, 1025, 1026, 1027, 2000])
@pytest.mark.parametrize("contents", [TEN, BATCH], ids=["singly", "at once"])
def test_torn_bitfield_page_of_a_writer(contents: dict[str, bytes], size: int) -> None:
    """A writer that finds all it has signed stored whole has it again, whatever is left of the bitfield."""
    storage = storage_with({**contents, "bitfield": contents["bitfield"][: 32 + size]})
    register = Register.open(storage, secret_key=KEYS.secret)
    assert register.length == 10
    assert register.audit().ok
    register.close()
    assert contents_of(storage) == contents


def torn(old: bytes, new: bytes, dice: random.Random) -> bytes:
    """A bitfield of which some sectors are the new ones."""
    size = max(len(old), len(new))
    old, new = old.ljust(size, b"\0"), new.ljust(size, b"\0")
    return b"".join((new if dice.random() < 0.5 else old)[at : at + 512] for at in range(0, size, 512))


def check_recovered(contents: dict[str, bytes], values: list[bytes], at_least: int) -> Register:
    """Opens, and checks that everything claimed is right and nothing signed earlier is lost."""
    storage = storage_with(contents)
    register = Register.open(storage)
    assert at_least <= register.length <= len(values)
    for first, stop in register.data_bits.runs():
        for index in range(first, stop):
            assert register.get(index) == values[index]
    assert register.audit().ok
    origin = written([])
    origin.append(values)
    # What it holds can be proved to somebody who has nothing.
    for first, stop in [*register.data_bits.runs()]:
        for index in range(first, stop, 97):
            proof = register.proof(index)
            reader = Register.open(storage_with({}), key=KEYS.public)
            reader.put(index, register.get(index), proof.nodes, proof.signature)
            assert reader.length == register.length
    return register


@pytest.mark.expect_log("were not written whole")
@pytest.mark.parametrize("seed", range(24))
def test_torn_pages_of_a_writer(seed: int) -> None:
    """Whatever sectors of the bitfield a crash left old, the register has the old or a new signed length."""
    dice = random.Random(seed)
    before, after = dice.choice([(0, 9000), (8000, 8300), (8192, 16_500), (5, 6), (8190, 8193)])
    values = [b"%d" % number for number in range(after)]
    storage = storage_with({})
    register = Register.create(storage, KEYS)
    register.append(values[:before])
    old = contents_of(storage)["bitfield"]
    if dice.random() < 0.5:
        register.append(values[before:])
    else:
        for value in values[before:]:
            register.append([value], sync=False)
        register.flush()
    contents = contents_of(storage)
    contents["bitfield"] = torn(old, contents["bitfield"], dice)
    recovered = check_recovered(contents, values, before)
    recovered.append([b"another"])
    recovered.close()
    assert recovered.audit().ok


@pytest.mark.expect_log("were not written whole")
@settings(max_examples=40)
@given(st.integers(0, 1 << 30))
def test_torn_pages_of_a_copy(seed: int) -> None:
    """The same for a sparse copy over several pages, which may then fetch anything and serve what it has."""
    dice = random.Random(seed)
    values = [b"%d" % number for number in range(dice.choice([40, 9000]))]
    origin = written(values[: dice.randrange(1, len(values))])
    storage = storage_with({})
    copy = copied(origin, [dice.randrange(origin.length) for _ in range(4)], storage)
    copy.flush()
    at_least = copy.length
    old = contents_of(storage)["bitfield"]
    origin.append(values[origin.length :])
    for _ in range(6):
        fetch(copy, origin, dice.randrange(len(values)))
    copy.close()
    contents = contents_of(storage)
    contents["bitfield"] = torn(old, contents["bitfield"], dice)
    recovered = check_recovered_copy(contents, values, at_least)
    for _ in range(4):
        index = dice.randrange(len(values))
        fetch(recovered, origin, index)
        assert recovered.get(index) == values[index]
    assert recovered.audit().ok


def check_recovered_copy(contents: dict[str, bytes], values: list[bytes], at_least: int) -> Register:
    """As :func:`check_recovered`, of a copy, which need not have all signatures."""
    register = Register.open(storage_with(contents))
    assert at_least <= register.length <= len(values)
    for first, stop in register.data_bits.runs():
        for index in range(first, stop):
            assert register.get(index) == values[index]
    assert register.audit().ok
    return register


def test_many_chunks_open_quickly() -> None:
    """Opening looks at whole arrays of bits: hundreds of thousands of chunks take a moment."""
    contents = contents_of_many(300_000)
    storage = storage_with(contents)
    started = time.perf_counter()
    register = Register.open(storage)
    assert register.length == 300_000
    assert time.perf_counter() - started < 1.0


@pytest.mark.parametrize("stored", [b"", KEYS.public[:5], bytes(32), bytes(7)])
def test_torn_key_of_a_copy(stored: bytes) -> None:
    """A key that a crash cut off while a copy was made is written again; only what was to be written counts."""
    storage = storage_with({"key": stored})
    assert Register.open(storage, key=KEYS.public, read_only=True).key == KEYS.public
    assert contents_of(storage) == ({"key": stored} if stored else {})
    Register.open(storage, key=KEYS.public).close()
    assert contents_of(storage)["key"] == KEYS.public
    with pytest.raises(BadStore):
        Register.open(storage_with({"key": b"\x01" + stored[1:31]}), key=KEYS.public)
