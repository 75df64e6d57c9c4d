"""What happens in a watched folder comes into the drive while it happens."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from datfs.folder.committing import Report
from datfs.folder.watching import FolderWatch, Stopped, Until
from datfs.metadata import name_of
from datfs.storage import Buffer, FileStorage
from tests.folder.kit import Kit

SECONDS = 20.0


class Watched:
    """A folder being watched, and what was committed of it, as ``kind /path``."""

    def __init__(self, kit: Kit, nursery: trio.Nursery) -> None:
        self.done: list[str] = []
        self.troubles: list[OSError] = []
        self.until = Until()
        self._kit = kit
        self._nursery = nursery
        self._news = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Watches until it is stopped."""
        with self._kit.opened() as working:
            watch = FolderWatch(working, self._tell, self.troubles.append, self.until)
            task_status.started()
            await watch.run()

    def _tell(self, report: Report) -> None:
        self.done += [f"{one.kind.value} {name_of(one.path).decode()}" for one in report.done]
        self._news.set()

    async def wait_for(self, condition: Callable[[], bool]) -> None:
        """Waits for commits until it holds."""
        with trio.fail_after(SECONDS):
            while not condition():
                await self._news.wait()
                self._news = trio.Event()


@pytest.fixture
async def watched(tmp_path: Path, nursery: trio.Nursery) -> Watched:
    """A folder with one file in it that is watched; the file is in the drive."""
    kit = Kit(tmp_path)
    kit.write("before")
    found = Watched(kit, nursery)
    await nursery.start(found.run)
    await found.wait_for(lambda: found.done == ["new /before"])
    found.done.clear()
    return found


async def test_changes_are_committed(watched: Watched, tmp_path: Path) -> None:
    """Files that come, change, move and go; folders with what is in them; and what is ignored is not."""
    folder = tmp_path / "folder"
    (folder / "sub" / "deep").mkdir(parents=True)
    (folder / "sub" / "deep" / "a").write_bytes(b"a")
    (folder / ".hidden").write_bytes(b"x")
    (folder / "before").write_bytes(b"other")
    await watched.wait_for(lambda: len(watched.done) >= 2)
    assert sorted(watched.done) == ["changed /before", "new /sub/deep/a"]
    watched.done.clear()
    (folder / "sub" / "deep" / "a").rename(folder / "moved")
    shutil.rmtree(folder / "sub")
    await watched.wait_for(lambda: len(watched.done) >= 2)
    assert sorted(watched.done) == ["new /moved", "removed /sub/deep/a"]


async def test_a_full_disk_is_told_and_tried_again(
    watched: Watched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The watch goes on, and the change is committed when there is room."""
    monkeypatch.setattr("datfs.folder.watching.RETRY", 0.2)
    write = FileStorage.write

    def limited(self: FileStorage, offset: int, data: Buffer) -> None:
        if not watched.troubles:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self.name)
        write(self, offset, data)

    monkeypatch.setattr(FileStorage, "write", limited)
    (tmp_path / "folder" / "more").write_bytes(b"more")
    await watched.wait_for(lambda: watched.done == ["new /more"])
    assert [error.errno for error in watched.troubles] == [errno.ENOSPC]


def test_stopping_ends_what_is_done() -> None:
    """A file that is being read is not read to its end."""
    until = Until()
    until.file(b"/a")
    until.stop()
    with pytest.raises(Stopped):
        until.advance(1)
