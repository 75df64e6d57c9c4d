"""Who is told how far work on files has come."""

from __future__ import annotations

from typing import Protocol


class Told(Protocol):
    """Who is told how far it has come. May raise, to interrupt: nothing is left half done."""

    def file(self, name: bytes) -> None:
        """This file is next."""
        ...

    def advance(self, size: int) -> None:
        """So many bytes of it are done."""
        ...

    def file_done(self) -> None:
        """It is done."""
        ...


class Nobody:
    """Is told, and does not care."""

    def file(self, name: bytes) -> None:
        """Nothing."""

    def advance(self, size: int) -> None:
        """Nothing."""

    def file_done(self) -> None:
        """Nothing."""
