"""Sockets on which peers may call us: where, and what to do when the place is taken.

Owns opening them; :meth:`datfs.net.swarm.Swarm.listen` serves who calls. The port is what discovery announces.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import trio

from datfs.errors import BadLink
from datfs.net.transport import DEFAULT_PORT, parse_address, show_address

EVERYWHERE = "0.0.0.0"
EVERYWHERE_V6 = "::"


@dataclass(frozen=True, slots=True)
class ListenAt:
    """Where to listen. ``host``: None for all addresses. ``port``: 0 for a free one, None for 3282, else a free one.

    ``needed``: whether it is an error if there is no socket to be had at all.
    """

    host: str | None = None
    port: int | None = None
    needed: bool = True

    def __str__(self) -> str:
        return show_address((self.host or "", self.port or 0)).removeprefix(":")


def parse_listen(text: str) -> ListenAt:
    """``[HOST:]PORT`` or ``HOST``; port 0 is a free one. Raises BadLink."""
    if text.isascii() and text.isdecimal() and int(text) < 65536:
        return ListenAt(None, int(text))
    host, _, port = text.rpartition(":")
    if port == "0":
        return ListenAt(host.strip("[]") or None, 0)
    return ListenAt(*parse_address(text))


async def open_listeners(at: ListenAt, notice: Callable[[str], None]) -> list[trio.SocketListener]:
    """Listens there; all sockets have one port. ``notice`` is told when that is not the usual one and nobody chose it.

    Raises OSError if the place is taken or not ours, BadLink if there is none of that name.
    """
    try:
        if at.port is not None or at.host is not None:
            return await _open(at.host, DEFAULT_PORT if at.port is None else at.port)
        try:
            return await _open(None, DEFAULT_PORT)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
        listeners = await _open(None, 0)
        notice(f"port {DEFAULT_PORT} is taken by another program; listening on port {port_of(listeners)}")
        return listeners
    except socket.gaierror as error:
        raise BadLink(f"{at.host!r} is no address to listen on: {error.strerror}") from None
    except OSError as error:
        if not at.needed:
            notice(f"cannot listen for peers ({error.strerror}); others are found all the same")
            return []
        raise OSError(error.errno, f"cannot listen on {at}: {error.strerror}; port 0 takes a free one") from None


async def _open(host: str | None, port: int) -> list[trio.SocketListener]:
    if host is not None:
        listeners = await trio.open_tcp_listeners(port, host=host)
        while len({listener.socket.getsockname()[1] for listener in listeners}) > 1:
            listeners.pop().socket.close()  # a name with several addresses, each with a free port of its own
        return listeners
    try:
        listeners = await trio.open_tcp_listeners(port, host=EVERYWHERE)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise
        return await trio.open_tcp_listeners(port, host=EVERYWHERE_V6)
    with contextlib.suppress(OSError):  # no IPv6 here, or the port of IPv6 is somebody else's
        listeners += await trio.open_tcp_listeners(port_of(listeners), host=EVERYWHERE_V6)
    return listeners


def port_of(listeners: Sequence[trio.SocketListener]) -> int:
    """The port that all of them listen on."""
    port: int = listeners[0].socket.getsockname()[1]
    return port
