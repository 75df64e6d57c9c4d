"""Copies on disks that are too small, and where something odd is in the way: told of, and nothing is lost."""

from __future__ import annotations

import os
import random
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from datfs.crypto import key_pair
from datfs.metadata import Header, Stat, encode_header, encode_record, encode_stat
from datfs.register import Register
from datfs.storage import directory_storage
from tests.command_line import DATFS, SECONDS, commit, datfs, failure, made, output, shared, write
from tests.dat_folders import files_in
from tests.vector_drives import SEED

MIB = 1 << 20
DISK = 48 * MIB
FILES = {f"d{number}/file": random.Random(number).randbytes(3 * MIB) for number in range(4)}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder with a drive of some large files."""
    return made(tmp_path / "source", FILES)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "none", place], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def fill_up(place: Path) -> None:
    """Writes until nothing goes any more."""
    with suppress(OSError), place.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(65_536))


def test_what_the_disk_has_no_room_for_is_not_begun(source: Path, small_disk: Path) -> None:
    """It is said beforehand how much is to come and how much is free, and what to do; what is there stays."""
    with shared(source) as (link, address, _):
        output("clone", link, small_disk / "copy", "--peer", address, "-q")
        before = files_in(small_disk / "copy")
        write(source, {"large": bytes(DISK)})
        commit(source)
        said = failure(1, "pull", small_disk / "copy", "--peer", address)
        assert "48.0 MiB are to come" in said
        assert "free some room" in said
        assert files_in(small_disk / "copy") == before
        failure(1, "clone", link, small_disk / "other", "--peer", address)
        assert files_in(small_disk / "other") == {}


def test_a_disk_that_gets_full_while_cloning(source: Path, small_disk: Path) -> None:
    """It ends with a message; under the names are whole files only. With room the same command completes it."""
    copy, filler = small_disk / "copy", small_disk / "filler"
    with shared(source) as (link, address, _):
        words = ["clone", link, str(copy), "--peer", address, "-q"]
        with subprocess.Popen([*DATFS, *words, "--down", "2M"], stderr=subprocess.PIPE, text=True) as process:
            try:
                end = time.monotonic() + SECONDS
                while not list(copy.glob(".dat/datfs.parts/*")):
                    assert time.monotonic() < end
                    assert process.poll() is None
                    time.sleep(0.02)
                fill_up(filler)
                _, said = process.communicate(timeout=SECONDS)
            finally:
                process.kill()
        assert process.returncode == 1, said
        assert "No space left on device: free some room, and do it again" in said
        assert len(said.splitlines()) == 1
        assert files_in(copy).items() < files_in(source).items()
        filler.unlink()
        output(*words)
    assert files_in(copy) == files_in(source)
    assert not (copy / ".dat" / "datfs.parts").exists()


def test_a_checkout_on_a_full_disk(source: Path, small_disk: Path) -> None:
    """What was there stays as it was, with nothing half written beside it."""
    out = small_disk / "out"
    write(out, {"d0/file": b"old"})
    fill_up(small_disk / "filler")
    said = failure(1, "checkout", source, "-o", out, "--force", "-q")
    assert "No space left on device" in said
    assert files_in(out) == {"d0/file": b"old"}


def odd_things(folder: Path, elsewhere: Path) -> dict[str, int]:
    """A pipe, a socket, a device (where one may be made) and links where files come; the type of each."""
    folder.mkdir(exist_ok=True)
    os.mkfifo(folder / "pipe")
    os.mknod(folder / "socket", stat.S_IFSOCK | 0o600)
    (folder / "to-device").symlink_to("/dev/null")
    (folder / "to-itself").symlink_to("to-itself")
    (folder / "round").symlink_to("and-round")
    (folder / "and-round").symlink_to("round")
    (folder / "out").symlink_to(elsewhere)
    with suppress(PermissionError):
        os.mknod(folder / "device", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    return {at.name: at.lstat().st_mode for at in folder.iterdir() if not stat.S_ISDIR(at.lstat().st_mode)}


def test_odd_things_in_the_way(source: Path, tmp_path: Path) -> None:
    """Nothing waits for a pipe, writes to a device or follows a link: they are named, and stay."""
    copy, elsewhere = tmp_path / "copy", tmp_path / "elsewhere"
    elsewhere.mkdir()
    with shared(source) as (link, address, _):
        output("clone", link, copy, "--peer", address, "-q")
        before = files_in(copy)
        modes = odd_things(copy, elsewhere)
        coming = dict.fromkeys(("pipe", "socket", "to-device", "round", "device", "out/x"), b"a drive's file")
        write(source, {**coming, "to-itself/below": b"x", "new": b"new"})
        commit(source)
        said = failure(1, "pull", copy, "--peer", address)
        assert "in the way of the drive's files" in said
        assert files_in(copy) == before
        out = tmp_path / "written"
        also = odd_things(out, elsewhere)
        assert datfs("checkout", source, "-o", out, "-q").returncode == 1
        for folder, expected in ((copy, modes), (out, also)):
            assert {at.name: at.lstat().st_mode for at in folder.iterdir()}.items() >= expected.items()
    assert list(elsewhere.iterdir()) == []


def hostile_drive(folder: Path, names: list[bytes]) -> None:
    """A drive whose entries have any names at all, in the layout of two registers side by side."""
    keys, inner = key_pair(SEED), key_pair(bytes(32))
    metadata = Register.create(directory_storage(folder), keys, prefix="metadata.")
    content = Register.create(directory_storage(folder), inner, prefix="content.")
    metadata.append([encode_header(Header("hyperdrive", inner.public))])
    for seq, name in enumerate(names, 1):
        content.append([b"hostile"])
        stat = Stat(0o100644, size=7, blocks=1, offset=seq - 1, byte_offset=7 * (seq - 1))
        lists = [list(range(1, seq + 1)), *([seq] for part in name.strip(b"/").split(b"/"))]
        metadata.append([encode_record(name, encode_stat(stat), lists, seq)])
    content.close()
    metadata.close()


@pytest.mark.parametrize(
    "name", [b"/../outside", b"/a/../../outside", b"//outside", b"/..", b"/a\0b", b"/link/outside"]
)
def test_a_checkout_stays_in_its_folder(tmp_path: Path, name: bytes) -> None:
    """Whatever a drive names its files, the good ones are written and nothing is outside, with --force neither."""
    drive, out, elsewhere = tmp_path / "drive", tmp_path / "out", tmp_path / "elsewhere"
    drive.mkdir()
    hostile_drive(drive, [name, b"/good"])
    out.mkdir()
    elsewhere.mkdir()
    (out / "link").symlink_to(elsewhere)
    ended = datfs("checkout", drive, "good", "-o", out, "-q")
    assert ended.returncode == 0, ended
    datfs("checkout", drive, "-o", out, "--force", "-q")
    assert files_in(out) == {"good": b"hostile"}
    assert list(elsewhere.iterdir()) == []
    assert sorted(at.name for at in tmp_path.iterdir()) == ["drive", "elsewhere", "out"]
