"""The command line. Data go to stdout; progress, notes and errors to stderr; exit codes as in ``docs/cli.md``."""

from __future__ import annotations

import logging
import os
import sys

import click

from datfs.cli import browse, mounting, sharing
from datfs.cli.failures import EXIT_INTERRUPTED, exit_code, explain
from datfs.errors import DatfsError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="datfs", message="%(prog)s %(version)s")
@click.option("--debug", is_flag=True, help="Log everything, and show tracebacks of errors.")
@click.pass_context
def cli(context: click.Context, debug: bool) -> None:
    """Look into dat:// drives with the tools you already use.

    LINK is dat://<64 hex digits>[+VERSION][/path], the 64 digits alone, or a folder that holds a drive.
    """
    context.obj = debug
    logging.basicConfig(
        level=logging.DEBUG if debug else logging.WARNING, stream=sys.stderr, format="datfs: %(message)s"
    )


for command in (*browse.COMMANDS, *mounting.COMMANDS, *sharing.COMMANDS):
    cli.add_command(command)


def main() -> None:
    """Entry point: runs the command line and turns errors into one line and an exit code."""
    debug = "--debug" in sys.argv
    try:
        cli(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:
        # The reader of our output has seen enough (head). Nothing more may be written, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except (DatfsError, OSError) as error:
        if debug:
            raise
        print(f"datfs: {explain(error)}", file=sys.stderr)
        sys.exit(exit_code(error))
    except BaseExceptionGroup as group:
        if group.subgroup(KeyboardInterrupt) is not None and not debug:
            sys.exit(EXIT_INTERRUPTED)
        raise
