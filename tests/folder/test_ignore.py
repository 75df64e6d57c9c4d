"""Which files never become part of a drive: the table of dat-cli.md section 3."""

from __future__ import annotations

from pathlib import Path

import pytest

from datfs.folder.ignore import IgnoreRules

LINES = "node_modules\n*.tmp\n# comment\n\nsub/skip.txt\nlogs/\n!keep.tmp\nsecret\n**/deep/**\n/abs.txt\r\n"
IGNORED = (
    *("node_modules/n", "q/node_modules/n", ".hidden", "sub/.hid/y", "t.tmp", ".well-known/other", ".dat/metadata.key"),
    *("x/.dat/y", "sub/skip.txt", ".DS_Store", "x/.DS_Store", "logs/a", "q/logs/a", ".datignore", ".datdownload"),
    *("secret", "a/deep/b", "# comment"),
)
KEPT = (
    *("a.txt", "sub/t.tmp", ".well-known/dat", "sub/.well-known/dat", "keep.tmp", "x/sub/skip.txt", "dat.json"),
    *("foo.dat", "a/b.dat/c", "secret/x", "x/secret", "abs.txt", "comment"),
)


@pytest.fixture
def rules(tmp_path: Path) -> IgnoreRules:
    """The rules of the table; two of the names are folders."""
    for name in ("node_modules", "logs"):
        (tmp_path / name).mkdir()
    (tmp_path / ".datignore").write_text(LINES)
    return IgnoreRules(tmp_path)


@pytest.mark.parametrize(("name", "ignored"), [(name, True) for name in IGNORED] + [(name, False) for name in KEPT])
def test_the_table(rules: IgnoreRules, name: str, ignored: bool) -> None:
    """Each path of it."""
    assert rules.ignored(tuple(name.encode().split(b"/"))) is ignored


def test_folders_that_are_left_out_whole(tmp_path: Path) -> None:
    """Only those are not looked into in which nothing can be kept; an exception may be anywhere."""
    (tmp_path / "logs").mkdir()
    (tmp_path / ".datignore").write_text("logs\n*.tmp\n")
    rules = IgnoreRules(tmp_path)
    assert [rules.prunes((b"a", name)) for name in (b"logs", b".git", b".dat")] == [True, True, True]
    assert not rules.prunes((b".well-known",))
    assert not rules.prunes((b"a",))
    (tmp_path / ".datignore").write_text("logs\n!logs/keep\n")
    rules = IgnoreRules(tmp_path)
    assert [rules.prunes((name,)) for name in (b"logs", b".git", b".dat")] == [False, False, True]


def test_no_rules_of_a_persons_own(tmp_path: Path) -> None:
    """Without the file, or with a folder of its name, the defaults hold; bytes that are not UTF-8 match nothing."""
    rules = IgnoreRules(tmp_path)
    assert (rules.ignored((b"a.tmp",)), rules.ignored((b".a",))) == (False, True)
    (tmp_path / ".datignore").mkdir()
    assert not IgnoreRules(tmp_path).ignored((b"a.tmp",))
    (tmp_path / ".datignore").rmdir()
    (tmp_path / ".datignore").write_bytes(b"\xff*\n*.tmp\n")
    assert IgnoreRules(tmp_path).ignored((b"a.tmp",))
