"""How far a command has come with files and bytes, on stderr: a bar on a terminal, plain lines elsewhere.

Knows nothing of what is done; whoever does it says how much there is and what has been done. The terminal is touched a
few times a second, whatever the number of calls. Used from one thread at a time.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Bars
from rich.table import Column

from datfs.text import show, show_size

REDRAW = 0.1  # seconds
PLAIN_INTERVAL = 5.0  # seconds between two plain lines
RATE_SPAN = 5.0  # seconds that the rate on a terminal is the mean of
FILE_COST = 16_384  # a file takes about as long as so many bytes more, so that the bar moves evenly with small ones


class Progress:
    """A context in which something is done to files. ``doing``, ``done``: the verb, as in ``hashing``, ``hashed``.

    ``quiet``: shows nothing. Without a terminal a line tells at the end what was done, and others every few seconds
    until then; nothing is told of no files, and no bar is shown.
    """

    def __init__(self, doing: str, done: str, *, quiet: bool = False, console: Console | None = None) -> None:
        self._doing, self._done = doing, done
        self._console = console or Console(stderr=True)
        self._quiet = quiet
        screen = self._console.is_terminal and not self._console.is_dumb_terminal
        self._bar = _bar(self._console) if screen and not quiet else None
        self._task: TaskID | None = None
        self._files = self._bytes = self._all_files = self._all_bytes = 0
        self._name = ""
        self._began = self._shown = time.monotonic()
        self._samples: deque[tuple[float, int, int]] = deque([(self._began, 0, 0)])  # time, bytes, cost done

    def start(self, files: int, size: int) -> None:
        """So many files and bytes there are to do, all in all; may be said again when that changes."""
        self._all_files, self._all_bytes = files, size
        if self._bar is not None and self._task is None and files:
            self._task = self._bar.add_task(self._doing, total=None, files="", sizes="", rate="", left="", name="")
            self._bar.start()
        self._draw()

    def file(self, name: bytes | str) -> None:
        """This file is being done now; where several are at a time, one of them."""
        self._name = show(name if isinstance(name, bytes) else name.encode("utf-8", "surrogateescape"))
        self._tick()

    def advance(self, size: int) -> None:
        """So many more bytes are done."""
        self._bytes += size
        self._tick()

    def file_done(self, files: int = 1) -> None:
        """So many more files are done."""
        self._files += files
        self._tick()

    def note(self, text: str) -> None:
        """A sentence for the person, above the bar; said even if ``quiet``."""
        if self._bar is not None:
            self._console.print(f"datfs: {text}", markup=False, highlight=False, soft_wrap=True)
        else:
            print(f"datfs: {text}", file=sys.stderr)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._draw()
            self._bar.stop()
        elif self._all_files and not self._quiet:
            self._say(self._done)

    def _tick(self) -> None:
        now = time.monotonic()
        if self._quiet or now - self._shown < (REDRAW if self._bar is not None else PLAIN_INTERVAL):
            return
        self._shown = now
        if self._bar is not None:
            self._draw()
        else:
            self._say(self._doing, self._name)

    def _draw(self) -> None:
        if self._bar is None or self._task is None:
            return
        rate, left = self._rates()
        self._bar.update(
            self._task,
            total=self._all_bytes + FILE_COST * self._all_files,
            completed=self._bytes + FILE_COST * self._files,
            files=f"{self._files}/{self._all_files} files",
            sizes=f"{show_size(self._bytes)} of {show_size(self._all_bytes)}",
            rate=f"{show_size(int(rate))}/s",
            left=_duration(left),
            name=self._name,
        )

    def _rates(self) -> tuple[float, float | None]:
        """Bytes a second, and the seconds that remain, None if that cannot be told."""
        now, cost = time.monotonic(), self._bytes + FILE_COST * self._files
        self._samples.append((now, self._bytes, cost))
        while now - self._samples[0][0] > RATE_SPAN and len(self._samples) > 2:
            self._samples.popleft()
        then, bytes_then, cost_then = self._samples[0]
        span = now - then
        speed = (cost - cost_then) / span if span > 0 else 0.0
        rest = self._all_bytes + FILE_COST * self._all_files - cost
        return (self._bytes - bytes_then) / span if span > 0 else 0.0, max(rest, 0) / speed if speed else None

    def _say(self, verb: str, name: str = "") -> None:
        seconds = time.monotonic() - self._began
        rate, left = self._rates()
        parts = [_part(str(self._files), str(self._all_files)) + (" file" if self._all_files == 1 else " files")]
        parts.append(_part(show_size(self._bytes), show_size(self._all_bytes)))
        if name:
            parts += [f"{show_size(int(rate))}/s", _duration(left), name]
        else:
            parts.append(f"{show_size(int(self._bytes / seconds) if seconds > 0 else 0)}/s")
        print(f"datfs: {verb} {', '.join(filter(None, parts))}", file=sys.stderr, flush=True)


def _bar(console: Console) -> Bars:
    whole, rest = Column(no_wrap=True), Column(no_wrap=True, overflow="ellipsis", ratio=1)
    return Bars(
        TextColumn("{task.description}", markup=False, table_column=whole),
        BarColumn(bar_width=12),
        TextColumn("{task.percentage:>3.0f}%", markup=False, table_column=whole),
        TextColumn("{task.fields[files]}", markup=False, table_column=whole),
        TextColumn("{task.fields[sizes]}", markup=False, table_column=whole),
        TextColumn("{task.fields[rate]}", markup=False, table_column=whole),
        TextColumn("{task.fields[left]}", markup=False, table_column=whole),
        TextColumn("{task.fields[name]}", markup=False, table_column=rest),
        console=console,
        transient=True,
        expand=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )


def _part(now: str, whole: str) -> str:
    return whole if now == whole else f"{now} of {whole}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    whole = int(seconds)
    if whole >= 3600:
        return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02} left"
    return f"{whole // 60}:{whole % 60:02} left"
