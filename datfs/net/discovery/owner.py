"""The process of this machine that owns a drive's store, as a peer of those that want to look in as well.

Its address is no address of a network: ``("owner", pid)``, which only :func:`connector` knows how to dial.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path

import trio

from datfs import local_sockets
from datfs.net.transport import Address, connect

HOST = "owner"


class Owner:
    """``folder``: of the store. ``pid``: of the process that has it, 0 if that is not known."""

    name = "owner"
    problem: str | None = None

    def __init__(self, folder: Path, pid: int) -> None:
        self.folder = folder
        self.pid = pid

    @property
    def address(self) -> Address:
        """What :func:`connector` takes for it."""
        return HOST, self.pid

    async def find(self, discovery_key: bytes) -> AsyncGenerator[Address, None]:
        """The one address, then the end."""
        yield self.address


def connector(owner: Owner) -> Callable[[Address], Awaitable[trio.abc.Stream]]:
    """Dials the owner through its socket, and everybody else over the network."""

    async def dial(address: Address) -> trio.abc.Stream:
        if address == owner.address:
            return await local_sockets.connect(owner.folder, local_sockets.PEER_NAME)
        return await connect(address)

    return dial
