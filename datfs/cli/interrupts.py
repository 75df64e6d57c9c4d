"""Signals that end a command in good order: at the next safe place instead of anywhere."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from datfs.cli.progress import Progress


class Interruptible:
    """Passes on to ``progress`` what it is told, and raises when a signal came: KeyboardInterrupt, or SystemExit."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._signal = 0

    def file(self, name: bytes) -> None:
        """This file is next."""
        self._check()
        self._progress.file(name)

    def advance(self, size: int) -> None:
        """So many bytes of it are done."""
        self._check()
        self._progress.advance(size)

    def file_done(self) -> None:
        """It is done."""
        self._progress.file_done()

    def came(self, number: int, frame: FrameType | None) -> None:
        """A signal. The second one does not wait for a safe place."""
        if self._signal:
            self._signal = number
            self._check()
        self._signal = number

    def _check(self) -> None:
        if self._signal == signal.SIGINT:
            raise KeyboardInterrupt
        if self._signal:
            raise SystemExit(128 + self._signal)


@contextmanager
def interruptible(progress: Progress) -> Iterator[Interruptible]:
    """While the context lasts SIGINT and SIGTERM wait for the next thing that is told."""
    told = Interruptible(progress)
    before = {number: signal.signal(number, told.came) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
