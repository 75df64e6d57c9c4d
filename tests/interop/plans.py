"""The drives that the interop tests are about, as plans for ``make_drive``; each is small."""

from __future__ import annotations

from typing import Any

from tests.interop.reference import Operation


def _put(path: str, text: str | None = None, **more: Any) -> Operation:
    return {"op": "put", "path": path, **({} if text is None else {"text": text}), **more}


def _deep() -> list[Operation]:
    folders = ["/" + "/".join(f"level-{depth}" for depth in range(last + 1)) for last in range(40)]
    species = (
        "/animalia/chordata/mammalia/carnivora/canidae/canis/lupus.txt",
        "/animalia/chordata/mammalia/carnivora/felidae/felis/catus.txt",
        "/animalia/arthropoda/insecta/hymenoptera/apidae/apis/mellifera.txt",
        "/plantae/tracheophyta/magnoliopsida/fagales/fagaceae/quercus/robur.txt",
        "/animalia/chordata/mammalia/carnivora/canidae/vulpes/vulpes.txt",
        "/animalia/readme.txt",
    )
    return [
        *(_put(f"{folder}/file.txt", f"{folder}\n") for folder in folders[::3]),
        _put(f"{folders[-1]}/end/of/the/line.txt", "bottom\n"),
        *(_put(path, f"{path}\n") for path in species),
    ]


PLANS: dict[str, list[Operation]] = {
    "empty": [],
    "simple": [
        _put("/hello.txt", "hello world\n"),
        _put("/docs/readme.md", "# simple\n\nA small drive, hello.\n"),
        _put("/docs/notes/one.txt", "one\n"),
        _put("/big.bin", size=150_000),
        _put("/exact.bin", size=65_536),
    ],
    "deep": _deep(),
    "history": [
        _put("/a.txt", "a, first\n"),
        _put("/b.txt", "b, first\n"),
        _put("/dir/c.txt", "c, first\n"),
        _put("/a.txt", "a, second, and longer\n"),
        {"op": "del", "path": "/b.txt"},
        _put("/dir/sub/d.bin", size=70_000),
        {"op": "del", "path": "/dir/c.txt"},
        _put("/b.txt", "b, back again\n"),
        _put("/dir/sub/d.bin", size=66_000, fill="d-again"),
        {"op": "del", "path": "/dir/sub/d.bin"},
        _put("/dir/sub/e.txt", "e\n"),
        _put("/a.txt", ""),
    ],
    "unicode": [
        _put("/caf\u00e9.txt", "composed\n"),
        _put("/cafe\u0301.txt", "decomposed\n"),
        _put("/\u65e5\u672c\u8a9e/\u30d5\u30a1\u30a4\u30eb.txt", "japanese\n"),
        _put("/\U0001f4be.bin", size=300),
        _put("/\u05e2\u05d1\u05e8\u05d9\u05ea.txt", "hebrew\n"),
        _put("/with space/and  two.txt", "spaces\n"),
        _put('/quote\'s "double".txt', "quotes\n"),
        _put("/new\nline.txt", "newline\n"),
        _put("/" + "\u00e9" * 127 + "x", "255 bytes of name\n"),
    ],
    "modes": [
        _put("/plain.txt", "plain\n", mode=0o644, uid=1000, gid=1000),
        _put("/script.sh", '#!/bin/sh\necho "ran $1"\n', mode=0o755),
        _put("/secret.txt", "secret\n", mode=0o600),
        _put("/none.txt", "no mode given\n", mode=0),
        _put("/setuid", "setuid\n", mode=0o4755),
        _put("/read-only.txt", "read only\n", mode=0o444),
        {"op": "mkdir", "path": "/private", "mode": 0o700},
        _put("/private/inside.txt", "inside\n"),
        {"op": "mkdir", "path": "/empty-dir", "mode": 0o755},
        _put("/old.txt", "1970\n", mtime=0, ctime=0),
        _put("/future.txt", "2106\n", mtime=4_294_967_296_000),
        _put("/millis.txt", "milliseconds\n", mtime=1_514_764_800_123),
        _put("/big-uid.txt", "uid\n", uid=4_294_967_294, gid=4_294_967_294),
    ],
    "zero-length": [
        _put("/empty-1", ""),
        _put("/data.txt", "some data\n"),
        _put("/dir/empty-3", ""),
        _put("/more.txt", "more data\n"),
        _put("/data.txt", ""),
    ],
    "odd-chunks": [
        _put("/odd.bin", size=100_003, chunk=777),
        _put("/tiny.bin", size=257, chunk=1),
        _put("/large.bin", size=300_001, chunk=131_071),
        _put("/usual.bin", size=200_000),
    ],
}
"""By name; all that is special about drives, one thing each."""

SEED = "5e" * 32
