"""Bytes through the kernel, with and without its page cache."""

from __future__ import annotations

import mmap
import os
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.fuse.conftest import Mounter, Served
from tests.memory_tree import MemoryTree, noise

pytestmark = pytest.mark.fuse


def test_every_file_whole(standard: Served) -> None:
    """What the tree holds is what is read."""
    for parts, file in standard.tree.files.items():
        path = os.path.join(os.fsencode(standard.point), *parts)
        with open(path, "rb") as opened:
            assert opened.read() == file.content


@pytest.mark.parametrize("way", ["buffered", "direct"])
def test_random_ranges(mounter: Mounter, way: str) -> None:
    """200 ranges at odd offsets, also over the end and beyond it, of a file that is here and one that
    arrives.
    """
    served = mounter("missing", *(["--direct"] if way == "direct" else []))
    chance = random.Random(7)
    content = {"local.bin": noise(2, 2 * 1024 * 1024), "partly.bin": noise(3, 1024 * 1024)}
    opened = {name: os.open(served.point / name, os.O_RDONLY) for name in content}
    served.command("arrive partly.bin")
    for name, fd in opened.items():
        whole = content[name]
        for _ in range(200):
            offset = chance.randrange(len(whole) + 10_000)
            length = chance.choice([1, 7, 4096, 65_537, 300_000])
            assert os.pread(fd, length, offset) == whole[offset : offset + length]
        os.close(fd)


def test_memory_mapped(standard: Served) -> None:
    """Python's mmap, which shares pages, and a scattered look at them."""
    content = noise(1, 3 * 1024 * 1024 + 123)
    with (
        (standard.point / "big.bin").open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view,
    ):
        assert len(view) == len(content)
        chance = random.Random(8)
        for _ in range(100):
            offset = chance.randrange(len(content))
            assert view[offset : offset + 100] == content[offset : offset + 100]
        assert view[:] == content


def test_many_readers_at_once(standard: Served) -> None:
    """Eight threads over one file, each sees its own bytes."""
    content = noise(1, 3 * 1024 * 1024 + 123)

    def read(part: int) -> bool:
        with (standard.point / "big.bin").open("rb") as file:
            file.seek(part * 300_000)
            return file.read(500_000) == content[part * 300_000 : part * 300_000 + 500_000]

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(8)))


def test_reading_again_sends_no_request(mounter: Mounter) -> None:
    """What was read once is the kernel's to serve: while the file is open, when it is opened again, and mapped."""
    served = mounter("standard")
    path = served.point / "big.bin"
    content = noise(1, 3 * 1024 * 1024 + 123)
    with path.open("rb", buffering=0) as file:
        assert file.read() == content
        asked = served.reads("big.bin")
        assert asked > 0
        file.seek(0)
        assert file.read() == content
        assert os.pread(file.fileno(), 5000, 1_000_001) == content[1_000_001:1_005_001]
    assert path.read_bytes() == content
    with path.open("rb") as again, mmap.mmap(again.fileno(), 0, access=mmap.ACCESS_READ) as view:
        assert view[:] == content
    assert served.reads("big.bin") == asked


def test_read_ahead_can_be_raised(mounter: Mounter) -> None:
    """read_ahead_kb= arrives at the kernel, after INIT, which would have undone it."""
    if os.geteuid() != 0:
        pytest.skip("only root may change the read-ahead of a mount")
    served = mounter("standard", "--options", "read_ahead_kb=1024")
    assert served.device is not None
    setting = Path("/sys/class/bdi/{}:{}/read_ahead_kb".format(*served.device))
    assert setting.read_text() == "1024\n"


def test_the_tree_of_the_tests_is_the_same_here_and_there() -> None:
    """The test compares with what it made itself; that must be what the server makes."""
    assert MemoryTree({"x": noise(1, 100)}).files[(b"x",)].content == random.Random(1).randbytes(100)
