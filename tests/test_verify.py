"""``datfs verify``: what is bad is named, what is right is not, and --repair makes it whole again."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.command_line import datfs, failure, on_a_terminal, output, shared
from tests.vector_drives import DRIVES, SIMPLE_KEY, copy_drive, snapshot

MEMBERS = {
    "register": str,
    "ok": bool,
    "length": int,
    "chunks": int,
    "bytes": int,
    "bad_chunks": list,
    "bad_nodes": list,
    "signature_ok": bool,
    "cleared": int,
}


def verify(*words: object) -> tuple[int, list[dict[str, Any]]]:
    """Exit code and objects of ``datfs verify --json``."""
    ended = datfs("verify", *words, "--json")
    return ended.returncode, [json.loads(line) for line in ended.stdout.splitlines()]


def flip(path: Path, offset: int) -> None:
    """Changes one bit of a file."""
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


@pytest.fixture
def filled(tmp_path: Path) -> Iterator[tuple[Path, Path, str]]:
    """A cache with the simple drive, its folder, and a peer that has it."""
    cache = tmp_path / "cache"
    with shared(DRIVES / "simple") as (link, address, _):
        for path in ("hello.txt", "big.bin", "exact.bin"):
            datfs("cat", link, path, "--peer", address, "--cache-dir", cache)
        output("ls", "-R", link, "--peer", address, "--cache-dir", cache)
        (folder,) = cache.iterdir()
        yield cache, folder, address


@pytest.mark.parametrize("name", ["simple", "simple-raf", "simple-dat", "history", "history-dat", "empty", "deep"])
def test_what_is_right_is_right(name: str) -> None:
    """Every layout: all chunks hashed, exit code 0, and nothing in the folder changes."""
    before = snapshot(DRIVES / name)
    code, found = verify(DRIVES / name)
    assert code == 0
    assert [one["register"] for one in found] == ["metadata", "content"]
    for one in found:
        assert one["ok"]
        assert one["error"] is None
        for member, kind in MEMBERS.items():
            assert isinstance(one[member], kind), member
    assert snapshot(DRIVES / name) == before


def test_totals() -> None:
    """How much was checked is told, also for people."""
    _, found = verify(DRIVES / "simple")
    assert [(one["length"], one["chunks"], one["bytes"]) for one in found] == [(6, 6, 320), (7, 7, 215_577)]
    assert output("verify", DRIVES / "simple").splitlines() == [
        "metadata: 6 of 6 chunks are here (320 B), all right",
        "content: 7 of 7 chunks are here (210.5 KiB), all right",
    ]


def test_chunks_that_a_working_folder_lost_are_not_counted() -> None:
    """Old versions' bytes are gone from a folder of the dat command by design: they are not held, and not bad."""
    _, found = verify(DRIVES / "history-dat")
    assert (found[1]["length"], found[1]["chunks"]) == (10, 2)


def test_a_bad_chunk_is_named_with_its_bytes(tmp_path: Path) -> None:
    """Register, index and byte range; exit code 6; the good chunks count as good."""
    folder = copy_drive("simple", tmp_path)
    flip(folder / ".dat" / "content.data", 50_000)
    before = snapshot(folder)
    code, found = verify(folder)
    assert code == 6
    assert found[0]["ok"]
    assert found[1]["bad_chunks"] == [{"index": 3, "offset": 41, "size": 65_536}]
    ended = datfs("verify", folder)
    assert "content: chunk 3 is bad: bytes 41 to 65576 " in ended.stdout
    assert "7 of 7 chunks are here (210.5 KiB), 1 bad" in ended.stdout
    assert snapshot(folder) == before


def test_a_bad_chunk_of_the_header(tmp_path: Path) -> None:
    """The header may be bad itself: the content is checked all the same."""
    folder = copy_drive("simple", tmp_path)
    flip(folder / ".dat" / "metadata.data", 20)
    code, found = verify(folder)
    assert code == 6
    assert [bad["index"] for bad in found[0]["bad_chunks"]] == [0]
    assert found[1]["ok"]


def test_bad_tree_nodes_are_named(tmp_path: Path) -> None:
    """A node that does not follow from its children, and no root: found although every chunk is right."""
    folder = copy_drive("deep", tmp_path)
    flip(folder / ".dat" / "metadata.tree", 32 + 40 * 3)
    code, found = verify(folder)
    assert code == 6
    assert 3 in found[0]["bad_nodes"]
    assert found[0]["bad_chunks"] == []


def test_a_signature_that_does_not_fit(tmp_path: Path) -> None:
    """Without a single good signature the register cannot be opened: said, with code 6, and the other is checked."""
    folder = copy_drive("simple", tmp_path)
    path = folder / ".dat" / "content.signatures"
    path.write_bytes(path.read_bytes()[:32] + bytes(b ^ 1 for b in path.read_bytes()[32:]))
    code, found = verify(folder)
    assert code == 6
    by_name = {one["register"]: one for one in found}
    assert "content.signatures" in by_name["content"]["error"]
    assert by_name["metadata"]["ok"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: path.write_bytes(b"HELLO WORLD\n"), "content: /hello.txt was changed"),
        (lambda path: path.write_bytes(b"hello"), "/hello.txt was changed .* has 5 bytes, not 12"),
        (lambda path: path.unlink(), "/hello.txt cannot be read: No such file"),
    ],
)
def test_edited_and_missing_files_of_a_working_folder(tmp_path: Path, change: Any, message: str) -> None:
    """Files that no longer have the signed bytes are named."""
    folder = copy_drive("simple-dat", tmp_path)
    change(folder / "hello.txt")
    ended = datfs("verify", folder)
    assert ended.returncode == 6
    assert re.search(message, ended.stdout)


def test_folders_are_not_repaired() -> None:
    """A folder belongs to another program: --repair is refused before anything is looked at."""
    assert "a folder is never changed" in failure(2, "verify", DRIVES / "simple", "--repair")


def test_repair_clears_what_is_bad_and_it_is_fetched_again(filled: tuple[Path, Path, str]) -> None:
    """A bad chunk of the cache is found without peers, cleared, and comes again whole."""
    cache, folder, address = filled
    options = ("--cache-dir", cache)
    assert verify(SIMPLE_KEY, *options)[0] == 0
    flip(folder / "content.data", 50_000)
    assert verify(SIMPLE_KEY, *options)[0] == 6
    ended = datfs("verify", SIMPLE_KEY, *options)
    assert "--repair" in ended.stderr
    code, found = verify(SIMPLE_KEY, "--repair", *options)
    assert code == 0
    assert (len(found[1]["bad_chunks"]), found[1]["cleared"]) == (1, 1)
    code, found = verify(SIMPLE_KEY, *options)
    assert (code, found[1]["chunks"]) == (0, 4)
    failure(5, "cat", SIMPLE_KEY, "big.bin", "--offline", *options)
    ended = datfs("cat", SIMPLE_KEY, "big.bin", "--peer", address, *options, stdout=None)
    assert ended.returncode == 0
    code, found = verify(SIMPLE_KEY, *options)
    assert (code, found[1]["chunks"]) == (0, 5)


def test_a_bad_header_in_the_cache_is_repaired(filled: tuple[Path, Path, str]) -> None:
    """The chunk that names the content can be cleared and fetched like any other."""
    cache, folder, address = filled
    flip(folder / "metadata.data", 20)
    code, found = verify(SIMPLE_KEY, "--repair", "--cache-dir", cache)
    assert (code, found[0]["cleared"]) == (0, 1)
    assert output("cat", SIMPLE_KEY, "hello.txt", "--peer", address, "--cache-dir", cache) == "hello world\n"


def test_nothing_in_the_cache(tmp_path: Path) -> None:
    """A drive that was never fetched cannot be verified, and no folder is made for it."""
    assert "nothing of this drive is in the cache" in failure(4, "verify", SIMPLE_KEY, "--cache-dir", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_cache_that_is_in_use(filled: tuple[Path, Path, str]) -> None:
    """The owner of the cache may be writing: verify waits for its turn by refusing, and names the owner."""
    cache, _, _ = filled
    with shared(SIMPLE_KEY, "--cache-dir", cache) as (_, _, process):
        assert f"in use by process {process.pid}" in failure(1, "verify", SIMPLE_KEY, "--cache-dir", cache)


def test_a_single_register(tmp_path: Path) -> None:
    """A folder with one register in it is checked as such."""
    code, found = verify(DRIVES / "simple-raf" / "content")
    assert (code, [one["register"] for one in found]) == (0, ["register"])


def test_progress_on_a_terminal() -> None:
    """On a terminal a bar shows how far the check is; what is said at the end is the same."""
    code, seen = on_a_terminal("verify", DRIVES / "simple")
    assert code == 0
    assert "chunks" in seen
    assert "content: 7 of 7 chunks are here (210.5 KiB), all right" in seen
