"""All benchmarks one after the other, or their names with ``--list``."""

from __future__ import annotations

import importlib
import sys

NAMES = (
    "local_read",
    "random_local",
    "four_readers",
    "re_read",
    "list_10k",
    "tree_10k",
    "known_entries",
    "remote_read",
    "random_remote",
    "link_read",
    "four_peers",
    "first_byte",
    "register",
    "folder_import",
    "clone",
)

if __name__ == "__main__":
    if sys.argv[1:] == ["--list"]:
        print("\n".join(NAMES))
        raise SystemExit
    for name in NAMES:
        importlib.import_module(f"bench.{name}").main(sys.argv[1:])
