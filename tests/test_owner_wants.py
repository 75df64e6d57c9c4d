"""Who looks in beside the owner of a store has it fetch what nobody else brings, and is told if it cannot."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

import datfs
from datfs import owner_wants
from datfs.bitfield import Bitfield
from datfs.budget import Budget
from datfs.client import OpenDrive
from datfs.crypto import key_pair
from datfs.errors import CacheFull, Gone, NoPeers, Unavailable
from datfs.local_service import Place
from datfs.owner_wants import AT_ONCE, Ranges
from datfs.prefetch import files_below
from datfs.prefetch_owner import copy_names_to_owner, missing_at_owner
from datfs.sparse import SparseRegister
from datfs.storage import directory_storage
from datfs.wants import Urgency
from datfs.writer import DriveWriter, chunks_of
from tests.test_client import LINK, sharing
from tests.test_local_service import read_all, second
from tests.vector_drives import DRIVES, SEED, read

SOON = 20.0  # seconds, for what takes a moment; every wait of the drives themselves is longer
LONG = 3600.0


@asynccontextmanager
async def owner_and_second(
    cache: Path, owner: dict[str, Any], looker: dict[str, Any]
) -> AsyncIterator[tuple[OpenDrive, OpenDrive]]:
    """A process that has the store, with these options, and another one that looks in."""
    async with datfs.open_drive(LINK, datfs.Options(cache_dir=cache, timeout=LONG, **owner)) as first:
        async with second(cache, timeout=LONG, **looker) as other:
            yield first, other


async def content_of(opened: OpenDrive) -> SparseRegister:
    """The register of the files, which is known when a drive is open."""
    assert opened.drive.content is not None
    return opened.drive.content


async def until_gone(opened: OpenDrive) -> None:
    """Waits until the drive has no peer on the network any more, nor hope for one."""
    assert opened.swarm is not None
    while opened.swarm.hopeless(opened.drive.metadata) is None:  # noqa: ASYNC110 peers go in many ways
        await trio.sleep(0.01)


async def test_the_owner_gets_what_it_lacks(tmp_path: Path) -> None:
    """Names and files that nobody had asked the owner for; afterwards the owner has them."""
    async with sharing() as (address, served):
        async with owner_and_second(tmp_path, {"peers": [address]}, {}) as (first, other):
            with trio.fail_after(SOON):
                expected = await read_all(served)
                assert await read_all(other) == expected
            metadata, content = first.drive.metadata.register, (await content_of(first)).register
            assert metadata.has_range(0, metadata.length)
            assert content.has_range(0, content.length)
            assert other.swarm is not None
            assert [peer.source for peer in other.swarm.report().connected] == ["owner"]


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """A folder with a drive of more names than one question can ask for, if every other one is wanted."""
    folder = tmp_path / "many"
    folder.mkdir()
    writer = DriveWriter.create(directory_storage(folder), key_pair(SEED))
    for number in range(2 * AT_ONCE + 50):
        writer.put((b"%04d" % number,), chunks_of(b"x"), mtime=0)
    writer.close()
    return folder


async def test_more_than_fits_a_question(many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is needed in many pieces is ordered in several questions, none of them after a wait."""
    for wait in ("LOOK", "MOMENT", "RENEW"):
        monkeypatch.setattr(owner_wants, wait, LONG)
    async with sharing(many) as (address, _):
        async with owner_and_second(tmp_path, {"peers": [address]}, {}) as (first, other):
            every_other = range(0, other.drive.version, 2)
            with trio.fail_after(SOON):
                await other.drive.metadata.ensure(every_other)
            assert all(map(first.drive.metadata.register.has, every_other))


async def test_offline_nothing_is_ordered(tmp_path: Path) -> None:
    """Who may use no network does not use the owner's either: what neither has fails at once."""
    async with sharing() as (address, _):
        async with owner_and_second(tmp_path, {"peers": [address]}, {"offline": True}) as (first, other):
            held = first.drive.metadata.register.data_bits.count(0, 100)
            with trio.fail_after(SOON), pytest.raises(NoPeers, match=r"chunk 1 is neither here.*offline"):
                await other.drive.metadata.ensure((1,))
            assert first.drive.metadata.register.data_bits.count(0, 100) == held
            assert not len(first.drive.metadata.wants)


async def test_an_owner_without_hope(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its peer is gone: its own readers, and those who look in, are told so at once, and each time."""
    monkeypatch.setattr(owner_wants, "RENEW", LONG)
    async with sharing() as (address, served):
        async with owner_and_second(tmp_path, {"peers": [address]}, {}) as (first, other):
            await served.shut_down()
            with trio.fail_after(SOON):
                await until_gone(first)
                for _ in range(2):
                    with pytest.raises(NoPeers, match=r"metadata chunk 1 .*no peer can be reached"):
                        await other.drive.metadata.ensure((1,))
                with pytest.raises(NoPeers, match="no peer can be reached"):
                    await first.drive.metadata.ensure((1,))


@pytest.mark.expect_log("budget")
async def test_a_budget_that_is_used_up(tmp_path: Path) -> None:
    """The owner may fetch no more: who looks in is told so."""
    async with sharing() as (address, _):
        budget = Budget(1 << 20)
        async with owner_and_second(tmp_path, {"peers": [address], "budget": budget}, {}) as (_, other):
            budget.spend(1 << 20)
            with trio.fail_after(SOON), pytest.raises(NoPeers, match=r"budget of 1.0 MiB is used up"):
                await other.drive.metadata.ensure((1,))


async def test_a_peer_of_our_own_comes_first(many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it has is not ordered, lest it be fetched twice, also if it is not asked for all of it at once."""
    monkeypatch.setattr(owner_wants, "MOMENT", 0.0)
    async with sharing(many) as (address, _):
        async with owner_and_second(tmp_path, {"peers": [address]}, {"peers": [address]}) as (first, other):
            mine, theirs = other.drive.metadata, first.drive.metadata.register
            assert other.swarm is not None
            with trio.fail_after(SOON):
                while len(other.swarm.sessions) < 2 or not other.swarm.all_told(mine, 1):  # noqa: ASYNC110
                    await trio.sleep(0.01)  # peers come and tell in many ways
                held = theirs.data_bits.count(0, theirs.length)
                await mine.ensure(range(mine.register.length))
            assert theirs.data_bits.count(0, theirs.length) == held


async def test_an_old_version(tmp_path: Path) -> None:
    """The owner is asked for its files too, before they count as gone; gone they are when it has told so."""
    filled, cache = tmp_path / "filled", tmp_path / "cache"
    async with sharing() as (address, _):
        async with datfs.open_drive(LINK, datfs.Options(peers=[address], cache_dir=filled)) as opened:
            await read_all(opened)
    async with sharing(LINK, cache_dir=filled) as (address, served):
        big = await (tree := await served.drive.checkout()).stat_of(await tree.find((b"big.bin",)))
        (await content_of(served)).clear_ranges([(big.offset, big.offset + big.blocks)])
        async with owner_and_second(cache, {"peers": [address]}, {}) as (_, other):
            with trio.fail_after(SOON):
                old = await other.drive.checkout(4)
                assert await read(old, await old.find((b"hello.txt",))) == b"hello world\n"
                with pytest.raises(Gone):
                    await read(old, await old.find((b"big.bin",)))


class Answers:
    """Instead of the owner: ``answer`` is what it says to each question, of which ``asked`` gets the chunks."""

    def __init__(self, answer: dict[str, Any] | None) -> None:
        self.asked: list[Ranges] = []
        self.twice = trio.Event()
        self._answer = answer

    async def order(self, place: Place, register: str, ranges: Ranges, **more: bool) -> tuple[Ranges, dict[str, Any]]:
        """What :func:`datfs.owner_wants.order` does."""
        self.asked.append(ranges)
        if len(self.asked) == 2:
            self.twice.set()
        if self._answer is None:
            raise Unavailable("it hangs")
        return ranges, {"lost": [], "full": False, "hopeless": None} | self._answer


async def test_an_owner_that_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked again now and then, and readers go on waiting: others may come."""
    answers = Answers(None)
    monkeypatch.setattr(owner_wants, "order", answers.order)
    monkeypatch.setattr(owner_wants, "RENEW", 0.05)
    async with sharing() as (address, _):
        async with owner_and_second(tmp_path, {"peers": [address]}, {}) as (first, other):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(other.drive.metadata.ensure, (1,))
                with trio.fail_after(SOON):
                    await answers.twice.wait()
                    assert other.drive.metadata.waiting == 1
                    await first.drive.metadata.ensure((1,))
    assert set(map(tuple, answers.asked)) == {((1, 2),)}


async def test_an_owner_whose_cache_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a while there may be no room; when there still is none, readers are told."""
    answers = Answers({"full": True})
    monkeypatch.setattr(owner_wants, "order", answers.order)
    monkeypatch.setattr(owner_wants, "RENEW", 0.05)
    async with sharing() as (address, _):
        async with owner_and_second(tmp_path, {"peers": [address]}, {}) as (_, other):
            with trio.fail_after(SOON), pytest.raises(CacheFull, match="no room"):
                await other.drive.metadata.ensure((1,))
    assert len(answers.asked) == 2


async def test_what_is_read_next_is_ordered_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader does not wait for each chunk anew."""
    answers = Answers({})
    monkeypatch.setattr(owner_wants, "order", answers.order)
    async with sharing() as (address, _):
        async with owner_and_second(tmp_path, {"peers": [address]}, {}) as (_, other):
            metadata = other.drive.metadata
            metadata.want((3, 4), Urgency.SOON)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(metadata.ensure, (1,))
                with trio.fail_after(SOON):
                    await answers.twice.wait()
                nursery.cancel_scope.cancel()
            metadata.drop((3, 4), Urgency.SOON)
    assert answers.asked[0] == [(1, 2), (3, 5)]


async def test_the_names_of_what_is_prefetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What another process needed to find the files comes to the owner, which could not find them again."""
    monkeypatch.setattr(owner_wants, "MOMENT", LONG)  # all comes from a peer that is not the owner
    async with sharing() as (address, _):
        looker = {"peers": [address]}
        async with owner_and_second(tmp_path, {"peers": [address]}, looker) as (first, other):
            mine, theirs = other.drive.metadata.register, first.drive.metadata.register
            place = other.owner
            assert place is not None
            with trio.fail_after(SOON):
                await files_below(await other.drive.checkout(), [()])
                assert not all(map(theirs.has, filter(mine.has, range(mine.length))))
                await copy_names_to_owner(place, mine.data_bits, LONG)
            assert all(map(theirs.has, filter(mine.has, range(mine.length))))
            assert await missing_at_owner(place, [(0, mine.length)], "metadata") == []


async def test_names_that_the_owner_cannot_get(tmp_path: Path) -> None:
    """Why not is told, as with files."""
    metadata = Bitfield()
    metadata.set_range(0, 100, True)
    async with sharing(DRIVES / "simple") as (address, served):
        async with owner_and_second(tmp_path, {"peers": [address]}, {}) as (first, other):
            await served.shut_down()
            assert other.owner is not None
            with trio.fail_after(SOON):
                await until_gone(first)
                with pytest.raises(NoPeers, match="no peer can be reached"):
                    await copy_names_to_owner(other.owner, metadata, LONG)
