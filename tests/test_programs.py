"""Programs by name: of the process, of a thread in it, and of the file it runs."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

from datfs.programs import is_one_of, names_of


def proc_with(tmp_path: Path, pid: int, comm: str, leader: int | None = None, exe: str | None = None) -> None:
    """What the kernel tells of a process."""
    folder = tmp_path / str(pid)
    folder.mkdir()
    (folder / "comm").write_text(comm + "\n")
    (folder / "status").write_text(f"Name:\t{comm}\nTgid:\t{leader or pid}\n")
    if exe is not None:
        (folder / "exe").symlink_to(exe)


def test_of_this_process() -> None:
    """The real thing: the program that runs the tests, also asked about one of its threads."""
    real = os.path.basename(os.path.realpath(sys.executable))
    assert is_one_of(os.getpid(), [real])
    found: list[bool] = []
    thread = threading.Thread(target=lambda: found.append(is_one_of(threading.get_native_id(), [real])))
    thread.start()
    thread.join()
    assert found == [True]
    assert not is_one_of(os.getpid(), ["tracker-miner-fs-3"])


def test_names(tmp_path: Path) -> None:
    """A thread with a name of its own has that of its process too; an executable that was replaced keeps its name."""
    proc_with(tmp_path, 5, "tracker-miner-f", exe="/usr/libexec/tracker-miner-fs-3 (deleted)")
    proc_with(tmp_path, 6, "pool-spawner", leader=5, exe="/usr/libexec/tracker-miner-fs-3")
    assert names_of(5, tmp_path) == {"tracker-miner-f", "tracker-miner-fs-3"}
    assert names_of(6, tmp_path) == {"pool-spawner", "tracker-miner-f", "tracker-miner-fs-3"}
    assert is_one_of(6, ["tracker-miner-fs-3"], tmp_path)
    assert not is_one_of(6, ["tracker"], tmp_path)


def test_a_long_name_is_known_without_the_file(tmp_path: Path) -> None:
    """Of another user's process only the cut name can be seen."""
    proc_with(tmp_path, 5, "tracker-miner-f")
    assert is_one_of(5, ["tracker-miner-fs-3"], tmp_path)


def test_who_cannot_be_seen_has_no_name(tmp_path: Path) -> None:
    """A process of another namespace, and one that has ended."""
    assert names_of(0, tmp_path) == names_of(77, tmp_path) == set()
    assert not is_one_of(0, ["x"], tmp_path)
