"""Folders of the dat command in tests: written by a plan, and filled from another drive without a network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datfs.clone_plan import Work
from datfs.dat_clone import DatClone, open_dat_clone
from datfs.dat_folder import DatFolderWriter
from datfs.metadata import path_of
from datfs.register import Register

START = 1_514_764_800_000  # ms; each operation of a plan is a second later
Operation = tuple[str, str, dict[str, Any]]


def carry_out(writer: DatFolderWriter, folder: Path, plan: Sequence[Operation]) -> None:
    """Does in a folder what a plan says, as a person would, and adds each change to the drive."""
    for kind, name, arguments in plan:
        path, place = path_of(name), folder / name.lstrip("/")
        mtime = START + 1000 * (writer.version + 1)
        if kind == "put":
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(arguments["data"])
            writer.import_file(path, mtime=mtime, mode=0o644)
        else:
            place.unlink()
            writer.delete(path)


def fetch(copy: Register, origin: Register, first: int = 0, stop: int | None = None) -> None:
    """Puts chunks that the origin holds into a copy, with proofs."""
    for index in range(first, origin.length if stop is None else stop):
        if origin.has(index) and not copy.has(index):
            proof = origin.proof(index, copy.digest(index))
            copy.put(index, origin.get(index), proof.nodes, proof.signature)


def clone_of(folder: Path, metadata: Register, content: Register) -> DatClone:
    """A reader's folder with everything that a drive has now."""
    clone = open_dat_clone(folder, metadata.key)
    update(clone, metadata, content)
    return clone


def prepare(clone: DatClone, version: int | None = None, *, force: bool = False, around: bool = False) -> Work:
    """What brings a clone to a version of the metadata that it has; its chunks can be put from then on."""
    return next(work for work in clone.prepare(version, force=force, around=around) if work is not None)


def fetch_work(clone: DatClone, work: Work, content: Register) -> None:
    """Puts everything that is missing, and ends the work."""
    copy = clone.content
    assert copy is not None
    for file in work.missing:
        fetch(copy, content, file.first, file.stop)
    clone.finish(work)


def update(clone: DatClone, metadata: Register, content: Register) -> Work:
    """Brings a clone up to date, as a reader does it: metadata, then content."""
    fetch(clone.metadata, metadata)
    work = prepare(clone)
    fetch_work(clone, work, content)
    assert prepare(clone).missing == []
    return work


def files_in(folder: Path) -> dict[str, bytes]:
    """The files of a folder, without those of the registers."""
    return {
        str(at.relative_to(folder)): at.read_bytes()
        for at in sorted(folder.rglob("*"))
        if at.is_file() and ".dat" not in at.relative_to(folder).parts
    }
