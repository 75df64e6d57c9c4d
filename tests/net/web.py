"""A small HTTPS server on loopback that answers what a test tells it to, and the certificates that it needs."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import h11
import trio
import trustme


@dataclass
class Reply:
    """What to answer. ``pause``: seconds before it. ``raw``: these bytes instead of an HTTP answer."""

    status: int = 200
    body: bytes = b""
    headers: list[tuple[str, str]] = field(default_factory=list)
    pause: float = 0.0
    raw: bytes | None = None


@dataclass
class Web:
    """A running server: its port, whom it is trusted by, what it was asked."""

    port: int
    trust: ssl.SSLContext
    asked: list[tuple[str, str]]
    """Host and target of each request."""


@asynccontextmanager
async def https_server(
    answer: Callable[[str, str], Reply], *, names: tuple[str, ...] = ("example.org",)
) -> AsyncIterator[Web]:
    """A server for these names, for as long as the context lasts; ``answer`` gets host and target."""
    authority = trustme.CA()
    ours, theirs = ssl.create_default_context(), ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.configure_trust(ours)
    authority.issue_cert(*names).configure_cert(theirs)
    (plain,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    listeners = [trio.SSLListener(plain, theirs, https_compatible=True)]
    web = Web(plain.socket.getsockname()[1], ours, [])

    async def serve(stream: trio.SSLStream[trio.SocketStream]) -> None:
        try:
            await _serve(stream, web, answer)
        except (trio.BrokenResourceError, trio.ClosedResourceError, h11.ProtocolError):
            pass  # the client has seen enough
        finally:
            await trio.aclose_forcefully(stream)

    failed: Exception | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, listeners)
        try:
            yield web
        except Exception as error:  # goes on as it is, not in the nursery's group
            failed = error
        nursery.cancel_scope.cancel()
    if failed is not None:
        raise failed


async def _serve(stream: trio.SSLStream[trio.SocketStream], web: Web, answer: Callable[[str, str], Reply]) -> None:
    http = h11.Connection(h11.SERVER)
    while (event := http.next_event()) is not h11.PAUSED and not isinstance(event, h11.EndOfMessage):
        if event is h11.NEED_DATA:
            http.receive_data(bytes(await stream.receive_some(4096)))
        elif isinstance(event, h11.Request):
            host = dict(event.headers)[b"host"].decode()
            web.asked.append((host, event.target.decode()))
            reply = answer(*web.asked[-1])
        elif isinstance(event, h11.ConnectionClosed):
            return
    await trio.sleep(reply.pause)
    if reply.raw is not None:
        await stream.send_all(reply.raw)
        return
    headers = [*reply.headers, ("Content-Length", str(len(reply.body)))]
    for part in (
        h11.Response(status_code=reply.status, headers=headers),
        h11.Data(data=reply.body),
        h11.EndOfMessage(),
    ):
        await stream.send_all(http.send(part) or b"")


class AllHere(trio.abc.HostnameResolver):
    """Every name is this machine, but those of ``missing``."""

    def __init__(self, *missing: str) -> None:
        self._missing = missing

    async def getaddrinfo(  # type: ignore[override]
        self, host: bytes | str | None, port: int, *rest: object
    ) -> list[tuple[int, int, int, str, tuple[str, int]]]:
        """As the system's, for the names of a test."""
        name = host.decode() if isinstance(host, bytes) else host or ""
        if name in self._missing:
            raise OSError(-2, "Name or service not known")
        return [(trio.socket.AF_INET, trio.socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    async def getnameinfo(self, *args: object) -> tuple[str, str]:
        """Nothing here asks for it."""
        raise NotImplementedError
