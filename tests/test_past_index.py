"""When versions were made and what they changed: clocks that lie, entries that do not decode, growing drives."""

from __future__ import annotations

import pytest
import trio

from datfs.crypto import key_pair
from datfs.metadata import Header, encode_header
from datfs.past_index import FETCHED_AHEAD, READ_AT_ONCE, PastIndex
from datfs.register import Register
from datfs.sources import CopySource, NoSource
from datfs.sparse import SparseRegister
from datfs.storage import memory_storage
from datfs.writer import DriveWriter, chunks_of
from tests.helpers import SEED

NOW = 1_600_000_000
DAY = 24 * 3600 * 1000


def drive_made_at(*times: int | None) -> DriveWriter:
    """A drive with one change for each time (ms): a file, or a deletion of the last one for None."""
    writer = DriveWriter.create(memory_storage(), key_pair(SEED))
    number = 0
    for made in times:
        if made is None:
            writer.delete((b"d", str(number).encode()))
        else:
            number += 1
            writer.put((b"d", str(number).encode()), chunks_of(b"x"), mtime=made)
    return writer


async def index_of(writer: DriveWriter) -> PastIndex:
    """Everything read."""
    index = PastIndex(SparseRegister(writer.metadata, NoSource("alone")), clock=lambda: NOW)
    await index.reach(writer.version)
    return index


@pytest.mark.parametrize(
    ("times", "made"),
    [
        ((1000, 2000, 3000), [1000, 2000, 3000]),
        ((5000, 2000, 6000), [5000, 5000, 6000]),  # a clock that went back
        ((1000, None, 3000), [1000, 1000, 3000]),  # deletions have no time
        ((1000, 1000 * NOW + 2 * DAY, 3000), [1000, 1000, 3000]),  # the future
        ((1000, 1000 * NOW + 3600, 3000), [1000, 1000 * NOW + 3600, 1000 * NOW + 3600]),  # a clock a bit ahead
        ((0, 1000), [0, 1000]),
    ],
)
async def test_when_versions_were_made(times: tuple[int | None, ...], made: list[int]) -> None:
    """No version is older than the one before it, and none is made in the future."""
    index = await index_of(drive_made_at(*times))
    assert [index.made(version) for version in range(1, len(times) + 1)] == made


async def test_the_newest_version_before_a_time() -> None:
    """The last of several at that time; none before the first."""
    index = await index_of(drive_made_at(1000, 2000, 2000, 3000))
    assert [index.newest_before(end) for end in (0, 1000, 1001, 2000, 2001, 3001, 10**15)] == [0, 0, 1, 1, 3, 4, 4]


async def test_the_last_version_of_each_period() -> None:
    """Periods without a version are left out, however many there are."""
    index = await index_of(drive_made_at(1000, 1999, 2000, 7500, 7600, 10**12))
    assert list(index.last_of_each(lambda made: made - made % 1000 + 1000)) == [2, 3, 5, 6]
    assert list(index.last_of_each(lambda made: made)) == [1, 2, 3, 4, 5, 6]  # periods that do not end later


async def test_what_changed_where() -> None:
    """For each path the versions that changed it, in order, deletions too; and the names below."""
    writer = drive_made_at(1000, None, 2000)
    writer.put((b"d", b"1"), chunks_of(b"again"), mtime=4000)
    index = await index_of(writer)
    top = index.changes(())
    assert top is not None
    assert (list(top.versions), list(top.below)) == ([], [b"d"])
    inner = index.changes((b"d",))
    assert inner is not None
    assert (sorted(inner.below), inner.newest) == ([b"1", b"2"], 4)
    first = index.changes((b"d", b"1"))
    assert first is not None
    assert list(first.versions) == [1, 2, 4]
    assert [version in first for version in range(6)] == [False, True, True, False, True, False]
    assert index.changes((b"d", b"3")) is None
    assert index.changes((b"d", b"1", b"x")) is None


async def test_entries_that_do_not_decode() -> None:
    """They change no path, and were made when the one before was; names that cannot be shown change nothing."""
    register = Register.create(memory_storage(), key_pair(SEED))
    good = drive_made_at(1000, 2000)
    register.append([encode_header(Header("hyperdrive", bytes(32)))])
    register.append([good.metadata.get(1), b"\xff\xff", b"\x0a\x05/../x", good.metadata.get(2)])
    index = PastIndex(SparseRegister(register, NoSource("alone")), clock=lambda: NOW)
    await index.reach(4)
    assert [index.made(version) for version in range(1, 5)] == [1000, 1000, 1000, 2000]
    top = index.changes(())
    assert top is not None
    assert list(top.below) == [b"d"]


async def test_a_drive_that_grows_is_read_on() -> None:
    """Each chunk is read once, by several readers at a time, in more than one batch, and nothing beyond is fetched."""
    writer = drive_made_at(*range(1000, 1000 + 2 * READ_AT_ONCE + 10))
    copy = SparseRegister(Register.open(memory_storage(), key=writer.metadata.key), CopySource(writer.metadata))
    index = PastIndex(copy, clock=lambda: NOW)
    await index.reach(10)
    assert (index.version, copy.register.data_bits.count(0, FETCHED_AHEAD)) == (10, 10)
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(index.reach, writer.version)
    assert index.version == writer.version
    assert [index.made(version) for version in (1, 10, 11, 522)] == [1000, 1009, 1010, 1521]
