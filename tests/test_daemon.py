"""Going to the background, seen from outside: exit codes, output, signals, and no process left over."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SECONDS = 20.0

START = """
import os, signal, sys, time
from pathlib import Path
from datfs.daemon import run_in_background

def rest():
    "A minute. Not in one call: a signal that comes just before the call would not end it."
    for _ in range(1200):
        time.sleep(0.05)

def work(ready):
    Path(PID_FILE).write_text(str(os.getpid()))
{work}

sys.exit(run_in_background(work, log_path=LOG))
"""


def program(tmp_path: Path, work: str, log: Path | None = None) -> list[str]:
    body = "\n".join("    " + line for line in work.splitlines())
    head = f"PID_FILE = {str(tmp_path / 'pid')!r}\nLOG = {str(log) if log else None!r}\n"
    return [sys.executable, "-c", head + START.replace("{work}", body)]


def run(tmp_path: Path, work: str, log: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Runs to the end of the parent; returns only if nobody holds its output open any more."""
    return subprocess.run(program(tmp_path, work, log), capture_output=True, text=True, timeout=SECONDS, check=False)


def child_of(tmp_path: Path) -> int:
    return int((tmp_path / "pid").read_text())


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def wait_until_gone(pid: int) -> None:
    end = time.monotonic() + SECONDS
    while alive(pid):
        assert time.monotonic() < end, "the child lives on"
        time.sleep(0.01)


def test_the_parent_returns_when_the_child_is_ready(tmp_path: Path) -> None:
    """Exit code 0 and the terminal free, with the child in a session of its own, away from the folder."""
    done = run(tmp_path, "print('waiting for peers', flush=True)\nready()\nprint('hidden')\nrest()")
    child = child_of(tmp_path)
    try:
        assert done.returncode == 0
        assert done.stdout == "waiting for peers\n"
        assert done.stderr == ""
        assert alive(child)
        assert os.getsid(child) == child
        assert os.readlink(f"/proc/{child}/cwd") == "/"
        assert [os.readlink(f"/proc/{child}/fd/{fd}") for fd in (0, 1, 2)] == ["/dev/null"] * 3
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_failure_before_it_is_ready_is_the_parents(tmp_path: Path) -> None:
    """The child's message reaches the terminal, its exit code the caller, and no process is left."""
    done = run(tmp_path, "print('datfs: not empty', file=sys.stderr)\nreturn 8")
    assert (done.returncode, done.stderr) == (8, "datfs: not empty\n")
    assert not alive(child_of(tmp_path))


@pytest.mark.parametrize(
    ("work", "code", "said"),
    [
        ("raise ValueError('a bug')", 1, "ValueError: a bug"),
        ("sys.exit(3)", 3, ""),
        ("return 0", 1, ""),
        ("os.kill(os.getpid(), signal.SIGKILL)", 137, "ended by SIGKILL"),
    ],
)
def test_other_ends_before_it_is_ready(tmp_path: Path, work: str, code: int, said: str) -> None:
    """Whatever ends the child early, the parent fails; success needs the child's word."""
    done = run(tmp_path, work)
    assert done.returncode == code
    assert said in done.stderr
    assert not alive(child_of(tmp_path))


def test_the_log_gets_what_the_child_says_later(tmp_path: Path) -> None:
    """Output after readiness is appended to the log file, also a traceback at the end."""
    log = tmp_path / "log"
    log.write_text("earlier\n")
    done = run(tmp_path, "ready()\nprint('later')\nraise ValueError('a bug')", log)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    wait_until_gone(child_of(tmp_path))
    text = log.read_text()
    assert text.startswith("earlier\n")
    assert "later\n" in text
    assert "ValueError: a bug" in text


def start_waiting(tmp_path: Path, work: str) -> subprocess.Popen[bytes]:
    """A parent whose child will not be ready."""
    parent = subprocess.Popen(program(tmp_path, work), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert parent.stdout is not None
    assert parent.stdout.readline() == b"up\n"
    return parent


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_the_waiting_parent_ends_the_child(tmp_path: Path, number: signal.Signals) -> None:
    """The child is told to end, so that it can unmount, and the parent waits for it and fails."""
    parent = start_waiting(
        tmp_path,
        "signal.signal(signal.SIGTERM, lambda *_: (os.write(1, b'cleaned up\\n'), sys.exit(143)))\n"
        "print('up', flush=True)\nrest()",
    )
    parent.send_signal(number)
    out, _ = parent.communicate(timeout=SECONDS)
    assert (parent.returncode, out) == (128 + number, b"cleaned up\n")
    assert not alive(child_of(tmp_path))


@pytest.mark.parametrize("failure", ["KeyboardInterrupt", "BaseExceptionGroup('', [KeyboardInterrupt()])"])
def test_an_interrupt_of_a_child_that_handles_none_is_quiet(tmp_path: Path, failure: str) -> None:
    """It is raised in the child, which clears up what it shows; nobody sees a traceback."""
    parent = start_waiting(
        tmp_path,
        f"try:\n print('up', flush=True)\n rest()\nexcept KeyboardInterrupt:\n print('cleared up')\n raise {failure}",
    )
    parent.send_signal(signal.SIGINT)
    out, said = parent.communicate(timeout=SECONDS)
    assert (parent.returncode, out, said) == (130, b"cleared up\n", b"")
    assert not alive(child_of(tmp_path))


def test_a_second_signal_kills_a_child_that_does_not_end(tmp_path: Path) -> None:
    """A child deaf to SIGTERM does not keep the terminal."""
    parent = start_waiting(
        tmp_path,
        "signal.signal(signal.SIGTERM, lambda *_: os.write(1, b'heard\\n'))\n"
        "print('up', flush=True)\nwhile True: rest()",
    )
    assert parent.stdout is not None
    parent.send_signal(signal.SIGTERM)
    assert parent.stdout.readline() == b"heard\n"
    parent.send_signal(signal.SIGTERM)
    parent.communicate(timeout=SECONDS)
    assert parent.returncode == 137
    assert not alive(child_of(tmp_path))


def test_a_child_outlives_a_parent_that_was_killed(tmp_path: Path) -> None:
    """Nobody to tell is no reason to fail."""
    parent = start_waiting(tmp_path, "print('up', flush=True)\nsys.stdin.read()\ntime.sleep(1)\nready()\nrest()")
    child = child_of(tmp_path)
    try:
        parent.kill()
        parent.wait(SECONDS)
        end = time.monotonic() + SECONDS
        while os.readlink(f"/proc/{child}/fd/1") != "/dev/null":
            assert time.monotonic() < end
            time.sleep(0.01)
        assert alive(child)
    finally:
        os.kill(child, signal.SIGKILL)
        parent.communicate(timeout=SECONDS)


def test_a_log_that_cannot_be_opened(tmp_path: Path) -> None:
    """An error in the parent, before there is a child."""
    done = run(tmp_path, "ready()", tmp_path / "none" / "log")
    assert done.returncode == 1
    assert "FileNotFoundError" in done.stderr
    assert not (tmp_path / "pid").exists()
