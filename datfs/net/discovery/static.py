"""Addresses given by hand."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

from datfs.net.transport import Address


class StaticPeers:
    """Yields the addresses it was given, for every drive."""

    name = "given"
    problem: str | None = None

    def __init__(self, addresses: Sequence[Address]) -> None:
        self._addresses = list(addresses)

    @property
    def is_empty(self) -> bool:
        """Whether none was given."""
        return not self._addresses

    async def find(self, discovery_key: bytes) -> AsyncGenerator[Address, None]:
        """All of the addresses, then the end."""
        for address in self._addresses:
            yield address
