"""The reference serves, datfs mounts: programs see what the reference's own clone holds."""

from __future__ import annotations

import hashlib
import mmap
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio

import datfs
from tests.interop.datfs_side import Mounted, datfs_json, mounted, shell
from tests.interop.datfs_side import datfs as run_datfs
from tests.interop.plans import PLANS
from tests.interop.reference import MadeDrive, clone, fill, serve

DriveOf = Callable[[str], MadeDrive]


def contents(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder; a folder is an empty text."""
    return {
        str(at.relative_to(folder)): "" if at.is_dir() else hashlib.sha256(at.read_bytes()).hexdigest()
        for at in folder.rglob("*")
    }


# Listings that must be the same in the mount and in the clone. Folders have no time or size in common.
LISTINGS = {
    "ls -R": "ls -R",
    "find": r"find . -type f -printf '%P %s %m %n %y %T@\n' | sed -E 's/(\.[0-9]{3})[0-9]*$/\1/' | sort",
    "folders": r"find . -mindepth 1 -type d -printf '%P %m\n' | sort",
    "ls -l": "find . -type f -exec ls -ln --time-style=+%s {} + | sort",
    "sha256sum": "find . -type f -print0 | sort -z | xargs -0 -r sha256sum",
    "grep -r": "grep -rc e . | sort",
    "head": "find . -type f -print0 | sort -z | xargs -0 -r head -c 70",
    "tail": "find . -type f -print0 | sort -z | xargs -0 -r tail -c 33",
    "tar": "find . -type f -print0 | sort -z | tar -cf - --null -T - | sha256sum",
}


@pytest.mark.fuse
@pytest.mark.parametrize("name", PLANS)
def test_a_mount_is_the_reference_clone(drive_of: DriveOf, tmp_path: Path, name: str) -> None:
    """Every listing and every byte of each kind of drive, through the kernel."""
    drive = drive_of(name)
    cloned = tmp_path / "clone"
    with serve(drive.path) as peer:
        assert clone(drive.key, peer.port, out=cloned).outcome == "done"
        for at in sorted(cloned.rglob("*"), reverse=True):
            at.chmod(at.stat().st_mode & 0o555)  # a mount shows no write bits
        with mounted(drive.link, tmp_path / "mnt", "--peer", peer.address, "--memory") as mount:
            for what, command in LISTINGS.items():
                ours, theirs = mount.try_run(command), shell(command, cloned)
                assert (ours.stdout, ours.returncode, ours.stderr) == (theirs.stdout, theirs.returncode, b""), what
            assert contents(mount.point) == contents(cloned)
            mount.run(f"diff -r . '{cloned}'")
    assert set(drive.files) == {f"/{path}" for path, digest in contents(cloned).items() if digest}


@pytest.fixture(scope="module")
def simple(drive_of: DriveOf, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mounted]:
    """The simple drive, mounted once for the tests that only read it."""
    drive = drive_of("simple")
    folder = tmp_path_factory.mktemp("simple")
    with serve(drive.path) as peer, mounted(drive.link, folder / "m", "--peer", peer.address, "--memory") as mount:
        yield mount


@pytest.mark.fuse
@pytest.mark.parametrize("program", ["cp -r . {}", "cp -rp . {}", "tar -cf - . | tar -xf - -C {}", "rsync -a ./ {}/"])
def test_copies_are_whole(simple: Mounted, tmp_path: Path, program: str) -> None:
    """What copying programs take out of a mount is what is in it."""
    if program.startswith("rsync") and shutil.which("rsync") is None:
        pytest.skip("no rsync on this machine")
    simple.run(program.format(tmp_path))
    assert contents(tmp_path) == contents(simple.point)
    simple.run(f"diff -r . {tmp_path}")


@pytest.mark.fuse
def test_reads_at_odd_places(simple: Mounted) -> None:
    """dd, pread and mmap at offsets that are no multiple of anything, over chunk borders and the end."""
    expected = fill("/big.bin", 150_000)
    assert simple.run("dd if=big.bin bs=777 skip=80 count=11 status=none") == expected[777 * 80 : 777 * 91]
    assert simple.run("tail -c 65537 big.bin") == expected[-65_537:]
    with open(simple.point / "big.bin", "rb", buffering=0) as file:
        for offset, size in [(65_535, 2), (131_071, 1), (149_999, 10), (150_000, 1), (1, 149_999), (0, 0)]:
            assert os.pread(file.fileno(), size, offset) == expected[offset : offset + size]
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            assert mapped[65_000:66_000] == expected[65_000:66_000]
            assert mapped[:] == expected


@pytest.mark.fuse
def test_a_program_runs_from_the_mount(drive_of: DriveOf, tmp_path: Path) -> None:
    """The executable bit is there and the kernel runs what has it; set-uid and write bits are not shown."""
    drive = drive_of("modes")
    with (
        serve(drive.path) as peer,
        mounted(drive.link, tmp_path / "m", "--peer", peer.address, "--memory") as mount,
    ):
        assert mount.run("./script.sh here") == b"ran here\n"
        assert mount.run("stat -c %a setuid private/inside.txt read-only.txt") == b"555\n444\n444\n"


def test_every_version_of_the_history(drive_of: DriveOf) -> None:
    """Each version holds the files and bytes that the reference's checkout of it holds."""
    drive = drive_of("history")

    async def read_all(address: tuple[str, int]) -> dict[int, dict[str, str]]:
        found: dict[int, dict[str, str]] = {}
        async with datfs.open_drive(drive.link, datfs.Options(peers=[address], memory=True)) as opened:
            for version in range(opened.drive.version + 1):
                tree = await opened.drive.checkout(version)
                files = found[version] = {}
                folders = [tree.root]
                while folders:
                    for entry in await tree.list(folders.pop()):
                        if entry.kind.value == "directory":
                            folders.append(entry)
                            continue
                        file = await tree.open(entry)
                        data = await file.read(0, entry.size)
                        file.close()
                        files["/" + b"/".join(entry.path).decode()] = hashlib.sha256(data).hexdigest()
        return found

    with serve(drive.path) as peer:
        theirs = clone(drive.key, peer.port, each=True)
        ours = trio.run(read_all, (peer.host, peer.port))
    assert ours == theirs.checkouts
    assert len(ours) == drive.version + 1 == 13


@pytest.mark.fuse
@pytest.mark.parametrize("how", ["option", "link"])
def test_an_old_version_is_mounted(drive_of: DriveOf, tmp_path: Path, how: str) -> None:
    """``--version N`` and ``+N`` show the reference's version N, deleted files and old bytes included."""
    drive = drive_of("history")
    cloned = tmp_path / "clone"
    link, more = (drive.link, ["--version", "6"]) if how == "option" else (f"{drive.link}+6", [])
    with serve(drive.path) as peer:
        clone(drive.key, peer.port, version=6, out=cloned)
        with mounted(link, tmp_path / "m", "--peer", peer.address, "--memory", *more) as mount:
            assert contents(mount.point) == contents(cloned)
            assert mount.run("cat a.txt") == b"a, second, and longer\n"


@pytest.mark.fuse
def test_a_folder_of_the_drive_is_mounted(drive_of: DriveOf, tmp_path: Path) -> None:
    """A link with a path mounts that folder."""
    drive = drive_of("simple")
    with (
        serve(drive.path) as peer,
        mounted(f"{drive.link}/docs", tmp_path / "m", "--peer", peer.address, "--memory") as mount,
    ):
        assert mount.run("cat notes/one.txt") == b"one\n"
        assert sorted(os.listdir(mount.point)) == ["notes", "readme.md"]


def test_commands_without_a_mount(drive_of: DriveOf, tmp_path: Path) -> None:
    """ls, stat and cat give the same entries and bytes as the reference says the drive has."""
    drive = drive_of("odd-chunks")
    with serve(drive.path) as peer:
        where = ["--peer", peer.address, "--cache-dir", str(tmp_path)]
        listed = {row["path"]: row["size"] for row in datfs_json("ls", "-R", drive.link, *where)}
        assert listed == {path: entry.size for path, entry in drive.files.items()}
        (facts,) = datfs_json("stat", drive.link, "large.bin", *where)
        made = drive.files["/large.bin"]
        assert (facts["chunk_first"], facts["chunks"]) == (made.first_chunk, made.chunks)
        for path, entry in drive.files.items():
            read = run_datfs("cat", drive.link, path, *where)
            assert hashlib.sha256(read.stdout).hexdigest() == entry.sha256
