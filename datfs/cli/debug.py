"""``datfs debug``: what is in the files and on the wire, for people who build other clients."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from datfs import capture
from datfs.cli.failures import exit_code
from datfs.cli.options import TargetType, absolute_target, json_option
from datfs.cli.output import path_text, plain, print_json, ranges_text
from datfs.cli.sleep_dump import sleep_facts
from datfs.crypto import root_checksum, verify
from datfs.errors import BadMetadata, DatfsError, NotFound
from datfs.link import Link, discovery_key, parse_link
from datfs.local import LocalDrive, open_local
from datfs.metadata import decode_header, decode_record
from datfs.register import Register
from datfs.store import default_cache_dir
from datfs.text import show, show_path

F = TypeVar("F", bound=Callable[..., Any])
SIGNATURES_CHECKED = 1000  # the newest: some registers have one for each chunk


@click.group()
def debug() -> None:
    """Take files, registers and captured sessions apart.

    For people who build other clients.

    FOLDER is a folder with a drive or a single register in it, or a dat link, whose folder in the cache is meant.
    """


def _folder_options(command: F) -> F:
    for option in reversed(
        (
            click.argument("folder", type=TargetType()),
            click.option("--cache-dir", type=click.Path(path_type=Path), help="Where fetched chunks are kept."),
            json_option,
        )
    ):
        command = option(command)
    return command


@contextmanager
def _opened(folder: Link | Path, cache_dir: Path | None) -> Iterator[LocalDrive]:
    with open_local(absolute_target(folder), cache_dir or default_cache_dir()) as drive:
        yield drive


def _one(drive: LocalDrive, name: str) -> Register:
    """A register of a drive by name; the only one of a folder that holds just that."""
    register = drive.registers.get("register") or drive.registers.get(name)
    if register is None:
        failure = drive.failures.get(name) or drive.failures.get("register")
        raise failure or NotFound(f"nothing of the {name} register is in {drive.folder}")
    return register


@debug.command()
@click.argument("file", type=click.Path(path_type=Path))
@json_option
def sleep(file: Path, as_json: bool) -> None:
    """Tell the header and the entries of a SLEEP file (tree, signatures, bitfield)."""
    for facts in sleep_facts(file):
        if as_json:
            print_json(facts)
        elif "file" in facts:
            torn = f", and {facts['torn_bytes']} bytes of one that is cut off" if facts["torn_bytes"] else ""
            print(f"SLEEP file of type {facts['type']}, version {facts['version']}")
            print(f"algorithm: {show(facts['algorithm'].encode()) or '(none)'}")
            print(f"{facts['entries']} entries of {facts['entry_size']} bytes{torn}")
            print("trusted" if facts["trusted"] else f"not trusted: {facts['why_not']}")
        elif "runs" in facts:
            print(f"{facts['part']}: {facts['set']} of {facts['bits']} bits set: {ranges_text(facts['runs'])}")
        elif "hash" in facts:
            print(f"{facts['entry']:>8} at byte {facts['offset']:<10} {facts['hash']} {facts['bytes']} bytes")
        else:
            print(f"{facts['entry']:>8} at byte {facts['offset']:<10} {facts['hex']}")


@debug.command()
@_folder_options
def register(folder: Link | Path, cache_dir: Path | None, as_json: bool) -> None:
    """Tell roots, lengths, signatures and holes of the registers in FOLDER."""
    with _opened(folder, cache_dir) as drive:
        for name, opened in drive.registers.items():
            facts = register_facts(name, opened)
            if as_json:
                print_json(facts)
            else:
                _print_register(facts)
        for name, error in drive.failures.items():
            if as_json:
                print_json({"register": name, "error": str(error)})
            else:
                print(f"{name}: {error}")
        if drive.failures:
            sys.exit(max(map(exit_code, drive.failures.values())))


def register_facts(name: str, register: Register) -> dict[str, Any]:
    """A register as ``docs/json.md`` has it."""
    held, nodes = register.data_bits, register.tree_bits
    runs = list(held.runs())
    edges = [0, *(edge for run in runs for edge in run), register.length]
    holes = [(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if a < b]
    stored, bad = 0, []
    for length in range(register.length, 0, -1):
        signature = register.signature(length - 1)
        if signature is None:
            continue
        stored += 1
        try:
            if not verify(register.key, root_checksum(register.roots(length)), signature):
                bad.append(length)
        except DatfsError:
            stored -= 1  # its roots are not here: nothing can be said of it
        if stored == SIGNATURES_CHECKED:
            break
    return {
        "register": name,
        "key": register.key,
        "discovery_key": discovery_key(register.key),
        "length": register.length,
        "byte_length": register.byte_length,
        "roots": [root._asdict() for root in register.roots()],
        "signatures_checked": stored,
        "signatures_bad": bad,
        "chunks_held": held.count(0, register.length),
        "nodes_held": nodes.count(0, len(nodes)),
        "held": runs,
        "holes": holes,
    }


def _print_register(facts: dict[str, Any]) -> None:
    print(f"{facts['register']}")
    print(f"  key            {facts['key'].hex()}")
    print(f"  discovery key  {facts['discovery_key'].hex()}")
    print(f"  length         {facts['length']} chunks, {facts['byte_length']} bytes")
    for root in facts["roots"]:
        print(f"  root           {root['index']} {root['hash'].hex()} {root['size']} bytes")
    bad = f"bad: of lengths {', '.join(map(str, facts['signatures_bad']))}" if facts["signatures_bad"] else "ok"
    print(f"  signatures     {facts['signatures_checked']} checked, {bad}")
    print(f"  held           {facts['chunks_held']} chunks, {facts['nodes_held']} tree nodes")
    print(f"  holes          {ranges_text(facts['holes'])}")


@debug.command()
@_folder_options
def entries(folder: Link | Path, cache_dir: Path | None, as_json: bool) -> None:
    """Decode every metadata entry of a drive that is here."""
    with _opened(folder, cache_dir) as drive:
        metadata = _one(drive, "metadata")
        for seq in range(metadata.length):
            facts = entry_facts(metadata, seq)
            if as_json:
                print_json(facts)
            else:
                _print_entry(facts)


def entry_facts(metadata: Register, seq: int) -> dict[str, Any]:
    """A metadata chunk as ``docs/json.md`` has it."""
    if not metadata.has(seq):
        return {"seq": seq, "held": False}
    data = metadata.get(seq)
    facts: dict[str, Any] = {"seq": seq, "held": True, "bytes": len(data)}
    try:
        if seq == 0:
            header = decode_header(data)
            return facts | {"type": header.type, "content_key": header.content_key}
        record = decode_record(seq, data)
    except (BadMetadata, DatfsError) as error:
        return facts | {"error": str(error), "hex": data}
    facts |= {"name": path_text(record.path), "change": "put" if record.value is not None else "del"}
    stat = record.stat
    facts["stat"] = stat._asdict() if stat is not None else None
    if record.stat_error is not None:
        facts |= {"error": record.stat_error, "value": record.value}
    return facts | {"lists": record.lists}


def _print_entry(facts: dict[str, Any]) -> None:
    seq = facts["seq"]
    if not facts["held"]:
        print(f"{seq}: not here")
    elif "type" in facts:
        print(f"{seq}: header, {facts['type']}, content {facts['content_key'].hex()}")
    elif "name" in facts:
        name = show_path([part.encode("utf-8", "surrogateescape") for part in facts["name"].split("/")[1:]])
        print(f"{seq}: {facts['change']} {name}")
        if facts["stat"] is not None:
            shown = {field: f"{value:o}" if field == "mode" else value for field, value in facts["stat"].items()}
            print("    " + " ".join(f"{field}={value}" for field, value in shown.items()))
        print(f"    lists {' '.join(str(list(one)) for one in facts['lists'])}")
    if "error" in facts:
        prefix = "    " if "name" in facts else f"{seq}: "
        print(f"{prefix}{facts['error']}: {facts.get('value', facts.get('hex', b'')).hex()}")


@debug.command()
@click.argument("folder", type=TargetType())
@click.argument("index", type=click.IntRange(min=0))
@click.option("--content", is_flag=True, help="Of the content register; default: the metadata.")
@click.option("--digest", type=click.IntRange(0, 2**64 - 1), default=0, help="What the asking peer says that it has.")
@click.option("--hash", "hash_only", is_flag=True, help="As if only the hash had been asked for.")
@click.option("--cache-dir", type=click.Path(path_type=Path), help="Where fetched chunks are kept.")
@json_option
def proof(
    folder: Link | Path,
    index: int,
    content: bool,
    digest: int,
    hash_only: bool,
    cache_dir: Path | None,
    as_json: bool,
) -> None:
    """Tell what a peer that asks for chunk INDEX is sent as proof."""
    name = "content" if content else "metadata"
    with _opened(folder, cache_dir) as drive:
        opened = _one(drive, name)
        found = opened.proof(index, digest, hash_only)
        facts = {
            "register": name,
            "index": index,
            "digest": digest,
            "hash": hash_only,
            "bytes": opened.size_of(index) if not hash_only else None,
            "nodes": [node._asdict() for node in found.nodes],
            "signature": found.signature,
        }
        if as_json:
            print_json(facts)
            return
        print(f"{name} chunk {index}, digest {digest:b} (binary)")
        for node in found.nodes:
            print(f"  node {node.index} {node.hash.hex()} {node.size} bytes")
        print(f"  signature {found.signature.hex()}" if found.signature is not None else "  no signature is sent")


@debug.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("key")
@json_option
def wire(file: Path, key: str, as_json: bool) -> None:
    """Decode FILE, one direction of a captured session, with the public KEY (or link) of its first register."""
    for frame in capture.frames(file.read_bytes(), parse_link(key).key):
        fields = frame.fields()
        if as_json:
            facts: dict[str, Any] = {"offset": frame.offset, "length": frame.length}
            facts |= {"channel": frame.channel, "type": frame.type}
            if frame.message is not None:
                facts["message"] = fields
            if frame.error is not None:
                facts["error"] = frame.error
            print_json(facts)
            continue
        channel = "-" if frame.channel is None else frame.channel
        told = " ".join(f"{name}={_field(value)}" for name, value in fields.items() if value is not None)
        print(f"{frame.offset:>8} {frame.length:>7}  {channel}  {frame.type:<9}  {told or frame.error or ''}".rstrip())


def _field(value: Any) -> str:
    if isinstance(value, list):
        return "[" + " ".join(f"{node['index']}:{node['hash'].hex()[:8]}:{node['size']}" for node in value) + "]"
    told = plain(value)
    if isinstance(told, dict):
        return f"<{told['length']} bytes, sha256 {told['sha256'][:16]}>"
    return show(str(told).encode())


COMMANDS = (debug,)
