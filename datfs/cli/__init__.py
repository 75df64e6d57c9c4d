"""The command line. Data go to stdout; progress, notes and errors to stderr; exit codes as in ``docs/cli.md``."""

from __future__ import annotations

import importlib
import io
import logging
import os
import sys
import traceback
from typing import Any

import click

from datfs.cli.failures import EXIT_INTERRUPTED, exit_code, explain, explain_usage
from datfs.errors import DatfsError
from datfs.quiet import nothing_to_clean_up

MODULES = {
    "browse": ("ls", "tree", "stat", "cat", "info"),
    "cache": ("cache", "pin", "unpin", "prefetch"),
    "checking": ("verify",),
    "debug": ("debug",),
    "diagnosis": ("doctor",),
    "fetching": ("clone", "pull", "sync"),
    "history": ("checkout", "diff", "log"),
    "keys": ("keys",),
    "manual": ("completion", "man"),
    "mounting": ("mount", "automount", "umount"),
    "publish": ("init", "add", "rm", "commit"),
    "sharing": ("share",),
    "status": ("status", "peers", "why", "mounts"),
    "units": ("systemd-unit",),
}
"""Modules and the names of their ``COMMANDS``. Only the module of the command that runs is read: it saves a tenth of a
second."""


class Commands(click.Group):
    """The commands; a reader of our output that has seen enough (``head``) is a good end of each."""

    def list_commands(self, context: click.Context) -> list[str]:
        """The names, sorted."""
        return sorted(name for names in MODULES.values() for name in names)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """The command of a name, from its module."""
        for module, names in MODULES.items():
            if name in names:
                with nothing_to_clean_up():
                    commands: tuple[click.Command, ...] = importlib.import_module(f"datfs.cli.{module}").COMMANDS
                return next(command for command in commands if command.name == name)
        return None

    def invoke(self, context: click.Context) -> Any:
        """Runs a command. Click itself would end with 1 when the output is closed."""
        try:
            return super().invoke(context)
        except BrokenPipeError:
            drop_output()
            sys.exit(0)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="datfs", message="%(prog)s %(version)s")
@click.option("--debug", is_flag=True, help="Log everything, and show tracebacks of errors.")
@click.pass_context
def cli(context: click.Context, debug: bool) -> None:
    """Look into dat:// drives with the tools you already use.

    LINK is dat://<64 hex digits>[+VERSION][/path], the 64 digits alone, or a folder that holds a drive.
    """
    logging.basicConfig(
        level=logging.DEBUG if debug else logging.WARNING, stream=sys.stderr, format="datfs: %(message)s"
    )


def main() -> None:
    """Entry point: runs the command line and turns errors into one line and an exit code."""
    prepare_output()
    show_traceback = "--debug" in sys.argv[1:2]
    try:
        cli(prog_name="datfs", standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message(), file=sys.stderr)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        print(f"datfs: {explain_usage(error)}", file=sys.stderr)
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        drop_output()
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:
        drop_output()
        sys.exit(0)
    except (DatfsError, OSError) as error:
        if show_traceback:
            traceback.print_exc()
        print(f"datfs: {explain(error)}", file=sys.stderr)
        drop_output()
        sys.exit(exit_code(error))
    except BaseExceptionGroup as group:
        if group.split(BrokenPipeError)[1] is None:
            drop_output()
            sys.exit(0)
        if group.subgroup(KeyboardInterrupt) is not None and not show_traceback:
            drop_output()
            sys.exit(EXIT_INTERRUPTED)
        raise


def prepare_output() -> None:
    """Names go into a pipe byte by byte as they are; a terminal gets what it can show."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        if sys.stdout.isatty():
            sys.stdout.reconfigure(errors="backslashreplace")
        else:
            sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")


def drop_output() -> None:
    """Nothing more is written, not even at exit what is still in the buffer and failed before."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
