"""How mounts begin and end: in the background, while reads wait, after a kill, twice at one place."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from datfs import mountpoints
from tests.interop.datfs_side import SECONDS, clear, datfs, mounted, wait_until
from tests.interop.reference import MadeDrive, fill, open_store, serve

pytestmark = pytest.mark.fuse

DriveOf = Callable[[str], MadeDrive]
AT_ONCE = 15.0  # of a minute that reads could wait


@pytest.fixture
def point(tmp_path: Path) -> Iterator[Path]:
    """A place to mount on, with nothing left there afterwards."""
    at = tmp_path / "point"
    at.mkdir()
    yield at
    clear(at)


def alive(pid: int) -> bool:
    """Whether there is such a process that has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def processes_about(point: Path) -> list[str]:
    """The command lines of processes that name the place."""
    found = []
    for at in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = at.read_bytes()
        except OSError:
            continue  # it has just ended
        if os.fsencode(point) in line:
            found.append(line.decode())
    return found


def owner(cache: Path) -> int:
    """The process that owns the only drive of a cache."""
    (folder,) = cache.iterdir()
    return int((folder / "lock").read_text())


def wait_for_end(pid: int) -> None:
    """Until the process has ended."""
    wait_until(lambda: not alive(pid), "the process has ended")


def test_through_a_link(drive_of: DriveOf, point: Path, tmp_path: Path) -> None:
    """A directory named by a link is mounted on, answers for what it is, and is unmounted, hung too."""
    drive, link = drive_of("simple"), tmp_path / "link"
    link.symlink_to(point)
    cache = tmp_path / "cache"
    for hung in (False, True):
        with serve(drive.path) as peer:
            done = datfs("mount", drive.link, link, "--peer", peer.address, "--cache-dir", cache)
            assert done.returncode == 0, done.stderr
            assert (link / "hello.txt").read_text() == "hello world\n"
            pid = owner(cache)
            assert datfs("status", link).returncode == 0
            if hung:
                os.kill(pid, signal.SIGSTOP)
            done = datfs("umount", link)
            assert done.returncode == 0, done.stderr
            os.kill(pid, signal.SIGCONT)
            wait_for_end(pid)
    assert list(point.iterdir()) == []


def test_in_the_background(drive_of: DriveOf, point: Path, tmp_path: Path) -> None:
    """``datfs mount`` returns when ls answers; after ``datfs umount`` neither mount nor process is left."""
    drive = drive_of("simple")
    cache = tmp_path / "cache"
    with serve(drive.path) as peer:
        done = datfs("mount", drive.link, point, "--peer", peer.address, "--cache-dir", cache)
        assert done.returncode == 0, done.stderr
        assert sorted(os.listdir(point)) == ["big.bin", "docs", "exact.bin", "hello.txt"]
        assert (point / "big.bin").read_bytes() == fill("/big.bin", 150_000)
        pid = owner(cache)
        assert alive(pid)
        assert datfs("umount", point).returncode == 0
        assert mountpoints.mount_at(str(point)) is None
        wait_for_end(pid)
    assert os.listdir(point) == []


def test_what_cannot_be_mounted_leaves_nothing(drive_of: DriveOf, point: Path, tmp_path: Path) -> None:
    """Without a peer, or with a silent one, the command fails with a reason; nothing runs and nothing is mounted."""
    drive = drive_of("simple")
    done = datfs("mount", drive.link, point, "--peer", "127.0.0.1:1", "--cache-dir", tmp_path / "cache")
    assert (done.returncode, b"127.0.0.1:1" in done.stderr) == (5, True), done.stderr
    with serve(drive.path, "--silent") as peer:
        arguments = ["--peer", peer.address, "--timeout", "1", "--cache-dir", str(tmp_path / "cache")]
        done = datfs("mount", drive.link, point, *arguments)
        assert done.returncode == 5, done.stderr
        peer.wait_for("close")
    assert mountpoints.mount_at(str(point)) is None
    assert not processes_about(point)


ENDS: dict[str, Callable[[int, Path], object]] = {
    "SIGINT": lambda pid, point: os.kill(pid, signal.SIGINT),
    "SIGTERM": lambda pid, point: os.kill(pid, signal.SIGTERM),
    "umount": lambda pid, point: datfs("umount", point),
    "umount -l": lambda pid, point: subprocess.run(["umount", "-l", str(point)], check=True, timeout=SECONDS),
}


@pytest.mark.parametrize("how", ENDS)
def test_ends_at_once_while_reads_wait(drive_of: DriveOf, point: Path, how: str) -> None:
    """Reads that wait for a stalled peer get an error, the mount is gone and the process ended, all at once."""
    drive = drive_of("simple")
    with (
        serve(drive.path, "--stall-after", "0") as peer,
        mounted(drive.link, point, "--peer", peer.address, "--memory", "--timeout", "60") as mount,
    ):
        readers = [
            subprocess.Popen(["cat", name], cwd=point, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            for name in ("big.bin", "exact.bin", "hello.txt", "big.bin")
        ]
        peer.wait_for("request", count=5)
        time.sleep(0.3)
        assert all(reader.poll() is None for reader in readers)
        started = time.monotonic()
        ENDS[how](mount.process.pid, point)
        for reader in readers:
            out, error = reader.communicate(timeout=SECONDS)
            assert (reader.returncode, out) == (1, b""), error
        assert mount.process.wait(SECONDS) == 0, mount.stderr()
        assert time.monotonic() - started < AT_ONCE
        assert not mount.alive


def test_a_second_mount_at_the_place_is_refused(drive_of: DriveOf, point: Path, tmp_path: Path) -> None:
    """Exit code 8 and how to go on; the first one is not disturbed."""
    drive = drive_of("simple")
    with serve(drive.path) as peer, mounted(drive.link, point, "--peer", peer.address, "--memory") as mount:
        done = datfs("mount", drive.link, point, "--peer", peer.address, "--memory")
        assert done.returncode == 8
        assert b"already mounted" in done.stderr
        assert b"datfs umount" in done.stderr
        assert mount.run("cat hello.txt") == b"hello world\n"


def test_a_drive_is_mounted_twice(drive_of: DriveOf, point: Path, tmp_path: Path) -> None:
    """A second mount of the same drive elsewhere, with the same cache folder, works or says who has the cache."""
    drive = drive_of("simple")
    cache = ["--cache-dir", str(tmp_path / "cache")]
    with serve(drive.path) as peer, mounted(drive.link, point, "--peer", peer.address, *cache) as mount:
        done = datfs("mount", drive.link, tmp_path, "--peer", peer.address, *cache)
        assert done.returncode == 8  # tmp_path holds the cache
        other = tmp_path / "other"
        other.mkdir()
        try:
            done = datfs("mount", drive.link, other, "--peer", peer.address, *cache)
            if done.returncode == 0:
                assert (other / "hello.txt").read_text() == "hello world\n"
                assert datfs("umount", other).returncode == 0
            else:
                assert str(mount.process.pid).encode() in done.stderr
        finally:
            clear(other)
        # Commands beside the mount always work.
        read = datfs("cat", drive.link, "/hello.txt", "--peer", peer.address, *cache)
        assert read.stdout == b"hello world\n", read.stderr


def test_after_a_kill(drive_of: DriveOf, point: Path, tmp_path: Path) -> None:
    """``kill -9`` leaves a dead mount; the next one at the place clears it, and its cache holds nothing wrong."""
    drive = drive_of("simple")
    cache = ["--cache-dir", str(tmp_path / "cache")]
    with serve(drive.path) as peer:
        where = ["--peer", peer.address, *cache]
        assert datfs("mount", drive.link, point, *where).returncode == 0
        assert (point / "big.bin").read_bytes() == fill("/big.bin", 150_000)
        pid = owner(tmp_path / "cache")
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not alive(pid), "it is dead")
        with pytest.raises(OSError):
            os.listdir(point)
        with mounted(drive.link, point, *where) as mount:
            assert mount.run("cat hello.txt") == b"hello world\n"
            assert mount.run("cat big.bin") == fill("/big.bin", 150_000)
    (folder,) = (tmp_path / "cache").iterdir()
    store = open_store(folder)
    assert store.content is not None
    assert (store.metadata.bad, store.content.bad) == ({}, {})
    with mounted(drive.link, point, "--offline", *cache) as mount:
        assert mount.run("cat big.bin") == fill("/big.bin", 150_000)


def test_nothing_can_be_changed(drive_of: DriveOf, point: Path) -> None:
    """Every change is refused with EROFS, for root too."""
    drive = drive_of("simple")
    with serve(drive.path) as peer, mounted(drive.link, point, "--peer", peer.address, "--memory") as mount:
        for command in (
            "touch new",
            "rm hello.txt",
            "mkdir d",
            "mv hello.txt x",
            "chmod 600 hello.txt",
            "echo >>docs/x",
        ):
            failed = mount.try_run(command)
            assert failed.returncode != 0, command
            assert b"Read-only file system" in failed.stderr, (command, failed.stderr)
