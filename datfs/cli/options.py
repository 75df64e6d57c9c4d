"""Options that several commands share, and running a command over an open drive."""

from __future__ import annotations

import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import click
import trio
from click.shell_completion import CompletionItem
from rich.console import Console
from rich.markup import escape
from rich.status import Status

from datfs.cli.output import count
from datfs.client import OpenDrive, Options, open_drive, target_of
from datfs.drive import DriveTree
from datfs.errors import BadLink, NoPeers, TimedOut
from datfs.link import Link
from datfs.metadata import Path as DrivePath
from datfs.metadata import path_of
from datfs.net.discovery.names import NamedLink
from datfs.net.discovery.ways import Ways, default_ways, parse_ways
from datfs.net.listening import ListenAt, parse_listen
from datfs.net.rate_limit import RATE_LEAST
from datfs.net.transport import DEFAULT_PORT, Address, parse_address
from datfs.text import parse_size, show

QUIET = 0.3  # seconds of waiting that nobody needs to be told of
T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])
Target = TypeVar("Target", Link | Path, Link | NamedLink | Path)


class AddressType(click.ParamType[Address]):
    """HOST:PORT."""

    name = "host:port"

    def __init__(self, default_port: int = DEFAULT_PORT) -> None:
        self._default_port = default_port

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Address:
        """The address as a pair; a usage error if it is none."""
        if isinstance(value, tuple):
            return value
        try:
            return parse_address(value, self._default_port)
        except BadLink as error:
            self.fail(str(error), param, ctx)


class PlaceType(click.ParamType[str]):
    """A directory that nobody looks at here: what is mounted there may hang, or not be ours to read."""

    name = "directory"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The text itself; a usage error if it can be no path."""
        if not value or "\0" in value:
            self.fail(f"{value!r} is no path of a directory", param, ctx)
        return str(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Directories; the shell looks."""
        return [CompletionItem(incomplete, type="dir")]


class RateType(click.ParamType[int]):
    """Bytes per second: 500K, 1.5M, 20000. K is 1024, as curl and wget have it."""

    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The bytes per second; a usage error if it is no rate, or less than anything works with."""
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"(\d+(?:\.\d+)?)([kmg]?)", value.strip(), re.ASCII | re.IGNORECASE)
        if match is None:
            self.fail(f"{value!r} is no rate: expected bytes per second, such as 500K or 2M", param, ctx)
        rate = int(float(match[1]) * 1024 ** " kmg".index(match[2].lower() or " "))
        if rate < RATE_LEAST:
            self.fail(f"{value!r} is too little: {RATE_LEAST} bytes per second (1K) is the least", param, ctx)
        return rate


class ListenType(click.ParamType[ListenAt]):
    """[HOST:]PORT."""

    name = "[host:]port"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> ListenAt:
        """The place; a usage error if it is none."""
        if isinstance(value, ListenAt):
            return value
        try:
            return parse_listen(value)
        except BadLink as error:
            self.fail(str(error), param, ctx)


class SizeType(click.ParamType[int]):
    """Bytes, as ``512``, ``64K``, ``10G``; units of 1024."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number; a usage error if it is none."""
        if isinstance(value, int):
            return value
        try:
            return parse_size(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class TargetType(click.ParamType[Link | NamedLink | Path]):
    """A LINK argument: dat link, key, or folder; with ``named`` also a dat link with a name instead of a key."""

    name = "link"

    def __init__(self, *, named: bool = False) -> None:
        self._named = named

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Link | NamedLink | Path:
        """The link or the folder. Raises BadLink, whose exit code is its own."""
        target = target_of(value) if isinstance(value, str) else value
        if isinstance(target, NamedLink) and not self._named:
            raise BadLink(f"{value!r}: this command works on what is here, and needs the key instead of a name")
        return target


_NETWORK: tuple[Callable[[Any], Any], ...] = (
    click.option("--peer", "peers", type=AddressType(), multiple=True, help="A peer to dial; may be repeated."),
    click.option(
        "--discovery",
        envvar="DATFS_DISCOVERY",
        metavar="WAYS",
        help="How to find peers: some of mdns,dns,dht, or none. Default: all that work here without --peer,"
        " none with it.",
    ),
    click.option(
        "--dns-server",
        "dns_servers",
        multiple=True,
        metavar="HOST[:PORT]",
        help="A discovery server, instead of the usual ones; may be repeated.",
    ),
    click.option(
        "--dht-bootstrap",
        type=AddressType(6881),
        multiple=True,
        help="A node of the DHT to begin with, instead of the usual ones; may be repeated.",
    ),
    click.option(
        "--timeout",
        type=click.FloatRange(min=0.001),
        default=30.0,
        show_default=True,
        metavar="SECONDS",
        help="How long any one wait for peers may take.",
    ),
    click.option("--up", type=RateType(), help="Send at most so many bytes a second, as 500K or 2M (K is 1024)."),
    click.option("--down", type=RateType(), help="Receive at most so many bytes a second."),
)
_CACHE: tuple[Callable[[Any], Any], ...] = (
    click.option("--cache-dir", type=click.Path(path_type=Path), help="Where to keep what was fetched."),
    click.option(
        "--cache-size",
        type=SizeType(),
        envvar="DATFS_CACHE_SIZE",
        metavar="SIZE",
        help="The most that all drives in the cache may take, as in 10G; chunks of files that were not used for"
        " the longest time go first. Default: no limit.",
    ),
    click.option("--memory", is_flag=True, help="Keep what was fetched in memory only."),
    click.option("--offline", is_flag=True, help="Use no network; what is here is all there is."),
    click.option("--version", "version", type=click.IntRange(min=0), help="Look at this version of the drive."),
)


def network_options(command: F) -> F:
    """Adds the options for peers and waiting."""
    return _with(command, _NETWORK)


def drive_options(command: F) -> F:
    """Adds the options for peers, waiting, cache and version."""
    return _with(command, (*_NETWORK, *_CACHE))


def _with(command: F, options: Sequence[Callable[[F], F]]) -> F:
    for option in reversed(options):
        command = option(command)
    return command


def listen_options(command: F) -> F:
    """Adds the options for peers that call us; :func:`listening` makes something of them."""
    for option in (
        click.option("--no-listen", is_flag=True, help="Let no peer call; only dial."),
        click.option(
            "--listen",
            type=ListenType(),
            help=f"Where peers may call; port 0 is a free one. Default: {DEFAULT_PORT} everywhere, else a free one.",
        ),
    ):
        command = option(command)
    return command


def listening(options: Options, listen: ListenAt | None, no_listen: bool, *, usual: ListenAt | None) -> Options:
    """The options with the place to listen at: ``usual`` unless another one, or none, was asked for.

    Raises UsageError for contradictions.
    """
    if listen is not None:
        for contradicts, word in (
            (no_listen, "--no-listen"),
            (options.offline, "--offline"),
            (not options.upload, "--no-upload"),
        ):
            if contradicts:
                raise click.UsageError(f"--listen and {word} exclude each other")
    if no_listen or options.offline or not options.upload:
        return options
    return replace(options, listen=listen or usual)


quiet_option = click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
json_option = click.option("--json", "as_json", is_flag=True, help="JSON objects, one a line (docs/json.md).")


def make_options(
    *,
    peers: tuple[Address, ...],
    timeout: float,
    discovery: str | None,
    dns_servers: tuple[str, ...],
    dht_bootstrap: tuple[Address, ...],
    cache_dir: Path | None = None,
    cache_size: int | None = None,
    memory: bool = False,
    offline: bool = False,
    **more: Any,
) -> Options:
    """The :class:`~datfs.client.Options` that the shared options say. Raises UsageError for contradictions."""
    if memory and cache_dir is not None:
        raise click.UsageError("--memory and --cache-dir exclude each other")
    if offline and peers:
        raise click.UsageError("--offline and --peer exclude each other")
    usual = () if peers or offline else default_ways()
    names = usual if discovery is None else parse_ways(discovery)
    ways = Ways(names, dns_servers, dht_bootstrap)
    return Options(
        peers=peers,
        cache_dir=cache_dir,
        cache_size=cache_size,
        memory=memory,
        offline=offline,
        timeout=timeout,
        ways=ways,
        **more,
    )


def absolute_target(target: Target) -> Target:
    """The target with a folder's path made whole, so that messages name it whole."""
    return target.absolute() if isinstance(target, Path) else target


def notice(text: str) -> None:
    """A sentence for the person at the terminal."""
    print(f"datfs: {text}", file=sys.stderr)


class Waiting:
    """A line at the bottom of the terminal that says what is waited for; nothing where stderr is no terminal."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._status: Status | None = None

    @property
    def shown(self) -> bool:
        """Whether anybody would see it."""
        return self._console.is_terminal

    def say(self, text: str) -> None:
        """Shows the line, or changes it."""
        if not self.shown:
            return
        if self._status is None:
            self._status = self._console.status("")
            self._status.start()
        self._status.update(escape(text))

    def hush(self) -> None:
        """Takes the line away."""
        if self._status is not None:
            self._status.stop()
            self._status = None

    def notice(self, text: str) -> None:
        """As :func:`notice`, above the line."""
        self._console.print(f"datfs: {text}", markup=False, highlight=False, soft_wrap=True)


class View:
    """An open drive at the version that link and options ask for; every wait has the deadline."""

    def __init__(self, opened: OpenDrive, tree: DriveTree, timeout: float, waiting: Waiting) -> None:
        self.opened = opened
        self.tree = tree
        self.timeout = timeout
        self._waiting = waiting

    async def wait(self, what: str, work: Awaitable[T]) -> T:
        """The result of ``work``. Raises TimedOut when the deadline passes first; it and NoPeers name ``what``."""
        try:
            with trio.fail_after(self.timeout):
                return await self.show(what, work)
        except NoPeers as error:
            raise NoPeers(f"{what}: {error}") from None
        except trio.TooSlowError:
            raise TimedOut(
                f"{what} did not come within {self.timeout:g} s ({self._peers()}): try again, or give it more --timeout"
            ) from None

    async def show(self, what: str, work: Awaitable[T]) -> T:
        """The result of ``work``, which has a deadline of its own; on a terminal it is told what is waited for."""
        if not self._waiting.shown:
            return await work
        result: list[T] = []
        failed: Exception | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tell, what)
            try:
                result.append(await work)
            except Exception as error:
                failed = error  # raised outside, so that it does not come wrapped in a group
            nursery.cancel_scope.cancel()
        self._waiting.hush()
        if failed is not None:
            raise failed
        return result[0]

    async def _tell(self, what: str) -> None:
        await trio.sleep(QUIET)
        while True:
            self._waiting.say(f"waiting for {what} ({self._peers()})")
            await trio.sleep(1)

    def _peers(self) -> str:
        swarm = self.opened.swarm
        return f"{count(len(swarm.sessions) if swarm is not None else 0, 'peer')} connected"

    def paths(self, given: tuple[str, ...]) -> list[DrivePath]:
        """The paths to work on: those given, else the link's own, else the root."""
        base = path_of(self.opened.link.path)
        return [(*base, *path_of(text)) for text in given] or [base]


@asynccontextmanager
async def view(target: Link | NamedLink | Path, options: Options, version: int | None) -> AsyncIterator[View]:
    """Opens a drive for a command, telling on a terminal what is waited for."""
    if isinstance(target, Link) and version is not None:
        target = replace(target, version=version)
    waiting = Waiting()
    waiting.say(f"opening {show(str(target).encode('utf-8', 'surrogateescape'))}")
    try:
        async with open_drive(target, options, notice=waiting.notice) as opened:
            wanted = version if version is not None else opened.link.version
            tree = await _checkout(opened, wanted, options.timeout)
            waiting.hush()
            yield View(opened, tree, options.timeout, waiting)
    finally:
        waiting.hush()


async def _checkout(opened: OpenDrive, version: int | None, timeout: float) -> DriveTree:
    try:
        with trio.fail_after(timeout):
            return await opened.drive.checkout(version)
    except trio.TooSlowError:
        shown = opened.drive.version if version is None else version
        raise TimedOut(f"version {shown} did not come within {timeout:g} s") from None
