"""How much went over a connection, and how fast. Pure: the time is passed in.

A :class:`Meter` counts one direction of one connection and passes everything on to that of the whole swarm.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

WINDOW = 5.0  # seconds over which a rate is taken
SLOT = 0.25  # seconds that are counted together


class Meter:
    """Bytes in one direction. ``into``: counts everything that this one counts, too."""

    def __init__(self, into: Meter | None = None) -> None:
        self.total = 0
        self._into = into
        self._slots: deque[tuple[int, int]] = deque()  # number of the slot, bytes in it

    def add(self, size: int, now: float) -> None:
        """So many bytes went over at this moment; moments must not go back."""
        self.total += size
        slot = math.floor(now / SLOT)
        if self._slots and self._slots[-1][0] == slot:
            self._slots[-1] = (slot, self._slots[-1][1] + size)
        else:
            self._slots.append((slot, size))
            self._forget(slot)
        if self._into is not None:
            self._into.add(size, now)

    def rate(self, now: float) -> float:
        """Bytes per second over the last :data:`WINDOW` seconds."""
        self._forget(math.floor(now / SLOT))
        return sum(size for _, size in self._slots) / WINDOW

    def _forget(self, slot: int) -> None:
        oldest = slot - round(WINDOW / SLOT)
        while self._slots and self._slots[0][0] <= oldest:
            self._slots.popleft()


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes on the wire so far, and bytes per second, the mean of the last :data:`WINDOW` seconds."""

    received: int = 0
    sent: int = 0
    receiving: float = 0.0
    sending: float = 0.0


NO_TRAFFIC = Traffic()


class Meters:
    """Both directions of one connection, or of all together. ``into``: those of the whole."""

    def __init__(self, into: Meters | None = None) -> None:
        self.received: Meter = Meter(into.received if into is not None else None)
        self.sent: Meter = Meter(into.sent if into is not None else None)

    def traffic(self, now: float) -> Traffic:
        """What was counted until now."""
        return Traffic(self.received.total, self.sent.total, self.received.rate(now), self.sent.rate(now))
