"""Programs of one machine share one store: the owner serves the others over Unix sockets, and tells its status."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
import trio

import datfs
from datfs import local_sockets, store_choice, why
from datfs.activity import Activity, Located
from datfs.client import OpenDrive
from datfs.drive import Drive, DriveTree
from datfs.errors import DatfsError, NoPeers, NotFound, TimedOut
from datfs.local_service import QUESTION_MOST, LocalService, ask
from datfs.local_sockets import PEER_NAME, STATUS_NAME
from datfs.mount_status import locate
from datfs.register import Register
from datfs.sources import NoSource
from datfs.sparse import SparseRegister
from datfs.status_text import why_text
from datfs.store import cache_folder, cache_store
from datfs.vfs import Entry, Kind
from tests.test_client import LINK, sharing
from tests.vector_drives import DRIVES, SIMPLE_KEY, read, walk

KEY = bytes.fromhex(SIMPLE_KEY)


async def read_all(opened: OpenDrive) -> dict[str, bytes]:
    """Every file of the newest version."""
    tree = await opened.drive.checkout()
    entries = await walk(tree)
    return {path: await read(tree, entry) for path, entry in entries.items() if entry.kind is Kind.FILE}


@pytest.fixture
async def filled(tmp_path: Path) -> Path:
    """A cache with a whole drive in it."""
    async with sharing() as (address, _):
        async with datfs.open_drive(LINK, datfs.Options(peers=[address], cache_dir=tmp_path)) as opened:
            await read_all(opened)
    return tmp_path


@asynccontextmanager
async def second(cache: Path, **more: Any) -> AsyncIterator[OpenDrive]:
    """What another program would open while the cache is owned."""
    options = datfs.Options(cache_dir=cache, share_locked=True, **more)
    async with datfs.open_drive(LINK, options) as opened:
        yield opened


@pytest.mark.parametrize("owner", [{"offline": True}, {"upload": False}, {"up": 1024}, {}])
@pytest.mark.parametrize("offline", [True, False])
async def test_the_owner_serves_others(filled: Path, owner: dict[str, Any], offline: bool) -> None:
    """Whole files, verified, with no network; also from an owner that is offline, or gives nothing to the network."""
    async with datfs.open_drive(LINK, datfs.Options(cache_dir=filled, **owner)) as first:
        expected = await read_all(first)
        with trio.fail_after(10):
            async with second(filled, offline=offline) as opened:
                assert opened.store.folder is None
                assert await read_all(opened) == expected
                assert opened.swarm is not None
                (peer,) = opened.swarm.report().connected
                assert (peer.source, peer.address) == ("owner", f"owner:{os.getpid()}")


async def test_many_at_once(filled: Path) -> None:
    """Each has its own connection, and they do not disturb each other."""
    async with datfs.open_drive(LINK, datfs.Options(cache_dir=filled, offline=True)) as first:
        expected = await read_all(first)
        found: list[dict[str, bytes]] = []

        async def one() -> None:
            async with second(filled, offline=True) as opened:
                found.append(await read_all(opened))

        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                for _ in range(8):
                    nursery.start_soon(one)
    assert found == [expected] * 8


async def test_what_the_owner_learns_the_others_get(tmp_path: Path) -> None:
    """A chunk that comes to the owner later is told to who looks in, and read."""
    async with sharing() as (address, _):
        async with datfs.open_drive(LINK, datfs.Options(peers=[address], cache_dir=tmp_path)) as first:
            async with second(tmp_path) as opened:
                tree = await opened.drive.checkout()
                got: list[bytes] = []

                async def reader() -> None:
                    got.append(await read(tree, await tree.find((b"hello.txt",))))

                with trio.fail_after(10):
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(reader)
                        await trio.sleep(0.05)
                        await read_all(first)
    assert got == [b"hello world\n"]


async def test_an_owner_that_goes_away(filled: Path) -> None:
    """Readers of the others get an error within their deadline; what they have stays readable."""
    async with datfs.open_drive(LINK, datfs.Options(cache_dir=filled, offline=True)) as first:
        async with second(filled, offline=True, timeout=5.0) as opened:
            tree = await opened.drive.checkout()
            hello = await tree.find((b"hello.txt",))
            assert await read(tree, hello) == b"hello world\n"
            big = await tree.find((b"big.bin",))
            await first.shut_down()
            with trio.fail_after(10), pytest.raises((NoPeers, TimedOut)):
                await read(tree, big)
            assert await read(tree, hello) == b"hello world\n"


async def test_an_owner_that_goes_away_while_there_are_other_peers(filled: Path) -> None:
    """They are asked from then on."""
    async with sharing() as (address, _):
        async with datfs.open_drive(LINK, datfs.Options(cache_dir=filled, offline=True)) as first:
            expected = await read_all(first)
            async with second(filled, peers=[address]) as opened:
                tree = await opened.drive.checkout()
                assert await read(tree, await tree.find((b"hello.txt",))) == b"hello world\n"
                await first.shut_down()
                with trio.fail_after(10):
                    assert await read_all(opened) == expected


async def test_who_looks_in_is_no_hope_for_the_owner(tmp_path: Path) -> None:
    """When the last peer is gone its readers are told at once, though somebody is connected who has nothing."""
    async with sharing() as (address, served):
        async with datfs.open_drive(LINK, datfs.Options(peers=[address], cache_dir=tmp_path, timeout=3600)) as first:
            async with second(tmp_path, offline=True):
                await served.shut_down()
                with trio.fail_after(20), pytest.raises(NoPeers, match="no peer can be reached"):
                    await first.drive.metadata.ensure((1,))
                assert first.swarm is not None
                assert first.swarm.sessions
                assert not first.swarm.all_told(first.drive.metadata, 2), "somebody else may have it, who is not here"
                # Who looks in does not keep others from being dialed when something is wanted.
                (known,) = first.swarm._dialer.book
                while known.state.value != "resting":
                    await trio.testing.wait_all_tasks_blocked(0.01)
                known.due = trio.current_time() + 1000
                first.swarm.wants_changed(first.drive.metadata)
                assert known.state.value == "new" or known.due < trio.current_time() + 10


async def test_an_owner_that_hangs(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes the connection and says nothing, as one that was stopped: the others show what it has written."""
    monkeypatch.setattr(store_choice, "ALIVE_SECONDS", 0.1)
    monkeypatch.setattr(store_choice, "COMING_SECONDS", 0.1)
    folder = cache_folder(KEY, filled)
    told: list[str] = []
    with ExitStack() as stack:
        stack.enter_context(cache_store(KEY, filled))
        for name in (PEER_NAME, STATUS_NAME):
            stack.enter_context(closing(local_sockets.listen(folder, name).socket))
        options = datfs.Options(cache_dir=filled, share_locked=True, offline=True)
        async with datfs.open_drive(LINK, options, notice=told.append) as opened:
            assert (await read_all(opened))["/hello.txt"] == b"hello world\n"
    assert "does not answer; showing what it has written" in told[0]


async def test_an_owner_that_ends_just_now(filled: Path, autojump_clock: trio.testing.MockClock) -> None:
    """The lock without a socket is waited for, and then the store is ours."""
    with ExitStack() as stack:
        stack.enter_context(cache_store(KEY, filled))
        async with trio.open_nursery() as nursery:

            async def end() -> None:
                await trio.sleep(0.5)
                stack.close()

            nursery.start_soon(end)
            async with second(filled, offline=True) as opened:
                assert opened.store.folder is not None
                assert not opened.store.read_only


async def test_content_that_becomes_known_while_somebody_looks_in(filled: Path) -> None:
    """An owner without network whose header is not read yet serves the files from when it is."""
    with ExitStack() as stack:
        store = stack.enter_context(cache_store(KEY, filled))
        metadata, content = (
            SparseRegister(Register.open(store.open_storage, prefix=f"{name}."), NoSource("offline"), name=name)
            for name in ("metadata", "content")
        )
        stack.callback(metadata.register.close)
        stack.callback(content.register.close)

        def open_content(key: bytes) -> SparseRegister:
            assert key == content.register.key
            service.add_register(content)
            return content

        drive = Drive(metadata, open_content)
        service = LocalService(drive, None, store)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(service.run)
            async with second(filled, offline=True) as opened:
                assert drive.content is None
                tree = await opened.drive.checkout()
                await drive.load_header()
                with trio.fail_after(10):
                    assert await read(tree, await tree.find((b"hello.txt",))) == b"hello world\n"
            nursery.cancel_scope.cancel()


async def test_an_owner_that_does_not_answer(filled: Path) -> None:
    """Without its socket the others show what it has written."""
    folder = cache_folder(KEY, filled)
    async with datfs.open_drive(LINK, datfs.Options(cache_dir=filled, offline=True)):
        (folder / PEER_NAME).unlink()
        told: list[str] = []
        options = datfs.Options(cache_dir=filled, share_locked=True, offline=True)
        async with datfs.open_drive(LINK, options, notice=told.append) as opened:
            assert opened.store.read_only
            assert (await read_all(opened))["/hello.txt"] == b"hello world\n"
    assert "does not answer" in told[0]


async def test_sockets_are_private_and_temporary(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else can connect; those of a process that was killed are replaced; nothing is left at the end."""
    folder = cache_folder(KEY, filled)
    for name in (PEER_NAME, STATUS_NAME):
        with socket.socket(socket.AF_UNIX) as dead:
            monkeypatch.chdir(folder)
            dead.bind(name)
    async with datfs.open_drive(LINK, datfs.Options(cache_dir=filled, offline=True)):
        for name in (PEER_NAME, STATUS_NAME):
            assert (folder / name).stat().st_mode & 0o777 == 0o600
            assert local_sockets.answers(folder, name)
    assert not list(folder.glob("*.sock"))
    assert not local_sockets.answers(folder, PEER_NAME)


async def test_long_paths(filled: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The path of a socket may be longer than the kernel takes in one piece."""
    deep = tmp_path_factory.mktemp("deep") / ("x" * 100) / ("y" * 100)
    shutil.copytree(filled, deep)
    async with datfs.open_drive(LINK, datfs.Options(cache_dir=deep, offline=True)):
        async with second(deep, offline=True) as opened:
            assert (await read_all(opened))["/hello.txt"] == b"hello world\n"


async def test_a_folder_that_others_can_change(tmp_path: Path) -> None:
    """No socket is made where somebody else could put another one in its place."""
    (tmp_path / "open").mkdir(mode=0o777)
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(PermissionError):
        local_sockets.make_private(tmp_path / "open")


async def test_the_status_of_a_drive(filled: Path) -> None:
    """Version, lengths, what is held, and peers: as plain JSON."""
    place = cache_folder(KEY, filled), STATUS_NAME
    async with datfs.open_drive(LINK, datfs.Options(cache_dir=filled, offline=True)):
        facts = await ask(place, "status")
        assert (facts["link"], facts["version"], facts["pid"]) == (LINK, 5, os.getpid())
        assert facts["registers"]["metadata"] == {
            "length": 6,
            "held": 6,
            "bytes": 320,
            "bytes_held": 320,
            "claimed": None,
        }
        content = facts["registers"]["content"]
        assert (content["held"], content["bytes_held"]) == (7, content["bytes"])
        assert facts["peers"] == []
        assert facts["network"] is False
        async with second(filled, offline=True):
            (peer,) = (await ask(place, "status"))["peers"]
            assert (peer["address"], peer["direction"]) == ("a program of this machine", "in")


def no_failure(path: bytes, entry: Entry | None) -> None:
    """Nothing went wrong yet."""


def mounted_at(tree: DriveTree, opened: OpenDrive) -> None:
    """What a mount tells its drive's service: where its paths are."""

    async def find(path: bytes) -> Located:
        return await locate(tree, path.split(b"/"))

    opened.local.activity = Activity(dict, lambda: None, find, no_failure)


async def test_why_a_file_does_not_come(tmp_path: Path) -> None:
    """Missing chunks, who has them, who was asked; and after the peer is gone, why there is no hope."""
    place = cache_folder(KEY, tmp_path), STATUS_NAME
    async with sharing() as (address, served):
        async with datfs.open_drive(LINK, datfs.Options(peers=[address], cache_dir=tmp_path)) as opened:
            tree = await opened.drive.checkout()
            await read(tree, await tree.find((b"hello.txt",)))
            mounted_at(tree, opened)
            assert (await ask(place, "why", path="hello.txt"))["missing"] == []
            found = await ask(place, "why", path="big.bin")
            missing: list[list[int]] = found["missing"]
            assert (found["register"], found["chunks"], found["missing_chunks"]) == ("content", 3, 3)
            assert sum(stop - first for first, stop in missing) == 3
            (peer,) = found["peers"]
            assert (peer["address"], peer["has"], peer["asked_for"]) == (f"127.0.0.1:{address[1]}", missing, [])
            assert not found["hopeless"]
            assert "no such" in (await ask(place, "why", path="no such"))["error"]
            await served.shut_down()
            with trio.fail_after(10):
                while not found["hopeless"]:
                    found = await ask(place, "why", path="big.bin")
            assert "Connection refused" in found["hopeless"]
            assert found["not_connected"][0]["address"] == f"127.0.0.1:{address[1]}"


async def test_why_before_anything_of_the_content_is_known(tmp_path: Path) -> None:
    """What an entry claims is missing, though nobody has told yet how long the content is."""
    with_names = tmp_path / "names"
    async with sharing() as (address, _):
        async with datfs.open_drive(LINK, datfs.Options(peers=[address], cache_dir=with_names)) as opened:
            await walk(await opened.drive.checkout())
    async with datfs.open_drive(LINK, datfs.Options(cache_dir=with_names, offline=True)) as opened:
        assert opened.drive.content is not None
        mounted_at(await opened.drive.checkout(), opened)
        found = await ask((cache_folder(KEY, with_names), STATUS_NAME), "why", path="big.bin")
    assert opened.drive.content.register.length == 0
    assert (found["chunks"], found["missing_chunks"], found["missing"]) == (3, 3, [[3, 6]])
    assert "3 of 3 chunks missing: 3-5" in why_text("big.bin", found)


async def test_why_a_lookup_does_not_end(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The chunks of the metadata that it waits for are told, and the question itself ends."""
    monkeypatch.setattr(why, "LOOKUP_SECONDS", 0.2)
    place = cache_folder(KEY, filled), STATUS_NAME
    async with datfs.open_drive(LINK, datfs.Options(cache_dir=filled, offline=True)) as opened:
        opened.drive.metadata.register.clear(3, 4)
        opened.drive.metadata.source = Silent()

        async def wait(path: bytes) -> Located:
            await opened.drive.metadata.ensure((3,))
            raise AssertionError(path)

        opened.local.activity = Activity(dict, lambda: None, wait, no_failure)
        found = await ask(place, "why", path="docs")
        assert (found["register"], found["missing"], found["readers_wait_for"]) == ("metadata", [[3, 4]], [[3, 4]])
        assert "waits for metadata: chunk 3" in why_text("docs", found)
        assert not opened.drive.metadata.wants.needed


class Silent(NoSource):
    """Somebody who has told nothing, and may yet."""

    def __init__(self) -> None:
        super().__init__("")

    def hopeless(self, register: SparseRegister) -> DatfsError | None:
        """There is hope."""
        return None


async def nowhere(path: bytes) -> Located:
    """No path is anywhere."""
    raise NotFound(f"no {path!r}")


async def test_a_mistake_in_an_answer_is_not_the_drives(filled: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Who asked is told, the log has the traceback, and the drive goes on."""
    place = cache_folder(KEY, filled), STATUS_NAME
    async with datfs.open_drive(LINK, datfs.Options(cache_dir=filled, offline=True)) as opened:
        opened.local.activity = Activity(lambda: {"x": 1 // 0}, lambda: None, nowhere, no_failure)
        assert "the log" in (await ask(place, "status"))["error"]
        opened.local.activity = None
        assert (await ask(place, "status"))["version"] == 5
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize(
    ("question", "said"),
    [
        (b"\n", "Expecting value"),
        (b"[]\n", "protocol 1"),
        (b'{"protocol": 2, "ask": "status"}\n', "protocol 1"),
        (b'{"protocol": 1}\n', "no question None"),
        (b'{"protocol": 1, "ask": "why"}\n', "needs a path"),
        (b'{"protocol": 1, "ask": "why", "path": ["a", "b"]}\n', "needs a path"),
        (b'{"protocol": 1, "ask": "why", "path": "/a"}\n', "not mounted"),
        (b"\xff\xfe\n", "codec"),
        (b"x" * (QUESTION_MOST + 70_000), "Expecting value"),
    ],
)
async def test_odd_questions(filled: Path, question: bytes, said: str) -> None:
    """An answer that says what is wrong, and the next question is answered."""
    folder = cache_folder(KEY, filled)
    async with datfs.open_drive(LINK, datfs.Options(cache_dir=filled, offline=True)):
        with trio.fail_after(10):
            async with await local_sockets.connect(folder, STATUS_NAME) as stream:
                await stream.send_all(question)
                answer = b""
                try:
                    while piece := await stream.receive_some():
                        answer += piece
                except trio.BrokenResourceError:  # we went on sending when it had hung up
                    pass
                assert said in json.loads(answer)["error"]
            assert (await ask((folder, STATUS_NAME), "status"))["version"] == 5


async def test_who_asks_nothing_holds_up_nobody(filled: Path) -> None:
    """Silent connections are a few, and end; others are answered meanwhile."""
    folder = cache_folder(KEY, filled)
    async with datfs.open_drive(LINK, datfs.Options(cache_dir=filled, offline=True)):
        async with await local_sockets.connect(folder, STATUS_NAME), await local_sockets.connect(folder, STATUS_NAME):
            with trio.fail_after(2):
                assert (await ask((folder, STATUS_NAME), "status"))["version"] == 5


async def test_a_status_that_is_offered_before_anything_runs(tmp_path: Path) -> None:
    """A folder is mounted without a wait in between: it is answered as soon as the service runs."""
    place = tmp_path / "run", "early.sock"
    async with datfs.open_drive(DRIVES / "simple") as opened:
        service = LocalService(opened.drive, None, opened.store)
        service.offer_status(place)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(service.run)
            assert (await ask(place, "status"))["version"] == 5
            nursery.cancel_scope.cancel()
    assert not (place[0] / place[1]).exists()
