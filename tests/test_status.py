"""``datfs status``, ``peers``, ``why`` and ``mounts``, beside real mounts in processes of their own."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from datfs import local_sockets
from datfs.status_text import peers_text, status_text, why_text
from tests.command_line import DATFS, failure, objects, output, shared
from tests.interop.datfs_side import Mounted, clear, mounted, wait_until
from tests.interop.datfs_side import datfs as run
from tests.vector_drives import DRIVES, SIMPLE_KEY

pytestmark = pytest.mark.fuse

Process = subprocess.Popen[str]
LINK = f"dat://{SIMPLE_KEY}"


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A runtime folder of our own."""
    folder = tmp_path / "run"
    folder.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    return folder


@pytest.fixture
def peer() -> Iterator[tuple[str, Process]]:
    """The address of a process that shares the simple drive, and the process."""
    with shared(DRIVES / "simple") as (_, address, process):
        yield address, process


@pytest.fixture
def at(tmp_path: Path, peer: tuple[str, Process]) -> Iterator[Mounted]:
    """The simple drive, mounted from a peer; nothing of it is here."""
    options = ("--peer", peer[0], "--cache-dir", tmp_path / "cache", "--timeout", "20")
    with mounted(LINK, tmp_path / "point", *options) as mount:
        yield mount


def reads_wait(at: Mounted) -> bool:
    """Whether a read of a file of the mount waits."""
    return any(file["reads"] for file in objects("status", at.point)[0]["files"])


def test_of_a_mount_and_of_a_link(at: Mounted, peer: tuple[str, Process], tmp_path: Path) -> None:
    """By a path on the mount, by the link, or all that is open: the same drive, its peer, what is here."""
    assert (at.point / "hello.txt").read_bytes() == b"hello world\n"
    cache = ("--cache-dir", tmp_path / "cache")
    for words in ((at.point,), (at.point / "docs",), (at.point / "no such",), (LINK,), ()):
        told_of = {facts["pid"]: facts for facts in objects("status", *words, *cache)}
        assert len(told_of) == 1 if words else told_of.keys() >= {at.process.pid, peer[1].pid}
        facts = told_of[at.process.pid]
        assert (facts["link"], facts["mountpoint"], facts["version"]) == (LINK, str(at.point), 5)
        assert facts["pid"] == at.process.pid
        assert facts["registers"]["content"]["held"] == 1
        (told,) = facts["peers"]
        assert (told["state"], told["direction"], told["source"]) == ("connected", "out", "given")
    assert f"{LINK} on {at.point}" in output("status", *cache)
    (told,) = objects("peers", at.point)
    assert told["traffic"]["received"] > 0
    assert "has 7 of 7 content" in output("peers", at.point)


def test_of_a_drive_that_nobody_has_open(at: Mounted, peer: tuple[str, Process], tmp_path: Path) -> None:
    """From the cache: what is there, and that no process has it; nothing of it at all is an error."""
    assert (at.point / "hello.txt").read_bytes() == b"hello world\n"
    at.end()
    (facts,) = objects("status", LINK, "--cache-dir", tmp_path / "cache")
    assert facts["pid"] == peer[1].pid
    peer[1].kill()
    peer[1].wait()
    (facts,) = objects("status", LINK, "--cache-dir", tmp_path / "cache")
    assert (facts["pid"], facts["registers"]["content"]["held"], facts["peers"]) == (None, 1, [])
    assert "no process has it open" in output("status", LINK, "--cache-dir", tmp_path / "cache")
    failure(4, "status", "ab" * 32, "--cache-dir", tmp_path / "cache")
    assert LINK not in output("status", "--cache-dir", tmp_path / "cache")


def test_a_read_that_waits(at: Mounted, peer: tuple[str, Process], tmp_path: Path) -> None:
    """It is in the status with its file, place and time; why names the chunks, the peer that has them, and the end."""
    (at.point / "hello.txt").read_bytes()
    peer[1].send_signal(signal.SIGSTOP)
    reader = subprocess.Popen(["cat", at.point / "big.bin"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        wait_until(lambda: reads_wait(at), "the read waits")
        (facts,) = objects("status", at.point)
        (file,) = facts["files"]
        assert (file["path"], file["chunks_held"]) == ("/big.bin", 0)
        assert file["reads"][0]["offset"] == 0
        assert facts["wants"]["content"]["now"] > 0
        assert "waits for" in output("status", at.point)
        (found,) = objects("why", at.point / "big.bin")
        assert found["readers_wait_for"]
        (asked,), (waited_for,) = found["peers"][0]["asked_for"], found["readers_wait_for"]
        assert asked[0] <= waited_for[0] < waited_for[1] <= asked[1]
        assert "asked for" in output("why", at.point / "big.bin")
    finally:
        peer[1].send_signal(signal.SIGCONT)
        _, said = reader.communicate(timeout=20)
    assert (reader.returncode, said) == (0, b"")
    assert output("why", at.point / "hello.txt").strip().endswith("the one chunk is here")


def test_why_after_a_read_failed(tmp_path: Path, peer: tuple[str, Process]) -> None:
    """What went wrong and when, that it fails at once for a while, and which peer was asked for what in vain."""
    options = ("--peer", peer[0], "--memory", "--timeout", "2")
    with mounted(LINK, tmp_path / "point", *options) as at:
        file = at.point / "big.bin"
        assert "fetched when it is read" in output("why", file)
        assert objects("why", file)[0]["failure"] is None
        peer[1].send_signal(signal.SIGSTOP)
        try:
            with pytest.raises(TimeoutError):
                file.read_bytes()
            (found,) = objects("why", file)
            said = output("why", file)
            check(found, WHY, "why")
            assert "within 2 s" in found["failure"]["error"]
            assert 0 < found["failure"]["in_vain"] <= 10
            assert found["peers"][0]["asked_for"]
            assert found["peers"][0]["waiting"] >= 2
            assert "s ago: nobody delivered within 2 s" in said
            assert "s more it fails at once, unless something comes" in said
            assert "(no answer for" in said
        finally:
            peer[1].send_signal(signal.SIGCONT)
        wait_until(lambda: not objects("why", file)[0]["peers"][0]["asked_for"], "the peer has answered")
        file.read_bytes()
        assert output("why", file).endswith("all 3 chunks are here\n")


def test_why_needs_a_file_on_a_mount(at: Mounted, tmp_path: Path) -> None:
    """Other paths get an error with the way out."""
    assert "datfs mounts" in failure(4, "why", tmp_path)
    (tmp_path / "link").symlink_to(at.point)
    assert "chunks missing: 3-5" in output("why", tmp_path / "link" / "docs" / ".." / "big.bin")
    assert "what is needed to look it up is here" in output("why", at.point / "docs")
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
        assert run("umount", at.point).returncode == 0
        assert str(at.point) not in output("mounts")
    finally:
        clear(at.point)


def test_a_part_of_an_old_version_that_is_mounted(peer: tuple[str, Process], tmp_path: Path) -> None:
    """It is told which part of which version is shown, and which one is the newest."""
    with mounted(f"{LINK}+3/docs", tmp_path / "point", "--peer", peer[0], "--memory") as at:
        (found,) = [one for one in objects("mounts") if one["mountpoint"] == str(at.point)]
        assert (found["version"], found["shown_version"], found["shown_path"]) == (5, 3, "/docs")
        assert "version 5 (it shows version 3, only /docs), 1 peer" in output("mounts")
        assert "the mount shows version 3, only /docs" in output("status", at.point)


def test_from_a_place_that_is_gone(at: Mounted, tmp_path: Path) -> None:
    """Where the current directory is on a mount that was taken away, or was deleted, that is said."""
    # Without -I, -m would look where we are.
    command = shlex.join([sys.executable, "-I", "-m", "datfs", "status", str(tmp_path)])
    here = ["sh", "-c", f"cd {at.point}/docs && fusermount3 -u -z {at.point} && {command}"]
    done = subprocess.run(here, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
    assert b"on a mount that has ended (" in done.stderr
    (tmp_path / "gone").mkdir()
    here = ["sh", "-c", f"cd {tmp_path}/gone && rmdir ../gone && {command}"]
    done = subprocess.run(here, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
    assert b"the current directory is gone: cd to another" in done.stderr


def test_a_mount_that_hangs(at: Mounted) -> None:
    """It is marked, and nothing waits for it longer than some seconds."""
    at.process.send_signal(signal.SIGSTOP)
    wake = threading.Timer(35, at.process.send_signal, (signal.SIGCONT,))
    wake.start()
    try:
        (found,) = [one for one in objects("mounts") if one["mountpoint"] == str(at.point)]
        assert found["state"] == "hung"
        assert "it hangs" in failure(4, "why", at.point / "docs" / "a file")
        assert "it hangs" in failure(4, "status", at.point)
        ended = run("status", "--cache-dir", at.point.parent / "none")
        assert (ended.returncode, b"does not answer" in ended.stderr) == (0, True)
    finally:
        wake.cancel()
        at.process.send_signal(signal.SIGCONT)


def test_watching_on_a_terminal(at: Mounted) -> None:
    """One place on the screen that changes, until Ctrl-C."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update(TERM="xterm", COLUMNS="120", LINES="40")
        os.execv(sys.executable, [*DATFS, "status", str(at.point), "--watch"])
    seen = b""
    try:
        while seen.count(b"version 5") < 2:
            seen += os.read(terminal, 65536)
        os.write(terminal, b"\x03")
        with contextlib.suppress(OSError):  # Linux says EIO when the other side is closed
            while piece := os.read(terminal, 65536):
                seen += piece
    finally:
        os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert b"\x1b[" in seen
    assert b"Traceback" not in seen


def test_watching(at: Mounted) -> None:
    """One object a second, until stopped."""
    command = ["timeout", "--signal=INT", "4", *DATFS, "status", str(at.point), "--watch", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) >= 2
    assert {line["link"] for line in lines} == {LINK}
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["status", "peers"])
def test_watching_ends_with_the_mount(at: Mounted, command: str) -> None:
    """One line that says so, and not that the empty folder holds no drive."""
    with subprocess.Popen(
        [*DATFS, command, str(at.point), "--watch", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as watching:
        assert watching.stdout is not None
        assert watching.stdout.readline()
        assert run("umount", at.point).returncode == 0
        _, said = watching.communicate(timeout=30)
    assert watching.returncode == 4
    assert said == f"datfs: {at.point} is not mounted any more\n"


def test_status_by_a_signal(at: Mounted) -> None:
    """SIGUSR1 makes a mount write its status to its log, and go on."""
    at.process.send_signal(signal.SIGUSR1)
    wait_until(lambda: "1 peer connected" in at.stderr(), "the status is logged")
    assert f"status\n{LINK} on {at.point}\n  version 5, pid {at.process.pid}" in at.stderr()
    assert (at.point / "hello.txt").read_bytes() == b"hello world\n"


def test_a_second_mount_of_the_same_drive(at: Mounted, tmp_path: Path) -> None:
    """It is a peer of the first one, without any network, and is listed beside it."""
    whole = (at.point / "big.bin").read_bytes()
    with mounted(LINK, tmp_path / "again", "--cache-dir", tmp_path / "cache", "--offline") as again:
        assert (again.point / "big.bin").read_bytes() == whole
        assert {one["mountpoint"] for one in objects("mounts")} >= {str(at.point), str(again.point)}
        assert run("cat", LINK, "/big.bin", "--cache-dir", tmp_path / "cache", "--offline").stdout == whole


def test_of_a_folder_that_is_shared(runtime: Path, tmp_path: Path) -> None:
    """The process is asked by the folder, by the link or with all; when it was killed nothing of it is left."""
    with shared(DRIVES / "simple") as (link, address, process):
        for words in ((DRIVES / "simple",), (link,), ()):
            told = objects("status", *words, "--cache-dir", tmp_path)
            told_of = {facts["pid"]: facts for facts in told if "pid" in facts}
            facts = told_of[process.pid]
            assert (facts["link"], facts["listening"]) == (LINK, [address])
        assert objects("peers", DRIVES / "simple") == []
        process.kill()
        process.wait()
        assert "no process has the drive" in failure(4, "peers", DRIVES / "simple")
    assert not list((runtime / "datfs").iterdir())


def test_a_mount_that_began_elsewhere(
    tmp_path: Path, peer: tuple[str, Process], runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answers also if the variable that says where sockets are was not set for it, as at boot."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/nowhere")
    with mounted(LINK, tmp_path / "point", "--peer", peer[0], "--memory") as mount:
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
        (facts,) = objects("status", mount.point)
        assert facts["pid"] == mount.process.pid


def test_sockets_of_others_are_not_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In a folder that others can change there may be anything."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = tmp_path / f"datfs-{os.geteuid()}"
    folder.mkdir(mode=0o700)
    assert folder in local_sockets.known_dirs()
    folder.chmod(0o777)
    assert folder not in local_sockets.known_dirs()


def test_a_folder_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Named or current, a folder with a drive gets the status of a folder, and that of who shares it."""
    (tmp_path / "drive" / "below").mkdir(parents=True)
    (tmp_path / "drive" / "a.txt").write_text("one")
    output("init", tmp_path / "drive")
    (folder,) = objects("status", tmp_path / "drive")
    assert folder["folder"] == str(tmp_path / "drive")
    monkeypatch.chdir(tmp_path / "drive" / "below")
    assert objects("status") == [folder]
    with shared(tmp_path / "drive") as (link, _, process):
        assert [facts.get("pid") for facts in objects("status")] == [None, process.pid]
        assert f"{link}\n  version {folder['version']}, pid {process.pid}" in output("status")


TRAFFIC = {"received": int, "sent": int, "receiving": int, "sending": int}
TEXT = (str, type(None))
NUMBER = (int, float, type(None))
REGISTER = {"length": int, "held": int, "bytes": int, "bytes_held": int, "claimed": (int, type(None))}
WANTS = {"now": int, "soon": int, "later": int, "background": int, "in_flight": int, "waited_for": int}
HELD = {"length": int, "chunks": int, "in_flight": int}
PEER = {
    "address": str,
    "source": str,
    "direction": str,
    "state": str,
    "error": TEXT,
    "next_try": NUMBER,
    "connected": NUMBER,
    "worked": bool,
    "traffic": TRAFFIC,
    "holds": {"metadata": HELD, "content": HELD},
}
AT_REST = {
    "protocol": int,
    "pid": (int, type(None)),
    "link": str,
    "discovery_key": str,
    "version": int,
    "store": TEXT,
    "registers": {"metadata": REGISTER, "content": REGISTER},
    "peers": [PEER],
}
READ = {"offset": int, "size": int, "seconds": float}
FILE = {
    "link": str,
    "path": str,
    "size": int,
    "chunks": int,
    "chunks_held": int,
    "bytes_held": int,
    "receiving": int,
    "handles": int,
    "reads": [READ],
}
STATUS = AT_REST | {
    "wants": {"metadata": WANTS, "content": WANTS},
    "network": bool,
    "ways": [{"name": str, "problem": TEXT, "found": int}],
    "listening": [str],
    "limits": {"up": (int, type(None)), "down": (int, type(None))},
    "traffic": TRAFFIC,
    "mountpoint": str,
    "shown_version": int,
    "shown_path": str,
    "open_handles": int,
    "requests_waiting": int,
    "files": [FILE],
}
FAILURE = {"error": str, "seconds_ago": float, "in_vain": float}
WHY = {
    "protocol": int,
    "path": str,
    "register": str,
    "chunks": int,
    "missing_chunks": int,
    "missing": [[int]],
    "readers_wait_for": [[int]],
    "peers": [
        {"address": str, "has": [[int]], "asked_for": [[int]], "waiting": NUMBER, "late": [[int]], "error": TEXT}
    ],
    "not_connected": [{"address": str, "state": str, "error": TEXT}],
    "looking": [{"name": str, "problem": TEXT}],
    "hopeless": TEXT,
    "availability": TEXT,
    "failure": (FAILURE, None),
}
MOUNT = {
    "mountpoint": str,
    "state": str,
    "link": str,
    "version": int,
    "shown_version": int,
    "shown_path": str,
    "pid": int,
    "peers": int,
}


def check(found: Any, schema: Any, where: str) -> None:
    """Exactly these members, of these types, all the way down. ``(schema, None)``: or null."""
    if isinstance(schema, tuple) and schema[-1] is None:
        if found is not None:
            check(found, schema[0], where)
    elif isinstance(schema, dict):
        assert found.keys() == schema.keys(), where
        for name, inner in schema.items():
            check(found[name], inner, f"{where}.{name}")
    elif isinstance(schema, list):
        assert isinstance(found, list), where
        for one in found:
            check(one, schema[0], f"{where}[]")
    else:
        assert isinstance(found, schema), (where, found)


def test_json_has_the_documented_members(at: Mounted, peer: tuple[str, Process], tmp_path: Path) -> None:
    """Objects have exactly the members of docs/json.md, and of the types there."""
    (at.point / "hello.txt").read_bytes()
    peer[1].send_signal(signal.SIGSTOP)
    with subprocess.Popen(["cat", at.point / "big.bin"], stdout=subprocess.DEVNULL) as reader:
        try:
            wait_until(lambda: reads_wait(at), "the read waits")
            check(objects("status", at.point), [STATUS], "status")
            check(objects("why", at.point / "big.bin"), [WHY], "why")
        finally:
            peer[1].send_signal(signal.SIGCONT)
    assert reader.returncode == 0
    check(objects("why", at.point / "docs"), [WHY], "why")
    check(objects("peers", at.point), [PEER | {"link": str}], "peers")
    check([one for one in objects("mounts") if one["mountpoint"] == str(at.point)], [MOUNT], "mounts")
    at.end()
    peer[1].kill()
    peer[1].wait()
    check(objects("status", LINK, "--cache-dir", tmp_path / "cache"), [AT_REST], "status")


def members(schema: Any) -> set[str]:
    """The names in a schema."""
    if isinstance(schema, list) or (isinstance(schema, tuple) and schema[-1] is None):
        return members(schema[0])
    return set().union(schema, *map(members, schema.values())) if isinstance(schema, dict) else set()


def test_every_member_is_documented() -> None:
    """docs/json.md names all of them."""
    text = (Path(__file__).parent.parent / "docs" / "json.md").read_text(encoding="utf-8")
    assert not {name for schema in (STATUS, WHY, MOUNT) for name in members(schema) if f"`{name}`" not in text}


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
    file = {
        "path": evil,
        "chunks": 2,
        "chunks_held": 1,
        "size": 2,
        "bytes_held": 1,
        "receiving": 1,
        "reads": [{"offset": 0, "size": 1, "seconds": 1.0}],
    }
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
        "register": "content",
        "chunks": 2,
        "missing_chunks": 2,
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


def test_hundreds_of_files_are_cut_short() -> None:
    """Who looks on a terminal is told of the reads that wait longest, and how many more files there are."""
    files = [
        {
            "path": f"/{number}",
            "chunks": 2,
            "chunks_held": 1,
            "size": 2,
            "bytes_held": 1,
            "receiving": 0,
            "reads": [{"offset": 0, "size": 1, "seconds": float(number)}] if number % 2 else [],
        }
        for number in range(200)
    ]
    traffic = {"received": 0, "sent": 0, "receiving": 0, "sending": 0}
    facts = {
        "link": LINK,
        "pid": 1,
        "version": 1,
        "store": None,
        "traffic": traffic,
        "listening": [],
        "registers": {},
        "ways": [],
        "peers": [],
        "files": files,
        "limits": {},
    }
    lines = status_text(facts).splitlines()
    assert "  200 files open and not here whole:" in lines
    shown = [line.split(":")[0].strip() for line in lines if line.startswith("    /")]
    assert shown == [f"/{number}" for number in range(199, 159, -2)]
    assert lines[-1] == "    and 180 more files; --json tells all"
