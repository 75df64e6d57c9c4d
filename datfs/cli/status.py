"""``datfs status``, ``peers``, ``why`` and ``mounts``: what drives that are open on this machine do just now."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
import trio
from rich.console import Console
from rich.live import Live
from rich.text import Text

from datfs import owners
from datfs.cli.options import TargetType, json_option
from datfs.cli.output import count, print_json
from datfs.cli.status_text import peers_text, status_text, why_text
from datfs.errors import NotADrive, NotFound
from datfs.link import Link, discovery_key
from datfs.local import open_local
from datfs.local_service import Place, ask
from datfs.store import default_cache_dir, folder_store
from datfs.text import show

INTERVAL = 1.0
Facts = dict[str, Any]

cache_option = click.option("--cache-dir", type=click.Path(path_type=Path), help="Where fetched chunks are kept.")


class PlaceType(TargetType):
    """A LINK, a folder that holds a drive, or anything on a mount."""

    name = "link|dir"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """As :class:`TargetType`; a path on a mount of ours stays a path whatever is there."""
        if isinstance(value, str) and not value.startswith(("dat:", "//")) and owners.mount_of(Path(value)) is not None:
            return Path(value)
        return super().convert(value, param, ctx)


@click.command()
@click.argument("target", metavar="[LINK|DIR]", required=False, type=PlaceType())
@click.option("--watch", is_flag=True, help="Go on telling, once a second, until stopped.")
@json_option
@cache_option
def status(target: Link | Path | None, watch: bool, as_json: bool, cache_dir: Path | None) -> None:
    """Tell what a drive that is open here does: versions, chunks, peers, wants, and reads that wait.

    Of a LINK, of what is mounted at DIR, or of every drive that is open. In a folder that holds a drive of yours: what
    would be committed.
    """
    get = partial(_statuses, target, cache_dir or default_cache_dir())
    _tell(get, status_text, watch, as_json)


@click.command()
@click.argument("target", metavar="[LINK|DIR]", required=False, type=PlaceType())
@click.option("--watch", is_flag=True, help="Go on telling, once a second, until stopped.")
@json_option
@cache_option
def peers(target: Link | Path | None, watch: bool, as_json: bool, cache_dir: Path | None) -> None:
    """Tell the peers of drives that are open here: address, source, rates, what they hold, the last error."""

    async def get() -> list[Facts]:
        return [
            {"link": facts["link"]} | peer
            for facts in await _statuses(target, cache_dir or default_cache_dir())
            for peer in facts["peers"]
        ]

    _tell(get, None, watch, as_json, whole=peers_text)


def _tell(
    get: Callable[[], Any],
    text_of: Callable[[Facts], str] | None,
    watch: bool,
    as_json: bool,
    whole: Callable[[list[Facts]], str] | None = None,
) -> None:
    def shown(found: list[Facts]) -> str:
        if whole is not None:
            return whole(found)
        assert text_of is not None
        return "\n\n".join(map(text_of, found)) or "no drive is open here"

    async def run() -> None:
        console = Console(soft_wrap=True)
        if not watch:
            _print(await get(), shown, as_json)
        elif as_json or not console.is_terminal:
            while True:
                _print(await get(), shown, as_json)
                await trio.sleep(INTERVAL)
        else:
            with Live(console=console, screen=False, auto_refresh=False) as live:
                while True:
                    stamp = time.strftime("%H:%M:%S")
                    live.update(Text(f"{stamp}   Ctrl-C ends\n{shown(await get())}"), refresh=True)
                    await trio.sleep(INTERVAL)

    try:
        trio.run(run)
    except KeyboardInterrupt:
        if not watch:
            raise


def _print(found: list[Facts], shown: Callable[[list[Facts]], str], as_json: bool) -> None:
    if as_json:
        for facts in found:
            print_json(facts)
    else:
        print(shown(found))
    sys.stdout.flush()


async def _statuses(target: Link | Path | None, cache_dir: Path) -> list[Facts]:
    """What is told of the target, or of all. Raises NotADrive, NotFound."""
    if target is None:
        return await owners.all_statuses(cache_dir)
    place, link = _place(target, cache_dir)
    try:
        return owners.drives_of(await ask(place, "status"))
    except owners.FAILURES:
        if link is None:
            raise NotADrive(
                f"the process that serves {target} does not answer: it has ended, or another user has mounted it"
            ) from None
    return [_at_rest(link, cache_dir)]


def _place(target: Link | Path, cache_dir: Path) -> tuple[Place, Link | None]:
    """Whom to ask, and the drive to look at if nobody answers."""
    if isinstance(target, Link):
        return owners.place_of_link(target, cache_dir), target
    mount = owners.mount_of(target)
    if mount is not None:
        return owners.place_of_mount(mount), None
    folder = folder_store(target).folder
    assert folder is not None
    raise NotADrive(f"{target}: no process has the drive in this folder open; datfs info {target} tells what is in it")


def _at_rest(link: Link, cache_dir: Path) -> Facts:
    """The status of a drive in the cache that no process has open. Raises NotADrive."""
    with open_local(link, cache_dir) as local:
        registers = {
            name: {
                "length": register.length,
                "held": register.data_bits.count(0, register.length),
                "bytes": register.byte_length,
                "claimed": None,
            }
            for name, register in local.registers.items()
        }
        return {
            "pid": None,
            "link": f"dat://{link.key.hex()}",
            "discovery_key": discovery_key(link.key).hex(),
            "version": max(0, local.registers["metadata"].length - 1) if "metadata" in local.registers else 0,
            "store": str(local.folder),
            "registers": registers,
            "peers": [],
        }


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@json_option
def why(path: Path, as_json: bool) -> None:
    """Tell why a file on a mount does not come: which chunks are missing, who has them, who was asked, what failed."""

    whole = os.path.abspath(path)

    async def run() -> None:
        mount = owners.mount_of(path)
        if mount is None:
            raise NotADrive(f"{path} is not on a mount of datfs; datfs mounts lists them")
        key, chunks = await _chunks_of(path)
        try:
            found = await ask(owners.place_of_mount(mount), "why", chunks=chunks, key=key)
        except owners.FAILURES:
            raise NotADrive(f"the process that serves {mount.point} does not answer: has it ended?") from None
        if "error" in found:
            raise NotFound(str(found["error"]))
        if as_json:
            print_json({"path": whole} | found)
        else:
            print(why_text(show(os.fsencode(path)), found))

    trio.run(run)


async def _chunks_of(path: Path) -> tuple[str, list[int]]:
    """The drive's key and the chunks of a file as its mount tells. Raises NotFound, OSError."""

    def read() -> tuple[str, list[int]]:
        try:
            first = int(os.getxattr(path, "user.dat.chunk_first"))
            chunks = [first, first + int(os.getxattr(path, "user.dat.chunks"))]
            return os.getxattr(path, "user.dat.key").decode(), chunks
        except FileNotFoundError:
            raise NotFound(f"there is no {show(os.fsencode(path))}") from None
        except OSError as error:
            if path.is_dir():
                raise NotFound(f"{show(os.fsencode(path))} is a directory; name a file") from None
            why_not = f"{error.strerror}; was it mounted with --no-xattrs?"
            raise NotFound(f"{show(os.fsencode(path))} does not tell its chunks: {why_not}") from None

    with trio.move_on_after(owners.PROBE_SECONDS * 5):
        return await trio.to_thread.run_sync(read, abandon_on_cancel=True)
    raise NotFound(f"{show(os.fsencode(path))}: the mount does not answer")


@click.command()
@json_option
def mounts(as_json: bool) -> None:
    """List the mounts of datfs, those whose process has ended or hangs marked."""

    for found in trio.run(owners.all_mounts):
        told = found.status or {}
        drives = owners.drives_of(told)
        peers = [peer for one in drives for peer in one.get("peers", ()) if peer["connected"] is not None]
        if as_json:
            facts = {name: told.get(name) for name in ("link", "version", "pid")}
            place = {"mountpoint": found.mount.point, "state": found.state}
            print_json(place | facts | {"peers": len(peers) if told else None})
        else:
            print(_mount_line(show(os.fsencode(found.mount.point)), found.state, told, len(peers)))


def _mount_line(point: str, state: str, told: Facts, peers: int) -> str:
    if state == "dead":
        return f"{point}  DEAD: its process has ended; datfs umount {point}, or mount there again"
    if state == "hung":
        return f"{point}  HUNG: its process does not answer; datfs umount {point}"
    if not told:
        return f"{point}  mounted by another user"
    if "drives" in told:
        return f"{point}  all drives, {len(told['drives'])} of them open, {count(peers, 'peer')}, pid {told['pid']}"
    return f"{point}  {told['link']}  version {told['version']}, {count(peers, 'peer')}, pid {told['pid']}"


COMMANDS = (status, peers, why, mounts)
