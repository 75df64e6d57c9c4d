"""What an error is to the person at the terminal: one line, and an exit code (``docs/cli.md``)."""

from __future__ import annotations

import errno
import os

import click

from datfs.errors import (
    BadLink,
    BadProof,
    DatfsError,
    IntegrityError,
    IsADirectory,
    MountError,
    NotADirectory,
    NotADrive,
    NotFound,
    Unavailable,
)

# The most exact class first: the first row that fits decides.
EXIT_CODES: tuple[tuple[type[DatfsError], int], ...] = (
    (NotADrive, 4),
    (BadLink, 7),
    (MountError, 8),
    (Unavailable, 5),
    (IntegrityError, 6),
    (BadProof, 6),
    (NotFound, 3),
    (NotADirectory, 3),
    (IsADirectory, 3),
)
EXIT_OTHER = 1
EXIT_INCOMPLETE = 9  # for commands that did what they could, and named what they could not
EXIT_INTERRUPTED = 130


def exit_code(error: Exception) -> int:
    """The exit code for an error (``docs/cli.md``)."""
    for kind, code in EXIT_CODES:
        if isinstance(error, kind):
            return code
    return EXIT_OTHER


def explain(error: Exception) -> str:
    """One line for people."""
    if isinstance(error, OSError) and error.strerror:
        if error.filename is None:
            if _is_lost(error):
                why = "is gone" if error.errno == errno.ENOENT else f"is on a mount that has ended ({error.strerror})"
                return f"the current directory {why}: cd to another one first"
            # Files are named by whoever opens them: what has no name is the output.
            return f"the output cannot be written: {error.strerror}" if error.errno == errno.ENOSPC else error.strerror
        return f"{error.filename}: {error.strerror}{_hint(error)}"
    return str(error) or type(error).__name__


def _is_lost(error: OSError) -> bool:
    """Whether it is because of where we are. Libraries ask for that when they are read."""
    try:
        os.getcwd()
    except OSError as of_place:
        return of_place.errno == error.errno
    return False


def _hint(error: OSError) -> str:
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return ""
    in_folder = ".dat" in str(error.filename).split("/")
    return ": free some room" + (", and do it again" if in_folder else ", or give another --cache-dir")


def explain_usage(error: click.ClickException) -> str:
    """One line for a command that was not understood, and where to look."""
    text = error.format_message().rstrip(".")
    context = error.ctx if isinstance(error, click.UsageError) else None
    return f"{text} (try: {context.command_path} -h)" if context is not None else text
