"""Commits of a folder against the reference: the same registers to the last byte, and a drive that it can clone."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from datfs.crypto import key_pair
from datfs.dat_folder import create_dat_folder, open_dat_folder
from datfs.folder.committing import Report, WorkingFolder
from datfs.folder.compare import Kind
from datfs.folder.seen_notes import NAME as SEEN
from datfs.folder.staged import NAME as STAGED
from datfs.metadata import name_of
from tests.dat_folders import files_in
from tests.interop.datfs_side import datfs, shared
from tests.interop.plans import PLANS, SEED
from tests.interop.reference import Operation, clone, fill, make_drive, open_store

CLOCK = 1_514_764_800_000


class Writer:
    """A folder of datfs that commits what differs, with the clock of the reference's plans."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        create_dat_folder(folder, key_pair(bytes.fromhex(SEED)), home=folder).close()

    def commit(self) -> Report:
        """Everything that differs, by a writer opened for it."""
        writer = open_dat_folder(self.folder, home=self.folder)
        try:
            working = WorkingFolder(self.folder, writer, lambda: CLOCK + 1000 * (writer.version + 1))
            return working.commit(working.compare().changes)
        finally:
            writer.close()


def data_of(operation: Operation) -> bytes:
    """The bytes of a put."""
    text = operation.get("text")
    if text is not None:
        return str(text).encode()
    return fill(str(operation.get("fill", operation["path"])), int(str(operation["size"])))


def carry_out(folder: Path, operation: Operation) -> None:
    """Does on the disk what a plan says."""
    place = folder / str(operation["path"])[1:]
    if operation["op"] == "del":
        place.unlink()
        while not any(place.parent.iterdir()):
            place = place.parent
            place.rmdir()
        return
    if place.is_dir():
        shutil.rmtree(place)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(data_of(operation))
    place.chmod(0o644)


def assert_same_registers(ours: Path, theirs: Path) -> None:
    """All files of both are equal, but for chunks of one file that one of them signed together."""
    made = {at.name: at.read_bytes() for at in (theirs / ".dat").iterdir() if at.is_file()}
    own = {
        at.name: at.read_bytes() for at in (ours / ".dat").iterdir() if at.is_file() and at.name not in (STAGED, SEEN)
    }
    made.pop("content.secret_key", None)
    signed, signatures = made.pop("content.signatures"), own.pop("content.signatures")
    assert own == made
    assert len(signatures) == len(signed)
    for at in range(32, len(signed), 64):
        pair = signatures[at : at + 64], signed[at : at + 64]
        assert pair[0] == pair[1] or bytes(64) in pair


# Two puts cannot be told from one where the bytes stay the same, and the file of a name that is too long for a
# folder of tests is none; the rest of the plans happens on the disk as well.
@pytest.mark.parametrize("name", ["simple", "deep", "history", "unicode"])
def test_commits_make_the_registers_of_the_reference(tmp_path: Path, name: str) -> None:
    """Each change of a plan is found on the disk, and written as the reference writes it."""
    theirs = make_drive(tmp_path / "theirs", PLANS[name], layout="dat", seed=SEED).path
    ours = Writer(tmp_path / "ours")
    for operation in PLANS[name]:
        carry_out(ours.folder, operation)
        assert [name_of(one.path).decode() for one in ours.commit().done] == [operation["path"]]
    assert_same_registers(ours.folder, theirs)


def put(path: str, size: int = 3) -> Operation:
    """A file."""
    return {"op": "put", "path": path, "size": size}


BEFORE = [
    put(f"/{name}") for name in ("a/1", "a/2/3", "a/2/4", "b", "c/1", "d", "e/f/g/h", "é/ü", "\U0001f4be", "\uffee")
]
AFTER = [put("/a"), put("/b/x/y"), put("/b/z", 140_000), put("/e/f/g/i"), put("/d", 5)]


def test_one_commit_of_many_changes(tmp_path: Path) -> None:
    """Folders that are gone, a file where a folder was and the reverse, names of all kinds: the reference writes the
    same for the same changes, and its reader gets what is in the folder.
    """
    ours = Writer(tmp_path / "ours")
    for operation in BEFORE:
        carry_out(ours.folder, operation)
    plan = as_plan(ours.commit(), BEFORE)
    for name in ("a", "c", "é", "e"):
        shutil.rmtree(ours.folder / name)
    (ours.folder / "b").unlink()
    for operation in AFTER:
        carry_out(ours.folder, operation)
    plan += as_plan(ours.commit(), AFTER)
    assert ours.commit().done == []
    dels = {str(operation["path"]) for operation in plan if operation["op"] == "del"}
    assert dels == {"/a/1", "/a/2/3", "/a/2/4", "/b", "/c/1", "/e/f/g/h", "/é/ü"}
    theirs = make_drive(tmp_path / "theirs", plan, layout="dat", seed=SEED).path
    assert_same_registers(ours.folder, theirs)
    store = open_store(ours.folder)
    assert store.content is not None
    assert (store.metadata.bad, store.content.bad) == ({}, {})
    with shared(ours.folder) as (key, port):
        got = clone(key, port)
    wanted = {f"/{name}": hashlib.sha256(data).hexdigest() for name, data in files_in(ours.folder).items()}
    assert (got.outcome, got.files) == ("done", wanted)


def as_plan(report: Report, puts: Sequence[Operation]) -> list[Operation]:
    """What a commit did, for the reference to do the same."""
    by_path = {operation["path"]: operation for operation in puts}
    names = [(one.kind, name_of(one.path).decode()) for one in report.done]
    return [{"op": "del", "path": path} if kind is Kind.REMOVED else by_path[path] for kind, path in names]


def test_the_reference_sees_a_commit_while_share_runs(tmp_path: Path) -> None:
    """A reader that is connected gets what another process commits meanwhile, and dat.json is what init was told."""
    folder = tmp_path / "drive"
    folder.mkdir()
    (folder / "a.txt").write_bytes(b"a\n")
    assert datfs("init", folder, "--title", "Täst", "--description", "").returncode == 0
    with shared(folder) as (key, port):
        first = clone(key, port)
        assert set(first.files) == {"/dat.json"}
        assert datfs("commit", "-C", folder, "-a").returncode == 0
        again = clone(key, port, live=2, timeout=20)
    assert again.versions[-1] == 2
    assert (folder / "dat.json").read_text(encoding="utf-8") == (
        f'{{\n  "title": "Täst",\n  "description": "",\n  "url": "dat://{key}"\n}}'
    )
