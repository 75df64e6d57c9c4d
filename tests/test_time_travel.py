"""Old versions below .dat: each is what it was, lists without content, follows the drive, and hides nothing else."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import pytest
import trio
import trio.testing

import datfs
from datfs import time_travel
from datfs.crypto import key_pair
from datfs.drive import Drive
from datfs.errors import Gone, IsADirectory, NotADirectory, NotFound, Unavailable
from datfs.inodes import InodeTable
from datfs.net.messages import Message, Request, Unhave
from datfs.register import Register
from datfs.sources import CopySource, NoSource
from datfs.sparse import SparseRegister
from datfs.storage import memory_storage
from datfs.time_travel import TimeTravel, with_past
from datfs.vfs import Entry, FileTree, Kind, Update
from datfs.writer import DriveWriter, chunks_of
from tests.helpers import SEED, ScriptedPeer, drive_of, honest
from tests.vector_drives import DRIVES, read, walk

JAN = 1_577_836_800_000  # 2020-01-01 in UTC
DAY = 24 * 3600 * 1000


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Local time is UTC."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def a_history() -> DriveWriter:
    """Eight changes on five days: a file that is changed, deleted and made again, and a folder that comes and goes."""
    writer = DriveWriter.create(memory_storage(), key_pair(SEED))
    writer.put((b"a.tar.gz",), chunks_of(b"first"), mtime=JAN)
    writer.put((b"docs", b"read.me"), chunks_of(b"one"), mtime=JAN + 1000)
    writer.put((b"a.tar.gz",), chunks_of(b"second"), mtime=JAN + DAY)
    writer.delete((b"a.tar.gz",))
    writer.put((b"docs", b"read.me"), chunks_of(b"two"), mtime=JAN + DAY // 2)  # the clock went back
    writer.delete((b"docs", b"read.me"))
    writer.put((b"a.tar.gz",), chunks_of(b"third"), mtime=JAN + 4 * DAY)
    writer.put((b"LICENSE",), chunks_of(b"free"), mtime=JAN + 5 * DAY)
    return writer


def local_drive(writer: DriveWriter) -> Drive:
    """The drive with everything here and nobody to ask."""
    return Drive(
        SparseRegister(writer.metadata, NoSource("alone"), name="metadata"),
        lambda key: SparseRegister(writer.content, NoSource("alone"), name="content"),
    )


async def travel(writer: DriveWriter, version: int | None = None) -> TimeTravel:
    """A version of a local drive, with the hidden directory."""
    drive = local_drive(writer)
    return await with_past(drive, await drive.checkout(version))


async def find(tree: FileTree, path: str) -> Entry:
    """The entry at a path, looked up name by name as the kernel does."""
    entry = tree.root
    for name in filter(None, path.split("/")):
        entry = await tree.lookup(entry, name.encode())
    return entry


async def names(tree: FileTree, path: str) -> Sequence[str]:
    """What a directory lists, sorted."""
    return sorted(entry.name.decode() for entry in await tree.list(await find(tree, path)))


async def text(tree: FileTree, path: str) -> str:
    """The bytes of a file."""
    return (await read(tree, await find(tree, path))).decode()


def bare(found: dict[str, Entry]) -> dict[str, tuple[Kind, int, int, int]]:
    """What of entries must be equal wherever they are shown."""
    return {path: (entry.kind, entry.size, entry.permissions, entry.mtime_ns) for path, entry in found.items()}


# --- what there is --------------------------------------------------------------------------------------------------


async def test_it_is_hidden() -> None:
    """The root does not list it, a lookup finds it, and the rest of the drive is as it is without."""
    tree = await travel(a_history())
    assert await names(tree, "/") == ["LICENSE", "a.tar.gz"]
    assert await names(tree, ".dat") == ["at", "history", "latest", "versions"]
    with pytest.raises(NotFound):
        await find(tree, ".dat/elsewhere")
    with pytest.raises(NotFound):
        await find(tree, "docs/.dat")


@pytest.mark.parametrize("name", ["history", "history-dat", "deep", "unicode"])
async def test_each_version_is_the_checkout(name: str) -> None:
    """Names, attributes and bytes of versions/N are those of a checkout of N, for the drives of the reference."""
    async with datfs.open_drive(DRIVES / name) as opened:
        tree = await with_past(opened.drive, await opened.drive.checkout())
        for version in range(opened.drive.version + 1):
            plain = await opened.drive.checkout(version)
            expected = await walk(plain)
            found = await walk(tree, await find(tree, f".dat/versions/{version}"))
            assert bare(found) == bare(expected)
            for path, entry in found.items():
                if entry.kind is Kind.FILE:
                    try:
                        data: bytes | None = await read(plain, expected[path])
                    except Unavailable:
                        data = None
                    if data is not None:
                        assert await read(tree, entry) == data
                    else:
                        with pytest.raises(Gone):
                            await tree.open(entry)


async def test_the_versions_are_listed_and_nothing_else_is_one() -> None:
    """1 to the newest in the listing, 0 can be entered, other names are none."""
    tree = await travel(a_history())
    assert await names(tree, ".dat/versions") == list("12345678")
    assert await names(tree, ".dat/versions/0") == []
    assert await names(tree, ".dat/versions/2") == ["a.tar.gz", "docs"]
    for name in ("9", "01", "-1", "+1", "1.0", "x", "\u0661", "9" * 200):
        with pytest.raises(NotFound):
            await find(tree, f".dat/versions/{name}")


async def test_dates() -> None:
    """The newest version until the end of the day, minute or second; a clock that went back takes nothing back."""
    tree = await travel(a_history())
    assert await names(tree, ".dat/at") == ["2020-01-01", "2020-01-02", "2020-01-05", "2020-01-06"]
    versions = {
        "2020-01-01": 2,
        "2020-01-01T00:00:00": 1,
        "2020-01-01T00:00": 2,
        "2020-01-01T12:30Z": 2,
        "2020-01-02": 6,
        "2020-01-03": 6,
        "2020-01-05": 7,
        "2020-01-06": 8,
        "2033-01-01": 8,
    }
    for date, version in versions.items():
        entry = await find(tree, f".dat/at/{date}")
        assert tree.facts(entry)[b"user.dat.version"] == str(version).encode(), date
        expected = await walk(tree, await find(tree, f".dat/versions/{version}"))
        assert bare(await walk(tree, entry)) == bare(expected)
    for date in ("2019-12-31", "yesterday", "2020-01-32"):
        with pytest.raises(NotFound):
            await find(tree, f".dat/at/{date}")


async def test_the_history_of_files() -> None:
    """Every version of a file under a name that sorts and keeps the ending; deleted files and folders too."""
    tree = await travel(a_history())
    assert await names(tree, ".dat/history") == ["LICENSE", "a.tar.gz", "docs"]
    assert await names(tree, ".dat/history/docs") == ["read.me"]
    assert await names(tree, ".dat/history/a.tar.gz") == [
        "000001-2020-01-01T00.00.00Z.gz",
        "000003-2020-01-02T00.00.00Z.gz",
        "000007-2020-01-05T00.00.00Z.gz",
    ]
    assert await names(tree, ".dat/history/LICENSE") == ["000008-2020-01-06T00.00.00Z"]
    listed = await tree.list(await find(tree, ".dat/history/a.tar.gz"))
    assert [(await read(tree, entry)).decode() for entry in listed] == ["first", "second", "third"]
    assert [await find(tree, f".dat/history/a.tar.gz/{entry.name.decode()}") for entry in listed] == listed
    # Made when its clock said noon of the day before: its own time is kept, its name is in order.
    late = await find(tree, ".dat/history/docs/read.me/000005-2020-01-02T00.00.00Z.me")
    assert (late.mtime_ns, await read(tree, late)) == ((JAN + DAY // 2) * 1_000_000, b"two")
    for name in ("000004-2020-01-02T00.00.00Z.gz", "1-2020-01-01T00.00.00Z.gz", "000001-", "x"):
        with pytest.raises(NotFound):
            await find(tree, f".dat/history/a.tar.gz/{name}")


async def test_a_name_that_was_a_file_and_a_folder() -> None:
    """Its history has the versions of the file and the names that were in the folder."""
    writer = DriveWriter.create(memory_storage(), key_pair(SEED))
    writer.put((b"x",), chunks_of(b"a file"), mtime=JAN)
    writer.delete((b"x",))
    writer.put((b"x", b"y"), chunks_of(b"inside"), mtime=JAN)
    writer.mkdir((b"z",), mtime=JAN)
    tree = await travel(writer)
    assert await names(tree, ".dat/history/x") == ["000001-2020-01-01T00.00.00Z", "y"]
    assert await names(tree, ".dat/history/z") == []
    assert await text(tree, ".dat/history/x/y/000003-2020-01-01T00.00.00Z") == "inside"


async def test_an_empty_drive() -> None:
    """No version, no day, no name, and nothing fails."""
    tree = await travel(DriveWriter.create(memory_storage(), key_pair(SEED)))
    for path in ("", ".dat/versions", ".dat/at", ".dat/latest", ".dat/history", ".dat/versions/0"):
        assert await names(tree, path) == []
    with pytest.raises(NotFound):
        await find(tree, ".dat/at/2020-01-01")


async def test_kinds_are_respected() -> None:
    """Files are not directories and directories no files, there as elsewhere."""
    tree = await travel(a_history())
    for path in (".dat/versions/1/a.tar.gz", ".dat/history/LICENSE/000008-2020-01-06T00.00.00Z", ".dat/latest/LICENSE"):
        entry = await find(tree, path)
        with pytest.raises(NotADirectory):
            await tree.lookup(entry, b"x")
        with pytest.raises(NotADirectory):
            await tree.list(entry)
    for path in (".dat", ".dat/versions", ".dat/versions/1", ".dat/history/docs", ".dat/latest"):
        with pytest.raises(IsADirectory):
            await tree.open(await find(tree, path))


async def test_a_drive_with_an_entry_of_that_name() -> None:
    """Ours hides it in the root and in listings; it is reached through latest. Deeper ones are as they are."""
    writer = DriveWriter.create(memory_storage(), key_pair(SEED))
    writer.put((b".dat", b"versions"), chunks_of(b"theirs"), mtime=JAN)
    writer.put((b"d", b".dat"), chunks_of(b"deeper"), mtime=JAN)
    tree = await travel(writer)
    assert await names(tree, "/") == ["d"]
    assert await names(tree, ".dat/versions") == ["1", "2"]
    assert await text(tree, ".dat/latest/.dat/versions") == "theirs"
    assert await text(tree, ".dat/versions/1/.dat/versions") == "theirs"
    assert await text(tree, "d/.dat") == "deeper"


async def test_a_sub_directory_as_root() -> None:
    """All paths count from there; where a version does not have it, it is empty."""
    drive = local_drive(a_history())
    old = await drive.checkout(5)
    tree = await with_past(drive, old.rooted_at(await old.find((b"docs",))))
    assert await names(tree, "/") == ["read.me"]
    assert await names(tree, ".dat/versions/1") == []
    assert await text(tree, ".dat/versions/2/read.me") == "one"
    assert await names(tree, ".dat/versions/8") == []
    assert await names(tree, ".dat/latest") == []
    assert len(await names(tree, ".dat/history/read.me")) == 2
    assert await text(tree, ".dat/at/2020-01-01/read.me") == "one"
    assert tree.facts(await find(tree, ".dat/versions/2"))[b"user.dat.version"] == b"2"


async def test_an_old_version_knows_the_newest() -> None:
    """Where an old version is mounted, latest is the newest, and all versions are there."""
    tree = await travel(a_history(), 1)
    assert await names(tree, "/") == ["a.tar.gz"]
    assert await text(tree, ".dat/latest/a.tar.gz") == "third"
    assert len(await names(tree, ".dat/versions")) == 8


# --- what it costs --------------------------------------------------------------------------------------------------


async def test_a_hundred_thousand_versions() -> None:
    """A listing of them makes an entry only for what the kernel takes of it."""
    drive = local_drive(a_history())
    head = await drive.checkout()
    head.version = 100_000
    tree = TimeTravel(head)
    entries = await tree.list(await find(tree, ".dat/versions"))
    assert len(entries) == 100_000
    assert (entries[0].name, entries[-1].name) == (b"1", b"100000")
    assert [entry.name for entry in entries[5000:5002]] == [b"5001", b"5002"]


async def test_listing_fetches_metadata_only() -> None:
    """Neither names, nor dates, nor histories need a byte of content; and versions no metadata but their own."""
    writer = a_history()
    origin = CopySource(writer.metadata)
    metadata = SparseRegister(Register.open(memory_storage(), key=writer.metadata.key), origin, name="metadata")
    content = SparseRegister(
        Register.open(memory_storage(), key=writer.content.key), CopySource(writer.content), name="content"
    )
    drive = Drive(metadata, lambda key: content)
    await metadata.learn_length()
    tree = await with_past(drive, await drive.checkout())
    bits = metadata.register.data_bits
    before = bits.count(0, 9)
    assert len(await tree.list(await find(tree, ".dat/versions"))) == 8
    assert bits.count(0, 9) == before
    await find(tree, ".dat/versions/3")
    assert bits.count(0, 9) == before + 1
    for section in ("versions", "at", "latest", "history"):
        await walk(tree, await find(tree, f".dat/{section}"))
    assert not content.register.data_bits.count(0, 100)
    assert await text(tree, ".dat/versions/1/a.tar.gz") == "first"


async def test_old_trees_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many versions are walked, only a few are kept, and those that were let go are as before."""
    monkeypatch.setattr(time_travel, "TREES_KEPT", 2)
    tree = await travel(a_history())
    entry = await find(tree, ".dat/versions/1/a.tar.gz")
    for version in range(1, 9):
        await walk(tree, await find(tree, f".dat/versions/{version}"))
    assert tree.facts(entry)[b"user.dat.seq"] == b"1"
    assert await read(tree, entry) == b"first"
    assert await tree.lookup(await find(tree, ".dat/versions/1"), b"a.tar.gz") == entry


# --- inodes and attributes ------------------------------------------------------------------------------------------


async def test_one_inode_for_a_file_that_versions_have_in_common() -> None:
    """Where it did not change it is the same inode, however one comes there, but not that of the normal tree."""
    tree = await travel(a_history())
    table = InodeTable(tree.root)
    paths = [
        *(".dat/versions/1/a.tar.gz", ".dat/versions/2/a.tar.gz", ".dat/at/2020-01-01/a.tar.gz"),
        *(".dat/history/a.tar.gz/000001-2020-01-01T00.00.00Z.gz", ".dat/latest/a.tar.gz", "a.tar.gz"),
        *(".dat/versions/8/a.tar.gz", ".dat/versions/1", ".dat/versions/2", ".dat/at/2020-01-01", ".dat/versions"),
    ]
    numbers = []
    for path in paths:
        entry = await find(tree, path)
        numbers.append(table.number_of(entry))
        table.taken(numbers[-1], entry)
        assert tree.facts(entry)[b"user.dat.key"]
    assert len(set(numbers[:4])) == 1
    assert numbers[6] == numbers[4]
    assert len(set(numbers)) == 7
    # The kernel may ask by any of them.
    entry = table.entry(numbers[0])
    assert (await read(tree, entry), tree.facts(entry)[b"user.dat.seq"]) == (b"first", b"1")


async def test_facts_of_the_past() -> None:
    """Directories tell their version; files do not, since one inode stands for many."""
    tree = await travel(a_history())
    assert tree.facts(await find(tree, ".dat/versions/3"))[b"user.dat.version"] == b"3"
    assert tree.facts((await tree.list(await find(tree, ".dat/versions")))[2])[b"user.dat.version"] == b"3"
    assert tree.facts((await tree.list(await find(tree, ".dat/at")))[0])[b"user.dat.version"] == b"2"
    assert tree.facts(await find(tree, ".dat/latest"))[b"user.dat.version"] == b"8"
    for path in (".dat", ".dat/versions", ".dat/at", ".dat/history", ".dat/history/docs"):
        assert list(tree.facts(await find(tree, path))) == [b"user.dat.key"]
    for path in (
        ".dat/versions/3/a.tar.gz",
        ".dat/latest/a.tar.gz",
        ".dat/history/LICENSE/000008-2020-01-06T00.00.00Z",
    ):
        facts = tree.facts(await find(tree, path))
        assert facts[b"user.dat.availability"] == b"here"
        assert b"user.dat.version" not in facts


# --- a drive that grows ---------------------------------------------------------------------------------------------


class Following:
    """A tree whose updates are gathered, with a copy of the drive behind it."""

    def __init__(self, writer: DriveWriter, version: int | None = None) -> None:
        self.writer = writer
        self.version = version
        self.updates: list[Update] = []
        self.metadata = SparseRegister(writer.metadata, NoSource("alone"), name="metadata")
        content = SparseRegister(writer.content, NoSource("alone"), name="content")
        self.drive = Drive(self.metadata, lambda key: content)

    async def start(self, nursery: trio.Nursery) -> TimeTravel:
        tree = await with_past(self.drive, await self.drive.checkout(self.version))

        async def deliver(update: Update) -> None:
            self.updates.append(update)

        async def follow() -> None:
            await tree.follow(deliver, pinned=self.version is not None)

        nursery.start_soon(follow)
        await trio.testing.wait_all_tasks_blocked()
        return tree

    async def put(self, path: str, data: bytes, mtime: int) -> tuple[FileTree, set[str]]:
        """The update that a new version brings: the tree, and the paths that changed."""
        self.writer.put(tuple(path.encode().split(b"/")), chunks_of(data), mtime=mtime)
        self.metadata.appended(self.writer.version)
        await trio.testing.wait_all_tasks_blocked()
        update = self.updates[-1]
        assert update.changed is not None
        return update.tree, {"/".join(name.decode() for name in path) for path in update.changed}


async def test_new_versions_appear() -> None:
    """latest follows, and the kernel is told of every name that means something else now, and of no other."""
    async with trio.open_nursery() as nursery:
        following = Following(a_history())
        tree = await following.start(nursery)
        for missed in ("9", "12"):
            with pytest.raises(NotFound):
                await find(tree, f".dat/versions/{missed}")
        assert await names(tree, ".dat/at/2030-01-01") == ["LICENSE", "a.tar.gz"]
        assert await names(tree, ".dat/at/2020-01-01") == ["a.tar.gz", "docs"]
        newer, changed = await following.put("docs/new", b"new", JAN + 6 * DAY)
        assert changed == {
            *("docs/new", ".dat/latest/docs/new", ".dat/history/docs/new", ".dat/versions/9", ".dat/at/2030-01-01"),
        }
        assert await text(newer, ".dat/latest/docs/new") == "new"
        assert await text(newer, ".dat/at/2030-01-01/docs/new") == "new"
        assert await text(newer, ".dat/versions/9/docs/new") == "new"
        assert await names(newer, ".dat/history/docs/new") == ["000009-2020-01-07T00.00.00Z"]
        assert (await names(newer, ".dat/at"))[-1] == "2020-01-07"
        newer, changed = await following.put("LICENSE", b"other", JAN + 6 * DAY)
        assert changed == {
            *("LICENSE", ".dat/latest/LICENSE", ".dat/history/LICENSE", ".dat/versions/10", ".dat/at/2030-01-01"),
        }
        nursery.cancel_scope.cancel()


async def test_a_pinned_tree_stays_and_its_past_grows() -> None:
    """What is shown stays the old version, and is not told of as changed; below .dat the newest appears."""
    async with trio.open_nursery() as nursery:
        following = Following(a_history(), 2)
        await following.start(nursery)
        newer, changed = await following.put("new", b"new", JAN + 6 * DAY)
        assert changed == {".dat/latest/new", ".dat/history/new", ".dat/versions/9"}
        assert await names(newer, "/") == ["a.tar.gz", "docs"]
        assert await text(newer, ".dat/latest/new") == "new"
        nursery.cancel_scope.cancel()


# --- content that nobody has ----------------------------------------------------------------------------------------


def with_content(writer: DriveWriter, *held: int) -> ScriptedPeer:
    """A peer that has all metadata and some chunks of content."""
    return ScriptedPeer([writer.metadata, writer.content], held=lambda index: index in held)


async def test_content_that_nobody_has_any_more(autojump_clock: trio.testing.MockClock) -> None:
    """Once all peers told, opening says Gone and the attribute says so before; what they have is read."""
    writer = a_history()
    async with drive_of(writer, with_content(writer, 1, 4, 5), with_content(writer, 4)) as (drive, _, _):
        tree = await with_past(drive, await drive.checkout())
        gone, kept = await find(tree, ".dat/versions/1/a.tar.gz"), await find(tree, ".dat/versions/2/docs/read.me")
        await trio.sleep(5)
        assert tree.facts(gone)[b"user.dat.availability"] == b"gone"
        assert tree.facts(kept)[b"user.dat.availability"] == b"peers"
        before = trio.current_time()
        with pytest.raises(Gone, match="nobody has the content"):
            await tree.open(gone)
        assert trio.current_time() == before
        assert await read(tree, kept) == b"one"


async def test_the_same_of_an_old_version_that_was_asked_for(autojump_clock: trio.testing.MockClock) -> None:
    """``datfs cat LINK+1`` and ``mount LINK+1``; the newest version waits, as what is missing may be on its way."""
    writer = a_history()
    async with drive_of(writer, with_content(writer)) as (drive, _, _):
        await trio.sleep(5)
        old = await with_past(drive, await drive.checkout(1))
        before = trio.current_time()
        with pytest.raises(Gone, match="nobody has the content"):
            await old.open(await find(old, "a.tar.gz"))
        newest = await drive.checkout(drive.version)
        file = await newest.open(await newest.find((b"LICENSE",)))
        assert trio.current_time() == before
        with trio.move_on_after(60) as scope:
            await file.read(0, 1)
        assert scope.cancelled_caught


async def test_a_reader_waits_until_all_have_told(autojump_clock: trio.testing.MockClock) -> None:
    """While a peer may still have it nobody says Gone; a reader who waits learns it when the last one lost it."""
    writer = DriveWriter.create(memory_storage(), key_pair(SEED))
    writer.put((b"f",), chunks_of(b"1" * 100_000), mtime=JAN)
    writer.put((b"f",), chunks_of(b"2"), mtime=JAN)

    def only_metadata(register: Register, request: Request) -> list[Message]:
        return honest(register, request) if register is writer.metadata else []

    silent = ScriptedPeer([writer.metadata, writer.content], only_metadata)
    async with drive_of(writer, silent) as (drive, swarm, _):
        tree = await with_past(drive, await drive.checkout())
        entry = await find(tree, ".dat/versions/1/f")
        file = await tree.open(entry)
        with trio.move_on_after(8) as scope:
            await file.read(0, 10)
        assert scope.cancelled_caught
        failed: list[Exception] = []

        async def reader() -> None:
            try:
                await file.read(0, 10)
            except Unavailable as error:
                failed.append(error)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(reader)
            await trio.sleep(1)
            assert not failed
            (session,) = swarm.sessions
            for peer in session.downloads:
                if peer.register is drive.content:
                    peer.on_unhave(Unhave(0, 3), trio.current_time())
        assert isinstance(failed[0], Gone)
        # The newest version is not the past: its readers wait for who may come.
        newest = await tree.open(await find(tree, "f"))
        with trio.move_on_after(8) as scope:
            await newest.read(0, 1)
        assert scope.cancelled_caught
