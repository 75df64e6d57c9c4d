"""How many bytes may be fetched from peers in all, for the life of a mount.

Counted are the bytes of chunks that were asked for and came, of both registers, whatever they were asked for: a reader,
read-ahead, a listing. What the protocol adds (proofs, announcements) is not. What is on its way when the budget ends is
stored and counted when it comes, so a budget may be passed by that. Requests are held back, going by chunks of the
usual size, so that it is one chunk where no chunk is larger than :data:`USUAL_CHUNK`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from datfs.errors import BudgetSpent
from datfs.text import show_size

log = logging.getLogger(__name__)

USUAL_CHUNK = 65_536


class Budget:
    """``total`` bytes, of which ``spent`` are. ``on_end``: called once, when the last is."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.spent = 0
        self.on_end: list[Callable[[], None]] = []

    @property
    def left(self) -> int:
        """Bytes that may still be fetched."""
        return max(0, self.total - self.spent)

    def error(self) -> BudgetSpent:
        """What a reader is told."""
        return BudgetSpent(f"the budget of {show_size(self.total)} is used up: only what is here can be read")

    def requests(self, in_flight: int) -> int:
        """How many more chunks may be asked for when so many are on their way."""
        return max(0, -(-self.left // USUAL_CHUNK) - in_flight)

    def spend(self, size: int) -> None:
        """So many bytes came."""
        before, self.spent = self.left, self.spent + size
        if before and not self.left:
            log.warning("the budget of %s is used up: nothing more is fetched", show_size(self.total))
            for end in self.on_end:
                end()
