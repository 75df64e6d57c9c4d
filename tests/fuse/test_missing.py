"""Reads of what is not here: they wait, end in time, and hold up nobody else."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from datfs import mountpoints
from tests.fuse.conftest import SECONDS, Mounter, Served, wait_until
from tests.fuse.trees import SMALL_WAITER, WAITERS
from tests.memory_tree import noise

pytestmark = pytest.mark.fuse

AT_ONCE = 10.0  # of the half minute that a reader could wait
WAYS = [pytest.param((), id="buffered"), pytest.param(("--direct",), id="direct")]

# Reads one byte of each file in a thread of its own; prints the errnos it got.
READERS = """
import os, sys, threading
codes = []
def read(path):
    try:
        with open(path, "rb", buffering=0) as file:
            codes.append(0 if file.read(4096) else -1)
    except OSError as error:
        codes.append(error.errno)
threads = [threading.Thread(target=read, args=(path,)) for path in sys.argv[1:]]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(*sorted(set(codes)), len(codes))
"""


@contextmanager
def readers(served: Served, count: int) -> Iterator[subprocess.Popen[str]]:
    """``count`` blocked reads of as many files, in another process."""
    paths = [str(served.point / "waiting" / f"{number:03}") for number in range(count)]
    process = subprocess.Popen([sys.executable, "-c", READERS, *paths], stdout=subprocess.PIPE, text=True)
    try:
        wait_until(lambda: open_files(process.pid) >= set(paths), "all files are open")
        wait_until(lambda: served.waiting() >= count, "all readers wait")
        yield process
    finally:
        process.kill()
        process.communicate(timeout=SECONDS)


def open_files(process: int) -> set[str]:
    """The paths of what a process has open now."""
    found = set()
    for descriptor in Path(f"/proc/{process}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            found.add(os.readlink(descriptor))
    return found


def failure(path: Path, offset: int = 0, length: int = 4096) -> tuple[int, float]:
    """The errno of a read, and the seconds it took."""
    fd = os.open(path, os.O_RDONLY)
    try:
        began = time.monotonic()
        with pytest.raises(OSError) as caught:
            os.pread(fd, length, offset)
        assert caught.value.errno is not None
        return caught.value.errno, time.monotonic() - began
    finally:
        os.close(fd)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("offset", "length"), [(500_000, 4096), (500_001, 300_000)])
def test_a_read_times_out(mounter: Mounter, way: tuple[str, ...], offset: int, length: int) -> None:
    """ETIMEDOUT after the timeout, and not after twice of it, however the kernel cuts the read."""
    served = mounter("missing", "--timeout", "3", *way)
    code, took = failure(served.point / "partly.bin", offset, length)
    assert code == errno.ETIMEDOUT
    assert 2.9 < took < 5.9


@pytest.mark.parametrize("way", WAYS)
def test_a_file_that_failed_fails_fast(mounter: Mounter, way: tuple[str, ...]) -> None:
    """Opened again after a time-out, and read elsewhere, it fails at once; not once something came."""
    served = mounter("missing", "--timeout", "2", *way)
    path = served.point / "partly.bin"
    assert failure(path, 500_000)[0] == errno.ETIMEDOUT
    for offset in (500_000, 900_000):
        code, took = failure(path, offset)
        assert code == errno.ETIMEDOUT
        assert took < 1.5
    served.command("news partly.bin")
    code, took = failure(path, 700_000)
    assert code == errno.ETIMEDOUT
    assert took > 1.9


@pytest.mark.parametrize("way", WAYS)
def test_a_read_that_is_partly_here(mounter: Mounter, way: tuple[str, ...]) -> None:
    """Reading on from what is here into what is not gives the true bytes, then ETIMEDOUT; never an early end."""
    served = mounter("missing", "--timeout", "1", *way)
    got = b""
    with (served.point / "partly.bin").open("rb", buffering=0) as file:
        code = 0
        try:
            while piece := file.read(50_001):
                got += piece
        except OSError as error:
            code = error.errno or -1
    assert code == errno.ETIMEDOUT
    assert 100_000 <= len(got) <= 128 * 1024
    assert noise(3, 1024 * 1024).startswith(got)


@pytest.mark.parametrize("way", WAYS)
def test_what_is_here_is_read_at_once(mounter: Mounter, way: tuple[str, ...]) -> None:
    """The present beginning of an incomplete file does not wait for the rest."""
    served = mounter("missing", *way)
    with (served.point / "partly.bin").open("rb", buffering=0) as file:
        began = time.monotonic()
        assert file.read(8192) == noise(3, 1024 * 1024)[:8192]
        assert time.monotonic() - began < AT_ONCE


@pytest.mark.parametrize("way", WAYS)
def test_a_waiting_read_gets_what_arrives(mounter: Mounter, way: tuple[str, ...]) -> None:
    """A blocked read returns its bytes when they come, and the file is complete afterwards."""
    served = mounter("missing", *way)
    with readers(served, 1) as process:
        served.command("arrive waiting/000")
        out, _ = process.communicate(timeout=SECONDS)
    assert out == "0 1\n"
    assert (served.point / "waiting" / "000").read_bytes() == noise(0, SMALL_WAITER)


@pytest.mark.parametrize("way", WAYS)
def test_errors_reach_the_reader(mounter: Mounter, way: tuple[str, ...]) -> None:
    """No peer, a broken store, false metadata and a bug each give their errno at once; the mount goes on."""
    served = mounter("missing", *way)
    served.expect_trouble = True
    for name, code in [
        ("nobody.bin", errno.EHOSTUNREACH),
        ("corrupt.bin", errno.EIO),
        ("lying.bin", errno.EIO),
        ("bug.bin", errno.EIO),
    ]:
        got, took = failure(served.point / name)
        assert (name, got) == (name, code)
        assert took < AT_ONCE
    assert (served.point / "local.bin").read_bytes() == noise(2, 2 * 1024 * 1024)
    log = served.log()
    assert log.count("ValueError: a bug") == 1
    assert "WARNING datfs.fuse_ops: read: beyond the end" in log


@pytest.mark.parametrize("end", ["signal", "umount"])
@pytest.mark.parametrize("way", WAYS)
def test_two_hundred_blocked_readers_hold_up_nobody(mounter: Mounter, way: tuple[str, ...], end: str) -> None:
    """While they wait, a local file, a listing, stat and a missing name answer as always; the end does not wait."""
    served = mounter("missing", *way)
    with readers(served, WAITERS):
        began = time.monotonic()
        assert (served.point / "local.bin").read_bytes() == noise(2, 2 * 1024 * 1024)
        assert len(os.listdir(served.point / "waiting")) == WAITERS
        assert os.stat(served.point / "corrupt.bin").st_size == 100_000
        assert not (served.point / "nothing").exists()
        os.statvfs(served.point)
        assert time.monotonic() - began < AT_ONCE
        assert served.waiting() >= WAITERS
        # And they end at once with the mount.
        began = time.monotonic()
        if end == "umount":
            assert mountpoints.unmount(str(served.point)) is mountpoints.Unmounted.LAZY
        else:
            served.process.send_signal(signal.SIGTERM)
        code, _ = served.end()
        assert code == 0
        assert time.monotonic() - began < AT_ONCE
    assert not served.mounted


def test_names_that_wait_time_out(mounter: Mounter) -> None:
    """Metadata nobody delivers: ETIMEDOUT for lookup and listing, the second time at once.

    What the kernel knows still answers, and df, which opens the folder but does not list it.
    """
    served = mounter("missing", "--timeout", "3")
    assert os.stat(served.point / "local.bin").st_size
    served.command("hold")
    for ask in (
        lambda: os.stat(served.point / "corrupt.bin"),
        lambda: os.listdir(served.point),
    ):
        began = time.monotonic()
        with pytest.raises(OSError) as caught:
            ask()
        assert caught.value.errno == errno.ETIMEDOUT
        assert 2.9 < time.monotonic() - began < 5.9
        again = time.monotonic()
        with pytest.raises(OSError) as caught:
            ask()
        assert caught.value.errno == errno.ETIMEDOUT
        assert time.monotonic() - again < 2.9
    assert os.stat(served.point / "local.bin").st_size
    began = time.monotonic()
    subprocess.run(["df", served.point], check=True, stdout=subprocess.DEVNULL)
    assert time.monotonic() - began < 2.9
    served.command("free")
    assert "corrupt.bin" in os.listdir(served.point)


def test_a_page_fault_on_missing_data_ends_in_time(mounter: Mounter) -> None:
    """A mapped file whose data do not come: SIGBUS after one timeout, not three."""
    served = mounter("missing", "--timeout", "4")
    code = (
        "import mmap, sys; file = open(sys.argv[1], 'rb')\n"
        "view = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ); print(view[0], flush=True); view[500000]"
    )
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code, str(served.point / "partly.bin")],
        capture_output=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == -signal.SIGBUS
    assert done.stdout == b"%d\n" % noise(3, 1024 * 1024)[0]
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("way", WAYS)
def test_a_killed_reader_does_not_outlive_the_timeout(mounter: Mounter, way: tuple[str, ...]) -> None:
    """SIGKILL to a program in a blocked read works at the latest when the read times out."""
    served = mounter("missing", "--timeout", "1", *way)
    with readers(served, 1) as process:
        process.kill()
        process.wait(AT_ONCE)
    assert (served.point / "local.bin").stat().st_size
