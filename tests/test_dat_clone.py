"""Folders of the dat command, the reader's side: chunks become plain files, and only inside of the folder."""

from __future__ import annotations

import errno
import os
import stat as stat_bits
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from datfs import clone_content, dat_content
from datfs.bitfield_file import BitfieldFile
from datfs.clone_content import PARTS
from datfs.crypto import content_key_pair, key_pair
from datfs.dat_clone import LATEST, DatClone, open_dat_clone, read_latest, write_latest
from datfs.dat_folder import create_dat_folder
from datfs.errors import BadMetadata, BadStore, Conflict, NotADrive, ReadOnly, StoreLocked
from datfs.metadata import Header, Stat, encode_header, encode_record, encode_stat
from datfs.register import ChunkMissing, Register
from datfs.storage import Buffer, directory_storage, memory_storage
from datfs.store import folder_store
from datfs.working_files import working_content
from datfs.writer import DriveWriter, chunks_of
from tests.dat_folders import clone_of, fetch, fetch_work, files_in, prepare, update
from tests.test_writer import PLANS, carry_out, fill
from tests.vector_drives import DRIVES, SEED, manifest

KEYS = key_pair(SEED)


@pytest.fixture
def origin() -> Iterator[DriveWriter]:
    """The drive that is cloned, in memory: it keeps the bytes of all versions."""
    writer = DriveWriter.create(memory_storage(), KEYS)
    yield writer
    writer.close()


def drive_with(names: list[bytes], data: bytes = b"hostile") -> DriveWriter:
    """A drive whose entries have any names at all, each of a file with the same bytes behind each other."""
    metadata = Register.create(memory_storage(), KEYS)
    derived = content_key_pair(KEYS.secret)
    content = Register.create(memory_storage(), derived)
    metadata.append([encode_header(Header("hyperdrive", derived.public))])
    for seq, name in enumerate(names, 1):
        stat = Stat(0o100644, size=len(data), blocks=1, offset=seq - 1, byte_offset=content.byte_length)
        content.append([data])
        lists = [list(range(1, seq + 1)), *([seq] for part in name.strip(b"/").split(b"/"))]
        metadata.append([encode_record(name, encode_stat(stat), lists, seq)])
    return DriveWriter(metadata, content)


def stored(folder: Path, origin: DriveWriter) -> list[int]:
    """The content chunks that the bits on the disk say are held."""
    with closing(directory_storage(folder / ".dat", read_only=True)("content.bitfield")) as file:
        data = BitfieldFile(file, read_only=True).data
    return [index for index in range(origin.content.length) if data.get(index)]


def check_stored(folder: Path, origin: DriveWriter) -> None:
    """Fails unless the bits on the disk speak of nothing but bytes that the files have."""
    store = folder_store(folder)
    metadata = Register.open(store.open_storage, read_only=True, prefix=store.metadata_prefix)
    content, files = working_content(store, metadata, origin.content.key)
    held = {file.path: range(file.first, file.first + file.blocks) for file in files.files}
    for path, chunks in held.items():
        if any(index in stored(folder, origin) for index in chunks):
            data = folder.joinpath(*map(os.fsdecode, path)).read_bytes()
            assert data == b"".join(map(origin.content.get, chunks)), path
    content.close()
    metadata.close()


def held(clone: DatClone) -> list[int]:
    """The content chunks that are held."""
    assert clone.content is not None
    return [index for index in range(clone.content.length) if clone.content.has(index)]


def test_a_clone_has_the_plain_files(origin: DriveWriter, tmp_path: Path) -> None:
    """Every file of the drive is there, no other, with nothing beside it in .dat but what the dat command has."""
    carry_out(origin, [*PLANS["simple"], ("put", "/empty", {"data": b""}), ("mkdir", "/folder", {})])
    clone = clone_of(tmp_path, origin.metadata, origin.content)
    assert clone.latest == origin.version
    clone.close()
    assert files_in(tmp_path) == files_in(DRIVES / "simple-dat") | {"empty": b""}
    assert not (tmp_path / "folder").exists()
    assert read_latest(tmp_path / ".dat") == origin.version
    names = {f"{register}.{part}" for register in ("metadata", "content") for part in ("key", "tree", "signatures")}
    names |= {"metadata.bitfield", "content.bitfield", "metadata.data", "metadata.latest"}
    assert {at.name for at in (tmp_path / ".dat").iterdir()} == names


def test_a_clone_follows_every_version(origin: DriveWriter, tmp_path: Path) -> None:
    """Brought up to date after each change, it has the files of each version and holds their chunks only."""
    clone = open_dat_clone(tmp_path, KEYS.public)
    for version, operation in enumerate(PLANS["history"], 1):
        kind, path, arguments = operation
        carry_out(origin, [(kind, path, {"mtime": version, **arguments} if kind == "put" else arguments)])
        update(clone, origin.metadata, origin.content)
        expected = manifest("history")["checkouts"][str(version)]
        assert set(files_in(tmp_path)) == {fact["path"].lstrip("/") for fact in expected if fact["type"] == "file"}
        assert clone.content is not None
        assert clone.content.audit().ok
    assert held(clone) == [6, 9]
    clone.close()


def test_a_clone_is_opened_again(origin: DriveWriter, tmp_path: Path) -> None:
    """What was fetched is held again, also of files that are not whole, and only they have no name."""
    carry_out(origin, PLANS["simple"])
    clone = open_dat_clone(tmp_path, KEYS.public)
    fetch(clone.metadata, origin.metadata)
    assert prepare(clone).version == 5
    assert clone.content is not None
    fetch(clone.content, origin.content, 2, 5)
    assert held(clone) == [2, 3, 4]
    whole = {file.path for file in prepare(clone).missing if clone.content.has_range(file.first, file.stop)}
    clone.close()
    assert files_in(tmp_path).keys() == {b"/".join(path).decode() for path in whole}
    clone = open_dat_clone(tmp_path)
    assert clone.latest == 0
    fetched: list[int] = []
    work = prepare(clone)
    assert held(clone) == [2, 3, 4]
    assert sum(file.here for file in work.missing) + sum(map(len, files_in(tmp_path).values())) == sum(
        origin.content.size_of(index) for index in (2, 3, 4)
    )
    for file in work.missing:
        fetched += [
            index
            for index in range(file.first, file.stop)
            if not (clone.content is not None and clone.content.has(index))
        ]
    assert not {2, 3, 4} & set(fetched)
    fetch_work(clone, work, origin.content)
    assert clone.content is not None
    assert clone.content.audit().ok
    clone.close()
    assert files_in(tmp_path) == files_in(DRIVES / "simple-dat")
    assert not (tmp_path / ".dat" / PARTS).exists()


def test_few_files_are_open_at_once(origin: DriveWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many files there are, they are written with a bounded number open."""
    monkeypatch.setattr(dat_content, "OPEN_FILES", 2)
    monkeypatch.setattr(clone_content, "OPEN_FILES", 2)
    for number in range(9):
        origin.put((b"d%d" % (number % 3), b"%d" % number), [b"%d" % number] * 2, mtime=0)
    clone = clone_of(tmp_path, origin.metadata, origin.content)
    before = len(os.listdir("/proc/self/fd"))
    assert clone.content is not None
    assert clone.content.audit().ok
    assert len(os.listdir("/proc/self/fd")) <= before + 2
    clone.close()
    assert files_in(tmp_path) == {f"d{number % 3}/{number}": b"%d" % number * 2 for number in range(9)}


def test_parts_are_sent_out(origin: DriveWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before they are whole; large ones leave the memory, and nothing else about them changes."""
    monkeypatch.setattr(clone_content, "LARGE", 100_000)
    large, small = os.urandom(140_000), os.urandom(70_000)
    origin.put((b"large",), chunks_of(large), mtime=0)
    origin.put((b"small",), chunks_of(small), mtime=0)
    clone = open_dat_clone(tmp_path, KEYS.public)
    fetch(clone.metadata, origin.metadata)
    work = prepare(clone)
    assert clone.content is not None
    for first in (0, 3):  # the first chunk of each
        fetch(clone.content, origin.content, first, first + 1)
    let_go: list[int] = []
    real = os.posix_fadvise

    def note(fd: int, offset: int, length: int, advice: int) -> None:
        assert (offset, length, advice) == (0, 0, os.POSIX_FADV_DONTNEED)
        let_go.append(os.fstat(fd).st_ino)
        real(fd, offset, length, advice)

    monkeypatch.setattr(os, "posix_fadvise", note)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        clone.sending_out()()
    assert len(os.listdir("/proc/self/fd")) == before
    assert let_go == [(tmp_path / ".dat" / PARTS / "1").stat().st_ino] * 3
    fetch_work(clone, work, origin.content)
    clone.sending_out()()
    assert len(let_go) == 3, "nothing is being written"
    clone.close()
    assert files_in(tmp_path) == {"large": large, "small": small}


def test_an_old_file_stays_until_the_new_one_is_whole(origin: DriveWriter, tmp_path: Path) -> None:
    """Whatever is fetched of the new one, and whenever it ends; the bits on the disk always fit the files."""
    origin.put((b"a",), [b"first"], mtime=0)
    clone = clone_of(tmp_path, origin.metadata, origin.content)
    origin.put((b"a",), [b"se", b"cond"], mtime=1_000_000_000_000)
    fetch(clone.metadata, origin.metadata)
    assert clone.content is not None
    with pytest.raises(OSError, match="no file that is wanted"):
        fetch(clone.content, origin.content)
    work = prepare(clone)
    fetch(clone.content, origin.content, 1, 2)
    clone.flush()
    assert ((tmp_path / "a").read_bytes(), stored(tmp_path, origin)) == (b"first", [0])
    clone.close()
    assert ((tmp_path / "a").read_bytes(), stored(tmp_path, origin)) == (b"first", [0])
    clone = open_dat_clone(tmp_path)
    work = prepare(clone)
    assert (held(clone), [file.here for file in work.missing]) == ([0, 1], [2])
    fetch_work(clone, work, origin.content)
    assert ((tmp_path / "a").read_bytes(), stored(tmp_path, origin)) == (b"second", [1, 2])
    assert (tmp_path / "a").stat().st_mtime == 1_000_000_000
    clone.close()


def test_empty_folders_go_with_their_last_file(origin: DriveWriter, tmp_path: Path) -> None:
    """Folders above a deleted file are removed if nothing is in them, and stay if a person put something there."""
    origin.put((b"x", b"y", b"a"), [b"a"], mtime=0)
    origin.put((b"kept", b"a"), [b"a"], mtime=0)
    clone = clone_of(tmp_path, origin.metadata, origin.content)
    (tmp_path / "kept" / "mine").write_bytes(b"mine")
    origin.delete((b"x", b"y", b"a"))
    origin.delete((b"kept", b"a"))
    update(clone, origin.metadata, origin.content)
    clone.close()
    assert files_in(tmp_path) == {"kept/mine": b"mine"}
    assert not (tmp_path / "x").exists()


def test_what_was_never_fetched_is_not_removed(origin: DriveWriter, tmp_path: Path) -> None:
    """A person's own thing where a file of the drive comes is in the way, and stays when the drive deletes its file."""
    for name in (b"a", b"b", b"c"):
        origin.put((name,), [name], mtime=0)
    (tmp_path / "a").write_bytes(b"mine")
    clone = open_dat_clone(tmp_path, KEYS.public)
    fetch(clone.metadata, origin.metadata)
    with pytest.raises(Conflict, match="/a;"):
        prepare(clone)
    (tmp_path / "a").rename(tmp_path / "kept")
    work = prepare(clone)
    (tmp_path / "kept").rename(tmp_path / "a")
    fetch_work(clone, work, origin.content)
    assert [path for path, _ in work.failed] == [(b"a",)]
    for name in (b"a", b"b", b"c"):
        origin.delete((name,))
    (tmp_path / "c").unlink()
    (tmp_path / "c").mkdir()
    update(clone, origin.metadata, origin.content)
    clone.close()
    assert files_in(tmp_path) == {"a": b"mine"}
    assert (tmp_path / "c").is_dir()


def test_a_crash_at_the_end_is_repeated(origin: DriveWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped before the version is written, the next time does the rest; nothing is held that is not there."""
    origin.put((b"a",), [b"a"], mtime=0)
    origin.put((b"b",), [b"b"], mtime=0)
    clone = clone_of(tmp_path, origin.metadata, origin.content)
    origin.delete((b"a",))
    origin.put((b"b",), [b"new"], mtime=0)
    fetch(clone.metadata, origin.metadata)

    def stop(base: Path, version: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("datfs.dat_clone.write_latest", stop)
        with pytest.raises(OSError, match="Input/output"):
            fetch_work(clone, prepare(clone), origin.content)
    clone.close()
    clone = open_dat_clone(tmp_path)
    assert (clone.latest, held(clone)) == (2, [2])
    assert update(clone, origin.metadata, origin.content).missing == []
    assert (clone.latest, held(clone)) == (4, [2])
    clone.close()
    assert files_in(tmp_path) == {"b": b"new"}


@pytest.mark.parametrize("step", range(1, 14))
def test_an_end_between_any_two_steps(
    origin: DriveWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Every name has an old or a new file, whole; the bits on the disk fit; the next time does the rest."""
    for name in (b"a", b"b", b"gone"):
        origin.put((name,), [b"old ", name], mtime=0)
    clone = clone_of(tmp_path, origin.metadata, origin.content)
    for name in (b"a", b"b", b"c"):
        origin.put((b"new", name) if name == b"c" else (name,), [b"new ", name], mtime=0)
    origin.delete((b"gone",))
    fetch(clone.metadata, origin.metadata)
    work = prepare(clone)
    assert clone.content is not None
    for file in work.missing:
        fetch(clone.content, origin.content, file.first, file.stop)
    steps = 0

    def ends(name: str) -> None:
        real = getattr(os, name)

        def call(*arguments: Any, **keywords: Any) -> Any:
            nonlocal steps
            steps += 1
            if steps >= step:
                raise OSError(5, "Input/output error")
            return real(*arguments, **keywords)

        patch.setattr(os, name, call)

    with monkeypatch.context() as patch:
        for call in ("rename", "unlink", "fdatasync", "fsync"):
            ends(call)
        for end in (partial(clone.finish, work), clone.close):
            with suppress(OSError):
                end()
    versions = {"a": (b"old a", b"new a"), "b": (b"old b", b"new b"), "new/c": (b"new c",), "gone": (b"old gone",)}
    for path, data in files_in(tmp_path).items():
        assert data in versions[path]
    check_stored(tmp_path, origin)
    clone = open_dat_clone(tmp_path)
    update(clone, origin.metadata, origin.content)
    clone.close()
    assert files_in(tmp_path) == {"a": b"new a", "b": b"new b", "new/c": b"new c"}
    check_stored(tmp_path, origin)


def test_the_entries_are_needed(origin: DriveWriter, tmp_path: Path) -> None:
    """With entries missing nothing is changed; without any header there is nothing to do."""
    carry_out(origin, PLANS["simple"])
    clone = open_dat_clone(tmp_path, KEYS.public)
    assert prepare(clone).missing == []
    fetch(clone.metadata, origin.metadata, 5, 6)
    assert (clone.content, prepare(clone).missing) == (None, [])
    fetch(clone.metadata, origin.metadata, 0, 1)
    with pytest.raises(ChunkMissing):
        prepare(clone)
    assert clone.latest == read_latest(tmp_path / ".dat") == 0
    clone.close()


def test_any_version_can_be_gone_to(origin: DriveWriter, tmp_path: Path) -> None:
    """Older and newer ones: of each file there is one version, and its chunks are those that are held."""
    for number in range(3):
        origin.put((b"a",), [b"%d" % number], mtime=0)
    origin.put((b"b",), [b"b"], mtime=0)
    clone = open_dat_clone(tmp_path, KEYS.public)
    fetch(clone.metadata, origin.metadata)
    for version, files in (
        (2, {"a": b"1"}),
        (4, {"a": b"2", "b": b"b"}),
        (1, {"a": b"0"}),
        (99, {"a": b"2", "b": b"b"}),
    ):
        fetch_work(clone, prepare(clone, version), origin.content)
        assert files_in(tmp_path) == files
        assert clone.latest == min(version, 4)
        assert held(clone) == {1: [0], 2: [1], 4: [2, 3], 99: [2, 3]}[version]
    clone.close()


@pytest.mark.parametrize("data", [None, b"", b"\0" * 7])
def test_a_missing_or_short_version_is_0(tmp_path: Path, data: bytes | None) -> None:
    """As old versions of the dat command leave it."""
    if data is not None:
        (tmp_path / "metadata.latest").write_bytes(data)
    assert read_latest(tmp_path) == 0


def test_the_version_is_eight_bytes(tmp_path: Path) -> None:
    """Big endian, as the reference has it."""
    write_latest(tmp_path, 0x0102)
    assert (tmp_path / "metadata.latest").read_bytes() == b"\0\0\0\0\0\0\1\2"
    assert read_latest(tmp_path) == 0x0102


def test_without_a_version_what_is_held_stays(origin: DriveWriter, tmp_path: Path) -> None:
    """A folder of an old version of the dat command has an empty file; its chunks are not fetched again."""
    carry_out(origin, PLANS["simple"])
    clone_of(tmp_path, origin.metadata, origin.content).close()
    (tmp_path / ".dat" / "metadata.latest").write_bytes(b"")
    clone = open_dat_clone(tmp_path)
    assert (clone.latest, len(held(clone))) == (0, 7)
    work = prepare(clone)
    assert (work.version, work.missing, len(held(clone))) == (5, [], 7)
    clone.close()


def test_a_version_beyond_the_metadata_is_not_believed(origin: DriveWriter, tmp_path: Path) -> None:
    """Metadata that were lost come again, and what they replaced is cleaned then."""
    origin.put((b"a",), [b"a"], mtime=0)
    clone_of(tmp_path, origin.metadata, origin.content).close()
    write_latest(tmp_path / ".dat", 2**64 - 1)
    clone = open_dat_clone(tmp_path)
    assert (clone.latest, held(clone)) == (1, [0])
    origin.put((b"a",), [b"b"], mtime=0)
    update(clone, origin.metadata, origin.content)
    assert (clone.latest, held(clone)) == (2, [1])
    clone.close()


def test_a_file_that_dat_began_is_finished_in_its_place(origin: DriveWriter, tmp_path: Path) -> None:
    """Its bits are on the disk already. What was there before does not stay behind its end."""
    origin.put((b"a",), chunks_of(fill("a", 140_000)), mtime=0)
    clone = clone_of(tmp_path, origin.metadata, origin.content)
    assert clone.content is not None
    clone.content.forget(1, 2)
    clone.close()
    with (tmp_path / "a").open("r+b") as file:
        file.write(fill("a", 65_536) + bytes(100_000))
    clone = open_dat_clone(tmp_path)
    assert stored(tmp_path, origin) == [0, 2]
    work = prepare(clone)
    assert [(file.path, file.first) for file in work.missing] == [((b"a",), 0)]
    assert clone.content is not None
    fetch(clone.content, origin.content, 1, 2)
    assert (tmp_path / "a").read_bytes()[:131_072] == fill("a", 140_000)[:131_072]
    assert (tmp_path / "a").stat().st_size == 140_000
    clone.close()
    assert stored(tmp_path, origin) == [0, 1, 2]


def test_a_file_that_a_person_changed_is_in_the_way(origin: DriveWriter, tmp_path: Path) -> None:
    """Nothing is changed then, but with force; one that the drive deleted stays, and is told of."""
    for name in (b"a", b"b", b"gone"):
        origin.put((name,), [b"old " + name], mtime=0)
    clone = clone_of(tmp_path, origin.metadata, origin.content)
    origin.put((b"a",), [b"new a"], mtime=0)
    origin.delete((b"gone",))
    for edited in ("a", "b", "gone"):
        (tmp_path / edited).write_bytes(b"edited " + edited.encode())
    fetch(clone.metadata, origin.metadata)
    before = files_in(tmp_path)
    with pytest.raises(Conflict, match="/a;"):
        prepare(clone)
    assert (files_in(tmp_path), stored(tmp_path, origin)) == (before, [0, 1, 2])
    work = prepare(clone, force=True)
    fetch_work(clone, work, origin.content)
    assert files_in(tmp_path) == {"a": b"new a", "b": b"edited b"}
    clone.close()


def test_what_is_in_the_way_is_gone_around(origin: DriveWriter, tmp_path: Path) -> None:
    """Everything else is done; what was in the way stays as it is, is told, and its place is filled when it is gone."""
    for name in (b"a", b"b", b"gone"):
        origin.put((name,), [b"old " + name], mtime=0)
    clone = clone_of(tmp_path, origin.metadata, origin.content)
    for path in ((b"a",), (b"b",), (b"folder", b"x"), (b"file", b"below")):
        origin.put(path, [b"new " + path[-1]], mtime=0)
    origin.delete((b"gone",))
    (tmp_path / "a").write_bytes(b"edited")
    (tmp_path / "file").write_bytes(b"of my own")
    fetch(clone.metadata, origin.metadata)
    with pytest.raises(Conflict):
        prepare(clone)
    work = prepare(clone, around=True)
    fetch_work(clone, work, origin.content)
    mine = {"a": b"edited", "file": b"of my own"}
    assert files_in(tmp_path) == {**mine, "b": b"new b", "folder/x": b"new x"}
    assert [path for path, _ in work.failed] == [(b"a",), (b"file", b"below")]
    assert (set(work.blocking), clone.latest) == ({(b"a",), (b"file",)}, 3)
    assert clone.still_there(work.blocking)
    for place in mine:
        (tmp_path / place).rename(tmp_path / f"{place} of mine")
    assert not clone.still_there(work.blocking)
    work = prepare(clone, around=True)
    fetch_work(clone, work, origin.content)
    assert (work.failed, clone.latest) == ([], origin.metadata.length - 1)
    assert ((tmp_path / "a").read_bytes(), (tmp_path / "file" / "below").read_bytes()) == (b"new a", b"new below")
    clone.close()
    check_stored(tmp_path, origin)


def test_a_deleted_file_that_was_changed_stays(origin: DriveWriter, tmp_path: Path) -> None:
    """It is named, and not held any more."""
    origin.put((b"gone",), [b"old"], mtime=0)
    clone = clone_of(tmp_path, origin.metadata, origin.content)
    (tmp_path / "gone").write_bytes(b"edited")
    origin.delete((b"gone",))
    work = update(clone, origin.metadata, origin.content)
    assert (work.kept, work.removed, held(clone)) == ([(b"gone",)], 0, [])
    clone.close()
    assert files_in(tmp_path) == {"gone": b"edited"}


def test_what_is_there_already_is_taken(origin: DriveWriter, tmp_path: Path) -> None:
    """A file that was removed comes again; one that has just the right bytes, of known hashes, is not fetched."""
    for name in (b"a", b"b"):
        origin.put((name,), [name * 9], mtime=0)
    clone = clone_of(tmp_path, origin.metadata, origin.content)
    assert clone.content is not None
    clone.content.clear(0, 1)
    (tmp_path / "b").unlink()
    work = prepare(clone)
    assert ([file.path for file in work.missing], held(clone)) == ([(b"b",)], [0])
    fetch_work(clone, work, origin.content)
    clone.close()
    assert files_in(tmp_path) == {"a": b"a" * 9, "b": b"b" * 9}


@pytest.mark.parametrize("turn", [("a", "a/b/c"), ("a/b/c", "a")])
def test_a_file_becomes_a_folder(origin: DriveWriter, tmp_path: Path, turn: tuple[str, str]) -> None:
    """And a folder a file, unless something of a person's own is in it."""
    before, after = (tuple(name.encode().split(b"/")) for name in turn)
    origin.put(before, [b"before"], mtime=0)
    clone = clone_of(tmp_path, origin.metadata, origin.content)
    origin.delete(before)
    origin.put(after, [b"after"], mtime=0)
    mine = tmp_path / "a" / "mine"
    if len(before) > 1:
        mine.write_bytes(b"mine")
        fetch(clone.metadata, origin.metadata)
        with pytest.raises(Conflict, match="/a;"):
            prepare(clone, force=True)
        assert files_in(tmp_path) == {"a/b/c": b"before", "a/mine": b"mine"}
        mine.unlink()
    update(clone, origin.metadata, origin.content)
    clone.close()
    assert files_in(tmp_path) == {turn[1]: b"after"}


@pytest.mark.parametrize(
    "name",
    [
        b"/../../outside",
        b"/dir/../../outside",
        b"//outside",
        b"/./outside",
        b"/..",
        b"/",
        b"/a\0b",
        b"/.dat/metadata.ogd",
        b"/.dat",
        b"/" + b"x" * 256,
        b"/link/outside",
        b"/file-link",
        b"/pipe",
        b"/socket",
        b"/device",
        b"/device/below",
        b"/loop",
        b"/loop/below",
        b"/folder",
        b"/file/below",
    ],
)
def test_hostile_names_never_leave_the_folder(tmp_path: Path, name: bytes) -> None:
    """Nothing outside, nor a register, is written, made or removed; the other files arrive, and cleaning goes on."""
    folder, outside = tmp_path / "clone", tmp_path / "target"
    folder.mkdir()
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    (folder / "link").symlink_to(outside)
    (folder / "file-link").symlink_to(outside / "secret")
    (folder / "folder" / "sub").mkdir(parents=True)
    (folder / "file").write_bytes(b"mine")
    os.mkfifo(folder / "pipe")
    os.mknod(folder / "socket", stat_bits.S_IFSOCK | 0o600)
    (folder / "device").symlink_to("/dev/null")  # the device itself only root can make
    (folder / "loop").symlink_to("loop")
    obstacles = {b"/link/outside", b"/device/below", b"/loop/below", b"/folder", b"/file/below"}
    hostile = drive_with([name, b"/good", name])
    clone = open_dat_clone(folder, KEYS.public)
    fetch(clone.metadata, hostile.metadata)
    assert clone.content is not None
    registers = {at.name for at in (folder / ".dat").iterdir()} | {LATEST}
    try:
        work = prepare(clone, force=name not in obstacles)
    except Conflict:
        assert name in obstacles
        work = next(work for work in clone.prepare(wants=lambda path: path == (b"good",)) if work is not None)
    assert clone.content is not None
    fetch_work(clone, work, hostile.content)
    assert (folder / "good").read_bytes() == b"hostile"
    hostile.metadata.append([encode_record(b"/good", None, [[]], 4)])
    fetch(clone.metadata, hostile.metadata)
    fetch_work(clone, next(w for w in clone.prepare(wants=lambda path: path == (b"good",)) if w), hostile.content)
    clone.close()
    assert {at.name: at.read_bytes() for at in outside.iterdir()} == {"secret": b"secret"}
    assert sorted(at.name for at in tmp_path.iterdir()) == ["clone", "target"]
    assert {at.name for at in (folder / ".dat").iterdir()} == registers
    mine = {"link", "file-link", "folder", "file", "pipe", "socket", "device", "loop"}
    assert {at.name for at in folder.iterdir()} == {".dat"} | mine
    assert (folder / "file").read_bytes() == b"mine"


@pytest.mark.parametrize("name", ["pipe", "socket", "device", "loop"])
def test_what_is_no_file_is_in_the_way(origin: DriveWriter, tmp_path: Path, name: str) -> None:
    """It is not waited for, followed or replaced: nothing is done, and it is named."""
    makers: dict[str, Callable[[], None]] = {
        "pipe": lambda: os.mkfifo(tmp_path / "a"),
        "socket": lambda: os.mknod(tmp_path / "a", stat_bits.S_IFSOCK | 0o600),
        "device": lambda: (tmp_path / "a").symlink_to("/dev/full"),
        "loop": lambda: (tmp_path / "a").symlink_to("a"),
    }
    makers[name]()
    origin.put((b"a",), [b"a"], mtime=0)
    clone = open_dat_clone(tmp_path, KEYS.public)
    fetch(clone.metadata, origin.metadata)
    with pytest.raises(Conflict, match="/a;"):
        prepare(clone)
    clone.close()
    assert not stat_bits.S_ISREG((tmp_path / "a").lstat().st_mode)


def test_names_that_are_not_utf_8_arrive(tmp_path: Path) -> None:
    """A drive may have any bytes but NUL and / in a name; so may the folder."""
    strange = drive_with([b"/bad\xff", b"/caf\xc3\xa9", b"/line\nbreak"])
    clone = open_dat_clone(tmp_path, KEYS.public)
    update(clone, strange.metadata, strange.content)
    clone.close()
    assert {os.fsencode(name) for name in files_in(tmp_path)} == {b"bad\xff", b"caf\xc3\xa9", b"line\nbreak"}


@pytest.mark.parametrize("room", range(8))
def test_a_full_disk(origin: DriveWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    """Whichever write fails, every name has an old or a new file, whole, and with room again the rest comes."""
    for name in (b"a", b"b"):
        origin.put((name,), [b"old ", name], mtime=0)
    clone = clone_of(tmp_path, origin.metadata, origin.content)
    origin.put((b"a",), [b"new ", b"and ", b"longer ", b"a"], mtime=0)
    origin.put((b"c",), [b"new ", b"c"], mtime=0)
    fetch(clone.metadata, origin.metadata)
    work = prepare(clone)
    assert clone.content is not None
    left = room
    pwrite = os.pwrite

    def limited(fd: int, data: Buffer, offset: int) -> int:
        nonlocal left
        if not left:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        left -= 1
        return pwrite(fd, data, offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", limited)
        with pytest.raises(OSError, match="No space"):
            fetch_work(clone, work, origin.content)
        with suppress(OSError):
            clone.close()
    versions = {"a": (b"old a", b"new and longer a"), "b": (b"old b",), "c": (b"new c",)}
    assert all(data in versions[path] for path, data in files_in(tmp_path).items())
    check_stored(tmp_path, origin)
    clone = open_dat_clone(tmp_path)
    update(clone, origin.metadata, origin.content)
    clone.close()
    assert files_in(tmp_path) == {"a": b"new and longer a", "b": b"old b", "c": b"new c"}
    check_stored(tmp_path, origin)


def test_overlapping_entries_do_no_harm(tmp_path: Path) -> None:
    """Entries that claim the same or senseless ranges get some bytes or none; what is held reads as it was verified."""
    hostile = drive_with([b"/a", b"/b"], b"12345678")
    for seq, (name, start, size) in enumerate([(b"/c", 0, 8), (b"/d", 4, 8), (b"/e", 2**62, 8), (b"/f", 0, 2**60)], 3):
        stat = Stat(0o100644, size=size, blocks=1, offset=0, byte_offset=start)
        hostile.metadata.append([encode_record(name, encode_stat(stat), [list(range(1, seq + 1)), [seq]], seq)])
    clone = open_dat_clone(tmp_path, KEYS.public)
    fetch(clone.metadata, hostile.metadata)
    work = prepare(clone)
    assert clone.content is not None
    fetch(clone.content, hostile.content)
    clone.finish(work)
    assert clone.content.audit().ok
    clone.close()
    assert work.failed
    for path, data in files_in(tmp_path).items():
        assert (path, data) in [(path, b"12345678") for path in "abcd"]


def test_a_failed_sync_is_tried_again(origin: DriveWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files whose sync failed are synced by the next flush; only then they get their names, and the bits say so."""
    origin.put((b"d", b"a"), [b"a"], mtime=0)
    clone = open_dat_clone(tmp_path, KEYS.public)
    fetch(clone.metadata, origin.metadata)
    prepare(clone)
    assert clone.content is not None
    clone.flush()
    fetch(clone.content, origin.content)
    part = (tmp_path / ".dat" / PARTS / "1").stat().st_ino
    synced: list[int] = []

    def sync(fd: int) -> None:
        if os.fstat(fd).st_ino == part:
            synced.append(part)
            if len(synced) == 1:
                raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", sync)
        with pytest.raises(OSError, match="Input/output"):
            clone.flush()
        assert (files_in(tmp_path), stored(tmp_path, origin)) == ({}, [])
        clone.flush()
    assert synced == [part, part]
    assert (files_in(tmp_path), stored(tmp_path, origin)) == ({"d/a": b"a"}, [0])
    clone.close()


def test_one_process_at_a_time(tmp_path: Path) -> None:
    """A second reader of a folder is refused."""
    clone = open_dat_clone(tmp_path, KEYS.public)
    with pytest.raises(StoreLocked):
        open_dat_clone(tmp_path)
    clone.close()
    clone.close()
    open_dat_clone(tmp_path).close()


def test_folders_that_are_no_clone_are_refused(tmp_path: Path) -> None:
    """None at all without a key, that of another drive, a writer's, and one with a data file."""
    with pytest.raises(NotADrive):
        open_dat_clone(tmp_path)
    open_dat_clone(tmp_path / "clone", KEYS.public).close()
    with pytest.raises(BadStore, match="another register"):
        open_dat_clone(tmp_path / "clone", key_pair(bytes(32)).public)
    create_dat_folder(tmp_path / "mine", KEYS, home=tmp_path).close()
    with pytest.raises(ReadOnly, match="written here"):
        open_dat_clone(tmp_path / "mine", KEYS.public)
    (tmp_path / "sleep" / ".dat").mkdir(parents=True)
    writer = DriveWriter.create(directory_storage(tmp_path / "sleep" / ".dat"), KEYS)
    writer.put((b"a",), [b"a"], mtime=0)
    writer.close()
    with pytest.raises(NotADrive, match=r"content\.data"):
        open_dat_clone(tmp_path / "sleep", KEYS.public)


def test_a_drive_that_is_its_own_content_is_refused(tmp_path: Path) -> None:
    """The two registers would share their files."""
    metadata = Register.create(memory_storage(), KEYS)
    metadata.append([encode_header(Header("hyperdrive", KEYS.public))])
    clone = open_dat_clone(tmp_path, KEYS.public)
    fetch(clone.metadata, metadata)
    with pytest.raises(BadMetadata, match="itself"):
        prepare(clone)
    clone.close()
