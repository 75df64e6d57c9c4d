"""Whether a program that waits for us was sent a signal that it cannot take, as the kernel tells in /proc.

The kernel lets a blocked program go on a deadly signal in some waits only, and pyfuse3 hands on no interrupts (fuse.md
section 4). A thread in such a wait is in state "D" with a signal pending: see :meth:`Look.is_called`. Knows no FUSE.

Linux only. Where /proc tells nothing (another pid namespace, ``hidepid``), nobody seems to be called.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence

from datfs.programs import PROC, leader_of

FAMILY_MOST = 64  # descendants of one program that are looked at

_STOPPING = (signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGCONT)
# With a handler these are part of a program's everyday life. Regular files never fail with EINTR elsewhere, so most
# programs are not prepared for it.
_EVERYDAY = (
    *_STOPPING,
    signal.SIGCHLD,
    signal.SIGURG,
    signal.SIGWINCH,
    signal.SIGIO,
    signal.SIGPROF,
    signal.SIGVTALRM,
    signal.SIGUSR1,
    signal.SIGUSR2,
    *range(signal.SIGRTMIN - 2, signal.SIGRTMAX + 1),  # the C library keeps two for itself
)


# Where the kernel lets a program wait for another one's lookup: of the same name, or of any in a directory that is
# locked meanwhile; as /proc/<tid>/wchan names it, which is empty or "0" where it is not told.
_BEHIND_A_LOOKUP = {"d_alloc_parallel", "walk_component", "path_openat", "iterate_dir", "fuse_lock_inode", "0", ""}


def _mask(numbers: Sequence[int]) -> int:
    return sum(1 << (number - 1) for number in numbers)


_STOPPING_MASK = _mask(_STOPPING)
_EVERYDAY_MASK = _mask(_EVERYDAY)
_ENDING_MASK = _mask((signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGALRM))


def calls_away(status: str) -> bool:
    """Whether a thread with this ``/proc/<tid>/status`` sits in a wait and has to answer a signal.

    A signal that stops a program and those that programs use for other things than to end do not count.
    """
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    if fields["State"].split()[0] != "D":
        return False
    own, shared, blocked, ignored, caught = (
        int(fields[name], 16) for name in ("SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt")
    )
    pending = (own | shared) & ~blocked & ~ignored
    return bool(pending & ~(_EVERYDAY_MASK & caught) & ~_STOPPING_MASK)


def catches_signals(thread: int) -> bool:
    """Whether it has a handler for one that usually ends a program: then not all waits of the kernel let it go."""
    fields = dict(line.split(":", 1) for line in _read(f"/proc/{thread}/status").splitlines() if ":" in line)
    return thread > 0 and bool(int(fields.get("SigCgt", "0"), 16) & _ENDING_MASK)


def program_of(thread: int) -> int:
    """The number of the process that a thread is of, 0 if the thread is not there."""
    return leader_of(PROC / str(thread)) or 0 if thread > 0 else 0


class Look:
    """One look at the programs of this machine; what was read once is not read again."""

    def __init__(self) -> None:
        self._threads: dict[int, bool] = {}
        self._programs: dict[int, bool] = {}
        self._families: dict[int, Sequence[int]] = {}

    def is_called(self, thread: int) -> bool:
        """Whether the thread of this number has to answer a signal. False if it is not there."""
        if thread not in self._threads:
            status = _read(f"/proc/{thread}/status") if thread > 0 else ""
            self._threads[thread] = bool(status) and calls_away(status)
        return self._threads[thread]

    def reader_is_called(self, program: int, inode: int) -> bool:
        """The same of any thread of a file's readers, if ``program`` opened it.

        These are that program, and those it started if they have the file open. Their own ``open`` of it looks the
        same: where two programs of one family opened one file themselves, a signal to one may call both.
        """
        if self._program_is_called(program):
            return True
        heirs = self._family(program)
        return any(self._program_is_called(heir) and _has_open(heir, inode) for heir in heirs)

    def somebody_waits_for_a_name(self) -> bool:
        """Whether any program that has to answer a signal waits until another one's lookup is answered."""
        for program in _numbers_in("/proc"):
            # All threads of a program have a deadly signal, and its first one has ended if another waits.
            state = _state(f"/proc/{program}")
            threads = [program] if state == "D" else _threads_of(program) if state == "Z" else ()
            if any(_read(f"/proc/{thread}/wchan") in _BEHIND_A_LOOKUP for thread in filter(self.is_called, threads)):
                return True
        return False

    def _program_is_called(self, program: int) -> bool:
        if program not in self._programs:
            self._programs[program] = any(map(self.is_called, _threads_of(program)))
        return self._programs[program]

    def _family(self, program: int) -> Sequence[int]:
        """Descendants; of a program that has ended, whose children nobody knows, all programs there are."""
        if program not in self._families:
            self._families[program] = _descendants(program) if _lives(program) else _numbers_in("/proc")
        return self._families[program]


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def _threads_of(program: int) -> list[int]:
    return _numbers_in(f"/proc/{program}/task")


def _numbers_in(folder: str) -> list[int]:
    try:
        return [int(name) for name in os.listdir(folder) if name.isdigit()]
    except OSError:
        return []


def _state(folder: str) -> str:
    """The letter of a process or thread, empty if it is not there."""
    return _read(f"{folder}/stat").rpartition(") ")[2][:1]


def _lives(program: int) -> bool:
    """Whether any thread is left, and not only to be waited for."""
    return any(_state(f"/proc/{program}/task/{thread}") not in "ZX" for thread in _threads_of(program))


def _descendants(program: int) -> list[int]:
    found: list[int] = []
    pending = [program]
    while pending and len(found) < FAMILY_MOST:
        parent = pending.pop()
        for thread in _threads_of(parent):
            children = [int(child) for child in _read(f"/proc/{parent}/task/{thread}/children").split()]
            found += children
            pending += children
    return found


def _has_open(program: int, inode: int) -> bool:
    """Whether one of its descriptors is of a file with this inode number. Follows no link: it may be our own mount."""
    folder = f"/proc/{program}/fdinfo"
    try:
        names = os.listdir(folder)
    except OSError:
        return False
    return any(f"\nino:\t{inode}\n" in _read(f"{folder}/{name}") for name in names)
