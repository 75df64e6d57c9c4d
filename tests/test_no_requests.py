"""What needs no network does not touch it: the root, statfs, and all whose metadata is here."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import cast

import pyfuse3
import pytest
import trio
from pyfuse3 import EntryAttributes, FUSEError, ReaddirToken, RequestContext

from datfs.drive import Drive
from datfs.fuse_ops import Operations
from datfs.register import Register
from datfs.sources import CopySource, NoSource
from datfs.sparse import SparseRegister
from datfs.storage import memory_storage
from datfs.time_travel import TimeTravel
from datfs.wants import Urgency
from tests.helpers import make_drive

CTX = cast(RequestContext, SimpleNamespace(pid=0))
FILES = {"/a.txt": b"a", "/d/b.txt": b"b" * 1000, "/d/e/c.txt": b"", "/d/large": bytes(200_000)}
TIMEOUT = 30.0


class Network(CopySource):
    """Counts how often it is told that something is wanted; once ``cut`` nothing comes from it, and it gives hope."""

    cut = False
    told = 0

    def wants_changed(self, register: SparseRegister) -> None:
        self.told += 1
        if not self.cut:
            super().wants_changed(register)

    def hopeless(self, register: SparseRegister) -> None:
        """Somebody may still come."""


async def drive_that_was_seen() -> tuple[Drive, list[Network]]:
    """All metadata and the content of ``/d/b.txt`` are here; what else is wanted would never come."""
    writer = make_drive(FILES)
    networks = [Network(writer.metadata), Network(writer.content)]

    def copy(register: Register, network: Network) -> SparseRegister:
        return SparseRegister(Register.open(memory_storage(), key=register.key), network)

    content = copy(writer.content, networks[1])
    drive = Drive(copy(writer.metadata, networks[0]), lambda key: content)
    await drive.metadata.learn_length()
    await drive.load_header()
    await drive.metadata.ensure(range(drive.version + 1), Urgency.LATER)
    tree = await drive.checkout()
    file = await tree.open(await tree.find((b"d", b"b.txt")))
    await file.read(0, 1000)
    for network in networks:
        network.cut = True
        network.told = 0
    return drive, networks


async def test_what_is_here_asks_nobody(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """statfs, the root, every listing, all attributes, absent names, and reading what is here, in no time."""
    drive, networks = await drive_that_was_seen()
    operations = Operations(TimeTravel(await drive.checkout()), timeout=TIMEOUT)
    shown: list[tuple[bytes, int]] = []  # with sizes; the attributes themselves are the reply's to copy

    def reply(token: ReaddirToken, name: bytes, attributes: EntryAttributes, next_id: int) -> bool:
        if name not in (b".", b".."):
            shown.append((name, attributes.st_size))
        return True

    monkeypatch.setattr(pyfuse3, "readdir_reply", reply)

    async def walk(directory: int) -> None:
        handle = await operations.opendir(directory, CTX)
        shown.clear()
        await operations.readdir(handle, 0, cast(ReaddirToken, None))
        for name, size in list(shown):
            found = await operations.lookup(directory, name, CTX)
            assert found.st_size == size
            names.append(name)
            for fact in await operations.listxattr(found.st_ino, CTX):
                assert await operations.getxattr(found.st_ino, fact, CTX)
            if found.st_mode & 0o40000:
                await walk(found.st_ino)
            else:
                opened = await operations.open(found.st_ino, os.O_RDONLY, CTX)
                if name == b"b.txt":
                    assert await operations.read(opened.fh, 0, 4096) == FILES["/d/b.txt"]
                await operations.release(opened.fh)
        await operations.releasedir(handle)

    names: list[bytes] = []
    began = trio.current_time()
    assert (await operations.statfs(CTX)).f_files == len(FILES)
    assert (await operations.getattr(pyfuse3.ROOT_INODE, CTX)).st_mode
    await walk(pyfuse3.ROOT_INODE)
    assert sorted(names) == [b"a.txt", b"b.txt", b"c.txt", b"d", b"e", b"large"]
    assert (await operations.lookup(pyfuse3.ROOT_INODE, b"nothing", CTX)).st_ino == 0
    assert [network.told for network in networks] == [0, 0]
    assert trio.current_time() == began
    # And what is not here does ask: the counter counts.
    number = (await operations.lookup(pyfuse3.ROOT_INODE, b"a.txt", CTX)).st_ino
    opened = await operations.open(number, os.O_RDONLY, CTX)
    with pytest.raises(FUSEError):
        await operations.read(opened.fh, 0, 10)
    assert [network.told for network in networks] == [0, 1]
    assert trio.current_time() - began == pytest.approx(TIMEOUT)
    drive.close()


async def test_the_size_of_the_file_system_is_known_before_any_content_came() -> None:
    """``df`` on a mount that just began shows what the drive has, not zeros."""
    writer = make_drive(FILES)
    content = SparseRegister(Register.open(memory_storage(), key=writer.content.key), NoSource("offline"))
    metadata = Register.open(memory_storage(), key=writer.metadata.key)
    drive = Drive(SparseRegister(metadata, CopySource(writer.metadata)), lambda key: content)
    await drive.metadata.learn_length()
    numbers = await Operations(TimeTravel(await drive.checkout()), timeout=TIMEOUT).statfs(CTX)
    assert numbers.f_blocks == -(-sum(map(len, FILES.values())) // numbers.f_frsize)
    assert content.register.byte_length == 0
    drive.close()
