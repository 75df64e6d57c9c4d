"""One small HTTPS GET under strict limits: of time, of bytes, and no redirect is followed. h11 speaks the protocol."""

from __future__ import annotations

import ssl
from dataclasses import dataclass

import h11
import trio

USER_AGENT = "datfs"
HEAD_MOST = 16 * 1024  # bytes of status line and headers


@dataclass(frozen=True, slots=True)
class Answer:
    """``status``: 200 and so on. ``body``: its first bytes, as many as were allowed."""

    status: int
    body: bytes


async def get(
    host: str,
    target: str,
    *,
    accept: str,
    most: int,
    timeout: float,
    port: int = 443,
    trust: ssl.SSLContext | None = None,
) -> Answer:
    """Gets ``https://host:port/target``, reading at most ``most`` bytes of the body within ``timeout`` seconds in all.

    ``trust``: how the server's certificate is checked; the system's way if None. Raises OSError (also for a name that
    does not resolve, a certificate that is not trusted, or an answer that is not HTTP) and trio.TooSlowError.
    """
    context = trust if trust is not None else await trio.to_thread.run_sync(ssl.create_default_context)
    with trio.fail_after(timeout):
        try:
            tcp = await trio.open_tcp_stream(host, port)
            stream = trio.SSLStream(tcp, context, server_hostname=host, https_compatible=True)
            try:
                return await _converse(stream, host, target, accept, most)
            finally:
                # The answer is here, or there will be none: no reason to wait for the other side's goodbye.
                await trio.aclose_forcefully(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise OSError(_reason(error)) from error
        except h11.ProtocolError as error:
            raise OSError(f"{host} does not speak HTTP: {error}") from error


async def _converse(
    stream: trio.SSLStream[trio.SocketStream], host: str, target: str, accept: str, most: int
) -> Answer:
    http = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_MOST)
    headers = [("Host", host), ("Accept", accept), ("User-Agent", USER_AGENT), ("Connection", "close")]
    request = http.send(h11.Request(method="GET", target=target, headers=headers)) or b""
    await stream.send_all(request + (http.send(h11.EndOfMessage()) or b""))
    status = 0
    body = bytearray()
    while len(body) < most:
        event = http.next_event()
        if event is h11.NEED_DATA:
            http.receive_data(bytes(await stream.receive_some(HEAD_MOST)))
        elif isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.Data):
            body += event.data
        elif not isinstance(event, h11.InformationalResponse):
            break
    return Answer(status, bytes(body[:most]))


def _reason(error: BaseException) -> str:
    cause = error.__cause__
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {cause.verify_message}"
    return str(cause or error) or "the connection broke"
