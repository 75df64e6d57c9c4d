"""How fast files arrive: how many bytes of each were here at some moments, and the rate that follows. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Mapping

WINDOW = 5.0  # seconds over which a rate is taken
APART = 0.25  # seconds between two moments that are worth keeping


class Transfers:
    """Of any number of files; one that is not named any more is forgotten."""

    def __init__(self) -> None:
        self._seen: dict[Hashable, deque[tuple[float, int]]] = {}

    def note(self, now: float, held: Mapping[Hashable, int]) -> None:
        """So many bytes of these files are here at this moment; moments must not go back."""
        self._seen = {file: self._seen.get(file, deque()) for file in held}
        for file, count in held.items():
            seen = self._seen[file]
            if not seen or now - seen[-1][0] >= APART:
                seen.append((now, count))
            while len(seen) > 1 and now - seen[1][0] >= WINDOW:
                seen.popleft()

    def rate(self, file: Hashable, now: float, held: int) -> float:
        """Bytes per second up to this moment, at which ``held`` are here; 0 if nothing is known, or some were dropped.

        Over the last :data:`WINDOW` seconds, or since the file was first noted if that is less.
        """
        seen = self._seen.get(file)
        if not seen or now <= seen[0][0]:
            return 0.0
        since, before = seen[0]
        return max(0.0, (held - before) / (now - since))
