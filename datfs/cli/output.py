"""How names, bytes and entries look in what commands print (``docs/json.md``)."""

from __future__ import annotations

import hashlib
import json
import os
import stat as stat_bits
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import click

from datfs.text import count as count
from datfs.text import ranges_text as ranges_text
from datfs.text import show
from datfs.text import text_of as text_of
from datfs.vfs import Entry, Kind

BYTES_SHOWN = 256  # longer ones are told by length and SHA-256


def path_text(path: Sequence[bytes]) -> str:
    """A path for JSON."""
    return "/" + "/".join(map(text_of, path))


def plain(value: Any) -> Any:
    """A value for JSON: bytes as hex, or ``length`` and ``sha256`` if there are many."""
    if isinstance(value, bytes | bytearray | memoryview):
        data = bytes(value)
        if len(data) <= BYTES_SHOWN:
            return data.hex()
        return {"length": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    if isinstance(value, Mapping):
        return {name: plain(one) for name, one in value.items()}
    if isinstance(value, tuple | list):
        return [plain(one) for one in value]
    return value


def print_json(facts: Mapping[str, Any]) -> None:
    """One object on one line."""
    print(json.dumps(plain(facts)))


def write_name(name: bytes, *, before: str = "", after: str = "", directory: bool = False) -> None:
    """A line with a name in it: escaped on a terminal, and bold if it is a directory's; as it is into a pipe."""
    if sys.stdout.isatty():
        text = show(name)
        print(before + (click.style(text, fg="blue", bold=True) if directory and colours() else text) + after)
    else:
        print(before + text_of(name) + after)


def colours() -> bool:
    """Whether the person at the terminal wants them (https://no-color.org)."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def entry_facts(entry: Entry) -> dict[str, Any]:
    """An entry as JSON has it."""
    return {
        "path": path_text(entry.path),
        "type": entry.kind.value,
        "size": entry.size,
        "mode": f"{entry.permissions:04o}",
        "mtime": entry.mtime_ns / 1e9,
    }


def mode_text(entry: Entry) -> str:
    """``drwxr-xr-x``."""
    kind = stat_bits.S_IFDIR if entry.kind is Kind.DIRECTORY else stat_bits.S_IFREG
    return stat_bits.filemode(kind | entry.permissions)


def time_text(ns: int) -> str:
    """Local time to the minute."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(ns // 1_000_000_000))
