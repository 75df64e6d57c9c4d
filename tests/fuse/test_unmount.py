"""The end of a mount, wanted or not, and mounting where something is in the way."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from datfs import mountpoints
from datfs.fuse_control import FuseConnection
from datfs.mountpoints import Unmounted
from tests.command_line import datfs
from tests.fuse.conftest import ROOT, SECONDS, Mounter, Served, shell, wait_until
from tests.fuse.test_missing import readers

pytestmark = pytest.mark.fuse

DRAINED = "drained, still mounted\n"


def aborted(out: str) -> bool:
    """Whether all three readers were told that the connection has ended.

    ENOTCONN comes to those that the kernel lets ask once more, or that had not asked yet.
    """
    *codes, count = map(int, out.split())
    return count == 3 and set(codes) <= {errno.ECONNABORTED, errno.ENOTCONN}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("way", [(), ("--direct",)], ids=["buffered", "direct"])
def test_a_signal_ends_it_while_reads_wait(mounter: Mounter, number: signal.Signals, way: tuple[str, ...]) -> None:
    """Readers get ECONNABORTED, the process ends with 0, nothing is mounted, all at once."""
    served = mounter("missing", *way)
    with readers(served, 3) as process:
        began = time.monotonic()
        served.process.send_signal(number)
        assert served.end() == (0, DRAINED)
        out, _ = process.communicate(timeout=SECONDS)
        assert time.monotonic() - began < 5
    assert aborted(out)
    assert not served.mounted
    assert os.listdir(served.point) == []


def test_the_users_umount_ends_it(mounter: Mounter) -> None:
    """A plain umount of an unused mount ends the process."""
    served = mounter("standard")
    assert (served.point / "empty").exists()
    shell(f"umount '{served.point}'", Path("/"))
    code, out = served.end()
    assert (code, out.startswith("drained")) == (0, True)


def test_a_lazy_umount_ends_it_while_reads_wait(mounter: Mounter) -> None:
    """umount -l would leave readers blocked and the process running; ours ends all."""
    served = mounter("missing")
    with readers(served, 3) as process:
        began = time.monotonic()
        shell(f"umount -l '{served.point}'", Path("/"))
        code, _ = served.end()
        out, _ = process.communicate(timeout=SECONDS)
        assert time.monotonic() - began < 5
    assert code == 0
    assert aborted(out)


def test_a_forced_umount_ends_it_while_reads_wait(mounter: Mounter) -> None:
    """umount -f cuts the connection and says busy; the process ends and takes the dead mount away."""
    served = mounter("missing")
    with readers(served, 3):
        subprocess.run(["umount", "-f", str(served.point)], capture_output=True, timeout=SECONDS, check=False)
        code, _ = served.end()
    assert code == 0
    assert not served.mounted


def test_an_abort_through_fusectl_ends_it(mounter: Mounter) -> None:
    """The same for the administrator's way, which pyfuse3 does not unmount after."""
    served = mounter("missing")
    assert served.device is not None
    with readers(served, 3), FuseConnection(served.device) as connection:
        connection.abort()
        code, _ = served.end()
    assert code == 0
    assert not served.mounted


def test_unmount_of_an_unused_mount_is_plain(standard: Served) -> None:
    """The first way works, and the process ends."""
    assert mountpoints.unmount(str(standard.point)) is Unmounted.PLAIN
    assert standard.end()[0] == 0


def test_unmount_of_a_used_mount_is_lazy(mounter: Mounter) -> None:
    """Blocked readers and open files are no obstacle; they end with errors."""
    served = mounter("missing")
    held = os.open(served.point / "local.bin", os.O_RDONLY)
    try:
        with readers(served, 3) as process:
            assert mountpoints.unmount(str(served.point)) is Unmounted.LAZY
            assert served.end()[0] == 0
            out, _ = process.communicate(timeout=SECONDS)
        assert aborted(out)
    finally:
        os.close(held)
    assert not served.mounted


def test_unmount_of_a_stuck_process_cuts_the_connection(mounter: Mounter) -> None:
    """A server that does not react is got rid of all the same, and its readers with it."""
    served = mounter("missing")
    with readers(served, 3) as process:
        served.process.send_signal(signal.SIGSTOP)
        assert mountpoints.unmount(str(served.point), grace=0.2) is Unmounted.ABORTED
        out, _ = process.communicate(timeout=SECONDS)
        assert aborted(out)
        assert not served.mounted
        served.process.send_signal(signal.SIGCONT)
        assert served.end()[0] == 0


@pytest.mark.parametrize("way", ["plain", "lazy", "abort"])
def test_the_command_says_which_way_worked(mounter: Mounter, way: str) -> None:
    """``datfs umount`` of a mount that nobody uses, of one that is used, and of one whose process hangs."""
    served = mounter("missing")
    said = {"plain": ": unmounted\n", "lazy": ": unmounted lazily", "abort": "its connection was aborted"}
    with readers(served, 0 if way == "plain" else 2):
        if way == "abort":
            served.process.send_signal(signal.SIGSTOP)
        ended = datfs("umount", served.point)
        served.process.send_signal(signal.SIGCONT)
    assert (ended.returncode, ended.stdout) == (0, "")
    assert said[way] in ended.stderr
    assert served.end()[0] == 0
    assert not served.mounted


def test_a_hung_mount_is_unmounted_unseen(mounter: Mounter) -> None:
    """Nothing looks at the directory on the way, which would wait for the process that hangs."""
    served = mounter("missing")
    served.process.send_signal(signal.SIGSTOP)
    ended = datfs("umount", served.point)
    served.process.send_signal(signal.SIGCONT)
    assert (ended.returncode, ended.stdout) == (0, "")
    assert served.end()[0] == 0
    assert not served.mounted


def test_a_killed_process_leaves_errors_not_an_empty_folder(mounter: Mounter) -> None:
    """After kill -9 the mount answers ENOTCONN, is recognised, and is cleared by the next mount on the place."""
    served = mounter("standard")
    served.expect_trouble = True
    served.process.kill()
    served.end()
    with pytest.raises(OSError) as caught:
        os.listdir(served.point)
    assert caught.value.errno == errno.ENOTCONN
    again = mounter("standard", point=served.point)
    again.expect_trouble = True
    assert (again.point / "one byte").read_bytes() == b"x"
    assert "clearing the mount that an earlier datfs left behind" in again.log()
    again.process.send_signal(signal.SIGTERM)
    assert again.end() == (0, DRAINED)
    assert os.listdir(served.point) == []


def test_a_dead_mount_can_be_unmounted_and_cleared(mounter: Mounter) -> None:
    """Both unmount and clear_dead take a corpse away; a second time there is nothing to clear."""
    for clear in (mountpoints.unmount, mountpoints.clear_dead):
        served = mounter("standard")
        served.expect_trouble = True
        served.process.kill()
        served.end()
        assert clear(str(served.point))
        assert not served.mounted
        assert not mountpoints.clear_dead(str(served.point))


def test_a_bug_in_another_task_does_not_unmount(mounter: Mounter) -> None:
    """The mount then answers errors; as an empty folder it would make a mirror job delete its copy."""
    served = mounter("missing")
    served.expect_trouble = True
    with readers(served, 3) as process:
        assert served.process.stdin is not None
        served.process.stdin.write(b"crash\n")
        served.process.stdin.flush()
        code, _ = served.end()
        out, _ = process.communicate(timeout=SECONDS)
    assert code == 1
    assert "ZeroDivisionError: a bug in another task" in served.log()
    assert aborted(out)
    assert served.mounted
    with pytest.raises(OSError) as caught:
        os.listdir(served.point)
    assert caught.value.errno == errno.ENOTCONN


def failed(served: Served) -> str:
    """What a server said that could not mount."""
    assert not served.ready
    served.expect_trouble = True
    assert served.end() == (8, "")
    return served.log()


def test_a_second_mount_on_the_same_place_is_refused(mounter: Mounter) -> None:
    """The first one goes on."""
    first = mounter("standard")
    message = failed(mounter("missing", point=first.point))
    assert "MountError" in message
    assert "already mounted (dat, fuse.datfs)" in message
    assert (first.point / "one byte").read_bytes() == b"x"


def test_unfit_mount_points_leave_nothing(mounter: Mounter, tmp_path: Path) -> None:
    """Absent or not empty: a message, exit code, no mount."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("x")
    assert "does not exist" in failed(mounter("standard", point=tmp_path / "none"))
    assert "not empty" in failed(mounter("standard", point=tmp_path / "full"))
    assert mountpoints.mount_at(str(tmp_path / "full")) is None


def test_the_background_mount_answers_when_the_command_returns(tmp_path: Path) -> None:
    """Exit code 0 means that ls works; the process lives on until the mount is taken away."""
    point = tmp_path / "point"
    point.mkdir()
    command = [sys.executable, "-m", "tests.fuse.server", "standard", str(point), "--background"]
    try:
        done = subprocess.run(command, capture_output=True, cwd=ROOT, timeout=SECONDS, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
        mount = mountpoints.mount_at(str(point))
        assert mount is not None
        assert "read me.txt" in os.listdir(point)
        again = subprocess.run(command, capture_output=True, cwd=ROOT, timeout=SECONDS, check=False)
        assert again.returncode == 8
        assert b"already mounted" in again.stderr
        with FuseConnection(mount.device) as connection:
            assert mountpoints.unmount(str(point)) is Unmounted.PLAIN
            wait_until(lambda: connection.waiting == 0, "the connection ends")
    finally:
        if mountpoints.mount_at(str(point)) is not None:
            mountpoints.unmount(str(point))
