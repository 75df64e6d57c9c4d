"""What programs do with a mounted tree at one moment, as plain values: what a status tells of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from datfs.vfs import Entry


@dataclass(frozen=True, slots=True)
class WaitingRead:
    """A program waits for bytes that are not here: ``offset`` and ``size`` in bytes, ``seconds`` so far."""

    offset: int
    size: int
    seconds: float


@dataclass(frozen=True, slots=True)
class FileActivity:
    """An open file that is not here whole. ``facts``: as extended attributes. ``handles``: how often it is open."""

    entry: Entry
    facts: Mapping[bytes, bytes]
    handles: int
    reads: tuple[WaitingRead, ...]
