"""A limit on bytes per second, shared fairly by all connections of a swarm. Pure: the time is passed in.

A token bucket, kept as the moment at which everything that was taken will have been paid for. A connection moves one
piece, takes for it, and waits as long as it is told before it moves the next one: so connections have their turns one
after the other, none waits for longer than a piece of each other one, and one piece of each may be moved too early.
"""

from __future__ import annotations

import math

BURST = 0.25  # seconds' worth that may go at once after a time of less
TURN = 0.05  # seconds' worth in one piece
PIECE_LEAST = 64  # at the smallest limit 64 connections have their turn every 4 s: nobody seems dead to its peer
PIECE_MOST = 256 * 1024
RATE_LEAST = 1024


class RateLimit:
    """At most ``rate`` bytes per second. ``piece``: how many bytes to take for at a time."""

    def __init__(self, rate: int) -> None:
        if rate < RATE_LEAST:
            raise ValueError(f"a limit below {RATE_LEAST} bytes per second leaves nothing that works")
        self.rate = rate
        self.piece = min(max(int(rate * TURN), PIECE_LEAST), PIECE_MOST)
        self._paid_at = -math.inf

    def take(self, size: int, now: float) -> float:
        """Takes ``size`` bytes; the seconds to wait before more is taken."""
        self._paid_at = max(self._paid_at, now - BURST) + size / self.rate
        return max(0.0, self._paid_at - now)
