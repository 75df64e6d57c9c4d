"""Opening drives: what stands in the documentation works, and everything is let go whatever happens."""

from __future__ import annotations

import contextlib
import gc
import inspect
import os
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

import datfs
from datfs.client import OpenDrive, target_of
from datfs.crypto import key_pair
from datfs.errors import BadLink, Closed, NoPeers, NotADrive, NotFound, StoreLocked, TimedOut
from datfs.net.discovery.ways import Ways
from datfs.net.transport import Address, parse_address
from datfs.register import Register
from datfs.storage import directory_storage
from datfs.store import cache_store
from datfs.writer import DriveWriter, chunks_of
from tests.vector_drives import DRIVES, SEED, SIMPLE_KEY, copy_drive, read, walk

LINK = f"dat://{SIMPLE_KEY}"
SIMPLE = DRIVES / "simple"


@contextlib.asynccontextmanager
async def sharing(target: Path | str = SIMPLE, **more: object) -> AsyncIterator[tuple[Address, OpenDrive]]:
    """A drive that is served in this process; where, and the drive."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    address = listeners[0].socket.getsockname()[:2]
    options = datfs.Options(listen=listeners, **more)  # type: ignore[arg-type]
    async with datfs.open_drive(target, options) as opened:
        yield address, opened


def open_files() -> set[str]:
    """What this process has open, but pipes and such of the event loop."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            name = os.readlink(f"/proc/self/fd/{number}")
            if name.startswith("/") and not name.startswith("/dev"):
                found.add(f"{number} {name}")
    return found


# --- the public interface -----------------------------------------------------------------------------------------


async def test_the_example_of_the_package_works(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The lines in the package's docstring, with a real link and address."""
    writer = DriveWriter.create(directory_storage(tmp_path), key_pair(SEED))
    writer.put((b"dat.json",), chunks_of(b'{"title": "an example"}'), mtime=0)
    writer.close()
    doc = inspect.getdoc(datfs)
    assert doc is not None
    lines = doc.split("::\n", 1)[1].split("\nEverything", 1)[0]
    async with sharing(tmp_path) as (address, _):
        example = textwrap.dedent(lines).replace("dat://…", LINK).replace('("192.0.2.1", 3282)', repr(address))
        example = example.replace("peers=", "memory=True, peers=")
        assert repr(address) in example
        names: dict[str, object] = {"datfs": datfs}
        exec("async def run():\n" + textwrap.indent(example, "    ") + "\n    return data", names)
        assert await names["run"]() == b'{"title": "an example"}'  # type: ignore[operator]
    assert capsys.readouterr().out == "b'dat.json' 23\n"


@pytest.mark.parametrize("cached", [True, False])
async def test_a_drive_over_the_network(tmp_path: Path, cached: bool) -> None:
    """Every file of a drive that a peer has, into a cache folder or memory."""
    async with sharing() as (address, served):
        options = datfs.Options(peers=[address], cache_dir=tmp_path, memory=not cached)
        async with datfs.open_drive(LINK, options) as opened:
            tree = await opened.drive.checkout()
            there = await served.drive.checkout()
            for path, entry in (await walk(tree)).items():
                if path in ("/hello.txt", "/big.bin"):
                    assert await read(tree, entry) == await read(there, entry)
            assert opened.drive.version == 5
    assert bool(os.listdir(tmp_path)) == cached


async def test_what_was_fetched_stays(tmp_path: Path) -> None:
    """The next opening needs no peer for it, and is offline if asked."""
    async with sharing() as (address, _):
        async with datfs.open_drive(LINK, datfs.Options(peers=[address], cache_dir=tmp_path)) as opened:
            tree = await opened.drive.checkout()
            await read(tree, await tree.find((b"hello.txt",)))
    async with datfs.open_drive(LINK, datfs.Options(cache_dir=tmp_path, offline=True)) as opened:
        assert opened.swarm is None
        tree = await opened.drive.checkout()
        assert await read(tree, await tree.find((b"hello.txt",))) == b"hello world\n"
        with trio.fail_after(1), pytest.raises(NoPeers, match="offline"):
            await read(tree, await tree.find((b"exact.bin",)))


async def test_a_newer_version_is_learned(tmp_path: Path) -> None:
    """With a peer the newest version is shown, not the one in the cache; without, the cached one."""
    folder, cache = tmp_path / "drive", tmp_path / "cache"
    folder.mkdir()
    writer = DriveWriter.create(directory_storage(folder), key_pair(SEED))
    for version in (1, 2):
        writer.put((f"{version}".encode(),), chunks_of(b"x"), mtime=0)
        writer.flush()
        async with sharing(folder) as (address, _):
            async with datfs.open_drive(LINK, datfs.Options(peers=[address], cache_dir=cache)) as opened:
                assert opened.drive.version == version
    writer.close()
    async with datfs.open_drive(LINK, datfs.Options(cache_dir=cache)) as opened:
        assert opened.drive.version == 2


async def test_an_old_version_needs_no_question(tmp_path: Path) -> None:
    """A link to a version that is here is opened without waiting for peers that do not answer."""
    async with sharing() as (address, _):
        async with datfs.open_drive(LINK, datfs.Options(peers=[address], cache_dir=tmp_path)):
            pass
    silent = await trio.open_tcp_listeners(0, host="127.0.0.1")
    quiet = silent[0].socket.getsockname()[:2]
    with trio.fail_after(2):
        async with datfs.open_drive(f"{LINK}+2", datfs.Options(peers=[quiet], cache_dir=tmp_path)) as opened:
            assert opened.link.version == 2
    await silent[0].aclose()


async def test_a_silent_peer_and_something_here(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    """When nobody answers, what is here is shown after a few seconds, and that is said."""
    with cache_store(bytes.fromhex(SIMPLE_KEY), tmp_path) as store:
        origin = Register.open(directory_storage(SIMPLE / ".dat", read_only=True), read_only=True, prefix="metadata.")
        copy = Register.open(store.open_storage, key=origin.key, prefix="metadata.")
        for index in range(origin.length):
            proof = origin.proof(index, copy.digest(index))
            copy.put(index, origin.get(index), proof.nodes, proof.signature)
        copy.close()
        origin.close()
    told: list[str] = []
    async with datfs.open_drive(
        LINK, datfs.Options(peers=[("192.0.2.1", 1)], cache_dir=tmp_path), notice=told.append
    ) as opened:
        assert opened.drive.version == 5
    assert len(told) == 1
    assert "showing version 5, which is here" in told[0]


# --- targets --------------------------------------------------------------------------------------------------------


def test_targets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Links, keys and folders are told apart; what is neither is an error that says so."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / SIMPLE_KEY).mkdir()
    assert target_of("folder") == Path("folder")
    assert target_of(LINK) == datfs.parse_link(LINK)
    assert target_of(SIMPLE_KEY) == Path(SIMPLE_KEY)
    assert target_of("ab" * 32) == datfs.parse_link("ab" * 32)
    for text in ("./nothing", "a/b", "dat://xyz", "", "xyz"):
        with pytest.raises(BadLink):
            target_of(text)


async def test_what_cannot_be_opened(tmp_path: Path) -> None:
    """A folder without a drive, and an empty drive, have errors of their own; nothing stays open."""
    (tmp_path / "plain").mkdir()
    with pytest.raises(NotADrive):
        await opened_and_closed(tmp_path / "plain")
    (tmp_path / "empty").mkdir()
    Register.create(directory_storage(tmp_path / "empty"), key_pair(SEED), prefix="metadata.").close()
    with pytest.raises(NotFound, match="empty"):
        await opened_and_closed(tmp_path / "empty")
    with pytest.raises(NoPeers, match="offline"):
        await opened_and_closed(LINK, datfs.Options(memory=True, offline=True))
    with pytest.raises(NoPeers, match="--peer"):
        await opened_and_closed(LINK, datfs.Options(memory=True))


async def opened_and_closed(target: Path | str, options: datfs.Options | None = None) -> None:
    """Opens and closes a drive."""
    async with datfs.open_drive(target, options):
        pass


async def test_a_peer_that_never_answers() -> None:
    """The error names the link and the deadline."""
    silent = await trio.open_tcp_listeners(0, host="127.0.0.1")
    options = datfs.Options(peers=[silent[0].socket.getsockname()[:2]], memory=True, timeout=0.2)
    with pytest.raises(TimedOut, match=rf"{LINK} within 0.2 s"):
        await opened_and_closed(LINK, options)
    await silent[0].aclose()


# --- the end --------------------------------------------------------------------------------------------------------


async def test_errors_come_as_they_are_raised() -> None:
    """What the body raises is not wrapped in a group, whatever tasks run beside it."""
    with pytest.raises(ZeroDivisionError):
        async with sharing():
            raise ZeroDivisionError


async def test_a_cancelled_body_lets_everything_go(tmp_path: Path) -> None:
    """After a cancellation the cache can be opened again at once, and no file of it is open."""
    async with sharing() as (address, _):
        before = open_files()
        with trio.move_on_after(0.5) as scope:
            async with datfs.open_drive(LINK, datfs.Options(peers=[address], cache_dir=tmp_path)):
                await trio.sleep_forever()
        assert scope.cancelled_caught
        gc.collect()
        assert open_files() == before
        await opened_and_closed(LINK, datfs.Options(cache_dir=tmp_path, offline=True))


async def test_nothing_stays_open(tmp_path: Path) -> None:
    """Sockets and files of a drive are closed with it, listeners also when it could not be opened."""
    before = open_files()
    await opened_and_closed(copy_drive("simple-dat", tmp_path))
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    with pytest.raises(NotADrive):
        await opened_and_closed(Path("/"), datfs.Options(listen=listeners))
    assert listeners[0].socket.fileno() == -1
    assert open_files() == before


async def test_readers_that_wait_are_let_go() -> None:
    """Shutting a drive down ends every wait with Closed; a second time does nothing."""
    silent = await trio.open_tcp_listeners(0, host="127.0.0.1")
    ended = []

    async def wait(opened: OpenDrive) -> None:
        try:
            await opened.drive.metadata.ensure((4,))
        except Closed:
            ended.append("closed")

    async with sharing() as (address, served):
        async with datfs.open_drive(LINK, datfs.Options(peers=[address], memory=True)) as opened:
            await served.shut_down()
            opened.swarm.add_address(silent[0].socket.getsockname()[:2], "test")  # type: ignore[union-attr]
            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait, opened)
                nursery.start_soon(wait, opened)
                await trio.testing.wait_all_tasks_blocked()
                await opened.shut_down()
            await opened.shut_down()
    assert ended == ["closed", "closed"]
    await silent[0].aclose()


async def test_one_owner_at_a_time(tmp_path: Path) -> None:
    """A second opening of the cache is refused, or is a peer of the first one, in memory."""
    async with sharing() as (address, _):
        options = datfs.Options(peers=[address], cache_dir=tmp_path)
        async with datfs.open_drive(LINK, options):
            with pytest.raises(StoreLocked, match=f"process {os.getpid()}"):
                await opened_and_closed(LINK, options)
            more = datfs.Options(cache_dir=tmp_path, share_locked=True)
            async with datfs.open_drive(LINK, more) as second:
                assert second.store.folder is None
                assert second.drive.version == 5
        await opened_and_closed(LINK, options)


async def test_a_flush_that_fails_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fails at the end is an error of its own class, and the cache is free all the same."""

    def broken(self: Register) -> None:
        raise OSError(28, "No space left on device", "here")

    async def opened_and_broken(patch: pytest.MonkeyPatch, options: datfs.Options) -> None:
        async with datfs.open_drive(LINK, options) as opened:
            register = opened.drive.metadata.register
            patch.setattr(register, "flush", broken.__get__(register))

    async with sharing() as (address, _):
        options = datfs.Options(peers=[address], cache_dir=tmp_path)
        with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
            await opened_and_broken(patch, options)
        await opened_and_closed(LINK, options)


async def test_a_working_folder_that_is_served_never_sends_edited_bytes(tmp_path: Path) -> None:
    """What was edited is not offered, or refused when asked for; the rest is served."""
    folder = copy_drive("simple-dat", tmp_path)
    (folder / "hello.txt").write_bytes(b"HELLO WORLD\n")
    (folder / "big.bin").unlink()
    async with sharing(folder) as (address, _):
        async with datfs.open_drive(LINK, datfs.Options(peers=[address], memory=True)) as opened:
            tree = await opened.drive.checkout()
            assert await read(tree, await tree.find((b"docs", b"readme.md"))) == b"# simple\n\nA small drive.\n"
            for name in (b"hello.txt", b"big.bin"):
                with trio.move_on_after(0.5) as scope:
                    await read(tree, await tree.find((name,)))
                assert scope.cancelled_caught
            assert await read(tree, await tree.find((b"docs", b"notes", b"one.txt"))) == b"one\n"


# --- peers that call, and peers of another time -------------------------------------------------------------------

NOBODY = Ways(("dns",), ("127.0.0.1:9",))
"""Something may be looked for, and nobody is found."""


async def bytes_of(opened: OpenDrive, name: bytes) -> bytes:
    """A file of the newest version."""
    tree = await opened.drive.checkout()
    return await read(tree, await tree.find((name,)))


async def test_a_place_to_listen_is_enough() -> None:
    """Library users name a place; the swarm says where it listens, and serves there."""
    async with datfs.open_drive(SIMPLE, datfs.Options(listen=datfs.ListenAt("127.0.0.1", 0))) as opened:
        assert opened.swarm is not None
        [place] = opened.swarm.listening
        options = datfs.Options(peers=[parse_address(place)], memory=True)
        async with datfs.open_drive(LINK, options) as copy:
            assert await bytes_of(copy, b"hello.txt") == b"hello world\n"


async def test_an_address_that_worked_is_remembered(tmp_path: Path) -> None:
    """Next time the link is enough, if anything may be looked for; without, nobody is dialed."""
    async with sharing() as (address, _):
        async with datfs.open_drive(LINK, datfs.Options(peers=[address], cache_dir=tmp_path)) as opened:
            assert opened.swarm is not None
        async with datfs.open_drive(LINK, datfs.Options(ways=NOBODY, cache_dir=tmp_path)) as opened:
            assert len(await bytes_of(opened, b"big.bin")) == 150_000
            assert opened.swarm is not None
            assert [peer.source for peer in opened.swarm.report().connected] == ["remembered"]
        async with datfs.open_drive(LINK, datfs.Options(cache_dir=tmp_path)) as opened:
            assert opened.swarm is not None
            assert not opened.swarm.report().peers


async def test_limits_reach_the_swarm() -> None:
    """Limits of the options are those of the swarm."""
    async with sharing(up=5000, down=6000) as (_, opened):
        assert opened.swarm is not None
        report = opened.swarm.report()
        assert (report.up_limit, report.down_limit) == (5000, 6000)
