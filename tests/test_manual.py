"""Manual pages and completion: every command and every option is in them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import click
import pytest

from datfs.cli import cli
from datfs.cli.manual import SHELLS, contexts, page
from tests.command_line import DATFS, failure, output

COMMANDS = {one.command_path: one for one in contexts(click.Context(cli, info_name="datfs", **cli.context_settings))}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_its_place(name: str) -> None:
    """A page names the command, each of its options, and the commands below it."""
    context = COMMANDS[name]
    text = page(context).replace("\\-", "-")
    assert text.splitlines()[2].startswith(name.replace(" ", "-") + " - ")
    for option in context.command.params:
        if isinstance(option, click.Option):
            assert option.opts[-1] in text
    for below in getattr(context.command, "commands", {}):
        assert below in text
    assert "EXIT STATUS" in text


@pytest.mark.parametrize("name", ["datfs mount", "datfs automount"])
def test_every_option_of_a_mount_is_in_the_documents(name: str) -> None:
    """What a mount can be told stands in docs/, by one of its names, and has a text of its own in ``--help``."""
    documents = "".join(file.read_text() for file in (Path(__file__).parent.parent / "docs").glob("*.md"))
    for option in COMMANDS[name].command.params:
        if isinstance(option, click.Option):
            assert any(re.search(rf"`{re.escape(word)}[` ]", documents) for word in option.opts), option.opts
            assert option.help, option.opts


@pytest.mark.parametrize("name", ["datfs", "datfs mount", "datfs debug proof"])
def test_man_can_read_them(name: str) -> None:
    """groff has nothing to complain about."""
    if shutil.which("groff") is None:
        pytest.skip("groff is not installed")
    made = subprocess.run(
        ["groff", "-man", "-ww", "-Tutf8"], input=page(COMMANDS[name]), capture_output=True, text=True, check=True
    )
    assert made.stderr == ""
    assert "SYNOPSIS" in re.sub(".\b", "", made.stdout)  # without what makes letters bold


def test_all_pages_into_a_folder(tmp_path: Path) -> None:
    """``man`` finds them there by their names."""
    output("man", "--write", tmp_path / "man1")
    written = {path.name for path in (tmp_path / "man1").iterdir()}
    assert written == {f"{name.replace(' ', '-')}.1" for name in COMMANDS}
    assert {"datfs.1", "datfs-mount.1"} <= written


def test_a_page_into_a_pipe() -> None:
    """The source of one page; commands that there are not are named."""
    assert output("man", "debug", "proof").startswith(".TH")
    assert "frobnicate" in failure(3, "man", "frobnicate")


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_scripts(shell: str) -> None:
    """Each shell gets a script for datfs."""
    assert "_DATFS_COMPLETE" in output("completion", shell)


def test_bash_completes() -> None:
    """Half a command and half an option become whole."""
    script = output("completion", "bash")
    program = f"""{script}
datfs() {{ {" ".join(DATFS)} "$@"; }}
export -f datfs
"""
    for words, wanted in ((["datfs", "mou"], "mount"), (["datfs", "mount", "--pin"], "--pin-version")):
        environment = {
            **os.environ,
            "COMP_WORDS": " ".join(words),
            "COMP_CWORD": str(len(words) - 1),
            "_DATFS_COMPLETE": "bash_complete",
        }
        made = subprocess.run(DATFS, env=environment, capture_output=True, text=True, timeout=30, check=False)
        assert f"plain,{wanted}" in made.stdout.splitlines(), made
    assert subprocess.run(["bash", "-n"], input=program, text=True, capture_output=True, check=False).stderr == ""
