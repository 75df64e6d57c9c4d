"""``datfs cache``, ``pin``, ``unpin`` and ``prefetch`` as a person runs them."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from datfs.client import Options, open_drive
from datfs.crypto import key_pair
from datfs.errors import NoPeers
from datfs.link import parse_link
from datfs.local_sockets import PEER_NAME
from datfs.room import stores_in
from datfs.storage import directory_storage
from datfs.store import cache_folder
from datfs.text import parse_size
from datfs.writer import DriveWriter, chunks_of
from tests.command_line import DATFS, SECONDS, datfs, failure, objects, on_a_terminal, output, shared
from tests.vector_drives import read

FILES = {
    "dat.json": b'{"title": "A \\u001b[31mdrive"}',
    "a b.txt": b"hello\n" * 100,
    "dir/one": bytes(range(256)) * 1000,
    "dir/two": b"2" * 300_000,
}


def drive_at(folder: Path, seed: int = 1) -> None:
    """Writes the drive into a folder."""
    folder.mkdir()
    writer = DriveWriter.create(directory_storage(folder), key_pair(bytes([seed]) * 32))
    for path, data in FILES.items():
        writer.put(tuple(path.encode().split(b"/")), chunks_of(data), mtime=0)
    writer.flush()
    writer.close()


@pytest.fixture
def drive(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """A drive that is shared: its link, and the address."""
    drive_at(tmp_path / "drive")
    with shared(tmp_path / "drive") as (link, address, _):
        yield link, address


@pytest.fixture
def cache(tmp_path: Path) -> tuple[str, Path]:
    """The option for a cache of the test's own."""
    return "--cache-dir", tmp_path / "cache"


Cache = tuple[str, Path]
Drive = tuple[str, str]


def test_prefetch_and_check(drive: Drive, cache: Cache) -> None:
    """What is named is fetched whole, nothing else; --check tells what is missing, and ends with 9."""
    link, address = drive
    peer = ("--peer", address)
    (found,) = objects("prefetch", f"{link}/dir", *peer, *cache)
    assert (found["files"], found["size"], found["missing"]) == (2, 556_000, [])
    assert found["chunks"] == found["chunks_held"]
    assert output("ls", link, "--peer", address, *cache)
    output("cache", "prune", *cache)
    output("prefetch", f"{link}/dir", *peer, "--quiet", *cache)
    ended = datfs("prefetch", link, "--check", *cache)
    assert (ended.returncode, sorted(ended.stdout.splitlines())) == (9, ["/a b.txt", "/dat.json"])
    assert "2 of 4 files not here whole" in ended.stderr
    ended = datfs("prefetch", link, *peer, *cache)
    assert (ended.returncode, ended.stdout) == (0, "")
    assert "fetched 2 files" in ended.stderr
    assert datfs("prefetch", link, "--check", *cache).returncode == 0
    assert output("cat", f"{link}/dir/two", *cache, "--offline") == "2" * 300_000


def test_prefetch_from_a_list(drive: Drive, cache: Cache, tmp_path: Path) -> None:
    """Links, or paths in the only link; from a file and from standard input; a line that is neither is named."""
    link, address = drive
    wanted = tmp_path / "list"
    wanted.write_text(f"{link}/dat.json\n\n{link}/a b.txt\n")
    (found,) = objects("prefetch", "--from", wanted, "--peer", address, *cache)
    assert (found["files"], found["missing"]) == (2, [])
    command = [*DATFS, "prefetch", link, "--from", "-", "--check", "--json", *map(str, cache)]
    ended = subprocess.run(
        command, input="dat.json\ndir/one\n", capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert (ended.returncode, '"missing": ["/dir/one"]' in ended.stdout) == (9, True)
    nowhere = ("--cache-dir", tmp_path / "empty")
    ended = datfs("prefetch", f"{link}/dir", "--check", *nowhere)
    assert (ended.returncode, ended.stdout) == (9, "/dir\n")
    assert "not known" in ended.stderr
    wanted.write_text("dat.json\nnonsense\n")
    assert "list, line 1" in failure(7, "prefetch", "--from", wanted, *cache)
    assert "/nope" in failure(3, "prefetch", f"{link}/nope", "--check", *cache)


def test_prefetch_of_what_is_not_there(drive: Drive, cache: Cache, tmp_path: Path) -> None:
    """It is named, and the rest is fetched; if nothing of it is there, that is an error."""
    link, address = drive
    wanted = tmp_path / "list"
    wanted.write_text("nope\ndir/one\na b.txt/below\n")
    peer = ("--peer", address)
    ended = datfs("prefetch", link, "--from", wanted, "--quiet", *peer, *cache)
    assert (ended.returncode, ended.stdout) == (9, "")
    assert ended.stderr.splitlines() == [
        f"datfs: {link}: there is no /nope in version 4",
        f"datfs: {link}: there is no /a b.txt/below in version 4",
    ]
    assert len(output("cat", f"{link}/dir/one", "--offline", *cache)) == len(FILES["dir/one"])
    ended = datfs("prefetch", link, "--from", wanted, "--check", "--json", *cache)
    assert ended.returncode == 9
    told = json.loads(ended.stdout)
    assert (told["files"], told["missing"], told["not_there"]) == (1, [], ["/a b.txt/below", "/nope"])
    assert "/nope" in failure(3, "prefetch", f"{link}/nope", f"{link}/a b.txt/below", *peer, *cache)


def test_no_bar_of_nothing(drive: Drive, cache: Cache) -> None:
    """On a terminal a bar shows what is fetched, and none is shown if all is here."""
    link, address = drive
    command = ("prefetch", link, "--peer", address, *cache)
    code, seen = on_a_terminal(*command)
    assert (code, "4/4 files" in seen) == (0, True)
    code, seen = on_a_terminal(*command)
    assert (code, "files" in seen, "0 B" in seen) == (0, False, False)


def test_prefetch_that_cannot_be(drive: Drive, cache: Cache, tmp_path: Path) -> None:
    """No peer, no room, no cache: each has its reason and its exit code."""
    link, address = drive
    assert "no peer" in failure(5, "prefetch", link, "--peer", "127.0.0.1:1", *cache)
    assert "--cache-size" in failure(5, "prefetch", link, "--peer", address, "--cache-size", "100K", *cache)
    assert "--memory" in failure(2, "prefetch", link, "--memory")
    assert "here already" in failure(7, "prefetch", tmp_path / "drive")
    assert "LINK" in failure(2, "prefetch")


def test_list_and_sizes(drive: Drive, cache: Cache) -> None:
    """``ls`` tells what a person has to know of a drive, its title without escapes; ``du`` adds up what ``du`` does."""
    link, address = drive
    assert output("cache", "ls", *cache) == ""
    assert objects("cache", "du", *cache) == [{"link": None, "folder": str(cache[1]), "space": 0}]
    datfs("prefetch", link, "--peer", address, *cache)
    (listed,) = objects("cache", "ls", *cache)
    assert (listed["link"], listed["version"], listed["title"]) == (link, 4, "A \x1b[31mdrive")
    assert (listed["pid"], listed["own"], listed["pins"], listed["error"]) == (None, False, [], None)
    assert listed["content_chunks"] == listed["content_chunks_held"]
    line = output("cache", "ls", *cache)
    assert link in line
    assert "100%" in line
    assert "A \\x1b[31mdrive" in line
    one, total = objects("cache", "du", *cache)
    measured = subprocess.run(["du", "-sB1", cache[1]], capture_output=True, text=True, check=True).stdout.split()[0]
    assert total["space"] == int(measured)
    assert (one["link"], one["space"]) == (link, listed["space"])
    assert output("cache", "du", *cache).splitlines()[-1].endswith("total")


def test_pins_and_prune(drive: Drive, cache: Cache) -> None:
    """``prune`` gives up chunks down to a size, or all but what is pinned; metadata stay, so everything still lists."""
    link, address = drive
    datfs("prefetch", link, "--peer", address, *cache)
    output("pin", f"{link}/dir/one", *cache)
    output("pin", f"{link}/dir/one", f"{link}/a b.txt", *cache)
    (listed,) = objects("cache", "ls", *cache)
    assert listed["pins"] == ["/a b.txt", "/dir/one"]
    assert "2 paths pinned" in output("cache", "ls", *cache)
    assert datfs("cache", "prune", "--to", "1K", *cache).returncode == 9
    (pruned,) = objects("cache", "prune", *cache)
    assert pruned["space"] < 400_000
    ended = datfs("prefetch", link, "--check", *cache)
    assert sorted(ended.stdout.splitlines()) == ["/dat.json", "/dir/two"]
    assert output("ls", link, "--offline", *cache).split("\n")[0] == "a b.txt"
    assert "not pinned; pinned are: /a b.txt, /dir/one" in failure(3, "unpin", link, *cache)
    output("unpin", f"{link}/a b.txt", *cache)
    output("unpin", "--all", link, *cache)
    (pruned,) = objects("cache", "prune", *cache)
    assert pruned["freed"] >= 250_000
    assert "leave out +2" in failure(2, "pin", f"{link}+2/dir", *cache)


def test_pins_of_what_is_not_there(drive: Drive, cache: Cache) -> None:
    """A drive can be pinned before anything of it is here, and is listed by its link; unpinned it leaves nothing."""
    link, address = drive
    output("pin", f"{link}/dir", *cache)
    (line,) = output("cache", "ls", *cache).splitlines()
    assert link in line
    assert "(1 path pinned, nothing here yet)" in line
    output("unpin", f"{link}/dir", *cache)
    assert not list(cache[1].iterdir())
    datfs("prefetch", link, "--peer", address, *cache)
    assert datfs("pin", f"{link}/dir", *cache).stderr == ""
    assert "pinned, though nothing is there in version" in datfs("pin", f"{link}/dri", *cache).stderr
    output("unpin", "--all", link, *cache)
    assert datfs("prefetch", link, "--check", *cache).returncode == 0


def test_drop(drive: Drive, cache: Cache) -> None:
    """A drive is removed whole, unless it is pinned, in use, or ours to write."""
    link, address = drive
    assert "nothing of" in failure(4, "cache", "drop", link, *cache)
    datfs("prefetch", link, "--peer", address, *cache)
    folder = cache_folder(parse_link(link).key, cache[1])
    output("pin", link, *cache)
    assert "pinned" in failure(1, "cache", "drop", link, *cache)
    assert "dropped" in output("cache", "drop", link, "--force", *cache)
    assert stores_in(cache[1]) == []
    datfs("prefetch", link, "--peer", address, *cache)
    (folder / "metadata.secret_key").write_bytes(key_pair(bytes([1]) * 32).secret)
    assert "secret key" in failure(1, "cache", "drop", link, "--force", *cache)
    (listed,) = objects("cache", "ls", *cache)
    assert listed["own"]


def test_in_use_is_not_dropped(drive: Drive, cache: Cache) -> None:
    """The process that has it open is named; with --force it is removed even so."""
    link, address = drive
    datfs("prefetch", link, "--peer", address, *cache)
    folder = cache_folder(parse_link(link).key, cache[1])
    with open(folder / "lock", "r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.truncate()
        lock.write("4711\n")
        lock.flush()
        assert "process 4711" in failure(1, "cache", "drop", link, *cache)
        (listed,) = objects("cache", "ls", *cache)
        assert listed["pid"] == 4711
        output("cache", "drop", link, "--force", *cache)
    assert not folder.exists()


def test_a_damaged_store_is_listed(drive: Drive, cache: Cache) -> None:
    """What cannot be read is told, and does not hide the others."""
    link, address = drive
    datfs("prefetch", link, "--peer", address, *cache)
    folder = cache_folder(parse_link(link).key, cache[1])
    (folder / "pins.json").write_text("[1]")
    (listed,) = objects("cache", "ls", *cache)
    assert "list of paths" in listed["error"]
    (folder / "pins.json").unlink()
    os.truncate(folder / "metadata.tree", 40)
    (listed,) = objects("cache", "ls", *cache)
    assert (listed["link"], listed["version"]) == (link, None)
    assert "cannot be read" in output("cache", "ls", *cache)


async def test_who_looks_on_never_sees_a_hole(drive: Drive, cache: Cache) -> None:
    """Without peers beside the owner a reader sees what it has kept; what it drops meanwhile is missing, not zeros."""
    link, address = drive
    host, _, port = address.rpartition(":")
    mine = Options(peers=[(host, int(port))], cache_dir=cache[1])
    async with open_drive(link, mine) as owner:
        tree = await owner.drive.checkout()
        entry = await tree.find((b"dir", b"two"))
        assert await read(tree, entry) == FILES["dir/two"]
        await owner.flush()
        assert owner.store.folder is not None
        (owner.store.folder / PEER_NAME).unlink()  # as if it did not answer: else it would serve the other one
        async with open_drive(link, Options(cache_dir=cache[1], offline=True, share_locked=True)) as viewer:
            seen = await viewer.drive.checkout()
            assert await read(seen, entry) == FILES["dir/two"]
            file = await seen.open(entry)
            assert owner.keeper is not None
            assert owner.keeper.prune(1 << 30) > 0
            with trio.fail_after(5), pytest.raises(NoPeers, match="has dropped"):
                await file.read(0, 1000)
            assert file.read_nowait(0, 1000) is None
            file.close()
        assert await read(tree, entry) == FILES["dir/two"]


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("512", 512), ("64K", 65536), ("1.5g", 3 << 29), ("10 GiB", 10 << 30), ("2MB", 2 << 20)],
)
def test_sizes(text: str, size: int) -> None:
    """As people write them; units of 1024."""
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "-1", "K", "1X", "1e3", "٣", "9" * 50])
def test_what_is_no_size(text: str) -> None:
    """Is refused, with an example."""
    with pytest.raises(ValueError, match="10G"):
        parse_size(text)
