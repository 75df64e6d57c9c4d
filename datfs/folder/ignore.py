"""Which files of a folder never become part of its drive: the rules of the ``dat`` command (dat-cli.md section 3).

The defaults, and the lines of ``.datignore`` in the folder: globs against the whole relative path. They are not those
of git: ``*.tmp`` means the top only, a leading slash never matches, and ``#`` begins no comment. A line that names a
folder which exists ignores everything of that name, wherever it is.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from wcmatch import glob

from datfs.confined import PRIVATE
from datfs.metadata import Path as DrivePath

RULES = ".datignore"
_FLAGS = glob.GLOBSTAR | glob.EXTGLOB | glob.BRACE | glob.FORCEUNIX
_GROUP = re.compile(r"(?<![?*+@!\\])\(")
_WELL_KNOWN = (b".well-known", b"dat")
_GLOB = frozenset("*?[]{}()!+@|\\")

Matcher = Callable[[str], bool]


class IgnoreRules:
    """The rules of a folder as they are now. Raises OSError if there is a ``.datignore`` that cannot be read."""

    def __init__(self, folder: Path) -> None:
        self._literal: set[str] = set()
        self._names: set[bytes] = set()  # of folders: anything of this name, and all below it
        self._globs: list[Matcher] = []
        self._kept: list[Matcher] = []
        for line in _lines(folder):
            if line.startswith("!"):
                self._kept.append(_matcher(line[1:]))
            elif os.path.isdir(place := os.path.normpath(os.path.join(os.path.abspath(folder), line))):
                self._names.add(os.fsencode(os.path.basename(place)))
            else:
                line = line.removeprefix("./")
                self._literal.add(line)
                if not _GLOB.isdisjoint(line):
                    self._globs.append(_matcher(line))

    def ignored(self, path: DrivePath) -> bool:
        """Whether a file of this path is left out."""
        if PRIVATE in path:
            return True
        text = "/".join(part.decode("utf-8", "replace") for part in path)
        if self._is_well_known(path) or any(keep(text) for keep in self._kept):
            return False
        return (
            any(part.startswith(b".") for part in path)  # .DS_Store is among them
            or not self._names.isdisjoint(path)
            or text in self._literal
            or any(matches(text) for matches in self._globs)
        )

    def prunes(self, path: DrivePath) -> bool:
        """Whether nothing below this folder can be kept, so that it need not be looked at."""
        name = path[-1]
        if name == PRIVATE:
            return True
        if self._kept:
            return False
        return (name.startswith(b".") and name != _WELL_KNOWN[0]) or name in self._names

    @staticmethod
    def _is_well_known(path: DrivePath) -> bool:
        return path[-2:] == _WELL_KNOWN and not any(part.startswith(b".") for part in path[:-2])


def _lines(folder: Path) -> list[str]:
    try:
        text = (folder / RULES).read_bytes().decode("utf-8", "surrogateescape")
    except (FileNotFoundError, IsADirectoryError):
        return []
    return [line for line in text.strip().replace("\r", "\n").split("\n") if line.strip()]


def _matcher(pattern: str) -> Matcher:
    # The reference takes (a|b) as @(a|b).
    compiled = glob.compile(_GROUP.sub("@(", pattern), flags=_FLAGS)

    def matches(text: str) -> bool:
        return bool(compiled.match(text))

    return matches
