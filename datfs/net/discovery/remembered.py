"""Addresses that gave something of a drive before, kept in the drive's folder for the next time.

A way of finding peers like the others, and the one that hears of what came of each address
(:class:`datfs.net.dialer.Outcomes`). The file::

    {"10.0.0.7:3282": {"worked": 1700000000.0, "failing": null}}

``worked``: when something that verified came from there last; ``failing``: since when nobody of the drive is there,
null if somebody is; both in seconds since 1970. Only what verified brings an address in; one lie takes it out.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from datfs.errors import BadLink
from datfs.net.discovery.kept_json import read_json, write_json
from datfs.net.transport import Address, parse_address, show_address

log = logging.getLogger(__name__)

ADDRESSES_MOST = 32
FAILING_MOST = 7 * 24 * 3600.0  # seconds of failures after which an address is forgotten


@dataclass(slots=True)
class _Entry:
    worked: float
    failing: float | None = None

    def is_over(self, now: float) -> bool:
        return self.failing is not None and now - self.failing > FAILING_MOST


class Remembered:
    """The addresses in one file, those that worked last first. A broken file counts as empty.

    ``clock``: seconds since 1970. What cannot be written is remembered until the end of the program.
    """

    name = "remembered"
    problem: str | None = None

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._clock = clock
        self._entries = self._read()

    async def find(self, discovery_key: bytes) -> AsyncGenerator[Address, None]:
        """All of them, then the end."""
        now = self._clock()
        for text in self._newest_first():
            if not self._entries[text].is_over(now):
                yield parse_address(text)

    def worked(self, address: Address) -> None:
        """Remembers the address from now on."""
        self._entries[show_address(address)] = _Entry(self._clock())
        for text in self._newest_first()[ADDRESSES_MOST:]:
            del self._entries[text]
        self._write()

    def reached(self, address: Address) -> None:
        """It does not fail any more, if it is remembered."""
        entry = self._entries.get(show_address(address))
        if entry is not None and entry.failing is not None:
            entry.failing = None
            self._write()

    def failed(self, address: Address) -> None:
        """Forgets it if it has failed for long enough."""
        text, now = show_address(address), self._clock()
        entry = self._entries.get(text)
        if entry is None:
            return
        if entry.failing is None:
            entry.failing = now
        elif entry.is_over(now):
            del self._entries[text]
        else:
            return
        self._write()

    def lied(self, address: Address) -> None:
        """Forgets it."""
        if self._entries.pop(show_address(address), None) is not None:
            self._write()

    def _newest_first(self) -> list[str]:
        return sorted(self._entries, key=lambda text: -self._entries[text].worked)

    def _read(self) -> dict[str, _Entry]:
        try:
            entries = read_json(self._path)
            found = {text: _entry(text, entry) for text, entry in (entries or {}).items()}
            return {text: entry for text, entry in found.items() if entry is not None}
        except (OSError, ValueError, AttributeError) as error:
            log.info("the remembered addresses in %s cannot be read and are forgotten: %s", self._path, error)
            return {}

    def _write(self) -> None:
        try:
            write_json(self._path, {text: asdict(entry) for text, entry in self._entries.items()})
        except OSError as error:
            log.info("addresses cannot be remembered in %s: %s", self._path, error.strerror)


def _entry(text: str, fields: Any) -> _Entry | None:
    """One entry of the file; None if it is none."""
    try:
        parse_address(text)
        worked, failing = float(fields["worked"]), fields["failing"]
        entry = _Entry(worked, None if failing is None else float(failing))
    except (BadLink, TypeError, KeyError, ValueError, OverflowError):
        return None
    return entry if math.isfinite(entry.worked) and math.isfinite(entry.failing or 0.0) else None
