"""Random reads of 4 KiB in a large file of which nothing is here: bytes over the wire for each byte asked.

The least that the protocol allows is a whole chunk with its proof for every read that meets a chunk not
fetched before; "least" counts those chunks alone.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from statistics import median

from bench.harness import (
    MIB,
    Report,
    datfs_mount,
    fast_runtime,
    one_file_drive,
    peak_memory,
    random_offsets,
    scratch,
    settings,
)
from tests.interop.reference import serve

PIECE = 4096
CHUNK = 65536


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the benchmark and shows its report."""
    given = settings(argv, __doc__, runs=3)
    mib = given.size(256, 4)
    count = given.size(500, 20)
    drive = one_file_drive(mib)
    offsets = random_offsets(mib * MIB, PIECE, count)
    touched = {chunk for at in offsets for chunk in (at // CHUNK, (at + PIECE - 1) // CHUNK)}
    report = Report(f"{count} random reads of {PIECE} bytes in {mib} MiB, nothing here", given)
    wire: list[float] = []
    chunks: list[float] = []
    latency: list[float] = []
    peaks: list[float] = []

    for _ in range(given.runs):
        with serve(drive.path, runtime=fast_runtime()) as peer:
            with (
                scratch() as cache,
                datfs_mount(f"dat://{drive.key}", "--peer", peer.address, "--cache-dir", str(cache)) as mounted,
            ):
                file = os.open(mounted.point / "file", os.O_RDONLY)
                try:
                    times = []
                    for at in offsets:
                        started = time.perf_counter()
                        if len(os.pread(file, PIECE, at)) != PIECE:
                            raise RuntimeError(f"a short read at {at}")
                        times.append(time.perf_counter() - started)
                finally:
                    os.close(file)
                peaks.append(peak_memory(mounted.pid))
            wire.append(peer.bytes_sent() / (PIECE * count))
            chunks.append(len(peer.requests("content")) / count)
        latency.append(1000 * median(times))

    report.add("least, chunks alone", "B/B", [len(touched) * CHUNK / (PIECE * count)])
    report.add("datfs, over the wire", "B/B", wire, versus="least, chunks alone")
    report.add("requests for each read", "", chunks)
    report.add("time of a read", "ms", latency)
    report.add("memory of datfs at most", "MiB", peaks)
    report.show()


if __name__ == "__main__":
    main()
