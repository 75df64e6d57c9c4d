"""What is said of changes that went into a drive, and of files that did not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from datfs.cli.options import notice
from datfs.cli.output import count, path_text, print_json, write_name
from datfs.folder.committing import Done
from datfs.folder.compare import LeftOut
from datfs.metadata import name_of
from datfs.text import show_path, show_size

NOTES_SHOWN = 10


def tell_change(one: Done, width: int, as_json: bool) -> None:
    """One change, on stdout; the version with ``width`` digits."""
    change = "put" if one.stat is not None else "del"
    if as_json:
        facts: dict[str, Any] = {"version": one.version, "change": change, "path": path_text(one.path)}
        if one.stat is not None:
            facts |= {"size": one.stat.size, "chunks": one.stat.blocks}
        print_json(facts)
    else:
        more = f" {show_size(one.stat.size)} ({count(one.stat.blocks, 'chunk')})" if one.stat is not None else ""
        write_name(name_of(one.path), before=f"{one.version:0{width}} [{change}] ", after=more)


def tell_left_out(left_out: Sequence[LeftOut], as_json: bool) -> bool:
    """Names the files that are not part of the drive; whether one of them should have been."""
    failed = [one for one in left_out if one.failed]
    others = [one for one in left_out if not one.failed]
    for one in (*others[:NOTES_SHOWN], *failed):
        notice(f"{show_path(one.path)} is left out: {one.why}")
    if len(others) > NOTES_SHOWN:
        notice(f"{len(others) - NOTES_SHOWN} more that are no plain files are left out")
    if as_json:
        for one in left_out:
            print_json({"path": path_text(one.path), "left_out": one.why, "failed": one.failed})
    return bool(failed)
