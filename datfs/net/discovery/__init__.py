"""Where addresses of peers come from. One small protocol; each way of finding peers is a module of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

from datfs.net.transport import Address


class Discovery(Protocol):
    """A way of finding peers for a drive."""

    name: str

    def find(self, discovery_key: bytes) -> AsyncIterator[Address]:
        """Yields addresses as they are found; ends when no more will be. Never raises for a network that is down."""
        ...
