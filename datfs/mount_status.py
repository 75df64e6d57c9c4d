"""What a mount adds to the status of its drive: open files, their reads that wait, their rates."""

from __future__ import annotations

from typing import Any, Protocol

import trio

from datfs import local_sockets, mountpoints
from datfs.activity import Activity, FileActivity, Located
from datfs.local_service import Place
from datfs.text import text_of
from datfs.transfers import Transfers


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

    async def locate(self, path: bytes) -> Located:
        """What is at a path."""
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
        return {
            "mountpoint": point,
            "open_handles": serving.open_handles,
            "requests_waiting": serving.waiting,
            "files": [_file_facts(file, transfers.rate(file.entry.identity, now, _about_held(file))) for file in files],
        }

    offering.activity = Activity(facts, sample, serving.locate)
    offering.offer_status(local_sockets.mount_socket(device))


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
