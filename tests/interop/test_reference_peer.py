"""The scripts of this folder against each other: what the other interop tests stand on."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.interop.reference import (
    Layout,
    MadeDrive,
    Operation,
    ReferenceFailure,
    clone,
    fill,
    make_drive,
    open_store,
    serve,
)

SEED = "5e" * 32
BIG = 300_000
PLAN: list[Operation] = [
    {"op": "put", "path": "/hello.txt", "text": "hello world\n", "mtime": 1514764800123},
    {"op": "put", "path": "/dir/big.bin", "size": BIG},
    {"op": "mkdir", "path": "/empty"},
    {"op": "put", "path": "/gone.txt", "text": "soon gone"},
    {"op": "del", "path": "/gone.txt"},
]
HASHES = {
    "/hello.txt": hashlib.sha256(b"hello world\n").hexdigest(),
    "/dir/big.bin": hashlib.sha256(fill("/dir/big.bin", BIG)).hexdigest(),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> MadeDrive:
    """One drive for the tests that only read it."""
    return make_drive(tmp_path_factory.mktemp("made") / "drive", PLAN, seed=SEED)


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(at.relative_to(folder)): at.read_bytes() for at in folder.rglob("*") if at.is_file()}


@pytest.mark.parametrize("layout", ["raf", "sleep", "dat"])
def test_each_layout_is_served_and_cloned_whole(tmp_path: Path, layout: Layout) -> None:
    """A drive of any layout arrives with the hashes known beforehand, and its folder stays as it was."""
    drive = make_drive(tmp_path / "drive", PLAN, layout=layout, seed=SEED)
    before = snapshot(drive.path)
    assert (drive.path / ".dat" / "content.data").exists() == (layout == "sleep")
    with serve(drive.path) as peer:
        got = clone(drive.key, peer.port)
    assert got.outcome == "done"
    assert got.files == HASHES == {path: entry.sha256 for path, entry in drive.files.items()}
    assert snapshot(drive.path) == before


def test_same_seed_same_bytes(tmp_path: Path, made: MadeDrive) -> None:
    """Seed and plan fix every byte of the drive."""
    again = make_drive(tmp_path / "again", PLAN, seed=SEED)
    assert again.key == made.key
    assert snapshot(again.path) == snapshot(made.path)


def test_many_files_are_as_if_put_one_by_one(tmp_path: Path) -> None:
    """The short cut for very many files writes the metadata entries that the reference itself would."""
    quick = make_drive(tmp_path / "quick", big=60, fanout=3, seed=SEED)
    names = sorted(quick.files, key=lambda path: int(path.rpartition("/f")[2]))
    slow = make_drive(
        tmp_path / "slow", [{"op": "put", "path": name, "text": name + "\n"} for name in names], seed=SEED
    )
    assert len(names) == 60
    assert quick.entries == slow.entries
    for part in ("metadata.data", "metadata.tree", "content.data", "content.tree"):
        assert (quick.path / ".dat" / part).read_bytes() == (slow.path / ".dat" / part).read_bytes(), part


def test_large_file_is_read_back(tmp_path: Path) -> None:
    """A file of more chunks than one signature round has the bytes that ``fill`` promises."""
    drive = make_drive(tmp_path / "drive", [{"op": "put", "path": "/f", "size": 3_000_001, "fill": "x", "chunk": 4096}])
    assert drive.content_length == 733
    assert drive.files["/f"].sha256 == hashlib.sha256(fill("x", 3_000_001)).hexdigest()
    assert open_store(drive.path).content is not None


def test_requests_are_logged(made: MadeDrive) -> None:
    """A client that wants one file asks for its chunks only, and the log says so."""
    with serve(made.path) as peer:
        got = clone(made.key, peer.port, paths=["/hello.txt"])
        assert got.files == {"/hello.txt": HASHES["/hello.txt"]}
        assert {request.index for request in peer.requests("content")} == {0}
        assert 0 < peer.bytes_sent() < BIG
        assert peer.events("handshake")[0]["live"] is True


def test_live_changes_reach_a_client(made: MadeDrive) -> None:
    """What is put into a served drive arrives as a new version; the folder does not change."""
    before = snapshot(made.path)
    with serve(made.path, "--seed", SEED) as peer:
        described = peer.apply({"op": "put", "path": "/new.txt", "text": "new"})
        assert described["version"] == made.version + 1
        got = clone(made.key, peer.port, live=made.version + 1)
        old = clone(made.key, peer.port, version=1)
    assert got.versions[-1] == made.version + 1
    assert got.files == {**HASHES, "/new.txt": hashlib.sha256(b"new").hexdigest()}
    assert set(old.files) == {"/hello.txt"}
    assert snapshot(made.path) == before


def test_without_a_key_nothing_is_appended(tmp_path: Path) -> None:
    """A drive without its secret key is served, and refuses operations."""
    drive = make_drive(tmp_path / "drive", PLAN[:1], secret=False)
    with serve(drive.path) as peer, pytest.raises(ReferenceFailure, match="failed"):
        peer.apply({"op": "put", "path": "/x", "text": "x"})


def test_a_clone_on_disk_opens_and_verifies(tmp_path: Path, made: MadeDrive) -> None:
    """The judge of stores accepts what the reference downloaded, and names a chunk that was changed."""
    with serve(made.path) as peer:
        assert clone(made.key, peer.port, store=tmp_path, paths=["/dir/big.bin"]).outcome == "done"
    store = open_store(tmp_path)
    assert store.key == made.key
    assert store.content is not None
    assert sorted(store.content.held) == [1, 2, 3, 4, 5]
    assert not store.content.bad
    assert store.metadata.length == made.metadata_length

    data = tmp_path / ".dat" / "content.data"
    data.write_bytes(data.read_bytes()[:-1] + b"\xff")
    store = open_store(tmp_path)
    assert store.content is not None
    assert list(store.content.bad) == [5]


@pytest.mark.parametrize(
    ("flags", "outcome"),
    [
        (["--corrupt-chunk", "2"], "refused"),
        (["--corrupt-metadata", "1"], "refused"),
        # any chunk but the first to arrive may come without hashes, and which that is is not fixed
        ([word for chunk in range(6) for word in ("--corrupt-proof", str(chunk))], "refused"),
        (["--corrupt-signature"], "refused"),
        (["--drop-after", "100000"], "closed"),
        (["--only-chunks", "0-2"], "timeout"),
        (["--stall-after", "2"], "timeout"),
        (["--stall-metadata-after", "1"], "timeout"),
        (["--silent"], "timeout"),
    ],
    ids=lambda value: value[0][2:] if isinstance(value, list) else value,
)
def test_faults_are_noticed(made: MadeDrive, flags: list[str], outcome: str) -> None:
    """Each fault keeps the reference itself from finishing, in its own way."""
    with serve(made.path, *flags) as peer:
        assert clone(made.key, peer.port, timeout=2).outcome == outcome


def test_a_wrong_index_sends_the_neighbour(made: MadeDrive) -> None:
    """The bytes of the chunk after are sent instead. (The reference itself does not notice every time.)"""
    with serve(made.path, "--wrong-index", "1") as peer:
        got = clone(made.key, peer.port, timeout=5)
    assert got.outcome == "refused" or got.files["/dir/big.bin"] != HASHES["/dir/big.bin"]


@pytest.mark.parametrize(
    ("flags", "at_least"),
    [({"--latency-ms": "100"}, 0.4), ({"--bandwidth": "400000"}, 0.5)],
    ids=["latency", "bandwidth"],
)
def test_slow_links_are_slow(made: MadeDrive, flags: Mapping[str, str], at_least: float) -> None:
    """Latency and bandwidth are what the flags say: the clone is whole, and not early."""
    with serve(made.path, *(word for pair in flags.items() for word in pair)) as peer:
        got = clone(made.key, peer.port)
    assert got.outcome == "done"
    assert got.files == HASHES
    assert got.last["seconds"] >= at_least


def test_a_dropped_first_connection_leaves_the_second(made: MadeDrive) -> None:
    """``--drop-first 1`` spares the second client."""
    with serve(made.path, "--drop-after", "50000", "--drop-first", "1") as peer:
        assert clone(made.key, peer.port).outcome == "closed"
        assert clone(made.key, peer.port).files == HASHES


def test_hanging_up_closes_the_connection(made: MadeDrive) -> None:
    """``hang_up`` ends the clients and not the peer."""
    with serve(made.path, "--only-chunks", "none") as peer:
        outcome: list[str] = []
        client = threading.Thread(target=lambda: outcome.append(clone(made.key, peer.port, timeout=20).outcome))
        client.start()
        peer.wait_for("handshake")
        peer.hang_up()
        client.join(20)
        assert outcome == ["closed"]


def test_a_peer_that_cannot_start_says_why(tmp_path: Path) -> None:
    """An empty folder is no drive, and the error holds what Node said."""
    with pytest.raises(ReferenceFailure, match="not a drive"), serve(tmp_path):
        pass
