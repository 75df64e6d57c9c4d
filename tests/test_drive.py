"""Drives: what the reference wrote is read exactly, in every layout and version, and hostile ones do no harm."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
import trio
import trio.testing

import datfs
from datfs import drive as drive_module
from datfs import path_index
from datfs.crypto import content_key_pair, key_pair
from datfs.drive import Drive, DriveTree, Listings
from datfs.errors import (
    BadMetadata,
    CorruptStorage,
    DatfsError,
    Gone,
    IsADirectory,
    NoPeers,
    NotADirectory,
    NotFound,
    UnsupportedFormat,
)
from datfs.metadata import Header, Stat, encode_header, encode_record, encode_stat
from datfs.register import Register
from datfs.sources import NoSource
from datfs.sparse import SparseRegister
from datfs.storage import OpenStorage, memory_storage
from datfs.vfs import Entry, Kind
from datfs.writer import DriveWriter, chunks_of
from tests.vector_drives import DRIVES, SEED, copy_drive, manifest, read, shown, snapshot, walk

ALL = [
    "deep",
    "empty",
    "history",
    "history-dat",
    "modes",
    "simple",
    "simple-dat",
    "simple-raf",
    "unicode",
    "zero-length",
]


# --- drives of the reference ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
async def test_the_newest_version_is_the_manifest(name: str) -> None:
    """Names, kinds, sizes, modes, times and bytes are those the reference tells; nothing in the folder changes."""
    before = snapshot(DRIVES / name)
    async with datfs.open_drive(DRIVES / name) as opened:
        tree = await opened.drive.checkout()
        found = await walk(tree)
        expected = {fact["path"]: fact for fact in manifest(name)["files"] if shown(fact)}
        assert found.keys() == expected.keys()
        for path, fact in expected.items():
            entry = found[path]
            assert entry.kind.value == fact["type"]
            if fact.get("explicit"):
                assert entry.permissions == fact["mode"] & 0o777
                assert entry.mtime_ns == fact["mtime"] * 1_000_000
                assert entry.ctime_ns == fact["ctime"] * 1_000_000
            if entry.kind is Kind.FILE:
                assert entry.size == fact["size"]
                assert hashlib.sha256(await read(tree, entry)).hexdigest() == fact["sha256"]
    assert snapshot(DRIVES / name) == before


@pytest.mark.parametrize("version", range(13))
async def test_old_versions_are_what_they_were(version: int) -> None:
    """Each version of the history has the files that the reference finds in it, and its bytes."""
    facts = manifest("history")
    expected = {fact["path"]: fact for fact in facts["checkouts"].get(str(version), [])}
    async with datfs.open_drive(DRIVES / "history") as opened:
        tree = await opened.drive.checkout(version)
        found = await walk(tree)
        assert {path: entry.kind.value for path, entry in found.items()} == {
            path: fact["type"] for path, fact in expected.items()
        }
        newest: dict[str, tuple[int, int]] = {}
        for change in facts["history"][:version]:
            if change["type"] == "put":
                newest[change["path"]] = change["stat"]["byteOffset"], change["stat"]["size"]
        data = (DRIVES / "history" / ".dat" / "content.data").read_bytes()
        for path, entry in found.items():
            if entry.kind is Kind.FILE:
                start, size = newest[path]
                assert await read(tree, entry) == data[start : start + size]


async def test_a_version_that_does_not_exist_is_not_found() -> None:
    """Beyond the newest version there is a clear error with the newest in it."""
    async with datfs.open_drive(DRIVES / "history") as opened:
        with pytest.raises(NotFound, match="no version 13: the newest known is 12"):
            await opened.drive.checkout(13)


async def test_bytes_that_a_working_folder_no_longer_has() -> None:
    """In a folder of the dat command, what an old version had is gone: said at once, and what lives on is read."""
    async with datfs.open_drive(DRIVES / "history-dat") as opened:
        old = await opened.drive.checkout(9)
        assert await read(old, await old.find((b"b.txt",))) == b"b, back again\n"
        for path in (b"a.txt",), (b"dir", b"sub", b"d.bin"):
            entry = await old.find(path)
            with pytest.raises(Gone, match="keeps only the newest"):
                await old.open(entry)
            assert old.facts(entry)[b"user.dat.availability"] == b"gone"


@pytest.mark.parametrize(
    ("new", "error", "message"),
    [
        (b"HELLO WORLD\n", CorruptStorage, "/hello.txt: the file was changed"),
        (b"longer than before\n", CorruptStorage, "/hello.txt was changed .* it has 19 bytes, not 12"),
        (b"", CorruptStorage, "/hello.txt was changed"),
        (None, CorruptStorage, "/hello.txt cannot be read: No such file"),
    ],
)
async def test_edited_and_missing_files_are_named(
    tmp_path: Path, new: bytes | None, error: type[Exception], message: str
) -> None:
    """A file that was changed or removed after it was added is an error that names it; the others are readable."""
    folder = copy_drive("simple-dat", tmp_path)
    if new is None:
        (folder / "hello.txt").unlink()
    else:
        (folder / "hello.txt").write_bytes(new)
    async with datfs.open_drive(folder) as opened:
        tree = await opened.drive.checkout()
        with pytest.raises(error, match=message):
            await read(tree, await tree.find((b"hello.txt",)))
        assert await read(tree, await tree.find((b"docs", b"notes", b"one.txt"))) == b"one\n"


async def test_a_file_that_became_a_pipe_does_not_block(tmp_path: Path) -> None:
    """Whatever stands where a file was, opening it ends at once."""
    folder = copy_drive("simple-dat", tmp_path)
    (folder / "hello.txt").unlink()
    os.mkfifo(folder / "hello.txt")
    with trio.fail_after(5):
        async with datfs.open_drive(folder) as opened:
            tree = await opened.drive.checkout()
            with pytest.raises(CorruptStorage, match="not a plain file"):
                await tree.open(await tree.find((b"hello.txt",)))


async def test_old_bitfield_pages_are_read(tmp_path: Path) -> None:
    """Folders from before hypercore 6.22.3 have bitfield pages of 3328 bytes."""
    folder = copy_drive("simple", tmp_path)
    for name in ("metadata", "content"):
        path = folder / ".dat" / f"{name}.bitfield"
        data = bytearray(path.read_bytes()[: 32 + 3328])
        data[5:7] = (3328).to_bytes(2, "big")
        path.write_bytes(data)
    before = snapshot(folder)
    async with datfs.open_drive(folder) as opened:
        tree = await opened.drive.checkout()
        assert await read(tree, await tree.find((b"hello.txt",))) == b"hello world\n"
    assert snapshot(folder) == before


# --- trees -----------------------------------------------------------------------------------------------------


async def test_errors_of_a_tree_say_what_is_wrong() -> None:
    """A name that is not there, a file taken for a directory and the reverse each have their own error."""
    async with datfs.open_drive(DRIVES / "simple") as opened:
        tree = await opened.drive.checkout()
        hello = await tree.find((b"hello.txt",))
        for listed in (False, True):
            with pytest.raises(NotFound, match="/nope in version 5"):
                await tree.find((b"nope",))
            with pytest.raises(NotFound):
                await tree.lookup(tree.root, b"nope")
            if not listed:
                await tree.list(tree.root)
        with pytest.raises(NotADirectory):
            await tree.list(hello)
        with pytest.raises(NotADirectory):
            await tree.lookup(hello, b"x")
        with pytest.raises(IsADirectory):
            await tree.open(await tree.find((b"docs",)))


@pytest.mark.parametrize("name", ["simple", "modes", "deep", "unicode", "history"])
async def test_a_lookup_after_a_listing_is_the_same_entry(name: str) -> None:
    """Kept listings change the speed of a lookup and nothing else."""
    async with datfs.open_drive(DRIVES / name) as opened:
        listed = await opened.drive.checkout()
        entries = list((await walk(listed)).values())
        fresh = await opened.drive.checkout()
        for entry in entries:
            assert await listed.find(entry.path) == entry
            assert await fresh.find(entry.path) == entry


def a_drive_of(names: int) -> OpenStorage:
    """Storage of a drive with so many files in one directory."""
    storage = memory_storage()
    writer = DriveWriter.create(storage, key_pair(SEED))
    for number in range(names):
        writer.put((b"many", f"{number:05}".encode()), [], mtime=number)
    writer.close()
    return storage


def offline(storage: OpenStorage) -> Drive:
    """A drive over storage, without anybody to ask."""
    source = NoSource("this is a test")
    metadata = SparseRegister(Register.open(storage, prefix="metadata."), source, name="metadata")

    def open_content(key: bytes) -> SparseRegister:
        return SparseRegister(Register.open(storage, key=key, prefix="content."), source, name="content")

    return Drive(metadata, open_content)


async def test_deleting_leaves_times() -> None:
    """A directory that something was deleted from has the time of its newest file, the root too, seen in any way."""
    storage = memory_storage()
    writer = DriveWriter.create(storage, key_pair(SEED))
    for number in range(1, 20):
        writer.put((b"d%d" % (number % 2), b"%d" % number), [], mtime=number)
    writer.delete((b"d0", b"18"))
    writer.delete((b"d1", b"3"))
    writer.close()
    drive = offline(storage)
    tree = await drive.checkout()
    listed = {entry.name: entry.mtime_ns for entry in await tree.list(tree.root)}
    found = {name: (await (await drive.checkout()).find((name,))).mtime_ns for name in (b"d0", b"d1")}
    assert listed == found == {b"d0": 16_000_000, b"d1": 19_000_000}
    assert tree.root.mtime_ns == 19_000_000
    assert (await drive.checkout(20)).root.mtime_ns == 19_000_000
    assert (await drive.checkout(5)).root.mtime_ns == 5_000_000


class Silent(NoSource):
    """Somebody who may still tell something."""

    def hopeless(self, register: SparseRegister) -> DatfsError | None:
        """Not yet."""
        return None


async def test_the_time_of_the_root_is_not_waited_for(autojump_clock: trio.testing.MockClock) -> None:
    """If the newest entry is a deletion and nobody brings another one, a tree is made all the same, and soon."""
    storage = memory_storage()
    writer = DriveWriter.create(storage, key_pair(SEED))
    writer.put((b"a",), [], mtime=1)
    writer.put((b"b",), [], mtime=2)
    writer.delete((b"a",))
    source, here = writer.metadata, Register.open(memory_storage(), key=key_pair(SEED).public)
    for index in (3, 0):
        proof = source.proof(index, here.digest(index))
        here.put(index, source.get(index), proof.nodes, proof.signature)
    writer.close()
    reason = "this is a test"
    for nobody in (NoSource(reason), Silent(reason)):
        drive = Drive(SparseRegister(here, nobody, name="metadata"), offline(storage)._open_content)
        began = trio.current_time()
        tree = await drive.checkout()
        assert trio.current_time() - began < 5
        assert (tree.version, tree.root.mtime_ns) == (3, 0)


async def test_lookups_after_a_listing_decode_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a listing, each of its names is a dictionary hit: `find` and `tar` look up every single one."""
    drive = offline(a_drive_of(300))
    tree = await drive.checkout()
    directory = await tree.find((b"many",))
    entries = await tree.list(directory)

    def no_walk(*arguments: object) -> None:
        raise AssertionError("walked the index again")

    monkeypatch.setattr(path_index, "stat_path", no_walk)
    monkeypatch.setattr(path_index, "child_entries", no_walk)
    assert [await tree.lookup(directory, entry.name) for entry in entries] == list(entries)
    assert await tree.list(directory) == list(entries)


async def test_decoded_records_are_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long their indices are, decoded records do not take more than the bound."""
    drive = offline(a_drive_of(300))
    monkeypatch.setattr(drive_module, "RECORD_BYTES_KEPT", 20_000)
    tree = await drive.checkout()
    assert len(await tree.list(await tree.find((b"many",)))) == 300
    kept = drive._records.values()
    assert sum(len(record.index) + len(record.value or b"") for record in kept) <= 20_000
    assert kept


async def test_a_listing_reads_no_more_at_once_than_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small records are read many at once; of large ones about so many bytes, and each of them once."""
    monkeypatch.setattr(drive_module, "READ_BYTES", 4_000)
    drive = offline(a_drive_of(300))
    tree = await drive.checkout()
    directory = await tree.find((b"many",))
    runs: list[list[int]] = []
    seen: list[int] = []
    get_run = drive.metadata.register.get_run

    def noted(first: int, stop: int) -> list[bytes]:
        seen.extend(range(first, stop))
        values = get_run(first, stop)
        runs.append([len(value) for value in values])
        return values

    monkeypatch.setattr(drive.metadata.register, "get_run", noted)
    assert len(await tree.list(directory)) == 300
    # The first run knows nothing of sizes; after it a run has one record more than fit, and these may have grown.
    assert len(runs) > 10
    assert max(sum(sizes) for sizes in runs[1:]) < 2 * 4_000
    assert min(len(sizes) for sizes in runs[1:-1]) > 1
    assert len(seen) == len(set(seen))


def an_entry(*path: bytes) -> Entry:
    """An entry that is only a name."""
    return Entry(path, Kind.FILE, 0, 0o644, 0, 0, (path, 0))


def test_kept_listings_are_bounded() -> None:
    """The oldest listings go first, and one larger than the bound is not kept at all."""
    listings = Listings(10)
    for directory in (b"a", b"b", b"c"):
        listings.keep((directory,), {bytes([number]): an_entry(directory, bytes([number])) for number in range(4)})
    assert listings.get((b"a",)) is None
    assert listings.get((b"b",)) is not None
    assert listings.get((b"c",)) is not None
    listings.keep((b"d",), {bytes([number]): an_entry(b"d", bytes([number])) for number in range(11)})
    assert listings.get((b"d",)) is None


async def test_a_rooted_tree_shows_the_sub_directory() -> None:
    """A tree whose root is a directory of the drive lists and finds below it."""
    async with datfs.open_drive(DRIVES / "simple") as opened:
        tree = await opened.drive.checkout()
        docs = tree.rooted_at(await tree.find((b"docs",)))
        assert {entry.name for entry in await docs.list(docs.root)} == {b"readme.md", b"notes"}
        assert (await docs.lookup(docs.root, b"readme.md")).size == 25


# --- hostile drives --------------------------------------------------------------------------------------------


class Hostile:
    """A drive whose metadata chunks are whatever a test wants; content is five chunks of ``0123456789``."""

    def __init__(self, header: bytes | None = None) -> None:
        self.storage = memory_storage()
        keys = key_pair(SEED)
        derived = content_key_pair(keys.secret)
        self.metadata = Register.create(self.storage, keys, prefix="metadata.")
        content = Register.create(self.storage, derived, prefix="content.")
        content.append([b"0123456789"] * 5)
        content.close()
        self.metadata.append([encode_header(Header("hyperdrive", derived.public)) if header is None else header])
        self.index: list[int] = []

    def entry(self, name: bytes, stat: Stat | bytes | None = None, lists: list[list[int]] | None = None) -> None:
        """Appends an entry in the root's list; ``stat`` as bytes is a raw value."""
        seq = self.metadata.length
        self.index.append(seq)
        stat = Stat(0o100644, size=10, blocks=1) if stat is None else stat
        value = stat if isinstance(stat, bytes) else encode_stat(stat)
        depth = name.strip(b"/").count(b"/") + 1
        lists = lists if lists is not None else [list(self.index)] + [[seq]] * depth
        self.metadata.append([encode_record(name, value, lists, seq)])

    async def tree(self) -> DriveTree:
        """The newest version."""
        self.metadata.close()
        return await offline(self.storage).checkout()


GOOD = Stat(0o100644, size=10, blocks=1)


async def names(tree: DriveTree) -> set[bytes]:
    """What the root shows."""
    return {entry.name for entry in await tree.list(tree.root)}


@pytest.mark.parametrize(
    "name",
    [
        b"/..",
        b"/.",
        b"/../../etc/passwd",
        b"../x",
        b"//etc/passwd",
        b"/nul\0byte",
        b"/" + b"n" * 256,
        b"",
        b"/",
    ],
    ids=repr,
)
async def test_names_that_no_file_system_can_show_are_hidden(name: bytes) -> None:
    """Names that lead out, or that the kernel refuses, are not listed; the names beside them are."""
    hostile = Hostile()
    hostile.entry(b"/good", GOOD)
    hostile.entry(name, GOOD)
    hostile.entry(b"/also", GOOD)
    tree = await hostile.tree()
    assert await names(tree) == {b"good", b"also"}
    assert await read(tree, await tree.find((b"good",))) == b"0123456789"
    for path in ((b"..",), (b"..", b"..", b"etc", b"passwd"), (b"nul\0byte",), (b"",), (b"n" * 256,)):
        with pytest.raises(NotFound):
            await tree.find(path)


@pytest.mark.parametrize("name", [b"/dir/../x", b"/dir//x", b"/dir/./x", b"/dir/nul\0"], ids=repr)
async def test_bad_components_inside_a_path_are_hidden(name: bytes) -> None:
    """A bad component deeper in a path hides what is below it."""
    hostile = Hostile()
    hostile.entry(b"/good", GOOD)
    hostile.entry(name, GOOD)
    tree = await hostile.tree()
    for entry in await tree.list(tree.root):
        if entry.kind is Kind.DIRECTORY:
            assert await tree.list(entry) == []
    assert await read(tree, await tree.find((b"good",))) == b"0123456789"


async def test_names_of_terminal_escapes_are_kept_as_bytes() -> None:
    """Control bytes and bytes that are not UTF-8 are legal names; escaping them is for those who print."""
    hostile = Hostile()
    for name in (b"/new\nline", b"/\x1b[31mred", b"/\xff\xfe"):
        hostile.entry(name, GOOD)
    assert await names(await hostile.tree()) == {b"new\nline", b"\x1b[31mred", b"\xff\xfe"}


async def test_a_relative_name_counts_as_absolute() -> None:
    """The leading slash may be missing."""
    hostile = Hostile()
    hostile.entry(b"relative", GOOD)
    assert await names(await hostile.tree()) == {b"relative"}


async def test_a_name_twice_in_one_list() -> None:
    """Two elements of the same name: it is shown once."""
    hostile = Hostile()
    hostile.entry(b"/same", GOOD)
    hostile.entry(b"/same", Stat(0o100644, size=10, blocks=1, offset=1, byte_offset=10))
    tree = await hostile.tree()
    assert [entry.name for entry in await tree.list(tree.root)] == [b"same"]
    assert (await tree.find((b"same",))).size == 10


async def test_a_file_that_is_also_a_directory_is_a_directory() -> None:
    """With something below it a name is a directory, whatever its own entry says."""
    hostile = Hostile()
    hostile.entry(b"/both", GOOD)
    hostile.entry(b"/both/below", GOOD, [[2], [1, 2], [2]])
    tree = await hostile.tree()
    both = await tree.find((b"both",))
    assert both.kind is Kind.DIRECTORY
    assert [entry.name for entry in await tree.list(both)] == [b"below"]


@pytest.mark.parametrize("number", [0, 2, 3, 99, 2**40, 2**62])
async def test_indices_out_of_range_are_ignored(number: int) -> None:
    """A list that names the header, itself too early, or chunks to come costs nothing and waits for nothing."""
    hostile = Hostile()
    hostile.entry(b"/good", GOOD)
    hostile.entry(b"/bad", GOOD, [sorted({1, number, 2}), [2]])
    tree = await hostile.tree()
    with trio.fail_after(5):
        assert await names(tree) == {b"good", b"bad"}


async def read_ends(tree: DriveTree, entry: Entry) -> None:
    """Reads the first and the last bytes of a file."""
    file = await tree.open(entry)
    try:
        await file.read(0, 100)
        await file.read(max(0, entry.size - 5), 5)
    finally:
        file.close()


@pytest.mark.parametrize(
    "stat",
    [
        Stat(0o100644, size=10, blocks=1, offset=5, byte_offset=50),
        Stat(0o100644, size=10, blocks=2, offset=4, byte_offset=40),
        Stat(0o100644, size=2**60, blocks=2**60),
        Stat(0o100644, size=2**60, blocks=1),
        Stat(0o100644, size=10, blocks=2**60),
        Stat(0o100644, size=10, blocks=1, offset=2**60),
        Stat(0o100644, size=11, blocks=1),
        Stat(0o100644, size=9, blocks=1),
        Stat(0o100644, size=10, blocks=0),
        Stat(0o100644, size=10, blocks=1, offset=1, byte_offset=0),
        Stat(0o100644, size=10, blocks=1, offset=0, byte_offset=3),
        Stat(0o100644, size=30, blocks=2, offset=1, byte_offset=10),
    ],
    ids=str,
)
async def test_ranges_that_cannot_be_right_are_errors(stat: Stat) -> None:
    """A file whose chunks do not exist, or do not fit its size, is BadMetadata at once: no byte of another file."""
    hostile = Hostile()
    hostile.entry(b"/bad", stat)
    hostile.entry(b"/good", GOOD)
    tree = await hostile.tree()
    bad = await tree.find((b"bad",))
    with trio.fail_after(5), pytest.raises((BadMetadata, NoPeers)):
        await read_ends(tree, bad)
    assert await read(tree, await tree.find((b"good",))) == b"0123456789"


async def test_attributes_that_do_not_decode() -> None:
    """A broken entry is not listed; asked for by name it is an error; its neighbours are there."""
    hostile = Hostile()
    hostile.entry(b"/good", GOOD)
    hostile.entry(b"/broken", b"\xff\xff\xff")
    tree = await hostile.tree()
    assert await names(tree) == {b"good"}
    for _ in range(2):
        with pytest.raises(BadMetadata):
            await tree.find((b"broken",))
        await tree.list(tree.root)


async def test_chunks_that_do_not_decode() -> None:
    """A chunk of garbage breaks the version it heads, and no older one."""
    hostile = Hostile()
    hostile.entry(b"/good", GOOD)
    hostile.metadata.append([b"\xff\xff\xff\xff"])
    hostile.metadata.close()
    drive = offline(hostile.storage)
    with pytest.raises(BadMetadata):
        await (await drive.checkout(2)).find((b"good",))
    old = await drive.checkout(1)
    assert await read(old, await old.find((b"good",))) == b"0123456789"


async def test_modes_and_times_are_tamed() -> None:
    """No setuid, no device, no time that a tool cannot print."""
    hostile = Hostile()
    hostile.entry(b"/setuid", Stat(0o104777, size=10, blocks=1, mtime=2**63, ctime=2**64 - 1))
    hostile.entry(b"/device", Stat(0o020666))
    hostile.entry(b"/socket", Stat(0o140666))
    tree = await hostile.tree()
    assert await names(tree) == {b"setuid"}
    entry = await tree.find((b"setuid",))
    assert entry.permissions == 0o777
    assert entry.mtime_ns < 253_402_300_800 * 10**9


@pytest.mark.parametrize(
    ("header", "error", "message"),
    [
        (encode_header(Header("hypertrie", bytes(32))), UnsupportedFormat, "hypertrie"),
        (encode_header(Header("hyperdrive", bytes(31))), BadMetadata, "31 bytes"),
        (encode_header(Header("hyperdrive", key_pair(SEED).public)), BadMetadata, "its own metadata"),
        (b"", BadMetadata, "no type"),
        (b"\xff" * 40, BadMetadata, "does not decode"),
    ],
)
async def test_headers_that_are_none(header: bytes, error: type[DatfsError], message: str) -> None:
    """Another type, a content key that is none or the drive's own, and garbage are refused by name."""
    with pytest.raises(error, match=message):
        await Hostile(header).tree()


async def test_names_of_a_working_folder_cannot_lead_out(tmp_path: Path) -> None:
    """In a folder of the dat command a hostile entry does not make us open files elsewhere."""
    (tmp_path / "secret").write_bytes(b"0123456789")
    folder = tmp_path / "drive"
    (folder / ".dat").mkdir(parents=True)
    hostile = Hostile()
    for name in (b"/../secret", b"/good"):
        hostile.entry(name, GOOD)
    hostile.metadata.close()
    (folder / "good").write_bytes(b"0123456789")
    for register in ("metadata", "content"):
        for part in ("key", "tree", "signatures", "bitfield", "data"):
            if (register, part) != ("content", "data"):
                file = hostile.storage(f"{register}.{part}")
                (folder / ".dat" / f"{register}.{part}").write_bytes(file.read(0, file.size()))
    async with datfs.open_drive(folder) as opened:
        tree = await opened.drive.checkout()
        assert await names(tree) == {b"good"}
        assert opened.drive.check_bytes is not None
        files = opened.drive.check_bytes.__self__  # type: ignore[attr-defined]
        assert {file.path for file in files.files} <= {(b"good",)}


async def test_a_file_cut_into_odd_chunks_is_read_whole() -> None:
    """Chunk sizes are the writer's choice."""
    storage = memory_storage()
    writer = DriveWriter.create(storage, key_pair(SEED))
    data = bytes(range(256)) * 300
    pieces = [data[:1], data[1:1000], b"", data[1000:70000], data[70000:]]
    writer.put((b"odd",), pieces, mtime=0)
    writer.put((b"even",), chunks_of(data), mtime=0)
    writer.close()
    tree = await offline(storage).checkout()
    for name in (b"odd", b"even"):
        entry = await tree.find((name,))
        assert await read(tree, entry) == data
        assert await read(tree, entry, step=777) == data
