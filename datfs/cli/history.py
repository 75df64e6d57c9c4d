"""``datfs checkout``, ``diff`` and ``log``: what a drive was, and what changed."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import trio

from datfs.checkout import write_out
from datfs.cli.fetching import force_option
from datfs.cli.options import (
    TargetType,
    View,
    drive_options,
    json_option,
    make_options,
    quiet_option,
    view,
)
from datfs.cli.output import count, path_text, print_json, write_name
from datfs.cli.progress import Progress
from datfs.client import target_of
from datfs.errors import BadLink, BadMetadata
from datfs.folder_growth import INTERVAL, FolderGrowth
from datfs.link import Link
from datfs.metadata import Path as DrivePath
from datfs.metadata import Record
from datfs.net.discovery.names import NamedLink
from datfs.path_index import Change
from datfs.text import show_size

LOG_BATCH = 4096
Target = Link | NamedLink | Path


@click.command()
@click.argument("link", type=TargetType(named=True))
@click.argument("path", nargs=-1)
@click.option(
    "-o",
    "--output",
    "folder",
    required=True,
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where to; it is made if need be.",
)
@force_option
@json_option
@quiet_option
@drive_options
def checkout(
    link: Target,
    path: tuple[str, ...],
    folder: Path,
    force: bool,
    as_json: bool,
    quiet: bool,
    version: int | None,
    **rest: Any,
) -> None:
    """Write out the files of a version, or what is at and below PATHs of it, to the same paths in DIR.

    Nothing outside of DIR is touched. A file that is there with other content stays, unless --force is given.
    """
    options = make_options(share_locked=True, **rest)
    whole = folder.absolute()

    async def run() -> None:
        async with view(link, options, version) as at:
            with Progress("writing", "wrote", quiet=quiet) as progress:
                done = await write_out(at.tree, at.paths(path), folder, force=force, waits=at, told=progress)
            if as_json:
                facts = {"version": at.tree.version, "written": done.files, "bytes": done.size, "same": done.same}
                print_json({"link": f"dat://{at.opened.drive.key.hex()}", "folder": str(whole)} | facts)
            elif not quiet:
                same = f", {done.same} were there already" if done.same else ""
                print(f"{folder} has {count(done.files, 'file')} of version {at.tree.version}{same}")

    trio.run(run)


@click.command()
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@json_option
@drive_options
def diff(a: str, b: str, as_json: bool, version: int | None, **rest: Any) -> None:
    """Tell what changed between two versions, from A to B.

    Each is LINK+VERSION, or a version number: of the same link, or of the drive in this folder. LINK alone is its
    newest version.
    """
    if version is not None:
        raise click.UsageError("the versions are A and B; --version makes no sense")
    options = make_options(share_locked=True, **rest)
    target, old, new = _versions(a, b)

    async def run() -> None:
        async with view(target, options, None) as at:
            newest = at.opened.drive.version
            first, second = (newest if one is None else one for one in (old, new))
            for one in (first, second):
                await at.wait(f"version {one}", at.opened.drive.checkout(one))
            changes = await at.wait("what changed", at.opened.drive.diff(first, second))
            for change in sorted(changes, key=lambda one: (one.path, one.kind)):
                _print_difference(change, as_json)

    trio.run(run)


def _versions(a: str, b: str) -> tuple[Target, int | None, int | None]:
    """The drive, and both versions; None for the newest. Raises BadLink."""
    targets = [None if text.isascii() and text.isdecimal() else target_of(text) for text in (a, b)]
    versions: list[int | None] = [int(text) for text in (a, b) if text.isascii() and text.isdecimal()]
    found: list[int | None] = []
    drives: list[Target] = []
    for target in targets:
        if target is None:
            found.append(versions.pop(0))
        else:
            found.append(None if isinstance(target, Path) else target.version)
            drives.append(target if isinstance(target, Path) else replace(target, version=None, path=""))
    if len(drives) == 2 and drives[0] != drives[1]:
        raise BadLink(f"{a} and {b} are two drives; versions of one can be compared")
    return (drives[0] if drives else Path()), found[0], found[1]


def _print_difference(change: Change, as_json: bool) -> None:
    found = change.record.stat
    if as_json:
        facts: dict[str, Any] = {"change": change.kind, "path": path_text(change.path), "version": change.record.seq}
        if found is not None:
            facts |= {"size": found.size, "chunks": found.blocks, "mtime": found.mtime / 1000}
        print_json(facts)
    else:
        more = f" {show_size(found.size)} ({count(found.blocks, 'chunk')})" if found is not None else ""
        write_name(b"/" + b"/".join(change.path), before=f"[{change.kind}] ", after=more)


@click.command()
@click.argument("link", metavar="[LINK]", type=TargetType(named=True), default=".")
@click.argument("path", nargs=-1)
@click.option("--live", is_flag=True, help="Go on with what comes, until stopped.")
@json_option
@drive_options
def log(link: Target, path: tuple[str, ...], live: bool, as_json: bool, version: int | None, **rest: Any) -> None:
    """Tell the history of a drive, or of what is at and below paths, oldest change first."""
    options = make_options(share_locked=True, **rest)

    async def run() -> None:
        async with view(link, options, version) as at:
            drive, paths = at.opened.drive, at.paths(path)
            newest = at.tree.version
            await _print_history(at, 1, newest, paths, as_json)
            # Nobody tells of what another process writes into a folder: it is looked at.
            growth = FolderGrowth(at.opened) if at.opened.store.read_only and at.opened.store.folder else None
            while live:
                sys.stdout.flush()
                last = newest
                if growth is None:
                    newest = await drive.metadata.grown_beyond(last + 1) - 1
                else:
                    growth.look()
                    newest = max(last, drive.version)
                    await trio.sleep(INTERVAL)
                await _print_history(at, last + 1, newest, paths, as_json)

    trio.run(run)


async def _print_history(at: View, first: int, last: int, paths: list[DrivePath], as_json: bool) -> None:
    """Every change of these versions."""
    drive, width = at.opened.drive, len(str(last))
    for start in range(first, last + 1, LOG_BATCH):
        batch = range(start, min(start + LOG_BATCH, last + 1))
        await at.wait(f"the history from version {start} on", drive.metadata.ensure(batch))
        for seq in batch:
            try:
                record = drive.record(seq)
            except BadMetadata as error:
                if as_json:
                    print_json({"version": seq, "error": str(error)})
                else:
                    print(f"{seq:0{width}} [???] {error}")
                continue
            if any(record.path[: len(one)] == one for one in paths):
                _print_change(record, width, as_json)


def _print_change(record: Record, width: int, as_json: bool) -> None:
    found = record.stat
    change = "put" if record.value is not None else "del"
    if as_json:
        facts: dict[str, Any] = {"version": record.seq, "change": change, "path": path_text(record.path)}
        if found is not None:
            facts |= {"size": found.size, "chunks": found.blocks, "mtime": found.mtime / 1000}
        print_json(facts)
    else:
        more = f" {show_size(found.size)} ({count(found.blocks, 'chunk')})" if found is not None else ""
        write_name(b"/" + b"/".join(record.path), before=f"{record.seq:0{width}} [{change}] ", after=more)


COMMANDS = (checkout, diff, log)
