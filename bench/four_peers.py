"""Sequential read of a file from four peers, each behind a link of 5 MB/s: what do they bring together?

The reference's own client reads from the same four, through the same relays.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from bench.harness import (
    MIB,
    Report,
    datfs_mount,
    fast_runtime,
    in_turns,
    one_file_drive,
    read_through,
    reference_clone,
    scratch,
    settings,
)
from bench.relay import link_to
from tests.interop.reference import serve

PEERS = 4
RATE = 5e6
ROUND_TRIP = 0.02


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the benchmark and shows its report."""
    given = settings(argv, __doc__, runs=3)
    mib = given.size(128, 4)
    drive = one_file_drive(mib)
    report = Report(f"Sequential read of {mib} MiB from {PEERS} peers of {RATE / 1e6:g} MB/s each", given)
    report.notes["round trip to each, ms"] = 1000 * ROUND_TRIP
    after_mounting: list[float] = []

    def megabytes_a_second(size: int, seconds: float) -> float:
        if size != mib * MIB:
            raise RuntimeError(f"{size} bytes came instead of {mib * MIB}")
        return size / seconds / 1e6

    with ExitStack() as stack:
        peers = [stack.enter_context(serve(drive.path, "--quiet", runtime=fast_runtime())) for _ in range(PEERS)]
        addresses = stack.enter_context(
            link_to(*((peer.host, peer.port) for peer in peers), rate=RATE, round_trip=ROUND_TRIP)
        )

        def with_reference() -> float:
            with scratch() as store:
                got = reference_clone(drive.key, addresses, store)
            return megabytes_a_second(got.size, got.seconds)

        def with_datfs() -> float:
            options = [option for address in addresses for option in ("--peer", address)]
            with (
                scratch() as cache,
                datfs_mount(
                    f"dat://{drive.key}", *options, "--discovery", "none", "--cache-dir", str(cache)
                ) as mounted,
            ):
                size, seconds = read_through(mounted.point / "file")
            after_mounting.append(megabytes_a_second(size, seconds))
            return megabytes_a_second(size, mounted.seconds + seconds)

        values = in_turns(given.runs, {"reference": with_reference, "datfs": with_datfs})
    report.add("all links together", "MB/s", [PEERS * RATE / 1e6])
    report.add("reference client", "MB/s", values["reference"], versus="all links together")
    report.add("datfs, once mounted", "MB/s", after_mounting, versus="all links together")
    report.add("datfs, with mounting", "MB/s", values["datfs"], versus="reference client")
    report.show()


if __name__ == "__main__":
    main()
