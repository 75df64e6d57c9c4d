"""Stores: what datfs writes opens in the reference and the other way round, byte for byte where it is determined."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from datfs.crypto import key_pair
from datfs.storage import directory_storage
from datfs.writer import DriveWriter
from tests.interop.datfs_side import datfs, datfs_json, mounted
from tests.interop.plans import PLANS, SEED
from tests.interop.reference import Layout, MadeDrive, Operation, clone, fill, make_drive, open_store, serve

DriveOf = Callable[[str], MadeDrive]


def cached(cache: Path, drive: MadeDrive) -> Path:
    """The only drive's folder in a cache folder of datfs."""
    (folder,) = cache.iterdir()
    assert drive.key not in folder.name
    return folder


def read_all(drive: MadeDrive, *where: str | Path) -> None:
    """Has datfs read every file; that it reads the right bytes is for other tests."""
    done = datfs("cat", drive.link, *drive.files, *where)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout) == sum(entry.size for entry in drive.files.values())


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Bytes and time of every file below a folder, and what else is there."""
    return {
        str(at.relative_to(folder)): (at.read_bytes() if at.is_file() else b"", at.stat().st_mtime_ns)
        for at in folder.rglob("*")
    }


@pytest.mark.parametrize("name", ["simple", "deep", "odd-chunks", "zero-length"])
def test_the_reference_opens_what_datfs_fetched(drive_of: DriveOf, tmp_path: Path, name: str) -> None:
    """After one file and after all of them, every chunk that is there verifies, and no other is claimed."""
    drive = drive_of(name)
    some = max(drive.files, key=lambda path: drive.files[path].chunks)
    with serve(drive.path) as peer:
        where = ["--peer", peer.address, "--cache-dir", str(tmp_path)]
        assert datfs("cat", drive.link, some, *where).returncode == 0
        store = open_store(cached(tmp_path, drive))
        entry = drive.files[some]
        assert (store.key, store.version) == (drive.key, drive.version)
        assert store.metadata.bad == {}
        assert store.content is not None
        assert store.content.bad == {}
        needed = set(range(entry.first_chunk, entry.first_chunk + entry.chunks))
        assert needed <= set(store.content.held)
        assert len(store.content.held) <= len(needed) + 1  # the last chunk may have told the length

        read_all(drive, *where)
        datfs_json("log", drive.link, *where)
    store = open_store(cached(tmp_path, drive))
    assert store.content is not None
    assert (store.metadata.bad, store.content.bad) == ({}, {})
    assert sorted(store.metadata.held) == list(range(drive.metadata_length))
    read = [range(e.first_chunk, e.first_chunk + e.chunks) for e in drive.files.values()]
    assert set().union(*read) <= set(store.content.held)


def test_everything_held_is_the_same_bytes(drive_of: DriveOf, tmp_path: Path) -> None:
    """A complete store has the bytes of the reference's complete clone of the same drive, file by file.

    Which signatures arrived depends on who was asked for what first, so those are compared with the drive's own.
    """
    drive = drive_of("simple")
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    with serve(drive.path) as peer:
        assert clone(drive.key, peer.port, store=theirs).outcome == "done"
        where = ["--peer", peer.address, "--cache-dir", str(ours)]
        read_all(drive, *where)
        datfs_json("log", drive.link, *where)
    folder = cached(ours, drive)
    for register in ("metadata", "content"):
        for part in ("key", "data", "tree", "bitfield"):
            name = f"{register}.{part}"
            assert (folder / name).read_bytes() == (theirs / ".dat" / name).read_bytes(), name
        name = f"{register}.signatures"
        own, got = (drive.path / ".dat" / name).read_bytes(), (folder / name).read_bytes()
        assert got[:32] == own[:32]
        assert len(got) == len(own)
        for at in range(32, len(own), 64):
            assert got[at : at + 64] in (own[at : at + 64], bytes(64))


@pytest.mark.parametrize("layout", ["sleep", "raf", "dat"])
@pytest.mark.parametrize("name", ["simple", "history"])
def test_datfs_opens_what_the_reference_wrote(tmp_path: Path, layout: Layout, name: str) -> None:
    """A folder of each layout is read in place, complete, and not a byte of it changes."""
    drive = make_drive(tmp_path / "drive", PLANS[name], layout=layout, seed=SEED)
    if layout == "dat":  # as the dat command has it: the newest bytes are the files themselves
        for path, entry in drive.files.items():
            at = drive.path / path[1:]
            assert hashlib.sha256(at.read_bytes() if at.exists() else b"").hexdigest() == entry.sha256
            if not at.exists():
                at.parent.mkdir(parents=True, exist_ok=True)
                at.touch()
    before = snapshot(drive.path)
    (facts,) = datfs_json("info", drive.path)
    assert (facts["link"], facts["version"]) == (drive.link, drive.version)
    for path, entry in drive.files.items():
        done = datfs("cat", drive.path, path)
        assert hashlib.sha256(done.stdout).hexdigest() == entry.sha256, done.stderr
    assert snapshot(drive.path) == before


@pytest.mark.fuse
def test_a_folder_is_mounted(drive_of: DriveOf, tmp_path: Path) -> None:
    """A folder that the reference wrote is mounted without any peer, and stays as it is."""
    drive = drive_of("simple")
    before = snapshot(drive.path)
    with mounted(drive.path, tmp_path / "m") as mount:
        assert mount.run("cat big.bin") == fill("/big.bin", 150_000)
    assert snapshot(drive.path) == before


def test_datfs_opens_a_sparse_clone_of_the_reference(drive_of: DriveOf, tmp_path: Path) -> None:
    """Of a sparse store of the reference everything that is there is read; the rest is a clear error at once."""
    drive = drive_of("simple")
    with serve(drive.path) as peer:
        assert clone(drive.key, peer.port, store=tmp_path, paths=["/big.bin", "/hello.txt"]).outcome == "done"
    read = datfs("cat", tmp_path, "/big.bin")
    assert read.stdout == fill("/big.bin", 150_000)
    read = datfs("cat", tmp_path, "/exact.bin")
    assert read.returncode == 5
    assert b"content chunk is not here" in read.stderr
    assert read.stdout == b""


def test_the_reference_goes_on_with_a_store_of_datfs(drive_of: DriveOf, tmp_path: Path) -> None:
    """The reference clones into the very files that datfs began, and asks only for what is missing."""
    drive = drive_of("simple")
    with serve(drive.path) as peer:
        done = datfs("cat", drive.link, "/big.bin", "--peer", peer.address, "--cache-dir", tmp_path / "cache")
        assert done.returncode == 0
        (tmp_path / "store").mkdir()
        cached(tmp_path / "cache", drive).rename(tmp_path / "store" / ".dat")
        before = len(peer.requests("content"))
        got = clone(drive.key, peer.port, store=tmp_path / "store")
        assert got.files == {path: entry.sha256 for path, entry in drive.files.items()}
        big = drive.files["/big.bin"]
        asked = {request.index for request in peer.requests("content")[before:]}
        assert not asked & set(range(big.first_chunk, big.first_chunk + big.chunks))


@pytest.mark.parametrize("name", PLANS)
def test_datfs_writes_the_bytes_the_reference_writes(tmp_path: Path, name: str) -> None:
    """The same key pair and operations give the same drive, each file of both registers to the last byte.

    Except that the reference signs several chunks of one file together, depending on its timing.
    """
    plan = [{key: op[key] for key in op if key not in ("uid", "gid")} for op in PLANS[name]]  # a dat has none
    drive = make_drive(tmp_path / "theirs", plan, seed=SEED)
    ours = tmp_path / "ours"
    ours.mkdir()
    writer = DriveWriter.create(directory_storage(ours), key_pair(bytes.fromhex(SEED)))
    for number, operation in enumerate(plan, 1):
        write(writer, operation, 1_514_764_800_000 + 1000 * number)
    writer.close()
    made = {at.name: at.read_bytes() for at in (drive.path / ".dat").iterdir()}
    written = {at.name: at.read_bytes() for at in ours.iterdir()}
    signatures = made.pop("content.signatures"), written.pop("content.signatures")
    assert {part for part in made if made[part]} == {part for part in written if written[part]}
    for part, data in written.items():
        assert data == made.get(part, b""), part
    theirs, own = signatures
    assert (own[:32], len(own)) == (theirs[:32], len(theirs))
    for at in range(32, len(own), 64):
        assert theirs[at : at + 64] in (own[at : at + 64], bytes(64))


def write(writer: DriveWriter, operation: Operation, clock: int) -> None:
    """Does to a writer what make.js does to the reference."""
    path = tuple(part.encode() for part in str(operation["path"]).split("/") if part)
    mtime = int(str(operation.get("mtime", clock)))
    mode = int(str(operation.get("mode", 0)))
    if operation["op"] == "del":
        writer.delete(path)
    elif operation["op"] == "mkdir":
        writer.mkdir(path, mtime=mtime, mode=mode or 0o755)
    else:
        text = operation.get("text")
        label = str(operation.get("fill", operation["path"]))
        data = str(text).encode() if text is not None else fill(label, int(str(operation["size"])))
        step = int(str(operation.get("chunk", 65_536)))
        writer.put(
            path,
            (data[at : at + step] for at in range(0, len(data), step)),
            mtime=mtime,
            ctime=int(str(operation.get("ctime", mtime))),
            mode=mode or 0o644,
        )
