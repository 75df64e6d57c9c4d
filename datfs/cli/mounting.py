"""``datfs mount``, ``datfs automount`` and ``datfs umount``."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click
import trio
from rich.console import Console

from datfs import mountpoints, readiness
from datfs.budget import Budget
from datfs.cli.failures import exit_code, explain
from datfs.cli.options import (
    PlaceType,
    SizeType,
    TargetType,
    drive_options,
    listen_options,
    listening,
    make_options,
    notice,
)
from datfs.client import OpenDrive, Options
from datfs.daemon import run_in_background
from datfs.errors import DatfsError
from datfs.link import Link
from datfs.mount import check_fuse, run, run_root
from datfs.mount_options import MountOptions, parse_options
from datfs.net.discovery.names import NamedLink
from datfs.net.listening import ListenAt
from datfs.store import default_cache_dir
from datfs.text import show_size

DEFAULT_READ_AHEAD_KB = 1024
DEFAULT_IDLE = 5.0  # minutes
STATUS_INTERVAL = 1.0
WAYS_SAID = {
    mountpoints.Unmounted.PLAIN: "unmounted",
    mountpoints.Unmounted.LAZY: "unmounted lazily, as it was in use; programs that waited got errors",
    mountpoints.Unmounted.ABORTED: "unmounted by force: it did not end, so its connection was aborted",
}
F = TypeVar("F", bound=Callable[..., Any])


def _mount_options(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> MountOptions:
    options = MountOptions(read_ahead_kb=DEFAULT_READ_AHEAD_KB)
    for text in values:
        try:
            options = parse_options(text, options)
        except ValueError as error:
            raise click.BadParameter(str(error)) from None
    return options


def _with_long_options(
    base: MountOptions, *, allow_other: bool, no_xattrs: bool, **values: int | str | None
) -> MountOptions:
    """What ``--allow-other``, ``--uid`` and so on say; they count more than the same words after ``-o``."""
    words = ["allow_other"] * allow_other + ["noxattrs"] * no_xattrs
    words += [f"{name}={value}" for name, value in values.items() if value is not None]
    try:
        return parse_options(",".join(words), base)
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def mounting_options(command: F) -> F:
    """Adds the options that every mount has."""
    number = click.IntRange(0, 2**32 - 2)
    for option in reversed(
        (
            click.option("-f", "--foreground", is_flag=True, help="Stay in the foreground and show what goes on."),
            click.option(
                "-o",
                "mount_options",
                multiple=True,
                callback=_mount_options,
                metavar="OPTIONS",
                help="allow_other, allow_root, auto_unmount, noexec, noatime, noxattrs, uid=, gid=, umask=, fsname=,"
                " read_ahead_kb=.",
            ),
            click.option(
                "--allow-other", is_flag=True, help="Let other users see the mount, too, as permissions allow."
            ),
            click.option("--uid", metavar="UID", type=number, help="Who owns every file; default: you."),
            click.option("--gid", metavar="GID", type=number, help="The group of every file; default: yours."),
            click.option(
                "--umask", metavar="OCTAL", help="Permission bits taken away from every file and folder, such as 027."
            ),
            click.option(
                "--no-xattrs", is_flag=True, help="Hide the extended attributes user.dat.* that tell what is here."
            ),
            click.option(
                "--budget",
                type=SizeType(),
                metavar="SIZE",
                help="Fetch no more than this from peers, as in 2G, while it is mounted; then only what is here can be"
                " read.",
            ),
            click.option(
                "--deny-program",
                "deny_programs",
                multiple=True,
                metavar="NAME",
                help="A program that may open only files that are here whole, such as an indexer; may be repeated.",
            ),
            click.option("--no-upload", is_flag=True, help="Do not serve what is here to the peers."),
            click.option(
                "--log",
                "log_path",
                type=click.Path(path_type=Path),
                help="Append messages of the background process here.",
            ),
        )
    ):
        command = option(command)
    return command


idle_option = click.option(
    "--idle",
    type=click.FloatRange(min=0),
    default=DEFAULT_IDLE,
    show_default=True,
    metavar="MINUTES",
    help="When a drive below a root that nobody uses is closed.",
)


@click.command()
@click.argument("link", type=TargetType(named=True), required=False, metavar="LINK")
@click.argument("directory", type=PlaceType(), required=False, metavar="DIRECTORY")
@click.option(
    "--root", metavar="DIR", type=PlaceType(), help="Instead of one drive mount all on DIR: see datfs automount."
)
@idle_option
@mounting_options
@click.option("--pin-version", is_flag=True, help="Go on showing the version that is the newest now.")
@listen_options
@drive_options
def mount(
    link: Link | NamedLink | Path | None,
    directory: str | None,
    root: str | None,
    idle: float,
    foreground: bool,
    log_path: Path | None,
    pin_version: bool,
    version: int | None,
    **rest: Any,
) -> None:
    """Mount a drive on DIRECTORY.

    Returns when the mount answers; it lives on in the background until `datfs umount DIRECTORY`.

    All versions are in the directory .dat of its root, which is not listed: .dat/versions/N, .dat/at/2020-01-31,
    .dat/latest, .dat/history/PATH. What of a file is here is told by the extended attributes user.dat.*.
    """
    check_fuse()
    if root is not None:
        if link is not None or pin_version or version is not None:
            raise click.UsageError("--root DIR shows all drives: it takes no LINK and no version")
        _mount_root(root, idle, foreground, log_path, rest)
    missing = "link" if link is None else "directory"
    if link is None or directory is None:
        context = click.get_current_context()
        parameters = {parameter.name: parameter for parameter in context.command.params}
        raise click.MissingParameter(ctx=context, param=parameters[missing])
    directory, options, mount_options = _prepared(directory, folder=isinstance(link, Path), **rest)
    target = link.absolute() if isinstance(link, Path) else link
    _start(partial(_serve, target, directory, options, mount_options, version, pin_version), foreground, log_path)


@click.command()
@click.argument("directory", type=PlaceType())
@idle_option
@mounting_options
@listen_options
@drive_options
def automount(
    directory: str, idle: float, foreground: bool, log_path: Path | None, version: int | None, **rest: Any
) -> None:
    """Mount all drives on DIRECTORY: DIRECTORY/KEY and DIRECTORY/NAME open when somebody walks into them.

    KEY is 64 hex digits, NAME such as example.org, each perhaps with +VERSION behind it. DIRECTORY lists the drives in
    use; those that nobody uses for some time go. The same as `datfs mount --root DIRECTORY`.
    """
    check_fuse()
    if version is not None:
        raise click.UsageError("all drives are shown, each at its newest version: walk into DIRECTORY/KEY+VERSION")
    _mount_root(directory, idle, foreground, log_path, rest)


def _prepared(
    directory: str,
    *,
    mount_options: MountOptions,
    allow_other: bool,
    uid: int | None,
    gid: int | None,
    umask: str | None,
    no_xattrs: bool,
    budget: int | None,
    deny_programs: tuple[str, ...],
    no_upload: bool,
    listen: ListenAt | None,
    no_listen: bool,
    folder: bool,
    **rest: Any,
) -> tuple[str, Options, MountOptions]:
    """What the options say, with every path made whole: the background process leaves this folder.

    ``folder``: whether a folder of this machine is mounted.
    """
    mount_options = _with_long_options(
        mount_options, allow_other=allow_other, no_xattrs=no_xattrs, uid=uid, gid=gid, umask=umask
    )
    if rest["cache_dir"] is not None:
        rest["cache_dir"] = rest["cache_dir"].absolute()
    directory = os.path.abspath(directory)
    options = make_options(
        upload=not no_upload, share_locked=True, budget=Budget(budget) if budget is not None else None, **rest
    )
    # Nobody would find us without discovery, and a folder of this machine is published by `datfs share` only.
    usual = ListenAt(needed=False) if options.ways.names and not folder else None
    options = listening(options, listen, no_listen, usual=usual)
    mount_options = replace(mount_options, deny_programs=frozenset(deny_programs))
    point = mountpoints.prepare(directory)
    if not options.memory and not folder:
        # Now, as opening it would make the mount point one that is not empty.
        mountpoints.refuse_inside(str(options.cache_dir or default_cache_dir()), point, "the folder of the cache")
    return directory, options, mount_options


def _start(serve: Callable[[Callable[[], None] | None], int], foreground: bool, log_path: Path | None) -> NoReturn:
    if foreground:
        sys.exit(serve(None))
    sys.exit(run_in_background(serve, log_path=str(log_path.absolute()) if log_path is not None else None))


def _mount_root(directory: str, idle: float, foreground: bool, log_path: Path | None, rest: dict[str, Any]) -> NoReturn:
    directory, options, mount_options = _prepared(directory, folder=False, **rest)
    # A drive for which there is no port left is shown all the same.
    listen = replace(options.listen, needed=False) if isinstance(options.listen, ListenAt) else None
    options = replace(options, listen=listen)
    _start(partial(_serve_root, directory, options, mount_options, 60 * idle), foreground, log_path)


def _serve_root(
    directory: str,
    options: Options,
    mount_options: MountOptions,
    idle: float,
    detached: Callable[[], None] | None,
) -> int:
    """Runs a mount of all drives to its end; as :func:`_serve`."""

    def ready() -> None:
        readiness.ready(f"all drives on {directory}")
        if detached is not None:
            detached()
        else:
            notice(f"mounted all drives on {directory}; stop with Ctrl-C or: datfs umount {directory}")

    try:
        trio.run(partial(run_root, directory, options, mount_options, idle=idle, ready=ready))
    except (DatfsError, OSError) as error:
        print(f"datfs: {explain(error)}", file=sys.stderr)
        return exit_code(error)
    finally:
        readiness.stopping()
    return 0


def _serve(
    target: Link | NamedLink | Path,
    directory: str,
    options: Options,
    mount_options: MountOptions,
    version: int | None,
    pin: bool,
    detached: Callable[[], None] | None,
) -> int:
    """Runs the mount to its end; returns an exit code. ``detached`` tells the parent that the mount answers."""
    console = Console(stderr=True)
    status = console.status("opening the drive")
    if console.is_terminal:
        status.start()

    def ready(opened: OpenDrive) -> None:
        status.stop()
        if opened.store.folder is None and not options.memory:
            notice("another process has the drive in the cache: what it lends is kept in memory only")
        readiness.ready(f"version {opened.drive.version} of dat://{opened.drive.key.hex()} on {directory}")
        if detached is not None:
            detached()
            return
        notice(f"mounted version {opened.drive.version} on {directory}; stop with Ctrl-C or: datfs umount {directory}")
        if console.is_terminal:
            status.start()
            trio.lowlevel.spawn_system_task(_live_line, status, opened)

    try:
        trio.run(
            partial(
                run, target, directory, options, mount_options, version=version, pin=pin, ready=ready, notice=notice
            )
        )
    except (DatfsError, OSError) as error:
        status.stop()
        print(f"datfs: {explain(error)}", file=sys.stderr)
        return exit_code(error)
    finally:
        status.stop()
        readiness.stopping()
    return 0


async def _live_line(status: Any, opened: OpenDrive) -> None:
    """What the mount does, once a second, while it is in the foreground of a terminal."""
    swarm = opened.swarm
    before = 0
    while True:
        received = swarm.bytes_in if swarm is not None else 0
        peers = len(swarm.sessions) if swarm is not None else 0
        content = opened.drive.content
        waiting = opened.drive.metadata.waiting + (content.waiting if content is not None else 0)
        rate = int((received - before) / STATUS_INTERVAL)
        status.update(
            f"{peers} peer{'' if peers == 1 else 's'}, {show_size(received)} received, {show_size(rate)}/s,"
            f" {waiting} chunk{'' if waiting == 1 else 's'} waited for"
        )
        before = received
        await trio.sleep(STATUS_INTERVAL)


@click.command()
@click.argument("directory", type=PlaceType())
def umount(directory: str) -> None:
    """Unmount DIRECTORY, by force if need be.

    The plain way, then lazily, then by aborting the connection; says which it was.
    """
    notice(f"{directory}: {WAYS_SAID[mountpoints.unmount(directory)]}")


COMMANDS = (mount, automount, umount)
