"""Byte streams to peers: TCP today, and the place where uTP would go.

A stream is anything that trio calls a stream; TCP sockets are read into a buffer of ours, so that decryption can work
in place, other streams (memory, Unix sockets) through a copy.
"""

from __future__ import annotations

import socket

import trio

from datfs.errors import BadLink
from datfs.net.places import Address as Address  # also for those who dial

DEFAULT_PORT = 3282
CONNECT_TIMEOUT = 5.0
RECEIVE_FIRST = 64 * 1024  # bytes received at a time
RECEIVE_MOST = 1024 * 1024  # for a peer that sends as much as we can take: what comes together costs less
LITTLE_IN_A_ROW = 100  # times that a peer sends no more than RECEIVE_FIRST before its memory shrinks to that


def parse_address(text: str, default_port: int = DEFAULT_PORT) -> Address:
    """``host:port``, ``host``, ``[v6]:port`` or a bare IPv6 address. Raises BadLink."""
    host, separator, port = text.rpartition(":")
    if text.startswith("["):
        host, separator, port = text.partition("]")
        host, port = host[1:], port[1:] if port.startswith(":") else port or str(default_port)
        if not separator:
            raise BadLink(f"{text!r} is not an address: the ']' is missing")
    elif not separator or text.count(":") > 1:
        host, port = text, str(default_port)
    if not host or not (port.isascii() and port.isdecimal()) or not 0 < int(port) < 65536:
        raise BadLink(f"{text!r} is not an address: expected HOST:PORT with a port from 1 to 65535")
    return host, int(port)


def show_address(address: Address) -> str:
    """``host:port``, with brackets round an IPv6 address."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def connect(address: Address) -> trio.SocketStream:
    """Connects over TCP. Raises OSError, or trio.TooSlowError after 5 seconds."""
    with trio.fail_after(CONNECT_TIMEOUT):
        stream = await trio.open_tcp_stream(*address)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return stream


async def receive_into(stream: trio.abc.Stream, buffer: bytearray | memoryview) -> int:
    """Receives at least one byte into ``buffer``; returns how many, 0 at the end of the stream."""
    if isinstance(stream, trio.SocketStream):
        try:
            return await stream.socket.recv_into(buffer)
        except OSError as error:
            raise trio.BrokenResourceError(str(error)) from error
    data = await stream.receive_some(len(buffer))
    buffer[: len(data)] = data
    return len(data)


class ReceiveBuffer:
    """Memory to receive into, as large as the peer's speed makes use of. ``view``: all of it."""

    def __init__(self) -> None:
        self.view = memoryview(bytearray(RECEIVE_FIRST))
        self._little = 0  # times in a row that the first size would have been enough

    def fit(self, count: int) -> None:
        """So many bytes came, and nobody needs them any more: another view may be the right one for the next."""
        self._little = self._little + 1 if count <= RECEIVE_FIRST else 0
        if count == len(self.view) < RECEIVE_MOST:
            self.view = memoryview(bytearray(2 * count))
        elif self._little == LITTLE_IN_A_ROW and len(self.view) > RECEIVE_FIRST:
            self.view = memoryview(bytearray(RECEIVE_FIRST))
