"""Progress: a bar on a terminal, lines elsewhere, nothing if it is not wanted."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from datfs.cli.progress import Progress


class Clock:
    """Time that is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr("datfs.cli.progress.time.monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """What :mod:`datfs.cli.progress` sees of the time."""
    return Clock(monkeypatch)


def test_lines_where_there_is_no_terminal(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    """One every few seconds, with rate and remaining time, and one at the end."""
    with Progress("importing", "imported") as progress:
        progress.start(2, 4 << 20)
        progress.file(b"/a\x1b")
        clock.now = 4
        progress.advance(1 << 20)
        clock.now = 6
        progress.advance(1 << 20)
        progress.file_done()
        clock.now = 10
        progress.file("/b")
        progress.advance(2 << 20)
        progress.file_done()
    assert capsys.readouterr().err.splitlines() == [
        "datfs: importing 0 of 2 files, 2.0 MiB of 4.0 MiB, 341.3 KiB/s, 0:06 left, /a\\x1b",
        "datfs: imported 2 files, 4.0 MiB, 409.6 KiB/s",
    ]


def test_nothing_of_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """Where there was nothing to do, or nobody wants to know, nothing is said; but a note is."""
    with Progress("importing", "imported") as progress:
        progress.file("/a")
    with Progress("importing", "imported", quiet=True) as progress:
        progress.start(1, 1)
        progress.advance(1)
        progress.note("something else")
    assert capsys.readouterr().err == "datfs: something else\n"


def drawn(**more: object) -> str:
    """What a bar writes on a terminal."""
    seen = io.StringIO()
    console = Console(file=seen, force_terminal=True, width=120, **more)  # type: ignore[arg-type]
    with Progress("importing", "imported", console=console) as progress:
        progress.start(3, 3000)
        progress.file("/[red]name")
        progress.advance(1500)
        progress.file_done(2)
    return seen.getvalue()


def test_a_bar_on_a_terminal() -> None:
    """With files, bytes, the file at hand as it is called, and colours."""
    seen = drawn(color_system="standard")
    for part in ("importing", "2/3 files", "1.5 KiB of 2.9 KiB", "/s", "left", "/[red]name"):
        assert part in seen
    assert "\x1b[3" in seen or "\x1b[9" in seen


def test_no_colours_if_they_are_not_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    """NO_COLOR takes the colours and leaves the bar."""
    monkeypatch.setenv("NO_COLOR", "1")
    seen = drawn()
    assert "2/3 files" in seen
    assert "\x1b[3" not in seen
    assert "\x1b[9" not in seen


def test_a_terminal_that_cannot_draw(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A dumb one gets lines."""
    monkeypatch.setenv("TERM", "dumb")
    with Progress("importing", "imported", console=Console(file=io.StringIO(), force_terminal=True)) as progress:
        progress.start(1, 10)
        progress.advance(10)
        progress.file_done()
    assert "imported 1 file, 10 B" in capsys.readouterr().err
