"""Large drives: what a small read, a mount and a listing cost, told by the reference peer's own request log."""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

import datfs
from datfs.crypto import key_pair
from datfs.storage import Buffer, FileStorage, RandomAccess
from datfs.writer import CHUNK_BYTES, DriveWriter
from tests.interop.datfs_side import datfs_json, mounted
from tests.interop.reference import MadeDrive, ReferencePeer, Request, fill, make_drive, serve

GIB = 1 << 30
CHUNKS = GIB // CHUNK_BYTES
MIDDLE = CHUNKS // 2
FILES = 100_000
ROUND_TRIP = 0.2


class Holes(FileStorage):
    """A file that leaves holes where zeros are written, so that a gibibyte of them takes no room."""

    _zeros = bytes(CHUNK_BYTES)

    def write(self, offset: int, data: Buffer) -> None:
        """Writes anything but a chunk of zeros; the last byte is written so that the size is right."""
        if len(data) == CHUNK_BYTES and data == self._zeros:
            super().write(offset + CHUNK_BYTES - 1, b"\0")
        else:
            super().write(offset, data)


@pytest.fixture(scope="module")
def gibibyte(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ReferencePeer, str]]:
    """A served drive with one file of 1 GiB: zeros, and in the middle a chunk that is not."""
    folder = tmp_path_factory.mktemp("gibibyte")

    def storage(name: str) -> RandomAccess:
        return Holes(folder / name)

    writer = DriveWriter.create(storage, key_pair(b"g" * 32))
    middle = fill("middle", CHUNK_BYTES)
    zeros = bytes(CHUNK_BYTES)
    writer.put((b"f",), (middle if at == MIDDLE else zeros for at in range(CHUNKS)), mtime=1_500_000_000_000)
    writer.close()
    with serve(folder) as peer:
        yield peer, f"dat://{peer.key}"


@pytest.mark.fuse
def test_a_small_read_of_a_gibibyte_moves_a_handful_of_chunks(
    gibibyte: tuple[ReferencePeer, str], tmp_path: Path
) -> None:
    """4 KiB in the middle of 1 GiB: a few content chunks are asked for, and not much more comes over the wire."""
    peer, link = gibibyte
    before = len(peer.requests("content"))
    with mounted(link, tmp_path / "m", "--peer", peer.address, "--memory") as mount:
        offset = MIDDLE * CHUNK_BYTES + 1000
        with open(mount.point / "f", "rb", buffering=0) as file:
            assert os.fstat(file.fileno()).st_size == GIB
            assert os.pread(file.fileno(), 4096, offset) == fill("middle", CHUNK_BYTES)[1000:5096]
        received = mount.fact("bytes_received")
        asked = {request.index for request in peer.requests("content")[before:]}
        # the chunk itself, its neighbour if the kernel reads on, and the last one for the register's length
        assert MIDDLE in asked
        assert len(asked) <= 5
        assert received < 8 * CHUNK_BYTES


@pytest.mark.fuse
def test_reading_on_is_read_ahead(gibibyte: tuple[ReferencePeer, str], tmp_path: Path) -> None:
    """A sequential read of 4 MiB asks for its chunks and a bounded number after them, none twice."""
    peer, link = gibibyte
    before = len(peer.requests("content"))
    with mounted(link, tmp_path / "m", "--peer", peer.address, "--memory") as mount:
        assert mount.run("dd if=f bs=128k skip=256 count=32 status=none | tr -d '\\0' | wc -c") == b"0\n"
    asked = [request.index for request in peer.requests("content")[before:]]
    first = (32 << 20) // CHUNK_BYTES
    assert set(range(first, first + 64)) <= set(asked)
    assert len(asked) == len(set(asked)) < 64 + 300


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> MadeDrive:
    """A drive of 100,000 files, fifty names in a folder."""
    return make_drive(tmp_path_factory.mktemp("many") / "drive", big=FILES, fanout=50, listed=False)


@pytest.mark.fuse
def test_a_hundred_thousand_files_are_not_downloaded_to_mount(many: MadeDrive, tmp_path: Path) -> None:
    """After a mount, ls of the root and of one folder, a twentieth of the metadata has been asked for at most."""
    with (
        serve(many.path) as peer,
        mounted(many.link, tmp_path / "m", "--peer", peer.address, "--memory") as mount,
    ):
        names = mount.run("ls").split()
        assert len(names) == 40
        after_root = len(peer.requests("metadata"))
        assert len(mount.run("ls d7").split()) == 50
        assert mount.run("cat d7/d3/f17650") == b"/d7/d3/f17650\n"
        asked = [request.index for request in peer.requests("metadata")]
        # the 40 names and, to learn whether a mkdir stands for a folder, the 50 in each of them
        assert after_root <= 40 * (50 + 1) + 10
        assert len(asked) == len(set(asked)) <= after_root + 50 * (50 + 1) + 50
        assert len(peer.requests("content")) <= 3


def rounds(requests: list[Request]) -> int:
    """How many times the client waited for answers before it asked on: silences as long as a round trip."""
    times = sorted(request.at for request in requests)
    return 1 + sum(later - earlier > ROUND_TRIP * 0.6 for earlier, later in itertools.pairwise(times))


def test_a_listing_asks_in_batches(tmp_path: Path) -> None:
    """500 names over a slow link cost a few round trips: requests do not wait for one another's answers."""
    drive = make_drive(tmp_path / "drive", big=500, fanout=500, listed=False)
    with serve(drive.path, "--latency-ms", str(round(ROUND_TRIP * 500))) as peer:
        rows = datfs_json("ls", drive.link, "--peer", peer.address, "--memory")
        assert len(rows) == 500
        asked = peer.requests("metadata")
    assert {request.index for request in asked} == set(range(501))
    assert rounds(asked) <= 16


def test_no_hash_is_sent_twice(tmp_path: Path) -> None:
    """The digest in each request names all that is known: asked one by one, in any order, hashes do not repeat.

    Only the first two requests, for the header and the newest entry, go out together and know nothing.
    """
    drive = make_drive(tmp_path / "drive", big=200, fanout=200, listed=False)
    order = list(range(201))
    random.Random(7).shuffle(order)

    async def fetch(address: tuple[str, int]) -> None:
        async with datfs.open_drive(drive.link, datfs.Options(peers=[address], memory=True)) as opened:
            for index in order:
                await opened.drive.metadata.ensure((index,))

    with serve(drive.path, "--log") as peer:
        trio.run(fetch, (peer.host, peer.port))
        answers = [
            event["fields"]
            for event in peer.events("out")
            if event["message"] == "data" and event["register"] == "metadata"
        ]
        assert all(request.nodes for request in peer.requests("metadata")[2:])
    assert sorted(answer["index"] for answer in answers) == sorted(order)
    hashes = [node["index"] for answer in answers[2:] for node in answer["nodes"] or []]
    assert len(hashes) == len(set(hashes)) < 201
    assert sum(bool(answer["signature"]) for answer in answers) <= 2
