"""Which known key a mistyped one may be. Pure."""

from __future__ import annotations

from collections.abc import Iterable

MISTAKES_MOST = 3  # digits changed, left out, added or (as two) swapped: keys are never that near by chance


def nearest(text: str, keys: Iterable[bytes]) -> tuple[bytes, int] | None:
    """The key whose 64 hex digits are nearest to ``text``, and how many changes away.

    None if no key is near, or ``text`` is one. Case does not count.
    """
    text = text.lower()
    best: tuple[bytes, int] | None = None
    for key in keys:
        digits = key.hex()
        if text == digits:
            return None
        if _may_be_near(text, digits):
            changes = _distance(text, digits)
            if changes <= MISTAKES_MOST and (best is None or changes < best[1]):
                best = key, changes
    return best


def _may_be_near(text: str, digits: str) -> bool:
    """Of one part more than there are mistakes, one part is without any."""
    if abs(len(text) - len(digits)) > MISTAKES_MOST:
        return False
    size = len(digits) // (MISTAKES_MOST + 1)
    return any(digits[start : start + size] in text for start in range(0, len(digits), size))


def _distance(a: str, b: str) -> int:
    """Levenshtein's."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
    return row[-1]
