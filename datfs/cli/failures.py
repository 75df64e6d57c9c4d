"""What an error is to the person at the terminal: one line, and an exit code (``docs/cli.md``)."""

from __future__ import annotations

import errno

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
        name = f"{error.filename}: " if error.filename else ""
        hint = ": free some room, or give another --cache-dir" if error.errno == errno.ENOSPC else ""
        return f"{name}{error.strerror}{hint}"
    return str(error) or type(error).__name__
