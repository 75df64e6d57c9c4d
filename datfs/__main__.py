"""``python -m datfs``, and where the installed commands begin. Ctrl-C while modules are read ends them quietly."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def _nothing_to_clean_up() -> Iterator[None]:
    """Meanwhile Ctrl-C ends the process by itself, as it does programs that are no Python, unless it is ignored."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def main() -> None:
    """Entry point of ``datfs``."""
    with _nothing_to_clean_up():
        from datfs.cli import main as run
    run()


def mount_helper() -> None:
    """Entry point of ``mount.datfs``."""
    with _nothing_to_clean_up():
        from datfs.cli.mount_helper import main as run
    run()


if __name__ == "__main__":
    main()
