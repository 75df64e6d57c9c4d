"""Cloning a drive into a folder: one large file, and many small ones, from a reference peer, against its own client.

Both sides are timed from the start of the command to its end. ``datfs clone`` makes plain files; the reference keeps
what it fetches in one store, and reads every file once.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from bench.harness import (
    MIB,
    KeptDrive,
    Report,
    fast_runtime,
    in_turns,
    kept_drive,
    one_file_drive,
    reference_clone,
    scratch,
    settings,
)
from tests.interop.reference import serve

SMALL = 4096
IN_A_FOLDER = 200


@dataclass(frozen=True, slots=True)
class Run:
    """One clone: ``seconds`` of the clock and of the processor, ``mib_peak`` of memory."""

    seconds: float
    processor: float
    mib_peak: float


def many_files_drive(count: int) -> KeptDrive:
    """A drive with so many files of 4 KiB, in folders of 200."""
    plan = [
        {"op": "put", "path": f"/{number // IN_A_FOLDER:04d}/{number % IN_A_FOLDER:03d}", "size": SMALL}
        for number in range(count)
    ]
    return kept_drive(f"small-{count}", plan)


def datfs_clone(key: str, address: str) -> Run:
    """Runs ``datfs clone`` into an empty folder."""
    with scratch() as folder:
        command = [
            sys.executable,
            "-m",
            "datfs",
            "clone",
            f"dat://{key}",
            str(folder / "copy"),
            "--peer",
            address,
            "-q",
        ]
        started = time.perf_counter()
        process = subprocess.Popen(command, env={**os.environ, "DATFS_DISCOVERY": "none"})
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - started
    if process.returncode:
        raise RuntimeError(f"datfs clone ended with {process.returncode}")
    return Run(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the benchmark and shows its report."""
    given = settings(argv, __doc__, runs=3)
    mib, count = given.size(1024, 4), given.size(20_000, 200)
    report = Report(f"Clone of one file of {mib} MiB, and of {count} files of 4 KiB, from a reference peer", given)
    for name, drive in ((f"{mib} MiB", one_file_drive(mib)), (f"{count} files", many_files_drive(count))):
        _measure(report, name, drive, mib * MIB if drive.key == one_file_drive(mib).key else count * SMALL)
    report.show()


def _measure(report: Report, name: str, drive: KeptDrive, size: int) -> None:
    ours: list[Run] = []
    theirs: list[Run] = []

    with serve(drive.path, "--quiet", runtime=fast_runtime()) as peer:

        def with_reference() -> float:
            before = os.times()
            with scratch() as store:
                got = reference_clone(drive.key, [peer.address], store)
            after = os.times()
            if got.size != size:
                raise RuntimeError(f"{got.size} bytes came instead of {size}")
            used = after.children_user + after.children_system - before.children_user - before.children_system
            theirs.append(Run(got.seconds, used, got.mib_peak))
            return got.seconds

        def with_datfs() -> float:
            ours.append(datfs_clone(drive.key, peer.address))
            return ours[-1].seconds

        values = in_turns(report.settings.runs, {"reference": with_reference, "datfs": with_datfs})
    report.add(f"{name}: reference", "s", values["reference"])
    report.add(f"{name}: datfs", "s", values["datfs"], versus=f"{name}: reference")
    report.add(f"{name}: reference, processor", "s", [run.processor for run in theirs])
    report.add(
        f"{name}: datfs, processor", "s", [run.processor for run in ours], versus=f"{name}: reference, processor"
    )
    report.add(f"{name}: reference, memory", "MiB", [run.mib_peak for run in theirs])
    report.add(f"{name}: datfs, memory", "MiB", [run.mib_peak for run in ours], versus=f"{name}: reference, memory")


if __name__ == "__main__":
    main()
