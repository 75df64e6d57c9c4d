"""A copy that is brought up to date: when its disk is asked to begin, and when what came is made durable."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from datfs.client import Options, swarm_for_folder
from datfs.cloning import FLUSH_SECONDS, Clone
from datfs.crypto import key_pair
from datfs.dat_clone import DatClone, open_dat_clone
from tests.vector_drives import SEED

pytestmark = pytest.mark.usefixtures("autojump_clock")


class _Disk(Clone):
    """Whose flushes take so many seconds; ``done`` tells in which order the disk was asked for what."""

    takes = 0.0
    done: list[str]

    async def _flush(self) -> None:
        await trio.sleep(self.takes)
        self.done.append("flush")


@pytest.mark.parametrize("takes", [0.0, FLUSH_SECONDS])
async def test_a_disk_that_keeps_up_begins_between_flushes(
    takes: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """It has less to do at the next flush then; a slow one would have what it flushes wait for what it does."""
    done: list[str] = []

    def sending_out(files: DatClone) -> Callable[[], None]:
        return lambda: done.append("begin")

    monkeypatch.setattr(DatClone, "sending_out", sending_out)
    autojump_clock.autojump_threshold = 0.001  # threads are not waited for by the clock
    files = open_dat_clone(tmp_path, key_pair(SEED).public)
    async with swarm_for_folder(Options(offline=True), print) as swarm:
        clone = _Disk(tmp_path, files, swarm, Options())
        clone.takes, clone.done = takes, done
        async with clone._flushing():
            await trio.sleep(20 * FLUSH_SECONDS)
    files.close()
    assert done.index("begin") < done.index("flush")
    later = done[done.index("flush") :]
    assert later.count("flush") > 2
    assert ("begin" in later) == (takes == 0.0)
