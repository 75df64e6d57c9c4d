"""``datfs share``: serves a drive that is on this machine to others."""

from __future__ import annotations

import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import click
import trio
from rich.console import Console

from datfs.cli.failures import explain
from datfs.cli.options import (
    TargetType,
    drive_options,
    json_option,
    listen_options,
    listening,
    make_options,
    notice,
    quiet_option,
)
from datfs.cli.output import count, print_json
from datfs.cli.publish import import_all, opened_folder
from datfs.cli.reports import tell_change, tell_left_out
from datfs.client import OpenDrive, open_drive
from datfs.errors import DatfsError
from datfs.folder.committing import Report, WorkingFolder
from datfs.folder.compare import LeftOut
from datfs.folder.watching import FolderWatch, Stopped, Until
from datfs.folder_growth import FolderGrowth
from datfs.link import Link, discovery_key
from datfs.local_sockets import drive_socket
from datfs.net.discovery.names import NamedLink
from datfs.net.listening import ListenAt
from datfs.net.swarm import Swarm
from datfs.text import show_size

STATUS_INTERVAL = 1.0


@click.command()
@click.argument("link", metavar="[DIR|LINK]", type=TargetType(named=True), default=".")
@click.option("--watch", is_flag=True, help="Bring changes of the folder into the drive as they happen.")
@listen_options
@json_option
@quiet_option
@drive_options
def share(
    link: Link | NamedLink | Path,
    watch: bool,
    listen: ListenAt | None,
    no_listen: bool,
    as_json: bool,
    quiet: bool,
    version: int | None,
    **rest: Any,
) -> None:
    """Serve a drive on this machine to others until stopped.

    DIR is a folder that holds a drive, LINK one of which something is in the cache. What other commands commit in DIR
    meanwhile is served too. With --watch nobody else writes the drive.
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
    if watch and not isinstance(link, Path):
        raise click.UsageError("--watch is for the folder of a drive that can be written")

    async def run(working: WorkingFolder | None = None, imported: Report | None = None) -> None:
        async with open_drive(link, options, notice=notice) as opened:
            assert opened.swarm is not None
            if not opened.local.in_cache:
                opened.local.offer_status(drive_socket(discovery_key(opened.drive.key)))
            where = list(opened.swarm.listening)
            if as_json:
                print_json({"link": f"dat://{opened.drive.key.hex()}", "listening": where})
            else:
                print(f"dat://{opened.drive.key.hex()}")
                print(f"listening on {', '.join(where)}" if where else "not listening; peers are dialed")
            sys.stdout.flush()
            if imported is not None:
                _tell(imported, as_json)
            await _until_stopped(opened, working, as_json)

    if not watch:
        trio.run(run)
        return
    assert isinstance(link, Path)
    with opened_folder(link) as working:
        trio.run(run, working, import_all(working, quiet))


async def _until_stopped(opened: OpenDrive, working: WorkingFolder | None, as_json: bool) -> None:
    swarm = opened.swarm
    assert swarm is not None
    console = Console(stderr=True)
    until = Until()
    failed: list[Exception] = []

    async def guarded(work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except (DatfsError, OSError) as error:  # raised outside, so that it does not come wrapped in a group
            failed.append(error)
            nursery.cancel_scope.cancel()

    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            if console.is_terminal:
                nursery.start_soon(_live_line, console, swarm)
            if opened.store.read_only and opened.store.folder is not None:
                growth = FolderGrowth(opened)
                swarm.refresh = growth.look  # who calls just after a commit gets it
                nursery.start_soon(guarded, growth.follow)
                if working is not None:
                    nursery.start_soon(guarded, partial(_watch, working, growth, until, as_json))
            async for _ in signals:
                break
            until.stop()
            nursery.cancel_scope.cancel()
    if failed:
        raise failed[0]
    print("datfs: stopped", file=sys.stderr)


def _tell(report: Report, as_json: bool) -> None:
    for one in report.done:
        tell_change(one, 0, as_json)
    tell_left_out(report.left_out, as_json)
    sys.stdout.flush()


async def _watch(working: WorkingFolder, growth: FolderGrowth, until: Until, as_json: bool) -> None:
    """Commits what happens in the folder, and lets peers know at once."""
    told: set[LeftOut] = set()

    def tell(report: Report) -> None:
        growth.look()
        report.left_out = [one for one in report.left_out if one not in told]
        told.update(report.left_out)
        _tell(report, as_json)

    def trouble(error: OSError) -> None:
        notice(f"{explain(error)}; it is tried again")

    with suppress(Stopped):
        await FolderWatch(working, tell, trouble, until).run()


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
