"""All drives below one directory, through the kernel: opened on demand, followed, closed, and gone at the end."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from datfs import mountpoints
from tests.growing_drive import growing_drive
from tests.interop.datfs_side import DATFS, SECONDS, Mounted, clear, datfs, datfs_json, serving, wait_until

AT_ONCE = 10.0  # of a minute that the reader could wait

pytestmark = pytest.mark.fuse


@contextmanager
def automounted(point: Path, *arguments: object, spelling: tuple[str, ...] = ("automount",)) -> Iterator[Mounted]:
    """A root of all drives in the foreground, with its cache beside it; ended with SIGTERM, nothing may be left."""
    options = ("--foreground", "--cache-dir", point.parent / "cache", *arguments)
    command = [*DATFS, *spelling, str(point), *map(str, options)]
    log = point.parent / "log"
    with log.open("w+b") as said, serving(command, point, said, "mounted all drives") as mount:
        yield mount


def why_not(path: Path) -> int | None:
    """The errno with which a path cannot be looked up."""
    with pytest.raises(OSError) as caught:
        os.stat(path)
    return caught.value.errno


def test_drives_appear_and_follow(tmp_path: Path) -> None:
    """Two drives and an old version side by side, each live, listed once they were walked into; all is let go."""
    point = tmp_path / "point"
    with (
        growing_drive(1, "put a.txt one", "put d/b.txt two") as first,
        growing_drive(2, "put a.txt other") as second,
        automounted(point, "--peer", first.address, "--peer", second.address) as mount,
    ):
        keys = [drive.link.removeprefix("dat://") for drive in (first, second)]
        assert os.listdir(point) == []
        assert (point / keys[0] / "a.txt").read_text() == "one"
        assert (point / keys[1] / "a.txt").read_text() == "other"
        assert os.listdir(point / f"{keys[0]}+1") == ["a.txt"]
        assert sorted(os.listdir(point)) == sorted([*keys, f"{keys[0]}+1"])
        inodes = {os.stat(point / name / "a.txt").st_ino for name in (*keys, f"{keys[0]}+1")}
        assert len(inodes) == 3
        assert os.getxattr(point / keys[1], "user.dat.key") == keys[1].encode()
        assert os.statvfs(point).f_files == 3
        assert not (point / keys[1] / "new.txt").exists()
        second.tell("put new.txt news")
        wait_until(lambda: (point / keys[1] / "new.txt").exists(), "the new version")
        assert (point / keys[1] / ".dat/versions/2/new.txt").read_text() == "news"
        assert not (point / keys[0] / "new.txt").exists()
        mount.run(f"diff -r {keys[0]}/.dat/versions/2 {keys[0]}")
    assert os.listdir(point) == []
    with automounted(point, "--offline", spelling=("mount", "--root")):
        assert (point / keys[0] / "a.txt").read_text() == "one"
        assert why_not(point / ("ab" * 32)) == errno.EHOSTUNREACH


def test_names_that_are_no_drives(tmp_path: Path) -> None:
    """ENOENT at once for what is no key, a hint for one that is nearly, and an error in time for one nobody has."""
    point = tmp_path / "point"
    with (
        growing_drive(1, "put a.txt one") as drive,
        automounted(point, "--peer", drive.address, "--timeout", "3") as mount,
    ):
        key = drive.link.removeprefix("dat://")
        for name in ("x", ".hidden", "autorun.inf", "ab" * 31):
            assert why_not(point / name) == errno.ENOENT
        os.stat(point / key)
        wrong = key[:-1] + ("0" if key[-1] != "0" else "1")
        assert why_not(point / wrong) == errno.ENOENT
        wait_until(
            lambda: f"{wrong}: no drive with this key is known; did you mean {key}" in mount.stderr(), "the hint"
        )
        assert key.encode() in os.getxattr(point, "user.dat.problem")
        assert why_not(point / ("ab" * 32)) in (errno.EHOSTUNREACH, errno.ETIMEDOUT)
        with pytest.raises(OSError) as caught:
            (point / "new").mkdir()
        assert caught.value.errno == errno.EROFS


def test_what_other_programs_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """status has each open drive once, mounts their number; why answers for a file; SIGUSR1 writes to the log."""
    runtime = tmp_path / "run"
    runtime.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    point = tmp_path / "point"
    with (
        growing_drive(1, "put a.txt one") as first,
        growing_drive(2, "put a.txt other", "put b.txt more") as second,
        automounted(point, "--peer", first.address, "--peer", second.address) as mount,
    ):
        assert datfs("status", point).stdout == b"no drive is open here\n"
        keys = [drive.link.removeprefix("dat://") for drive in (first, second)]
        for key in keys:
            os.stat(point / key)
        links = {first.link, second.link}
        assert {facts["link"] for facts in datfs_json("status", point)} == links
        everywhere = [facts["link"] for facts in datfs_json("status", "--cache-dir", tmp_path / "cache")]
        assert [everywhere.count(link) for link in links] == [1, 1]
        assert f"{point}  all drives, 2 of them open" in datfs("mounts").stdout.decode()
        (listed,) = [one for one in datfs_json("mounts") if one["mountpoint"] == str(point)]
        assert (listed["state"], listed["link"], listed["pid"]) == ("alive", None, mount.process.pid)
        (found,) = datfs_json("why", point / keys[1] / "b.txt")
        assert found["missing"] == [[1, 2]]
        assert b"what is needed to look it up is here" in datfs("why", point / keys[1]).stdout
        mount.process.send_signal(signal.SIGUSR1)
        wait_until(
            lambda: "status\nall drives on" in mount.stderr() and first.link in mount.stderr(), "the status in the log"
        )


def test_idle_drives_go_and_come_back(tmp_path: Path) -> None:
    """After the time of --idle nothing is listed and the cache is free; an open file keeps its drive."""
    point = tmp_path / "point"
    with (
        growing_drive(1, "put a.txt one") as first,
        growing_drive(2, "put a.txt other") as second,
        automounted(point, "--peer", first.address, "--peer", second.address, "--idle", "0.01") as mount,
    ):
        keys = [drive.link.removeprefix("dat://") for drive in (first, second)]
        with (point / keys[0] / "a.txt").open() as opened:
            assert (point / keys[1] / "a.txt").read_text() == "other"
            wait_until(lambda: os.listdir(point) == [keys[0]], "the second has gone")
            time.sleep(0.5)
            assert opened.read() == "one"
            assert os.listdir(point) == [keys[0]]
        wait_until(lambda: os.listdir(point) == [], "both have gone")
        shown = datfs("ls", "-l", first.link, "--offline", "--cache-dir", tmp_path / "cache")
        assert (shown.returncode, shown.stderr) == (0, b"")
        first.tell("put later.txt more")
        wait_until(lambda: (point / keys[0] / "later.txt").exists(), "opened anew")
        assert mount.run(f"cd {keys[1]} && cat a.txt") == b"other"


def test_in_the_background_and_beside_another_mount(tmp_path: Path) -> None:
    """Started as a person would; a drive whose cache another mount has is shown all the same; umount ends it."""
    point, cache = tmp_path / "point", tmp_path / "cache"
    point.mkdir()
    with growing_drive(1, "put a.txt one") as drive:
        common = ("--peer", drive.address, "--cache-dir", cache)
        other = tmp_path / "other"
        other.mkdir()
        try:
            assert datfs("mount", drive.link, other, *common).returncode == 0
            done = datfs("automount", point, *common)
            assert done.returncode == 0, done.stderr
            assert (point / drive.link.removeprefix("dat://") / "a.txt").read_text() == "one"
            assert datfs("umount", point).returncode == 0
            assert mountpoints.mount_at(str(point)) is None
        finally:
            clear(point)
            clear(other)


def test_it_ends_while_readers_wait(tmp_path: Path) -> None:
    """A drive is being opened whose peer is silent; SIGTERM ends the reader and the mount at once."""
    point = tmp_path / "point"
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        automounted(point, "--timeout", "60", "--peer", f"127.0.0.1:{silent.getsockname()[1]}") as mount,
    ):
        reader = subprocess.Popen(["stat", str(point / ("ab" * 32))], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        connection, _ = silent.accept()
        with connection:
            time.sleep(0.3)
            assert reader.poll() is None
            began = time.monotonic()
            assert mount.end() == 0
            reader.communicate(timeout=SECONDS)
            assert reader.returncode == 1
            assert time.monotonic() - began < AT_ONCE


@pytest.mark.parametrize(
    "words",
    [
        ("mount", "--root", "x", "y"),
        ("mount", "--root", "x", "--version", "1"),
        ("mount", "--root", "x", "--pin-version"),
        ("automount", "x", "--version", "1"),
        ("automount",),
        ("mount",),
    ],
    ids=" ".join,
)
def test_usage(words: tuple[str, ...]) -> None:
    """What makes no sense is refused as a usage error."""
    assert datfs(*words).returncode in (2, 7)
