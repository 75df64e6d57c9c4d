"""``datfs cache ls|du|prune|drop``, ``datfs pin`` and ``unpin``, ``datfs prefetch``: what is kept on this machine."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import trio

from datfs import pins
from datfs.cache_drives import DriveFacts, IdleDrives, facts_of, key_of, remove, version_without
from datfs.cli.failures import EXIT_INCOMPLETE
from datfs.cli.options import SizeType, TargetType, View, drive_options, json_option, make_options, notice, view
from datfs.cli.output import count, path_text, print_json, write_name
from datfs.cli.progress import Progress
from datfs.client import Options, resolve_name
from datfs.errors import BadLink, DatfsError, NoPeers, NotADrive, NotFound, StoreLocked
from datfs.link import Link
from datfs.local_service import ask
from datfs.local_sockets import STATUS_NAME
from datfs.metadata import Path as DrivePath
from datfs.metadata import path_of
from datfs.net.discovery.names import NamedLink
from datfs.owners import FAILURES
from datfs.prefetch import Report, Wanted, files_below, prefetch, report
from datfs.prefetch_owner import copy_names_to_owner, prefetch_by_owner, report_of_owner
from datfs.room import space_of, stores_in
from datfs.store import begin_empty, cache_folder, default_cache_dir, forget_if_empty, owner_of
from datfs.text import show, show_size

DAY = 86_400

cache_dir_option = click.option(
    "--cache-dir",
    type=click.Path(path_type=Path),
    default=default_cache_dir,
    help="The cache to work on, instead of the usual one.",
)


@click.group()
def cache() -> None:
    """Look at the cache, and make room in it."""


def _all(cache_dir: Path) -> list[DriveFacts]:
    found = []
    for folder in stores_in(cache_dir):
        try:
            found.append(facts_of(folder))
        except FileNotFoundError:
            continue  # removed while we looked
    return found


def _facts(drive: DriveFacts) -> dict[str, Any]:
    return {
        "link": _link(drive),
        "folder": str(drive.folder),
        "title": drive.title,
        "version": drive.version,
        "space": drive.space,
        "files_space": drive.files_space,
        "content_chunks": drive.chunks,
        "content_chunks_held": drive.chunks_held,
        "pins": [path_text(path) for path in drive.pins],
        "own": drive.own,
        "pid": drive.owner,
        "last_used": drive.last_used,
        "error": drive.error,
    }


def _link(drive: DriveFacts) -> str | None:
    return f"dat://{drive.key.hex()}" if drive.key is not None else None


def _name(drive: DriveFacts) -> str:
    return _link(drive) or drive.folder.name


def _remarks(drive: DriveFacts) -> str:
    words = []
    if drive.owner is not None:
        words.append(f"in use by {drive.owner or 'another process'}")
    if drive.own:
        words.append("own")
    if () in drive.pins:
        words.append("pinned")
    elif drive.pins:
        words.append(f"{count(len(drive.pins), 'path')} pinned")
    if drive.error is not None:
        words.append("cannot be read")
    elif drive.version is None and drive.owner is None:
        words.append("nothing here yet")
    return ", ".join(words)


def _ago(when: float) -> str:
    seconds = max(0.0, time.time() - when)
    for unit, name in ((DAY, "d"), (3600, "h"), (60, "min")):
        if seconds >= unit:
            return f"{int(seconds // unit)} {name} ago"
    return "now"


@cache.command("ls")
@json_option
@cache_dir_option
def list_drives(as_json: bool, cache_dir: Path) -> None:
    """List the drives in the cache: link, space, chunks here, version, last use, title.

    The one that was used last comes first.
    """
    for drive in sorted(_all(cache_dir), key=lambda one: -one.last_used):
        if as_json:
            print_json(_facts(drive))
            continue
        remarks = _remarks(drive)
        share = f"{100 * drive.chunks_held // drive.chunks}%" if drive.chunks else "-"
        version = "-" if drive.version is None else str(drive.version)
        line = f"{_name(drive)}  {show_size(drive.space):>10}  {share:>4}  v{version:<6} {_ago(drive.last_used):>10}"
        title = show(drive.title.encode("utf-8", "surrogateescape")) if drive.title else ""
        print("  ".join(filter(None, (line, title, f"({remarks})" if remarks else ""))))


@cache.command()
@json_option
@cache_dir_option
def du(as_json: bool, cache_dir: Path) -> None:
    """Tell how much of the disk each drive in the cache takes, and all together."""
    spaces = sorted(((space_of(folder), folder) for folder in stores_in(cache_dir)), reverse=True)
    total = sum(space for space, _ in spaces) + space_of(cache_dir)
    for space, folder in spaces:
        key = key_of(folder)
        link = f"dat://{key.hex()}" if key is not None else None
        if as_json:
            print_json({"link": link, "folder": str(folder), "space": space})
        else:
            print(f"{show_size(space):>10}  {link or folder.name}")
    if as_json:
        print_json({"link": None, "folder": str(cache_dir), "space": total})
    else:
        print(f"{show_size(total):>10}  total")


@cache.command()
@click.option("--to", "size", type=SizeType(), default=0, metavar="SIZE", help="Stop when the cache takes no more.")
@json_option
@cache_dir_option
def prune(size: int, as_json: bool, cache_dir: Path) -> None:
    """Give up chunks of files, those that were not used for the longest time first.

    Without --to all of them. Metadata, what is pinned and own drives stay. Drives that nobody has open come first, then
    those that are mounted. Ends with exit code 9 if the cache still takes more than --to says.
    """
    before = _total(cache_dir)
    if before > size:
        IdleDrives(cache_dir).free(before - size)
    silent = trio.run(_prune_in_use, cache_dir, size)
    after = _total(cache_dir)
    freed = max(0, before - after)
    if as_json:
        print_json({"freed": freed, "space": after, "in_use": [str(folder) for folder in silent]})
    else:
        print(f"{show_size(freed)} came free; the cache takes {show_size(after)}")
    if silent:
        notice(f"left alone, as in use by a process that does not answer: {count(len(silent), 'drive')}")
    if size and after > size:
        sys.exit(EXIT_INCOMPLETE)


async def _prune_in_use(cache_dir: Path, size: int) -> list[Path]:
    """Asks the processes that have drives open to give up chunks, while it takes too much; those that do not answer."""
    silent = []
    for folder in stores_in(cache_dir):
        if owner_of(folder) is None or (need := _total(cache_dir) - size) <= 0:
            continue
        try:
            answer = await ask((folder, STATUS_NAME), "prune", bytes=need)
        except FAILURES:
            answer = {"error": ""}
        if "error" in answer:
            silent.append(folder)
    return silent


def _total(cache_dir: Path) -> int:
    return space_of(cache_dir) + sum(map(space_of, stores_in(cache_dir)))


@cache.command()
@click.argument("links", type=TargetType(named=True), nargs=-1, required=True, metavar="LINK...")
@click.option("--force", is_flag=True, help="Also if it is pinned or in use.")
@cache_dir_option
def drop(links: tuple[Link | NamedLink | Path, ...], force: bool, cache_dir: Path) -> None:
    """Remove drives from the cache, metadata included.

    Refused for a drive that is pinned or in use, and for one whose secret key lies there.
    """
    for link in links:
        folder = _folder_of(link, cache_dir)[1]
        freed = remove(folder, force=force)
        print(f"dropped {_shown(link)}: {show_size(freed)} came free")


def _shown(link: Link | NamedLink | Path) -> str:
    return show(str(link).encode("utf-8", "surrogateescape"))


def _folder_of(link: Link | NamedLink | Path, cache_dir: Path, *, there: bool = True) -> tuple[Link, Path]:
    """The link with its key, and the drive's folder in the cache. Raises NotADrive if ``there`` and it is not."""
    if isinstance(link, Path):
        raise BadLink(f"{_shown(link)} is a folder: only drives in the cache can be meant here, so name the link")
    if isinstance(link, NamedLink):
        link = trio.run(resolve_name, link, Options(cache_dir=cache_dir), notice)
    folder = cache_folder(link.key, cache_dir)
    if there and not folder.is_dir():
        raise NotADrive(f"nothing of dat://{link.key.hex()} is in the cache ({cache_dir})")
    return link, folder


# -- pins


@click.command()
@click.argument("links", type=TargetType(named=True), nargs=-1, required=True, metavar="LINK[/PATH]...")
@cache_dir_option
def pin(links: tuple[Link | NamedLink | Path, ...], cache_dir: Path) -> None:
    """Keep what is, or comes to be, in the cache of a drive or of a path in it.

    A full cache gives none of it up, in no version. Nothing is fetched: see `datfs prefetch`. Works while the drive
    is mounted.
    """
    for given in links:
        link, _ = _folder_of(given, cache_dir, there=False)
        if link.version is not None:
            raise click.UsageError(f"{_shown(given)}: a pin is for every version of a path: leave out +{link.version}")
        folder = begin_empty(link.key, cache_dir)
        path = path_of(link.path)
        if (version := version_without(folder, path)) is not None:
            notice(f"{_shown(given)}: pinned, though nothing is there in version {version}")
        pins.save(folder, [*pins.load(folder), path])


@click.command()
@click.argument("links", type=TargetType(named=True), nargs=-1, required=True, metavar="LINK[/PATH]...")
@click.option("--all", "everything", is_flag=True, help="All pins of the drive, whatever path they are for.")
@cache_dir_option
def unpin(links: tuple[Link | NamedLink | Path, ...], everything: bool, cache_dir: Path) -> None:
    """Take a pin back. What is here stays until the room is needed."""
    for given in links:
        link, folder = _folder_of(given, cache_dir)
        path, there = path_of(link.path), pins.load(folder)
        if not everything and path not in there:
            others = ", ".join(path_text(one) for one in there)
            raise NotFound(f"{_shown(given)} is not pinned" + (f"; pinned are: {others}" if others else ""))
        pins.save(folder, [] if everything else [one for one in there if one != path])
        forget_if_empty(folder)


# -- prefetch


@click.command("prefetch")
@click.argument("links", type=TargetType(named=True), nargs=-1, metavar="LINK[/PATH]...")
@click.option(
    "--from",
    "lists",
    type=click.File("rb"),
    multiple=True,
    metavar="FILE",
    help="Also what FILE names, one a line: links, or paths in the only LINK. - is standard input.",
)
@click.option("--check", is_flag=True, help="Fetch nothing: tell what is missing.")
@click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
@json_option
@drive_options
def prefetch_command(
    links: tuple[Link | NamedLink | Path, ...],
    lists: tuple[Any, ...],
    check: bool,
    quiet: bool,
    as_json: bool,
    version: int | None,
    **rest: Any,
) -> None:
    """Fetch files and directories of drives into the cache.

    Ends with exit code 9 if something is missing at the end, or if a path is not in the drive. With --check each path
    is named that is not here whole, or of which it is not known here what is there.
    """
    if not links and not lists:
        raise click.UsageError("name a LINK, or a list with --from")
    if rest["memory"]:
        raise click.UsageError("--memory keeps nothing that could be fetched in advance")
    if check:
        rest["offline"], rest["peers"] = True, ()
    options = make_options(share_locked=True, **rest)
    complete = True
    for link, paths in _by_drive(links, lists).items():
        complete &= trio.run(_prefetch_drive, link, paths, options, version, check, quiet, as_json)
    if not complete:
        sys.exit(EXIT_INCOMPLETE)


Targets = dict[Link | NamedLink | Path, list[str]]


def _by_drive(links: Iterable[Link | NamedLink | Path], lists: Iterable[Any]) -> Targets:
    """What is to be fetched of each drive and version: paths, as text."""
    wanted: Targets = {}

    def add(link: Link | NamedLink | Path, path: str | None = None) -> None:
        if isinstance(link, Path):
            raise BadLink(f"{_shown(link)} is a folder: everything in it is here already")
        whole = link.path
        wanted.setdefault(replace(link, path=""), []).append(whole if path is None else f"{whole}/{path}")

    given = list(links)
    for link in given if not lists or len(given) != 1 else ():
        add(link)
    for file in lists:
        for number, line in enumerate(file, 1):
            text = line.rstrip(b"\r\n").decode("utf-8", "surrogateescape")
            if not text.strip():
                continue
            if text.startswith(("dat://", "//")):
                add(TargetType(named=True).convert(text, None, None))
            elif len(given) == 1:
                add(given[0], text)
            else:
                raise BadLink(
                    f"{file.name}, line {number}: {text!r} is no link; for paths give the one LINK they are in"
                )
    return wanted


async def _prefetch_drive(
    link: Link | NamedLink | Path,
    paths: list[str],
    options: Options,
    version: int | None,
    check: bool,
    quiet: bool,
    as_json: bool,
) -> bool:
    wanted = [path_of(path) for path in paths]
    unknown: set[DrivePath] = set()
    not_there: dict[DrivePath, DatfsError] = {}
    found = Report()
    quiet = quiet or as_json
    try:
        async with view(link, options, version) as at:
            looking = files_below(at.tree, wanted, unknown if check else None, not_there)
            files = await at.wait("the list of files", looking)
            if not_there and len(not_there) == len(set(wanted)):
                raise next(iter(not_there.values()))
            for error in not_there.values():
                notice(f"{_shown(link)}: {error}")
            found = await _fetch(at, files, check, quiet)
    except NoPeers:
        if not check:
            raise
        unknown.update(wanted)  # nothing of the drive is here
    _tell(link, found, sorted(unknown), sorted(not_there), check, as_json)
    return not (found.missing or unknown or not_there)


async def _fetch(at: View, files: list[Wanted], check: bool, quiet: bool) -> Report:
    """Fetches the files, or only looks; by the process that has the drive open, if that is another one."""
    opened = at.opened
    assert opened.drive.content is not None
    owner = opened.owner
    if check:
        return await report_of_owner(owner, files) if owner is not None else report(opened.drive.content, files)
    if owner is None and (opened.store.folder is None or opened.store.read_only):
        raise StoreLocked("another process has the drive open, and does not answer: end it, or try again later", 0)
    if owner is not None:
        metadata = opened.drive.metadata.register.data_bits
        await at.show("the names of the files", copy_names_to_owner(owner, metadata, at.timeout))
    with Progress("fetching", "fetched", quiet=quiet) as progress:
        if owner is not None:
            return await prefetch_by_owner(owner, files, progress, at.timeout)
        return await prefetch(opened, files, progress, at.timeout)


def _tell(
    link: Link | NamedLink | Path,
    found: Report,
    unknown: list[DrivePath],
    not_there: list[DrivePath],
    check: bool,
    as_json: bool,
) -> None:
    if as_json:
        missing = [path_text(path) for path in [*(file.path for file in found.missing), *unknown]]
        print_json(
            {
                "link": str(link),
                "files": found.files,
                "size": found.size,
                "chunks": found.chunks,
                "chunks_held": found.chunks_held,
                "missing": missing,
                "not_there": [path_text(path) for path in not_there],
            }
        )
        return
    if check:
        for path in (*(file.path for file in found.missing), *unknown):
            write_name(b"/" + b"/".join(path))
    if found.missing:
        gone = found.chunks - found.chunks_held
        why = "" if check else ": the cache gave them up again, see --cache-size and datfs pin"
        notice(
            f"{len(found.missing)} of {count(found.files, 'file')} not here whole,"
            f" {count(gone, 'chunk')} of {found.chunks} missing{why}"
        )
    if unknown:
        notice(f"of {count(len(unknown), 'path')} it is not known what is there: their metadata is not here")
    elif check and not found.missing:
        notice(f"{count(found.files, 'file')}, {show_size(found.size)}: all here")


COMMANDS = (cache, pin, unpin, prefetch_command)
