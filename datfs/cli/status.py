"""``datfs status``, ``peers``, ``why`` and ``mounts``: what drives that are open on this machine do just now."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import click
import trio
from rich.console import Console
from rich.live import Live
from rich.text import Text

from datfs import local_sockets, owners
from datfs.cli.folder_status import show_folder_status
from datfs.cli.options import TargetType, json_option, notice
from datfs.cli.output import count, print_json
from datfs.errors import NotADrive, NotFound, StoreLocked
from datfs.folder.place import drive_folder
from datfs.link import Link, discovery_key
from datfs.local import open_local
from datfs.local_service import STATUS, WHY, ask
from datfs.mountpoints import Mount
from datfs.status import PROTOCOL, register_facts
from datfs.status_text import peers_text, shown_part, status_text, why_text
from datfs.store import cache_folder, default_cache_dir, owner_of
from datfs.text import show

INTERVAL = 1.0
Facts = dict[str, Any]
Target = Link | Path | None

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
def status(target: Target, watch: bool, as_json: bool, cache_dir: Path | None) -> None:
    """Tell what a drive that is open here does: versions, chunks, peers, wants, and reads that wait.

    Of a LINK, of what is mounted at DIR, or of every drive that is open. Of a folder with a drive, the current one too:
    what would be committed, and what the process does that shares it.
    """
    get = partial(_statuses, target, cache_dir or default_cache_dir(), was_mounted=_is_mounted(target))
    folder = None if watch else _working_folder(target)
    if folder is None:
        _tell(get, _texts(status_text), watch, as_json)
        return
    try:
        show_folder_status(folder, as_json)
    except NotADrive:  # there is one, but its files are not in the folder
        _tell(get, _texts(status_text), watch, as_json)
        return
    found = trio.run(_folder_statuses, folder)
    if found:
        if not as_json:
            print()
        _print(found, _texts(status_text), as_json)


def _working_folder(target: Target) -> Path | None:
    """The folder with a drive that is meant: the one named, or the one that we are in; not one on a mount."""
    folder = Path() if target is None else target
    if not isinstance(folder, Path) or owners.mount_of(folder) is not None:
        return None
    try:
        return drive_folder(folder)
    except NotADrive:
        return None


async def _folder_statuses(folder: Path) -> list[Facts]:
    """What a process tells that has the drive in a folder open; nothing if none has."""
    for place in local_sockets.drive_sockets(discovery_key(_key_in(folder))):
        with suppress(*owners.FAILURES):
            return _drives_in(await ask(place, STATUS))
    return []


def _texts(text_of: Callable[[Facts], str]) -> Callable[[list[Facts]], str]:
    return lambda found: "\n\n".join(map(text_of, found)) or "no drive is open here"


@click.command()
@click.argument("target", metavar="[LINK|DIR]", required=False, type=PlaceType())
@click.option("--watch", is_flag=True, help="Go on telling, once a second, until stopped.")
@json_option
@cache_option
def peers(target: Target, watch: bool, as_json: bool, cache_dir: Path | None) -> None:
    """Tell the peers of drives that are open here: address, source, rates, what they hold, the last error."""
    statuses = partial(_statuses, target, cache_dir or default_cache_dir(), was_mounted=_is_mounted(target))

    async def get() -> list[Facts]:
        return [{"link": facts["link"]} | peer for facts in await statuses() for peer in facts["peers"]]

    _tell(get, peers_text, watch, as_json)


def _tell(get: Callable[[], Any], shown: Callable[[list[Facts]], str], watch: bool, as_json: bool) -> None:
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


def _is_mounted(target: Target) -> bool:
    return isinstance(target, Path) and owners.mount_of(target) is not None


async def _statuses(target: Target, cache_dir: Path, *, was_mounted: bool) -> list[Facts]:
    """What is told of the target, or of all; ``was_mounted``: it was a mount before. Raises NotADrive, StoreLocked."""
    if target is None:
        return await owners.all_statuses(cache_dir, notice)
    if isinstance(target, Path):
        found = owners.mount_of(target)
        if found is not None:
            try:
                return _drives_in(await _ask_mount(found[0], STATUS))
            except NotADrive:
                if _is_mounted(target):
                    raise  # else it was unmounted just now
        if was_mounted:
            raise NotADrive(f"{show(os.fsencode(target))} is not mounted any more")
    key = target.key if isinstance(target, Link) else _key_in(target)
    for place in owners.places_of_drive(key, cache_dir):
        try:
            return _drives_in(await ask(place, STATUS))
        except owners.FAILURES:
            continue
    if isinstance(target, Path):
        raise NotADrive(
            f"{target}: no process has the drive in this folder open; datfs info {target} tells what is in it"
        )
    return [_at_rest(target, cache_dir)]


def _drives_in(answer: Facts) -> list[Facts]:
    """The statuses in an answer. Raises NotADrive for one that tells why there is none."""
    if "error" in answer:
        raise NotADrive(f"the process that has the drive open does not tell its status: {answer['error']}")
    return owners.drives_of(answer)


def _key_in(folder: Path) -> bytes:
    """The key of the drive in a folder. Raises NotADrive, BadLink."""
    with open_local(folder, default_cache_dir()) as local:
        if "metadata" not in local.registers:
            raise next(iter(local.failures.values()), NotADrive(f"{folder} holds no drive"))
        return local.registers["metadata"].key


async def _ask_mount(mount: Mount, what: str, **more: Any) -> Facts:
    """The answer of the process that serves a mount. Raises NotADrive."""
    try:
        return await ask(owners.place_of_mount(mount), what, **more)
    except trio.TooSlowError:
        why_not = f"it hangs; datfs umount {mount.point} ends it"
    except owners.FAILURES:
        why_not = "it has ended, or another user has mounted it; datfs mounts tells"
    raise NotADrive(f"the process that serves {mount.point} does not answer: {why_not}")


def _at_rest(link: Link, cache_dir: Path) -> Facts:
    """The status of a drive in the cache of which nobody tells anything. Raises NotADrive, StoreLocked."""
    owner = owner_of(cache_folder(link.key, cache_dir))
    if owner is not None:
        raise StoreLocked(f"process {owner or '(unknown)'} has the drive open, and does not answer", owner)
    with open_local(link, cache_dir) as local:
        metadata = local.registers.get("metadata")
        return {
            "protocol": PROTOCOL,
            "pid": None,
            "link": f"dat://{link.key.hex()}",
            "discovery_key": discovery_key(link.key).hex(),
            "version": max(0, metadata.length - 1) if metadata is not None else 0,
            "store": str(local.folder),
            "registers": {name: register_facts(register) for name, register in local.registers.items()},
            "peers": [],
        }


@click.command()
@click.argument("path", type=Path)  # click.Path would look at it, and the mount may hang
@json_option
def why(path: Path, as_json: bool) -> None:
    """Tell why a file on a mount does not come: which chunks are missing, who has them, who was asked, what failed.

    Of a directory, or of a path that cannot be looked up: what of the drive's metadata is waited for.
    """

    whole, shown = os.path.abspath(path), show(os.fsencode(path))

    async def run() -> None:
        mount = owners.mount_of(path)
        if mount is None:
            raise NotADrive(f"{shown} is not on a mount of datfs; datfs mounts lists them")
        found = await _ask_mount(mount[0], WHY, path=mount[1])
        if "error" in found:
            raise NotFound(f"{shown}: {found['error']}")
        if as_json:
            print_json({"path": whole} | found)
        else:
            print(why_text(shown, found))

    trio.run(run)


@click.command()
@json_option
def mounts(as_json: bool) -> None:
    """List the mounts of datfs, those whose process has ended or hangs marked."""

    for found in trio.run(owners.all_mounts):
        told = found.status or {}
        drives = owners.drives_of(told)
        peers = [peer for one in drives for peer in one.get("peers", ()) if peer["connected"] is not None]
        if as_json:
            facts = {name: told.get(name) for name in ("link", "version", "shown_version", "shown_path", "pid")}
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
        return f"{point}  mounted by another user, or tells nothing"
    if "drives" in told:
        return f"{point}  all drives, {len(told['drives'])} of them open, {count(peers, 'peer')}, pid {told['pid']}"
    part = f" (it shows {shown})" if (shown := shown_part(told)) else ""
    return f"{point}  {told['link']}  version {told['version']}{part}, {count(peers, 'peer')}, pid {told['pid']}"


COMMANDS = (status, peers, why, mounts)
