"""``datfs clone``, ``pull`` and ``sync``: copies of drives in folders that the ``dat`` command can go on with."""

from __future__ import annotations

import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click
import trio

from datfs.cli.failures import EXIT_INCOMPLETE
from datfs.cli.options import (
    TargetType,
    json_option,
    listen_options,
    listening,
    make_options,
    network_options,
    notice,
    quiet_option,
)
from datfs.cli.output import count, path_text, print_json
from datfs.cli.progress import Progress
from datfs.client import link_of
from datfs.cloning import Choice, Clone, Outcome, open_clone, read_choice, write_choice
from datfs.dat_folder import INNER
from datfs.errors import BadLink, Closed, Conflict, DatfsError, Unavailable
from datfs.folder.place import drive_folder
from datfs.link import Link
from datfs.metadata import Path as DrivePath
from datfs.net.discovery.names import NamedLink
from datfs.net.listening import ListenAt
from datfs.text import show_path, show_size

force_option = click.option("--force", is_flag=True, help="Overwrite and remove files of yours that are in the way.")
RETRY = 5.0  # seconds before a version that did not come whole is tried again


@click.command()
@click.argument("link", type=TargetType(named=True))
@click.argument("folder", metavar="[DIR]", required=False, type=click.Path(file_okay=False, path_type=Path))
@click.option("--version", "version", type=click.IntRange(min=1), help="Copy this version of the drive.")
@click.option("--select", multiple=True, metavar="PATTERN", help="Only these files, as in .gitignore; may be repeated.")
@click.option("--empty", is_flag=True, help="No files, only what there is; nor with datfs pull.")
@force_option
@json_option
@quiet_option
@network_options
def clone(
    link: Link | NamedLink | Path,
    folder: Path | None,
    version: int | None,
    select: tuple[str, ...],
    empty: bool,
    force: bool,
    as_json: bool,
    quiet: bool,
    **rest: Any,
) -> None:
    """Copy a drive, or a part of it, into DIR. After an interruption the same command goes on where it ended.

    DIR is named like the link if it is not given. The dat command can go on with it, and so can datfs pull and sync,
    which remember what was selected.
    """
    if isinstance(link, Path):
        raise BadLink(f"{link} is a folder; datfs checkout {link} -o DIR copies the files of a drive that is here")
    if empty and select:
        raise click.UsageError("--empty and --select exclude each other")
    options = make_options(**rest)
    name = link.host if isinstance(link, NamedLink) else link.key.hex()
    place = (folder or Path(name)).absolute()
    if link.path:
        select = (*select, f"/{link.path.strip('/')}")
    chosen = Choice(() if empty else select or None, version if version is not None else link.version, force)

    async def work() -> None:
        found = await link_of(link, options, notice)
        _check_place(place, force)
        place.mkdir(parents=True, exist_ok=True)
        async with open_clone(place, found.key, options, notice=notice) as copy:
            write_choice(place, chosen)
            await copy.learn_newest()
            _end(await _update(copy, chosen, as_json, quiet))

    _run(work)


def _check_place(place: Path, force: bool) -> None:
    """A folder with something in it but no drive is somebody else's. Raises Conflict, OSError."""
    if force or not place.exists() or (place / INNER / "metadata.key").exists():
        return
    if any(name.name != INNER for name in place.iterdir()):
        raise Conflict(f"{place} is not empty and holds no drive: name another folder, or give --force to use it")


@click.command()
@click.argument("folder", metavar="[DIR]", default=".", type=click.Path(exists=True, file_okay=False, path_type=Path))
@force_option
@json_option
@quiet_option
@network_options
def pull(folder: Path, force: bool, as_json: bool, quiet: bool, **rest: Any) -> None:
    """Bring the copy of a drive in DIR up to date, once."""
    options = make_options(**rest)
    place = drive_folder(folder)

    async def work() -> None:
        async with open_clone(place, None, options, notice=notice) as copy:
            await copy.learn_newest()
            _end(await _update(copy, replace(read_choice(place), force=force), as_json, quiet))

    _run(work)


@click.command()
@click.argument("folder", metavar="[DIR]", default=".", type=click.Path(exists=True, file_okay=False, path_type=Path))
@force_option
@json_option
@quiet_option
@listen_options
@network_options
def sync(
    folder: Path,
    force: bool,
    as_json: bool,
    quiet: bool,
    listen: ListenAt | None,
    no_listen: bool,
    **rest: Any,
) -> None:
    """Bring the copy of a drive in DIR up to date, and keep it so until stopped; it is served to others meanwhile.

    A file of yours that is in the way of the drive's is named and stays, and everything else goes on; when you have
    moved it away, the drive's comes.
    """
    plain = make_options(**rest)
    usual = ListenAt(needed=False) if plain.ways.names else None
    options = listening(plain, listen, no_listen, usual=usual)
    place = drive_folder(folder)
    chosen = replace(read_choice(place), force=force, around=True)
    lacking: dict[DrivePath, str] = {}  # in the folder, and why

    async def work() -> None:
        async with open_clone(place, None, options, notice=notice) as copy:
            if not quiet:
                notice(f"keeping {place} up to date; Ctrl-C ends")
            try:
                await copy.learn_newest()
            except Unavailable as error:
                if not copy.files.metadata.length:
                    raise
                notice(f"{error}; waiting for peers")
            while True:
                length = copy.files.metadata.length
                try:
                    outcome = await _update(copy, chosen, as_json, quiet, lacking)
                except Unavailable as error:
                    notice(f"{error}; it is tried again")
                    await trio.sleep(RETRY)
                    continue
                lacking.clear()
                lacking.update(outcome.failed)
                await copy.more_to_do(length, outcome.blocking)

    _run(work, endless=True)
    if lacking:
        sys.exit(EXIT_INCOMPLETE)


async def _update(
    copy: Clone, chosen: Choice, as_json: bool, quiet: bool, told: Mapping[DrivePath, str] | None = None
) -> Outcome:
    """Brings the folder up to date and says what came of it; of failures those that were not ``told`` before."""
    with Progress("fetching", "fetched", quiet=quiet) as progress:
        outcome = await copy.update(chosen, progress)
    for path, why in outcome.failed:
        if told is None or told.get(path) != why:
            notice(f"{show_path(path)} is not in the folder: {why}")
    for path in outcome.kept:
        notice(f"{show_path(path)} is not in this version of the drive; it was changed here, and stays")
    _tell(copy, outcome, as_json, quiet)
    return outcome


def _end(outcome: Outcome) -> None:
    if outcome.failed:
        sys.exit(EXIT_INCOMPLETE)


def _tell(copy: Clone, outcome: Outcome, as_json: bool, quiet: bool) -> None:
    link = f"dat://{copy.files.metadata.key.hex()}"
    if as_json:
        print_json(
            {
                "link": link,
                "folder": str(copy.folder),
                "version": outcome.version,
                "fetched": outcome.fetched,
                "bytes": outcome.size,
                "removed": outcome.removed,
                "failed": [{"path": path_text(path), "why": why} for path, why in outcome.failed],
                "kept": [path_text(path) for path in outcome.kept],
            }
        )
    elif not quiet:
        removed = f", {count(outcome.removed, 'file')} removed" if outcome.removed else ""
        fetched = f"{count(outcome.fetched, 'file')} fetched, {show_size(outcome.size)}{removed}"
        print(f"{copy.folder} has version {outcome.version} of {link}: {fetched}")
    sys.stdout.flush()


def _run(work: Callable[[], Awaitable[None]], *, endless: bool = False) -> None:
    """Runs it until it ends or a signal comes, which is a good end of what is ``endless``."""
    number = trio.run(partial(_until_signal, work))
    if number and not endless:
        print("datfs: interrupted; the same command goes on from here", file=sys.stderr)
        sys.exit(128 + number)


async def _until_signal(work: Callable[[], Awaitable[None]]) -> int:
    """The number of the signal, 0 if the work came to its end first."""
    came: list[int] = []
    failed: Exception | None = None
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:

            async def watch() -> None:
                async for number in signals:
                    came.append(number)
                    nursery.cancel_scope.cancel()

            nursery.start_soon(watch)
            try:
                await work()
            except Closed:
                pass
            except (DatfsError, OSError) as error:
                failed = error  # raised outside, so that it does not come wrapped in a group
            nursery.cancel_scope.cancel()
    if failed is not None:
        raise failed
    return came[0] if came else 0


COMMANDS = (clone, pull, sync)
