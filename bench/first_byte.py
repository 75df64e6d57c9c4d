"""From the command to the first byte of a file of which nothing is here: milliseconds and round trips.

Round trips are what a slower line adds: the time with a latency set at the peer, less the time without, over
that latency. A drive of very many files shows that its size does not matter.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from bench.harness import (
    KeptDrive,
    Report,
    datfs_command,
    datfs_mount,
    fast_runtime,
    in_turns,
    kept_drive,
    peak_memory,
    reference_clone,
    scratch,
    settings,
)
from tests.interop.reference import ReferencePeer, serve


class FirstByte:
    """The three ways to one byte of one file, from one peer."""

    def __init__(self, drive: KeptDrive, path: str, peer: ReferencePeer) -> None:
        self._drive = drive
        self._path = path
        self._peer = peer
        self.peaks: dict[str, list[float]] = {"cat": [], "mount": [], "reference": []}

    def _options(self, cache: Path) -> list[str]:
        return ["--peer", self._peer.address, "--cache-dir", str(cache)]

    def cat(self) -> float:
        """``datfs cat``: milliseconds until its first byte."""
        with scratch() as cache:
            command = [*datfs_command(), "cat", f"dat://{self._drive.key}", self._path, *self._options(cache)]
            started = time.perf_counter()
            with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
                assert process.stdout is not None
                if not process.stdout.read(1):
                    raise RuntimeError("datfs cat gave nothing")
                milliseconds = 1000 * (time.perf_counter() - started)
                process.stdout.read()
                _, status, usage = os.wait4(process.pid, 0)
                process.returncode = os.waitstatus_to_exitcode(status)
        self.peaks["cat"].append(usage.ru_maxrss / 1024)
        return milliseconds

    def mount(self) -> float:
        """``datfs mount`` and a read: milliseconds from the command to the byte."""
        with scratch() as cache, datfs_mount(f"dat://{self._drive.key}", *self._options(cache)) as mounted:
            started = time.perf_counter()
            with open(mounted.point / self._path.lstrip("/"), "rb", buffering=0) as file:
                if not file.read(1):
                    raise RuntimeError("the mount gave nothing")
            milliseconds = 1000 * (mounted.seconds + time.perf_counter() - started)
            self.peaks["mount"].append(peak_memory(mounted.pid))
        return milliseconds

    def reference(self) -> float:
        """The reference fetching that file only: milliseconds until it has it."""
        with scratch() as store:
            got = reference_clone(self._drive.key, [self._peer.address], store, "--path", self._path)
        self.peaks["reference"].append(got.mib_peak)
        return 1000 * got.seconds


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the benchmark and shows its report."""
    given = settings(argv, __doc__)
    many = given.size(100_000, 200)
    one_way_ms = given.size(50, 5)
    small = [{"op": "put", "path": f"/folder/file-{number}", "text": f"{number}\n"} for number in range(20)]
    drives = {
        "20 files": (kept_drive("first-byte-small", small), "/folder/file-7"),
        f"{many:,} files": (
            kept_drive(f"many-{many}", big=many),
            "/d0/f0" if given.quick else "/d0/d0/f0",
        ),
    }
    report = Report("From the command to the first byte", given)
    report.notes["latency set for the round trips, ms"] = 2 * one_way_ms
    for name, (drive, path) in drives.items():
        times: list[dict[str, list[float]]] = []
        peaks: dict[str, list[float]] = {}
        for flags in ((), ("--latency-ms", str(one_way_ms))):
            with serve(drive.path, "--quiet", *flags, runtime=fast_runtime()) as peer:
                ways = FirstByte(drive, path, peer)
                sides = {"reference": ways.reference, "cat": ways.cat, "mount": ways.mount}
                times.append(in_turns(given.runs, sides))
                peaks = ways.peaks
        near, far = times
        for side, label in (("reference", "reference"), ("cat", "datfs cat"), ("mount", "datfs mount")):
            versus = "" if side == "reference" else f"reference, {name}"
            report.add(f"{label}, {name}", "ms", near[side], versus=versus)
            trips = (median(far[side]) - median(near[side])) / (2 * one_way_ms)
            report.add(f"{label}, {name}, round trips", "", [trips])
            report.add(f"{label}, {name}, memory", "MiB", peaks[side])
    report.show()


if __name__ == "__main__":
    main()
