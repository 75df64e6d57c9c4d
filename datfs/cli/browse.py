"""Looking into a drive without mounting it: ls, tree, stat, cat, log, info."""

from __future__ import annotations

import json
import os
import stat as stat_bits
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import trio

from datfs.cli.options import TargetType, View, drive_options, make_options, view
from datfs.errors import BadMetadata, IsADirectory
from datfs.link import Link, discovery_key
from datfs.metadata import Path as DrivePath
from datfs.text import show, show_path, show_size
from datfs.vfs import Entry, Kind

READ_BYTES = 1024 * 1024


def text_of(name: bytes) -> str:
    """A name for JSON: UTF-8, other bytes as lone surrogates, which Python's ``surrogateescape`` turns back."""
    return name.decode("utf-8", "surrogateescape")


def path_text(path: DrivePath) -> str:
    """A path for JSON."""
    return "/" + "/".join(map(text_of, path))


def entry_facts(entry: Entry) -> dict[str, Any]:
    """An entry as JSON has it (``docs/json.md``)."""
    return {
        "path": path_text(entry.path),
        "type": entry.kind.value,
        "size": entry.size,
        "mode": f"{entry.permissions:04o}",
        "mtime": entry.mtime_ns / 1e9,
    }


def write_name(text: bytes) -> None:
    """A line with a name: escaped on a terminal, as it is into a pipe."""
    if sys.stdout.isatty():
        print(show(text))
    else:
        sys.stdout.flush()
        sys.stdout.buffer.write(text + b"\n")


def _mode(entry: Entry) -> str:
    kind = stat_bits.S_IFDIR if entry.kind is Kind.DIRECTORY else stat_bits.S_IFREG
    return stat_bits.filemode(kind | entry.permissions)


def _time(ns: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(ns // 1_000_000_000))


def _long(entry: Entry, name: bytes) -> bytes:
    return f"{_mode(entry)} {entry.size:>13} {_time(entry.mtime_ns)} ".encode() + name


async def _list(at: View, entry: Entry) -> list[Entry]:
    found: Sequence[Entry] = await at.wait(f"the listing of {show_path(entry.path)}", at.tree.list(entry))
    return sorted(found, key=lambda child: child.name)


async def _find(at: View, path: DrivePath) -> Entry:
    entry: Entry = await at.wait(show_path(path), at.tree.find(path))
    return entry


@click.command()
@click.argument("link", type=TargetType())
@click.argument("path", nargs=-1)
@click.option("-l", "--long", "long_", is_flag=True, help="Mode, size and time as well.")
@click.option("-R", "--recursive", is_flag=True, help="Sub-directories as well.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@drive_options
def ls(
    link: Link | Path,
    path: tuple[str, ...],
    long_: bool,
    recursive: bool,
    as_json: bool,
    version: int | None,
    **rest: Any,
) -> None:
    """List directories of a drive."""
    options = make_options(share_locked=True, **rest)

    def emit(entry: Entry, name: bytes) -> None:
        if as_json:
            print(json.dumps(entry_facts(entry)))
        else:
            write_name(_long(entry, name) if long_ else name)

    async def show_directory(at: View, entry: Entry, heading: bool) -> None:
        children = await _list(at, entry)
        if heading and not as_json:
            write_name(b"/" + b"/".join(entry.path) + b":")
        for child in children:
            emit(child, child.name)
        if recursive:
            for child in children:
                if child.kind is Kind.DIRECTORY:
                    if not as_json:
                        print()
                    await show_directory(at, child, True)

    async def run() -> None:
        async with view(link, options, version) as at:
            paths = at.paths(path)
            entries = [await _find(at, one) for one in paths]
            for entry in entries:
                if entry.kind is Kind.FILE:
                    emit(entry, b"/".join(entry.path))
            for entry in entries:
                if entry.kind is Kind.DIRECTORY:
                    await show_directory(at, entry, len(entries) > 1 or recursive)

    trio.run(run)


@click.command()
@click.argument("link", type=TargetType())
@click.argument("path", nargs=-1)
@drive_options
def tree(link: Link | Path, path: tuple[str, ...], version: int | None, **rest: Any) -> None:
    """Draw the tree below a path."""
    options = make_options(share_locked=True, **rest)
    counts = {Kind.DIRECTORY: 0, Kind.FILE: 0}

    async def draw(at: View, entry: Entry, indent: str) -> None:
        children = await _list(at, entry)
        for number, child in enumerate(children, 1):
            counts[child.kind] += 1
            last = number == len(children)
            size = f"  {show_size(child.size)}" if child.kind is Kind.FILE else ""
            print(f"{indent}{'└── ' if last else '├── '}{show(child.name)}{size}")
            if child.kind is Kind.DIRECTORY:
                await draw(at, child, indent + ("    " if last else "│   "))

    async def run() -> None:
        async with view(link, options, version) as at:
            for one in at.paths(path):
                entry = await _find(at, one)
                print(show_path(one))
                if entry.kind is Kind.DIRECTORY:
                    await draw(at, entry, "")
            print(f"\n{counts[Kind.DIRECTORY]} directories, {counts[Kind.FILE]} files")

    trio.run(run)


@click.command()
@click.argument("link", type=TargetType())
@click.argument("path", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@drive_options
def stat(link: Link | Path, path: tuple[str, ...], as_json: bool, version: int | None, **rest: Any) -> None:
    """Tell all that is known of paths, down to the chunks."""
    options = make_options(share_locked=True, **rest)

    async def facts(at: View, entry: Entry) -> dict[str, Any]:
        result = entry_facts(entry)
        if entry.kind is Kind.FILE:
            record = await at.wait(show_path(entry.path), at.tree.stat_of(entry))
            content = at.opened.drive.content
            assert content is not None
            held = content.register.data_bits.count(record.offset, record.offset + record.blocks)
            result |= {
                "chunk_first": record.offset,
                "chunks": record.blocks,
                "byte_offset": record.byte_offset,
            }
            result |= {"chunks_held": held, "ctime": entry.ctime_ns / 1e9}
        return result

    async def run() -> None:
        async with view(link, options, version) as at:
            for one in at.paths(path):
                entry = await _find(at, one)
                known = await facts(at, entry)
                if as_json:
                    print(json.dumps(known))
                    continue
                print(f"  Path: {show_path(entry.path)}")
                print(
                    f"  Type: {entry.kind.value}   Mode: {_mode(entry)}   Size: {entry.size} ({show_size(entry.size)})"
                )
                print(f"Modify: {_time(entry.mtime_ns)}")
                if entry.kind is Kind.FILE:
                    print(
                        f"Chunks: {known['chunks']} from {known['chunk_first']}, {known['chunks_held']} here;"
                        f" content byte {known['byte_offset']}"
                    )

    trio.run(run)


@click.command()
@click.argument("link", type=TargetType())
@click.argument("path", nargs=-1)
@drive_options
def cat(link: Link | Path, path: tuple[str, ...], version: int | None, **rest: Any) -> None:
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
                data: bytes = await at.wait(f"byte {offset} of {show_path(one)}", file.read(offset, READ_BYTES))
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
@click.argument("link", type=TargetType())
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@drive_options
def log(link: Link | Path, as_json: bool, version: int | None, **rest: Any) -> None:
    """Tell the history of a drive, oldest change first."""
    options = make_options(share_locked=True, **rest)

    async def run() -> None:
        async with view(link, options, version) as at:
            last = at.tree.version
            width = len(str(last))
            drive = at.opened.drive
            for start in range(1, last + 1, 256):
                batch = range(start, min(start + 256, last + 1))
                await at.wait(f"the history from version {start} on", drive.metadata.ensure(batch))
                for seq in batch:
                    try:
                        record = drive.record(seq)
                    except BadMetadata as error:
                        print(
                            json.dumps({"version": seq, "error": str(error)})
                            if as_json
                            else f"{seq:0{width}} [???] {error}"
                        )
                        continue
                    found = record.stat
                    change = "put" if record.value is not None else "del"
                    if as_json:
                        facts: dict[str, Any] = {
                            "version": seq,
                            "change": change,
                            "path": path_text(record.path),
                        }
                        if found is not None:
                            facts |= {"size": found.size, "chunks": found.blocks, "mtime": found.mtime / 1000}
                        print(json.dumps(facts))
                    else:
                        more = f" {show_size(found.size)} ({found.blocks} chunks)" if found is not None else ""
                        print(f"{seq:0{width}} [{change}] {show_path(record.path)}{more}")

    trio.run(run)


@click.command()
@click.argument("link", type=TargetType())
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@drive_options
def info(link: Link | Path, as_json: bool, version: int | None, **rest: Any) -> None:
    """Tell what a drive is and how much of it is here."""
    options = make_options(share_locked=True, **rest)

    async def run() -> None:
        async with view(link, options, version) as at:
            drive = at.opened.drive
            metadata, content = drive.metadata.register, drive.content
            assert content is not None
            chunks, known = (
                content.register.data_bits.count(0, content.register.length),
                content.register.length,
            )
            facts: dict[str, Any] = {
                "link": f"dat://{drive.key.hex()}",
                "discovery_key": discovery_key(drive.key).hex(),
                "content_key": content.register.key.hex(),
                "version": at.tree.version,
                "newest_version": drive.version,
                "metadata_chunks": metadata.length,
                "metadata_chunks_held": metadata.data_bits.count(0, metadata.length),
                "content_chunks": known,
                "content_chunks_held": chunks,
                "content_bytes": content.register.byte_length,
                "store": str(at.opened.store.folder) if at.opened.store.folder is not None else None,
            }
            if as_json:
                print(json.dumps(facts))
                return
            print(f"Link:          {facts['link']}")
            print(f"Discovery key: {facts['discovery_key']}")
            print(f"Version:       {facts['version']} (newest known: {facts['newest_version']})")
            print(f"Metadata:      {facts['metadata_chunks_held']} of {facts['metadata_chunks']} chunks here")
            size = f", {show_size(facts['content_bytes'])}" if known else ", length not known yet"
            print(f"Content:       {chunks} of {known} chunks here{size}")
            print(f"Store:         {facts['store'] or 'memory'}")

    trio.run(run)


COMMANDS = (ls, tree, stat, cat, log, info)
