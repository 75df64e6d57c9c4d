"""Folders of the dat command, the writer's side: byte for byte the reference's, and the files are never touched."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import datfs
from datfs import dat_content, secret_keys
from datfs.crypto import key_pair
from datfs.dat_folder import DatFolderWriter, create_dat_folder, open_dat_folder
from datfs.errors import BadLink, BadStore, CorruptStorage, NotADrive, NotFound, ReadOnly, StoreLocked
from datfs.storage import directory_storage
from datfs.writer import DriveWriter
from tests.dat_folders import START, carry_out, files_in
from tests.test_writer import PLANS, fill
from tests.vector_drives import DRIVES, SEED, copy_drive, read, walk

KEYS = key_pair(SEED)


def registers_in(folder: Path) -> dict[str, bytes]:
    """The files in ``.dat``."""
    return {at.name: at.read_bytes() for at in (folder / ".dat").iterdir()}


def assert_same_registers(folder: Path, expected: Path) -> None:
    """Every file is the same to the last byte, except that both sign some chunks of one file together."""
    ours, theirs = registers_in(folder), registers_in(expected)
    assert ours.keys() == theirs.keys()
    own, signed = ours.pop("content.signatures"), theirs.pop("content.signatures")
    assert ours == theirs
    assert (own[:32], len(own)) == (signed[:32], len(signed))
    for at in range(32, len(own), 64):
        assert bytes(64) in (one := (signed[at : at + 64], own[at : at + 64])) or one[0] == one[1]
    assert own[-64:] == signed[-64:] != bytes(64)


@pytest.fixture
def made(tmp_path: Path) -> tuple[DatFolderWriter, Path]:
    """A new drive in a folder, and the folder; the home folder is beside it."""
    folder = tmp_path / "drive"
    return create_dat_folder(folder, KEYS, home=tmp_path), folder


@pytest.mark.parametrize("name", ["simple", "history"])
def test_a_folder_is_byte_for_byte_the_reference_s(made: tuple[DatFolderWriter, Path], name: str) -> None:
    """For the same seed, changes and times the registers are equal, bits and marker too, and so are the files."""
    writer, folder = made
    carry_out(writer, folder, PLANS[name])
    writer.close()
    assert_same_registers(folder, DRIVES / f"{name}-dat")
    assert files_in(folder) == files_in(DRIVES / f"{name}-dat")


def test_writing_in_several_sessions_makes_no_difference(made: tuple[DatFolderWriter, Path], tmp_path: Path) -> None:
    """A folder that is closed and opened between changes ends up the same."""
    writer, folder = made
    writer.close()
    for operation in PLANS["history"]:
        writer = open_dat_folder(folder, home=tmp_path)
        carry_out(writer, folder, [operation])
        writer.close()
    assert_same_registers(folder, DRIVES / "history-dat")


def test_a_folder_of_the_reference_is_gone_on_with(tmp_path: Path) -> None:
    """A drive that the reference began is written on, with the key where the dat command has it."""
    folder = copy_drive("history-dat", tmp_path)
    with pytest.raises(ReadOnly, match="secret_keys"):
        open_dat_folder(folder, home=tmp_path)
    secret_keys.store(KEYS, folder / ".dat" / "metadata.ogd", home=tmp_path)
    writer = open_dat_folder(folder, home=tmp_path)
    carry_out(writer, folder, [("put", "/b.txt", {"data": b"third\n"}), ("del", "/a.txt", {})])
    assert [index for index in range(writer.content.length) if writer.content.has(index)] == [9, 10]
    assert writer.content.audit().ok
    writer.close()


def test_the_key_beside_the_register_is_enough(tmp_path: Path) -> None:
    """Without marker and home folder, a key beside the register lets us write."""
    folder = copy_drive("simple-dat", tmp_path)
    (folder / ".dat" / "metadata.ogd").unlink()
    (folder / ".dat" / "metadata.secret_key").write_bytes(KEYS.secret)
    writer = open_dat_folder(folder, home=tmp_path)
    assert writer.import_file((b"hello.txt",), mtime=START).version == 6
    writer.close()


async def test_what_was_written_is_read(made: tuple[DatFolderWriter, Path]) -> None:
    """The folder is opened as any folder of the dat command; mode and bytes are the file's."""
    writer, folder = made
    (folder / "a").mkdir()
    (folder / "a" / "b").write_bytes(fill("data", 200_000))
    (folder / "a" / "b").chmod(0o4750)
    assert writer.import_file((b"a", b"b"), mtime=1_000).version == 1
    assert writer.mkdir((b"empty",), mtime=2_000) == 2
    writer.close()
    async with datfs.open_drive(folder) as opened:
        tree = await opened.drive.checkout()
        found = await walk(tree)
        assert found.keys() == {"/a", "/a/b", "/empty"}
        assert await read(tree, found["/a/b"]) == fill("data", 200_000)
        assert (found["/a/b"].permissions, found["/a/b"].mtime_ns) == (0o750, 1_000_000_000)


def test_every_byte_held_is_served(made: tuple[DatFolderWriter, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The register reads its chunks from the files, with few of them open, and all are right."""
    monkeypatch.setattr(dat_content, "OPEN_FILES", 2)
    writer, folder = made
    carry_out(writer, folder, PLANS["simple"])
    assert writer.content.audit().ok
    assert writer.content.read(12, 25) == b"# simple\n\nA small drive.\n"
    whole = b"".join(writer.content.get(index) for index in range(writer.content.length))
    assert whole == (DRIVES / "simple" / ".dat" / "content.data").read_bytes()
    assert writer.content.read(0, len(whole)) == whole
    writer.close()


def test_other_bytes_are_refused(made: tuple[DatFolderWriter, Path]) -> None:
    """Bytes that the file does not have never become part of the drive, and what was appended of them is not held."""
    writer, folder = made
    (folder / "a").write_bytes(b"12345678")
    with pytest.raises(CorruptStorage, match=r"/a.*offset 4"):
        writer.put((b"a",), [b"1234", b"xxxx"], mtime=0)
    with pytest.raises(CorruptStorage, match="/gone"):
        writer.put((b"gone",), [b"1234"], mtime=0)
    assert writer.version == 0
    assert not any(map(writer.content.has, range(writer.content.length)))
    assert (folder / "a").read_bytes() == b"12345678"
    assert writer.put((b"a",), [b"1234", b"5678"], mtime=0) == 1
    assert writer.content.audit().ok
    with pytest.raises(ReadOnly):
        writer.content.append([b"no file"])
    writer.close()


def test_a_file_that_changes_while_it_is_added(made: tuple[DatFolderWriter, Path]) -> None:
    """A change between reading a file and storing what was read is noticed."""
    writer, folder = made
    (folder / "a").write_bytes(b"before")

    def changing() -> list[bytes]:
        (folder / "a").write_bytes(b"behind")
        return [b"before"]

    with pytest.raises(CorruptStorage, match="add it again"):
        writer.put((b"a",), changing(), mtime=0)
    writer.close()


def test_deleting_leaves_the_file(made: tuple[DatFolderWriter, Path]) -> None:
    """What is deleted from the drive stays in the folder; its chunks are not held any more."""
    writer, folder = made
    carry_out(writer, folder, PLANS["simple"])
    writer.delete((b"big.bin",))
    assert (folder / "big.bin").exists()
    assert [index for index in range(7) if not writer.content.has(index)] == [3, 4, 5]
    with pytest.raises(NotFound):
        writer.delete((b"nothing",))
    writer.close()


def test_a_file_replaced_by_rename_is_read_anew(made: tuple[DatFolderWriter, Path]) -> None:
    """An editor's new file of the same name is what is added, even if the old one was open here."""
    writer, folder = made
    (folder / "a").write_bytes(b"old")
    writer.import_file((b"a",), mtime=0)
    assert writer.content.get(0) == b"old"
    (folder / "new").write_bytes(b"new!")
    (folder / "new").rename(folder / "a")
    writer.import_file((b"a",), mtime=0)
    assert not writer.content.has(0)
    assert writer.content.get(1) == b"new!"
    writer.close()


@pytest.mark.parametrize("path", [(), (b"..", b"x"), (b".dat", b"metadata.key"), (b"a/b",), (b"",), (b"a\0",)])
def test_names_that_lead_elsewhere_are_refused(made: tuple[DatFolderWriter, Path], path: tuple[bytes, ...]) -> None:
    """Neither the registers nor anything outside of the folder becomes part of the drive."""
    writer, _ = made
    with pytest.raises(BadLink):
        writer.import_file(path, mtime=0)
    with pytest.raises(BadLink):
        writer.put(path, [], mtime=0)
    with pytest.raises(BadLink):
        writer.mkdir(path, mtime=0)
    assert writer.version == 0
    writer.close()


def a_link_to_the_registers(folder: Path, outside: Path) -> None:
    """A link to a file that nobody may have."""
    (folder / ".dat" / "metadata.secret_key").write_bytes(KEYS.secret)
    (folder / "x").symlink_to(".dat/metadata.secret_key")


def a_pipe(folder: Path, outside: Path) -> None:
    """A pipe where the file should be."""
    os.mkfifo(folder / "x")


def a_folder(folder: Path, outside: Path) -> None:
    """A folder where the file should be."""
    (folder / "x").mkdir()


@pytest.mark.parametrize("obstacle", [a_link_to_the_registers, a_pipe, a_folder])
def test_only_plain_files_are_added(
    made: tuple[DatFolderWriter, Path], tmp_path: Path, obstacle: Callable[[Path, Path], None]
) -> None:
    """No link leads to the registers, and pipes do not make us wait."""
    writer, folder = made
    obstacle(folder, tmp_path)
    with pytest.raises(OSError, match="/x"):
        writer.import_file((b"x",), mtime=0)
    assert writer.content.length == 0
    writer.close()


def test_one_process_at_a_time(made: tuple[DatFolderWriter, Path], tmp_path: Path) -> None:
    """A second writer is refused with the number of the process that has the folder, and leaves it as it is."""
    writer, folder = made
    with pytest.raises(StoreLocked) as caught:
        open_dat_folder(folder, home=tmp_path)
    assert caught.value.pid in (os.getpid(), 0)
    assert str(caught.value.pid or "unknown") in str(caught.value)
    writer.close()
    writer.close()
    open_dat_folder(folder, home=tmp_path).close()


def test_a_drive_is_not_made_twice(made: tuple[DatFolderWriter, Path], tmp_path: Path) -> None:
    """A folder with a drive is refused, and the other key is not stored."""
    writer, folder = made
    writer.close()
    with pytest.raises(BadStore, match="already"):
        create_dat_folder(folder, key_pair(bytes(32)), home=tmp_path)
    open_dat_folder(folder, home=tmp_path).close()


def test_folders_of_other_kinds_are_refused(tmp_path: Path) -> None:
    """No drive, or one whose content is in a data file, is not opened as this layout."""
    with pytest.raises(NotADrive, match=r"metadata\.key"):
        open_dat_folder(tmp_path, home=tmp_path)
    (tmp_path / "sleep" / ".dat").mkdir(parents=True)
    writer = DriveWriter.create(directory_storage(tmp_path / "sleep" / ".dat"), KEYS)
    writer.put((b"a",), [b"a"], mtime=0)
    writer.close()
    with pytest.raises(NotADrive, match=r"content\.data"):
        open_dat_folder(tmp_path / "sleep", home=tmp_path)


def test_an_interrupted_import_is_gone_on_with(made: tuple[DatFolderWriter, Path], tmp_path: Path) -> None:
    """Chunks whose entry was never written are not claimed after opening again, and no file is appended twice."""
    writer, folder = made
    carry_out(writer, folder, PLANS["simple"][:1])
    (folder / "b").write_bytes(b"lost")
    with writer._files.importing((b"b",), writer.content.byte_length):
        writer.content.append([b"lost"])  # and no entry: the process ends here
    writer.close()
    writer = open_dat_folder(folder, home=tmp_path)
    assert writer.content.length == 2
    assert not writer.content.has(1)
    (folder / "c").write_bytes(b"other")
    writer.import_file((b"c",), mtime=START)
    writer.import_file((b"b",), mtime=START)
    assert (writer.content.get(1), writer.content.get(2)) == (b"lost", b"other")
    assert writer.content.length == 3
    assert writer.content.audit().ok
    writer.close()


def test_a_crash_between_signature_and_bits(made: tuple[DatFolderWriter, Path], tmp_path: Path) -> None:
    """Content that was signed, but whose bits and entry were not written, is gone, and the drive goes on before it."""
    writer, folder = made
    carry_out(writer, folder, PLANS["simple"][:1])
    writer.flush()
    (folder / "b").write_bytes(b"lost")
    writer.import_file((b"b",), mtime=START)
    writer.content.begin_flush().sync()
    crashed = Path(shutil.copytree(folder, tmp_path / "crashed"))
    writer.close()
    writer = open_dat_folder(crashed, home=tmp_path)
    assert (writer.version, writer.content.length) == (1, 1)
    (crashed / "b").write_bytes(b"found")
    assert writer.import_file((b"b",), mtime=START).version == 2
    writer.close()
    writer = open_dat_folder(crashed, home=tmp_path)
    assert (writer.version, writer.content.get(1)) == (2, b"found")
    assert writer.content.audit().ok
    assert writer.metadata.audit().ok
    writer.close()


def test_a_folder_whose_making_was_interrupted(made: tuple[DatFolderWriter, Path], tmp_path: Path) -> None:
    """With keys but no header and no content register yet, opening completes the drive."""
    writer, folder = made
    writer.close()
    for file in (folder / ".dat").iterdir():
        if file.name not in ("metadata.key", "metadata.ogd"):
            file.unlink()
    open_dat_folder(folder, home=tmp_path).close()
    expected = registers_in(DRIVES / "empty")
    made_again = registers_in(folder)
    assert made_again.pop("metadata.ogd") == b"\0"
    assert made_again == {name: expected[name] for name in made_again}
