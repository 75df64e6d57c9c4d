"""datfs as the interop tests start it: commands, and mounts that never outlive their block.

A mount whose reader hangs is killed after :data:`STUCK` seconds, so that the test fails instead.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from datfs import mountpoints

DATFS = (sys.executable, "-m", "datfs")
SECONDS = 20.0  # for anything that should take a moment
STUCK = 40.0


def datfs(*arguments: str | Path, timeout: float = SECONDS) -> subprocess.CompletedProcess[bytes]:
    """Runs a command to its end; the exit code is for the caller to judge."""
    return subprocess.run([*DATFS, *map(str, arguments)], capture_output=True, timeout=timeout, check=False)


def datfs_json(*arguments: str | Path) -> list[dict[str, Any]]:
    """The objects that a command prints, which must succeed."""
    done = datfs(*arguments, "--json")
    assert done.returncode == 0, done.stderr.decode()
    return [json.loads(line) for line in done.stdout.splitlines()]


def wait_until(condition: Callable[[], bool], what: str, seconds: float = SECONDS) -> None:
    """Polls; fails the test when it takes too long."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"still not so after {seconds:g} s: {what}"
        time.sleep(0.01)


class Mounted:
    """A mount served by ``process``, a ``datfs mount --foreground``."""

    def __init__(self, point: Path, process: subprocess.Popen[bytes], said: IO[bytes]) -> None:
        self.point = point
        self.process = process
        self._said = said

    def stderr(self) -> str:
        """What it has told so far."""
        self._said.seek(0)
        return self._said.read().decode()

    @property
    def alive(self) -> bool:
        """Whether the kernel still has the mount."""
        return mountpoints.mount_at(str(self.point)) is not None

    def fact(self, name: str, path: str = "") -> int:
        """A number among the extended attributes, such as ``bytes_received``."""
        return int(os.getxattr(self.point / path, f"user.dat.{name}"))

    def run(self, command: str, seconds: float = SECONDS) -> bytes:
        """The output of a shell command in the mount's root; fails the test unless it succeeds."""
        done = self.try_run(command, seconds)
        assert done.returncode == 0, (command, done.returncode, done.stderr.decode(), self.stderr())
        return done.stdout

    def try_run(self, command: str, seconds: float = SECONDS) -> subprocess.CompletedProcess[bytes]:
        """The same, and the exit code is for the caller to judge."""
        return shell(command, self.point, seconds)

    def end(self, number: signal.Signals = signal.SIGTERM, seconds: float = SECONDS) -> int:
        """Sends the signal and returns the exit code."""
        self.process.send_signal(number)
        return self.process.wait(seconds)


def shell(command: str, where: Path, seconds: float = SECONDS) -> subprocess.CompletedProcess[bytes]:
    """Runs a shell command in a folder, in the C locale, with a time limit."""
    return subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", command],
        cwd=where,
        capture_output=True,
        timeout=seconds,
        env={**os.environ, "LC_ALL": "C"},
        check=False,
    )


@contextmanager
def mounted(link: str | Path, point: Path, *arguments: str | Path) -> Iterator[Mounted]:
    """Mounts on ``point``, which is made if need be; ends with SIGTERM. Fails the test if something is left."""
    command = [*DATFS, "mount", "--foreground", str(link), str(point), *map(str, arguments)]
    with tempfile.TemporaryFile() as said, serving(command, point, said, "mounted version") as mount:
        yield mount


@contextmanager
def serving(command: Sequence[str], point: Path, said: IO[bytes], ready: str) -> Iterator[Mounted]:
    """The same of any command that mounts on ``point``, and says ``ready`` on stderr when it has."""
    point.mkdir(exist_ok=True)
    with subprocess.Popen(command, stderr=said) as process:
        mount = Mounted(point, process, said)
        watchdog = threading.Timer(STUCK, process.kill)
        watchdog.start()
        try:
            wait_until(lambda: ready in mount.stderr() or process.poll() is not None, "mounted")
            assert process.poll() is None, mount.stderr()
            yield mount
            if process.poll() is None:
                assert mount.end() == 0, mount.stderr()
            assert not mount.alive, "the mount was left behind"
            assert "Traceback" not in mount.stderr(), mount.stderr()
        finally:
            watchdog.cancel()
            process.kill()
            process.wait()
            clear(point)


def clear(point: Path) -> None:
    """Takes away whatever is mounted there."""
    while mountpoints.mount_at(str(point)) is not None:
        subprocess.run(["umount", "-l", "-i", str(point)], check=True, timeout=SECONDS)


@contextmanager
def shared(folder: str | Path, *arguments: str | Path) -> Iterator[tuple[str, int]]:
    """``datfs share`` in a process of its own, on a free loopback port: the drive's key and the port."""
    command = [*DATFS, "share", str(folder), "--listen", "127.0.0.1:0", "--json", *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            facts = json.loads(process.stdout.readline())
            yield facts["link"].removeprefix("dat://"), int(facts["listening"][0].rpartition(":")[2])
            process.send_signal(signal.SIGTERM)
            assert process.wait(SECONDS) == 0
        finally:
            process.kill()
