"""A tree of drives: opened once when walked into, closed when idle, each on its own; errors a program understands."""

from __future__ import annotations

import errno
import hashlib
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field

import pytest
import trio
import trio.testing

from datfs.client import Notice, OpenDrive, Options
from datfs.crypto import key_pair
from datfs.drive import Drive
from datfs.drive_root import FAILURE_KEPT, DriveRoot, RootTree
from datfs.errors import BadLink, Closed, IsADirectory, MountError, NoPeers, NotFound
from datfs.inodes import InodeTable
from datfs.link import Link
from datfs.net.discovery.names import NamedLink
from datfs.net.swarm import Swarm
from datfs.sources import NoSource
from datfs.sparse import SparseRegister
from datfs.storage import memory_storage
from datfs.store import memory_store
from datfs.vfs import Entry, Kind, Update
from datfs.writer import DriveWriter, chunks_of
from tests.vector_drives import read, walk

IDLE = 100.0


def a_drive(seed: int, **files: bytes) -> DriveWriter:
    """Another seed is another drive."""
    writer = DriveWriter.create(memory_storage(), key_pair(hashlib.sha256(bytes([seed])).digest()))
    for name, data in files.items():
        writer.put((name.encode(),), chunks_of(data), mtime=1_600_000_000_000)
    return writer


@dataclass
class World:
    """Drives that can be opened, and what happened to them. ``hold``: opening waits for it."""

    drives: dict[bytes, DriveWriter] = field(default_factory=dict)
    names: dict[str, bytes] = field(default_factory=dict)
    opened: list[bytes] = field(default_factory=list)
    closed: list[bytes] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    metadata: dict[bytes, SparseRegister] = field(default_factory=dict)
    hold: trio.Event | None = None
    failure: Exception | None = None

    def add(self, writer: DriveWriter) -> str:
        """Makes a drive one that can be opened; its key."""
        self.drives[writer.metadata.key] = writer
        return writer.metadata.key.hex()

    @asynccontextmanager
    async def open(self, target: Link, options: Options, *, notice: Notice) -> AsyncIterator[OpenDrive]:
        """As open_drive."""
        self.opened.append(target.key)
        if self.hold is not None:
            await self.hold.wait()
        if self.failure is not None:
            raise self.failure
        writer = self.drives.get(target.key)
        if writer is None:
            raise NoPeers("nobody has it")
        content = SparseRegister(writer.content, NoSource("alone"), name="content")
        metadata = self.metadata[target.key] = SparseRegister(writer.metadata, NoSource("alone"), name="metadata")
        drive = Drive(metadata, lambda key: content)
        try:
            yield OpenDrive(drive, memory_store(), Swarm(), target, ExitStack())
        finally:
            drive.close()
            await trio.lowlevel.checkpoint()
            self.closed.append(target.key)

    async def resolve(self, named: NamedLink, options: Options, notice: Notice) -> Link:
        """As resolve_name."""
        self.asked.append(named.host)
        if named.host not in self.names:
            raise BadLink(f"{named.host} is not the name of a drive")
        return named.with_key(self.names[named.host])


@asynccontextmanager
async def root_of(world: World, *known: bytes) -> AsyncIterator[tuple[RootTree, DriveRoot]]:
    """A running root over these drives."""
    drives = DriveRoot(Options(), idle=IDLE, known_keys=lambda: known, opener=world.open, resolve=world.resolve)
    async with drives.running():
        yield RootTree(drives), drives


async def find(tree: RootTree, path: str) -> Entry:
    """The entry at a path, name by name."""
    entry = tree.root
    for name in path.split("/"):
        entry = await tree.lookup(entry, name.encode())
    return entry


async def names(tree: RootTree, entry: Entry | None = None) -> Sequence[str]:
    """What a directory lists, sorted."""
    return sorted(entry.name.decode() for entry in await tree.list(entry or tree.root))


async def refused(tree: RootTree, name: str) -> int | None:
    """The errno with which a name cannot be looked up."""
    with pytest.raises(OSError) as caught:
        await find(tree, name)
    return caught.value.errno


# --- opening --------------------------------------------------------------------------------------------------------


async def test_a_drive_appears_when_walked_into() -> None:
    """Nothing is listed and nothing opened before; afterwards it is listed, and everything in it is there."""
    world = World()
    key = world.add(a_drive(1, a=b"one", b=b"two"))
    async with root_of(world) as (tree, _):
        assert await names(tree) == []
        assert world.opened == []
        top = await find(tree, key)
        assert (top.kind, top.path) == (Kind.DIRECTORY, (key.encode(),))
        assert await names(tree) == [key]
        assert await names(tree, top) == ["a", "b"]
        entry = await find(tree, f"{key}/b")
        assert await read(tree, entry) == b"two"
        assert set(await walk(tree)) == {f"/{key}", f"/{key}/a", f"/{key}/b"}
        with pytest.raises(NotFound):
            await find(tree, f"{key}/c")
        with pytest.raises(IsADirectory):
            await tree.open(top)
        assert len(world.opened) == 1
    assert world.closed == world.opened


async def test_versions_names_and_capitals_are_one_drive() -> None:
    """+N, a name, and the key in capitals show what they should, and the drive is open once."""
    world = World()
    writer = a_drive(1, a=b"one", b=b"two")
    key = world.add(writer)
    world.names["example.org"] = writer.metadata.key
    async with root_of(world) as (tree, _):
        found = {
            name: await names(tree, await find(tree, name)) for name in (f"{key}+1", key, key.upper(), "example.org")
        }
        assert found == {f"{key}+1": ["a"], key: ["a", "b"], key.upper(): ["a", "b"], "example.org": ["a", "b"]}
        assert await names(tree, await find(tree, "example.org+1/.dat/latest")) == ["a", "b"]
        assert await names(tree) == sorted([*found, "example.org+1"])
        assert len(world.opened) == 1
        await find(tree, "example.org/a")
        assert world.asked == ["example.org", "example.org"]  # once for each name


async def test_many_lookups_open_once(autojump_clock: trio.testing.MockClock) -> None:
    """Whoever asks while a drive is being opened waits for it; those who give up do not end it."""
    world = World(hold=trio.Event())
    key = world.add(a_drive(1, a=b"one"))
    found: list[Entry] = []
    async with root_of(world) as (tree, _):

        async def look(name: str) -> None:
            found.append(await find(tree, name))

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(look, key)
            nursery.start_soon(look, f"{key}+1")
            with trio.move_on_after(1) as scope:
                await find(tree, key)
            assert scope.cancelled_caught
            assert world.hold is not None
            world.hold.set()
        assert len(found) == 6
        assert len(world.opened) == 1


# --- what is not there ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        *("x", ".Trash", ".hidden", "autorun.inf", "Desktop.ini", "ab" * 31, "ab" * 33, "zz" * 32, "ab" * 32 + "+"),
        *("ab" * 32 + "+x", "ab" * 32 + "+01", "+1", "\u00e4", "ab" * 32 + " ", "dat:" + "ab" * 32, "a..b", "-a.org"),
    ],
)
async def test_names_that_can_be_no_drive(name: str) -> None:
    """NotFound, which the kernel keeps, without asking anybody."""
    world = World()
    async with root_of(world) as (tree, _):
        with pytest.raises(NotFound):
            await find(tree, name)
        assert world.opened == []
        assert world.asked == []


@pytest.mark.expect_log("is not the name of a drive|no version 2")
async def test_names_that_are_no_drive_now() -> None:
    """A name that does not resolve, and a version beyond the newest: ENOENT, which the kernel does not keep."""
    world = World()
    key = world.add(a_drive(1, a=b"one"))
    async with root_of(world) as (tree, _):
        assert await refused(tree, "nowhere.example.org") == errno.ENOENT
        assert await refused(tree, f"{key}+2") == errno.ENOENT
        assert await names(tree) == []


async def test_a_mistyped_key_gets_a_hint(caplog: pytest.LogCaptureFixture) -> None:
    """ENOENT without the network, the right key in the log once and in the attribute; a strange key is asked for."""
    world = World()
    writer = a_drive(1, a=b"one")
    key = world.add(writer)
    wrong = key[:9] + ("0" if key[9] != "0" else "1") + key[10:]
    async with root_of(world, writer.metadata.key) as (tree, _):
        for _ in range(3):
            assert await refused(tree, wrong) == errno.ENOENT
        with pytest.raises(NotFound):
            await find(tree, key[:-1])
        assert world.opened == []
        hints = [record.getMessage() for record in caplog.records if key in record.getMessage()]
        assert [hint.split(":")[0] for hint in hints] == [wrong, key[:-1]]
        assert f"did you mean {key}, which differs in one digit?".encode() in tree.facts(tree.root)[b"user.dat.problem"]
        with pytest.raises(NoPeers):
            await find(tree, "ab" * 32)
        assert len(world.opened) == 1


@pytest.mark.expect_log("nobody")
async def test_a_failure_is_remembered_for_a_while(autojump_clock: trio.testing.MockClock) -> None:
    """The second question fails at once with the same; later it is tried again, and may go well."""
    world = World(failure=NoPeers("nobody"))
    key = world.add(a_drive(1, a=b"one"))
    async with root_of(world) as (tree, _):
        for _ in range(3):
            with pytest.raises(NoPeers, match="nobody"):
                await find(tree, key)
        assert len(world.opened) == 1
        world.failure = None
        await trio.sleep(FAILURE_KEPT)
        assert await names(tree, await find(tree, key)) == ["a"]
        assert await names(tree) == [key]


async def test_a_bug_in_one_drive_leaves_the_others(caplog: pytest.LogCaptureFixture) -> None:
    """An exception that nobody expects is logged, and ends that drive alone."""
    caplog.set_level(logging.ERROR)
    world = World()
    key = world.add(a_drive(1, a=b"one"))
    async with root_of(world) as (tree, _):
        await find(tree, key)
        world.failure = ZeroDivisionError("a bug")
        with pytest.raises(ZeroDivisionError):
            await find(tree, "cd" * 32)
        assert await names(tree) == [key]
    assert "could not be opened" in caplog.text
    caplog.clear()


# --- living together ------------------------------------------------------------------------------------------------


async def test_equal_paths_in_different_drives_are_different_inodes() -> None:
    """Also where the drives have the same paths at the same places, and for versions of one drive."""
    world = World()
    keys = [world.add(a_drive(seed, a=b"%d" % seed)) for seed in (1, 2)]
    async with root_of(world) as (tree, _):
        table = InodeTable(tree.root)
        paths = [f"{name}{rest}" for name in (*keys, f"{keys[0]}+1") for rest in ("", "/a", "/.dat/latest/a")]
        numbers = []
        for path in paths:
            entry = await find(tree, path)
            numbers.append(table.number_of(entry))
            table.taken(numbers[-1], entry)
            assert table.entry(numbers[-1]) == entry
        assert len(set(numbers)) == len(paths)
        assert await read(tree, table.entry(numbers[1])) == b"1"
        assert await read(tree, table.entry(numbers[4])) == b"2"
        assert [tree.facts(table.entry(number))[b"user.dat.key"].decode() for number in numbers[1:6:3]] == keys
        assert tree.stats().entries == 2
        assert tree.facts(tree.root)[b"user.dat.drives"] == b"2"


async def test_each_drive_follows_its_newest_version() -> None:
    """The kernel is told which names below which drive changed; a name with a version stays."""
    world = World()
    writer = a_drive(1, a=b"one")
    key = world.add(writer)
    world.add(a_drive(2, a=b"one"))
    updates: list[Update] = []

    async def deliver(update: Update) -> None:
        updates.append(update)

    async with root_of(world) as (tree, drives), trio.open_nursery() as nursery:
        nursery.start_soon(drives.follow, deliver)
        await find(tree, key)
        await find(tree, f"{key}+1")
        await trio.testing.wait_all_tasks_blocked()
        writer.put((b"b",), chunks_of(b"two"), mtime=1_600_000_000_000)
        world.metadata[writer.metadata.key].appended(2)
        await trio.testing.wait_all_tasks_blocked()
        changed = {"/".join(map(bytes.decode, path)) for update in updates for path in update.changed or ()}
        below = {
            f"{name}/.dat/{rest}" for name in (key, f"{key}+1") for rest in ("latest/b", "history/b", "versions/2")
        }
        assert changed == below | {f"{key}/b"}
        assert all((key.encode(),) in update.lasting or (f"{key}+1".encode(),) in update.lasting for update in updates)
        newest = updates[-1].tree
        assert isinstance(newest, RootTree)
        assert newest is not tree
        assert await read(newest, await find(newest, f"{key}/b")) == b"two"
        assert await names(newest, await find(newest, f"{key}+1")) == ["a"]
        nursery.cancel_scope.cancel()


# --- the end --------------------------------------------------------------------------------------------------------


async def test_idle_drives_go(autojump_clock: trio.testing.MockClock) -> None:
    """Those that nobody uses are closed and the kernel forgets them; used again they are opened again."""
    world = World()
    keys = [world.add(a_drive(seed, a=b"%d" % seed)) for seed in (1, 2)]
    updates: list[Update] = []

    async def deliver(update: Update) -> None:
        updates.append(update)

    async with root_of(world) as (tree, drives), trio.open_nursery() as nursery:
        nursery.start_soon(drives.follow, deliver)
        first = await find(tree, keys[0])
        entry = await find(tree, f"{keys[0]}/a")
        await find(tree, keys[1])
        for _ in range(10):
            await trio.sleep(IDLE / 4)
            await tree.list(first)
        assert await names(tree) == [keys[0]]
        assert [update.changed for update in updates] == [[(keys[1].encode(),)]]
        await trio.sleep(2 * IDLE)
        assert await names(tree) == []
        assert len(world.closed) == 2
        # A shell may still stand in it.
        assert tree.facts(first) == {}
        assert await names(tree, first) == ["a"]
        assert await read(tree, entry) == b"1"
        assert len(world.opened) == 3
        nursery.cancel_scope.cancel()


async def test_open_files_and_waiting_readers_keep_a_drive(autojump_clock: trio.testing.MockClock) -> None:
    """However long nothing is asked; when the last file is closed it goes, and closing twice counts once."""
    world = World()
    key = world.add(a_drive(1, a=b"one", b=b"two"))
    async with root_of(world) as (tree, _):
        files = [await tree.open(await find(tree, f"{key}/{name}")) for name in "ab"]
        await trio.sleep(5 * IDLE)
        files[0].close()
        files[0].close()
        await trio.sleep(5 * IDLE)
        assert await names(tree) == [key]
        assert (files[1].complete, files[1].read_nowait(0, 3)) == (True, b"two")
        files[1].close()
        await trio.sleep(2 * IDLE)
        assert await names(tree) == []
        # Being opened is being used.
        world.hold = trio.Event()
        with trio.move_on_after(5 * IDLE) as scope:
            await find(tree, key)
        assert scope.cancelled_caught
        world.hold.set()
        assert await names(tree, await find(tree, key)) == ["a", "b"]


async def test_opened_again_while_it_is_being_closed(autojump_clock: trio.testing.MockClock) -> None:
    """It is opened anew only when it was let go: a cache has one owner."""
    world = World()
    key = world.add(a_drive(1, a=b"one"))
    async with root_of(world) as (tree, drives):
        await find(tree, key)
        view = drives.known(key.encode())
        assert view is not None
        view.drive.close.set()
        assert await names(tree, await find(tree, key)) == ["a"]
        assert (len(world.opened), len(world.closed)) == (2, 1)


async def test_errors_come_out_as_they_are() -> None:
    """What goes wrong beside the drives, such as mounting, is raised bare, after all are closed."""
    world = World()
    key = world.add(a_drive(1, a=b"one"))

    async def fail() -> None:
        async with root_of(world) as (tree, _):
            await find(tree, key)
            raise MountError("no such place")

    with pytest.raises(MountError, match="no such place"):
        await fail()
    assert len(world.closed) == 1


async def test_shutting_down(autojump_clock: trio.testing.MockClock) -> None:
    """Everything open is closed, what is being opened is given up, who waits gets Closed, nothing opens any more."""
    world = World()
    first, second = (world.add(a_drive(seed, a=b"one")) for seed in (1, 2))
    async with root_of(world) as (tree, drives):
        await find(tree, first)
        world.hold = trio.Event()
        async with trio.open_nursery() as nursery:

            async def look() -> None:
                with pytest.raises(Closed):
                    await find(tree, second)

            nursery.start_soon(look)
            await trio.sleep(1)
            drives.let_readers_go()
            await drives.shut_down()
        assert len(world.opened) == 2
        assert len(world.closed) == 1
        assert await names(tree) == []
        with pytest.raises(Closed):
            await find(tree, first)
        await drives.shut_down()
