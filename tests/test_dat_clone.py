"""Folders of the dat command, the reader's side: chunks become plain files, and only inside of the folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from datfs import dat_content
from datfs.crypto import content_key_pair, key_pair
from datfs.dat_clone import DatClone, open_dat_clone, read_latest, write_latest
from datfs.dat_folder import create_dat_folder
from datfs.errors import BadMetadata, BadStore, NotADrive, ReadOnly, StoreLocked
from datfs.metadata import Header, Stat, encode_header, encode_record, encode_stat
from datfs.register import ChunkMissing, Register
from datfs.storage import directory_storage, memory_storage
from datfs.writer import DriveWriter, chunks_of
from tests.dat_folders import clone_of, fetch, files_in, update
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


def held(clone: DatClone) -> list[int]:
    """The content chunks that are held."""
    assert clone.content is not None
    return [index for index in range(clone.content.length) if clone.content.has(index)]


def test_a_clone_has_the_plain_files(origin: DriveWriter, tmp_path: Path) -> None:
    """Every file that has bytes is there, no other, with nothing beside it in .dat but what the dat command has."""
    carry_out(origin, [*PLANS["simple"], ("put", "/empty", {"data": b""}), ("mkdir", "/folder", {})])
    clone = clone_of(tmp_path, origin.metadata, origin.content)
    assert clone.latest == origin.version
    clone.close()
    assert files_in(tmp_path) == files_in(DRIVES / "simple-dat")
    assert not (tmp_path / "folder").exists()
    assert read_latest(tmp_path / ".dat") == origin.version
    names = {f"{register}.{part}" for register in ("metadata", "content") for part in ("key", "tree", "signatures")}
    names |= {"metadata.bitfield", "content.bitfield", "metadata.data", "metadata.latest"}
    assert {at.name for at in (tmp_path / ".dat").iterdir()} == names


def test_a_clone_follows_every_version(origin: DriveWriter, tmp_path: Path) -> None:
    """Brought up to date after each change, it has the files with bytes of each version and holds their chunks only."""
    clone = open_dat_clone(tmp_path, KEYS.public)
    for version, operation in enumerate(PLANS["history"], 1):
        kind, path, arguments = operation
        carry_out(origin, [(kind, path, {"mtime": version, **arguments} if kind == "put" else arguments)])
        update(clone, origin.metadata, origin.content)
        expected = manifest("history")["checkouts"][str(version)]
        assert set(files_in(tmp_path)) == {
            fact["path"].lstrip("/") for fact in expected if fact["type"] == "file" and fact["size"]
        }
        assert clone.content is not None
        assert clone.content.audit().ok
    assert held(clone) == [6, 9]
    clone.close()


def test_a_clone_is_opened_again(origin: DriveWriter, tmp_path: Path) -> None:
    """What was fetched is still held after closing, and fetching goes on where it ended."""
    carry_out(origin, PLANS["simple"])
    clone = open_dat_clone(tmp_path, KEYS.public)
    fetch(clone.metadata, origin.metadata)
    assert clone.clean() == 5
    assert clone.content is not None
    fetch(clone.content, origin.content, 2, 5)
    clone.close()
    clone = open_dat_clone(tmp_path)
    assert (clone.latest, held(clone)) == (5, [2, 3, 4])
    update(clone, origin.metadata, origin.content)
    assert clone.content is not None
    assert clone.content.audit().ok
    clone.close()
    assert files_in(tmp_path) == files_in(DRIVES / "simple-dat")


def test_few_files_are_open_at_once(origin: DriveWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many files there are, they are written with a bounded number open."""
    monkeypatch.setattr(dat_content, "OPEN_FILES", 2)
    for number in range(9):
        origin.put((b"d%d" % (number % 3), b"%d" % number), [b"%d" % number] * 2, mtime=0)
    clone = clone_of(tmp_path, origin.metadata, origin.content)
    before = len(os.listdir("/proc/self/fd"))
    assert clone.content is not None
    assert clone.content.audit().ok
    assert len(os.listdir("/proc/self/fd")) <= before
    clone.close()
    assert files_in(tmp_path) == {f"d{number % 3}/{number}": b"%d" % number * 2 for number in range(9)}


def test_nothing_is_written_before_there_is_room(origin: DriveWriter, tmp_path: Path) -> None:
    """A chunk of a version that was not cleaned for would overwrite what is held: it is refused."""
    origin.put((b"a",), [b"first"], mtime=0)
    clone = clone_of(tmp_path, origin.metadata, origin.content)
    origin.put((b"a",), [b"second"], mtime=0)
    fetch(clone.metadata, origin.metadata)
    assert clone.content is not None
    with pytest.raises(OSError, match="no file of version 1"):
        fetch(clone.content, origin.content)
    assert held(clone) == [0]
    assert (tmp_path / "a").read_bytes() == b"first"
    assert clone.clean() == 2
    assert held(clone) == []
    assert not (tmp_path / "a").exists()
    with pytest.raises(OSError, match="no file of version 2"):
        fetch(clone.content, origin.content, 0, 1)
    fetch(clone.content, origin.content, 1)
    assert (tmp_path / "a").read_bytes() == b"second"
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
    """A person's own thing in the place of a file of the drive stays when the drive deletes its file."""
    for name in (b"a", b"b", b"c"):
        origin.put((name,), [name], mtime=0)
    (tmp_path / "a").write_bytes(b"mine")
    clone = open_dat_clone(tmp_path, KEYS.public)
    fetch(clone.metadata, origin.metadata)
    clone.clean()
    assert clone.content is not None
    fetch(clone.content, origin.content, 1, 3)
    for name in (b"a", b"b", b"c"):
        origin.delete((name,))
    (tmp_path / "c").unlink()
    (tmp_path / "c").mkdir()
    update(clone, origin.metadata, origin.content)
    clone.close()
    assert files_in(tmp_path) == {"a": b"mine"}
    assert (tmp_path / "c").is_dir()


def test_a_crash_while_cleaning_is_repeated(
    origin: DriveWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped before the version is written, the next cleaning does the rest; nothing is held that is not there."""
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
            clone.clean()
    clone.close()
    clone = open_dat_clone(tmp_path)
    assert (clone.latest, held(clone)) == (2, [])
    update(clone, origin.metadata, origin.content)
    assert (clone.latest, held(clone)) == (4, [2])
    clone.close()
    assert files_in(tmp_path) == {"b": b"new"}


def test_cleaning_needs_the_entries(origin: DriveWriter, tmp_path: Path) -> None:
    """With entries missing that differ nothing is cleaned; without any header there is nothing to do."""
    carry_out(origin, PLANS["simple"])
    clone = open_dat_clone(tmp_path, KEYS.public)
    assert clone.clean() == 0
    fetch(clone.metadata, origin.metadata, 5, 6)
    assert (clone.content, clone.clean()) == (None, 0)
    fetch(clone.metadata, origin.metadata, 0, 1)
    with pytest.raises(ChunkMissing):
        clone.clean()
    assert clone.latest == read_latest(tmp_path / ".dat") == 0
    clone.close()


def test_cleaning_stops_at_the_version_asked_for(origin: DriveWriter, tmp_path: Path) -> None:
    """Files replaced later stay, and an older version is never gone back to."""
    for number in range(3):
        origin.put((b"a",), [b"%d" % number], mtime=0)
    clone = open_dat_clone(tmp_path, KEYS.public)
    fetch(clone.metadata, origin.metadata)
    assert clone.clean(2) == 2
    assert clone.content is not None
    fetch(clone.content, origin.content, 1, 2)
    assert (tmp_path / "a").read_bytes() == b"1"
    assert clone.clean(1) == 2
    assert clone.clean(99) == 3
    assert held(clone) == []
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
    assert clone.clean() == 5
    assert len(held(clone)) == 7
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


def test_a_longer_file_of_a_person_is_cut(origin: DriveWriter, tmp_path: Path) -> None:
    """What was in a file's place before does not stay behind its end; one that is removed meanwhile comes back."""
    origin.put((b"a",), chunks_of(fill("a", 70_000)), mtime=0)
    (tmp_path / "a").write_bytes(bytes(100_000))
    clone = open_dat_clone(tmp_path, KEYS.public)
    fetch(clone.metadata, origin.metadata)
    clone.clean()
    assert clone.content is not None
    fetch(clone.content, origin.content, 0, 1)
    assert (tmp_path / "a").stat().st_size == 70_000
    (tmp_path / "a").unlink()
    fetch(clone.content, origin.content, 1, 2)
    assert (tmp_path / "a").read_bytes()[65_536:] == fill("a", 70_000)[65_536:]
    clone.close()


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
    hostile = drive_with([name, b"/good", name])
    clone = open_dat_clone(folder, KEYS.public)
    fetch(clone.metadata, hostile.metadata)
    assert clone.clean() == 3
    assert clone.content is not None
    registers = {at.name for at in (folder / ".dat").iterdir()}
    for index in (0, 2):
        with pytest.raises(OSError, match=r"."):
            fetch(clone.content, hostile.content, index, index + 1)
    fetch(clone.content, hostile.content, 1, 2)
    assert held(clone) == [1]
    hostile.metadata.append([encode_record(b"/good", None, [[]], 4)])
    fetch(clone.metadata, hostile.metadata)
    assert clone.clean() == 4
    clone.close()
    assert {at.name: at.read_bytes() for at in outside.iterdir()} == {"secret": b"secret"}
    assert sorted(at.name for at in tmp_path.iterdir()) == ["clone", "target"]
    assert {at.name for at in (folder / ".dat").iterdir()} == registers
    assert {at.name for at in folder.iterdir()} == {".dat", "link", "file-link", "folder", "file", "pipe"}
    assert (folder / "file").read_bytes() == b"mine"


def test_overlapping_entries_do_no_harm(tmp_path: Path) -> None:
    """Entries that claim the same or senseless ranges get some bytes or none; what is held reads as it was verified."""
    hostile = drive_with([b"/a", b"/b"], b"12345678")
    for seq, (name, start, size) in enumerate([(b"/c", 0, 8), (b"/d", 4, 8), (b"/e", 2**62, 8), (b"/f", 0, 2**60)], 3):
        stat = Stat(0o100644, size=size, blocks=1, offset=0, byte_offset=start)
        hostile.metadata.append([encode_record(name, encode_stat(stat), [list(range(1, seq + 1)), [seq]], seq)])
    clone = clone_of(tmp_path, hostile.metadata, hostile.content)
    assert clone.content is not None
    assert held(clone) == [0, 1]
    assert clone.content.audit().ok
    clone.close()
    assert set(files_in(tmp_path)) <= {"a", "b", "c", "d"}


def test_a_failed_sync_is_tried_again(origin: DriveWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files whose sync failed are synced by the next flush, and only then do the bits on the disk say they are held."""
    origin.put((b"d", b"a"), [b"a"], mtime=0)
    clone = open_dat_clone(tmp_path, KEYS.public)
    fetch(clone.metadata, origin.metadata)
    clone.clean()
    assert clone.content is not None
    clone.flush()
    fetch(clone.content, origin.content)
    before = (tmp_path / ".dat" / "content.bitfield").read_bytes()
    synced: list[int] = []

    def sync(fd: int) -> None:
        if not synced:
            synced.append(0)
            raise OSError(5, "Input/output error")
        synced.append(os.fstat(fd).st_ino)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", sync)
        with pytest.raises(OSError, match="Input/output"):
            clone.flush()
        assert (tmp_path / ".dat" / "content.bitfield").read_bytes() == before
        clone.flush()
    assert (tmp_path / "d" / "a").stat().st_ino in synced
    assert (tmp_path / ".dat" / "content.bitfield").read_bytes() != before
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
        clone.clean()
    clone.close()
