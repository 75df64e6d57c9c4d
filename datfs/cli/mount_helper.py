"""``mount.datfs``: what mount(8) runs for ``mount -t datfs LINK DIR -o …`` and for lines of fstab.

Owns the translation of mount(8)'s call into ``datfs mount``. Nothing is assumed about HOME or PATH, which are not set
at boot: as root the cache is in /var/cache/datfs, unless ``cache_dir=`` says another place.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import click

from datfs.cli import main as datfs_main
from datfs.cli.mounting import mount as mount_command
from datfs.mount_options import parse_options

USAGE = "usage: mount.datfs LINK DIRECTORY [-fnsv] [-N NAMESPACE] [-t TYPE] [-o OPTIONS]"
SYSTEM_CACHE = "/var/cache/datfs"
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
EXIT_USAGE, EXIT_FAILED = 1, 32  # as mount(8) has them

# What mount(8) adds or leaves in that is the kernel's or its own business and says nothing about a drive.
_IGNORED = frozenset(
    """rw ro defaults auto noauto nofail _netdev _rnetdev user nouser users nousers owner group suid nosuid dev nodev
    exec async sync dirsync atime relatime norelatime strictatime nostrictatime lazytime nolazytime diratime nodiratime
    iversion noiversion mand nomand silent loud symfollow nosymfollow""".split()  # noqa: SIM905  # a list literal would fill the page
)
_IGNORED_WITH_VALUE = frozenset(("user", "comment", "helper", "uhelper", "fscontext", "context", "rootcontext"))


@dataclass(frozen=True, slots=True)
class Call:
    """How mount(8) called us. ``fake``: only check the words. ``sloppy``: leave out options that are unknown."""

    link: str
    directory: str
    options: str = ""
    fake: bool = False
    sloppy: bool = False
    verbose: bool = False


def parse_call(words: Sequence[str]) -> Call:
    """Reads the words after ``mount.datfs``. Raises ValueError with the usage."""
    places: list[str] = []
    options: list[str] = []
    flags: set[str] = set()
    rest = iter(words)
    for word in rest:
        if not word.startswith("-") or word == "-":
            places.append(word)
            continue
        for position, letter in enumerate(word[1:], 1):
            if letter in "fnsv":
                flags.add(letter)
            elif letter in "oNt":
                value = word[position + 1 :] or next(rest, None)
                if value is None:
                    raise ValueError(f"-{letter} needs a value; {USAGE}")
                if letter == "o":
                    options.append(value)
                break
            else:
                raise ValueError(f"there is no option -{letter}; {USAGE}")
    if len(places) != 2:
        raise ValueError(USAGE)
    return Call(places[0], places[1], ",".join(options), "f" in flags, "s" in flags, "v" in flags)


def split_options(text: str) -> Iterator[tuple[str, str | None]]:
    """Names and values of ``a,b=c,d="e,f"``; a value in double quotes may have commas, as mount(8) has it."""
    word, quoted = "", False
    for letter in text + ",":
        if letter == '"':
            quoted = not quoted
        elif letter == "," and not quoted:
            name, equals, value = word.partition("=")
            if name.strip():
                yield name.strip(), value if equals else None
            word = ""
        else:
            word += letter
    if quoted:
        raise ValueError(f"a quote is not closed in the options {text!r}")


def words_for(call: Call) -> list[str]:
    """The words for ``datfs mount``. Raises ValueError for an option that neither it nor the kernel has."""
    known = _long_options()
    for_kernel: list[str] = []
    words: list[str] = []
    given: set[str] = set()
    for name, value in split_options(call.options):
        if name.startswith(("x-", "X-")) or (name in _IGNORED if value is None else name in _IGNORED_WITH_VALUE):
            continue
        option = known.get(name.replace("-", "_"))
        if option is not None:
            words += _as_words(name, option, value)
            given.add(name.replace("-", "_"))
            continue
        text = name if value is None else f"{name}={value}"
        try:
            parse_options(text)
        except ValueError as error:
            if call.sloppy and str(error).startswith("unknown"):
                continue
            raise ValueError(f"{error}; and the long options of datfs mount, such as cache_dir=, peer=") from None
        for_kernel.append(text)
    if not given & {"cache_dir", "memory"} and os.geteuid() == 0:
        words += ["--cache-dir", SYSTEM_CACHE]
    if not any(text.startswith("fsname=") for text in for_kernel) and _may_be_fsname(call.link):
        # By this mount(8) sees that a line of fstab is mounted already. The link is in fstab, for all to read.
        for_kernel.append(f"fsname={call.link}")
    if for_kernel:
        words += ["-o", ",".join(for_kernel)]
    return [*words, "--", call.link, call.directory]


def _may_be_fsname(link: str) -> bool:
    try:
        parse_options(f"fsname={link}")
    except ValueError:
        return False
    return True


def _long_options() -> dict[str, click.Option]:
    """The options of ``datfs mount`` by their long names, with underscores as people write them in fstab."""
    return {
        word.removeprefix("--").replace("-", "_"): option
        for option in mount_command.params
        if isinstance(option, click.Option)
        for word in (*option.opts, *option.secondary_opts)
        if word.startswith("--")
    }


def _as_words(name: str, option: click.Option, value: str | None) -> list[str]:
    word = "--" + name.replace("_", "-")
    if option.is_flag:
        if value is not None:
            raise ValueError(f"mount option '{name}' takes no value")
        return [word]
    if value is None:
        raise ValueError(f"mount option '{name}' needs a value: {name}=…")
    return [word, value]


def main() -> None:
    """Entry point: mounts as ``datfs mount`` does, with the exit codes of mount(8)."""
    os.environ.setdefault("PATH", SYSTEM_PATH)
    try:
        call = parse_call(sys.argv[1:])
        words = words_for(call)
    except ValueError as error:
        print(f"mount.datfs: {error}", file=sys.stderr)
        sys.exit(EXIT_USAGE)
    if call.verbose:
        print(f"datfs mount {' '.join(words)}", file=sys.stderr)
    if call.fake:
        return
    sys.argv = ["datfs", "mount", *words]
    try:
        datfs_main()
    except SystemExit as end:
        if end.code == 2:
            sys.exit(EXIT_USAGE)
        if end.code:
            sys.exit(EXIT_FAILED)


if __name__ == "__main__":
    main()
