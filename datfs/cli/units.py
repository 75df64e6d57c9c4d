"""``datfs systemd-unit``: a unit of systemd for a mount, with the paths of this machine."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from datfs.cli.mounting import mount
from datfs.cli.options import PlaceType, TargetType
from datfs.errors import BadLink
from datfs.link import Link
from datfs.net.discovery.names import NamedLink

_PATHS = ("--cache-dir", "--log")  # options whose values are paths

UNIT = """\
# {where}
# Made by: datfs systemd-unit {call}
[Unit]
Description=Dat drive on {directory}
Documentation=man:datfs-mount(1)
Wants=network-online.target
After=network-online.target

[Service]
# Ready when the mount answers, so that what needs it can say After={name}
Type=notify
ExecStart={program} mount --foreground {words}
Restart=on-failure
RestartSec=10
# Time to unmount and to write what was fetched; the mount has at most --timeout for each of its waits.
TimeoutStopSec=60
NoNewPrivileges={no_new_privileges}
{environment}
[Install]
WantedBy={target}
"""


@click.command("systemd-unit", context_settings={"ignore_unknown_options": True, "help_option_names": ["-h", "--help"]})
@click.argument("link", type=TargetType(named=True))
@click.argument("directory", type=PlaceType())
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
@click.option("--user", is_flag=True, help="A unit for the person's own service manager (systemctl --user).")
def systemd_unit(link: Link | NamedLink | Path, directory: str, options: tuple[str, ...], user: bool) -> None:
    """Print a systemd unit that mounts LINK on DIRECTORY; OPTIONS are those of `datfs mount`.

    The first line says where to put it.
    """
    directory = os.path.abspath(directory)
    target = str(link.absolute()) if isinstance(link, Path) else str(link)
    name = f"{escaped(directory)}.datfs.service"
    folder = "~/.config/systemd/user" if user else "/etc/systemd/system"
    manager = "systemctl --user" if user else "systemctl"
    options = tuple(_absolute(options))
    words = [*options, "--", target, directory]
    mount.make_context("datfs mount", [*words])  # nobody reads what it says at the next start of the machine
    if not user and not any(option.startswith(("--cache-dir", "--memory")) for option in options):
        words = ["--cache-dir", "%C/datfs", *words]
    print(
        UNIT.format(
            where=f"{folder}/{name}   then: {manager} daemon-reload && {manager} enable --now '{name}'",
            call=" ".join([*(["--user"] if user else []), target, directory, *options]),
            directory=directory,
            name=name,
            program=quoted(str(Path(sys.executable).with_name("datfs"))),
            words=" ".join(word if word == "%C/datfs" else quoted(word) for word in words),
            # fusermount3, which mounts for people, is setuid root.
            no_new_privileges="no" if user else "yes",
            environment="" if user else "CacheDirectory=datfs\nCacheDirectoryMode=0700\n",
            target="default.target" if user else "multi-user.target",
        ),
        end="",
    )


def _absolute(options: Sequence[str]) -> Iterator[str]:
    """The options with whole paths, as a unit begins in another folder."""
    path_next = False
    for word in options:
        name, equals, value = word.partition("=")
        if path_next:
            word = os.path.abspath(word)
        elif name in _PATHS and equals:
            word = f"{name}={os.path.abspath(value)}"
        path_next = not path_next and word in _PATHS
        yield word


def quoted(word: str) -> str:
    """A word of ExecStart= (systemd.service(5), "Command lines"). Raises BadLink for a line break in it."""
    if "\n" in word or "\0" in word:
        raise BadLink(f"{word!r} has a line break in it, which no unit can have")
    word = word.replace("%", "%%").replace("$", "$$")
    if re.fullmatch(r"[A-Za-z0-9_@%+=:,./$-]+", word):
        return word
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


def escaped(path: str) -> str:
    """A path as the name of a unit: as ``systemd-escape --path`` does (systemd.unit(5))."""
    text = "/".join(part for part in os.fsencode(path).decode("latin-1").split("/") if part)
    out = ""
    for position, letter in enumerate(text):
        if letter == "/":
            out += "-"
        elif (letter.isascii() and letter.isalnum()) or letter in ":_" or (letter == "." and position):
            out += letter
        else:
            out += f"\\x{ord(letter):02x}"
    return out or "-"


COMMANDS = (systemd_unit,)
