"""Reading a file a second time, through the mount and through a bare pass-through: the kernel serves it alone.

Also counted: the requests that reach datfs meanwhile, by the read calls of its process on /dev/fuse (system calls of
``/proc/PID/io``). Opening and closing are requests; reading must add none, so the file stays open.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from bench.harness import (
    MIB,
    PIECE,
    Mounted,
    Report,
    datfs_mount,
    in_turns,
    one_file_drive,
    passthrough_mount,
    read_through,
    settings,
)


def read_calls(pid: int) -> int:
    """How often a process has called read() and the like so far."""
    for line in Path(f"/proc/{pid}/io").read_text(encoding="ascii").splitlines():
        if line.startswith("syscr:"):
            return int(line.split()[1])
    raise RuntimeError(f"process {pid} has no count of reads")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the benchmark and shows its report. Raises RuntimeError if a request reaches datfs."""
    given = settings(argv, __doc__)
    mib = given.size(256, 4)
    drive = one_file_drive(mib)
    data = drive.path / "content" / "data"
    report = Report(f"Reading {mib} MiB again", given)
    requests: list[int] = []

    def side(mount: Callable[[], AbstractContextManager[Mounted]], file: str) -> float:
        with mount() as mounted, open(mounted.point / file, "rb", buffering=0) as opened:
            buffer = bytearray(PIECE)
            before_all = read_calls(mounted.pid)
            while opened.readinto(buffer):
                pass
            quiet(mounted.pid)
            before = read_calls(mounted.pid)
            if before == before_all:
                raise RuntimeError("reading for the first time made no read calls: they cannot be counted here")
            opened.seek(0)
            size = 0
            started = time.perf_counter()
            while got := opened.readinto(buffer):
                size += got
            seconds = time.perf_counter() - started
            if size != mib * MIB:
                raise RuntimeError(f"{size} bytes came instead of {mib * MIB}")
            if file != data.name:
                requests.append(read_calls(mounted.pid) - before)
            return size / seconds / 1e6

    read_through(data)
    rates = in_turns(
        given.runs,
        {
            "passthrough": lambda: side(lambda: passthrough_mount(data.parent), data.name),
            "datfs": lambda: side(lambda: datfs_mount(str(drive.path)), "file"),
        },
    )
    report.add("pass-through, again", "MB/s", rates["passthrough"])
    report.add("datfs, again", "MB/s", rates["datfs"], versus="pass-through, again")
    report.notes["requests that reached datfs, at most"] = max(requests)
    report.show()


def quiet(pid: int) -> None:
    """Returns when a process has read nothing for a while: what the kernel read ahead has come."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        before = read_calls(pid)
        time.sleep(0.1)
        if read_calls(pid) == before:
            return


if __name__ == "__main__":
    main()
