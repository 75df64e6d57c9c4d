"""Names and attributes through the kernel."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import time
from pathlib import Path

import pytest

from datfs import mountpoints
from tests.fuse.conftest import SECONDS, Mounter, Served, shell
from tests.fuse.trees import MANY
from tests.memory_tree import MTIME_NS

pytestmark = pytest.mark.fuse


def test_the_whole_tree_is_there(standard: Served) -> None:
    """Every file and folder, with size, permissions, time and owner, and nothing else."""
    top = os.fsencode(standard.point)
    found: set[tuple[bytes, ...]] = set()
    for folder, folders, files in os.walk(top):
        for name in folders + files:
            path = os.path.join(folder, name)
            parts = tuple(os.path.relpath(path, top).split(b"/"))
            found.add(parts)
            info = os.lstat(path)
            assert (info.st_uid, info.st_gid) == (os.getuid(), os.getgid())
            assert info.st_mtime_ns == MTIME_NS
            assert info.st_blksize == 65536
            if file := standard.tree.files.get(parts):
                assert stat.S_ISREG(info.st_mode)
                assert stat.S_IMODE(info.st_mode) == file.permissions & 0o555
                assert info.st_size == len(file.content)
                assert info.st_blocks == -(-info.st_size // 512)
    assert found == set(standard.tree.files) | set(standard.tree.directories) - {()}


def test_inode_numbers_are_stable_and_distinct(standard: Served) -> None:
    """One listing has no two equal numbers, which would be hard links, and the next one has the same."""

    def numbers() -> dict[str, int]:
        return {
            os.path.join(folder, name): os.lstat(os.path.join(folder, name)).st_ino
            for folder, folders, files in os.walk(standard.point)
            for name in folders + files
        }

    first = numbers()
    assert len(set(first.values())) == len(first)
    assert numbers() == first
    with os.scandir(standard.point) as entries:
        assert all(entry.inode() == first[entry.path] for entry in entries)


def test_listings_have_themselves_and_their_parents(standard: Served) -> None:
    """``ls -a`` shows . and .., with the numbers that stat tells; in the root .. leads out of the mount."""
    for path in ("docs", "docs/old/deeper"):
        folder = standard.point / path
        lines = subprocess.run(["ls", "-1aiU", folder], capture_output=True, text=True, timeout=SECONDS, check=True)
        numbers = {name: int(number) for number, name in map(str.split, lines.stdout.splitlines())}
        assert list(numbers)[:2] == [".", ".."]
        assert numbers["."] == folder.stat().st_ino
        assert numbers[".."] == folder.parent.stat().st_ino
    listed = subprocess.run(["ls", "-1a", standard.point], capture_output=True, text=True, timeout=SECONDS, check=True)
    assert listed.stdout.splitlines()[:2] == [".", ".."]
    assert os.stat(standard.point / "..").st_ino == standard.point.parent.stat().st_ino


def test_the_mount_says_what_it_is(standard: Served) -> None:
    """Read-only, of our type, with the name that was given; statfs answers."""
    mount = mountpoints.mount_at(str(standard.point))
    assert mount is not None
    assert (mount.type, mount.source) == ("fuse.datfs", "dat")
    info = os.statvfs(standard.point)
    assert info.f_flag & os.ST_RDONLY
    assert info.f_blocks * info.f_frsize >= sum(len(file.content) for file in standard.tree.files.values())
    assert (info.f_bfree, info.f_namemax) == (0, 255)


def test_names_that_are_not_there(standard: Served) -> None:
    """ENOENT, again and again, ENOTDIR through a file, ENAMETOOLONG, on names of any bytes."""
    for _ in range(3):
        assert not (standard.point / "nothing").exists()
    with pytest.raises(FileNotFoundError):
        os.stat(os.fsencode(standard.point) + b"/\xfe\xff")
    with pytest.raises(NotADirectoryError):
        os.stat(standard.point / "read me.txt" / "x")
    with pytest.raises(OSError) as caught:
        os.stat(standard.point / ("x" * 300))
    assert caught.value.errno == errno.ENAMETOOLONG


def test_every_change_is_refused(standard: Served) -> None:
    """EROFS for whatever would change something."""
    file, new = standard.point / "read me.txt", standard.point / "new"
    for change in (
        lambda: file.open("r+b").close(),
        lambda: new.write_bytes(b"x"),
        lambda: new.mkdir(),
        lambda: new.symlink_to(file),
        lambda: os.link(file, new),
        lambda: file.unlink(),
        lambda: (standard.point / "no folder here").rmdir(),
        lambda: file.rename(new),
        lambda: file.chmod(0o777),
        lambda: os.utime(file),
        lambda: os.truncate(file, 0),
        lambda: os.mkfifo(new),
        lambda: os.setxattr(file, "user.x", b"x"),
    ):
        with pytest.raises(OSError) as caught:
            change()
        assert caught.value.errno == errno.EROFS
    assert file.read_bytes() == b"first line\nsecond line with a needle\n"


def test_extended_attributes(standard: Served) -> None:
    """What the tree tells of an entry; ENODATA for other names of users, EOPNOTSUPP for ACLs and labels."""
    file = standard.point / "one byte"
    assert os.getxattr(file, "user.test.size") == b"1"
    assert os.listxattr(file) == ["user.test.size"]
    for name, code in [
        ("user.other", errno.ENODATA),
        ("security.selinux", errno.EOPNOTSUPP),
        ("system.posix_acl_access", errno.EOPNOTSUPP),
    ]:
        with pytest.raises(OSError) as caught:
            os.getxattr(file, name)
        assert caught.value.errno == code


def test_extended_attributes_can_be_hidden(mounter: Mounter) -> None:
    """With noxattrs there are none, and asking for one says that they are not supported."""
    file = mounter("standard", "--options", "noxattrs").point / "one byte"
    assert os.listxattr(file) == []
    with pytest.raises(OSError) as caught:
        os.getxattr(file, "user.test.size")
    assert caught.value.errno == errno.EOPNOTSUPP


def test_ten_thousand_entries(mounter: Mounter) -> None:
    """Each name once, attributes with the listing, in a time that leaves no room for a request per name."""
    served = mounter("many")
    folder = served.point / "many"
    began = time.monotonic()
    with os.scandir(folder) as entries:
        sizes = {entry.name: entry.stat().st_size for entry in entries}
    took = time.monotonic() - began
    assert sizes == {f"file {number:05}.txt": len(b"%d\n" % number) for number in range(MANY)}
    assert took < 5
    assert sorted(os.listdir(folder)) == sorted(sizes)
    assert (folder / "file 09999.txt").read_bytes() == b"9999\n"
    # ls also asks for labels and ACLs, and must be told at the first file that there are none.
    began = time.monotonic()
    assert shell("ls -l | wc -l", folder).stdout == b"%d\n" % (MANY + 1)
    assert time.monotonic() - began < 5


def test_owner_and_umask_can_be_chosen(mounter: Mounter) -> None:
    """uid=, gid=, umask= and fsname= change what is shown."""
    served = mounter("standard", "--options", "uid=12,gid=34,umask=0077,fsname=dat://ab,noexec")
    info = os.stat(served.point / "run.sh")
    assert (info.st_uid, info.st_gid, stat.S_IMODE(info.st_mode)) == (12, 34, 0o500)
    mount = mountpoints.mount_at(str(served.point))
    assert mount is not None
    assert mount.source == "dat://ab"
    assert os.statvfs(served.point).f_flag & os.ST_NOEXEC


def test_a_mount_point_with_an_odd_name(mounter: Mounter, tmp_path: Path) -> None:
    """Spaces, backslashes and line ends in the path of the mount are no trouble, from mounting to unmounting."""
    point = tmp_path / "odd \\ name\n\u00fc"
    point.mkdir()
    served = mounter("standard", point=point)
    assert (point / "empty").read_bytes() == b""
    assert served.mounted
