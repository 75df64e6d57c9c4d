"""FUSE requests over a tree in memory, without the kernel: errnos, counts, attributes, deadlines, the end."""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Awaitable, Iterator
from types import SimpleNamespace
from typing import cast

import pyfuse3
import pytest
import trio
import trio.testing
from pyfuse3 import EntryAttributes, FUSEError, ReaddirToken, RequestContext

from datfs import errors, fuse_ops
from datfs.activity import Failure
from datfs.appearance import Appearance
from datfs.errnos import ERRNOS, known_errno
from datfs.fuse_ops import HOPELESS_SECONDS, Operations
from datfs.handles import ECHO_SECONDS
from datfs.signals import Look
from datfs.vfs import Entry, Kind, Update
from tests.memory_tree import MTIME_NS, MemoryFile, MemoryTree, noise

CTX = cast(RequestContext, SimpleNamespace(pid=0))  # of nobody
TOKEN = cast(ReaddirToken, None)
TIMEOUT = 30.0


def small_tree() -> MemoryTree:
    return MemoryTree(
        {
            "a.txt": b"hello",
            "empty": b"",
            "d/inner.txt": MemoryFile(noise(1, 1000), permissions=0o4755),
            "d/e/": b"",
            "gone.bin": MemoryFile(noise(2, 1000), present=100),
        }
    )


@pytest.fixture
def tree() -> MemoryTree:
    return small_tree()


@pytest.fixture
def ops(tree: MemoryTree) -> Operations:
    return Operations(tree, timeout=TIMEOUT, appearance=Appearance(uid=12, gid=34))


async def refused(request: Awaitable[object]) -> int:
    """The errno with which a request fails."""
    with pytest.raises(FUSEError) as caught:
        await request
    return caught.value.errno


async def inode_of(ops: Operations, path: str) -> int:
    number = 1
    for name in path.split("/"):
        number = (await ops.lookup(number, name.encode(), CTX)).st_ino
        assert number
    return number


async def open_file(ops: Operations, path: str) -> pyfuse3.FileInfo:
    return await ops.open(await inode_of(ops, path), os.O_RDONLY, CTX)


class Listing:
    """Stands for pyfuse3's reply buffer, with room for some entries. ``dots``: what it was told of . and .."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.entries: list[tuple[bytes, int, int]] = []
        self.dots: list[tuple[bytes, int, int]] = []

    def reply(self, token: ReaddirToken, name: bytes, attr: EntryAttributes, next_id: int) -> bool:
        if len(self.entries) >= self.room:
            return False
        (self.dots if name in (b".", b"..") else self.entries).append((name, attr.st_ino, next_id))
        return True


async def list_some(
    ops: Operations, handle: int, start: int, room: int, monkeypatch: pytest.MonkeyPatch
) -> list[tuple[bytes, int, int]]:
    listing = Listing(room)
    monkeypatch.setattr(pyfuse3, "readdir_reply", listing.reply)
    await ops.readdir(handle, start, TOKEN)
    return listing.entries


# Errors


def all_errors(kind: type[errors.DatfsError]) -> Iterator[type[errors.DatfsError]]:
    for child in kind.__subclasses__():
        if child.__module__ == "datfs.errors":
            yield child
            yield from all_errors(child)


def test_every_exception_has_an_errno() -> None:
    """No class of datfs.errors is without a row of its own or of its branch in the table."""
    kinds = list(all_errors(errors.DatfsError))
    assert len(kinds) > 15
    without = [kind.__name__ for kind in kinds if not any(base in ERRNOS for base in kind.__mro__)]
    assert without == []
    assert all(kind in ERRNOS for kind in errors.DatfsError.__subclasses__() if kind in kinds)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.NotFound("x"), errno.ENOENT),
        (errors.NotADirectory("x"), errno.ENOTDIR),
        (errors.IsADirectory("x"), errno.EISDIR),
        (errors.ReadOnly("x"), errno.EROFS),
        (errors.TimedOut("x"), errno.ETIMEDOUT),
        (errors.NoPeers("x"), errno.EHOSTUNREACH),
        (errors.Busy("x"), errno.EBUSY),
        (errors.Closed("x"), errno.ECONNABORTED),
        (errors.CorruptStorage("x"), errno.EIO),
        (errors.ForkedRegister("x"), errno.EIO),
        (errors.BadMetadata("x"), errno.EIO),
        (errors.BadProof(3, "x"), errno.EIO),
        (trio.TooSlowError(), errno.ETIMEDOUT),
        (OSError(errno.ENOSPC, "full"), errno.ENOSPC),
        (OSError("no number"), errno.EIO),
        (ExceptionGroup("g", [ValueError(), ExceptionGroup("h", [errors.NoPeers("x")])]), errno.EHOSTUNREACH),
        (ValueError("bug"), None),
        (ExceptionGroup("g", [ValueError()]), None),
    ],
)
def test_the_table_of_errnos(error: BaseException, code: int | None) -> None:
    """Each expected exception tells its errno, also inside groups; others are not expected."""
    assert known_errno(error) == code


async def test_a_bug_is_eio_and_logged_with_its_traceback_once(
    ops: Operations, tree: MemoryTree, caplog: pytest.LogCaptureFixture
) -> None:
    """An unexpected exception never leaves a handler, and says where it came from, once."""

    def bug(operation: str, path: tuple[bytes, ...]) -> None:
        raise ZeroDivisionError("a bug")

    tree.trouble = bug
    for _ in range(2):
        assert await refused(ops.lookup(1, b"a.txt", CTX)) == errno.EIO
    told = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert [bool(record.exc_info) for record in told] == [True, False]
    assert "a bug" in told[0].getMessage()


async def test_broken_data_is_logged_in_one_line(
    ops: Operations, tree: MemoryTree, caplog: pytest.LogCaptureFixture
) -> None:
    """EIO of a known cause says which, without a traceback."""
    tree.file("gone.bin").failure = errors.CorruptStorage("content.data is wrong at 7")
    opened = await open_file(ops, "gone.bin")
    assert await refused(ops.read(opened.fh, 500, 10)) == errno.EIO
    assert [record.getMessage() for record in caplog.records] == ["read: content.data is wrong at 7"]
    assert caplog.records[0].exc_info is None


async def test_cancellation_passes(ops: Operations, tree: MemoryTree) -> None:
    """The guard does not turn a cancelled handler into an error."""
    opened = await open_file(ops, "gone.bin")
    with trio.move_on_after(0.01) as scope:
        await ops.read(opened.fh, 500, 10)
    assert scope.cancelled_caught
    assert ops.waiting == 0


# Attributes


async def test_attributes_of_a_file(ops: Operations) -> None:
    """Size and blocks of the whole file, the owner of the mount, the drive's permissions and times."""
    attr = await ops.lookup(await inode_of(ops, "d"), b"inner.txt", CTX)
    assert stat.S_ISREG(attr.st_mode)
    assert stat.S_IMODE(attr.st_mode) == 0o555  # no set-uid
    assert (attr.st_size, attr.st_blocks, attr.st_blksize) == (1000, 2, 65536)
    assert (attr.st_uid, attr.st_gid, attr.st_nlink) == (12, 34, 1)
    assert (attr.st_mtime_ns, attr.st_ctime_ns, attr.st_atime_ns) == (MTIME_NS, MTIME_NS, MTIME_NS)
    assert attr.entry_timeout >= 300
    assert attr.attr_timeout >= 300


async def test_attributes_of_a_directory(ops: Operations) -> None:
    """A link count of 1: the subdirectories were not counted."""
    attr = await ops.getattr(1, CTX)
    assert stat.S_ISDIR(attr.st_mode)
    assert (attr.st_size, attr.st_nlink, attr.st_ino) == (0, 1, 1)


@pytest.mark.parametrize("number", [-(2**70), -1, 2**62, 2**63, 2**70])
def test_impossible_figures_are_cut(number: int) -> None:
    """Nothing in an entry can make the binding fail, which would end the mount."""
    entry = Entry((b"x",), Kind.FILE, number, 0o177777, number, number, (b"x", 1))
    attr = Appearance(0, 0).attributes(entry, 2)
    assert 0 <= attr.st_size < 2**63
    assert stat.S_IMODE(attr.st_mode) == 0o555
    assert stat.S_ISREG(attr.st_mode)
    assert attr.st_mtime_ns >= 0


def test_umask_takes_bits_away() -> None:
    """umask= hides permission bits of every entry."""
    entry = Entry((b"x",), Kind.FILE, 1, 0o666, 1, 1, (b"x", 1))
    assert stat.S_IMODE(Appearance(0, 0, umask=0o222).attributes(entry, 2).st_mode) == 0o444


# Names


async def test_lookups_are_counted_and_given_back(ops: Operations) -> None:
    """Each lookup is one reference; with the last one given back the number is unknown."""
    number = await inode_of(ops, "a.txt")
    await ops.lookup(1, b"a.txt", CTX)
    assert ops.inodes.count(number) == 2
    await ops.getattr(number, CTX)
    await ops.open(number, os.O_RDONLY, CTX)
    assert ops.inodes.count(number) == 2
    await ops.forget([(number, 2)])
    assert await refused(ops.getattr(number, CTX)) == errno.ESTALE


async def test_a_missing_name_is_cached_and_not_counted(ops: Operations) -> None:
    """A lookup of nothing answers inode 0 with a timeout, which the kernel keeps."""
    attr = await ops.lookup(1, b"no such name", CTX)
    assert attr.st_ino == 0
    assert attr.entry_timeout >= 300
    assert len(ops.inodes) == 1


async def test_a_name_in_a_file_and_a_name_too_long(ops: Operations) -> None:
    """ENOTDIR and ENAMETOOLONG, as on any file system."""
    assert await refused(ops.lookup(await inode_of(ops, "a.txt"), b"x", CTX)) == errno.ENOTDIR
    assert await refused(ops.lookup(1, b"x" * 256, CTX)) == errno.ENAMETOOLONG


async def test_forget_never_fails(ops: Operations, caplog: pytest.LogCaptureFixture) -> None:
    """A wrong count is logged, the rest of the list is taken back, and nothing is raised."""
    number = await inode_of(ops, "a.txt")
    await ops.forget([(999, 1), (number, 1)])
    assert ops.inodes.count(number) == 0
    assert "999" in caplog.text


async def test_a_new_version_is_a_new_inode_and_old_handles_stay(ops: Operations, tree: MemoryTree) -> None:
    """An open handle gives the content it was opened on, also after the file changed."""
    number = await inode_of(ops, "a.txt")
    opened = await ops.open(number, os.O_RDONLY, CTX)
    tree.add("a.txt", MemoryFile(b"HELLO, longer", version=2))
    assert await inode_of(ops, "a.txt") != number
    assert await ops.read(opened.fh, 0, 100) == b"hello"
    assert (await ops.getattr(number, CTX)).st_size == 5


# Directories


async def test_a_listing_in_pieces(ops: Operations, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every name once, each counted exactly if it was taken; ids go on where they ended."""
    handle = await ops.opendir(1, CTX)
    first = await list_some(ops, handle, 0, 3, monkeypatch)
    assert [entry[2] for entry in first] == [3, 4, 5]
    assert len(ops.inodes) == 4
    rest = await list_some(ops, handle, 5, 99, monkeypatch)
    names = [entry[0] for entry in first + rest]
    assert sorted(names) == [b"a.txt", b"d", b"empty", b"gone.bin"]
    assert all(ops.inodes.count(number) == 1 for _, number, _ in first + rest)
    assert await list_some(ops, handle, 6, 99, monkeypatch) == []
    await ops.releasedir(handle)
    assert ops.open_handles == 0


async def test_a_listing_has_itself_and_its_parent(ops: Operations, monkeypatch: pytest.MonkeyPatch) -> None:
    """. and .. come first, in pieces too, with their numbers; the kernel takes no references for them."""
    folder = await inode_of(ops, "d")
    handle = await ops.opendir(folder, CTX)
    listing = Listing(99)
    monkeypatch.setattr(pyfuse3, "readdir_reply", listing.reply)
    await ops.readdir(handle, 0, TOKEN)
    assert listing.dots == [(b".", folder, 1), (b"..", 1, 2)]
    listing.dots.clear()
    await ops.readdir(handle, 1, TOKEN)
    assert listing.dots == [(b"..", 1, 2)]
    assert ops.inodes.count(folder) == 1
    assert len({next_id for _, _, next_id in listing.entries}) == len(listing.entries) // 2 > 0
    monkeypatch.setattr(pyfuse3, "readdir_reply", lambda *arguments: False)
    await ops.readdir(handle, 0, TOKEN)
    root = await ops.opendir(1, CTX)
    listing = Listing(99)
    monkeypatch.setattr(pyfuse3, "readdir_reply", listing.reply)
    await ops.readdir(root, 0, TOKEN)
    assert listing.dots == [(b".", 1, 1), (b"..", 1, 2)]


async def test_a_listing_can_begin_again(ops: Operations, monkeypatch: pytest.MonkeyPatch) -> None:
    """rewinddir and seekdir come back with old ids; numbers are the same, references are counted again."""
    handle = await ops.opendir(1, CTX)
    once = await list_some(ops, handle, 0, 99, monkeypatch)
    again = await list_some(ops, handle, 0, 99, monkeypatch)
    assert again == once
    assert await list_some(ops, handle, 4, 1, monkeypatch) == once[2:3]
    assert ops.inodes.count(once[2][1]) == 3


async def test_changes_do_not_reach_an_open_listing(
    ops: Operations, tree: MemoryTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that appears between two calls neither repeats nor skips another."""
    handle = await ops.opendir(1, CTX)
    first = await list_some(ops, handle, 0, 2, monkeypatch)
    tree.add("0 new", b"")
    rest = await list_some(ops, handle, 4, 99, monkeypatch)
    assert len({entry[0] for entry in first + rest}) == 4


@pytest.mark.expect_log("release(dir)? failed: KeyError")
async def test_odd_ids_and_handles_do_no_harm(ops: Operations, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids beyond the end list nothing; releasing what is not open is not an error to anybody."""
    handle = await ops.opendir(1, CTX)
    assert await list_some(ops, handle, 10**12, 99, monkeypatch) == []
    await ops.releasedir(12345)
    await ops.release(12345)


async def test_opening_a_file_as_directory_and_the_other_way_round(ops: Operations) -> None:
    """ENOTDIR and EISDIR."""
    assert await refused(ops.opendir(await inode_of(ops, "a.txt"), CTX)) == errno.ENOTDIR
    assert await refused(ops.open(await inode_of(ops, "d"), os.O_RDONLY, CTX)) == errno.EISDIR


# Reading


async def test_a_local_read_does_not_wait(ops: Operations, tree: MemoryTree) -> None:
    """What is here comes from read_nowait alone, and is cut at the end of the file."""
    opened = await open_file(ops, "a.txt")
    assert await ops.read(opened.fh, 1, 3) == b"ell"
    assert await ops.read(opened.fh, 3, 100) == b"lo"
    assert await ops.read(opened.fh, 5, 100) == b""
    assert await ops.read(opened.fh, 10**12, 100) == b""
    assert tree.opened[0].waited_reads == 0


async def test_a_read_of_what_is_missing_waits_for_all_of_it(ops: Operations, tree: MemoryTree) -> None:
    """No short answer: a range that is partly here is given whole once the rest arrives."""
    opened = await open_file(ops, "gone.bin")
    answers: list[bytes] = []

    async def reader() -> None:
        answers.append(await ops.read(opened.fh, 50, 500))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(reader)
        await trio.testing.wait_all_tasks_blocked()
        assert answers == []
        assert ops.waiting == 1
        tree.file("gone.bin").arrives.set()
    assert answers == [noise(2, 1000)[50:550]]
    assert ops.waiting == 0


@pytest.mark.expect_log("100 bytes came for 500 at offset 900")
async def test_a_short_answer_of_the_tree_is_an_error(ops: Operations, tree: MemoryTree) -> None:
    """The kernel would cut the file at a short answer; EIO instead."""
    file = tree.file("gone.bin")
    file.claimed_size = 2000
    opened = await open_file(ops, "gone.bin")
    file.arrives.set()
    assert await refused(ops.read(opened.fh, 900, 500)) == errno.EIO


async def test_complete_files_are_cached_and_incomplete_ones_read_directly(ops: Operations) -> None:
    """Incomplete files go round the page cache, unless its limit of waiting reads was raised."""
    complete, incomplete = await open_file(ops, "a.txt"), await open_file(ops, "gone.bin")
    assert (complete.keep_cache, complete.direct_io) == (True, False)
    assert (incomplete.keep_cache, incomplete.direct_io) == (True, True)
    ops.buffer_incomplete = True
    incomplete = await open_file(ops, "gone.bin")
    assert (incomplete.keep_cache, incomplete.direct_io) == (True, False)


async def test_release_closes_the_file_once(ops: Operations, tree: MemoryTree) -> None:
    """The tree's file is closed at release, and at the end if there was none."""
    first, _ = await open_file(ops, "a.txt"), await open_file(ops, "empty")
    await ops.release(first.fh)
    assert [file.closed for file in tree.opened] == [1, 0]
    ops.let_go()
    assert [file.closed for file in tree.opened] == [1, 1]
    assert ops.open_handles == 0


async def test_the_tree_hears_who_begins_to_read(tree: MemoryTree) -> None:
    """It may fetch what comes next, but not for a program for which nothing is fetched."""
    for programs in ((), {CTX.pid}):
        operations = Operations(tree, timeout=TIMEOUT, is_denied=programs.__contains__)
        await open_file(operations, "a.txt")
    assert [file.begun for file in tree.opened] == [1, 0]


async def test_writing_is_refused(ops: Operations) -> None:
    """EROFS for every change, should the kernel ever ask."""
    number = await inode_of(ops, "a.txt")
    assert await refused(ops.open(number, os.O_RDWR, CTX)) == errno.EROFS
    assert await refused(ops.open(number, os.O_WRONLY, CTX)) == errno.EROFS
    assert await refused(ops.mkdir(1, b"x", 0o755, CTX)) == errno.EROFS
    assert await refused(ops.create(1, b"x", 0o644, os.O_WRONLY, CTX)) == errno.EROFS
    assert await refused(ops.unlink(1, b"a.txt", CTX)) == errno.EROFS
    assert await refused(ops.rename(1, b"a.txt", 1, b"b", 0, CTX)) == errno.EROFS
    assert await refused(ops.setxattr(number, b"user.x", b"", CTX)) == errno.EROFS


async def test_extended_attributes(ops: Operations) -> None:
    """The tree's facts; other names are absent, and those of the system are not supported at all."""
    number = await inode_of(ops, "a.txt")
    assert await ops.getxattr(number, b"user.test.size", CTX) == b"5"
    assert await ops.listxattr(number, CTX) == [b"user.test.size"]
    assert await refused(ops.getxattr(number, b"user.none", CTX)) == errno.ENODATA
    assert await refused(ops.getxattr(number, b"system.posix_acl_access", CTX)) == errno.EOPNOTSUPP


# A newer version


async def test_a_newer_version_tells_which_names_to_forget(ops: Operations) -> None:
    """Names that differ, in directories the kernel knows, with the directories that a new path brings."""
    d = await inode_of(ops, "d")
    await inode_of(ops, "d/e")
    newer = MemoryTree({"a.txt": b"other", "d/new/deep/x": b"x", "d/e/": b"", "d/inner.txt": b"inner"})
    changed = [(b"a.txt",), (b"d", b"new", b"deep", b"x"), (b"unknown", b"y")]
    names, directories = ops.replace(Update(newer, changed))
    assert names == {(1, b"a.txt"), (1, b"d"), (d, b"new"), (1, b"unknown")}
    assert directories == {1, d}
    assert (await ops.lookup(1, b"a.txt", CTX)).st_size == 5
    assert (await ops.lookup(d, b"new", CTX)).st_ino


async def test_directories_that_last_are_not_forgotten(ops: Operations) -> None:
    """Their attributes are asked for again, but not their names, with which the kernel would forget all below."""
    d = await inode_of(ops, "d")
    newer = MemoryTree({"d/new": b"x"})
    names, directories = ops.replace(Update(newer, [(b"d", b"new")], {(b"d",)}))
    assert names == {(d, b"new")}
    assert directories == {1, d}


async def test_an_unknown_difference_forgets_all_directories(ops: Operations, tree: MemoryTree) -> None:
    """When what changed is not known, every directory that the kernel knows is asked for again."""
    d, e = await inode_of(ops, "d"), await inode_of(ops, "d/e")
    names, directories = ops.replace(Update(tree, None))
    assert names == {(1, b"d"), (d, b"e")}
    assert directories == {1, d, e}


async def test_a_lookup_that_waited_through_an_update_tells_the_new_version(
    ops: Operations, tree: MemoryTree, autojump_clock: trio.testing.MockClock
) -> None:
    """The kernel keeps what it is told: an answer of the version before would stay."""
    tree.hold_names = trio.Event()
    found: list[int] = []

    async def ask() -> None:
        found.append((await ops.lookup(1, b"fresh", CTX)).st_ino)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await trio.sleep(0.1)
        ops.replace(Update(MemoryTree({"fresh": b"new"}), [(b"fresh",)]))
        tree.hold_names.set()
    assert found[0] != 0


async def test_a_listing_of_an_older_version_is_not_kept(ops: Operations, monkeypatch: pytest.MonkeyPatch) -> None:
    """An open directory lists its snapshot to the end, but the kernel is told not to keep those names.

    Read from the beginning again, it lists what is there now.
    """
    told: list[tuple[bytes, float]] = []
    fits = 3

    def reply(token: ReaddirToken, name: bytes, attr: EntryAttributes, next_id: int) -> bool:
        if next_id > fits:
            return False
        told.append((name, attr.entry_timeout))
        return True

    monkeypatch.setattr(pyfuse3, "readdir_reply", reply)
    handle = await ops.opendir(1, CTX)
    await ops.readdir(handle, 0, TOKEN)
    assert min(seconds for _, seconds in told) > 60
    ops.replace(Update(MemoryTree({"other": b""}), [(b"other",)]))
    before, fits = len(told), 100
    await ops.readdir(handle, 3, TOKEN)
    assert len({name for name, _ in told}) == 6
    assert {seconds for _, seconds in told[before:]} == {0}
    told.clear()
    await ops.readdir(handle, 0, TOKEN)
    assert [name for name, _ in told] == [b".", b"..", b"other"]
    assert min(seconds for _, seconds in told) > 60


async def test_statfs(ops: Operations, tree: MemoryTree) -> None:
    """What is known of the tree, nothing free, long names allowed to 255."""
    data = await ops.statfs(CTX)
    assert data.f_blocks * data.f_frsize >= tree.stats().bytes
    assert (data.f_files, data.f_bfree, data.f_bavail, data.f_namemax) == (4, 0, 0, 255)


# Deadlines and the end


async def test_every_waiting_request_has_a_deadline(
    ops: Operations, tree: MemoryTree, autojump_clock: trio.testing.MockClock
) -> None:
    """Lookup, readdir, open and read end with ETIMEDOUT after the timeout, and not before; opendir does not wait."""
    number = await inode_of(ops, "a.txt")
    opened = await open_file(ops, "gone.bin")
    tree.hold_names = trio.Event()
    began = trio.current_time()
    handle = await ops.opendir(1, CTX)
    assert trio.current_time() == began
    for request in (
        ops.lookup(1, b"empty", CTX),
        ops.readdir(handle, 0, TOKEN),
        ops.open(number, os.O_RDONLY, CTX),
        ops.read(opened.fh, 500, 10),
    ):
        began = trio.current_time()
        assert await refused(request) == errno.ETIMEDOUT
        assert trio.current_time() - began == pytest.approx(TIMEOUT)


@pytest.fixture
def somebody_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits for a name, somebody who waits for it too was sent a signal."""
    monkeypatch.setattr(Look, "somebody_waits_for_a_name", lambda look: True)


@pytest.mark.usefixtures("somebody_behind")
async def test_a_name_that_others_wait_for_gets_a_stand_in(
    ops: Operations, tree: MemoryTree, autojump_clock: trio.testing.MockClock
) -> None:
    """It is nothing that can be used or kept; who asks what it is waits on and is sent back."""
    tree.hold_names = trio.Event()
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ops.watch)
        names = [await ops.lookup(1, name, CTX) for name in (b"empty", b"nothing", b"empty")]
        nursery.cancel_scope.cancel()
    assert trio.current_time() - began < TIMEOUT / 2
    assert {(name.entry_timeout, name.attr_timeout) for name in names} == {(0, 0)}
    assert len({name.st_ino for name in names}) == 3
    number = names[0].st_ino
    for request in (
        ops.lookup(number, b"below", CTX),
        ops.opendir(number, CTX),
        ops.open(number, os.O_RDONLY, CTX),
        ops.getxattr(number, b"user.dat.version", CTX),
        ops.listxattr(number, CTX),
    ):
        assert await refused(request) == errno.ESTALE
    assert await refused(ops.getattr(number, CTX)) == errno.ETIMEDOUT
    assert trio.current_time() - began == pytest.approx(TIMEOUT)
    tree.hold_names = None
    for name in names:
        assert await refused(ops.getattr(name.st_ino, CTX)) == errno.ESTALE
    assert stat.S_ISREG((await ops.lookup(1, b"empty", CTX)).st_mode)
    assert not (await ops.lookup(1, b"nothing", CTX)).st_ino
    await ops.forget([(name.st_ino, 1) for name in names])


@pytest.mark.usefixtures("somebody_behind")
async def test_a_listing_that_others_wait_behind_begins(
    ops: Operations, tree: MemoryTree, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what is known of every directory, so that the kernel lets go of its lock, twice; the rest is waited for."""
    tree.hold_names = trio.Event()
    began = trio.current_time()
    listing = Listing(99)
    monkeypatch.setattr(pyfuse3, "readdir_reply", listing.reply)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ops.watch)
        handle = await ops.opendir(1, CTX)
        for place in (0, 1):
            await ops.readdir(handle, place, TOKEN)
            assert trio.current_time() - began < TIMEOUT / 2
            assert listing.dots == [(b".", 1, 1), (b"..", 1, 2)][: place + 1]
        assert not listing.entries
        began = trio.current_time()
        assert await refused(ops.readdir(handle, 2, TOKEN)) == errno.ETIMEDOUT
        assert trio.current_time() - began == pytest.approx(TIMEOUT)
        tree.names_news += 1
        await trio.sleep(ECHO_SECONDS)
        nursery.start_soon(ops.readdir, handle, 2, TOKEN)
        await trio.sleep(1)
        tree.hold_names.set()
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert {name for name, _, _ in listing.entries} == {b"a.txt", b"empty", b"d", b"gone.bin"}


async def test_a_name_that_timed_out_fails_at_once(
    ops: Operations, tree: MemoryTree, autojump_clock: trio.testing.MockClock
) -> None:
    """For a while; others wait, and what is known is told."""
    tree.hold_names = trio.Event()
    assert await refused(ops.lookup(1, b"empty", CTX)) == errno.ETIMEDOUT
    await trio.sleep(HOPELESS_SECONDS - 1)
    ended = trio.current_time()
    assert await refused(ops.lookup(1, b"empty", CTX)) == errno.ETIMEDOUT
    assert trio.current_time() == ended
    assert await refused(ops.lookup(1, b"a.txt", CTX)) == errno.ETIMEDOUT
    assert trio.current_time() - ended == pytest.approx(TIMEOUT)
    again = trio.current_time()
    assert await refused(ops.lookup(1, b"empty", CTX)) == errno.ETIMEDOUT
    assert trio.current_time() - again == pytest.approx(TIMEOUT)
    tree.hold_names = None
    assert (await ops.lookup(1, b"empty", CTX)).st_ino


async def test_a_listing_that_timed_out_fails_at_once(
    ops: Operations, tree: MemoryTree, autojump_clock: trio.testing.MockClock
) -> None:
    """Also for the next program; a name of it is waited for."""
    tree.hold_names = trio.Event()
    first, second = await ops.opendir(1, CTX), await ops.opendir(1, CTX)
    assert await refused(ops.readdir(first, 0, TOKEN)) == errno.ETIMEDOUT
    ended = trio.current_time()
    assert await refused(ops.readdir(first, 0, TOKEN)) == errno.ETIMEDOUT
    assert await refused(ops.readdir(second, 0, TOKEN)) == errno.ETIMEDOUT
    assert trio.current_time() == ended
    assert await refused(ops.lookup(1, b"a.txt", CTX)) == errno.ETIMEDOUT
    assert trio.current_time() - ended == pytest.approx(TIMEOUT)


@pytest.mark.parametrize("when", [TIMEOUT / 2, TIMEOUT + ECHO_SECONDS / 2])
async def test_a_name_is_waited_for_again_when_something_came(
    ops: Operations, tree: MemoryTree, autojump_clock: trio.testing.MockClock, when: float
) -> None:
    """While the first one waited, or since; though not at once, as the kernel asks a second time."""

    async def comes() -> None:
        await trio.sleep(when)
        tree.names_news += 1

    tree.hold_names = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(comes)
        assert await refused(ops.lookup(1, b"empty", CTX)) == errno.ETIMEDOUT
        await trio.sleep(ECHO_SECONDS * 0.8)
        ended = trio.current_time()
        assert await refused(ops.lookup(1, b"empty", CTX)) == errno.ETIMEDOUT
        assert trio.current_time() == ended
        await trio.sleep(ECHO_SECONDS)
        again = trio.current_time()
        assert await refused(ops.lookup(1, b"empty", CTX)) == errno.ETIMEDOUT
        assert trio.current_time() - again == pytest.approx(TIMEOUT)


async def test_what_went_wrong_is_remembered(
    ops: Operations, tree: MemoryTree, autojump_clock: trio.testing.MockClock
) -> None:
    """Of files, by whatever path they are found; of names, and of what lies below them; of listings. ENOENT is none."""

    def tell(operation: str, path: tuple[bytes, ...]) -> None:
        if operation == "open" and path == (b"a.txt",):
            raise errors.Gone("nobody has it any more")

    opened = await open_file(ops, "gone.bin")
    broken, waits = await inode_of(ops, "a.txt"), tree._entry((b"gone.bin",))
    tree.trouble = tell
    assert await refused(ops.open(broken, os.O_RDONLY, CTX)) == errno.ENODATA
    await trio.sleep(2)
    assert ops.failure((b"a.txt",), tree._entry((b"a.txt",))) == Failure("nobody has it any more", 2, 0)
    assert await refused(ops.read(opened.fh, 500, 10)) == errno.ETIMEDOUT
    await trio.sleep(4)
    assert ops.failure((b"gone.bin",), waits) == Failure(f"nobody delivered within {TIMEOUT:g} s", 4, 6)
    assert not (await ops.lookup(1, b"nothing", CTX)).st_ino
    assert ops.failure((b"nothing",), None) is None
    tree.hold_names = trio.Event()
    assert await refused(ops.lookup(1, b"d", CTX)) == errno.ETIMEDOUT
    below = ops.failure((b"d", b"e"), None)
    assert below is not None
    assert (below.ago, below.in_vain) == (0, HOPELESS_SECONDS)
    assert ops.failure((b"empty",), None) is None
    assert await refused(ops.readdir(await ops.opendir(1, CTX), 0, TOKEN)) == errno.ETIMEDOUT
    assert ops.failure((), ops.tree.root) is not None


async def test_the_kernels_second_question_is_answered_at_once(
    ops: Operations, tree: MemoryTree, autojump_clock: trio.testing.MockClock
) -> None:
    """Right after a time-out of a cached read the same pages fail without a new wait, even if something came; others,
    and later, wait then.
    """
    ops.buffer_incomplete = True
    opened = await open_file(ops, "gone.bin")
    assert await refused(ops.read(opened.fh, 200, 400)) == errno.ETIMEDOUT
    tree.file("gone.bin").news += 1
    began = trio.current_time()
    assert await refused(ops.read(opened.fh, 300, 50)) == errno.ETIMEDOUT
    assert trio.current_time() == began
    assert await refused(ops.read(opened.fh, 600, 50)) == errno.ETIMEDOUT
    assert trio.current_time() - began == pytest.approx(TIMEOUT)
    tree.file("gone.bin").news += 1
    await trio.sleep(ECHO_SECONDS)
    began = trio.current_time()
    assert await refused(ops.read(opened.fh, 600, 50)) == errno.ETIMEDOUT
    assert trio.current_time() - began == pytest.approx(TIMEOUT)


async def test_on_a_slow_link_the_second_question_waits(
    ops: Operations, tree: MemoryTree, autojump_clock: trio.testing.MockClock
) -> None:
    """What is late may only be what the kernel reads ahead: if something came, the page itself gets its time."""
    ops.buffer_incomplete = True
    opened = await open_file(ops, "gone.bin")

    async def something_comes() -> None:
        await trio.sleep(TIMEOUT / 2)
        tree.file("gone.bin").progress += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(something_comes)
        assert await refused(ops.read(opened.fh, 200, 400)) == errno.ETIMEDOUT
    began = trio.current_time()
    assert await refused(ops.read(opened.fh, 300, 50)) == errno.ETIMEDOUT
    assert trio.current_time() - began == pytest.approx(TIMEOUT)
    assert await refused(ops.read(opened.fh, 300, 50)) == errno.ETIMEDOUT
    assert trio.current_time() - began == pytest.approx(TIMEOUT)


async def test_a_file_that_failed_fails_fast(
    ops: Operations, tree: MemoryTree, autojump_clock: trio.testing.MockClock
) -> None:
    """After a time-out other readers of the file are told at once, until something came or some seconds are over."""
    tree.add("other.bin", MemoryFile(noise(2, 1000), present=100))
    first, second = await open_file(ops, "gone.bin"), await open_file(ops, "gone.bin")
    other = await open_file(ops, "other.bin")

    async def waited(handle: int, offset: int) -> float:
        began = trio.current_time()
        assert await refused(ops.read(handle, offset, 50)) == errno.ETIMEDOUT
        return trio.current_time() - began

    assert await waited(first.fh, 200) == pytest.approx(TIMEOUT)
    assert await waited(second.fh, 700) == 0
    assert await ops.read(second.fh, 0, 50) == noise(2, 1000)[:50]
    await trio.sleep(fuse_ops.HOPELESS_SECONDS / 2)
    assert await waited(second.fh, 200) == 0
    await trio.sleep(fuse_ops.HOPELESS_SECONDS / 2)
    # The quick failures did not make it longer.
    assert await waited(second.fh, 200) == pytest.approx(TIMEOUT)
    assert await waited(other.fh, 200) == pytest.approx(TIMEOUT)
    tree.file("gone.bin").news += 1
    assert await waited(first.fh, 700) == pytest.approx(TIMEOUT)
    tree.file("gone.bin").arrive()
    assert await ops.read(first.fh, 700, 50) == noise(2, 1000)[700:750]


async def test_too_many_waiting_reads_are_refused_and_names_still_answered(
    ops: Operations, tree: MemoryTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the bound a read fails with EBUSY at once; lookups, local reads and attributes go on."""
    monkeypatch.setattr(fuse_ops, "WAITING_READS", 5)
    opened, local = await open_file(ops, "gone.bin"), await open_file(ops, "a.txt")
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(ops.read, opened.fh, 500, 10)
        await trio.testing.wait_all_tasks_blocked()
        assert await refused(ops.read(opened.fh, 500, 10)) == errno.EBUSY
        assert await ops.read(local.fh, 0, 5) == b"hello"
        assert (await ops.lookup(1, b"empty", CTX)).st_ino
        tree.file("gone.bin").arrives.set()
    assert ops.waiting == 0


async def test_the_workers_never_run_out() -> None:
    """All requests that may wait together leave workers over for those that do not."""
    assert fuse_ops.WAITING_READS < fuse_ops.WAITING_ANY < fuse_ops.MAX_TASKS


async def test_close_ends_all_waits(ops: Operations, tree: MemoryTree) -> None:
    """Waiting requests, and later ones that would wait, fail with ECONNABORTED; local reads still work."""
    opened, local = await open_file(ops, "gone.bin"), await open_file(ops, "a.txt")
    tree.hold_names = trio.Event()
    codes: list[int] = []

    async def waits(request: Awaitable[object]) -> None:
        codes.append(await refused(request))

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(waits, ops.read(opened.fh, 500, 10))
            nursery.start_soon(waits, ops.lookup(1, b"d", CTX))
            await trio.testing.wait_all_tasks_blocked()
            ops.close()
    assert codes == [errno.ECONNABORTED] * 2
    assert await refused(ops.read(opened.fh, 500, 10)) == errno.ECONNABORTED
    assert await ops.read(local.fh, 0, 5) == b"hello"
    ops.close()
