"""The programs people use, on a mount and on a plain copy of the same tree: they must see the same."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.fuse.conftest import Served, shell
from tests.memory_tree import MTIME_NS, MemoryTree

pytestmark = pytest.mark.fuse


def write(tree: MemoryTree, where: Path) -> Path:
    """The tree as plain files."""
    for parts in tree.directories:
        os.makedirs(os.path.join(os.fsencode(where), *parts), exist_ok=True)
    for parts, file in tree.files.items():
        path = os.path.join(os.fsencode(where), *parts)
        with open(path, "wb") as opened:
            opened.write(file.content)
        os.chmod(path, file.permissions & 0o555)
    for parts in sorted((*tree.files, *tree.directories), key=len, reverse=True):
        path = os.path.join(os.fsencode(where), *parts)
        if parts not in tree.files:
            os.chmod(path, 0o555)
        os.utime(path, ns=(MTIME_NS, MTIME_NS))
    return where


@pytest.fixture
def copy(standard: Served, tmp_path: Path) -> Path:
    """A plain copy of what is mounted."""
    return write(standard.tree, tmp_path / "copy")


COMMANDS = [
    "find . | sort",
    "find . -type f -size +1k -printf '%p %s %m %T@\\n' | sort",
    "find . -type d -empty",
    "ls -A",
    "ls -lA --time-style=full-iso big.bin docs/old/guide.md run.sh",
    "stat -c '%n %s %A %U %G %Y %F' *.* docs/*.md",
    "cat 'read me.txt' docs/guide.md",
    "head -n 1 'read me.txt'",
    "head -c 70000 big.bin | sha256sum",
    "tail -c 12345 big.bin | sha256sum",
    "tail -n 1 'read me.txt'",
    "dd if=big.bin bs=1 skip=1048573 count=777 status=none | sha256sum",
    "dd if=big.bin bs=12345 skip=17 count=31 status=none | sha256sum",
    "dd if=big.bin bs=1M status=none iflag=fullblock | sha256sum",
    "find . -type f -print0 | sort -z | xargs -0 sha256sum",
    "grep -rc needle . | sort",
    "grep -rn needle . | sort",
    "wc -c *.* docs/old/deeper/still/end.txt",
    "tar --sort=name -cf - . | tar -tvf - --full-time",
    "tar --sort=name --format=ustar --owner=0 --group=0 -cf - . | sha256sum",
    "tar --sort=name -S --owner=0 --group=0 -cf - . | tar -xOf - ./big.bin | sha256sum",
    "du -b --apparent-size -a docs | grep -v '\\.md' | cut -f2 | sort",
    "./run.sh now",
    "./true",
    "cmp big.bin big.bin",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_same_output_as_on_a_plain_copy(standard: Served, copy: Path, command: str) -> None:
    """Each program gives the same bytes on both."""
    assert shell(command, standard.point).stdout == shell(command, copy).stdout


def test_long_listings_agree(standard: Served, copy: Path) -> None:
    """ls -lR: the same but for sizes and link counts of directories, which each file system makes up."""

    def listing(where: Path) -> list[list[bytes]]:
        lines = shell("ls -lRA --time-style=+%s", where).stdout.splitlines()
        kept = [line.split(maxsplit=6) for line in lines if not line.startswith(b"total")]
        return [
            [*words[:1], *words[2:4], *words[5:]] if words[:1] and words[0][:1] == b"d" else words for words in kept
        ]

    assert listing(standard.point) == listing(copy)


def test_copies_are_equal(standard: Served, copy: Path, tmp_path: Path) -> None:
    """cp -r, cp -a and tar make copies in which diff finds nothing, in either direction."""
    point = standard.point
    shell(f"cp -r '{point}/.' {tmp_path}/c1 && diff -r {tmp_path}/c1 {copy} && diff -r '{point}' {copy}", tmp_path)
    shell(f"cp -a '{point}/.' {tmp_path}/c2 && diff -r {copy} {tmp_path}/c2", tmp_path)
    shell(f"mkdir c3 && tar -C '{point}' -cf - . | tar -C c3 -xf - && diff -r {copy} c3", tmp_path)
    assert (tmp_path / "c3" / "docs" / "old" / "guide.md").stat().st_mtime_ns // 10**9 == MTIME_NS // 10**9


@pytest.mark.skipif(shutil.which("rsync") is None, reason="rsync is not installed")
def test_rsync(standard: Served, copy: Path, tmp_path: Path) -> None:
    """rsync -a copies everything, and has nothing to do the second time."""
    target = tmp_path / "synced"
    shell(f"rsync -a '{standard.point}/' {target}/ && diff -r {copy} {target}", tmp_path)
    again = shell(f"rsync -ai '{standard.point}/' {target}/", tmp_path)
    assert again.stdout == b""
    checked = shell(f"rsync -aic '{copy}/' {target}/", tmp_path)
    assert checked.stdout == b""
