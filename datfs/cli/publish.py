"""``datfs init``, ``add``, ``rm``, ``commit``: a folder becomes a drive, and its files go into it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from datfs.cli.failures import EXIT_INCOMPLETE
from datfs.cli.interrupts import interruptible
from datfs.cli.options import json_option, notice, quiet_option
from datfs.cli.output import count, path_text, print_json, write_name
from datfs.cli.progress import Progress
from datfs.cli.reports import tell_change, tell_left_out
from datfs.crypto import key_pair
from datfs.dat_folder import open_dat_folder
from datfs.errors import BadStore, FileChanged, NotFound
from datfs.folder.committing import EVERYTHING, Done, Report, WorkingFolder, now_ms
from datfs.folder.compare import Comparison, Kind
from datfs.folder.making import about, link_in, make_drive
from datfs.folder.place import drive_folder, path_in
from datfs.link import discovery_key
from datfs.metadata import Path as DrivePath
from datfs.metadata import name_of
from datfs.text import show_path, show_size

folder_option = click.option(
    "--dir",
    "-C",
    "start",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    default=".",
    help="The folder of the drive, or one in it; PATHs are named from there. Default: the current one.",
)


@click.command()
@click.argument("folder", metavar="[DIR]", type=click.Path(path_type=Path, file_okay=False), default=".")
@click.option("--title", help="What the drive is called; asked for on a terminal.")
@click.option("--description", help="What is in it; asked for on a terminal.")
@json_option
def init(folder: Path, title: str | None, description: str | None, as_json: bool) -> None:
    """Make a drive of a folder, and print its link.

    Nothing but dat.json is in the drive then: add and commit what shall be. The secret key, without which nobody can
    write the drive, is kept in ~/.dat/secret_keys.
    """
    folder = folder.absolute()
    link = link_in(folder)
    if link is not None:
        raise BadStore(f"{folder}: there is a drive here already, {link}")
    old = about(folder)
    title = _asked("Title", title, old)
    description = _asked("Description", description, old)
    keys = key_pair()
    version = make_drive(folder, keys, title, description, now_ms)
    link = f"dat://{keys.public.hex()}"
    if as_json:
        print_json(
            {
                "link": link,
                "discovery_key": discovery_key(keys.public),
                "folder": str(folder),
                "version": version,
            }
        )
    else:
        print(link)


def _asked(what: str, given: str | None, old: dict[str, Any]) -> str:
    before = str(old.get(what.lower(), ""))
    if given is not None:
        return given
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return before
    return str(click.prompt(what, default=before, show_default=bool(before), err=True))


@click.command()
@click.argument("paths", metavar="[PATH]...", nargs=-1)
@folder_option
@json_option
@quiet_option
def add(paths: tuple[str, ...], start: Path, as_json: bool, quiet: bool) -> None:
    """Choose files for the next commit: all that differ from the drive at and below each PATH.

    Only names are noted; the commit takes the files as they are then. A file that is gone leaves the drive. Default:
    the current folder.
    """
    with opened_folder(start) as working, Progress("comparing", "compared", quiet=quiet) as progress:
        wanted = _paths(working, paths or (".",), start)
        with interruptible(progress) as told:
            found = working.changes_at(wanted, told)
        working.save_seen()
        for change in found.changes:
            working.staged.stage(change.path)
        working.staged.save()
    for change in found.changes:
        if as_json:
            print_json({"path": path_text(change.path), "change": change.kind.value, "size": change.size})
        else:
            write_name(name_of(change.path), before=f"{change.kind.value:8} ")
    _end(tell_left_out(found.left_out, as_json))


@click.command()
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
@click.option("--cached", is_flag=True, help="Leave the files in the folder.")
@click.option("-r", "--recursive", is_flag=True, help="Folders too, with everything in them.")
@click.option("-f", "--force", is_flag=True, help="Also files that are not in the drive as they are here.")
@folder_option
@json_option
def rm(paths: tuple[str, ...], cached: bool, recursive: bool, force: bool, start: Path, as_json: bool) -> None:
    """Remove files from the folder, and with the next commit from the drive.

    The folder has the only copy of the bytes that we have: a file that was changed since it was committed is not
    removed without --force.
    """
    with opened_folder(start) as working:
        wanted = _paths(working, paths, start)
        going = [path for one in wanted for path in _entries(working, one, recursive)]
        if not cached and not force:
            _refuse_changed(working, going)
        for path in going:
            working.staged.stage_removal(path)
        working.staged.save()
        if not cached:
            for path in going:
                working.remove_file(path)
    for path in going:
        if as_json:
            print_json({"path": path_text(path), "change": Kind.REMOVED.value, "kept": cached})
        else:
            write_name(name_of(path), before="removed  ")


def _entries(working: WorkingFolder, path: DrivePath, recursive: bool) -> list[DrivePath]:
    branch = working.drive.find(path)
    if branch is None:
        raise NotFound(f"{show_path(path)}: the drive has no such file")
    if (branch.below or not path) and not recursive:
        raise click.UsageError(f"{show_path(path)} is a folder: name the files in it, or give -r")
    return [entry for entry, _ in branch.entries(path)]


def _refuse_changed(working: WorkingFolder, paths: Sequence[DrivePath]) -> None:
    changed = {change.path for change in working.compare(paths).changes if change.kind is not Kind.REMOVED}
    for path in paths:
        if path in changed:
            raise FileChanged(
                f"{show_path(path)} was changed after it was committed, and would be lost: commit it first, keep it"
                " with --cached, or remove it with --force"
            )


@click.command()
@click.argument("paths", metavar="[PATH]...", nargs=-1)
@click.option("-a", "--all", "everything", is_flag=True, help="All that differs from the drive, new files too.")
@folder_option
@json_option
@quiet_option
def commit(paths: tuple[str, ...], everything: bool, start: Path, as_json: bool, quiet: bool) -> None:
    """Bring what was chosen with add and rm, or what differs at and below each PATH, into the drive.

    Files that the rules of .datignore name are left out, and hidden ones. A file that cannot be read, or is being
    written, is left out too; it is named, and the exit code is 9.
    """
    if everything and paths:
        raise click.UsageError("--all and PATHs exclude each other")
    report = Report()
    with opened_folder(start) as working:
        before = working.writer.version
        if (behind := working.clock_behind()) > 1:
            notice(
                f"the clock is {behind:.0f} s behind the newest entry of the drive: files are compared by their bytes"
            )
        try:
            found = _carry_out(working, _paths(working, paths, start), everything, quiet, report)
        finally:
            _tell(working.writer.metadata.key, before, report.done, as_json)
    if not found.changes and not as_json:
        notice("nothing differs from the drive" if everything or paths else "nothing is staged (see datfs add, or -a)")
    _end(tell_left_out([*found.left_out, *report.left_out], as_json))


def _carry_out(
    working: WorkingFolder, wanted: Sequence[DrivePath], everything: bool, quiet: bool, report: Report
) -> Comparison:
    with Progress("comparing", "compared", quiet=quiet) as progress, interruptible(progress) as told:
        if everything or wanted:
            found = working.changes_at(EVERYTHING if everything else wanted, told)
        else:
            found = working.staged_changes(told)
        working.save_seen()
    with Progress("importing", "imported", quiet=quiet) as progress, interruptible(progress) as told:
        puts = [change.size for change in found.changes if change.kind is not Kind.REMOVED]
        if puts:
            progress.start(len(puts), sum(puts))
        working.commit(found.changes, told, report)
    return found


def _tell(key: bytes, before: int, done: Sequence[Done], as_json: bool) -> None:
    """What went into the drive, which had the version ``before``."""
    version = done[-1].version if done else before
    width = len(str(version))
    for one in done:
        tell_change(one, width, as_json)
    link = f"dat://{key.hex()}"
    puts = [one.stat for one in done if one.stat is not None]
    size = sum(stat.size for stat in puts)
    if as_json:
        print_json(
            {
                "link": link,
                "version": version,
                "puts": len(puts),
                "dels": len(done) - len(puts),
                "size": size,
            }
        )
    elif done:
        print(
            f"version {version} of {link}: {count(len(puts), 'file')} put, {show_size(size)};"
            f" {len(done) - len(puts)} deleted"
        )


def _end(failed: bool) -> None:
    if failed:
        sys.stdout.flush()
        sys.exit(EXIT_INCOMPLETE)


def _paths(working: WorkingFolder, names: Sequence[str], start: Path) -> list[DrivePath]:
    return [path_in(working.folder, name, start) for name in names]


def import_all(working: WorkingFolder, quiet: bool) -> Report:
    """Brings everything that differs into the drive."""
    report = Report()
    found = _carry_out(working, (), True, quiet, report)
    report.left_out[:0] = found.left_out
    return report


@contextmanager
def opened_folder(start: Path) -> Iterator[WorkingFolder]:
    """The drive that a person means, open for writing."""
    folder = drive_folder(Path(os.path.normpath(start.absolute())))
    writer = open_dat_folder(folder)
    try:
        yield WorkingFolder(folder, writer)
    finally:
        writer.close()


COMMANDS = (init, add, rm, commit)
