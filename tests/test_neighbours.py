"""Small files read one after the other come together; a file read alone comes alone."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from datfs.drive import Drive, DriveTree
from datfs.neighbours import AHEAD_BYTES, AHEAD_FILES, FOLDERS_KEPT, IN_A_ROW
from datfs.register import Register
from datfs.sources import CopySource
from datfs.sparse import SparseRegister
from datfs.storage import memory_storage
from datfs.vfs import Entry
from datfs.wants import Urgency
from datfs.writer import DriveWriter
from tests.helpers import make_drive

COUNT = 200
ROUND_TRIP = 0.1  # seconds


class LateSource(CopySource):
    """Brings what is wanted after a round trip, as much at once as may be asked for."""

    def __init__(self, origin: Register, nursery: trio.Nursery) -> None:
        super().__init__(origin)
        self._nursery = nursery
        self._whole = origin
        self.brought: list[int] = []

    def wants_changed(self, register: SparseRegister) -> None:
        for index in register.next_wants(self._whole.data_bits, 1000):
            self.brought.append(index)
            self._nursery.start_soon(self._bring, register, index)

    def hopeless(self, register: SparseRegister) -> None:
        """It is on its way."""

    async def _bring(self, register: SparseRegister, index: int) -> None:
        await trio.sleep(ROUND_TRIP)
        proof = self._whole.proof(index, register.register.digest(index))
        register.put(index, self._whole.get(index), proof.nodes, proof.signature)


@asynccontextmanager
async def far_drive(writer: DriveWriter) -> AsyncIterator[tuple[Drive, LateSource]]:
    """A copy with all of the metadata and none of the content."""
    async with trio.open_nursery() as nursery:
        source = LateSource(writer.content, nursery)

        def open_content(key: bytes) -> SparseRegister:
            return SparseRegister(Register.open(memory_storage(), key=key), source, name="content")

        metadata = Register.open(memory_storage(), key=writer.metadata.key)
        drive = Drive(SparseRegister(metadata, CopySource(writer.metadata), name="metadata"), open_content)
        await drive.metadata.learn_length()
        await drive.load_header()
        yield drive, source
        drive.close()


def folders(**sizes: Sequence[int]) -> DriveWriter:
    """Folders with files of these sizes."""
    return make_drive(
        {
            f"{folder}/{number:04}": bytes([number % 251]) * size
            for folder, all_sizes in sizes.items()
            for number, size in enumerate(all_sizes)
        }
    )


async def read(tree: DriveTree, entry: Entry) -> None:
    """As a program does that opens a file, reads it and closes it."""
    file = await tree.open(entry)
    file.begin()
    assert await file.read(0, 100_000) == bytes([int(entry.name) % 251]) * entry.size
    file.close()


async def listing(tree: DriveTree, folder: bytes) -> list[Entry]:
    return list(await tree.list(await tree.find((folder,))))


async def test_a_folder_costs_few_round_trips(autojump_clock: trio.testing.MockClock) -> None:
    """Of 200 files read in a row only the first few cost a round trip each; nothing of another folder is fetched."""
    async with far_drive(folders(a=[100] * COUNT, b=[100] * COUNT)) as (drive, source):
        tree = await drive.checkout()
        began = trio.current_time()
        for entry in await listing(tree, b"a"):
            await read(tree, entry)
        assert trio.current_time() - began < (IN_A_ROW + COUNT / (AHEAD_FILES // 2) + 1) * ROUND_TRIP
        assert sorted(source.brought) == list(range(COUNT))
        assert drive.content is not None
        assert drive.content.wants.count(Urgency.SOON) == 0


async def test_a_file_alone_comes_alone(autojump_clock: trio.testing.MockClock) -> None:
    """One file, and some of the folder in no order, bring their own chunks only."""
    async with far_drive(folders(a=[100] * COUNT)) as (drive, source):
        tree = await drive.checkout()
        entries = await listing(tree, b"a")
        for number in (50, 51, 120, 20, 170, 80, 81):
            await read(tree, entries[number])
        assert sorted(source.brought) == [20, 50, 51, 80, 81, 120, 170]


async def test_without_a_listing_nothing_is_guessed(autojump_clock: trio.testing.MockClock) -> None:
    """Whoever opens files by name, and never looked what there is, gets those."""
    async with far_drive(folders(a=[100] * COUNT)) as (drive, source):
        tree = await drive.checkout()
        for number in range(10):
            await read(tree, await tree.find((b"a", b"%04d" % number)))
        assert sorted(source.brought) == list(range(10))


async def test_large_files_are_passed_over(autojump_clock: trio.testing.MockClock) -> None:
    """Of small and large files in turns the small ones come ahead; the bytes are bounded."""
    async with far_drive(folders(a=[60_000, 70_000] * 40)) as (drive, source):
        tree = await drive.checkout()
        entries = await listing(tree, b"a")
        for entry in entries[: 2 * IN_A_ROW : 2]:
            await read(tree, entry)
        # Chunks of the small ones are every third.
        assert all(index % 3 == 0 for index in source.brought)
        ahead = len(source.brought) - IN_A_ROW
        assert AHEAD_BYTES - 60_000 < ahead * 60_000 <= AHEAD_BYTES


@pytest.mark.parametrize("step", [2, 5])
async def test_readers_at_the_same_time_and_files_passed_over(
    autojump_clock: trio.testing.MockClock, step: int
) -> None:
    """Several workers that share a folder, and one that takes every other file, count as in a row."""
    async with far_drive(folders(a=[100] * COUNT)) as (drive, source):
        tree = await drive.checkout()
        entries = await listing(tree, b"a")
        began = trio.current_time()

        async def worker(mine: list[Entry]) -> None:
            for entry in mine:
                await read(tree, entry)

        async with trio.open_nursery() as nursery:
            for number in range(step):
                nursery.start_soon(worker, entries[number::step])
        assert trio.current_time() - began < COUNT / step * ROUND_TRIP / 3
        assert sorted(source.brought) == list(range(COUNT))


async def test_what_is_wanted_ahead_is_taken_back(autojump_clock: trio.testing.MockClock) -> None:
    """A jump elsewhere ends it, and so do many other folders: what nobody can bring is not wanted for ever."""
    names = [f"f{number}" for number in range(FOLDERS_KEPT + 1)]
    async with far_drive(folders(**{name: [100] * 20 for name in names})) as (drive, _):
        tree = await drive.checkout()
        assert drive.content is not None
        for name in names:
            entries = await listing(tree, name.encode())
            for entry in entries[:IN_A_ROW]:
                await read(tree, entry)
        assert len(drive.content.wants) <= FOLDERS_KEPT * AHEAD_FILES
        for name in names[1:]:
            await read(tree, (await listing(tree, name.encode()))[-1])
        assert not drive.content.wants
