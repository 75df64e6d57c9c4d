"""``datfs man`` and ``datfs completion``: made from the tables of options that ``--help`` shows."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import version as version_of
from pathlib import Path

import click
from click.shell_completion import get_completion_class

from datfs.errors import NotFound

SHELLS = ("bash", "zsh", "fish")
HOW_TO_USE = {
    "bash": 'eval "$(datfs completion bash)"   # in ~/.bashrc',
    "zsh": 'eval "$(datfs completion zsh)"    # in ~/.zshrc, after compinit',
    "fish": "datfs completion fish | source    # in ~/.config/fish/config.fish",
}
EXIT_STATUS = """\
.SH "EXIT STATUS"
.TP
0
well
.TP
1
another error: the disk, a damaged store, a format that is not known, a cache that is in use
.TP
2
usage
.TP
3
no such path or version
.TP
4
no such mount, store or local drive
.TP
5
nobody delivered before the deadline, or there is nobody to ask
.TP
6
verification failed: something held is not what was signed
.TP
7
bad link, key, name or address
.TP
8
mount or unmount failed
.TP
9
incomplete: something that was asked for is missing
.TP
130, 143
interrupted by SIGINT, SIGTERM"""


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print a script that completes commands and options in SHELL.

    For good: put `eval "$(datfs completion bash)"` into ~/.bashrc, `eval "$(datfs completion zsh)"` into ~/.zshrc, or
    `datfs completion fish | source` into ~/.config/fish/config.fish.
    """
    made = get_completion_class(shell)
    assert made is not None  # click has all three
    program = context.find_root()
    print(made(program.command, {}, "datfs", "_DATFS_COMPLETE").source(), end="")
    if sys.stdout.isatty():
        print(f"datfs: to use it: {HOW_TO_USE[shell]}", file=sys.stderr)


@click.command()
@click.argument("command", nargs=-1)
@click.option(
    "--write",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write the pages of all commands into this folder, such as /usr/local/share/man/man1.",
)
@click.pass_context
def man(context: click.Context, command: tuple[str, ...], folder: Path | None) -> None:
    """Show the manual page of datfs or of a COMMAND, such as `datfs man mount`."""
    root = context.find_root()
    root.info_name = "datfs"  # however it was started
    if folder is not None:
        if command:
            raise click.UsageError("--write writes the pages of all commands; name no COMMAND with it")
        folder.mkdir(parents=True, exist_ok=True)
        for one in contexts(root):
            name = f"{one.command_path.replace(' ', '-')}.1"
            (folder / name).write_text(page(one), encoding="utf-8")
        return
    wanted = ["datfs", *command]
    found = next((one for one in contexts(root) if one.command_path.split() == wanted), None)
    if found is None:
        raise NotFound(f"there is no command {' '.join(command)!r}; datfs -h lists them")
    _show(page(found))


def contexts(context: click.Context) -> Iterator[click.Context]:
    """The context of a command and of every command below it."""
    yield context
    for name, command in below(context).items():
        if not command.hidden:
            settings = command.context_settings
            yield from contexts(click.Context(command, info_name=name, parent=context, **settings))


def below(context: click.Context) -> dict[str, click.Command]:
    """The commands of a group, by name; nothing of other commands."""
    group = context.command
    if not isinstance(group, click.Group):
        return {}
    found = {name: group.get_command(context, name) for name in sorted(group.list_commands(context))}
    return {name: command for name, command in found.items() if command is not None}


def page(context: click.Context) -> str:
    """The manual page of a command, as roff source (man(7))."""
    command = context.command
    name = context.command_path.replace(" ", "-")
    paragraphs = inspect.cleandoc(command.help or "").split("\n\n")
    lines = [
        f'.TH "{name.upper()}" 1 "" "datfs {version_of("datfs")}" "datfs"',
        ".SH NAME",
        _roff(f"{name} - {paragraphs[0].rstrip('.')}"),
        ".SH SYNOPSIS",
        f".B {_roff(context.command_path)}",
        _roff(" ".join(command.collect_usage_pieces(context))),
        ".SH DESCRIPTION",
        *_joined(".PP", map(_roff, paragraphs)),
    ]
    options = [one.get_help_record(context) for one in command.get_params(context) if isinstance(one, click.Option)]
    lines += _terms("OPTIONS", [record for record in options if record is not None])
    lines += _terms("COMMANDS", [(name, one.get_short_help_str(200)) for name, one in below(context).items()])
    names = [one.command_path.replace(" ", "-") for one in contexts(context.find_root())]
    # The program, the commands beside it, and those below.
    near = [one for one in names if one != name and (one.count("-") <= 1 or one.startswith(f"{name}-"))]
    see = ", ".join(f"\\fB{_roff(one)}\\fP(1)" for one in near)
    return "\n".join([*lines, EXIT_STATUS, '.SH "SEE ALSO"', see]) + "\n"


def _terms(heading: str, terms: list[tuple[str, str]]) -> list[str]:
    """A section with a term and its meaning, one after the other."""
    if not terms:
        return []
    lines = [f".SH {heading}"]
    for term, meaning in terms:
        lines += [".TP", f"\\fB{_roff(term)}\\fP", _roff(meaning)]
    return lines


def _joined(between: str, parts: Iterable[str]) -> list[str]:
    lines: list[str] = []
    for part in parts:
        lines += [between, part] if lines else [part]
    return lines


def _roff(text: str) -> str:
    """Text as roff shows it: its own signs escaped, and no line that would be a request."""
    for plain, escaped in (("\\", "\\e"), ("-", "\\-"), ("`", "\\(ga"), ("\b", "")):
        text = text.replace(plain, escaped)
    lines = (line.strip() for line in text.splitlines())
    return "\n".join(f"\\&{line}" if line.startswith((".", "'")) else line for line in lines)


def _show(text: str) -> None:
    """Through man on a terminal, as source into a pipe."""
    if sys.stdout.isatty():
        try:
            subprocess.run(
                ["man", "-l", "-"], input=text, text=True, check=False, env={**os.environ, "LC_ALL": "C.UTF-8"}
            )
            return
        except FileNotFoundError:
            print("datfs: man is not installed (apt-get install man-db); this is the source", file=sys.stderr)
    print(text, end="")


COMMANDS = (completion, man)
