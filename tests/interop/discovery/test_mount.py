"""A mounted drive is a peer like any other: found by the link alone, from another machine, and gone with the mount."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from datfs import mountpoints
from tests.interop.discovery.namespaces import Machine, running, two_machines, why_not
from tests.vector_drives import DRIVES, SIMPLE_KEY

ROOT = Path(__file__).parents[3]
SECONDS = 60.0


@pytest.fixture(scope="module", autouse=True)
def needed() -> None:
    """Skips where namespaces cannot be made, or nothing can be mounted."""
    if not os.path.exists(mountpoints.FUSE_DEVICE):
        pytest.skip(f"no {mountpoints.FUSE_DEVICE} on this machine")
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)


class Commands:
    """datfs on one machine, with a home of its own, finding peers by mDNS."""

    def __init__(self, machine: Machine, home: Path) -> None:
        self.machine = machine
        self.environment = {"HOME": str(home), "PYTHONPATH": str(ROOT), "DATFS_DISCOVERY": "mdns"}
        home.mkdir()

    def words(self, *words: object) -> list[str]:
        return [sys.executable, "-m", "datfs", *map(str, words)]

    def ended(self, *words: object) -> subprocess.CompletedProcess[str]:
        """Runs a command to its end."""
        return subprocess.run(
            self.machine.command(*self.words(*words)),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
            env={**os.environ, **self.environment},
        )


@contextmanager
def mounted(commands: Commands, point: Path, *options: str) -> Iterator[None]:
    """The drive is mounted in the foreground for as long as the context lasts."""
    point.mkdir(exist_ok=True)
    words = commands.words("mount", "-f", *options, SIMPLE_KEY, point)
    with running(commands.machine, words, more=commands.environment) as process:
        process.wait_for("mounted version", SECONDS)
        yield


@pytest.mark.time_limit(240)
def test_who_mounts_a_drive_can_be_found(tmp_path: Path) -> None:
    """What a mount has fetched is read from it by a third party that knows the link only; not from one that is told
    not to listen, and not after the end of the mount.
    """
    with two_machines(multicast=True) as (one, two):
        reader, holder = Commands(one, tmp_path / "reader"), Commands(two, tmp_path / "holder")
        point = tmp_path / "mount"
        share = reader.words("share", DRIVES / "simple")
        with running(one, share, more=reader.environment) as sharing:
            sharing.wait_for("listening on", SECONDS)
            assert holder.ended("cat", f"{SIMPLE_KEY}/hello.txt").stdout == "hello world\n"
        with mounted(holder, point):
            found = reader.ended("cat", "--memory", f"{SIMPLE_KEY}/hello.txt")
            assert (found.returncode, found.stdout) == (0, "hello world\n"), found.stderr
        for options in (("--no-listen",), ("--no-upload",)):
            with mounted(holder, point, *options):
                assert reader.ended("cat", "--memory", "--timeout", "4", f"{SIMPLE_KEY}/hello.txt").returncode == 5
        assert reader.ended("cat", "--memory", "--timeout", "4", f"{SIMPLE_KEY}/hello.txt").returncode == 5
