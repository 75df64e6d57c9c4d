"""Drives that grow while they are looked at: the reference appends and datfs follows, and the other way round."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

import datfs
from datfs.crypto import key_pair
from datfs.net.swarm import Swarm
from datfs.sources import NoSource
from datfs.sparse import SparseRegister
from datfs.storage import memory_storage
from datfs.writer import DriveWriter, chunks_of
from tests.interop.datfs_side import datfs as run_datfs
from tests.interop.datfs_side import datfs_json, mounted, wait_until
from tests.interop.plans import SEED
from tests.interop.reference import Clone, MadeDrive, clone, fill, serve

DriveOf = Callable[[str], MadeDrive]


def appears(path: Path, text: str) -> None:
    """Waits until the file has these contents."""
    wait_until(lambda: path.exists() and path.read_text() == text, f"{path.name} is {text!r}", 10)


@pytest.mark.fuse
def test_a_mount_follows_the_writer(drive_of: DriveOf, tmp_path: Path) -> None:
    """New, changed and deleted files show; a file that is open keeps the bytes of its version."""
    drive = drive_of("simple")
    with (
        serve(drive.path, "--seed", SEED) as peer,
        mounted(drive.link, tmp_path / "m", "--peer", peer.address, "--memory") as mount,
    ):
        at = mount.point
        assert sorted(os.listdir(at)) == ["big.bin", "docs", "exact.bin", "hello.txt"]
        with open(at / "hello.txt") as before:
            peer.apply({"op": "put", "path": "/new/one.txt", "text": "new"})
            appears(at / "new" / "one.txt", "new")
            peer.apply({"op": "put", "path": "/hello.txt", "text": "goodbye\n"})
            appears(at / "hello.txt", "goodbye\n")
            assert before.read() == "hello world\n"
        peer.apply({"op": "del", "path": "/big.bin"})
        wait_until(lambda: "big.bin" not in os.listdir(at), "big.bin is gone", 10)
        # Listings are of the newer version at once, names that the kernel keeps it is told of a moment later.
        wait_until(lambda: not (at / "big.bin").exists(), "the name is gone too", 10)
        peer.apply({"op": "put", "path": "/exact.bin", "size": 300_000, "fill": "again"})
        wait_until(lambda: (at / "exact.bin").stat().st_size == 300_000, "the new size", 10)
        assert mount.run("cat exact.bin") == fill("again", 300_000)
        assert mount.fact("version") == drive.version + 4


@pytest.mark.fuse
def test_what_did_not_change_stays_what_it_is(drive_of: DriveOf, tmp_path: Path) -> None:
    """Numbers and times of files and folders beside which others come and go; a folder that is open is current."""
    drive = drive_of("simple")

    def numbers(top: Path) -> dict[str, int]:
        return {str(path): path.stat().st_ino for path in (top, *top.rglob("*"))}

    with (
        serve(drive.path, "--seed", SEED) as peer,
        mounted(drive.link, tmp_path / "m", "--peer", peer.address, "--memory") as mount,
    ):
        at = mount.point
        before, modified = numbers(at), (at / "hello.txt").stat().st_mtime_ns
        folder = os.open(at / "docs", os.O_RDONLY)
        try:
            names = os.listdir(folder)
            peer.apply({"op": "put", "path": "/docs/new.txt", "text": "new"})
            appears(at / "docs" / "new.txt", "new")
            assert sorted(os.listdir(folder)) == sorted([*names, "new.txt"])
        finally:
            os.close(folder)
        assert before.items() <= numbers(at).items()
        peer.apply({"op": "del", "path": "/docs/new.txt"})
        wait_until(lambda: not (at / "docs" / "new.txt").exists(), "it is gone again", 10)
        assert before.items() <= numbers(at).items()
        assert (at / "hello.txt").stat().st_mtime_ns == modified
        assert min((at / name).stat().st_mtime_ns for name in ("", "docs")) > 0


@pytest.mark.fuse
def test_a_mount_follows_after_a_lost_connection(drive_of: DriveOf, tmp_path: Path) -> None:
    """What was written while nobody was connected shows when the peer is back."""
    drive = drive_of("simple")
    with (
        serve(drive.path, "--seed", SEED) as peer,
        mounted(drive.link, tmp_path / "m", "--peer", peer.address, "--memory") as mount,
    ):
        peer.hang_up()
        peer.apply({"op": "put", "path": "/new.txt", "text": "new"})
        appears(mount.point / "new.txt", "new")
        assert len(peer.events("connection")) >= 2


@pytest.mark.fuse
@pytest.mark.parametrize("option", ["--version=5", "--pin-version"])
def test_a_pinned_version_stays_as_it_is(drive_of: DriveOf, tmp_path: Path, option: str) -> None:
    """A mount of a version shows that version while one beside it, of the newest, has long changed."""
    drive = drive_of("simple")
    with serve(drive.path, "--seed", SEED) as peer:
        where = ["--memory", "--peer", peer.address]
        with (
            mounted(drive.link, tmp_path / "pinned", option, *where) as pinned,
            mounted(drive.link, tmp_path / "newest", *where) as newest,
        ):
            before = pinned.run("ls -R")
            peer.apply({"op": "put", "path": "/new.txt", "text": "new"})
            appears(newest.point / "new.txt", "new")
            assert pinned.run("ls -R") == before
            assert not (pinned.point / "new.txt").exists()


def test_a_cache_learns_of_new_versions(drive_of: DriveOf, tmp_path: Path) -> None:
    """Opened again, the newest version is shown; the one before is still there, without any peer too."""
    drive = drive_of("simple")
    with serve(drive.path, "--seed", SEED) as peer:
        where = ["--peer", peer.address, "--cache-dir", str(tmp_path)]
        assert run_datfs("cat", drive.link, "/hello.txt", *where).stdout == b"hello world\n"
        described = peer.apply({"op": "put", "path": "/hello.txt", "text": "goodbye\n"})
        assert run_datfs("cat", drive.link, "/hello.txt", *where).stdout == b"goodbye\n"
        (facts,) = datfs_json("info", drive.link, *where)
        assert facts["version"] == described["version"] == drive.version + 1
    offline = ["--offline", "--cache-dir", str(tmp_path)]
    assert run_datfs("cat", drive.link, "/hello.txt", *offline).stdout == b"goodbye\n"
    old = run_datfs("cat", f"{drive.link}+{drive.version}", "/hello.txt", *offline)
    assert old.stdout == b"hello world\n", old.stderr


async def test_a_longer_length_is_learnt_while_connected(drive_of: DriveOf) -> None:
    """``learn_length`` tells that there is nothing newer, and later, on the same connection, that there is."""
    drive = drive_of("simple")

    def grow() -> None:
        peer.apply({"op": "put", "path": "/new.txt", "text": "new"})

    with serve(drive.path, "--seed", SEED) as peer:
        options = datfs.Options(peers=[(peer.host, peer.port)], memory=True)
        async with datfs.open_drive(drive.link, options) as opened:
            metadata = opened.drive.metadata
            assert not await metadata.learn_length()
            await trio.to_thread.run_sync(grow)
            with trio.fail_after(10):
                while opened.drive.version == drive.version:
                    await metadata.learn_length()
            tree = await opened.drive.checkout()
            found = await tree.find((b"new.txt",))
            assert (found.size, opened.drive.version) == (3, drive.version + 1)
        assert len(peer.events("connection")) == 1


class Publisher:
    """A drive in memory that is served and written by the same process."""

    def __init__(self) -> None:
        self.writer = DriveWriter.create(memory_storage(), key_pair(b"live" * 8))
        source = NoSource("the writer has everything")
        self.registers = [
            SparseRegister(self.writer.metadata, source, name="metadata"),
            SparseRegister(self.writer.content, source, name="content"),
        ]
        self.swarm = Swarm()
        for register in self.registers:
            self.swarm.add_register(register)

    def put(self, path: str, data: bytes) -> None:
        """Adds a file and tells the peers, of the content first."""
        before = [register.register.length for register in self.registers]
        self.writer.put(tuple(path.encode().split(b"/")), chunks_of(data), mtime=1_500_000_000_000)
        for register, start in reversed(list(zip(self.registers, before, strict=True))):
            grown = register.register.length - start
            if grown:
                self.swarm.announce(register, start, grown)


async def test_the_reference_follows_a_growing_drive() -> None:
    """A client of the reference that is connected gets every file that is put into a drive of ours, as it comes."""
    publisher = Publisher()
    publisher.put("first.txt", b"first")
    contents = {f"/more/{number}.bin": fill(str(number), 40_000 * number) for number in range(1, 6)}
    key = publisher.writer.metadata.key.hex()
    got: list[Clone] = []

    async def download(port: int) -> None:
        got.append(await trio.to_thread.run_sync(lambda: clone(key, port, live=6, timeout=20)))

    async with trio.open_nursery() as outer:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        outer.start_soon(publisher.swarm.run)
        outer.start_soon(publisher.swarm.listen, listeners)
        async with trio.open_nursery() as clients:
            clients.start_soon(download, listeners[0].socket.getsockname()[1])
            with trio.fail_after(10):
                while publisher.swarm.bytes_out < 500:  # noqa: ASYNC110 a count has no event
                    await trio.sleep(0.02)
            for path, data in contents.items():
                await trio.sleep(0.1)
                publisher.put(path[1:], data)
        outer.cancel_scope.cancel()
    (client,) = got
    assert client.outcome == "done", client.message
    assert client.versions[0] < client.versions[-1] == 6
    assert len(client.versions) >= 3
    expected = {path: hashlib.sha256(data).hexdigest() for path, data in contents.items()}
    assert client.files == {"/first.txt": hashlib.sha256(b"first").hexdigest(), **expected}
