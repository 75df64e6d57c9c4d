"""The trees that the tests mount, made anew and equal in the test and in the serving process."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from datfs.errors import BadMetadata, CorruptStorage, NoPeers
from tests.memory_tree import MemoryFile, MemoryTree, noise

MANY = 10_000
WAITERS = 200
SMALL_WAITER = 300_000


def standard() -> MemoryTree:
    """Several folders, odd names, an empty file, one of some MB and a program."""
    program = shutil.which("true")
    assert program is not None
    return MemoryTree(
        {
            "read me.txt": b"first line\nsecond line with a needle\n",
            "empty": b"",
            "no folder here/": b"",
            "docs/guide.md": b"# guide\n" * 1000,
            "docs/old/guide.md": MemoryFile(b"older\n", permissions=0o600),
            "docs/old/deeper/still/end.txt": b"end\n",
            "Größe/日本.txt": "ü\n".encode(),
            "Größe/\udcff\udcfe.bin": b"a name that is not UTF-8\n",
            "big.bin": noise(1, 3 * 1024 * 1024 + 123),
            "one byte": b"x",
            "run.sh": MemoryFile(b"#!/bin/sh\necho it runs: $1\n", permissions=0o755),
            "true": MemoryFile(Path(program).read_bytes(), permissions=0o755),
        }
    )


def many() -> MemoryTree:
    """One folder of 10,000 files."""
    return MemoryTree({f"many/file {number:05}.txt": b"%d\n" % number for number in range(MANY)})


def missing() -> MemoryTree:
    """Files that are not here, or only at their beginning."""
    return MemoryTree(
        {
            "local.bin": noise(2, 2 * 1024 * 1024),
            "partly.bin": MemoryFile(noise(3, 1024 * 1024), present=128 * 1024),
            "nobody.bin": MemoryFile(noise(4, 100_000), present=0, failure=NoPeers("offline")),
            "corrupt.bin": MemoryFile(noise(4, 100_000), present=0, failure=CorruptStorage("wrong", "data", 0)),
            "lying.bin": MemoryFile(noise(4, 100_000), present=0, failure=BadMetadata("beyond the end")),
            "bug.bin": MemoryFile(noise(4, 100_000), present=0, failure=ValueError("a bug")),
            **{f"waiting/{number:03}": MemoryFile(noise(number, SMALL_WAITER), present=0) for number in range(WAITERS)},
        }
    )


TREES: dict[str, Callable[[], MemoryTree]] = {"standard": standard, "many": many, "missing": missing}
