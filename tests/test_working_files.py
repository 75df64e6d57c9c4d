"""Content registers whose bytes are the files of a folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from datfs import working_files
from datfs.errors import CorruptStorage, Gone, ReadOnly
from datfs.metadata import Stat
from datfs.register import Register
from datfs.store import folder_store
from datfs.working_files import WorkingFiles, working_content
from tests.folder.kit import Kit
from tests.vector_drives import DRIVES, copy_drive


@contextmanager
def opened(folder: Path) -> Iterator[tuple[Register, WorkingFiles]]:
    """The content register of a folder and its files."""
    store = folder_store(folder)
    metadata = Register.open(store.open_storage, read_only=True, prefix=store.metadata_prefix)
    content, files = working_content(store, metadata, None)
    yield content, files
    content.close()
    metadata.close()


def test_the_bytes_are_those_of_the_register() -> None:
    """Any range, across files too, is what a register with a data file has."""
    data = (DRIVES / "simple" / ".dat" / "content.data").read_bytes()
    with opened(DRIVES / "simple-dat") as (_, files):
        assert files.size() == len(data)
        for start, size in (
            (0, 5),
            (0, len(data)),
            (10, 30),
            (40, 2),
            (100, 65_536),
            (len(data) - 3, 10),
            (len(data), 1),
        ):
            assert files.read(start, size) == data[start : start + size]


def test_files_are_vouched_for_while_they_are_as_noted(tmp_path: Path) -> None:
    """By size, times and inode of the file that was read; without a note never, nor beyond the file."""
    kit = Kit(tmp_path)
    for name in ("a", "b"):
        kit.write(name, name.encode() * 70_000)
    kit.commit()
    with opened(kit.folder) as (content, files):
        assert not files.vouches(0, 65_536), "it was not read"
        assert [len(content.get(index)) for index in range(4)] == [65_536, 4464] * 2
        assert files.vouches(0, 65_536)
        assert files.vouches(65_536, 4464)
        assert not files.vouches(65_536, 4465)
        assert not files.vouches(140_000, 1)
        found = (kit.folder / "a").stat()
        with (kit.folder / "a").open("r+b") as file:
            file.write(b"x")
        os.utime(kit.folder / "a", ns=(found.st_atime_ns, found.st_mtime_ns))
        assert not files.vouches(0, 65_536), "its ctime tells"
        assert files.vouches(70_000, 65_536)
        (kit.folder / "b").unlink()
        assert not files.vouches(70_000, 65_536), "what was read may be another file by now"
    (kit.folder / ".dat" / "datfs.seen").unlink()
    with opened(kit.folder) as (content, files):
        assert content.get(0)
        assert not files.vouches(0, 65_536)


def test_every_chunk_of_an_untouched_folder_is_held() -> None:
    """Nothing is taken away where nothing changed."""
    with opened(DRIVES / "simple-dat") as (content, _):
        assert content.data_bits.count(0, content.length) == content.length == 7
        assert content.audit().ok


def test_only_the_newest_bytes_of_a_path_are_held() -> None:
    """Chunks of versions that were replaced or deleted are not here, whatever the bitfield file says."""
    with opened(DRIVES / "history-dat") as (content, _):
        assert [index for index in range(content.length) if content.has(index)] == [6, 9]
        assert content.audit().ok


def test_changed_and_missing_files_are_not_held(tmp_path: Path) -> None:
    """A file of another size, or none, or something else, has no chunks here; its problem is named."""
    folder = copy_drive("simple-dat", tmp_path)
    (folder / "hello.txt").write_bytes(b"hello")
    (folder / "big.bin").unlink()
    (folder / "exact.bin").unlink()
    (folder / "exact.bin").mkdir()
    shutil.rmtree(folder / "docs" / "notes")
    with opened(folder) as (content, files):
        assert [index for index in range(content.length) if content.has(index)] == [1]
        problems = {file.path: file.problem for file in files.files if file.problem}
        assert problems.keys() == {(b"hello.txt",), (b"big.bin",), (b"exact.bin",), (b"docs", b"notes", b"one.txt")}
        assert files.read(0, 12) == b"hello"
        assert files.read(41, 100) == b""


def test_check_tells_gone_from_changed(tmp_path: Path) -> None:
    """Bytes that nobody has here any more, and bytes that are wrong, are different errors; no bytes are neither."""
    folder = copy_drive("simple-dat", tmp_path)
    (folder / "hello.txt").write_bytes(b"hello")
    with opened(folder) as (_, files):
        files.check(Stat(0o100644, size=0, blocks=0), "/empty")
        files.check(Stat(0o100644, size=25, blocks=1, offset=1, byte_offset=12), "/docs/readme.md")
        with pytest.raises(CorruptStorage, match=r"/hello\.txt was changed"):
            files.check(Stat(0o100644, size=12, blocks=1), "/hello.txt")
        with pytest.raises(Gone, match="keeps only the newest"):
            files.check(Stat(0o100644, size=5, blocks=1, offset=90, byte_offset=5), "/old")


def test_files_are_never_written() -> None:
    """The folder belongs to another program."""
    with opened(DRIVES / "simple-dat") as (_, files):
        with pytest.raises(ReadOnly):
            files.write(0, b"x")
        with pytest.raises(ReadOnly):
            files.truncate(0)
        with pytest.raises(ReadOnly):
            files.punch(0, 1)
        files.sync()


def test_few_files_are_open_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many files a folder has, a bounded number is open."""
    monkeypatch.setattr(working_files, "OPEN_FILES", 2)
    data = (DRIVES / "simple" / ".dat" / "content.data").read_bytes()
    with opened(DRIVES / "simple-dat") as (_, files):
        for _ in range(2):
            assert files.read(0, len(data)) == data
            assert len(files._fds) <= 2
        files.close()
        assert files._fds == {}
