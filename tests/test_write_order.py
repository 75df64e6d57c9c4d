"""What must be on the disk before what: after a failed append, beside a sync that still runs, in a new file."""

from __future__ import annotations

import threading

import pytest

from datfs.register import Register
from datfs.sleep import HEADER_BYTES, TREE_HEADER
from datfs.storage import MemoryStorage, RandomAccess, Syncer
from tests.register_kit import (
    KEYS,
    Disk,
    PowerCut,
    chunk,
    chunks,
    copied,
    crash_outcomes,
    empty_copy,
    fetch,
    storage_with,
    written,
)

FAILED = [b"of the append that failed %d" % number for number in range(3)]
SECOND = [b"second %d" % number for number in range(2)]


@pytest.mark.parametrize("before", [0, 1, 6])
def test_crash_in_the_append_after_a_failed_one(before: int) -> None:
    """Bits that a failed append may have left on the disk never meet the contents of the next append.

    Whichever write or sync of the first fails and wherever the machine stops in the second: the register opens with
    all of one of them or with neither, every chunk has its bytes, and an append that returned is there.
    """
    storage = Disk()
    written(chunks(0, before), storage).close()
    begin = storage.after(lambda: 1.0)
    for failing in range(1, 20):
        for stop in range(30):
            disk = Disk(begin)
            register = Register.open(disk)
            disk.fail_at = {disk.steps + failing}
            try:
                register.append(FAILED)
            except OSError:
                pass
            else:
                assert failing > 6
                return
            disk.stop_after = disk.steps + stop
            returned = True
            try:
                register.append(SECOND)
            except PowerCut:
                returned = False
            for contents in crash_outcomes(disk, seeds=2):
                found = Register.open(storage_with(contents))
                assert found.audit().ok
                assert found.has_range(0, found.length)
                values = [found.get(index) for index in range(found.length)]
                assert values[:before] == chunks(0, before)
                assert values[before:] in ([SECOND] if returned else [[], FAILED, SECOND])
            if returned:
                break


class _Slow(MemoryStorage):
    """Its sync in a thread other than the main one waits for ``go``."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.go, self.waits = threading.Event(), threading.Event()
        self.ended = 0

    def sync(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            self.waits.set()
            assert self.go.wait(10)
        self.ended += 1


def test_a_sync_that_still_runs_vouches_for_nothing() -> None:
    """A flush beside another one whose sync has not ended syncs for itself before it writes bits."""
    slow = _Slow("data")
    others: dict[str, MemoryStorage] = {}

    def open_storage(name: str) -> RandomAccess:
        return slow if name == "data" else others.setdefault(name, MemoryStorage(name))

    origin = written(chunks(0, 8))
    copy = empty_copy(open_storage)
    fetch(copy, origin, 3)
    pending = copy.begin_flush()
    thread = threading.Thread(target=pending.sync)
    thread.start()
    assert slow.waits.wait(10)
    copy.flush()
    assert slow.ended == 1
    slow.go.set()
    thread.join()
    pending.finish()
    assert slow.ended == 2
    copy.flush()
    assert slow.ended == 2


def test_syncer_leaves_out_what_is_covered() -> None:
    """A second sync without a write does nothing; one that failed is not counted."""
    disk = Disk()
    file = disk("file")
    syncer = Syncer(file)
    syncer.sync()
    assert disk.steps == 0
    file.write(0, b"bytes")
    syncer.written()
    disk.fail_at = {2}
    with pytest.raises(OSError, match="No space left"):
        syncer.sync()
    syncer.sync()
    syncer.sync()
    assert disk.steps == 3
    assert disk.after(lambda: 0.0) == {"file": b"bytes"}


def test_headers_are_durable_before_contents() -> None:
    """A power cut that keeps the newest nodes but nothing else unsynced leaves a tree file that can be opened."""
    disk = Disk()
    copy = empty_copy(disk)
    origin = written(chunks(0, 40))
    for index in (39, 0):
        fetch(copy, origin, index)
    copy.begin_flush()
    contents = disk.after(lambda: 0.0)
    assert contents["tree"] == TREE_HEADER.encode()
    assert {name: len(data) for name, data in contents.items()} == {
        "key": 32,
        "tree": HEADER_BYTES,
        "signatures": HEADER_BYTES,
        "bitfield": HEADER_BYTES,
    }
    again = Register.open(storage_with(contents))
    assert (again.key, again.length) == (KEYS.public, 0)


def test_older_bits_never_come_back() -> None:
    """A flush that ends after chunks were cleared does not write the bits they had when it began."""
    disk = Disk()
    copy = copied(written(chunks(0, 12)), range(12), disk)
    pending = copy.begin_flush()
    pending.sync()
    copy.clear(4, 8)
    pending.finish()
    for contents in crash_outcomes(disk):
        found = Register.open(storage_with(contents))
        assert not found.data_bits.any_set(4, 8)
        assert [found.get(index) for index in (3, 8, 11)] == [chunk(3), chunk(8), chunk(11)]


def test_a_chunk_that_comes_back_is_not_promised_by_an_older_flush() -> None:
    """Cleared and stored again while a flush is under way: its bit waits for a sync of the bytes it stands for now."""
    origin, disk = written(chunks(0, 12)), Disk()
    copy = copied(origin, range(12), disk)
    pending = copy.begin_flush()
    pending.sync()
    copy.clear(4, 8)
    fetch(copy, origin, 5)
    pending.finish()
    for contents in crash_outcomes(disk):
        found = Register.open(storage_with(contents))
        assert found.audit().ok
        assert found.has(3)
    copy.flush()
    for contents in crash_outcomes(disk):
        assert Register.open(storage_with(contents)).get(5) == chunk(5)


def test_clearing_promises_nothing_that_was_not_synced() -> None:
    """Bits of chunks fetched since the last flush do not reach the disk with those that are taken away."""
    origin, disk = written(chunks(0, 12)), Disk()
    copy = copied(origin, range(6), disk)
    copy.flush()
    for index in range(6, 12):
        fetch(copy, origin, index)
    copy.clear_ranges([(0, 2), (7, 8)])
    for contents in crash_outcomes(disk):
        found = Register.open(storage_with(contents))
        assert found.audit().ok
        assert [*found.data_bits.runs()] == [(2, 6)]
    copy.flush()
    for contents in crash_outcomes(disk):
        assert [*Register.open(storage_with(contents)).data_bits.runs()] == [(2, 7), (8, 12)]
