"""What programs do with a mounted tree at one moment, as plain values: what a status tells of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

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


@dataclass(frozen=True, slots=True)
class Located:
    """What is at a path of a mounted tree. ``key``: of the drive it is of, if that is known.

    ``chunks``: ``(first, stop)`` of a file's content; None for directories. ``availability``: where the bytes of a file
    could come from (:class:`datfs.holdings.Availability`), if that is known.
    """

    entry: Entry
    key: bytes | None
    chunks: tuple[int, int] | None
    availability: str | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """Why something failed last, ``ago`` seconds ago.

    ``in_vain``: for so many seconds more to ask for it fails at once, unless something comes; 0 if it is waited for.
    """

    error: str
    ago: float
    in_vain: float


@dataclass(frozen=True, slots=True)
class Activity:
    """What programs do with a mounted tree. ``facts``: members of the status. ``sample``: for rates, once a second.

    ``locate``: finds what a path below the mount is; raises NotFound, Unavailable and other DatfsErrors, OSError.
    ``failure``: the last one of a path, or of what was found there.
    """

    facts: Callable[[], dict[str, Any]]
    sample: Callable[[], None]
    locate: Callable[[bytes], Awaitable[Located]]
    failure: Callable[[bytes, Entry | None], Failure | None]
