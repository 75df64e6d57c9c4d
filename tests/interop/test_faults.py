"""Peers that fail in every way the reference peer can be made to: the bytes are right, or the error is clear."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.interop.datfs_side import datfs, mounted
from tests.interop.reference import MadeDrive, Operation, ReferencePeer, fill, make_drive, serve

UNREACHABLE, TIMED_OUT, IO_ERROR = b"No route to host", b"Connection timed out", b"Input/output error"
MORE = 3_000_000
AT_ONCE = 12.0  # of the 20 or 30 seconds that a reader could wait
CHUNKS = -(-MORE // 65_536)

DriveOf = Callable[[str], MadeDrive]


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> MadeDrive:
    """A file of 46 chunks, and a small one after it."""
    plan: list[Operation] = [
        {"op": "put", "path": "/more.bin", "size": MORE},
        {"op": "put", "path": "/last.txt", "text": "last\n"},
    ]
    return make_drive(tmp_path_factory.mktemp("large") / "drive", plan)


def sha256(data: bytes) -> str:
    """Of bytes too long to compare in a failure's message."""
    return hashlib.sha256(data).hexdigest()


def peers(*some: ReferencePeer) -> list[str]:
    """The options that name them."""
    return [word for peer in some for word in ("--peer", peer.address)]


def cat(drive: MadeDrive, path: str, *arguments: str, timeout: float = 30.0) -> tuple[bytes, int, str]:
    """What ``datfs cat`` gave: bytes, exit code, the error."""
    done = datfs("cat", drive.link, path, "--memory", "--timeout", "5", *arguments, timeout=timeout)
    assert b"Traceback" not in done.stderr, done.stderr.decode()
    return done.stdout, done.returncode, done.stderr.decode()


def assert_whole(drive: MadeDrive, *arguments: str) -> None:
    """A read of the whole file gives its bytes."""
    data, code, said = cat(drive, "/more.bin", *arguments)
    assert (code, sha256(data)) == (0, drive.files["/more.bin"].sha256), said


def test_connections_that_drop_again_and_again(large: MadeDrive) -> None:
    """A peer that hangs up after every 400,000 bytes is dialed again until everything is here."""
    with serve(large.path, "--drop-after", "400000") as peer:
        assert_whole(large, *peers(peer))
        assert len(peer.events("drop")) >= 5


WRONG = {
    "chunk": ["--corrupt-chunk", "20"],
    "proof": [word for chunk in range(5, 46) for word in ("--corrupt-proof", str(chunk))],
    "index": ["--wrong-index", "20"],
}
"""Flags of wrong content; not all answers carry hashes, so that many are made wrong."""


@pytest.mark.parametrize("what", WRONG)
def test_wrong_bytes_with_a_good_peer(large: MadeDrive, what: str) -> None:
    """With a second peer that is right, the read is whole whatever the first one sends."""
    with serve(large.path, *WRONG[what]) as bad, serve(large.path, "--latency-ms", "20") as good:
        assert_whole(large, *peers(bad, good))


@pytest.mark.parametrize("what", WRONG)
def test_wrong_bytes_alone(large: MadeDrive, what: str) -> None:
    """From that peer alone: exit code 6 and a reason, and only bytes that are right before it."""
    with serve(large.path, *WRONG[what]) as bad:
        data, code, said = cat(large, "/more.bin", *peers(bad))
        assert (code, fill("/more.bin", MORE).startswith(data)) == (6, True), said
        assert "verify" in said
        assert bad.address in said


def test_wrong_signatures(large: MadeDrive) -> None:
    """A peer whose signatures are wrong gives nothing at all; with a good one it does no harm."""
    with serve(large.path, "--corrupt-signature") as bad:
        data, code, said = cat(large, "/last.txt", *peers(bad))
        assert (data, code) == (b"", 6), said
        with serve(large.path) as good:
            assert_whole(large, *peers(bad, good))


def test_wrong_metadata(large: MadeDrive) -> None:
    """A wrong metadata chunk: exit code 6 alone, no harm with a good peer."""
    with serve(large.path, "--corrupt-metadata", "1") as bad:
        _, code, said = cat(large, "/more.bin", *peers(bad))
        assert code == 6, said
        with serve(large.path) as good:
            assert_whole(large, *peers(bad, good))


@pytest.mark.fuse
def test_wrong_bytes_on_a_mount(large: MadeDrive, tmp_path: Path) -> None:
    """EIO for what nobody has right; what came before stays readable."""
    with serve(large.path, "--corrupt-chunk", "40") as bad:
        arguments = ["--memory", "--timeout", "5", *peers(bad)]
        with mounted(large.link, tmp_path / "m", *arguments) as mount:
            assert mount.run("head -c 1000 more.bin") == fill("/more.bin", MORE)[:1000]
            failed = mount.try_run("dd if=more.bin bs=4096 skip=640 count=1 status=none")
            assert (failed.returncode, failed.stdout) == (1, b"")
            assert IO_ERROR in failed.stderr
            assert mount.run("head -c 2000 more.bin") == fill("/more.bin", MORE)[:2000]
            assert mount.run("ls").split() == [b"last.txt", b"more.bin"]


@pytest.mark.fuse
def test_a_peer_that_stalls(large: MadeDrive, tmp_path: Path) -> None:
    """ETIMEDOUT when the timeout is over, soon after and not before; what is here is read at once meanwhile."""
    with serve(large.path, "--stall-after", "3") as peer:
        arguments = ["--memory", "--timeout", "2", *peers(peer)]
        with mounted(large.link, tmp_path / "m", *arguments) as mount:
            assert mount.run("head -c 100 more.bin") == fill("/more.bin", MORE)[:100]
            started = time.monotonic()
            failed = mount.try_run("cat more.bin")
            assert (failed.returncode, TIMED_OUT in failed.stderr) == (1, True), failed.stderr
            assert 1.9 < time.monotonic() - started < 15
            assert mount.run("head -c 100 more.bin") == fill("/more.bin", MORE)[:100]


def test_a_stall_is_no_harm_with_a_second_peer(drive_of: DriveOf) -> None:
    """What one peer does not answer is asked of the other, well before a reader's own deadline."""
    drive = drive_of("simple")
    with serve(drive.path, "--stall-after", "0") as slow, serve(drive.path, "--latency-ms", "30") as good:
        done = datfs("cat", drive.link, "/big.bin", "--memory", "--timeout", "15", *peers(slow, good))
        assert (done.returncode, sha256(done.stdout)) == (0, drive.files["/big.bin"].sha256), done.stderr
        assert slow.requests("content"), "it was not asked, so this shows nothing"


@pytest.mark.parametrize("flags", [["--silent"], ["--stall-metadata-after", "0"]], ids=["silent", "stalled"])
def test_a_peer_that_says_nothing(large: MadeDrive, flags: list[str]) -> None:
    """Exit code 5 when the timeout is over; with a second peer nobody notices."""
    with serve(large.path, *flags) as silent:
        started = time.monotonic()
        data, code, said = cat(large, "/last.txt", "--timeout", "1.5", *peers(silent))
        assert (data, code) == (b"", 5), said
        assert 1.4 < time.monotonic() - started < 15
        assert re.search(r"within 1\.5 s|1\.5 s", said), said
        with serve(large.path) as good:
            assert_whole(large, *peers(silent, good))


@pytest.mark.parametrize("flags", [["--latency-ms", "100"], ["--bandwidth", "3000000"]], ids=["latency", "bandwidth"])
def test_slow_links(large: MadeDrive, flags: list[str]) -> None:
    """A slow peer costs time and nothing else."""
    with serve(large.path, *flags) as peer:
        assert_whole(large, *peers(peer))
        asked = [request.index for request in peer.requests("content")]
        assert len(asked) == len(set(asked)), "asked twice although the answer was on its way"


@pytest.mark.fuse
def test_a_slow_link_is_no_time_out(large: MadeDrive, tmp_path: Path) -> None:
    """What the kernel reads ahead comes too late; the program gets all its bytes, as they do come all the time."""
    with serve(large.path, "--bandwidth", "300000") as peer:
        with mounted(large.link, tmp_path / "m", "--memory", "--timeout", "5", *peers(peer)) as mount:
            data = mount.run("cat more.bin", 60)
    assert sha256(data) == large.files["/more.bin"].sha256


@pytest.mark.parametrize(
    "thirds",
    [
        [range(16), range(16, 32), range(32, CHUNKS + 1)],
        [range(first, CHUNKS + 1, 3) for first in range(3)],
    ],
    ids=["in a row", "every third"],
)
def test_pieces_from_three_peers(large: MadeDrive, thirds: list[range]) -> None:
    """Each of three peers has a third of the chunks: together they have the file, and none is asked for others."""
    with ExitStack() as stack:
        some = [stack.enter_context(serve(large.path, "--only-chunks", ",".join(map(str, t)))) for t in thirds]
        assert_whole(large, *peers(*some))
        for peer, third in zip(some, thirds, strict=True):
            asked = {request.index for request in peer.requests("content")}
            assert asked
            assert asked <= set(third)


@pytest.mark.fuse
def test_what_no_peer_has(large: MadeDrive, tmp_path: Path) -> None:
    """A chunk that the only peer lacks is waited for until the timeout; the others are read."""
    with serve(large.path, "--only-chunks", "0-10,46") as peer:
        arguments = ["--memory", "--timeout", "1.5", *peers(peer)]
        with mounted(large.link, tmp_path / "m", *arguments) as mount:
            assert mount.run("head -c 500000 more.bin | wc -c") == b"500000\n"
            failed = mount.try_run("tail -c 10 more.bin")
            assert (failed.returncode, TIMED_OUT in failed.stderr) == (1, True), failed.stderr
            assert mount.run("cat last.txt") == b"last\n"


@pytest.mark.fuse
def test_a_peer_without_keep_alives(large: MadeDrive, tmp_path: Path) -> None:
    """Twelve seconds of silence are no reason to leave; ours keep the other side content too."""
    with serve(large.path, "--no-keepalive") as peer:
        with mounted(large.link, tmp_path / "m", "--memory", *peers(peer)) as mount:
            assert mount.run("cat last.txt") == b"last\n"
            time.sleep(12)
            assert sha256(mount.run("cat more.bin")) == large.files["/more.bin"].sha256
        assert len(peer.events("connection")) == 1


def test_a_peer_of_another_drive(large: MadeDrive, drive_of: DriveOf) -> None:
    """Exit code 5 and a reason, long before the timeout; beside a good peer it does no harm."""
    with serve(drive_of("simple").path) as other:
        started = time.monotonic()
        data, code, said = cat(large, "/last.txt", "--timeout", "20", *peers(other))
        assert (data, code) == (b"", 5), said
        assert time.monotonic() - started < 15
        with serve(large.path) as good:
            assert_whole(large, *peers(other, good))


@pytest.mark.fuse
def test_a_peer_that_dies(large: MadeDrive, tmp_path: Path) -> None:
    """All that is here is read, the rest is EHOSTUNREACH at once; a peer that comes back is dialed again."""
    with serve(large.path) as peer:
        arguments = ["--memory", "--timeout", "20", *peers(peer)]
        with mounted(large.link, tmp_path / "m", *arguments) as mount:
            assert mount.run("ls | wc -l; cat last.txt") == b"2\nlast\n"
            peer.kill()
            started = time.monotonic()
            failed = mount.try_run("cat more.bin")
            assert (failed.returncode, UNREACHABLE in failed.stderr) == (1, True), failed.stderr
            assert mount.run("cat last.txt; ls | wc -l") == b"last\n2\n"
            assert time.monotonic() - started < AT_ONCE
            with serve(large.path, "--port", str(peer.port)):
                time.sleep(1.2)  # an address rests for a second after a failure
                assert sha256(mount.run("cat more.bin")) == large.files["/more.bin"].sha256


@pytest.mark.fuse
def test_offline(large: MadeDrive, tmp_path: Path) -> None:
    """``--offline``: everything that was read before is there without network, the rest fails at once."""
    with serve(large.path) as peer:
        done = datfs("cat", large.link, "/last.txt", "--cache-dir", tmp_path / "cache", *peers(peer))
        assert done.returncode == 0
        connections = len(peer.events("connection"))
        arguments = ["--offline", "--cache-dir", str(tmp_path / "cache")]
        with mounted(large.link, tmp_path / "m", *arguments) as mount:
            assert mount.run("cat last.txt") == b"last\n"
            started = time.monotonic()
            failed = mount.try_run("cat more.bin")
            assert (failed.returncode, UNREACHABLE in failed.stderr) == (1, True), failed.stderr
            assert time.monotonic() - started < AT_ONCE
        read = datfs("cat", large.link, "/more.bin", *arguments)
        assert (read.returncode, read.stdout) == (5, b"")
        assert b"offline" in read.stderr
        assert len(peer.events("connection")) == connections


def test_a_dead_peer_from_the_start(large: MadeDrive, tmp_path: Path) -> None:
    """What is in the cache is shown although the peer cannot be reached, and without a wait."""
    with serve(large.path) as peer:
        where = ["--cache-dir", str(tmp_path), *peers(peer)]
        assert datfs("cat", large.link, "/last.txt", *where).returncode == 0
    started = time.monotonic()
    read = datfs("cat", large.link, "/last.txt", *where)
    assert (read.returncode, read.stdout) == (0, b"last\n"), read.stderr
    assert b"showing version 2" in read.stderr
    read = datfs("cat", large.link, "/more.bin", *where)
    assert (read.returncode, read.stdout) == (5, b"")
    assert time.monotonic() - started < AT_ONCE
