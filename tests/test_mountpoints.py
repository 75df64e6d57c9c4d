"""Mount points without mounting: the mount table, and what is refused before anything is mounted."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from datfs import mountpoints
from datfs.errors import MountError
from datfs.mountpoints import Mount, parse_mountinfo

TABLE = rb"""22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 shared:7 - ext3 /dev/root rw,errors=continue
41 22 0:53 / /home/me/my\040drive\134x ro,nosuid - fuse.datfs dat://71120c ro,user_id=0
42 41 0:54 / /home/me/my\040drive\134x ro,nosuid - fuse.sshfs host: rw
43 22 0:55 / /odd rw
bad line - x y
44 22 a:b / /odd rw - x y
"""


def test_the_mount_table() -> None:
    """Devices, escaped points, types, sources, any number of optional fields; odd lines are left out."""
    assert parse_mountinfo(TABLE) == [
        Mount((254, 1), "/", "ext4", "/dev/vda1"),
        Mount((98, 0), "/mnt2", "ext3", "/dev/root"),
        Mount((0, 53), "/home/me/my drive\\x", "fuse.datfs", "dat://71120c"),
        Mount((0, 54), "/home/me/my drive\\x", "fuse.sshfs", "host:"),
    ]


def test_names_that_are_not_utf8_survive() -> None:
    """A mount point is bytes to the kernel; it comes back as Python names such files."""
    mounts = parse_mountinfo(b"1 1 0:5 / /\xff\\012 rw - fuse.datfs dat ro\n")
    assert os.fsencode(mounts[0].point) == b"/\xff\n"


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts one mount more into the mount table that is read."""

    def put(point: Path, kind: str, device: str = "0:999") -> None:
        text = Path("/proc/self/mountinfo").read_text()
        file = tmp_path / "mountinfo"
        file.write_text(text + f"999 1 {device} / {point} ro - {kind} somebody ro\n")
        monkeypatch.setattr(mountpoints, "MOUNTINFO", str(file))

    return put


def test_of_two_mounts_the_upper_one_counts(table: Callable[..., None]) -> None:
    """The later line lies on top; nothing is mounted where no line says so."""
    table(Path("/proc"), "fuse.x")
    top = mountpoints.mount_at("/proc")
    assert top is not None
    assert top.type == "fuse.x"
    assert mountpoints.mount_at("/proc/none") is None
    assert mountpoints.is_mounted((0, 999))
    assert not mountpoints.is_mounted((0, 998))


def test_an_empty_directory_will_do(tmp_path: Path) -> None:
    """An empty directory is accepted, relative and through links too, and returned absolute."""
    point = tmp_path / "point"
    point.mkdir()
    (tmp_path / "link").symlink_to(point)
    assert mountpoints.prepare(str(point)) == str(point)
    assert mountpoints.prepare(str(tmp_path / "link") + "/") == str(point)
    assert mountpoints.prepare(os.path.relpath(point)) == str(point)


def test_what_is_mounted_is_not_looked_at(
    tmp_path: Path, table: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mount that hangs would hold up who does, also where a link leads to it, or a link to a link."""
    point = tmp_path / "deep" / "point"
    point.mkdir(parents=True)
    (tmp_path / "link").symlink_to("deep/point")
    (tmp_path / "deep" / "up").symlink_to("../link")
    (tmp_path / "loop").symlink_to("loop")
    table(point, "fuse.x")
    real = os.lstat

    def look(path: str, *arguments: object, **more: object) -> os.stat_result:
        assert os.fspath(path) != str(point)
        return real(path)

    monkeypatch.setattr(os, "lstat", look)
    monkeypatch.setattr(os, "stat", look)
    for name in ("deep/point", "link", "deep/up", "deep/../deep/point/", "./link"):
        assert mountpoints.resolve(os.path.join(tmp_path, name)) == str(point)
    assert mountpoints.resolve(str(tmp_path / "loop")) == str(tmp_path / "loop")
    assert mountpoints.resolve(str(tmp_path / "deep/..")) == str(tmp_path)
    assert mountpoints.resolve("/") == "/"


def refusal(path: Path) -> str:
    with pytest.raises(MountError) as caught:
        mountpoints.prepare(str(path))
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_unfit_mount_points_are_refused_with_advice(tmp_path: Path) -> None:
    """Absent, not a directory, under a file, not empty: each message says what it is and what to do."""
    (tmp_path / "file").write_text("x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("x")
    assert "does not exist" in refusal(tmp_path / "none")
    assert "mkdir -p" in refusal(tmp_path / "none")
    assert "not a directory" in refusal(tmp_path / "file")
    assert "not a directory" in refusal(tmp_path / "file" / "x")
    assert "not empty" in refusal(tmp_path / "full")


@pytest.fixture
def locked() -> Iterator[tuple[Path, Path]]:
    """Two empty directories without the right to write, and without any."""
    with tempfile.TemporaryDirectory(dir="/tmp") as one, tempfile.TemporaryDirectory(dir="/tmp") as other:
        Path(one).chmod(0o555)
        Path(other).chmod(0)
        yield Path(one), Path(other)


@pytest.fixture
def nobody() -> Iterator[None]:
    """Runs the test as a user without rights, if it is run by root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_without_permission(locked: tuple[Path, Path], nobody: None) -> None:
    """A directory of somebody else is refused, whether it can be read or not."""
    for point in locked:
        assert "no permission to mount" in refusal(point)


def test_a_live_mount_is_refused_without_touching_it(tmp_path: Path, table: Callable[..., None]) -> None:
    """Another FUSE file system on the place is named, with the command that ends it."""
    table(tmp_path, "fuse.sshfs")
    message = refusal(tmp_path)
    assert "already mounted (somebody, fuse.sshfs)" in message
    assert f"umount {tmp_path}" in message


def test_our_own_live_mount_is_refused(tmp_path: Path, table: Callable[..., None]) -> None:
    """A mount of ours that answers is not cleared."""
    table(tmp_path, "fuse.datfs")
    assert f"datfs umount {tmp_path}" in refusal(tmp_path)
    assert not mountpoints.clear_dead(str(tmp_path))


def test_unmounting_what_is_not_mounted(tmp_path: Path, table: Callable[..., None]) -> None:
    """Nothing mounted, and something of others, are two different messages; neither is touched."""
    with pytest.raises(MountError, match="nothing is mounted"):
        mountpoints.unmount(str(tmp_path))
    table(tmp_path, "fuse.sshfs")
    with pytest.raises(MountError, match=r"not mounted by datfs.*fuse\.sshfs"):
        mountpoints.unmount(str(tmp_path))


def test_folders_of_ours_must_not_lie_inside(tmp_path: Path) -> None:
    """A cache under the mount point would make the process wait for itself; a neighbour is fine."""
    point = tmp_path / "point"
    (point / "cache").mkdir(parents=True)
    (tmp_path / "link").symlink_to(point)
    for inside in (point, point / "cache", tmp_path / "link" / "cache", point / "not" / "yet"):
        with pytest.raises(MountError, match="the cache"):
            mountpoints.refuse_inside(str(inside), str(point), "the cache")
    mountpoints.refuse_inside(str(tmp_path / "point2"), str(point), "the cache")
    mountpoints.refuse_inside(str(tmp_path), str(point), "the cache")


def test_a_machine_without_fuse(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No device, or no helper for users, is said with what to do."""
    monkeypatch.setattr(mountpoints, "FUSE_DEVICE", str(tmp_path / "fuse"))
    with pytest.raises(MountError, match="modprobe fuse"):
        mountpoints.check_device()
    (tmp_path / "fuse").write_text("")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MountError, match="apt-get install fuse3"):
        mountpoints.check_device()


def test_a_device_for_root_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nobody: None) -> None:
    """Other users are told what to do, as libfuse opens the device before it has fusermount3 mount."""
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(mountpoints, "FUSE_DEVICE", "/proc/1/mem")
    with pytest.raises(MountError, match=r"cannot be opened \(Permission denied\); as root: chmod 666 /proc/1/mem"):
        mountpoints.check_device()
