"""Where addresses of peers come from. One small protocol; each way of finding peers is a module of its own."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol

from datfs.net.transport import Address


class Discovery(Protocol):
    """A way of finding peers for a drive. ``problem``: why it finds nothing just now, for people; None if it works."""

    name: str
    problem: str | None

    def find(self, discovery_key: bytes) -> AsyncGenerator[Address, None]:
        """Yields addresses as they are found; ends when no more will be. Never raises for a network that is down.

        To be closed (``contextlib.aclosing``): what was announced is taken back then.
        """
        ...
