"""Random reads of 4 KiB in a large file that is here whole, through the mount and through a bare pass-through.

Each run mounts anew and reads places that it has not read before, so that every read is a request. The pages of the
data file below stay in the page cache: what counts is the way through the file system, not the disk. The program says
that it reads at random, as databases do; without that the kernel reads more than was asked.
"""

from __future__ import annotations

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
    processor_seconds,
    random_offsets,
    read_pieces,
    read_through,
    settings,
)

PIECE = 4096


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the benchmark and shows its report."""
    given = settings(argv, __doc__)
    mib, count = given.size(512, 4), given.size(20_000, 100)
    drive = one_file_drive(mib)
    data = drive.path / "content" / "data"
    offsets = list(dict.fromkeys(at // PIECE * PIECE for at in random_offsets(mib * MIB, PIECE, count)))
    report = Report(f"{len(offsets):,} random reads of {PIECE} bytes in {mib} MiB, all here", given)
    processor: dict[str, list[float]] = {"passthrough": [], "datfs": []}
    peaks: list[float] = []

    def side(name: str, mount: Callable[[], AbstractContextManager[Mounted]], file: str) -> float:
        read_through(data)
        with mount() as mounted:
            used = processor_seconds(mounted.pid)
            seconds = read_pieces(Path(mounted.point, file), offsets, PIECE)
            processor[name].append(1e6 * (processor_seconds(mounted.pid) - used) / len(offsets))
            if name == "datfs":
                peaks.append(peak_memory(mounted.pid))
            return 1e6 * seconds / len(offsets)

    times = in_turns(
        given.runs,
        {
            "passthrough": lambda: side("passthrough", lambda: passthrough_mount(data.parent), data.name),
            "datfs": lambda: side("datfs", lambda: datfs_mount(str(drive.path)), "file"),
        },
    )
    report.add("pass-through, a read", "us", times["passthrough"])
    report.add("datfs, a read", "us", times["datfs"], versus="pass-through, a read")
    report.notes["processor time of a read, us"] = (
        f"pass-through {min(processor['passthrough']):.3g}, datfs {min(processor['datfs']):.3g} (lowest)"
    )
    report.add("memory of datfs at most", "MiB", peaks)
    report.show()


if __name__ == "__main__":
    main()
