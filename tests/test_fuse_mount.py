"""Mounting that fails, without the kernel."""

from __future__ import annotations

import os
from pathlib import Path

import pyfuse3
import pytest
import trio

from datfs import mountpoints
from datfs.errors import MountError
from datfs.fuse_mount import serve
from datfs.mount_options import MountOptions
from tests.memory_tree import MemoryTree


async def refused(point: Path) -> str:
    with pytest.raises(MountError) as caught:
        await serve(
            MemoryTree({}),
            str(point),
            options=MountOptions(),
            timeout=1,
            ready=lambda: pytest.fail("it is not mounted"),
            stop=trio.Event(),
        )
    return str(caught.value)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (b"fuse: mount failed: Operation not permitted\n", "--cap-add SYS_ADMIN"),
        (b"fusermount3: option allow_other only allowed if 'user_allow_other' is set\n", "/etc/fuse.conf"),
        (b"", "fuse_session_mount failed"),
    ],
)
async def test_the_reason_that_libfuse_prints_is_in_the_message(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    said: bytes,
    expected: str,
) -> None:
    """What goes past Python to descriptor 2 is caught and passed on, with advice where there is any."""

    def init(*arguments: object) -> None:
        os.write(2, said)
        raise RuntimeError("fuse_session_mount failed")

    monkeypatch.setattr(pyfuse3, "init", init)
    monkeypatch.setattr(mountpoints, "check_device", lambda: None)
    message = await refused(tmp_path)
    assert str(tmp_path) in message
    assert said.decode().strip() in message
    assert expected in message
    os.write(2, b"later")
    assert capfd.readouterr().err == "later"


async def test_a_mount_that_vanishes_at_once_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it is not in the mount table after mounting, the session is closed and nobody is told it is ready."""
    closed: list[bool] = []
    monkeypatch.setattr(pyfuse3, "init", lambda *arguments: None)
    monkeypatch.setattr(pyfuse3, "close", lambda unmount: closed.append(unmount))
    monkeypatch.setattr(mountpoints, "check_device", lambda: None)
    assert "was unmounted while" in await refused(tmp_path)
    assert closed == [False]


async def test_nothing_is_tried_where_it_cannot_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unfit mount point is refused before libfuse is asked."""
    monkeypatch.setattr(pyfuse3, "init", lambda *arguments: pytest.fail("libfuse was asked"))
    monkeypatch.setattr(mountpoints, "check_device", lambda: None)
    (tmp_path / "x").write_text("x")
    assert "not empty" in await refused(tmp_path)
