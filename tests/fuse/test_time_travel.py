"""Old versions through the kernel: real drives, a drive that grows under a mount, content that is gone."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tests.command_line import output, shared
from tests.growing_drive import growing_drive
from tests.interop.datfs_side import Mounted, datfs, mounted, wait_until
from tests.vector_drives import DRIVES, SIMPLE_KEY

pytestmark = pytest.mark.fuse

FIRST = ("put a.txt one", "put docs/b.txt two", "put a.txt three", "delete docs/b.txt")


def listed(mount: Mounted, path: str) -> set[str]:
    """The names in a directory of the mount."""
    return set(os.listdir(mount.point / path))


def test_a_drive_that_grows(tmp_path: Path) -> None:
    """What was there stays as it was, new versions appear everywhere they should, and were not there before."""
    with (
        growing_drive(1, *FIRST) as drive,
        mounted(drive.link, tmp_path / "point", "--peer", drive.address, "--memory") as mount,
    ):
        past = mount.point / ".dat"
        assert os.listdir(mount.point) == ["a.txt"]
        assert listed(mount, ".dat") == {"at", "history", "latest", "versions"}
        assert listed(mount, ".dat/versions") == {"1", "2", "3", "4"}
        assert (past / "versions/2/a.txt").read_text() == "one"
        assert (past / "versions/3/docs/b.txt").read_text() == "two"
        assert (past / "at/2020-01-02/docs/b.txt").read_text() == "two"
        assert listed(mount, ".dat/latest") == listed(mount, ".dat/at/2099-01-01") == {"a.txt"}
        assert listed(mount, ".dat/history/docs") == {"b.txt"}
        assert not (past / "versions/5").exists()
        assert not (past / "latest/new.txt").exists()
        assert not (past / "history/new.txt").exists()
        old = os.stat(past / "versions/2/a.txt")
        with (past / "latest/a.txt").open() as opened:
            drive.tell("put new.txt four")
            wait_until(lambda: (past / "versions/5").exists(), "the new version")
            assert (past / "latest/new.txt").read_text() == "four"
            assert (past / "at/2099-01-01/new.txt").read_text() == "four"
            assert (past / "versions/5/new.txt").read_text() == (mount.point / "new.txt").read_text() == "four"
            assert os.listdir(past / "history/new.txt") == ["000005-2020-01-05T00.00.00Z.txt"]
            assert opened.read() == "three"
        assert not (past / "versions/4/new.txt").exists()
        assert os.stat(past / "versions/2/a.txt").st_ino == old.st_ino == os.stat(past / "versions/1/a.txt").st_ino
        assert listed(mount, ".dat/versions") == {"1", "2", "3", "4", "5"}


def test_a_pinned_mount_has_a_past_that_grows(tmp_path: Path) -> None:
    """The mount of an old version stays; below .dat the newest appears."""
    with (
        growing_drive(1, *FIRST) as drive,
        mounted(f"{drive.link}+2", tmp_path / "point", "--peer", drive.address, "--memory") as mount,
    ):
        wait_until(lambda: (mount.point / ".dat/versions/4").exists(), "all versions")
        drive.tell("put new.txt four")
        wait_until(lambda: (mount.point / ".dat/latest/new.txt").exists(), "the new version")
        assert listed(mount, "") == {"a.txt", "docs"}
        assert (mount.point / "a.txt").read_text() == "one"


def test_tools_work_with_the_past(tmp_path: Path) -> None:
    """diff -r reads only what differs, cp, find and du come through, names of versions sort."""
    with mounted(DRIVES / "history", tmp_path / "point") as mount:
        done = mount.try_run("diff -rq .dat/versions/4 .dat/versions/9")
        assert done.stdout.decode().splitlines() == [
            "Files .dat/versions/4/b.txt and .dat/versions/9/b.txt differ",
            "Only in .dat/versions/4/dir: c.txt",
            "Only in .dat/versions/9/dir: sub",
        ]
        assert mount.run("find . -name a.txt") == b"./a.txt\n"
        assert len(mount.run("find .dat/history -type f").splitlines()) == 9
        assert mount.run("cat .dat/history/b.txt/*") == b"b, first\nb, back again\n"
        mount.run(f"cp -r .dat/versions/9 {tmp_path}/copy && diff -r .dat/versions/9 {tmp_path}/copy")
        assert mount.run("cd .dat/versions/9/dir && cd ../../8 && pwd").endswith(b"/.dat/versions/8\n")


def test_content_that_nobody_has(tmp_path: Path) -> None:
    """ENODATA at once for what no peer has any more, told by the attribute before; the rest is read."""
    point = tmp_path / "point"
    with (
        shared(DRIVES / "history-dat") as (_, address, _process),
        mounted(SIMPLE_KEY, point, "--peer", address, "--memory", "--timeout", "15") as mount,
    ):
        file = point / ".dat/versions/1/a.txt"
        wait_until(lambda: os.getxattr(file, "user.dat.availability") == b"gone", "the peer has told")
        with pytest.raises(OSError) as caught:
            file.read_bytes()
        assert caught.value.errno == errno.ENODATA
        said = output("why", file)
        assert "the content of this version" in said
        assert "nobody who can be asked has anything of it" in said
        assert "fetched when" not in said
        kept = point / ".dat/versions/9/b.txt"
        assert os.getxattr(kept, "user.dat.availability") == b"peers"
        assert kept.read_bytes() == b"b, back again\n"
        assert os.getxattr(kept, "user.dat.availability") == b"here"
        assert mount.fact("chunks_held", ".dat/versions/9/b.txt") == 1


def test_an_old_version_that_is_mounted(tmp_path: Path) -> None:
    """The same where the mount itself shows an old version, and of ``datfs cat LINK+N``: told, not waited for."""
    with shared(DRIVES / "history-dat") as (_, address, _process):
        more = ("--peer", address, "--memory", "--timeout", "3600")
        with mounted(f"dat://{SIMPLE_KEY}+1", tmp_path / "point", *more) as mount:
            with pytest.raises(OSError) as caught:
                (mount.point / "a.txt").read_bytes()
            assert caught.value.errno == errno.ENODATA
        done = datfs("cat", f"dat://{SIMPLE_KEY}+1/a.txt", *more)
        assert (done.returncode, done.stdout) == (5, b"")


def test_content_that_goes_while_mounted(tmp_path: Path) -> None:
    """When the last peer drops it, an old version that was not read is gone; a folder alone says so, too."""
    point = tmp_path / "point"
    with (
        growing_drive(1, *FIRST) as drive,
        mounted(drive.link, point, "--peer", drive.address, "--memory", "--timeout", "15"),
    ):
        first, second = point / ".dat/versions/1/a.txt", point / ".dat/versions/2/docs/b.txt"
        wait_until(lambda: os.getxattr(first, "user.dat.availability") == b"peers", "the peer has told")
        assert first.read_text() == "one"
        drive.tell("clear 0 2")
        wait_until(lambda: os.getxattr(second, "user.dat.availability") == b"gone", "the peer has told anew")
        with pytest.raises(OSError) as caught:
            second.read_bytes()
        assert caught.value.errno == errno.ENODATA
        assert first.read_text() == "one"
    with mounted(DRIVES / "history-dat", point):
        with pytest.raises(OSError) as caught:
            (point / ".dat/versions/1/a.txt").read_bytes()
        assert caught.value.errno == errno.ENODATA


def test_attributes_of_what_is_here(tmp_path: Path) -> None:
    """On files what is here, on directories what they are of; --no-xattrs hides all."""
    point = tmp_path / "point"
    with mounted(DRIVES / "simple", point):
        found = {name: os.getxattr(point / "hello.txt", name).decode() for name in os.listxattr(point / "hello.txt")}
        assert found == {
            "user.dat.key": SIMPLE_KEY,
            "user.dat.version": "5",
            "user.dat.seq": "1",
            "user.dat.chunk_first": "0",
            "user.dat.chunks": "1",
            "user.dat.chunks_held": "1",
            "user.dat.bytes_held": "12",
            "user.dat.peers_with_all": "0",
            "user.dat.availability": "here",
            "user.dat.sha256": "a948904f2f0f479b8f8197694b30184b0d2ed1c1cd2a1ec0fb85d299a192a447",
        }
        assert sorted(os.listxattr(point / "docs")) == ["user.dat.key", "user.dat.seq", "user.dat.version"]
        assert os.getxattr(point, "user.dat.newest_version") == b"5"
    with mounted(DRIVES / "simple", point, "--no-xattrs"):
        assert os.listxattr(point / "hello.txt") == os.listxattr(point) == []
        with pytest.raises(OSError) as caught:
            os.getxattr(point / "hello.txt", "user.dat.key")
        assert caught.value.errno == errno.EOPNOTSUPP


def test_old_versions_on_the_command_line() -> None:
    """``LINK+N`` is the same version."""
    done = datfs("ls", DRIVES / "history", "--version", "9")
    assert done.stdout == b"a.txt\nb.txt\ndir\n"
