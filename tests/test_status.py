"""``datfs status``, ``peers``, ``why`` and ``mounts``, beside real mounts in processes of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from datfs import local_sockets
from datfs.cli.status_text import peers_text, status_text, why_text
from tests.command_line import DATFS, failure, objects, output, shared
from tests.interop.datfs_side import Mounted, clear, mounted, wait_until
from tests.interop.datfs_side import datfs as run
from tests.vector_drives import DRIVES, SIMPLE_KEY

pytestmark = pytest.mark.fuse

LINK = f"dat://{SIMPLE_KEY}"


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A runtime folder of our own."""
    folder = tmp_path / "run"
    folder.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    return folder


@pytest.fixture
def at(tmp_path: Path) -> Iterator[Mounted]:
    """The simple drive, mounted from a peer; nothing of it is here."""
    with shared(DRIVES / "simple") as (_, address, process):
        options = ("--peer", address, "--cache-dir", tmp_path / "cache", "--timeout", "3")
        with mounted(LINK, tmp_path / "point", *options) as mount:
            mount.peer = process  # type: ignore[attr-defined]
            yield mount


def test_of_a_mount_and_of_a_link(at: Mounted, tmp_path: Path) -> None:
    """By a path on the mount, by the link, or all that is open: the same drive, its peer, what is here."""
    assert (at.point / "hello.txt").read_bytes() == b"hello world\n"
    cache = ("--cache-dir", tmp_path / "cache")
    for words in ((at.point,), (at.point / "docs",), (at.point / "no such"), (LINK,), ()):
        words = words if isinstance(words, tuple) else (words,)
        (facts,) = objects("status", *words, *cache)
        assert (facts["link"], facts["mountpoint"], facts["version"]) == (LINK, str(at.point), 5)
        assert facts["pid"] == at.process.pid
        assert facts["registers"]["content"]["held"] == 1
        (peer,) = facts["peers"]
        assert (peer["state"], peer["direction"], peer["source"]) == ("connected", "out", "given")
    assert f"{LINK} on {at.point}" in output("status", *cache)
    (peer,) = objects("peers", at.point)
    assert peer["traffic"]["received"] > 0
    assert "has 7 of 7 content" in output("peers", at.point)


def test_of_a_drive_that_nobody_has_open(at: Mounted, tmp_path: Path) -> None:
    """From the cache: what is there, and that no process has it; nothing of it at all is an error."""
    assert (at.point / "hello.txt").read_bytes() == b"hello world\n"
    at.end()
    (facts,) = objects("status", LINK, "--cache-dir", tmp_path / "cache")
    assert (facts["pid"], facts["registers"]["content"]["held"], facts["peers"]) == (None, 1, [])
    assert "no process has it open" in output("status", LINK, "--cache-dir", tmp_path / "cache")
    failure(4, "status", "ab" * 32, "--cache-dir", tmp_path / "cache")
    assert output("status", "--cache-dir", tmp_path / "cache") == "no drive is open here\n"


def test_a_read_that_waits(at: Mounted, tmp_path: Path) -> None:
    """It is in the status with its file, place and time; why names the chunks, the peer that has them, and the end."""
    (at.point / "hello.txt").read_bytes()
    at.peer.send_signal(signal.SIGSTOP)  # type: ignore[attr-defined]
    reader = subprocess.Popen(["cat", at.point / "big.bin"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        wait_until(lambda: bool(objects("status", at.point)[0]["files"][0]["reads"]), "the read waits")
        (facts,) = objects("status", at.point)
        (file,) = facts["files"]
        assert (file["path"], file["chunks_held"]) == ("/big.bin", 0)
        assert file["reads"][0]["offset"] == 0
        assert facts["wants"]["content"]["now"] > 0
        assert "waits for" in output("status", at.point)
        (found,) = objects("why", at.point / "big.bin")
        assert found["readers_wait_for"]
        assert found["peers"][0]["asked_for"] == found["readers_wait_for"]
        assert "asked for" in output("why", at.point / "big.bin")
        _, said = reader.communicate(timeout=20)
        assert b"timed out" in said
    finally:
        reader.kill()
        at.peer.send_signal(signal.SIGCONT)  # type: ignore[attr-defined]
    assert output("why", at.point / "hello.txt").strip().endswith("all 1 chunk are here")


def test_why_needs_a_file_on_a_mount(at: Mounted, tmp_path: Path) -> None:
    """Other paths get an error with the way out."""
    assert "datfs mounts" in failure(4, "why", tmp_path)
    assert "is a directory" in failure(3, "why", at.point / "docs")
    assert "there is no" in failure(3, "why", at.point / "no such file")


def test_mounts_and_dead_ones(at: Mounted, tmp_path: Path) -> None:
    """All mounts are listed; one whose process was killed is marked, and umount clears it."""
    (found,) = [one for one in objects("mounts") if one["mountpoint"] == str(at.point)]
    assert (found["state"], found["link"], found["version"], found["pid"]) == ("alive", LINK, 5, at.process.pid)
    at.process.kill()
    at.process.wait()
    try:
        (found,) = [one for one in objects("mounts") if one["mountpoint"] == str(at.point)]
        assert (found["state"], found["link"]) == ("dead", None)
        assert f"DEAD: its process has ended; datfs umount {at.point}" in output("mounts")
        assert "does not answer" in failure(4, "status", at.point)
        output("umount", at.point)
        assert str(at.point) not in output("mounts")
    finally:
        clear(at.point)


def test_a_mount_that_hangs(at: Mounted) -> None:
    """It is marked, and nothing waits for it longer than some seconds."""
    at.process.send_signal(signal.SIGSTOP)
    wake = threading.Timer(25, at.process.send_signal, (signal.SIGCONT,))
    wake.start()
    try:
        (found,) = [one for one in objects("mounts") if one["mountpoint"] == str(at.point)]
        assert found["state"] == "hung"
    finally:
        wake.cancel()
        at.process.send_signal(signal.SIGCONT)


def test_watching(at: Mounted) -> None:
    """One object a second, until stopped."""
    command = ["timeout", "--signal=INT", "4", *DATFS, "status", str(at.point), "--watch", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) >= 2
    assert {line["link"] for line in lines} == {LINK}
    assert "Traceback" not in done.stderr


def test_status_by_a_signal(at: Mounted) -> None:
    """SIGUSR1 makes a mount write its status to its log, and go on."""
    at.process.send_signal(signal.SIGUSR1)
    wait_until(lambda: "status: {" in at.stderr(), "the status is logged")
    line = next(line for line in at.stderr().splitlines() if "status: {" in line)
    facts = json.loads(line.partition("status: ")[2])
    assert (facts["link"], facts["mountpoint"]) == (LINK, str(at.point))
    assert (at.point / "hello.txt").read_bytes() == b"hello world\n"


def test_a_second_mount_of_the_same_drive(at: Mounted, tmp_path: Path) -> None:
    """It is a peer of the first one, without any network, and is listed beside it."""
    whole = (at.point / "big.bin").read_bytes()
    with mounted(LINK, tmp_path / "again", "--cache-dir", tmp_path / "cache", "--offline") as again:
        assert (again.point / "big.bin").read_bytes() == whole
        assert {one["mountpoint"] for one in objects("mounts")} >= {str(at.point), str(again.point)}
        assert run("cat", LINK, "/big.bin", "--cache-dir", tmp_path / "cache", "--offline").stdout == whole


def test_the_runtime_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where the variable is not set: below /run for root, the person's own, else in the temporary folder."""
    assert local_sockets.runtime_dir() == tmp_path / "run" / "datfs"
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert local_sockets.runtime_dir() == Path("/run/datfs")
    monkeypatch.setattr(os, "geteuid", lambda: 987654)
    assert local_sockets.runtime_dir().name == "datfs-987654"


def test_nothing_of_a_peer_reaches_the_terminal_raw() -> None:
    """Names and errors of others are escaped."""
    evil = "\x1b[2J"
    traffic = {"received": 1, "sent": 2, "receiving": 3, "sending": 4}
    peer = {
        "address": evil,
        "source": evil,
        "direction": "in",
        "state": "connected",
        "error": evil,
        "next_try": 1.0,
        "connected": 1.0,
        "worked": True,
        "traffic": traffic,
        "link": LINK,
        "holds": {},
    }
    file = {"path": evil, "chunks": 2, "chunks_held": 1, "reads": [{"offset": 0, "size": 1, "seconds": 1.0}]}
    facts = {
        "link": LINK,
        "mountpoint": evil,
        "pid": 1,
        "version": 1,
        "store": None,
        "traffic": traffic,
        "listening": [],
        "registers": {},
        "ways": [{"name": "mdns", "problem": evil}],
        "peers": [peer],
        "files": [file],
        "limits": {"up": 1024, "down": None},
    }
    found = {
        "chunks": 2,
        "missing": [[0, 2]],
        "readers_wait_for": [],
        "hopeless": evil,
        "looking": [],
        "peers": [{"address": evil, "has": [[0, 1]], "asked_for": []}],
        "not_connected": [{"address": evil, "state": "resting", "error": evil}],
    }
    for text in (status_text(facts), peers_text([peer]), why_text("x", found)):
        assert "\x1b" not in text
        assert r"\x1b[2J" in text
