"""Looking into a drive without mounting it: ls, tree, stat, cat, log, info."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import trio

from datfs.cli.held import Held, held, registers
from datfs.cli.options import TargetType, View, drive_options, json_option, make_options, view
from datfs.cli.output import count, entry_facts, mode_text, path_text, print_json, time_text, write_name
from datfs.errors import IsADirectory
from datfs.folder.looking import why_not_writable
from datfs.link import Link, discovery_key
from datfs.metadata import Path as DrivePath
from datfs.net.discovery.names import NamedLink
from datfs.text import show_path, show_size
from datfs.vfs import Entry, Kind

READ_BYTES = 1024 * 1024


def _long(entry: Entry, here: dict[str, Any]) -> str:
    return f"{mode_text(entry)} {entry.size:>13} {_share(entry, here):>4} {time_text(entry.mtime_ns)} "


def _share(entry: Entry, here: dict[str, Any]) -> str:
    """How much of a file is here in percent: 100 only if all is, 0 only if nothing is. ``-`` if it does not apply."""
    if entry.kind is Kind.DIRECTORY:
        return "-"
    held, of = here["chunks_held"], here["chunks"]
    if here["bytes_held"] is not None and 0 < held < of:
        held, of = here["bytes_held"], entry.size
    if held >= of:
        return "100%"
    return f"{min(99, max(1, 100 * held // of))}%" if held else "0%"


def _here(at: View, entry: Entry, of: Held) -> dict[str, Any]:
    """What of a file is here; nothing for a directory."""
    if entry.kind is Kind.DIRECTORY:
        return {}
    stat = at.tree.known_stat(entry)
    return {
        "chunk_first": stat.offset,
        "chunks": stat.blocks,
        "chunks_held": of.chunks(stat),
        "bytes_held": of.bytes(stat),
    }


async def _list(at: View, entry: Entry) -> list[Entry]:
    found: Sequence[Entry] = await at.wait(f"the listing of {show_path(entry.path)}", at.tree.list(entry))
    return sorted(found, key=lambda child: child.name)


async def _find(at: View, path: DrivePath) -> Entry:
    entry: Entry = await at.wait(show_path(path), at.tree.find(path))
    return entry


@click.command()
@click.argument("link", type=TargetType(named=True))
@click.argument("path", nargs=-1)
@click.option("-l", "--long", "long_", is_flag=True, help="Mode, size, the share that is here, and time as well.")
@click.option("-R", "--recursive", is_flag=True, help="Sub-directories as well.")
@json_option
@drive_options
def ls(
    link: Link | NamedLink | Path,
    path: tuple[str, ...],
    long_: bool,
    recursive: bool,
    as_json: bool,
    version: int | None,
    **rest: Any,
) -> None:
    """List directories of a drive."""
    options = make_options(share_locked=True, **rest)

    async def emit(at: View, entries: Sequence[Entry], name_of: Callable[[Entry], bytes]) -> None:
        of = await held(at, entries) if as_json or long_ else None
        for entry in entries:
            here = _here(at, entry, of) if of is not None else {}
            if as_json:
                print_json(entry_facts(entry) | here)
            else:
                before = _long(entry, here) if long_ else ""
                write_name(name_of(entry), before=before, directory=entry.kind is Kind.DIRECTORY)

    async def show_directories(at: View, entries: list[Entry], headings: bool) -> None:
        pending = entries[::-1]  # not recursive: how deep a drive goes is its writer's choice
        first = True
        while pending:
            entry = pending.pop()
            children = await _list(at, entry)
            if headings and not as_json:
                if not first:
                    print()
                write_name(b"/" + b"/".join(entry.path), after=":")
            first = False
            await emit(at, children, lambda entry: entry.name)
            if recursive:
                pending += [child for child in reversed(children) if child.kind is Kind.DIRECTORY]

    async def run() -> None:
        async with view(link, options, version) as at:
            entries = [await _find(at, one) for one in at.paths(path)]
            files = [entry for entry in entries if entry.kind is Kind.FILE]
            directories = [entry for entry in entries if entry.kind is Kind.DIRECTORY]
            await emit(at, files, lambda entry: b"/" + b"/".join(entry.path))
            if files and directories and not as_json:
                print()
            await show_directories(at, directories, len(entries) > 1 or recursive)

    trio.run(run)


@click.command()
@click.argument("link", type=TargetType(named=True))
@click.argument("path", nargs=-1)
@drive_options
def tree(link: Link | NamedLink | Path, path: tuple[str, ...], version: int | None, **rest: Any) -> None:
    """Draw the tree below a path."""
    options = make_options(share_locked=True, **rest)
    counts = {Kind.DIRECTORY: 0, Kind.FILE: 0}

    async def draw(at: View, top: Entry) -> None:
        pending = [("", deque(await _list(at, top)))]
        while pending:
            indent, children = pending[-1]
            if not children:
                pending.pop()
                continue
            child = children.popleft()
            counts[child.kind] += 1
            size = f"  ({show_size(child.size)})" if child.kind is Kind.FILE else ""
            is_directory = child.kind is Kind.DIRECTORY
            branch = "├── " if children else "└── "
            write_name(child.name, before=indent + branch, after=size, directory=is_directory)
            if child.kind is Kind.DIRECTORY:
                pending.append((indent + ("│   " if children else "    "), deque(await _list(at, child))))

    async def run() -> None:
        async with view(link, options, version) as at:
            for one in at.paths(path):
                entry = await _find(at, one)
                write_name(b"/" + b"/".join(one))
                if entry.kind is Kind.DIRECTORY:
                    await draw(at, entry)
            print(f"\n{count(counts[Kind.DIRECTORY], 'directory', 'directories')}, {count(counts[Kind.FILE], 'file')}")

    trio.run(run)


@click.command()
@click.argument("link", type=TargetType(named=True))
@click.argument("path", nargs=-1)
@json_option
@drive_options
def stat(link: Link | NamedLink | Path, path: tuple[str, ...], as_json: bool, version: int | None, **rest: Any) -> None:
    """Tell all that is known of paths, down to the chunks."""
    options = make_options(share_locked=True, **rest)

    async def facts(at: View, entry: Entry) -> dict[str, Any]:
        result = entry_facts(entry)
        if entry.kind is Kind.FILE:
            result |= _here(at, entry, await held(at, [entry]))
            result |= {"byte_offset": at.tree.known_stat(entry).byte_offset, "ctime": entry.ctime_ns / 1e9}
        return result

    async def run() -> None:
        async with view(link, options, version) as at:
            for one in at.paths(path):
                entry = await _find(at, one)
                known = await facts(at, entry)
                if as_json:
                    print_json(known)
                    continue
                write_name(b"/" + b"/".join(entry.path), before="  Path: ")
                size = f"{entry.size} ({show_size(entry.size)})"
                print(f"  Type: {entry.kind.value}   Mode: {mode_text(entry)}   Size: {size}")
                print(f"Modify: {time_text(entry.mtime_ns)}")
                if entry.kind is Kind.FILE:
                    print(
                        f"Chunks: {known['chunks']} from {known['chunk_first']}, {known['chunks_held']} here;"
                        f" content byte {known['byte_offset']}"
                    )

    trio.run(run)


@click.command()
@click.argument("link", type=TargetType(named=True))
@click.argument("path", nargs=-1)
@drive_options
def cat(link: Link | NamedLink | Path, path: tuple[str, ...], version: int | None, **rest: Any) -> None:
    """Write the bytes of files to standard output."""
    options = make_options(share_locked=True, **rest)

    async def copy(at: View, one: DrivePath) -> None:
        entry = await _find(at, one)
        if entry.kind is Kind.DIRECTORY:
            raise IsADirectory(f"{show_path(one)} is a directory: name a file in it")
        file = await at.wait(show_path(one), at.tree.open(entry))
        try:
            offset = 0
            while offset < entry.size:
                data: bytes = await at.wait(
                    f"{show_path(one)} from byte {offset} of {entry.size}", file.read(offset, READ_BYTES)
                )
                await trio.to_thread.run_sync(_write_all, data, abandon_on_cancel=True)
                offset += len(data)
        finally:
            file.close()

    async def run() -> None:
        async with view(link, options, version) as at:
            for one in at.paths(path):
                await copy(at, one)

    trio.run(run)


def _write_all(data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(1, rest) :]


@click.command()
@click.argument("link", type=TargetType(named=True))
@click.argument("path", nargs=-1)
@json_option
@drive_options
def info(link: Link | NamedLink | Path, path: tuple[str, ...], as_json: bool, version: int | None, **rest: Any) -> None:
    """Tell what a drive is and how much of it is here; for each PATH also what is below it."""
    options = make_options(share_locked=True, **rest)

    async def run() -> None:
        async with view(link, options, version) as at:
            facts = await _facts_of_drive(at) | await _whole(at)
            paths = at.paths(path) if path or at.opened.link.path else []
            sums = [await _sum_below(at, one) for one in paths]
            if as_json:
                print_json(facts | {"paths": sums})
                return
            print(f"Link:          {facts['link']}")
            print(f"Discovery key: {facts['discovery_key']}")
            whole = (
                f", {count(facts['files'], 'file')}, {show_size(facts['size'])}" if facts["files"] is not None else ""
            )
            print(f"Version:       {facts['version']}{whole} (newest known: {facts['newest_version']})")
            print(f"Writable:      {'yes' if facts['writable'] else 'no'}")
            print(f"Metadata:      {facts['metadata_chunks_held']} of {facts['metadata_chunks']} chunks here")
            known = facts["content_chunks"]
            size = f", {show_size(facts['content_bytes'])}" if known else ", length not known yet"
            print(f"Content:       {facts['content_chunks_held']} of {known} chunks here{size}")
            print(f"Store:         {facts['store'] or 'memory'}")
            for one, found in zip(paths, sums, strict=True):
                print(
                    f"{show_path(one)}: {count(found['files'], 'file')}, {show_size(found['size'])};"
                    f" {found['chunks_held']} of {found['chunks']} chunks here"
                )

    trio.run(run)


async def _facts_of_drive(at: View) -> dict[str, Any]:
    drive = at.opened.drive
    assert drive.content is not None
    folder, found = await registers(at)
    metadata, content = found["metadata"], found["content"]
    return {
        "link": f"dat://{drive.key.hex()}",
        "discovery_key": discovery_key(drive.key).hex(),
        "content_key": drive.content.register.key.hex(),
        "version": at.tree.version,
        "newest_version": drive.version,
        "metadata_chunks": metadata["length"],
        "metadata_chunks_held": metadata["held"],
        "content_chunks": content["length"],
        "content_chunks_held": content["held"],
        "content_bytes": content["bytes"],
        "store": str(folder) if folder is not None else None,
        "writable": folder is not None and why_not_writable(folder, drive.key) is None,
    }


async def _whole(at: View) -> dict[str, Any]:
    """Files and bytes of the version; None if its entries are not all here: nothing is fetched to count them."""
    if not at.opened.drive.metadata.has_range(0, at.tree.version + 1):
        return {"files": None, "size": None}
    found = await _sum_below(at, ())
    return {"files": found["files"], "size": found["size"]}


async def _sum_below(at: View, path: DrivePath) -> dict[str, Any]:
    """Files, bytes and chunks at and below a path; fetches the metadata for it."""
    total = {"files": 0, "directories": 0, "size": 0, "chunks": 0, "chunks_held": 0}
    batches = [[await _find(at, path)]]
    while batches:
        entries = batches.pop()
        of = await held(at, entries)
        for entry in entries:
            if entry.kind is Kind.DIRECTORY:
                total["directories"] += 1
                batches.append(await _list(at, entry))
                continue
            stat = at.tree.known_stat(entry)
            total["files"] += 1
            total["size"] += entry.size
            total["chunks"] += stat.blocks
            total["chunks_held"] += of.chunks(stat)
    return {"path": path_text(path), **total}


COMMANDS = (ls, tree, stat, cat, info)
