"""Names and the keys that they stood for, on disk: what lets a name work offline. Knows no network and no clock."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

from datfs.link import KEY_BYTES
from datfs.net.discovery.kept_json import read_json, write_json

log = logging.getLogger(__name__)

NAMES_MOST = 1000
LIFE_MOST = 7 * 24 * 3600  # seconds that an answer may be used without asking again, whatever it says


class NameCache:
    """Names and keys in one JSON file, written whole. ``path`` None: in memory only. A broken file counts as empty."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._names: dict[str, dict[str, Any]] = {}

    def get(self, host: str) -> tuple[bytes, float] | None:
        """The key, and until when it may be used without asking (seconds since 1970)."""
        self._read()
        entry = self._names.get(host)
        return None if entry is None else (bytes.fromhex(entry["key"]), float(entry["until"]))

    def put(self, host: str, key: bytes, until: float) -> None:
        """Remembers it; the names that end first are forgotten when there are too many."""
        self._read()
        self._names[host] = {"key": key.hex(), "until": until}
        for name in sorted(self._names, key=lambda name: float(self._names[name]["until"]))[:-NAMES_MOST]:
            del self._names[name]
        self._write()

    def drop(self, host: str) -> None:
        """Forgets it."""
        self._read()
        if self._names.pop(host, None) is not None:
            self._write()

    def _read(self) -> None:
        if self._path is None:
            return
        try:
            entries = read_json(self._path)
            self._names = {name: entry for name, entry in (entries or {}).items() if _is_entry(entry)}
        except (OSError, ValueError, AttributeError) as error:
            log.info("the remembered names in %s cannot be read and are forgotten: %s", self._path, error)
            self._names = {}

    def _write(self) -> None:
        if self._path is None:
            return
        try:
            write_json(self._path, self._names)
        except OSError as error:
            log.info("names cannot be remembered in %s: %s", self._path, error.strerror)


def _is_entry(entry: Any) -> bool:
    try:
        return len(bytes.fromhex(entry["key"])) == KEY_BYTES and math.isfinite(float(entry["until"]))
    except (TypeError, ValueError, KeyError, OverflowError):
        return False
