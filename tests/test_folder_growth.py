"""A folder that is served while another process writes it: its growth is served too, and its losses are told."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio

import datfs
from datfs.crypto import key_pair
from datfs.dat_folder import create_dat_folder, open_dat_folder
from datfs.errors import ForkedRegister
from datfs.folder_growth import FolderGrowth
from datfs.storage import directory_storage
from datfs.writer import DriveWriter
from tests.dat_folders import carry_out
from tests.test_writer import PLANS
from tests.vector_drives import SEED, read

HISTORY = PLANS["history"]


async def test_what_is_committed_is_served(tmp_path: Path) -> None:
    """After each change a connected reader has the new version, and a chunk that was replaced is no longer offered."""
    folder = tmp_path / "drive"
    writer = create_dat_folder(folder, key_pair(SEED), home=tmp_path)
    carry_out(writer, folder, HISTORY[:3])
    writer.close()
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    address = listeners[0].socket.getsockname()[:2]
    async with datfs.open_drive(folder, datfs.Options(listen=listeners)) as served:
        growth = FolderGrowth(served)
        growth.look()
        assert not growth.look() or not growth.look()
        options = datfs.Options(peers=[address], memory=True)
        async with datfs.open_drive(datfs.Link(served.drive.key), options) as reader:
            for step, operation in enumerate(HISTORY[3:], 4):
                writer = open_dat_folder(folder, home=tmp_path)
                carry_out(writer, folder, [operation])
                writer.close()
                assert growth.look()
                with trio.fail_after(10):
                    await reader.drive.metadata.grown_beyond(step)
                    tree = await reader.drive.checkout()
                    assert tree.version == step
                    if operation[0] == "put":
                        entry = await tree.find(datfs.metadata.path_of(operation[1]))
                        assert await read(tree, entry) == operation[2]["data"]
            content = served.drive.content
            assert content is not None
            assert served.drive.version == len(HISTORY)
            held = [index for index in range(content.register.length) if content.register.has(index)]
            writer = open_dat_folder(folder, home=tmp_path)
            assert held == [index for index in range(content.register.length) if writer.content.has(index)]
            writer.close()


async def test_who_calls_just_after_a_commit_gets_it(tmp_path: Path) -> None:
    """The folder is looked at when a peer comes, whenever it was the last time."""
    folder = tmp_path / "drive"
    writer = create_dat_folder(folder, key_pair(SEED), home=tmp_path)
    carry_out(writer, folder, HISTORY[:1])
    writer.close()
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    address = listeners[0].socket.getsockname()[:2]
    async with datfs.open_drive(folder, datfs.Options(listen=listeners)) as served:
        assert served.swarm is not None
        served.swarm.refresh = FolderGrowth(served).look
        for step in (2, 3):
            writer = open_dat_folder(folder, home=tmp_path)
            carry_out(writer, folder, [HISTORY[step - 1]])
            writer.close()
            options = datfs.Options(peers=[address], memory=True)
            async with datfs.open_drive(datfs.Link(served.drive.key), options) as reader:
                with trio.fail_after(10):
                    tree = await reader.drive.checkout()
                assert tree.version == step


async def test_other_layouts_are_followed_too(tmp_path: Path) -> None:
    """A folder whose content is in a data file."""
    writer = DriveWriter.create(directory_storage(tmp_path), key_pair(SEED))
    writer.put((b"a",), [b"a"], mtime=1)
    writer.flush()
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with datfs.open_drive(tmp_path, datfs.Options(listen=listeners)) as served:
        growth = FolderGrowth(served)
        writer.put((b"b",), [b"bb"], mtime=2)
        writer.close()
        assert growth.look()
        tree = await served.drive.checkout()
        assert await read(tree, await tree.find((b"b",))) == b"bb"


async def test_a_folder_that_is_replaced_is_an_error(tmp_path: Path) -> None:
    """Another history of the same drive is not served as if it were the same."""
    folder = tmp_path / "drive"
    folder.mkdir()
    writer = DriveWriter.create(directory_storage(folder), key_pair(SEED))
    writer.put((b"a",), [b"a"], mtime=1)
    writer.close()
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with datfs.open_drive(folder, datfs.Options(listen=listeners)) as served:
        growth = FolderGrowth(served)
        growth.look()
        for file in folder.iterdir():
            file.unlink()
        writer = DriveWriter.create(directory_storage(folder), key_pair(SEED))
        for name in (b"other", b"more"):
            writer.put((name,), [name], mtime=1)
        writer.close()
        for file in folder.iterdir():
            os.utime(file, (0, 0))  # so old that nobody looks at unchanged ones again
        for _ in range(2):
            with pytest.raises(ForkedRegister, match="replaced"):
                growth.look()
