"""Mounts for the tests: served by a process of their own, every wait bounded, nothing left behind.

If a test hangs on a mount, the connection is aborted after :data:`STUCK` seconds, so that the test fails
instead.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO

import pytest

from datfs import mountpoints
from datfs.fuse_control import FuseConnection
from tests.fuse.trees import TREES
from tests.memory_tree import MemoryTree

STUCK = 40.0
SECONDS = 20.0  # for anything that should take a moment

ROOT = Path(__file__).parent.parent.parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without the device there is nothing to test here."""
    if os.path.exists(mountpoints.FUSE_DEVICE):
        return
    for item in items:
        if item.get_closest_marker("fuse"):
            item.add_marker(pytest.mark.skip(reason=f"no {mountpoints.FUSE_DEVICE} on this machine"))


def wait_until(condition: Callable[[], bool], what: str, seconds: float = SECONDS) -> None:
    """Polls; fails the test when it takes too long."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"still not so after {seconds:g} s: {what}"
        time.sleep(0.01)


class Served:
    """A serving process, from its start on; ``point`` may not be mounted if it failed."""

    def __init__(self, tree: str, point: Path, arguments: tuple[str, ...], log: IO[bytes]) -> None:
        self.point = point
        self.tree: MemoryTree = TREES[tree]()
        self._log = log
        self.expect_trouble = False  # whether it may log errors
        self.process = subprocess.Popen(
            [sys.executable, "-X", "dev", "-m", "tests.fuse.server", tree, str(point), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=ROOT,
        )
        assert self.process.stdout is not None
        self.ready = self.process.stdout.readline() == b"ready\n"
        mount = mountpoints.mount_at(str(point)) if self.ready else None
        self.device = mount.device if mount is not None else None
        self._watchdog = threading.Timer(STUCK, self._abort)
        self._watchdog.daemon = True
        self._watchdog.start()

    def _abort(self) -> None:
        self.process.kill()
        if self.device is not None and self.mounted:
            with FuseConnection(self.device) as connection:
                connection.abort()

    @property
    def mounted(self) -> bool:
        # Both, since the number of a mount that has gone may be another's by now.
        mount = mountpoints.mount_at(str(self.point))
        return mount is not None and mount.device == self.device

    def reads(self, path: str) -> int:
        """How many requests to read from a file reached the server so far."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"reads {path}\n".encode())
        self.process.stdin.flush()
        count = int(self.process.stdout.readline())
        assert self.process.stdout.readline() == b"done\n"
        return count

    def command(self, line: str) -> None:
        """Makes the server do something, and waits until it did."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == b"done\n"

    def waiting(self) -> int:
        """Requests that the kernel has no answer for."""
        assert self.device is not None
        with FuseConnection(self.device) as connection:
            return connection.waiting

    def end(self, seconds: float = SECONDS) -> tuple[int, str]:
        """Waits for the process to end by itself: its exit code, and what it said after "ready"."""
        out, _ = self.process.communicate(timeout=seconds)
        return self.process.returncode, out.decode()

    def log(self) -> str:
        """What it wrote to stderr."""
        self._log.seek(0)
        return self._log.read().decode()

    def clean_up(self) -> None:
        """Ends it whatever it does and takes the mount away; fails if it left something or complained."""
        ended = self.process.poll() is not None
        if not ended:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(signal.SIGTERM)
            try:
                self.end()
            except subprocess.TimeoutExpired:
                self._abort()
                self.end()
        self._watchdog.cancel()
        for pipe in (self.process.stdin, self.process.stdout):
            with suppress(BrokenPipeError):  # a command that it did not take up
                assert pipe is not None
                pipe.close()
        left = False
        while self.mounted:
            left = True
            subprocess.run(["umount", "-l", "-i", str(self.point)], check=True, timeout=SECONDS)
        if not self.expect_trouble:
            assert not left, "the mount was left behind"
            log = self.log()
            assert not any(word in log for word in ("Traceback", "ERROR", "WARNING", "Warning", "fuse:")), log
            assert ended or self.process.returncode == 0


Mounter = Callable[..., Served]


@pytest.fixture
def mounter(tmp_path: Path) -> Iterator[Mounter]:
    """``mounter(tree, *arguments, point=None)`` starts a serving process and waits until it answers or fails."""
    started: list[Served] = []
    logs: list[IO[bytes]] = []

    def mount(tree: str, *arguments: str, point: Path | None = None) -> Served:
        where = point if point is not None else tmp_path / f"point {len(started)}"
        if point is None:
            where.mkdir()
        log = tempfile.TemporaryFile()  # noqa: SIM115 closed below
        logs.append(log)
        served = Served(tree, where, arguments, log)
        started.append(served)
        return served

    yield mount
    problems: list[Exception] = []
    for served, log in reversed(list(zip(started, logs, strict=False))):
        try:
            served.clean_up()
        except (AssertionError, subprocess.SubprocessError) as error:
            problems.append(error)
        finally:
            log.close()
    if problems:
        raise problems[0]


@pytest.fixture
def standard(mounter: Mounter) -> Served:
    """The standard tree, mounted."""
    return mounter("standard")


def shell(command: str, where: Path, seconds: float = SECONDS) -> subprocess.CompletedProcess[bytes]:
    """Runs a shell command in a folder, with a time limit; a failure of it fails the test."""
    done = subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", command],
        cwd=where,
        capture_output=True,
        timeout=seconds,
        env={**os.environ, "LC_ALL": "C"},
        check=False,
    )
    assert done.returncode == 0, (command, done.returncode, done.stderr)
    return done
