"""Where we listen: the usual port or a free one, one port for all sockets, and words for what cannot be."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator

import pytest
import trio

from datfs.errors import BadLink
from datfs.net import listening
from datfs.net.listening import ListenAt, open_listeners, parse_listen, port_of


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A port on which somebody listens, as if it were the usual one."""
    with socket.create_server(("0.0.0.0", 0)) as server:
        port: int = server.getsockname()[1]
        monkeypatch.setattr(listening, "DEFAULT_PORT", port)
        yield port


async def opened(at: ListenAt, said: list[str]) -> set[tuple[str, int]]:
    """Where it listens; everything is closed again."""
    listeners = await open_listeners(at, said.append)
    try:
        places = {listener.socket.getsockname()[:2] for listener in listeners}
        assert not places or {port for _, port in places} == {port_of(listeners)}
        return places
    finally:
        for listener in listeners:
            await listener.aclose()


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("3300", ListenAt(None, 3300)),
        ("0", ListenAt(None, 0)),
        ("127.0.0.1:0", ListenAt("127.0.0.1", 0)),
        ("127.0.0.1", ListenAt("127.0.0.1", 3282)),
        ("[::1]:0", ListenAt("::1", 0)),
        ("::1", ListenAt("::1", 3282)),
        (":0", ListenAt(None, 0)),
        ("example.org:80", ListenAt("example.org", 80)),
    ],
)
def test_words_for_places(text: str, at: ListenAt) -> None:
    """A port, a host, or both; port 0 for a free one."""
    assert parse_listen(text) == at


@pytest.mark.parametrize("text", ["", "x:y", "127.0.0.1:65536", "127.0.0.1:-1", "65536:", "[::1"])
def test_words_for_no_place(text: str) -> None:
    """Anything else is refused."""
    with pytest.raises(BadLink):
        parse_listen(text)


async def test_the_usual_port_is_taken(taken: int) -> None:
    """By default a free one is taken then, for IPv4 and IPv6 alike, and we say which."""
    said: list[str] = []
    places = await opened(ListenAt(), said)
    [port] = {port for _, port in places}
    assert port != taken
    assert ("0.0.0.0", port) in places
    assert said == [f"port {taken} is taken by another program; listening on port {port}"]


async def test_the_usual_port_is_free(taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then that is it, without a word."""
    said: list[str] = []
    [free] = {port for _, port in await opened(ListenAt(port=0), said)}
    monkeypatch.setattr(listening, "DEFAULT_PORT", free)
    assert ("0.0.0.0", free) in await opened(ListenAt(), said)
    assert not said


async def test_a_chosen_port_that_is_taken(taken: int) -> None:
    """Who asked for a port gets that one or an error that says what to do."""
    for at in (ListenAt("127.0.0.1", taken), ListenAt(None, taken), ListenAt("127.0.0.1")):
        with pytest.raises(OSError, match=r"cannot listen on .*: Address already in use; port 0") as caught:
            await opened(at, [])
        assert caught.value.errno == errno.EADDRINUSE


async def test_a_name_has_one_port_too() -> None:
    """A name that stands for several addresses listens on one port."""
    places = await opened(ListenAt("localhost", 0), [])
    assert len({port for _, port in places}) == 1


async def test_no_such_place() -> None:
    """A name that is none, and an address that is not ours."""
    with pytest.raises(BadLink, match="no address to listen on"):
        await opened(ListenAt("no-such-host.invalid", 0), [])
    with pytest.raises(OSError, match=r"cannot listen on 203\.0\.113\.1:1"):
        await opened(ListenAt("203.0.113.1", 1), [])


async def test_a_machine_that_lets_nobody_listen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where listening is a courtesy, its refusal is told and no error."""

    async def refuse(port: int, *, host: str) -> list[trio.SocketListener]:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(trio, "open_tcp_listeners", refuse)
    said: list[str] = []
    assert await opened(ListenAt(needed=False), said) == set()
    assert said == ["cannot listen for peers (Permission denied); others are found all the same"]
    with pytest.raises(OSError, match="Permission denied"):
        await opened(ListenAt(), said)
