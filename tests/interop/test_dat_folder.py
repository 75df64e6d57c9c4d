"""Folders of the dat command: the reference opens and serves what datfs wrote, and datfs goes on with its folders."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from datfs.crypto import key_pair
from datfs.dat_clone import open_dat_clone
from datfs.dat_folder import DatFolderWriter, create_dat_folder, open_dat_folder
from datfs.metadata import path_of
from datfs.writer import CHUNK_BYTES
from tests.dat_folders import clone_of, files_in, update
from tests.interop.plans import PLANS, SEED
from tests.interop.reference import Operation, clone, fill, make_drive, open_store, serve

CLOCK = 1_514_764_800_000
KEYS = key_pair(bytes.fromhex(SEED))


def apply(writer: DatFolderWriter, folder: Path, operation: Operation) -> None:
    """Does in a folder what a plan of the reference says, and adds it to the drive."""
    name = str(operation["path"])
    place, path, mtime = folder / name[1:], path_of(name), CLOCK + 1000 * (writer.version + 1)
    if operation["op"] == "del":
        place.unlink()
        writer.delete(path)
        return
    text = operation.get("text")
    data = (
        str(text).encode() if text is not None else fill(str(operation.get("fill", name)), int(str(operation["size"])))
    )
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(data)
    writer.import_file(path, mtime=mtime, mode=0o644)


def sha256(data: bytes) -> str:
    """In hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("name", ["simple", "history", "unicode"])
def test_the_reference_serves_a_folder_of_datfs(tmp_path: Path, name: str) -> None:
    """It opens the folder, every chunk held verifies, and a client gets each file from it."""
    folder = tmp_path / "drive"
    writer = create_dat_folder(folder, KEYS, home=tmp_path)
    for operation in PLANS[name]:
        apply(writer, folder, operation)
    held = {index for index in range(writer.content.length) if writer.content.has(index)}
    writer.close()
    store = open_store(folder)
    assert (store.layout, store.version) == ("dat", len(PLANS[name]))
    assert store.content is not None
    assert (store.metadata.bad, store.content.bad, set(store.content.held)) == ({}, {}, held)
    with serve(folder) as peer:
        got = clone(store.key, peer.port)
    assert got.outcome == "done"
    assert {path[1:]: digest for path, digest in got.files.items()} == {
        path: sha256(data) for path, data in files_in(folder).items()
    }


@pytest.mark.parametrize("name", ["simple", "history"])
def test_the_registers_are_those_of_the_reference(tmp_path: Path, name: str) -> None:
    """For the same keys, changes and times both make the same folder; each signs some chunks of a file together."""
    theirs = make_drive(tmp_path / "theirs", PLANS[name], layout="dat", seed=SEED).path
    ours = tmp_path / "ours"
    writer = create_dat_folder(ours, KEYS, home=ours)
    for operation in PLANS[name]:
        apply(writer, ours, operation)
    writer.close()
    made = {str(at.relative_to(theirs)): at.read_bytes() for at in (theirs / ".dat").rglob("*") if at.is_file()}
    written = {str(at.relative_to(ours)): at.read_bytes() for at in (ours / ".dat").rglob("*") if at.is_file()}
    own, signed = written.pop(".dat/content.signatures"), made.pop(".dat/content.signatures")
    assert len(own) == len(signed)
    pairs = [(own[at : at + 64], signed[at : at + 64]) for at in range(32, len(own), 64)]
    assert all(ours == theirs or bytes(64) in (ours, theirs) for ours, theirs in pairs)
    made.pop(".dat/content.secret_key", None)
    assert written == made  # the secret key among them


def test_datfs_goes_on_with_a_folder_of_the_reference(tmp_path: Path) -> None:
    """With the secret key where the reference put it, files are replaced, deleted and added."""
    drive = make_drive(tmp_path / "drive", PLANS["simple"], layout="dat")
    writer = open_dat_folder(drive.path, home=drive.path)
    assert writer.version == drive.version
    apply(writer, drive.path, {"op": "put", "path": "/big.bin", "size": 3 * CHUNK_BYTES + 1, "fill": "again"})
    apply(writer, drive.path, {"op": "put", "path": "/new/file.txt", "text": "new\n"})
    apply(writer, drive.path, {"op": "del", "path": "/hello.txt"})
    writer.close()
    store = open_store(drive.path)
    assert (store.key, store.version) == (drive.key, drive.version + 3)
    assert store.content is not None
    assert (store.metadata.bad, store.content.bad) == ({}, {})
    with serve(drive.path) as peer:
        got = clone(drive.key, peer.port)
    wanted = {f"/{path}": sha256(data) for path, data in files_in(drive.path).items()}
    assert (got.outcome, got.files) == ("done", wanted)
    assert wanted["/big.bin"] == sha256(fill("again", 3 * CHUNK_BYTES + 1))


def test_the_reference_opens_a_clone_of_datfs(tmp_path: Path) -> None:
    """A reader's folder, complete and brought up to date once, is to the reference what its own is."""
    folder, copy = tmp_path / "drive", tmp_path / "clone"
    writer = create_dat_folder(folder, KEYS, home=tmp_path)
    for operation in PLANS["history"][:7]:
        apply(writer, folder, operation)
    clone_of(copy, writer.metadata, writer.content).close()
    for operation in PLANS["history"][7:]:
        apply(writer, folder, operation)
    mirror = open_dat_clone(copy)
    update(mirror, writer.metadata, writer.content)
    mirror.close()
    writer.close()
    assert files_in(copy) == files_in(folder)
    ours, theirs = open_store(copy), open_store(folder)
    assert ours.layout == "dat"
    assert ours.content is not None
    assert ours.metadata.bad == ours.content.bad == {}
    assert (ours.content, ours.metadata) == (theirs.content, theirs.metadata)
    with serve(copy) as peer:
        got = clone(ours.key, peer.port)
    assert got.outcome == "done"
    assert {path[1:]: digest for path, digest in got.files.items()} == {
        path: sha256(data) for path, data in files_in(folder).items()
    }
