"""Ctrl-C before there is anything to clean up. Imports as good as nothing: it comes before everything else."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def nothing_to_clean_up() -> Iterator[None]:
    """Meanwhile Ctrl-C ends the process by itself, as it does programs that are no Python, unless it is ignored.

    For while modules are read: it takes as long as a person takes to think better of it.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
