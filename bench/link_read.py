"""Sequential read over one link of 100 Mbit/s with 20, 50 and 200 ms of round trip: which share of it is used?

Both sides read from the same reference peer through the same relay. A share counts the bytes of the file alone. That
of the reference is from the start of its command; that of datfs from opening the file in a mount, first byte included,
and, to compare, from the start of ``datfs mount``. The time from opening to the first byte is told in round trips: what
a link with round trips takes longer than one without, over that round trip.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from bench.harness import (
    MIB,
    PIECE,
    KeptDrive,
    Report,
    datfs_mount,
    fast_runtime,
    in_turns,
    one_file_drive,
    reference_clone,
    scratch,
    settings,
)
from bench.relay import link_to
from tests.interop.reference import serve

RATE = 100e6 / 8
ROUND_TRIPS_MS = (0, 20, 50, 200)


@dataclass(slots=True)
class Link:
    """The two ways to read the file through one relay, and what else was measured meanwhile, a value for each run."""

    drive: KeptDrive
    size: int
    address: str
    with_mounting: list[float] = field(default_factory=list)
    first_byte: list[float] = field(default_factory=list)
    """Seconds from opening the file."""

    def share(self, size: int, seconds: float) -> float:
        """Of the link, if so many bytes took so long."""
        if size != self.size:
            raise RuntimeError(f"{size} bytes came instead of {self.size}")
        return size / seconds / RATE

    def reference(self) -> float:
        """The reference's own client: its share."""
        with scratch() as store:
            got = reference_clone(self.drive.key, [self.address], store)
        return self.share(got.size, got.seconds)

    def datfs(self) -> float:
        """A read through a mount: its share."""
        options = ["--peer", self.address, "--discovery", "none"]
        with scratch() as cache, datfs_mount(f"dat://{self.drive.key}", *options, "--cache-dir", str(cache)) as mounted:
            size, first, seconds = timed_read(mounted.point / "file")
        self.first_byte.append(first)
        self.with_mounting.append(self.share(size, mounted.seconds + seconds))
        return self.share(size, seconds)


def timed_read(path: Path) -> tuple[int, float, float]:
    """Reads a file to its end: bytes, seconds until the first one, seconds altogether, opening included."""
    buffer = bytearray(PIECE)
    started = time.perf_counter()
    with open(path, "rb", buffering=0) as file:
        size = len(file.read(1))
        first = time.perf_counter() - started
        while got := file.readinto(buffer):
            size += got
    return size, first, time.perf_counter() - started


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the benchmark and shows its report."""
    given = settings(argv, __doc__, runs=2)
    mib = given.size(128, 4)
    drive = one_file_drive(mib)
    report = Report(f"Sequential read of {mib} MiB over a link of 100 Mbit/s", given)
    near: Link | None = None
    with serve(drive.path, "--quiet", runtime=fast_runtime()) as peer:
        for milliseconds in ROUND_TRIPS_MS:
            with link_to((peer.host, peer.port), rate=RATE, round_trip=milliseconds / 1000) as [address]:
                link = Link(drive, mib * MIB, address)
                values = in_turns(given.runs, {"reference": link.reference, "datfs": link.datfs})
            name = f"{milliseconds} ms"
            report.add(f"{name}: reference client", "of link", values["reference"])
            report.add(f"{name}: datfs, once mounted", "of link", values["datfs"], versus=f"{name}: reference client")
            report.add(
                f"{name}: datfs, with mounting", "of link", link.with_mounting, versus=f"{name}: reference client"
            )
            if near is None:
                near = link
                continue
            trips = (median(link.first_byte) - median(near.first_byte)) / (milliseconds / 1000)
            report.add(f"{name}: first byte, round trips", "", [trips])
    report.show()


if __name__ == "__main__":
    main()
