"""A budget of bytes: never passed by more than what is on its way, and what is here is still read."""

from __future__ import annotations

import errno

import pytest
import trio
import trio.testing

from datfs.budget import Budget
from datfs.drive import Drive
from datfs.errnos import known_errno
from datfs.errors import BudgetSpent
from tests.helpers import ScriptedPeer, drive_of, honest, make_drive, swarm_of

CHUNK = 65_536
FILES = {"a": bytes(range(1, 256)) * 1024, "b": b"b" * (8 * CHUNK), "c": b"c" * 10}


async def read(drive: Drive, name: str, length: int = 1 << 20, offset: int = 0) -> bytes:
    """Some bytes of a file, in time."""
    tree = await drive.checkout()
    file = await tree.open(await tree.find((name.encode(),)))
    try:
        with trio.fail_after(10):
            return await file.read(offset, length)
    finally:
        file.close()


@pytest.mark.expect_log("budget of .* is used up")
async def test_what_is_here_is_read_when_the_budget_is_used_up(autojump_clock: trio.testing.MockClock) -> None:
    """A reader in the middle of a file is told, and others at once; nothing more is asked for."""
    writer = make_drive(FILES)
    peer = ScriptedPeer([writer.metadata, writer.content], honest)
    async with drive_of(writer, peer) as (drive, swarm, _):
        assert drive.content is not None
        budget = Budget(6 * CHUNK)
        await drive.checkout()
        await drive.metadata.ensure(range(writer.metadata.length))
        drive.metadata.limit_by(budget)
        drive.content.limit_by(budget)
        assert await read(drive, "a") == FILES["a"]
        with pytest.raises(BudgetSpent, match="budget of 384"):
            await read(drive, "b")
        assert budget.left == 0
        assert budget.spent <= budget.total + CHUNK
        asked = len(peer.asked)
        assert await read(drive, "a") == FILES["a"]
        with trio.fail_after(0.001), pytest.raises(BudgetSpent):
            await read(drive, "c")
        await trio.sleep(20)
        assert len(peer.asked) == asked
        assert swarm.sessions


async def test_nothing_is_waited_for_without_a_budget(autojump_clock: trio.testing.MockClock) -> None:
    """A drive of which nothing is here cannot be opened then, and that is said at once."""
    writer = make_drive(FILES)
    peer = ScriptedPeer([writer.metadata, writer.content], honest)
    async with swarm_of([writer.metadata.key], peer) as ([metadata], _, _):
        metadata.limit_by(Budget(0))
        with trio.fail_after(0.001), pytest.raises(BudgetSpent, match="budget of 0"):
            await metadata.learn_length()


@pytest.mark.expect_log("budget of .* is used up")
@pytest.mark.parametrize("total", [1, 1000, CHUNK, 3 * CHUNK + 5])
async def test_it_is_passed_by_one_usual_chunk_at_most(autojump_clock: trio.testing.MockClock, total: int) -> None:
    """However many chunks are wanted at once, requests are held back as the end comes near."""
    writer = make_drive(FILES)
    async with drive_of(writer, ScriptedPeer([writer.metadata, writer.content], honest)) as (drive, _, _):
        assert drive.content is not None
        await drive.metadata.ensure(range(writer.metadata.length))
        budget = Budget(total)
        drive.content.limit_by(budget)
        with pytest.raises(BudgetSpent):
            await read(drive, "b")
        assert total <= budget.spent < total + CHUNK


def test_programs_are_told() -> None:
    """EDQUOT: the word of file systems for as much as one may have."""
    assert known_errno(Budget(1).error()) == errno.EDQUOT


def test_requests_go_by_what_is_left() -> None:
    """One for each usual chunk that is left, less those on their way; one for a rest; none at the end."""
    budget = Budget(3 * CHUNK + 1)
    assert [budget.requests(flying) for flying in (0, 3, 4, 9)] == [4, 1, 0, 0]
    budget.spend(3 * CHUNK)
    assert budget.requests(0) == 1
