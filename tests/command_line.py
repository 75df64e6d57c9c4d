"""Running ``datfs`` as a person would: in a process of its own, always with an end."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

DATFS = (sys.executable, "-m", "datfs")
SECONDS = 30.0


def datfs(*words: object, stdout: int | None = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end; what it prints is text with surrogate escapes."""
    return subprocess.run(
        [*DATFS, *map(str, words)],
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        timeout=SECONDS,
        check=False,
        encoding="utf-8",
        errors="surrogateescape",
    )


def output(*words: object) -> str:
    """What a command prints that must succeed."""
    ended = datfs(*words)
    assert (ended.returncode, ended.stderr) == (0, ""), ended
    return ended.stdout


def objects(*words: object) -> list[dict[str, Any]]:
    """The JSON objects that a command prints that must succeed."""
    return [json.loads(line) for line in output(*words, "--json").splitlines()]


def failure(code: int, *words: object) -> str:
    """The one line that a command says when it ends with ``code``."""
    ended = datfs(*words)
    assert ended.returncode == code, ended
    lines = ended.stderr.splitlines()
    assert len(lines) == 1, ended.stderr
    assert lines[0].startswith("datfs: ")
    return lines[0].removeprefix("datfs: ")


def write(folder: Path, files: dict[str, bytes]) -> None:
    """Writes files, with the folders above."""
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def commit(folder: Path) -> None:
    """Puts every change of the folder into its drive."""
    ended = datfs("commit", "-C", folder, "-aq")
    assert ended.returncode == 0, ended


def made(folder: Path, files: dict[str, bytes]) -> Path:
    """The folder, with these files and a drive of them."""
    write(folder, files)
    output("init", folder, "--title", "t", "--description", "d")
    commit(folder)
    return folder


@contextmanager
def shared(target: object, *options: object) -> Iterator[tuple[str, str, subprocess.Popen[str]]]:
    """Shares a drive from a process; yields its link, its address and the process."""
    command = [*DATFS, "share", str(target), "--listen", "127.0.0.1:0", "--json", *map(str, options)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, process.communicate(timeout=SECONDS)
            facts = json.loads(line)
            yield facts["link"], facts["listening"][0], process
        finally:
            process.kill()


def on_a_terminal(*words: object) -> tuple[int, str]:
    """Runs a command on a terminal of its own; its exit code, and everything it wrote there."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update(TERM="xterm", COLUMNS="120", LANG="C.UTF-8")
        os.execv(sys.executable, [*DATFS, *map(str, words)])
    seen = b""
    deadline = time.monotonic() + SECONDS
    try:
        while time.monotonic() < deadline:
            try:
                piece = os.read(terminal, 65536)
            except OSError:
                break  # Linux says EIO when the other side is closed
            if not piece:
                break
            seen += piece
    finally:
        os.close(terminal)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status), seen.decode("utf-8", "surrogateescape")


def interrupted(after: float, *words: object, with_: signal.Signals = signal.SIGINT) -> tuple[int, str]:
    """Starts a command, sends it a signal after so many seconds; its exit code and what it said on stderr."""
    with subprocess.Popen([*DATFS, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            time.sleep(after)
            process.send_signal(with_)
            _, said = process.communicate(timeout=SECONDS)
        finally:
            process.kill()
    return process.returncode, said.decode()


def cache_of(folder: Path) -> tuple[str, Path]:
    """The option that puts the cache into a folder."""
    return "--cache-dir", folder
