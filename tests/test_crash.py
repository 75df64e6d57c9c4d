"""Crashes at every step, power cuts with every outcome, and disks that are full at any write."""

from __future__ import annotations

import errno
from collections.abc import Callable
from itertools import pairwise

import pytest

from datfs.register import Register
from tests.register_kit import (
    KEYS,
    Disk,
    PowerCut,
    chunk,
    chunks,
    contents_of,
    crash_outcomes,
    empty_copy,
    fetch,
    storage_with,
    written,
)

pytestmark = pytest.mark.expect_log("were not written whole")

Life = Callable[[Disk], None]


def every_stop(begin: dict[str, bytes], life: Life, seeds: int = 4) -> list[tuple[Disk, dict[str, bytes]]]:
    """Lives the life again and again, each time one step longer before the machine stops; all that may be found."""
    found, steps = [], 0
    while True:
        disk = Disk(begin, stop_after=steps)
        try:
            life(disk)
        except PowerCut:
            found += [(disk, contents) for contents in crash_outcomes(disk, seeds)]
            steps += 1
        else:
            assert steps > 3
            return found


def holds_what_it_says(register: Register, value: Callable[[int], bytes]) -> None:
    """Each chunk that is held has its bytes, and the tree follows."""
    for first, stop in register.data_bits.runs():
        for index in range(first, stop):
            assert register.get(index) == value(index)
    assert register.audit().ok


@pytest.mark.parametrize("before", [0, 3, 8190])
def test_append(before: int) -> None:
    """After a crash at any step of creating and appending, a register is there with every append that returned, with
    nothing but whole appends, and can be appended to.
    """
    begin: dict[str, bytes] = {}
    if before:
        storage = storage_with({})
        register = Register.create(storage, KEYS)
        register.append(chunks(0, before))
        register.close()
        begin = contents_of(storage)
    lengths = [before, before + 3, before + 4, before + 9]
    progress: dict[Disk, int] = {}

    def life(disk: Disk) -> None:
        progress[disk] = -1
        register = Register.open(disk) if before else Register.create(disk, KEYS)
        progress[disk] = before
        for first, stop in pairwise(lengths):
            register.append(chunks(first, stop))
            progress[disk] = stop
        register.close()

    for disk, contents in every_stop(begin, life, seeds=4 if before < 1000 else 2):
        returned = progress[disk]
        if returned < 0 and not before:
            # Creating was not finished: it begins again, or says what is in the way.
            if contents.get("key") == KEYS.public:
                assert Register.open(storage_with(contents)).writable
            continue
        storage = storage_with(contents)
        register = Register.open(storage)
        assert register.writable
        assert register.length in lengths
        assert register.length >= returned
        assert register.has_range(0, register.length)
        for index in range(max(0, before - 5), register.length):
            assert register.get(index) == chunk(index)
        if before < 1000:
            assert register.audit().ok
        index = register.append([b"after the crash"])
        register.close()
        assert Register.open(storage).get(index) == b"after the crash"


def test_create_keeps_key_and_secret_together() -> None:
    """There is never a whole key without its whole secret key: that register could not be written any more."""
    for _, contents in every_stop({}, lambda disk: Register.create(disk, KEYS).close(), seeds=12):
        if contents.get("key") == KEYS.public:
            assert contents["secret_key"] == KEYS.secret


def test_downloads_and_clearing() -> None:
    """After a crash at any step of downloading, flushing and clearing, no hole is presented as data, what was flushed
    and not cleared is there, and everything can be fetched again.
    """
    values = [bytes([65 + number]) * (number * 7 % 50) for number in range(30)]
    origin = written(values)
    kept: dict[Disk, set[int]] = {}

    def life(disk: Disk) -> None:
        kept[disk] = set()
        copy = empty_copy(disk)
        for batch in ([29, 3, 4], [5, 6, 20, 21], [7]):
            for index in batch:
                fetch(copy, origin, index)
            copy.flush()
            kept[disk] |= set(batch)
        kept[disk] -= {4, 5, 29}
        copy.clear(4, 6)
        copy.clear(29, 30)
        fetch(copy, origin, 5)
        copy.flush()
        kept[disk].add(5)
        fetch(copy, origin, 29)
        copy.close()

    for disk, contents in every_stop({}, life):
        storage = storage_with(contents)
        copy = Register.open(storage, key=KEYS.public)
        holds_what_it_says(copy, values.__getitem__)
        assert all(copy.has(index) for index in kept[disk])
        for index in range(30):
            fetch(copy, origin, index)
        copy.close()
        again = Register.open(storage)
        assert again.has_range(0, 30)
        holds_what_it_says(again, values.__getitem__)


def test_unsynced_appends_are_lost_from_the_end() -> None:
    """Appends without sync may be lost in a crash, but only the newest, and each wholly."""
    flushed: dict[Disk, int] = {}

    def life(disk: Disk) -> None:
        flushed[disk] = 0
        register = Register.create(disk, KEYS)
        for index in range(9):
            register.append([chunk(index)], sync=False)
            if index % 4 == 3:
                register.flush()
                flushed[disk] = index + 1
        register.close()

    for disk, contents in every_stop({}, life):
        if contents.get("key") != KEYS.public:
            continue
        register = Register.open(storage_with(contents))
        assert register.length >= flushed[disk]
        assert register.has_range(0, register.length)
        holds_what_it_says(register, chunk)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("before", [0, 5, 8191])
def test_append_on_a_full_disk(before: int, code: int) -> None:
    """Whatever write or sync of an append fails, memory and disk stay at the old length; later appends work, and the
    files are then those of a register in which nothing ever failed.
    """
    storage = storage_with({})
    register = Register.create(storage, KEYS)
    register.append(chunks(0, before))
    register.close()
    begin = contents_of(storage)
    register = Register.open(storage)
    register.append(chunks(before, before + 2))
    register.close()
    expected = contents_of(storage)
    step = 0
    while True:
        step += 1
        disk = Disk(begin, fail_at={step}, fail_with=code)
        register = Register.open(disk)
        roots = register.roots()
        try:
            register.append(chunks(before + 50, before + 57))
        except OSError as error:
            failed = error.errno
        else:
            break
        assert failed == code
        assert (register.length, register.roots()) == (before, roots)
        assert not register.data_bits.any_set(before, before + 99)
        assert register.audit().ok
        # Only where the very last sync failed may the disk be ahead; then by the whole append.
        found = Register.open(storage_with(disk.after(lambda: 1.0)))
        assert found.length == before or (found.length == before + 7 and found.get(before) == chunk(before + 50))
        register.append(chunks(before, before + 2))
        assert [register.get(before + at) for at in range(2)] == chunks(before, before + 2)
        register.close()
        after = disk.after(lambda: 0.0)
        again = Register.open(storage_with(after))
        assert again.length == before + 2
        assert again.audit().ok
        for name, data in expected.items():
            rest = after[name][len(data) :]
            if name == "data":
                assert after[name][: len(data)] == data
            else:
                assert after[name] == data + rest
                assert not any(rest)
    assert step > 6


@pytest.mark.parametrize("flushes", [True, False])
def test_disk_full_for_a_while(flushes: bool) -> None:
    """A copy whose disk is full for some time loses nothing of what it held, and goes on when there is room."""
    origin = written(chunks(0, 20))
    disk = Disk()
    copy = empty_copy(disk)
    for index in range(5):
        fetch(copy, origin, index)
    disk.fail_at = set(range(disk.steps + 1, disk.steps + 200))
    for index in range(5, 12):
        with pytest.raises(OSError, match="No space left"):
            fetch(copy, origin, index)
        if flushes:
            with pytest.raises(OSError, match="No space left"):
                copy.flush()
    assert [copy.has(index) for index in range(12)] == [True] * 5 + [False] * 7
    disk.fail_at = set()
    for index in range(20):
        fetch(copy, origin, index)
    copy.close()
    again = Register.open(storage_with(disk.after(lambda: 0.0)))
    assert again.has_range(0, 20)
    holds_what_it_says(again, chunk)


def test_clear_that_cannot_be_written() -> None:
    """Clearing on a failing disk keeps the bytes of what the disk still says is held."""
    origin = written(chunks(0, 10))
    step = 0
    while True:
        step += 1
        disk = Disk()
        copy = empty_copy(disk)
        for index in range(10):
            fetch(copy, origin, index)
        copy.flush()
        disk.fail_at = {disk.steps + step}
        try:
            copy.clear(2, 5)
        except OSError:
            holds_what_it_says(Register.open(storage_with(disk.after(lambda: 1.0))), chunk)
            holds_what_it_says(Register.open(storage_with(disk.after(lambda: 0.0))), chunk)
        else:
            break
    assert step > 2
