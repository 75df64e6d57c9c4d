"""Registers on disk: append, proof, put and audit, against the reference on the same file system.

Both sides work in one process without a network. datfs's times include the flush at the end, with its syncs; the
reference never syncs. "calls" are read and write system calls of the whole process as the kernel counts them
(/proc/self/io); of the reference that includes those by which its threads wake each other.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.harness import KEPT, ROOT, Report, fast_runtime, in_turns, scratch, settings
from datfs.crypto import key_pair
from datfs.proof import PresenceSet
from datfs.register import Register
from datfs.storage import directory_storage

KEYS = key_pair(bytes(range(32)))
LARGE, TINY = 65_536, 100
SEED = 7


def chunk(index: int, size: int) -> bytes:
    """A chunk that no other equals."""
    return index.to_bytes(4, "big") + bytes([index & 255]) * (size - 4)


def indices(count: int, length: int) -> Iterator[int]:
    """The same random chunk numbers that ``register.js`` takes."""
    state = SEED
    for _ in range(count):
        state = (state * 1_103_515_245 + 12_345) & 0x7FFFFFFF
        yield state % length


def calls() -> int:
    """Read and write system calls of this process so far."""
    lines = dict(line.split(": ") for line in Path("/proc/self/io").read_text(encoding="ascii").splitlines())
    return int(lines["syscr"]) + int(lines["syscw"])


class Sides:
    """Each workload for both sides: seconds for each chunk. ``calls``: by workload and side, for each chunk."""

    def __init__(self) -> None:
        self.calls: dict[str, float] = {}
        self.cryptography = ""

    def reference(self, label: str, workload: str, folder: Path, *numbers: int) -> float:
        """Runs ``register.js``; the first of the numbers is how many chunks."""
        runtime = fast_runtime()
        done = subprocess.run(
            [runtime.node, str(ROOT / "bench" / "register.js"), workload, str(folder), *map(str, numbers)],
            env=runtime.environment(),
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        out = json.loads(done.stdout)
        self.calls[f"{label}, reference"] = out["calls"] / numbers[0]
        self.cryptography = f"{out['crypto']}, Node {out['node']}"
        return float(out["seconds"]) / numbers[0]

    def append(self, label: str, folder: Path, count: int, size: int, batch: int) -> float:
        """Appends without a sync for each batch, and one flush at the end."""
        chunks = [chunk(index, size) for index in range(count)]
        register = Register.create(directory_storage(folder), KEYS)
        before, started = calls(), time.perf_counter()
        for first in range(0, count, batch):
            register.append(chunks[first : first + batch], sync=False)
        register.flush()
        seconds = time.perf_counter() - started
        self.calls[f"{label}, datfs"] = (calls() - before) / count
        register.close()
        return seconds / count

    def proof(self, label: str, folder: Path, count: int) -> float:
        """Proves random chunks to somebody who knows nothing."""
        register = Register.open(directory_storage(folder, read_only=True), read_only=True)
        wanted = list(indices(count, register.length))
        before, started = calls(), time.perf_counter()
        for index in wanted:
            register.proof(index)
        seconds = time.perf_counter() - started
        self.calls[f"{label}, datfs"] = (calls() - before) / count
        register.close()
        return seconds / count

    def put(self, label: str, origin_at: Path, copy_at: Path, count: int) -> float:
        """Downloads in order, each answer made for what the copy holds by then."""
        origin = Register.open(directory_storage(origin_at, read_only=True), read_only=True)
        copy = Register.open(directory_storage(copy_at), key=origin.key)
        remote, seconds, done = PresenceSet(), 0.0, 0
        for index in range(count):
            value = origin.get(index)
            proof = origin.proof(index, copy.digest(index), remote=remote)
            before, started = calls(), time.perf_counter()
            copy.put(index, value, proof.nodes, proof.signature)
            seconds += time.perf_counter() - started
            done += calls() - before - OWN_CALLS
        before, started = calls(), time.perf_counter()
        copy.flush()
        seconds += time.perf_counter() - started
        self.calls[f"{label}, datfs"] = (done + calls() - before) / count
        copy.close()
        origin.close()
        return seconds / count

    def audit(self, folder: Path, count: int) -> float:
        """Hashes everything again."""
        register = Register.open(directory_storage(folder, read_only=True), read_only=True)
        started = time.perf_counter()
        report = register.audit()
        seconds = time.perf_counter() - started
        register.close()
        if not report.ok or report.chunks != count:
            raise RuntimeError(f"the audit found {report}")
        return seconds / count


OWN_CALLS = -calls() + calls()
"""What one look at the counter costs."""


def kept_register(count: int) -> Path:
    """A register of many tiny chunks that later runs find again."""
    folder = KEPT / f"register-{count}"
    if not (folder / "done").exists():
        folder.mkdir(parents=True, exist_ok=True)
        for file in folder.iterdir():
            file.unlink()
        register = Register.create(directory_storage(folder), KEYS)
        for first in range(0, count, 1000):
            register.append([chunk(index, 8) for index in range(first, min(count, first + 1000))], sync=False)
        register.close()
        (folder / "done").touch()
    return folder


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the benchmark and shows its report."""
    given = settings(argv, __doc__, runs=3)
    report = Report("Registers on disk, microseconds for each chunk", given)
    sides = Sides()

    def appends(label: str, count: int, size: int, batch: int) -> None:
        def run(side: str) -> float:
            with scratch() as folder:
                if side == "reference":
                    return sides.reference(label, "append", folder, count, size, batch)
                return sides.append(label, folder, count, size, batch)

        compare(label, run)

    def compare(label: str, run: object) -> None:
        assert callable(run)
        values = in_turns(given.runs, {"reference": lambda: run("reference"), "datfs": lambda: run("datfs")})
        report.add(f"{label}, reference", "us", [1e6 * value for value in values["reference"]])
        report.add(f"{label}, datfs", "us", [1e6 * value for value in values["datfs"]], versus=f"{label}, reference")

    appends("append 64 KiB, 16 at once", given.size(2000, 64), LARGE, 16)
    appends("append 64 KiB, one by one", given.size(1000, 32), LARGE, 1)
    appends("append 100 bytes, 256 at once", given.size(50_000, 512), TINY, 256)
    appends("append 100 bytes, one by one", given.size(3000, 50), TINY, 1)

    many, proofs = kept_register(given.size(1_000_000, 5000)), given.size(3000, 50)
    label = "proof in a register of a million" if not given.quick else "proof"

    def prove(side: str) -> float:
        if side == "reference":
            return sides.reference(label, "proof", many, proofs, 0, 0, SEED)
        return sides.proof(label, many, proofs)

    compare(label, prove)

    puts = given.size(1000, 32)
    with scratch() as place:
        origin = place / "origin"
        origin.mkdir()
        sides.append("origin", origin, puts, LARGE, 16)

        def put(side: str) -> float:
            with scratch() as folder:
                copy = folder / "copy"
                copy.mkdir()
                if side == "reference":
                    (folder / "origin").symlink_to(origin)
                    return sides.reference("put 64 KiB", "put", folder, puts)
                return sides.put("put 64 KiB", origin, copy, puts)

        def audit(side: str) -> float:
            if side == "reference":
                return sides.reference("audit 64 KiB", "audit", origin, puts)
            return sides.audit(origin, puts)

        compare("put 64 KiB with proof, in order", put)
        compare("audit 64 KiB", audit)
    for name, count in sides.calls.items():
        if not name.startswith(("origin", "audit")):
            report.notes[f"read and write calls a chunk: {name}"] = round(count, 2)
    report.notes["cryptography of the reference"] = sides.cryptography
    report.show()


if __name__ == "__main__":
    main()
