"""systemd: units with the right words in them, and readiness told when the mount answers."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from datfs import mountpoints, readiness
from datfs.cli.units import escaped, quoted
from datfs.errors import BadLink
from tests.command_line import DATFS, SECONDS, failure, output
from tests.vector_drives import DRIVES

LINK = "dat://" + "ab" * 32


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/mnt/dat", "mnt-dat"),
        ("/mnt//my-dat/", r"mnt-my\x2ddat"),
        ("/mnt/ä.b/.c", r"mnt-\xc3\xa4.b-.c"),
        ("/.x y", r"\x2ex\x20y"),
        ("/", "-"),
    ],
)
def test_names_of_units(path: str, name: str) -> None:
    """As ``systemd-escape --path`` makes them."""
    assert escaped(path) == name
    if shutil.which("systemd-escape") is not None:
        made = subprocess.run(["systemd-escape", "--path", path], capture_output=True, text=True, check=True)
        assert made.stdout.strip() == name


def test_words_of_units() -> None:
    """Blanks, quotes, percent and dollar signs reach the program as they are."""
    assert quoted("plain/1.2") == "plain/1.2"
    assert quoted("a b") == '"a b"'
    assert quoted('50%$x"\\') == '"50%%$$x\\"\\\\"'
    with pytest.raises(BadLink):
        quoted("a\nb")


def test_a_unit_for_the_system(tmp_path: Path) -> None:
    """It names program, link, directory and options, waits for the network, and systemd finds nothing wrong with it."""
    text = output("systemd-unit", LINK, "/mnt/my dat", "--timeout", "20", "--allow-other")
    start = next(line for line in text.splitlines() if line.startswith("ExecStart="))
    assert start.endswith(
        f'/datfs mount --foreground --cache-dir %C/datfs --timeout 20 --allow-other -- {LINK} "/mnt/my dat"'
    )
    assert "Type=notify\n" in text
    assert "After=network-online.target\n" in text
    assert r"mnt-my\x20dat.datfs.service" in text.splitlines()[0]
    if shutil.which("systemd-analyze") is not None:
        place = tmp_path / "x.datfs.service"
        place.write_text(text)
        said = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", place], capture_output=True, text=True, timeout=30, check=False
        ).stderr
        # It looks for the program, too, which is installed elsewhere in a checkout that is tested in place.
        assert [line for line in said.splitlines() if "x.datfs.service" in line and "executable" not in line] == []


def test_a_unit_for_a_person() -> None:
    """The person's own manager starts it, with the person's own cache."""
    text = output("systemd-unit", "--user", LINK, "/home/me/dat")
    assert "WantedBy=default.target" in text
    assert "--cache-dir" not in text
    assert "systemctl --user" in text.splitlines()[0]


def test_a_unit_of_nonsense() -> None:
    """A link that is none is told at once, not at the next start of the machine."""
    assert "nonsense" in failure(7, "systemd-unit", "nonsense", "/mnt")


def test_options_of_a_unit() -> None:
    """What `datfs mount` would refuse is refused now; paths are whole, as a unit begins elsewhere."""
    assert "--bogus" in failure(2, "systemd-unit", LINK, "/mnt", "--bogus")
    assert "--timeout" in failure(2, "systemd-unit", LINK, "/mnt", "--timeout", "soon")
    text = output("systemd-unit", LINK, "mnt", "--cache-dir", "c", "--log=l", "--peer", "c")
    here = os.getcwd()
    assert f"--cache-dir {here}/c --log={here}/l --peer c -- {LINK} {here}/mnt\n" in text


def test_without_a_service_manager_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable, or one that is no place, is no error."""
    for place in (None, "", "relative"):
        monkeypatch.delenv(readiness.VARIABLE, raising=False)
        if place is not None:
            monkeypatch.setenv(readiness.VARIABLE, place)
        readiness.ready("up")


def test_a_service_manager_that_is_gone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is noted, and the mount goes on."""
    monkeypatch.setenv(readiness.VARIABLE, str(tmp_path / "gone"))
    readiness.ready("up")
    assert "cannot be told" in caplog.text
    caplog.clear()


def test_a_name_in_the_abstract_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    """systemd uses such names for containers."""
    name = f"datfs-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name)
        manager.settimeout(SECONDS)
        monkeypatch.setenv(readiness.VARIABLE, "@" + name)
        readiness.status("busy")
        assert manager.recv(1000) == b"STATUS=busy"


@pytest.mark.fuse
def test_ready_is_told_when_the_mount_answers(tmp_path: Path) -> None:
    """The first message comes when the mount is there; at the end another one."""
    point = tmp_path / "point"
    point.mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(SECONDS)
        environment = {**os.environ, readiness.VARIABLE: str(tmp_path / "notify")}
        command = [*DATFS, "mount", "--foreground", str(DRIVES / "simple"), str(point)]
        with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) as process:
            try:
                said = manager.recv(1000).decode()
                assert said.startswith("READY=1\nSTATUS=version ")
                assert mountpoints.mount_at(str(point)) is not None
                assert sorted(os.listdir(point)) == ["big.bin", "docs", "exact.bin", "hello.txt"]
                process.send_signal(signal.SIGTERM)
                assert manager.recv(1000) == b"STOPPING=1"
                process.communicate(timeout=SECONDS)
                assert process.returncode == 0
            finally:
                process.kill()
    assert mountpoints.mount_at(str(point)) is None
