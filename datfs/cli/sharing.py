"""``datfs share``: serves a drive that is on this machine to others."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

import click
import trio
from rich.console import Console

from datfs.cli.options import (
    TargetType,
    drive_options,
    json_option,
    listen_options,
    listening,
    make_options,
    notice,
)
from datfs.cli.output import count, print_json
from datfs.client import OpenDrive, open_drive
from datfs.link import Link
from datfs.net.discovery.names import NamedLink
from datfs.net.listening import ListenAt
from datfs.net.swarm import Swarm
from datfs.text import show_size

STATUS_INTERVAL = 1.0


@click.command()
@click.argument("link", type=TargetType(named=True))
@listen_options
@json_option
@drive_options
def share(
    link: Link | NamedLink | Path,
    listen: ListenAt | None,
    no_listen: bool,
    as_json: bool,
    version: int | None,
    **rest: Any,
) -> None:
    """Serve a drive on this machine to others until stopped.

    LINK is a folder that holds a drive, or a link of which something is in the cache.
    """
    if version is not None:
        raise click.UsageError("share serves every version that is here; --version makes no sense")
    if rest["offline"]:
        raise click.UsageError("share needs the network; --offline makes no sense")

    options = listening(make_options(**rest), listen, no_listen, usual=ListenAt())
    if options.listen is None and not options.may_find_peers:
        raise click.UsageError("with --no-listen share needs --peer or --discovery: nobody could get anything")
    if options.listen is None and isinstance(link, Path):
        raise click.UsageError("a folder is served to peers that call; --no-listen makes no sense")

    async def run() -> None:
        async with open_drive(link, options, notice=notice) as opened:
            assert opened.swarm is not None
            where = list(opened.swarm.listening)
            if as_json:
                print_json({"link": f"dat://{opened.drive.key.hex()}", "listening": where})
            else:
                print(f"dat://{opened.drive.key.hex()}")
                print(f"listening on {', '.join(where)}" if where else "not listening; peers are dialed")
            sys.stdout.flush()
            await _until_stopped(opened)

    trio.run(run)


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
