"""Sequential read of a file whose chunks are all here, through the mount and through a bare pass-through.

Each run mounts anew, so that the mount's own pages are gone. "cold" also drops the pages of the data file
below (both sides read the very same file); "warm" leaves them, which shows the cost of the file system
without the disk's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bench.harness import (
    MIB,
    Report,
    datfs_mount,
    drop_caches,
    in_turns,
    one_file_drive,
    passthrough_mount,
    peak_memory,
    read_ahead,
    read_through,
    settings,
)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the benchmark and shows its report."""
    given = settings(argv, __doc__)
    mib = given.size(512, 4)
    drive = one_file_drive(mib)
    data = drive.path / "content" / "data"
    report = Report(f"Sequential read of {mib} MiB, all here", given)
    peaks: list[float] = []

    def through_datfs(prepare: Callable[[], object]) -> float:
        with datfs_mount(str(drive.path)) as mounted:
            report.notes["read-ahead of datfs, KiB"] = read_ahead(mounted.point)
            prepare()
            rate = megabytes_a_second(*read_through(mounted.point / "file"))
            peaks.append(peak_memory(mounted.pid))
            return rate

    def through_passthrough(prepare: Callable[[], object]) -> float:
        with passthrough_mount(data.parent) as mounted:
            report.notes["read-ahead of the pass-through, KiB"] = read_ahead(mounted.point)
            prepare()
            return megabytes_a_second(*read_through(mounted.point / data.name))

    def megabytes_a_second(size: int, seconds: float) -> float:
        if size != mib * MIB:
            raise RuntimeError(f"{size} bytes came instead of {mib * MIB}")
        return size / seconds / 1e6

    report.notes["kernel caches dropped"] = drop_caches()
    for state, prepare in (("cold", drop_caches), ("warm", lambda: read_through(data))):
        values = in_turns(
            given.runs,
            {
                "passthrough": lambda prepare=prepare: through_passthrough(prepare),  # type: ignore[misc]
                "datfs": lambda prepare=prepare: through_datfs(prepare),  # type: ignore[misc]
            },
        )
        report.add(f"pass-through, {state}", "MB/s", values["passthrough"])
        report.add(f"datfs, {state}", "MB/s", values["datfs"], versus=f"pass-through, {state}")
    report.add("memory of datfs at most", "MiB", peaks)
    report.show()


if __name__ == "__main__":
    main()
