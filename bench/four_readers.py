"""Four programs that read four parts of a file at once, all here, through the mount and through a bare pass-through.

Each run mounts anew; the pages of the data file below stay in the page cache. All four end before the clock stops.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from bench.harness import (
    MIB,
    Mounted,
    Report,
    datfs_mount,
    in_turns,
    one_file_drive,
    passthrough_mount,
    peak_memory,
    read_through,
    settings,
)

READERS = 4


def read_parts(path: Path, mib: int) -> float:
    """Megabytes a second of all readers together. Raises RuntimeError if one of them fails."""
    each = mib // READERS
    started = time.perf_counter()
    readers = [
        subprocess.Popen(
            ["dd", f"if={path}", "of=/dev/null", "bs=1M", f"skip={part * each}", f"count={each}"],
            stderr=subprocess.PIPE,
        )
        for part in range(READERS)
    ]
    said = [reader.communicate()[1] for reader in readers]
    seconds = time.perf_counter() - started
    for reader, text in zip(readers, said, strict=True):
        if reader.returncode or b"%d bytes" % (each * MIB) not in text:
            raise RuntimeError(f"a reader did not get its {each} MiB: {text.decode(errors='replace')}")
    return mib * MIB / seconds / 1e6


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the benchmark and shows its report."""
    given = settings(argv, __doc__)
    mib = given.size(512, 4)
    drive = one_file_drive(mib)
    data = drive.path / "content" / "data"
    report = Report(f"{READERS} readers of {mib} MiB, all here", given)
    peaks: list[float] = []

    def side(mount: Callable[[], AbstractContextManager[Mounted]], file: str) -> float:
        read_through(data)
        with mount() as mounted:
            rate = read_parts(mounted.point / file, mib)
            if file != data.name:
                peaks.append(peak_memory(mounted.pid))
            return rate

    rates = in_turns(
        given.runs,
        {
            "passthrough": lambda: side(lambda: passthrough_mount(data.parent), data.name),
            "datfs": lambda: side(lambda: datfs_mount(str(drive.path)), "file"),
        },
    )
    report.add("pass-through, together", "MB/s", rates["passthrough"])
    report.add("datfs, together", "MB/s", rates["datfs"], versus="pass-through, together")
    report.add("memory of datfs at most", "MiB", peaks)
    report.show()


if __name__ == "__main__":
    main()
