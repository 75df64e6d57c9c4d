"""``ls -lR`` and ``find`` over 10,000 and 100,000 files in folders of 100, through datfs and a bare pass-through.

"cold": the first after mounting; datfs has decoded nothing yet, all metadata are in the local files. "warm": the same
again, when the kernel knows names and attributes, and asks for listings only. "four": four of them at once, warm.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from bench import harness
from bench.harness import (
    Mounted,
    Report,
    datfs_mount,
    in_turns,
    kept_drive,
    passthrough_mount,
    peak_memory,
    settings,
)

FANOUT = 100
AT_ONCE = 4


def plain_tree(count: int) -> Path:
    """A folder with the same names as the drive of ``count`` files, kept between runs."""
    folder = harness.KEPT / f"plain-tree-{count}"
    marker = folder.with_suffix(".made")
    if marker.exists():
        return folder
    above = count > FANOUT**2
    for number in range(count):
        rest = number // FANOUT
        parts = [f"d{rest % FANOUT}", f"f{number}"]
        if above:
            parts.insert(0, f"d{rest // FANOUT % FANOUT}")
        at = folder.joinpath(*parts)
        if number % FANOUT == 0:
            at.parent.mkdir(parents=True, exist_ok=True)
        at.write_text("/" + "/".join(parts) + "\n", encoding="ascii")
    marker.touch()
    return folder


def long_listing(point: Path) -> subprocess.Popen[bytes]:
    """``ls -lR``, begun."""
    return subprocess.Popen(["ls", "-lR", str(point)], env={**os.environ, "LC_ALL": "C"}, stdout=subprocess.PIPE)


def find(point: Path) -> subprocess.Popen[bytes]:
    """``find`` with sizes, begun."""
    return subprocess.Popen(["find", str(point), "-type", "f", "-size", "-9", "-printf", "-\n"], stdout=subprocess.PIPE)


def took(begin: Callable[[Path], subprocess.Popen[bytes]], point: Path, count: int, times: int = 1) -> float:
    """Milliseconds until all of ``times`` programs have ended. Raises RuntimeError if one shows another number."""
    started = time.perf_counter()
    running = [begin(point) for _ in range(times)]
    shown = [program.communicate()[0] for program in running]
    milliseconds = 1000 * (time.perf_counter() - started)
    for text in shown:
        # Each line of a file begins with "-", its type; folders' do with "d".
        found = text.count(b"\n-") + text.startswith(b"-")
        if found != count:
            raise RuntimeError(f"{found} files were shown instead of {count}")
    return milliseconds


def compare(report: Report, runs: int, count: int) -> None:
    """Adds the rows of one size."""
    drive = kept_drive(f"tree-{count}", big=count, fanout=FANOUT)
    folder = plain_tree(count)
    programs = {"ls -lR": long_listing, "find": find}
    values: dict[tuple[str, str], list[float]] = {}
    peaks: list[float] = []

    def side(name: str, mount: Callable[[], AbstractContextManager[Mounted]]) -> float:
        for program, begin in programs.items():
            with mount() as mounted:
                for when, times in (("cold", 1), ("warm", 1), ("four", AT_ONCE)):
                    took_now = took(begin, mounted.point, count, times)
                    values.setdefault((f"{program}, {when}", name), []).append(took_now)
                if name == "datfs":
                    peaks.append(peak_memory(mounted.pid))
        return 0.0

    in_turns(
        runs,
        {
            "pass-through": lambda: side("pass-through", lambda: passthrough_mount(folder)),
            "datfs": lambda: side("datfs", lambda: datfs_mount(str(drive.path))),
        },
    )
    for what, name in values:
        if name == "pass-through":
            base = f"pass-through, {count:,}, {what}"
            report.add(base, "ms", values[what, "pass-through"])
            report.add(f"datfs, {count:,}, {what}", "ms", values[what, "datfs"], versus=base)
    report.add(f"memory of datfs at most, {count:,}", "MiB", peaks)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the benchmark and shows its report."""
    given = settings(argv, __doc__, runs=3)
    report = Report("ls -lR and find of many folders", given)
    for count in (given.size(10_000, 300), given.size(100_000, 0)):
        if count:
            compare(report, given.runs, count)
    report.show()


if __name__ == "__main__":
    main()
