"""The doctor: each thing that can be wrong is found, with a verdict and a fix, and what is well is called so."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from datfs import doctor, mountpoints
from datfs.doctor import Finding, Question, Verdict, examine
from datfs.net.discovery.ways import Ways
from tests.command_line import datfs, objects
from tests.net.discovery_network import serve_dns

SUBJECTS = ["FUSE", "permissions", "mount -t datfs", "multicast", "discovery servers", "DHT", "disk", "clock"]


def only(findings: list[Finding]) -> Finding:
    """The one finding."""
    (finding,) = findings
    assert finding.text
    assert finding.verdict is Verdict.OK or finding.fix
    return finding


@contextmanager
def taken() -> Iterator[int]:
    """A port that somebody listens on."""
    with socket.socket() as sock:
        sock.bind(("0.0.0.0", 0))
        sock.listen(1)
        yield sock.getsockname()[1]


def test_everything_is_told_in_order(tmp_path: Path) -> None:
    """One object for each thing, without touching the network when that is not wanted; nothing is left behind."""
    with taken() as port:
        found = objects("doctor", "--discovery", "none", "--cache-dir", tmp_path / "cache", "--port", port)
    assert [one["subject"] for one in found if not one["subject"].startswith("port")] == SUBJECTS
    assert {one["verdict"] for one in found} <= {"ok", "note"}
    assert all(set(one) == {"subject", "verdict", "text", "fix"} for one in found)
    assert list(tmp_path.iterdir()) == []


def test_a_person_reads_it(tmp_path: Path) -> None:
    """Verdict, subject and text on a line, the fix below it."""
    with taken() as port:
        ended = datfs("doctor", "--discovery", "none", "--cache-dir", tmp_path, "--port", port)
    lines = ended.stdout.splitlines()
    at = next(number for number, line in enumerate(lines) if f"port {port}" in line)
    assert lines[at].startswith("note  ")
    assert "ss -ltnp" in lines[at + 1]
    assert ended.stderr == ""


def test_something_bad_is_an_exit_code(tmp_path: Path) -> None:
    """A cache that cannot be written is bad: exit code 1, and what to do."""
    (tmp_path / "file").write_text("")
    ended = datfs("doctor", "--discovery", "none", "--cache-dir", tmp_path / "file" / "cache")
    assert ended.returncode == 1
    assert "--cache-dir" in ended.stdout


def test_without_the_device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No /dev/fuse: drives cannot be mounted, and the commands that help are named."""
    monkeypatch.setattr(mountpoints, "FUSE_DEVICE", str(tmp_path / "fuse"))
    finding = only(doctor.fuse())
    assert finding.verdict is Verdict.BAD
    assert "modprobe fuse" in finding.fix


@pytest.mark.parametrize(
    ("text", "allowed"), [("user_allow_other\n", True), ("# user_allow_other\n", False), (None, False)]
)
def test_mounting_for_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str | None, allowed: bool) -> None:
    """A person may mount for others only if fuse.conf says so; a line that is commented out does not."""
    monkeypatch.setattr(doctor, "FUSE_CONF", tmp_path / "fuse.conf")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    if text is not None:
        (tmp_path / "fuse.conf").write_text(text)
    finding = doctor.permissions()[0]
    assert (finding.verdict is Verdict.OK) == allowed
    assert allowed or "user_allow_other" in finding.fix


def test_the_helper_of_mount(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whether mount(8) finds us; if not, the command that changes it."""
    monkeypatch.setattr(doctor, "MOUNT_HELPERS", (tmp_path / "mount.datfs",))
    assert doctor.permissions()[1].fix.endswith(f" {tmp_path / 'mount.datfs'}")
    (tmp_path / "mount.datfs").write_text("")
    assert doctor.permissions()[1].verdict is Verdict.OK


def test_ports() -> None:
    """A port in use is no harm; one that is not ours to have is."""
    with taken() as number:
        assert only(doctor.port(number)).verdict is Verdict.NOTE
    assert only(doctor.port(number)).verdict is Verdict.OK


async def test_a_server_that_answers_and_one_that_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each server for itself; one that is silent is a note as long as another one answers."""
    monkeypatch.setattr(doctor, "SERVER_SECONDS", 0.5)
    async with serve_dns() as port:
        found = await doctor.servers(Ways(("dns",), (f"127.0.0.1:{port}", "127.0.0.1:1")))
    assert [finding.verdict for finding in found] == [Verdict.OK, Verdict.NOTE]


async def test_a_name_that_there_is_not() -> None:
    """A server whose name has no address is told at once, with its name."""
    started = time.monotonic()
    finding = only(await doctor.servers(Ways(("dns",), ("no.such.host.invalid",))))
    assert finding.verdict is Verdict.NOTE
    assert "no.such.host.invalid" in finding.text
    assert time.monotonic() - started < doctor.SERVER_SECONDS


async def test_no_way_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """One way that fails is a note; if all do, that is bad."""

    async def nothing(ways: Ways) -> list[Finding]:
        return [Finding("x", Verdict.NOTE, "does not work", "no")]

    for name in ("multicast", "servers", "dht"):
        monkeypatch.setattr(doctor, name, nothing)
    assert (await doctor.network(Ways(("mdns",))))[-1].verdict is Verdict.BAD
    assert len(await doctor.network(Ways(()))) == 3


def test_a_disk_that_is_full(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Little room is a note."""
    monkeypatch.setattr(doctor, "ROOM_LEAST", 1 << 62)
    finding = only(doctor.disk(tmp_path))
    assert finding.verdict is Verdict.NOTE
    assert "free" in finding.text


def test_a_disk_that_keeps_everything(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without holes the cache does not shrink: a note."""
    monkeypatch.setattr(doctor, "_punch", lambda fd: False)
    assert "holes" in only(doctor.disk(tmp_path)).text


def test_a_clock_that_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """A time before the program was there cannot be right."""
    monkeypatch.setattr(time, "time", lambda: 86_400.0)
    finding = only(doctor.clock())
    assert finding.verdict is Verdict.BAD
    assert "1970-01-02" in finding.text


async def test_all_of_it(tmp_path: Path) -> None:
    """What is told and what is returned agree."""
    told: list[Finding] = []
    well = await examine(Question(tmp_path, 3282, Ways(())), told.append)
    assert well == all(finding.verdict is not Verdict.BAD for finding in told)
    assert len(told) == len(SUBJECTS) + 1
