"""A swarm of reference and datfs peers, most of them bad in their own way, while a mount's file is read at random."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from bench.relay import link_to
from tests.interop.datfs_side import mounted, shared, wait_until
from tests.interop.reference import MadeDrive, Operation, fill, make_drive, serve

SIZE = 18_000_000
CHUNK = 65_536
CHUNKS = -(-SIZE // CHUNK)
DEADLINE = 15  # seconds that the mount gives a read
READERS = 4
READS = 60  # of each
PIECE_MOST = 200_000
OWN_SOCKETS = 8  # of the process itself, for waking up and for other programs of this machine
EVERY_FIFTH = [word for chunk in range(0, CHUNKS, 5) for word in ("--corrupt-chunk", str(chunk))]

pytestmark = [pytest.mark.fuse, pytest.mark.time_limit(150)]


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> MadeDrive:
    """One file of 275 chunks."""
    plan: list[Operation] = [{"op": "put", "path": "/file", "size": SIZE}]
    return make_drive(tmp_path_factory.mktemp("swarm") / "drive", plan)


@contextmanager
def far_share(drive: MadeDrive, *, rate: float, round_trip: float) -> Iterator[str]:
    """``datfs share`` of the drive at the other end of a link; its address. When the block ends it is gone."""
    with (
        shared(drive.path, "--discovery", "none") as (_, port),
        link_to(("127.0.0.1", port), rate=rate, round_trip=round_trip) as [address],
    ):
        yield address


def read_at_random(path: Path, content: bytes, seed: int) -> None:
    """Reads pieces anywhere, some of them in a row. Fails on wrong bytes; OSError if the mount gives up."""
    dice = random.Random(seed)
    with open(path, "rb", buffering=0) as file:
        at = 0
        for _ in range(READS):
            size = dice.randint(1, PIECE_MOST)
            at = at + size if dice.random() < 0.3 else dice.randrange(SIZE)
            assert os.pread(file.fileno(), size, at) == content[at : at + size], (at, size)


def test_eight_peers_of_all_kinds(large: MadeDrive, tmp_path: Path) -> None:
    """Slow, partial, lying, stalling, dropping, leaving peers: all bytes are right, each read within its deadline."""
    content = fill("/file", SIZE)
    with ExitStack() as stack:
        liar = stack.enter_context(serve(large.path, *EVERY_FIFTH, "--latency-ms", "2"))
        stalling = stack.enter_context(serve(large.path, "--stall-after", "4"))
        dropping = stack.enter_context(
            serve(large.path, "--drop-after", "300000", "--latency-ms", "20", "--bandwidth", "2000000")
        )
        half = stack.enter_context(serve(large.path, "--only-chunks", f"0-{CHUNKS // 2}", "--bandwidth", "2000000"))
        shares = [
            stack.enter_context(far_share(large, rate=rate, round_trip=round_trip))
            for rate, round_trip in ((1e6, 0.2), (3e5, 0.05), (3e6, 0.02))
        ]
        leaving = stack.enter_context(ExitStack())
        shares.append(leaving.enter_context(far_share(large, rate=2e6, round_trip=0.01)))
        everybody = [peer.address for peer in (liar, stalling, dropping, half)] + shares
        options = [word for address in everybody for word in ("--peer", address)]
        options += ["--discovery", "none", "--timeout", str(DEADLINE), "--cache-dir", str(tmp_path / "cache")]
        with mounted(large.link, tmp_path / "mnt", *options) as mount:
            path, open_files = mount.point / "file", Path(f"/proc/{mount.process.pid}/fd")
            with ThreadPoolExecutor(READERS) as readers:
                reads = [readers.submit(read_at_random, path, content, seed) for seed in range(READERS)]
                wait_until(lambda: mount.fact("bytes_received") > 2_000_000, "some of it was read")
                leaving.close()
                for read in reads:
                    read.result()
            assert path.read_bytes() == content
            assert (
                sum(os.readlink(one).startswith("socket:") for one in open_files.iterdir())
                <= len(everybody) + OWN_SOCKETS
            )
        assert len(liar.events("connection")) == 1, "banned for a wrong chunk, and never called again"
        assert dropping.events("drop")
        assert {request.index for request in half.requests("content")} <= set(range(CHUNKS // 2 + 1))
        assert any(not request.answered for request in stalling.requests("content"))
