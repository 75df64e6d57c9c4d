"""Sequential read of a file of which nothing is here, from a reference and a datfs peer, against its own client.

Both keep what they fetch on disk, and both are timed from the start of the command until the last byte was
read. The reference runs with native cryptography where ``./dev bench`` could install it; the report says
which.
"""

from __future__ import annotations

from collections.abc import Sequence

from bench.harness import (
    MIB,
    Report,
    datfs_mount,
    datfs_share,
    fast_runtime,
    in_turns,
    one_file_drive,
    peak_memory,
    processor_seconds,
    read_through,
    reference_clone,
    scratch,
    settings,
)
from tests.interop.reference import serve


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the benchmark and shows its report."""
    given = settings(argv, __doc__, runs=3)
    mib = given.size(256, 4)
    drive = one_file_drive(mib)
    report = Report(f"Sequential read of {mib} MiB from a reference peer on loopback", given)
    after_mounting: list[float] = []
    from_datfs: list[float] = []
    work: list[float] = []
    peaks: dict[str, list[float]] = {"datfs": [], "reference": []}

    def megabytes_a_second(size: int, seconds: float) -> float:
        if size != mib * MIB:
            raise RuntimeError(f"{size} bytes came instead of {mib * MIB}")
        return size / seconds / 1e6

    with serve(drive.path, "--quiet", runtime=fast_runtime()) as peer, datfs_share(drive.path) as other:

        def with_reference() -> float:
            with scratch() as store:
                got = reference_clone(drive.key, [peer.address], store)
            report.notes["cryptography of the reference"] = got.crypto
            peaks["reference"].append(got.mib_peak)
            return megabytes_a_second(got.size, got.seconds)

        def with_datfs(address: str, once_mounted: list[float]) -> float:
            with (
                scratch() as cache,
                datfs_mount(f"dat://{drive.key}", "--peer", address, "--cache-dir", str(cache)) as mounted,
            ):
                before = processor_seconds(mounted.pid)
                size, seconds = read_through(mounted.point / "file")
                work.append(megabytes_a_second(size, processor_seconds(mounted.pid) - before))
                peaks["datfs"].append(peak_memory(mounted.pid))
            once_mounted.append(megabytes_a_second(size, seconds))
            return megabytes_a_second(size, mounted.seconds + seconds)

        values = in_turns(
            given.runs,
            {
                "reference": with_reference,
                "datfs": lambda: with_datfs(peer.address, after_mounting),
                "from datfs": lambda: with_datfs(other, from_datfs),
            },
        )
    report.add("reference client", "MB/s", values["reference"])
    report.add("datfs mount", "MB/s", values["datfs"], versus="reference client")
    report.add("datfs, once mounted", "MB/s", after_mounting)
    report.add("datfs mount, from a datfs peer", "MB/s", values["from datfs"], versus="reference client")
    report.add("the same, once mounted", "MB/s", from_datfs)
    report.add("a second of the mount's processor", "MB", work)
    report.add("memory of the reference", "MiB", peaks["reference"])
    report.add("memory of datfs at most", "MiB", peaks["datfs"], versus="memory of the reference")
    report.show()


if __name__ == "__main__":
    main()
