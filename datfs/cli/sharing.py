"""``datfs share``: serves a drive that is on this machine to others."""

from __future__ import annotations

import signal
import socket
import sys
from pathlib import Path
from typing import Any

import click
import trio
from rich.console import Console

from datfs.cli.options import TargetType, drive_options, json_option, make_options, notice
from datfs.cli.output import count, print_json
from datfs.client import OpenDrive, open_drive
from datfs.errors import BadLink
from datfs.link import Link
from datfs.net.discovery.names import NamedLink
from datfs.net.swarm import Swarm
from datfs.net.transport import Address, parse_address, show_address
from datfs.text import show_size

DEFAULT_PORT = 3282
STATUS_INTERVAL = 1.0


@click.command()
@click.argument("link", type=TargetType(named=True))
@click.option(
    "--listen",
    default=None,
    metavar="HOST:PORT",
    help=f"Where to listen; port 0 is a free one. Default: port {DEFAULT_PORT} everywhere, else a free one.",
)
@json_option
@drive_options
def share(link: Link | NamedLink | Path, listen: str | None, as_json: bool, version: int | None, **rest: Any) -> None:
    """Serve a drive on this machine to others until stopped.

    LINK is a folder that holds a drive, or a link of which something is in the cache.
    """
    if version is not None:
        raise click.UsageError("share serves every version that is here; --version makes no sense")
    if rest["offline"]:
        raise click.UsageError("share needs the network; --offline makes no sense")

    async def run() -> None:
        listeners = await _listen(listen)
        options = make_options(listen=listeners, **rest)
        async with open_drive(link, options, notice=notice) as opened:
            where = [show_address(one.socket.getsockname()[:2]) for one in listeners]
            if as_json:
                print_json({"link": f"dat://{opened.drive.key.hex()}", "listening": where})
            else:
                print(f"dat://{opened.drive.key.hex()}\nlistening on {', '.join(where)}")
            sys.stdout.flush()
            await _until_stopped(opened)

    trio.run(run)


async def _listen(text: str | None) -> list[trio.SocketListener]:
    if text is None:
        try:
            return await trio.open_tcp_listeners(DEFAULT_PORT)
        except OSError:
            return await trio.open_tcp_listeners(0)
    host, port = _listen_address(text)
    try:
        return await trio.open_tcp_listeners(port, host=host)
    except socket.gaierror as error:
        raise BadLink(f"{text!r} is no address to listen on: {error.strerror}") from None
    except OSError as error:
        raise OSError(error.errno, f"cannot listen on {text}: {error.strerror}; port 0 takes a free one") from None


def _listen_address(text: str) -> Address:
    host, _, port = text.rpartition(":")
    if host and port == "0":
        return host.strip("[]"), 0
    try:
        return parse_address(text, DEFAULT_PORT)
    except BadLink as error:
        raise click.BadParameter(str(error), param_hint="--listen") from None


async def _until_stopped(opened: OpenDrive) -> None:
    swarm = opened.swarm
    assert swarm is not None
    console = Console(stderr=True)
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            if console.is_terminal:
                nursery.start_soon(_live_line, console, swarm)
            async for _ in signals:
                break
            nursery.cancel_scope.cancel()
    print("datfs: stopped", file=sys.stderr)


async def _live_line(console: Console, swarm: Swarm) -> None:
    """One line that changes: peers and rates of both directions."""
    before = swarm.bytes_out, swarm.bytes_in
    with console.status("") as status:
        while True:
            now = swarm.bytes_out, swarm.bytes_in
            up, down = (int((new - old) / STATUS_INTERVAL) for new, old in zip(now, before, strict=True))
            before = now
            peers = count(len(swarm.sessions), "peer")
            status.update(f"{peers}, up {show_size(up)}/s, down {show_size(down)}/s, sent {show_size(now[0])}")
            await trio.sleep(STATUS_INTERVAL)


COMMANDS = (share,)
