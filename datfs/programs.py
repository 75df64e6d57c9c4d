"""Which program a process runs, by the names that people know it by; to refuse some of them (``--deny-program``).

Linux only (``/proc``). A process that cannot be seen, as in another PID namespace, has no name and is not refused.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

COMM_MOST = 15  # the kernel cuts names of processes to so many bytes
PROC = Path("/proc")


def names_of(pid: int, proc: Path = PROC) -> set[str]:
    """The names of a process or thread: its own, that of its process, and that of the file that is run."""
    names: set[str] = set()
    if pid <= 0:
        return names
    folder = proc / str(pid)
    for place in (folder, proc / str(leader_of(folder) or pid)):
        try:
            names.add((place / "comm").read_text(errors="surrogateescape").removesuffix("\n"))
        except OSError:
            pass  # it has ended, or is not ours to see
    try:
        names.add(os.path.basename(os.readlink(folder / "exe")).removesuffix(" (deleted)"))
    except OSError:
        pass  # of another user, or a thread of the kernel
    return names


def leader_of(folder: Path) -> int | None:
    """The process that a thread with this folder in /proc belongs to; None if it cannot be seen."""
    try:
        for line in (folder / "status").read_text(errors="surrogateescape").splitlines():
            if line.startswith("Tgid:"):
                return int(line.split()[1])
    except OSError:
        pass
    return None


def is_one_of(pid: int, programs: Collection[str], proc: Path = PROC) -> bool:
    """Whether a process runs a program of one of these names, full or as the kernel cuts them."""
    return bool(names_of(pid, proc) & {cut for name in programs for cut in (name, _cut(name))})


def _cut(name: str) -> str:
    return os.fsencode(name)[:COMM_MOST].decode(errors="surrogateescape")
