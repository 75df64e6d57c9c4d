"""Options that several commands share, and running a command over an open drive."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import click
import trio
from rich.console import Console

from datfs.client import OpenDrive, Options, open_drive, target_of
from datfs.drive import DriveTree
from datfs.errors import BadLink, TimedOut
from datfs.link import Link
from datfs.metadata import Path as DrivePath
from datfs.metadata import path_of
from datfs.net.transport import Address, parse_address

F = TypeVar("F", bound=Callable[..., Any])


class AddressType(click.ParamType[Address]):
    """HOST:PORT."""

    name = "host:port"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Address:
        """The address as a pair; a usage error if it is none."""
        if isinstance(value, tuple):
            return value
        try:
            return parse_address(value)
        except BadLink as error:
            self.fail(str(error), param, ctx)


class TargetType(click.ParamType[Link | Path]):
    """A LINK argument: dat link, key, or folder."""

    name = "link"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Link | Path:
        """The link or the folder. Raises BadLink, whose exit code is its own."""
        return target_of(value) if isinstance(value, str) else value


def drive_options(command: F) -> F:
    """Adds the options for peers, cache and waiting."""
    for option in reversed(
        (
            click.option("--peer", "peers", type=AddressType(), multiple=True, help="A peer to dial; may be repeated."),
            click.option("--cache-dir", type=click.Path(path_type=Path), help="Where to keep what was fetched."),
            click.option("--memory", is_flag=True, help="Keep what was fetched in memory only."),
            click.option("--offline", is_flag=True, help="Use no network; what is here is all there is."),
            click.option(
                "--timeout",
                type=click.FloatRange(min=0.001),
                default=30.0,
                show_default=True,
                metavar="SECONDS",
                help="How long any one wait for peers may take.",
            ),
            click.option("--version", "version", type=click.IntRange(min=0), help="Look at this version of the drive."),
        )
    ):
        command = option(command)
    return command


def make_options(
    *,
    peers: tuple[Address, ...],
    cache_dir: Path | None,
    memory: bool,
    offline: bool,
    timeout: float,
    **more: Any,
) -> Options:
    """The :class:`~datfs.client.Options` that the shared options say. Raises UsageError for contradictions."""
    if memory and cache_dir is not None:
        raise click.UsageError("--memory and --cache-dir exclude each other")
    if offline and peers:
        raise click.UsageError("--offline and --peer exclude each other")
    return Options(peers=peers, cache_dir=cache_dir, memory=memory, offline=offline, timeout=timeout, **more)


def notice(text: str) -> None:
    """A sentence for the person at the terminal."""
    print(f"datfs: {text}", file=sys.stderr)


class View:
    """An open drive at the version that link and options ask for; every wait has the deadline."""

    def __init__(self, opened: OpenDrive, tree: DriveTree, timeout: float) -> None:
        self.opened = opened
        self.tree = tree
        self.timeout = timeout

    async def wait(self, what: str, work: Awaitable[Any]) -> Any:
        """The result of ``work``. Raises TimedOut, naming ``what``, when the deadline passes first."""
        try:
            with trio.fail_after(self.timeout):
                return await work
        except trio.TooSlowError:
            swarm = self.opened.swarm
            peers = len(swarm.sessions) if swarm is not None else 0
            raise TimedOut(f"{what} did not come within {self.timeout:g} s ({peers} peers connected)") from None

    def paths(self, given: tuple[str, ...]) -> list[DrivePath]:
        """The paths to work on: those given, else the link's own, else the root."""
        base = path_of(self.opened.link.path)
        return [(*base, *path_of(text)) for text in given] or [base]


@asynccontextmanager
async def view(target: Link | Path, options: Options, version: int | None) -> AsyncIterator[View]:
    """Opens a drive for a command, telling on a terminal what is waited for."""
    console = Console(stderr=True)
    status = console.status("opening the drive")
    if console.is_terminal:
        status.start()
    try:
        async with open_drive(target, options, notice=notice) as opened:
            wanted = version if version is not None else opened.link.version
            tree = await _checkout(opened, wanted, options.timeout)
            status.stop()
            yield View(opened, tree, options.timeout)
    finally:
        status.stop()


async def _checkout(opened: OpenDrive, version: int | None, timeout: float) -> DriveTree:
    try:
        with trio.fail_after(timeout):
            return await opened.drive.checkout(version)
    except trio.TooSlowError:
        raise TimedOut(f"version {version} did not come within {timeout:g} s") from None
