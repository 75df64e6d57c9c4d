"""datfs serves: the reference clones from it, completely, in part, an old version, several at once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.interop.datfs_side import datfs, mounted, shared
from tests.interop.plans import PLANS, SEED
from tests.interop.reference import (
    Layout,
    MadeDrive,
    clone,
    finished,
    listening_clone,
    make_drive,
    open_store,
    serve,
)

DriveOf = Callable[[str], MadeDrive]


def hashes(drive: MadeDrive) -> dict[str, str]:
    """What a complete clone must say."""
    return {path: entry.sha256 for path, entry in drive.files.items()}


@pytest.mark.parametrize("name", PLANS)
def test_the_reference_clones_everything(drive_of: DriveOf, tmp_path: Path, name: str) -> None:
    """Each kind of drive arrives whole, and the reference verifies every chunk of what it stored."""
    drive = drive_of(name)
    with shared(drive.path) as (key, port):
        got = clone(key, port, store=tmp_path)
    assert (got.outcome, got.files, key) == ("done", hashes(drive), drive.key)
    store = open_store(tmp_path)
    assert store.version == drive.version
    assert (len(store.metadata.held), store.metadata.bad) == (drive.metadata_length, {})
    if drive.content_length:
        assert store.content is not None
        assert (len(store.content.held), store.content.bad) == (drive.content_length, {})


@pytest.mark.parametrize("layout", ["raf", "dat"])
def test_other_layouts_are_served(tmp_path: Path, layout: Layout) -> None:
    """A folder that hyperdrive or the dat command made is served from where its content is."""
    drive = make_drive(tmp_path / "drive", PLANS["simple"], layout=layout, seed=SEED)
    with shared(drive.path) as (key, port):
        assert clone(key, port).files == hashes(drive)


def test_a_changed_file_of_a_dat_folder_is_not_sent(tmp_path: Path) -> None:
    """Bytes that were edited since are withheld: the client waits for them, it is not sent wrong ones."""
    drive = make_drive(tmp_path / "drive", PLANS["simple"], layout="dat", seed=SEED)
    changed = drive.path / "exact.bin"
    changed.write_bytes(b"x" + changed.read_bytes()[1:])
    with shared(drive.path) as (key, port):
        assert clone(key, port, paths=["/exact.bin"], timeout=2).outcome == "timeout"
        assert clone(key, port, paths=["/big.bin"]).outcome == "done"


def test_a_part_is_cloned(drive_of: DriveOf, tmp_path: Path) -> None:
    """A sparse client gets the one file it wants, and chunks of no other."""
    drive = drive_of("simple")
    with shared(drive.path) as (key, port):
        got = clone(key, port, paths=["/big.bin"], store=tmp_path)
    assert got.files == {"/big.bin": drive.files["/big.bin"].sha256}
    entry = drive.files["/big.bin"]
    content = open_store(tmp_path).content
    assert content is not None
    assert set(content.held) == set(range(entry.first_chunk, entry.first_chunk + entry.chunks))
    assert content.bad == {}


def test_every_old_version_is_served(drive_of: DriveOf) -> None:
    """Checkouts of all versions get from datfs what they get from the reference."""
    drive = drive_of("history")
    with serve(drive.path) as peer:
        theirs = clone(drive.key, peer.port, each=True).checkouts
    with shared(drive.path) as (key, port):
        assert clone(key, port, each=True).checkouts == theirs
        assert clone(key, port, version=6).files == theirs[6]


def test_several_clients_at_once(drive_of: DriveOf) -> None:
    """Four clients are served together, each of them everything."""
    drive = drive_of("simple")
    with shared(drive.path) as (key, port), ThreadPoolExecutor(4) as pool:
        clones = list(pool.map(lambda _: clone(key, port), range(4)))
    assert [got.files for got in clones] == [hashes(drive)] * 4


def test_two_datfs_clone_from_each_other(drive_of: DriveOf, tmp_path: Path) -> None:
    """Each of two stores has half of a drive; both end with everything, and the reference clones the sum."""
    drive = drive_of("simple")
    halves = {"one": ["/big.bin"], "two": ["/exact.bin", "/hello.txt", "/docs/readme.md", "/docs/notes/one.txt"]}
    with serve(drive.path) as peer:
        for name, paths in halves.items():
            where = ["--peer", peer.address, "--cache-dir", str(tmp_path / name)]
            assert datfs("log", drive.link, *where).returncode == 0
            assert datfs("cat", drive.link, *paths, *where).returncode == 0
    for here, there in (("one", "two"), ("two", "one")):
        # an own copy: who shares a store owns it
        with shared(drive.link, "--cache-dir", tmp_path / there) as (_, port):
            done = datfs(
                "cat", drive.link, *halves[there], "--peer", f"127.0.0.1:{port}", "--cache-dir", tmp_path / here
            )
            assert done.returncode == 0, done.stderr
    for name in halves:
        with shared(drive.link, "--cache-dir", tmp_path / name) as (key, port):
            assert clone(key, port).files == hashes(drive)


def test_a_sharer_fetches_what_it_lacks_for_nobody(drive_of: DriveOf, tmp_path: Path) -> None:
    """A client of a sparse sharer gets what is there; the rest it waits for, and no wrong bytes come."""
    drive = drive_of("simple")
    with serve(drive.path) as peer:
        where = ["--peer", peer.address, "--cache-dir", str(tmp_path)]
        assert datfs("log", drive.link, *where).returncode == 0
        assert datfs("cat", drive.link, "/big.bin", *where).returncode == 0
    with shared(drive.link, "--cache-dir", tmp_path) as (key, port):
        assert clone(key, port, paths=["/big.bin"]).files == {"/big.bin": drive.files["/big.bin"].sha256}
        assert clone(key, port, paths=["/exact.bin"], timeout=2).outcome == "timeout"


@pytest.mark.fuse
def test_a_mount_serves_what_it_has(drive_of: DriveOf, tmp_path: Path) -> None:
    """A mount that dialed a client of the reference answers its requests out of its cache."""
    drive = drive_of("simple")
    with serve(drive.path) as peer:
        where = ["--peer", peer.address, "--cache-dir", str(tmp_path / "cache")]
        assert datfs("log", drive.link, *where).returncode == 0
        assert datfs("cat", drive.link, *drive.files, *where).returncode == 0
    with listening_clone(drive.key) as client:
        arguments = ["--peer", client.address, "--cache-dir", str(tmp_path / "cache"), "--timeout", "5"]
        with mounted(drive.link, tmp_path / "m", *arguments) as mount:
            assert hashlib.sha256(mount.run("cat big.bin")).hexdigest() == drive.files["/big.bin"].sha256
            assert finished(client).files == hashes(drive)


@pytest.mark.fuse
def test_no_upload_serves_nothing(drive_of: DriveOf, tmp_path: Path) -> None:
    """``--no-upload``: the same client gets not a single chunk."""
    drive = drive_of("simple")
    with serve(drive.path) as peer:
        done = datfs("cat", drive.link, *drive.files, "--peer", peer.address, "--cache-dir", tmp_path / "cache")
        assert done.returncode == 0
    with listening_clone(drive.key, timeout=2) as client:
        arguments = ["--peer", client.address, "--cache-dir", str(tmp_path / "cache"), "--timeout", "5"]
        with mounted(drive.link, tmp_path / "m", "--no-upload", *arguments):
            client.wait_for("timeout")
            assert not client.events("file")
