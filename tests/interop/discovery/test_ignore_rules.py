"""The rules of what is left out are those of ``dat-ignore``, for any ``.datignore``."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path

import pytest

from datfs.folder.ignore import IgnoreRules
from tests.interop.reference import run_node

PACKAGES = Path(__file__).parent / "node_modules"
SCRIPT = """
const [packages, dir, paths] = process.argv.slice(1)
const ignored = require(packages + '/dat-ignore')(dir)
console.log(JSON.stringify(JSON.parse(paths).filter(path => ignored(path))))
"""
NAMES = (
    *("a", "b.txt", "t.tmp", "node_modules", "logs", "secret", "deep", "keep.tmp", ".hidden", ".well-known", "dat"),
    *(".dat", ".DS_Store", "foo.dat", "x y", "dat.json", "é.tmp", "a.b.c"),
)
LINES = (
    *("*.tmp", "**/*.tmp", "node_modules", "logs/", "# c", "sub/skip.txt", "!keep.tmp", "!**/keep.tmp", "secret"),
    *("**/deep/**", "**/deep", "/abs.txt", "/usr", "*.{tmp,txt}", "!(a|b.txt)", "[ab]*", "?", "a/**", "**", "a/*"),
    *("*", "**/a*", "@(a|logs)/**", "+(a)", "deep/", "./a", "a/", "  logs  ", "é*", "x y", "{a,deep}/*", "!a/**"),
    *("a/**/b.txt", "!.hidden/**", "[!a]", "*/", "a**", "**a", "logs/*.txt", "!logs/b.txt"),
)


def paths() -> list[str]:
    """Short ones in all ways, and some longer ones."""
    dice = random.Random(1)
    short = itertools.chain(((name,) for name in NAMES), itertools.product(NAMES, NAMES))
    long = (tuple(dice.choice(NAMES) for _ in range(dice.randint(3, 5))) for _ in range(200))
    return ["/".join(parts) for parts in itertools.chain(short, long)]


@pytest.mark.parametrize("seed", range(12))
def test_the_rules_are_those_of_dat(tmp_path: Path, seed: int) -> None:
    """Of many paths exactly the same ones are left out; also with exceptions, and names of folders that exist."""
    for name in ("node_modules", "logs"):
        (tmp_path / name).mkdir()
    lines = random.Random(seed).sample(LINES, 1 + seed % 4)
    (tmp_path / ".datignore").write_text("\n".join(lines) + "\n")
    theirs = json.loads(run_node("-e", SCRIPT, str(PACKAGES), str(tmp_path), json.dumps(paths())))
    rules = IgnoreRules(tmp_path)
    ours = [path for path in paths() if rules.ignored(tuple(path.encode().split(b"/")))]
    assert (lines, ours) == (lines, theirs)
