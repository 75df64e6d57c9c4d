"""Real mounts with a small cache, a budget, programs that are refused, and no network."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from datfs.crypto import key_pair
from datfs.room import space_of, stores_in
from datfs.storage import directory_storage
from datfs.writer import DriveWriter, chunks_of
from tests.command_line import DATFS, SECONDS, datfs, objects, output
from tests.interop.datfs_side import Mounted, clear, mounted, shared

pytestmark = pytest.mark.fuse

CHUNK = 65_536
MIB = 1 << 20
LIMIT = 3 * MIB
READERS = 4
FILE = 700_000
FILES = {f"dir/{number:02}": random.Random(number).randbytes(FILE + number) for number in range(16)}
FLUSHED = 128 * 1024  # tree and bits of a flush, before the keeper looks again
# No zeros of any length are in the files, so that a hole would show; all is compared anyway.


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a drive of eleven MiB."""
    folder = tmp_path_factory.mktemp("drive")
    writer = DriveWriter.create(directory_storage(folder), key_pair(bytes(range(32))))
    for path, data in FILES.items():
        writer.put(tuple(path.encode().split(b"/")), chunks_of(data), mtime=0)
    writer.flush()
    writer.close()
    return folder


@contextmanager
def mounted_from(source: Path, tmp_path: Path, *options: str) -> Iterator[tuple[Mounted, str]]:
    """The drive, mounted from a process that shares it, and its link."""
    with shared(source) as (key, port):
        where = ("--peer", f"127.0.0.1:{port}", "--cache-dir", str(tmp_path / "cache"))
        with mounted(f"dat://{key}", tmp_path / "point", *where, *options) as mount:
            yield mount, f"dat://{key}"


def read(path: Path, size: int = 1 << 30) -> bytes:
    """The bytes of a file as datfs gives them: what the kernel keeps of it is dropped before and after."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        pieces = []
        while size > 0 and (piece := os.read(fd, min(size, 50_000))):
            pieces.append(piece)
            size -= len(piece)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        return b"".join(pieces)
    finally:
        os.close(fd)


def space_in(cache: Path) -> int:
    """What ``du`` says."""
    return space_of(cache) + sum(map(space_of, stores_in(cache)))


class Watch:
    """Looks all the time how much a cache takes. ``most``: the most that was seen."""

    def __init__(self, cache: Path) -> None:
        self.most = 0
        self._cache = cache
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._over.is_set():
            self.most = max(self.most, space_in(self._cache))
            time.sleep(0.002)

    def end(self) -> int:
        """Stops looking; the most."""
        self._over.set()
        self._thread.join()
        return self.most


def test_the_limit_is_kept_and_the_bytes_are_right(source: Path, tmp_path: Path) -> None:
    """Several readers go through four times of what fits, again and again, with files held open all the time."""
    wrong: list[str] = []
    with mounted_from(source, tmp_path, "--cache-size", str(LIMIT)) as (mount, link):
        watch = Watch(tmp_path / "cache")

        def reader(seed: int) -> None:
            dice = random.Random(seed)
            for _ in range(30):
                path = dice.choice(list(FILES))
                if read(mount.point / path) != FILES[path]:
                    wrong.append(path)

        held_open = {path: os.open(mount.point / path, os.O_RDONLY) for path in list(FILES)[:4]}
        threads = [threading.Thread(target=reader, args=(seed,)) for seed in range(READERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SECONDS)
        for path, fd in held_open.items():
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            if os.pread(fd, FILE * 2, 0) != FILES[path]:
                wrong.append(path)
            os.close(fd)
        assert wrong == []
        assert LIMIT // 2 < watch.end() <= LIMIT + READERS * CHUNK + FLUSHED
    checked = objects("verify", link, "--cache-dir", tmp_path / "cache")
    assert [one["ok"] for one in checked] == [True, True]


def test_two_mounts_share_one_limit(source: Path, tmp_path: Path) -> None:
    """Two processes with drives of their own stay below the limit together, and both get on."""
    other = tmp_path / "other"
    writer = DriveWriter.create(directory_storage(_made(other)), key_pair(bytes(32)))
    for path, data in list(FILES.items())[:8]:
        writer.put(tuple(path.encode().split(b"/")), chunks_of(data[::-1]), mtime=0)
    writer.close()
    with mounted_from(source, tmp_path, "--cache-size", str(LIMIT)) as (mount, _), shared(other) as (key, port):
        where = ("--peer", f"127.0.0.1:{port}", "--cache-dir", tmp_path / "cache", "--cache-size", str(LIMIT))
        with mounted(key, tmp_path / "second", *where) as second:
            watch = Watch(tmp_path / "cache")
            for _ in range(2):
                for path in list(FILES)[:8]:
                    assert read(mount.point / path) == FILES[path]
                    assert read(second.point / path) == FILES[path][::-1]
            assert watch.end() <= LIMIT + 2 * CHUNK + 2 * FLUSHED


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_killed_while_it_makes_room(source: Path, tmp_path: Path) -> None:
    """After kill -9 in the middle nothing that the cache calls held is a hole, and the next mount goes on."""
    for after in (0.0, 0.05, 0.15):
        with mounted_from(source, tmp_path, "--cache-size", str(LIMIT)) as (mount, link):
            thread = threading.Thread(target=_read_until_it_fails, args=(mount.point,), daemon=True)
            thread.start()
            time.sleep(0.3 + after)
            mount.process.send_signal(signal.SIGKILL)
            mount.process.wait(SECONDS)
            thread.join(SECONDS)
            clear(mount.point)
        checked = objects("verify", link, "--cache-dir", tmp_path / "cache")
        assert [one["ok"] for one in checked] == [True, True]
    with mounted_from(source, tmp_path, "--cache-size", str(LIMIT)) as (mount, _):
        for path, data in FILES.items():
            assert read(mount.point / path) == data


@pytest.mark.parametrize("how", ["mount", "prune"])
def test_space_of_a_mount_that_was_killed(source: Path, tmp_path: Path, how: str) -> None:
    """What it had stored and not noted is no longer on the disk after the next mount, or when room is made."""
    cache = tmp_path / "cache"
    with mounted_from(source, tmp_path) as (mount, link):
        for path in FILES:
            read(mount.point / path)
        mount.process.send_signal(signal.SIGKILL)
        mount.process.wait(SECONDS)
        clear(mount.point)
    assert space_in(cache) > 10 * MIB
    if how == "mount":
        with mounted_from(source, tmp_path) as (mount, _):
            assert mount.point.is_dir()
    else:
        (pruned,) = objects("cache", "prune", "--cache-dir", cache)
        assert pruned["freed"] > 9 * MIB
    (found,) = objects("cache", "ls", "--cache-dir", cache)
    assert found["files_space"] <= found["content_chunks_held"] * (CHUNK + 4096)
    checked = objects("verify", link, "--cache-dir", cache) if found["content_chunks"] else []
    assert all(one["ok"] for one in checked)


def test_a_pinned_drive_that_does_not_fit(source: Path, tmp_path: Path) -> None:
    """The limit holds as ever, with one program that reads: what does not fit is read, and not kept."""
    with mounted_from(source, tmp_path, "--cache-size", str(LIMIT)) as (mount, link):
        assert datfs("pin", link, "--cache-dir", tmp_path / "cache").returncode == 0
        watch = Watch(tmp_path / "cache")
        for path, data in FILES.items():
            assert (mount.point / path).read_bytes() == data
        assert LIMIT // 2 < watch.end() <= LIMIT + CHUNK + FLUSHED


def _read_until_it_fails(point: Path) -> None:
    try:
        while True:
            for path in FILES:
                read(point / path)
    except OSError:
        return


def test_commands_beside_a_mount(source: Path, tmp_path: Path) -> None:
    """What is in use is listed as such and not removed; its owner heeds pins, makes room and fetches when asked to."""
    cache = ("--cache-dir", tmp_path / "cache")
    with mounted_from(source, tmp_path, "--cache-size", str(LIMIT)) as (mount, link):
        assert read(mount.point / "dir/00") == FILES["dir/00"]
        assert datfs("pin", f"{link}/dir/00", *cache).returncode == 0
        for path, data in FILES.items():
            assert read(mount.point / path) == data
        (listed,) = objects("cache", "ls", *cache)
        assert (listed["link"], listed["pid"], listed["pins"]) == (link, mount.process.pid, ["/dir/00"])
        held = os.getxattr(mount.point / "dir/00", "user.dat.chunks_held")
        assert held == os.getxattr(mount.point / "dir/00", "user.dat.chunks")
        refused = datfs("cache", "drop", link, *cache)
        assert (refused.returncode, "in use by process" in refused.stderr) == (1, True)
        (pruned,) = objects("cache", "prune", *cache)
        assert (pruned["freed"] > MIB, pruned["in_use"]) == (True, [])
        assert mount.fact("chunks_held", "dir/15") == 0
        checked = datfs("prefetch", f"{link}/dir/00", f"{link}/dir/01", "--check", *cache)
        assert (checked.returncode, checked.stdout) == (9, "/dir/01\n")
        (fetched,) = objects("prefetch", f"{link}/dir/00", f"{link}/dir/01", *cache)
        assert (fetched["files"], fetched["missing"]) == (2, [])
        assert mount.fact("chunks_held", "dir/01") == mount.fact("chunks", "dir/01")
        full = datfs("prefetch", link, *cache)
        assert (full.returncode, "gave them up again" in full.stderr) == (9, True)
        assert read(mount.point / "dir/01") == FILES["dir/01"]
    assert datfs("cache", "prune", *cache).returncode == 0
    checked = datfs("prefetch", f"{link}/dir", "--check", *cache)
    assert checked.returncode == 9
    assert checked.stdout.splitlines() == [f"/{path}" for path in FILES if path != "dir/00"]


@pytest.mark.parametrize("own_peer", [True, False])
def test_prefetch_beside_a_mount_that_knows_no_names(source: Path, tmp_path: Path, own_peer: bool) -> None:
    """What is fetched can be read when nobody else is there, also if the mount had not looked at anything before."""
    cache = ("--cache-dir", tmp_path / "cache")
    with mounted_from(source, tmp_path) as (mount, link):
        checked = datfs("prefetch", f"{link}/dir", "--check", *cache, "--timeout", "3600")
        assert (checked.returncode, checked.stdout) == (9, "/dir\n")
        (status,) = objects("status", mount.point)
        assert status["registers"]["metadata"]["held"] <= 2
        peer = ("--peer", status["peers"][0]["address"]) if own_peer else ()
        (fetched,) = objects("prefetch", f"{link}/dir/03", *cache, *peer)
        assert (fetched["files"], fetched["missing"]) == (1, [])
    (listed,) = objects("ls", link, "dir/03", "--offline", *cache)
    assert listed["bytes_held"] == len(FILES["dir/03"])
    with mounted(link, tmp_path / "again", "--offline", *map(str, cache)) as again:
        assert read(again.point / "dir/03") == FILES["dir/03"]


def test_commands_beside_a_mount_that_knows_nothing_yet(source: Path, tmp_path: Path) -> None:
    """``ls`` and ``cat`` without a peer of their own have the mount get what it lacks; offline they end at once."""
    cache = ("--cache-dir", tmp_path / "cache", "--timeout", "3600")
    with mounted_from(source, tmp_path) as (mount, link):
        for words in (("ls", link, "dir"), ("cat", f"{link}/dir/03")):
            refused = datfs(*words, "--offline", *cache)
            assert (refused.returncode, "offline" in refused.stderr) == (5, True), refused
        (status,) = objects("status", mount.point)
        assert status["registers"]["metadata"]["held"] <= 2
        assert output("ls", link, "dir", *cache).split() == [Path(path).name for path in FILES]
        command = [*DATFS, "cat", f"{link}/dir/03", *map(str, cache)]
        ended = subprocess.run(command, capture_output=True, timeout=SECONDS, check=True)
        assert ended.stdout == FILES["dir/03"]
        assert mount.fact("chunks_held", "dir/03") == mount.fact("chunks", "dir/03")


def test_what_is_here_is_told_beside_a_mount(source: Path, tmp_path: Path) -> None:
    """``ls -l``, ``stat`` and ``info`` tell what the mount has, not what they have; nothing is fetched."""
    cache = ("--cache-dir", tmp_path / "cache")
    with mounted_from(source, tmp_path) as (mount, link):
        assert len(os.listdir(mount.point / "dir")) == len(FILES)
        assert read(mount.point / "dir/05") == FILES["dir/05"]
        os.pread(file := os.open(mount.point / "dir/07", os.O_RDONLY), 4096, 0)
        os.close(file)
        before = {one["path"]: one for one in objects("ls", link, "dir", *cache)}
        chunks = before["/dir/05"]["chunks"]
        assert before["/dir/05"]["chunks_held"] == chunks
        assert before["/dir/05"]["bytes_held"] == len(FILES["dir/05"])
        assert 0 < before["/dir/07"]["chunks_held"] < chunks
        assert (before["/dir/00"]["chunks_held"], before["/dir/00"]["bytes_held"]) == (0, 0)
        (stat,) = objects("stat", link, "dir/05", *cache)
        assert stat["chunks_held"] == chunks
        (info,) = objects("info", link, "dir", *cache)
        assert info["store"] is not None
        assert info["metadata_chunks_held"] == info["metadata_chunks"] == len(FILES) + 1
        assert info["content_chunks_held"] == chunks + before["/dir/07"]["chunks_held"]
        assert info["paths"][0]["chunks_held"] == info["content_chunks_held"]
    # And the same when nobody has it open any more.
    after = {one["path"]: one["chunks_held"] for one in objects("ls", link, "dir", "--offline", *cache)}
    assert after == {path: one["chunks_held"] for path, one in before.items()}


def test_a_budget(source: Path, tmp_path: Path) -> None:
    """EDQUOT when it is used up, for what is not here; what is here is read, and the log says why."""
    with mounted_from(source, tmp_path, "--budget", "2M") as (mount, link):
        assert read(mount.point / "dir/00") == FILES["dir/00"]
        with pytest.raises(OSError, match="quota") as caught:
            [read(mount.point / path) for path in FILES]
        assert caught.value.errno == errno.EDQUOT
        assert mount.fact("budget_left") == 0
        (why,) = objects("why", mount.point / "dir/15")
        assert why["hopeless"].startswith("the budget of 2.0 MiB is used up")
        cache = ("--cache-dir", tmp_path / "cache", "--timeout", "3600")
        prefetched = datfs("prefetch", f"{link}/dir/15", *cache)
        assert (prefetched.returncode, "the budget of 2.0 MiB" in prefetched.stderr) == (5, True)
        assert mount.fact("bytes_received") < 2 * MIB + 4 * CHUNK
        assert read(mount.point / "dir/00") == FILES["dir/00"]
        assert len(os.listdir(mount.point / "dir")) == len(FILES)
        assert "the budget of 2.0 MiB is used up" in mount.stderr()


def test_a_program_that_is_denied(source: Path, tmp_path: Path) -> None:
    """It opens what is here and is refused the rest with EACCES; it may list; other programs fetch."""
    indexer = tmp_path / "my-own-indexer-of-files"
    shutil.copy(shutil.which("cat") or "", indexer)
    with mounted_from(source, tmp_path, "--deny-program", indexer.name, "--deny-program", "x") as (mount, _):
        refused = subprocess.run([indexer, mount.point / "dir/00"], capture_output=True, timeout=SECONDS, check=False)
        assert (refused.returncode, b"Permission denied" in refused.stderr) == (1, True)
        assert mount.fact("chunks_held", "dir/00") == 0
        assert mount.run("cat dir/00") == FILES["dir/00"]
        allowed = subprocess.run([indexer, mount.point / "dir/00"], capture_output=True, timeout=SECONDS, check=True)
        assert allowed.stdout == FILES["dir/00"]


NAMESPACE = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
assert libc.unshare(0x40000000) == 0, os.strerror(ctypes.get_errno())
os.environ.pop("DATFS_DISCOVERY", None)
os.execv(sys.argv[1], sys.argv[1:])
"""


def may_unshare() -> bool:
    """Whether this process may make network namespaces."""
    tried = subprocess.run([sys.executable, "-c", NAMESPACE, "/bin/true"], capture_output=True, check=False)
    return tried.returncode == 0


@pytest.mark.skipif(not may_unshare(), reason="network namespaces cannot be made here")
def test_without_any_network(source: Path, tmp_path: Path) -> None:
    """Without --offline, on a machine with no network: the mount comes, what is held reads, the rest fails at once."""
    cache, point = tmp_path / "cache", tmp_path / "point"
    point.mkdir()
    with shared(source) as (key, port):
        fetched = datfs("prefetch", f"dat://{key}/dir/03", "--peer", f"127.0.0.1:{port}", "--cache-dir", cache)
        assert fetched.returncode == 0, fetched.stderr
    (cache / "names.json").write_text(f'{{"a-drive.example": {{"key": "{key}", "until": 5}}}}')
    (peers,) = cache.glob("*/peers.json")
    for link in (f"dat://{key}", "dat://a-drive.example"):
        command = [sys.executable, "-c", NAMESPACE, *DATFS, "mount", link, str(point), "--cache-dir", str(cache)]
        # The command's own timeout is an hour: were anything waited for, this would not come to an end in time.
        done = subprocess.run([*command, "--timeout", "3600"], capture_output=True, timeout=SECONDS, check=False)
        try:
            assert done.returncode == 0, done.stderr
            assert b"which is here" in done.stderr
            assert (point / "dir/03").read_bytes() == FILES["dir/03"]
            with pytest.raises(OSError, match="No route") as caught:
                (point / "dir/04").read_bytes()
            assert caught.value.errno == errno.EHOSTUNREACH
        finally:
            assert datfs("umount", point).returncode == 0
            clear(point)
            peers.unlink(missing_ok=True)  # the second time no address is known either
    command = [
        sys.executable,
        "-c",
        NAMESPACE,
        *DATFS,
        "clone",
        f"dat://{key}",
        str(tmp_path / "copy"),
        "--discovery",
        "mdns",
    ]
    done = subprocess.run([*command, "--timeout", "3600"], capture_output=True, timeout=SECONDS, check=False)
    assert (done.returncode, b"this machine is on no network" in done.stderr) == (5, True), done.stderr
