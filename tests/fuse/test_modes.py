"""What a drive says of permissions and sizes, as a real mount shows it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from datfs.crypto import key_pair
from datfs.fuse_control import MOUNTINFO
from datfs.storage import directory_storage
from datfs.writer import DriveWriter, chunks_of
from tests.interop.datfs_side import mounted, shared

pytestmark = pytest.mark.fuse

MODES = {"plain": 0o644, "open": 0o666, "setuid": 0o4755, "setgid": 0o2755, "sticky": 0o1777, "all": 0o7777}
SIZE = 300_000


@pytest.fixture
def drive(tmp_path: Path) -> Path:
    """A folder with a drive that has a file of each mode."""
    folder = tmp_path / "drive"
    folder.mkdir()
    writer = DriveWriter.create(directory_storage(folder), key_pair(bytes(range(32))))
    for name, mode in MODES.items():
        writer.put((name.encode(),), chunks_of(bytes(SIZE)), mtime=0, mode=mode)
    writer.close()
    return folder


def test_no_setuid_no_device_no_write_bit(drive: Path, tmp_path: Path) -> None:
    """Nine bits at most, none of them for writing; and the kernel was told the same of the mount."""
    with mounted(drive, tmp_path / "point") as mount:
        for name, mode in MODES.items():
            found = (mount.point / name).lstat().st_mode
            assert stat.S_ISREG(found)
            assert stat.S_IMODE(found) == mode & 0o555, name
        (line,) = [line for line in Path(MOUNTINFO).read_text().splitlines() if f" {mount.point} " in line]
        assert {"ro", "nosuid", "nodev"} <= set(line.split()[5].split(","))


def test_sizes_of_what_is_not_here(drive: Path, tmp_path: Path) -> None:
    """A file of which nothing is here has its size, in blocks too, and one link; ``df`` knows the size of the drive."""
    with (
        shared(drive) as (key, port),
        mounted(f"dat://{key}", tmp_path / "point", "--peer", f"127.0.0.1:{port}", "--memory") as mount,
    ):
        space = os.statvfs(mount.point)
        assert space.f_blocks * space.f_frsize >= len(MODES) * SIZE
        assert (space.f_bfree, space.f_bavail) == (0, 0)
        for name in MODES:
            found = (mount.point / name).stat()
            assert (found.st_size, found.st_nlink) == (SIZE, 1)
            assert found.st_blocks * 512 >= SIZE
            assert mount.fact("bytes_held", name) == 0
