"""The cache's limit: never passed by more than a chunk for each reader, and no hole is ever read as data."""

from __future__ import annotations

import random
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from datfs import pins
from datfs.bitfield import Bitfield
from datfs.cache_drives import IdleDrives
from datfs.chunk_uses import ChunkUses
from datfs.open_file import OpenFile
from datfs.store import cache_folder
from datfs.writer import DriveWriter
from tests.cached_drives import CachedDrive, cached_drive, contents, space_in
from tests.helpers import make_drive

CHUNK = 65_536
KIB = 1024
UNWRITTEN = 64 * KIB  # tree nodes and bits that a flush may add before the keeper looks again


def drive_with(sizes: dict[str, int], seed: int = 1) -> tuple[DriveWriter, dict[str, bytes]]:
    """A drive to copy from, and what is in it."""
    files = contents(sizes)
    return make_drive(files, bytes([seed]) * 32), files


async def base_of(writer: DriveWriter) -> int:
    """What the cache takes with no chunk of a file in it."""
    with tempfile.TemporaryDirectory() as folder:
        async with cached_drive(writer, Path(folder), None) as at:
            at.drive.metadata.register.flush()
            at.content.register.flush()
            return space_in(Path(folder))


async def test_the_least_recently_used_goes_first(tmp_path: Path) -> None:
    """Of files that do not fit together, the one that was read longest ago goes, not the one that came first."""
    writer, files = drive_with(dict.fromkeys("abcd", CHUNK))
    limit = await base_of(writer) + 3 * CHUNK + UNWRITTEN
    async with cached_drive(writer, tmp_path, limit) as at:
        for name in "abca":
            assert await at.read(name) == files[name]
        assert await at.read("d") == files["d"]
        assert [await at.held(name) for name in "abcd"] == [True, False, True, True]
        assert at.retracted == [(1, 1)]
        assert await at.read("b") == files["b"]
        assert space_in(tmp_path) <= limit


async def test_uses_outlive_the_process(tmp_path: Path) -> None:
    """A later process gives up first what an earlier one used longest ago."""
    writer, files = drive_with(dict.fromkeys("abcd", CHUNK))
    limit = await base_of(writer) + 3 * CHUNK + UNWRITTEN
    async with cached_drive(writer, tmp_path, None) as at:
        for name in "abc":
            await at.read(name)
        # To the second is what is kept, so the uses have to be further apart than this test takes.
        for back, name in enumerate("acb"):
            index = "abc".index(name)
            at.keeper.uses._set(index, index + 1, at.keeper.uses.when(index) - 10_000_000 * back)
    async with cached_drive(writer, tmp_path, limit) as at:
        assert await at.read("d") == files["d"]
        assert [await at.held(name) for name in "abcd"] == [True, False, True, True]


async def test_a_dropped_chunk_of_an_open_file_is_fetched_again(tmp_path: Path) -> None:
    """A file that was open and complete when its chunks went shows its bytes, not the hole."""
    writer, files = drive_with({"a": 4 * CHUNK, "b": 4 * CHUNK})
    limit = await base_of(writer) + 5 * CHUNK + UNWRITTEN
    async with cached_drive(writer, tmp_path, limit) as at:
        await at.read("a")
        file = await at.open("a")
        assert file.read_nowait(0, CHUNK) == files["a"][:CHUNK]
        await at.read("b")
        assert not await at.held("a")
        assert file.read_nowait(0, CHUNK) is None
        for offset in range(0, 4 * CHUNK, 5000):
            found = file.read_nowait(offset, 5000)
            if found is None:
                found = await file.read(offset, 5000)
            assert found == files["a"][offset : offset + 5000]


async def test_more_than_fits_in_one_read(tmp_path: Path) -> None:
    """A read of more chunks than there is room for gives all bytes."""
    writer, files = drive_with({"a": 40 * CHUNK + 17})
    limit = await base_of(writer) + 3 * CHUNK + UNWRITTEN
    async with cached_drive(writer, tmp_path, limit) as at:
        with trio.fail_after(20):
            assert await at.read("a") == files["a"]
        assert space_in(tmp_path) <= limit


@pytest.mark.expect_log("the cache is full")
async def test_no_room_at_all(tmp_path: Path) -> None:
    """With a limit below what metadata take, reads go on, one chunk at a time and nothing kept but the last."""
    writer, files = drive_with({"a": 10 * CHUNK, "b": 3 * CHUNK})
    async with cached_drive(writer, tmp_path, 1) as at:
        before = space_in(tmp_path)
        with trio.fail_after(20):
            assert await at.read("a") == files["a"]
            assert await at.read("b", 5, CHUNK) == files["b"][5 : 5 + CHUNK]
        assert space_in(tmp_path) <= before + CHUNK + UNWRITTEN
        assert at.content.register.data_bits.count(0, 100) <= 1


async def test_pins_stay(tmp_path: Path) -> None:
    """Chunks of a pinned path are not given up, nor those of what lies below a pinned directory."""
    writer, files = drive_with({"a": CHUNK, "dir/b": 2 * CHUNK, "c": 8 * CHUNK})
    limit = await base_of(writer) + 5 * CHUNK + UNWRITTEN
    async with cached_drive(writer, tmp_path, limit) as at:
        pins.save(cache_folder(writer.metadata.key, tmp_path), [(b"a",), (b"dir",)])
        for name in ("a", "dir/b", "c"):
            assert await at.read(name) == files[name]
        assert [await at.held(name) for name in ("a", "dir/b", "c")] == [True, True, False]
        pins.save(cache_folder(writer.metadata.key, tmp_path), [])
        at.keeper.prune(1 << 30)
        assert not await at.held("a")


@pytest.mark.expect_log("the cache is full")
async def test_pins_do_not_pass_the_limit(tmp_path: Path) -> None:
    """What is pinned and fits stays, and what does not is read without being kept; one chunk for each reader."""
    writer, files = drive_with({"a": 4 * CHUNK, "b": 12 * CHUNK})
    limit = await base_of(writer) + 6 * CHUNK + UNWRITTEN
    most = 0
    async with cached_drive(writer, tmp_path, limit) as at:
        pins.save(cache_folder(writer.metadata.key, tmp_path), [()])
        assert await at.read("a") == files["a"]
        register = at.content.register
        put = register.put

        def watched(*arguments: Any) -> bool:
            nonlocal most
            grew = put(*arguments)
            most = max(most, space_in(tmp_path))
            return grew

        register.put = watched  # type: ignore[assignment]
        file = await at.open("b")
        found: dict[int, bytes] = {}

        async def part(offset: int) -> None:
            found[offset] = await file.read(offset, 3 * CHUNK)

        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                for offset in range(0, 12 * CHUNK, 3 * CHUNK):
                    nursery.start_soon(part, offset)
        assert b"".join(found[offset] for offset in sorted(found)) == files["b"]
        assert await at.held("a")
        assert limit - 2 * CHUNK < most <= limit + CHUNK + 8192
        at.keeper.come_down()
        assert space_in(tmp_path) <= limit


async def test_a_pin_is_for_later_versions_too(tmp_path: Path) -> None:
    """What a newer version has at a pinned path stays as well."""
    writer, _ = drive_with({"a": CHUNK, "b": CHUNK})
    async with cached_drive(writer, tmp_path, None) as at:
        pins.save(cache_folder(writer.metadata.key, tmp_path), [(b"a",)])
        await at.read("a")
        at.keeper.prune(1 << 30)
        newer = contents({"x": 1, "a": 2 * CHUNK})["a"]
        writer.put((b"a",), [newer[:CHUNK], newer[CHUNK:]], mtime=0)
        await at.drive.metadata.ensure((writer.version,))
        at.tree = await at.drive.checkout()
        assert await at.read("a") == newer
        await at.read("b")
        at.keeper.prune(1 << 30)
        assert await at.held("a")
        assert not await at.held("b")


async def test_drives_nobody_has_open_go_when_they_are_older(tmp_path: Path) -> None:
    """Room comes from a drive that was used earlier, and not from one that is pinned or our own."""
    old, old_files = drive_with({"a": 4 * CHUNK}, 1)
    pinned, _ = drive_with({"a": 4 * CHUNK}, 2)
    own, _ = drive_with({"a": 4 * CHUNK}, 3)
    new, files = drive_with({"a": 5 * CHUNK}, 4)
    for writer in (old, pinned, own):
        async with cached_drive(writer, tmp_path, None) as at:
            await at.read("a")
    pins.save(cache_folder(pinned.metadata.key, tmp_path), [()])
    assert own.metadata.secret_key is not None
    (cache_folder(own.metadata.key, tmp_path) / "metadata.secret_key").write_bytes(own.metadata.secret_key)
    limit = space_in(tmp_path) + 3 * CHUNK
    async with cached_drive(new, tmp_path, limit) as at:
        assert await at.read("a") == files["a"]
        assert await at.held("a")
        assert space_in(tmp_path) <= limit + UNWRITTEN
    held = []
    for writer in (old, pinned, own):
        async with cached_drive(writer, tmp_path, None) as at:
            held.append(await at.held("a"))
    assert held == [False, True, True]
    async with cached_drive(old, tmp_path, None) as at:
        assert await at.read("a") == old_files["a"]


@pytest.mark.expect_log("the cache is full")
async def test_two_at_once_share(tmp_path: Path) -> None:
    """Two drives open at a time stay below the limit together, and the later one gets a share."""
    first, first_files = drive_with({"a": 20 * CHUNK}, 1)
    second, second_files = drive_with({"a": 20 * CHUNK}, 2)
    limit = 2 * await base_of(first) + 12 * CHUNK + UNWRITTEN
    async with cached_drive(first, tmp_path, limit) as one:
        await one.read("a")
        async with cached_drive(second, tmp_path, limit) as two:
            for _ in range(20):
                assert await two.read("a") == second_files["a"]
                assert space_in(tmp_path) <= limit + CHUNK + UNWRITTEN
                one.keeper.look()
                two.keeper.look()
            assert two.content.register.data_bits.count(0, 100) >= 3
            assert one.content.register.data_bits.count(0, 100) >= 3
            assert await one.read("a") == first_files["a"]


async def test_a_smaller_limit_is_reached_at_once(tmp_path: Path) -> None:
    """What was kept under a greater limit goes at the first look."""
    writer, files = drive_with({"a": 20 * CHUNK})
    async with cached_drive(writer, tmp_path, None) as at:
        await at.read("a")
    limit = await base_of(writer) + 4 * CHUNK
    async with cached_drive(writer, tmp_path, limit) as at:
        at.keeper.look()
        assert space_in(tmp_path) <= limit
        assert await at.read("a") == files["a"]


async def test_an_unreadable_pin_file_pins_everything(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Who cannot tell what is pinned gives up nothing."""
    writer, _ = drive_with({"a": CHUNK})
    async with cached_drive(writer, tmp_path, None) as at:
        await at.read("a")
        (cache_folder(writer.metadata.key, tmp_path) / pins.PINS_NAME).write_text("{")
        at.keeper.prune(1 << 30)
        assert await at.held("a")
    assert "pins cannot be read" in caplog.text


async def crashed_drive(writer: DriveWriter, cache_dir: Path, *names: str) -> int:
    """Reads files of a drive, writes down the first of them only, and is killed; what the cache takes then."""
    async with cached_drive(writer, cache_dir, None) as at:
        at.drive.metadata.register.flush()
        for number, name in enumerate(names):
            await at.read(name)
            if not number:
                at.content.register.flush()
        at.kill()
    return space_in(cache_dir)


async def test_space_of_a_crash_comes_back(tmp_path: Path) -> None:
    """Bytes that were stored and not noted as held are given back by the next owner, and by who makes room."""
    writer, files = drive_with({"a": 2 * CHUNK, "b": 6 * CHUNK, "c": 4 * CHUNK, "d": CHUNK})
    base = await base_of(writer)
    assert await crashed_drive(writer, tmp_path, "b", "d", "a", "c") >= base + 13 * CHUNK
    async with cached_drive(writer, tmp_path, None) as at:
        assert space_in(tmp_path) <= base + 6 * CHUNK + UNWRITTEN
        assert [await at.held(name) for name in "abcd"] == [False, True, False, False]
        assert await at.read("b") == files["b"]
        assert at.content.register.audit().ok
        for name in "acd":
            assert await at.read(name) == files[name]
    async with cached_drive(writer, tmp_path, None) as at:
        assert all([await at.held(name) for name in "abcd"])
    other = tmp_path / "other"
    before = await crashed_drive(writer, other, "b", "c")
    pins.save(cache_folder(writer.metadata.key, other), [()])
    assert IdleDrives(other).free(before) >= 4 * CHUNK
    assert space_in(other) <= base + 6 * CHUNK + UNWRITTEN
    async with cached_drive(writer, other, None) as at:
        assert await at.held("b")


SIZES = st.lists(st.sampled_from((1, 900, 5000, CHUNK, CHUNK + 1, 3 * CHUNK, 9 * CHUNK)), min_size=1, max_size=4)
OPERATIONS = st.lists(
    st.tuples(
        st.integers(0, 1),
        st.integers(0, 3),
        st.floats(0, 1),
        st.sampled_from((1, 4096, CHUNK, 300_000)),
        st.sampled_from(("read", "read", "read", "together", "keep open", "look", "flush", "pin", "unpin")),
    ),
    max_size=25,
)


class World:
    """Two drives in one cache, the files held open, and the model: what each file has in it."""

    def __init__(self, cache_dir: Path, bound: int) -> None:
        self.cache_dir = cache_dir
        self.bound = bound
        self.drives: list[tuple[CachedDrive, dict[str, bytes]]] = []
        self.open: dict[tuple[int, str], OpenFile] = {}

    async def check(self, number: int, name: str, offset: int, length: int, keep: bool = False) -> None:
        """Reads, and compares with the model."""
        at, files = self.drives[number]
        file = self.open.get((number, name)) or await at.open(name)
        if keep:
            self.open[number, name] = file
        found = file.read_nowait(offset, length)
        if found is None:
            with trio.fail_after(30):
                found = await file.read(offset, length)
        assert found == files[name][offset : offset + length]


@pytest.mark.expect_log("the cache is full")
@settings(max_examples=40)
@given(
    sizes=st.tuples(SIZES, SIZES), room=st.integers(0, 12 * CHUNK), operations=OPERATIONS, seed=st.integers(0, 1 << 16)
)
def test_random_reads(
    sizes: tuple[list[int], list[int]],
    room: int,
    operations: list[tuple[int, int, float, int, str]],
    seed: int,
) -> None:
    """Whatever is read in whatever order, the bytes are right, and the bound holds at each step."""

    async def run(cache_dir: Path) -> None:
        made = [drive_with({str(n): size for n, size in enumerate(one)}, 1 + k) for k, one in enumerate(sizes)]
        base = sum([await base_of(writer) for writer, _ in made])
        limit = base + room
        async with AsyncExitStack() as stack:
            world = World(cache_dir, limit + UNWRITTEN)
            for writer, files in made:
                dice = random.Random(seed)
                at = await stack.enter_async_context(cached_drive(writer, cache_dir, limit, dice=dice))
                world.drives.append((at, files))
            for number, which, where, length, what in operations:
                at, files = world.drives[number]
                name = str(which % len(files))
                offset = int(where * len(files[name]))
                readers = 1
                if what == "look":
                    at.keeper.look()
                elif what == "flush":
                    at.content.register.flush()
                    at.drive.metadata.register.flush()
                elif what in ("pin", "unpin"):
                    folder = cache_folder(made[number][0].metadata.key, cache_dir)
                    pins.save(folder, [(), (b"0",)][which % 2 :] if what == "pin" else [])
                elif what == "together":
                    readers = 2 * len(files)
                    async with trio.open_nursery() as nursery:
                        for other in files:
                            nursery.start_soon(world.check, number, other, 0, length)
                            nursery.start_soon(world.check, number, other, offset, length, True)
                else:
                    await world.check(number, name, offset, length, what == "keep open")
                assert space_in(cache_dir) <= world.bound + readers * (CHUNK + 8192)
                for at, _ in world.drives:
                    at.keeper.come_down()
                assert space_in(cache_dir) <= world.bound

    with tempfile.TemporaryDirectory() as folder:
        trio.run(run, Path(folder))


def test_uses_are_ordered_and_kept(tmp_path: Path) -> None:
    """Each use is later than the one before although the clock stands still; a damaged file tells nothing."""
    uses = ChunkUses(lambda: 5_000_000)
    uses.note(3, 5)
    uses.note(1, 2)
    assert uses.when(3) == uses.when(4) < uses.when(1)
    assert uses.when(0) == uses.when(1 << 27) == 0
    held = Bitfield()
    held.set_range(1, 5, True)
    uses.save(tmp_path, held)
    again = ChunkUses.load(tmp_path)
    assert [again.when(index) for index in range(6)] == [0, 5_000_000, 0, 5_000_000, 5_000_000, 0]
    data = (tmp_path / "uses").read_bytes()
    for damaged in (data[:-1], b"x" + data, data + bytes(24), data + b"\xff" * 24):
        (tmp_path / "uses").write_bytes(damaged)
        assert ChunkUses.load(tmp_path).when(3) in (0, 5_000_000)
