"""Memory of a mount that has shown a million entries and has a thousand files open; and what the kernel serves alone.

Reading a file again must not reach datfs: its processor time (counted in 10 ms) tells.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from bench.harness import Report, datfs_mount, kept_drive, processor_seconds, settings
from bench.tree_10k import FANOUT, find, took

OPEN = 1000


def resident(pid: int) -> float:
    """Resident memory now, in MiB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def first_files(point: Path, most: int) -> list[Path]:
    """Some files, those of the first folders."""
    found: list[Path] = []
    for folder, _, names in os.walk(point):
        found += [Path(folder, name) for name in names]
        if len(found) >= most:
            break
    return found[:most]


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the benchmark and shows its report."""
    given = settings(argv, __doc__, runs=1)
    count, opened = given.size(1_000_000, 300), given.size(OPEN, 20)
    drive = kept_drive(f"tree-{count}", big=count, fanout=FANOUT)
    report = Report(f"{count:,} entries known, {opened:,} files open", given)
    figures: dict[str, list[float]] = {"before": [], "entries known": [], "files open": [], "again": []}
    for _ in range(given.runs):
        with datfs_mount(str(drive.path)) as mounted:
            figures["before"].append(resident(mounted.pid))
            took(find, mounted.point, count)
            figures["entries known"].append(resident(mounted.pid))
            with ExitStack() as stack:
                files = [stack.enter_context(path.open("rb")) for path in first_files(mounted.point, opened)]
                for file in files:
                    file.read()
                figures["files open"].append(resident(mounted.pid))
                used = processor_seconds(mounted.pid)
                for file in files:
                    file.seek(0)
                    file.read()
                figures["again"].append(1000 * (processor_seconds(mounted.pid) - used))
    for name in ("before", "entries known", "files open"):
        report.add(f"memory, {name}", "MiB", figures[name])
    report.notes["processor time of datfs for reading the open files again, ms"] = figures["again"][-1]
    report.show()


if __name__ == "__main__":
    main()
