"""``python -m datfs``, and where the installed commands begin. Ctrl-C while modules are read ends them quietly."""

from __future__ import annotations

from datfs.quiet import nothing_to_clean_up


def main() -> None:
    """Entry point of ``datfs``."""
    with nothing_to_clean_up():
        from datfs.cli import main as run
    run()


def mount_helper() -> None:
    """Entry point of ``mount.datfs``."""
    with nothing_to_clean_up():
        from datfs.cli.mount_helper import main as run
    run()


if __name__ == "__main__":
    main()
