"""Names, numbers and sizes for people: nothing a drive or a peer says reaches a terminal or a log unescaped."""

from __future__ import annotations

import re
from collections.abc import Sequence


def show(name: bytes) -> str:
    """A name as printable text: control bytes, escapes and direction marks as ``\\x..`` or ``\\u....``.

    Bytes that are not UTF-8 come out as ``\\x..`` too.
    """
    text = name.decode("utf-8", "backslashreplace")
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def show_path(path: Sequence[bytes]) -> str:
    """A path of components as printable text, with a leading slash."""
    return "/" + "/".join(show(name) for name in path)


def show_size(size: int) -> str:
    """A number of bytes with a binary unit: ``512 B``, ``64.0 KiB``, ``1.5 GiB``."""
    if size < 1024:
        return f"{size} B"
    value = float(size)
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        value /= 1024
        if value < 1024:
            return f"{value:.1f} {unit}"
    return f"{value / 1024:.1f} PiB"


def text_of(name: bytes) -> str:
    """A name for JSON: UTF-8, other bytes as lone surrogates, which Python's ``surrogateescape`` turns back."""
    return name.decode("utf-8", "surrogateescape")


def count(number: int, one: str, many: str | None = None) -> str:
    """``1 chunk``, ``2 chunks``."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def ranges_text(ranges: Sequence[tuple[int, int]]) -> str:
    """``0-9, 12, 14-20`` for ranges ``(first, stop)``; ``none`` if there are none."""
    return ", ".join(str(a) if b == a + 1 else f"{a}-{b - 1}" for a, b in ranges) or "none"


_UNITS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4, "P": 5}
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([KMGTP]?)(?:I?B)?", re.IGNORECASE | re.ASCII)


def parse_size(text: str) -> int:
    """Bytes as people write them: ``512``, ``64K``, ``1.5G``, ``10 GiB``; units of 1024. Raises ValueError."""
    match = _SIZE.fullmatch(text.strip())
    if match is None or len(text) > 40:
        raise ValueError(f"{text!r} is not a size: expected a number of bytes, or one with K, M, G or T, as in 10G")
    return int(float(match[1]) * 1024 ** _UNITS[match[2].upper()])
