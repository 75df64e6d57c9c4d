"""Addresses as people write them, and streams of either kind."""

from __future__ import annotations

import socket

import pytest
import trio
import trio.testing

from datfs.errors import BadLink
from datfs.net.transport import (
    LITTLE_IN_A_ROW,
    RECEIVE_FIRST,
    RECEIVE_MOST,
    ReceiveBuffer,
    connect,
    parse_address,
    receive_into,
    show_address,
)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("example.org:99", ("example.org", 99)),
        ("example.org", ("example.org", 3282)),
        ("10.0.0.1:1", ("10.0.0.1", 1)),
        ("[::1]:65535", ("::1", 65535)),
        ("[::1]", ("::1", 3282)),
        ("fe80::1", ("fe80::1", 3282)),
    ],
)
def test_addresses(text: str, address: tuple[str, int]) -> None:
    """HOST:PORT, HOST, [V6]:PORT and a bare IPv6 address; what is shown reads back as the same."""
    assert parse_address(text) == address
    assert parse_address(show_address(address)) == address


@pytest.mark.parametrize(
    "text", ["", ":80", "a:0", "a:65536", "a:b", "a:", "[::1", "[::1]x:1", "[]:5", "a:-1", "a:\u0661"]
)
def test_what_is_no_address(text: str) -> None:
    """Refused with a reason that shows the text."""
    with pytest.raises(BadLink, match="address"):
        parse_address(text)


async def test_receiving_from_sockets_and_other_streams() -> None:
    """Both kinds fill the buffer from its start and say how much; 0 at the end, BrokenResourceError after a reset."""
    buffer = bytearray(8)
    ours, theirs = trio.testing.memory_stream_pair()
    await theirs.send_all(b"0123456789")
    assert await receive_into(ours, buffer) == 8
    assert buffer == b"01234567"
    assert await receive_into(ours, buffer) == 2
    await theirs.aclose()
    assert await receive_into(ours, buffer) == 0

    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    stream = await connect(listener.socket.getsockname())
    assert stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    other = await listener.accept()
    await other.send_all(b"abc")
    assert await receive_into(stream, buffer) == 3
    assert buffer[:3] == b"abc"
    other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    await other.aclose()
    with pytest.raises(trio.BrokenResourceError):
        await receive_into(stream, buffer)
    await stream.aclose()
    await listener.aclose()


def test_a_receive_buffer_is_as_large_as_it_is_used() -> None:
    """It grows while a peer fills it, up to a MiB, and shrinks when it did not for long."""
    buffer = ReceiveBuffer()
    sizes = []
    for _ in range(6):
        sizes.append(len(buffer.view))
        buffer.fit(len(buffer.view))
    assert sizes == [65536, 131072, 262144, 524288, 1048576, 1048576]
    for _ in range(LITTLE_IN_A_ROW - 1):
        buffer.fit(RECEIVE_FIRST)
    buffer.fit(RECEIVE_FIRST + 1)
    for _ in range(LITTLE_IN_A_ROW - 1):
        buffer.fit(1)
    assert len(buffer.view) == RECEIVE_MOST
    buffer.fit(1)
    assert len(buffer.view) == RECEIVE_FIRST
    for _ in range(2 * LITTLE_IN_A_ROW):
        view = buffer.view
        buffer.fit(1)
        assert buffer.view is view
