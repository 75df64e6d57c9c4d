"""``ls -l`` of a folder of 10,000 files, through the mount of a drive and through a bare pass-through.

"first": right after mounting, when datfs has decoded nothing yet. "again": the kernel has forgotten names and
attributes (drop_caches), so that every entry is asked for once more. ``find -size`` wants the same attributes, and
unlike ``ls -l`` no extended ones (access lists, security labels), for which the kernel may ask file by file.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from bench import harness
from bench.harness import (
    Mounted,
    Report,
    datfs_mount,
    drop_caches,
    in_turns,
    kept_drive,
    passthrough_mount,
    peak_memory,
    settings,
)


def plain_folder(count: int) -> Path:
    """A folder with ``count`` small files, kept between runs."""
    folder = harness.KEPT / f"plain-{count}"
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        at = folder / f"f{number}"
        if not at.exists():
            at.write_text(f"/f{number}\n", encoding="ascii")
    return folder


def list_long(folder: Path, count: int) -> float:
    """Milliseconds that ``ls -l`` takes. Raises RuntimeError if it does not show ``count`` entries."""
    environment = {**os.environ, "LC_ALL": "C"}
    started = time.perf_counter()
    shown = subprocess.run(["ls", "-l", str(folder)], env=environment, stdout=subprocess.PIPE, check=True).stdout
    milliseconds = 1000 * (time.perf_counter() - started)
    entries = shown.count(b"\n") - 1
    if entries != count:
        raise RuntimeError(f"ls -l shows {entries} entries instead of {count}")
    return milliseconds


def find_sizes(folder: Path, count: int) -> float:
    """Milliseconds that ``find`` takes to tell the sizes. Raises RuntimeError if it does not find ``count`` files."""
    command = ["find", str(folder), "-type", "f", "-size", "-1000", "-printf", "."]
    started = time.perf_counter()
    shown = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
    milliseconds = 1000 * (time.perf_counter() - started)
    if len(shown) != count:
        raise RuntimeError(f"find shows {len(shown)} files instead of {count}")
    return milliseconds


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the benchmark and shows its report."""
    given = settings(argv, __doc__)
    count = given.size(10_000, 200)
    drive = kept_drive(f"flat-{count}", big=count, fanout=count)
    folder = plain_folder(count)
    report = Report(f"ls -l of {count:,} files", given)
    again: dict[str, list[float]] = {"passthrough": [], "datfs": []}
    found: dict[str, list[float]] = {"passthrough": [], "datfs": []}
    peaks: list[float] = []

    def first_and_again(side: str, mounted: Mounted) -> float:
        first = list_long(mounted.point, count)
        report.notes["kernel caches dropped"] = drop_caches()
        again[side].append(list_long(mounted.point, count))
        drop_caches()
        found[side].append(find_sizes(mounted.point, count))
        return first

    def through_passthrough() -> float:
        with passthrough_mount(folder) as mounted:
            return first_and_again("passthrough", mounted)

    def through_datfs() -> float:
        with datfs_mount(str(drive.path)) as mounted:
            first = first_and_again("datfs", mounted)
            peaks.append(peak_memory(mounted.pid))
            return first

    first = in_turns(given.runs, {"passthrough": through_passthrough, "datfs": through_datfs})
    report.add("native folder", "ms", [list_long(folder, count) for _ in range(given.runs)])
    for name, values in (("ls, first", first), ("ls, again", again), ("find", found)):
        report.add(f"pass-through, {name}", "ms", values["passthrough"])
        report.add(f"datfs, {name}", "ms", values["datfs"], versus=f"pass-through, {name}")
    report.add("memory of datfs at most", "MiB", peaks)
    report.show()


if __name__ == "__main__":
    main()
