"""What the owner of a store does for other programs: fetching in advance for a while, and making room."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
import trio.testing

from datfs.drive import Drive
from datfs.errors import FormatError, NotFound
from datfs.orders import CHUNKS_MOST, ORDER_SECONDS, Orders
from datfs.register import Register
from datfs.sources import NoSource
from datfs.sparse import SparseRegister
from datfs.storage import memory_storage
from datfs.wants import Urgency
from tests.cached_drives import cached_drive
from tests.helpers import ScriptedPeer, drive_of, make_drive

CHUNK = 65_536
FILES = {"a": bytes(range(1, 256)) * 2000, "b": b"b" * 5000}


async def test_an_order_is_fetched(autojump_clock: trio.testing.MockClock) -> None:
    """The answer tells what is missing still; a while later it is here, and the order is over."""
    writer = make_drive(FILES)
    async with drive_of(writer, ScriptedPeer([writer.metadata, writer.content])) as (drive, _, _):
        orders = Orders(drive, None)
        length = writer.content.length
        async with trio.open_nursery() as nursery:
            nursery.start_soon(orders.run)
            assert drive.content is not None
            looked = orders.fetch({"chunks": [[0, 2], [5, length]], "look": True})
            assert looked == {"missing": [[0, 2], [5, length]], "lost": [], "full": False, "hopeless": None}
            assert drive.content.wants.count(Urgency.LATER) == 0
            assert orders.fetch({"chunks": [[0, 2], [5, length]]})["missing"] == [[0, 2], [5, length]]
            await trio.sleep(5)
            assert orders.fetch({"chunks": [[0, length]], "look": True})["missing"] == [[2, 5]]
            await trio.sleep(ORDER_SECONDS)
            assert drive.content.wants.count(Urgency.LATER) == 0
            nursery.cancel_scope.cancel()


async def test_an_order_ends(autojump_clock: trio.testing.MockClock) -> None:
    """Nobody has it: the answer says so; the wants go when they are not renewed; and it is bounded."""
    writer = make_drive(FILES)
    metadata = SparseRegister(writer.metadata, NoSource("nobody has it"), name="metadata")
    copy = SparseRegister(Register.open(memory_storage(), key=writer.content.key), NoSource("nobody has it"))
    drive = Drive(metadata, lambda key: copy)
    orders = Orders(drive, None)
    with pytest.raises(NotFound):
        orders.fetch({"chunks": [[0, 1]]})
    await drive.load_header()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(orders.run)
        answer = orders.fetch({"chunks": [[0, 1 << 20], [1 << 21, 1 << 22]]})
        assert "nobody has it" in answer["hopeless"]
        assert copy.wants.count(Urgency.LATER) == CHUNKS_MOST
        await trio.sleep(ORDER_SECONDS + 2)
        assert copy.wants.count(Urgency.LATER) == 0
        nursery.cancel_scope.cancel()
    assert orders.prune({"bytes": 5}) == {"freed": 0}


async def test_orders_of_metadata(autojump_clock: trio.testing.MockClock) -> None:
    """They are fetched as chunks of files are; what a program waits for comes before what a person has fetched."""
    writer = make_drive(FILES)
    async with drive_of(writer, ScriptedPeer([writer.metadata, writer.content])) as (drive, _, _):
        orders = Orders(drive, None)
        metadata, content = drive.metadata, drive.content
        assert content is not None
        assert not metadata.register.has(1)
        assert orders.fetch({"register": "metadata", "chunks": [[1, 2]], "soon": True})["missing"] == [[1, 2]]
        assert (metadata.wants.count(Urgency.SOON), content.wants.count(Urgency.SOON)) == (1, 0)
        await trio.sleep(5)
        assert orders.fetch({"register": "metadata", "chunks": [[1, 2]]})["missing"] == []
        with pytest.raises(FormatError, match="register"):
            orders.fetch({"register": "else", "chunks": [[1, 2]]})


async def test_what_nobody_has(autojump_clock: trio.testing.MockClock) -> None:
    """Is told of what was ordered, when everybody has told what he has."""
    writer = make_drive(FILES)
    peer = ScriptedPeer([writer.metadata, writer.content], held=lambda index: index != 2)
    async with drive_of(writer, peer) as (drive, _, _):
        orders = Orders(drive, None)
        orders.fetch({"chunks": [[0, 4]]})
        await trio.sleep(60)
        assert orders.fetch({"chunks": [[0, 4]]}) == {
            "missing": [[2, 3]],
            "lost": [2],
            "full": False,
            "hopeless": None,
        }


@pytest.mark.parametrize(
    "chunks", [None, 5, [5], [[1]], [[2, 1]], [[-1, 1]], [[0, 1 << 40]], [[0, True]], [["a", 1]], [[0, 1]] * 1001]
)
async def test_nonsense(chunks: object) -> None:
    """Is refused, whatever a program sends."""
    writer = make_drive(FILES)
    drive = Drive(
        SparseRegister(writer.metadata, NoSource("x")), lambda key: SparseRegister(writer.content, NoSource("x"))
    )
    await drive.load_header()
    orders = Orders(drive, None)
    with pytest.raises(FormatError):
        orders.fetch({"chunks": chunks})
    with pytest.raises(FormatError):
        orders.prune({"bytes": chunks if chunks != 5 else "5"})


async def test_room_is_made(tmp_path: Path) -> None:
    """As much as was asked for, and no more than about that."""
    writer = make_drive(FILES)
    async with cached_drive(writer, tmp_path, None) as at:
        await at.read("a")
        held = at.content.register.data_bits.count(0, 100)
        freed = Orders(at.drive, at.keeper).prune({"bytes": 2 * CHUNK})["freed"]
        assert 2 * CHUNK <= freed <= 3 * CHUNK
        assert at.content.register.data_bits.count(0, 100) in (held - 2, held - 3)
