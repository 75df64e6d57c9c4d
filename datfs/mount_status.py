"""What a mount adds to the status of its drive: open files, their reads that wait, their rates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import trio

from datfs import local_sockets, mountpoints
from datfs.activity import Activity, Failure, FileActivity, Located
from datfs.local_service import Place
from datfs.text import text_of
from datfs.transfers import Transfers
from datfs.vfs import Entry, FileTree, Kind


class Serving(Protocol):
    """What is asked of who answers the kernel."""

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        ...

    @property
    def open_handles(self) -> int:
        """Files and directories that are open."""
        ...

    def activity(self) -> list[FileActivity]:
        """Open files that are not here whole."""
        ...

    @property
    def tree(self) -> FileTree:
        """What is served now."""
        ...

    def failure(self, path: tuple[bytes, ...], entry: Entry | None) -> Failure | None:
        """The last one of a path, or of what is there."""
        ...


class Offering(Protocol):
    """Who answers questions: for one drive, or for all."""

    activity: Activity | None

    def offer_status(self, place: Place) -> None:
        """Answers at one more place."""
        ...


def offer_status(offering: Offering, mountpoint: str, serving: Serving, device: tuple[int, int]) -> None:
    """Lets `datfs status` and `datfs why` ask about the mount, by its device and by the drive."""
    point = mountpoints.resolve(mountpoint)
    transfers = Transfers()

    def sample() -> None:
        transfers.note(trio.current_time(), {file.entry.identity: _about_held(file) for file in serving.activity()})

    def facts() -> dict[str, Any]:
        now = trio.current_time()
        files = serving.activity()
        tree = serving.tree
        version = tree.facts(tree.root).get(b"user.dat.version")
        return {
            "mountpoint": point,
            "shown_version": int(version) if version is not None else None,
            "shown_path": "/" + text_of(b"/".join(tree.root.path)),
            "open_handles": serving.open_handles,
            "requests_waiting": serving.waiting,
            "files": [_file_facts(file, transfers.rate(file.entry.identity, now, _about_held(file))) for file in files],
        }

    async def find(path: bytes) -> Located:
        return await locate(serving.tree, _parts(path))

    def failure(path: bytes, entry: Entry | None) -> Failure | None:
        return serving.failure(_parts(path), entry)

    offering.activity = Activity(facts, sample, find, failure)
    offering.offer_status(local_sockets.mount_socket(device))


def _parts(path: bytes) -> tuple[bytes, ...]:
    return tuple(name for name in path.split(b"/") if name)


async def locate(tree: FileTree, path: Sequence[bytes]) -> Located:
    """What is at a path, and its chunks if it is a file. Waits for metadata as a lookup of the kernel does.

    Raises NotFound, NotADirectory, BadMetadata, Unavailable, OSError.
    """
    entry = tree.root
    for name in path:
        entry = await tree.lookup(entry, name)
    if entry.kind is Kind.DIRECTORY:
        await tree.list(entry)
        return Located(entry, None, None)
    facts = tree.facts(entry)
    key, first = facts.get(b"user.dat.key"), int(facts.get(b"user.dat.chunk_first", b"0"))
    chunks = (first, first + int(facts.get(b"user.dat.chunks", b"0")))
    available = facts.get(b"user.dat.availability")
    return Located(
        entry,
        bytes.fromhex(key.decode()) if key is not None else None,
        chunks,
        available.decode() if available is not None else None,
    )


def _number(file: FileActivity, name: str) -> int:
    return int(file.facts.get(f"user.dat.{name}".encode(), b"0"))


def _about_held(file: FileActivity) -> int:
    """Bytes of a file that are here if all of its chunks are of one size: good for a rate, and quickly told."""
    return _number(file, "chunks_held") * file.entry.size // max(1, _number(file, "chunks"))


def _file_facts(file: FileActivity, rate: float) -> dict[str, Any]:
    held = file.facts.get(b"user.dat.bytes_held")
    key = file.facts.get(b"user.dat.key")
    return {
        "link": f"dat://{key.decode()}" if key is not None else None,
        "path": "/" + text_of(b"/".join(file.entry.path)),
        "size": file.entry.size,
        "chunks": _number(file, "chunks"),
        "chunks_held": _number(file, "chunks_held"),
        "bytes_held": int(held) if held is not None else None,
        "receiving": round(rate),
        "handles": file.handles,
        "reads": [{"offset": read.offset, "size": read.size, "seconds": round(read.seconds, 3)} for read in file.reads],
    }
