"""``datfs keys``: the secret keys of drives, which give the right to write them.

A secret key is never an argument of a command, and never in a message: it comes and goes by stdin, stdout and files
that nobody else may read. As text it is 128 hexadecimal digits, like that of ``dat keys export``.
"""

from __future__ import annotations

import os
import stat as stat_bits
import sys
from contextlib import ExitStack
from pathlib import Path

import click

from datfs import key_files, secret_keys
from datfs.cli.options import TargetType, json_option, notice
from datfs.cli.output import print_json
from datfs.crypto import KeyPair
from datfs.dat_folder import INNER, OWNER, lock
from datfs.errors import BadLink, BadStore, ReadOnly
from datfs.folder.place import drive_folder
from datfs.link import Link, discovery_key
from datfs.net.discovery.names import NamedLink
from datfs.storage import directory_storage

DIGITS = 2 * key_files.SECRET_KEY_BYTES
OTHERS = 0o077


@click.group()
def keys() -> None:
    """Secret keys: whoever has the one of a drive can write it."""


@keys.command("ls")
@json_option
def ls(as_json: bool) -> None:
    """List the drives whose secret key is kept on this machine, in ~/.dat/secret_keys."""
    for file in secret_keys.kept():
        link, error = None, None
        try:
            link = f"dat://{secret_keys.owner_of(file).hex()}"
        except (BadStore, OSError) as problem:
            error = str(problem)
        discovery = file.parent.name + file.name
        if as_json:
            print_json({"discovery_key": discovery, "link": link, "file": str(file), "error": error})
        else:
            print(f"{discovery}  {link or error}")


@keys.command("export")
@click.argument("target", metavar="[DIR|LINK]", type=TargetType(), default=".")
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A new file, which only its owner may read. Without it: stdout, unless that is a terminal.",
)
def export(target: Link | NamedLink | Path, output: Path | None) -> None:
    """Write out the secret key of a drive, to take it to another machine.

    Write a drive on one machine at a time: two that write the same version make a drive that peers refuse.
    """
    if output is None and sys.stdout.isatty():
        raise click.UsageError("a secret key is not shown on a terminal: give --output FILE, or a pipe")
    secret = _secret_of(target)
    text = secret.hex() + "\n"
    if output is None:
        sys.stdout.write(text)
        return
    fd = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(fd, "w", encoding="ascii") as file:
        os.fchmod(fd, 0o600)
        file.write(text)
        file.flush()
        os.fsync(fd)


@keys.command("import")
@click.argument("source", metavar="[FILE]", type=click.Path(path_type=Path), default="-")
@click.option(
    "--dir",
    "-C",
    "start",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    default=".",
    help="The folder of the drive. Default: the current one.",
)
@json_option
def import_(source: Path, start: Path, as_json: bool) -> None:
    """Keep the secret key of the drive in a folder, which can be written then.

    The key is read from stdin, or from a FILE that only its owner may read.
    """
    folder = drive_folder(start)
    base = folder / INNER
    secret = _parse(_read(source))
    with ExitStack() as stack:
        lock(base, stack)
        public = key_files.settle(directory_storage(base, read_only=True), "metadata.", None, read_only=True)
        if not secret_keys.belongs(public, secret):
            raise BadStore(f"the secret key is not that of the drive in {folder}, dat://{public.hex()}")
        secret_keys.store(KeyPair(public, secret), base / OWNER)
    if as_json:
        print_json({"link": f"dat://{public.hex()}", "discovery_key": discovery_key(public), "folder": str(folder)})
    else:
        print(f"dat://{public.hex()}")
    notice(f"the drive in {folder} can be written now; write it on no other machine at the same time")


def _secret_of(target: Link | NamedLink | Path) -> bytes:
    """The secret key of a drive, checked. Raises ReadOnly if it is not here."""
    if isinstance(target, Path):
        base = drive_folder(target) / INNER
        storage = directory_storage(base, read_only=True)
        public = key_files.settle(storage, "metadata.", None, read_only=True)
        found = secret_keys.find(public)
        found = key_files.secret(storage, "metadata.", public, found, look=True)
    else:
        assert isinstance(target, Link)
        public = target.key
        found = secret_keys.find(public)
    if found is None:
        raise ReadOnly(
            f"the secret key of dat://{public.hex()} is not here: it should be at {secret_keys.place(public)}"
        )
    return found


def _read(source: Path) -> str:
    """The key as text. Raises BadStore if others may read the file."""
    if source == Path("-"):
        if sys.stdin.isatty():
            return str(click.prompt("Secret key", hide_input=True, err=True))
        return sys.stdin.read(4 * DIGITS)
    fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with open(fd, encoding="ascii", errors="replace") as file:
        found = os.fstat(fd)
        if not stat_bits.S_ISREG(found.st_mode):
            raise BadStore(f"{source} is no plain file")
        if found.st_mode & OTHERS:
            raise BadStore(
                f"{source}: others may read or write this file (mode {found.st_mode & 0o777:04o}): chmod 600 it"
            )
        return file.read(4 * DIGITS)


def _parse(text: str) -> bytes:
    """64 bytes. What was given is never part of the message."""
    try:
        secret = bytes.fromhex(text.strip())
    except ValueError:
        secret = b""
    if len(secret) != key_files.SECRET_KEY_BYTES:
        raise BadLink(f"this is no secret key: it has {DIGITS} hexadecimal digits")
    return secret


COMMANDS = (keys,)
