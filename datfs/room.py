"""How much of a cache folder's limit each process may fill: no daemon, no message, and never too much together.

Every process that fills a drive's store under a limit has a *grant*, the most that this store may use, in the file
:data:`GRANT_NAME` of the store's folder, locked as long as the process lives. A grant is only raised under the one
lock of the cache folder, after adding up all others: of stores that are being filled the greater of grant and use, of
all else what it uses. So the sum never passes the limit, however many processes there are, as long as all of them are
given one. What a process without a limit fetches is counted only when the next grant is asked for.

Space is what ``du`` counts: allocated blocks, not lengths, for chunks lie in files with holes.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

GRANT_NAME = "grant"
LOCK_NAME = "limit.lock"
STEP_MOST = 64 << 20
_TRIES = 5
_PAUSE = 0.001


def space_of(folder: Path) -> int:
    """Bytes of disk that a folder and the files in it take; those of its folders are not looked into. Never raises."""
    total = 0
    try:
        total += os.stat(folder).st_blocks * 512
        with os.scandir(folder) as found:
            for entry in found:
                with contextlib.suppress(OSError):  # just removed
                    if not entry.is_dir(follow_symlinks=False):
                        total += entry.stat(follow_symlinks=False).st_blocks * 512
    except OSError:
        pass
    return total


def stores_in(cache_dir: Path) -> list[Path]:
    """The folders of drives in a cache folder."""
    try:
        with os.scandir(cache_dir) as found:
            return sorted(Path(entry.path) for entry in found if _is_store(entry))
    except FileNotFoundError:
        return []


def _is_store(entry: os.DirEntry[str]) -> bool:
    hexadecimal = len(entry.name) == 64 and not set(entry.name) - set("0123456789abcdef")
    return hexadecimal and entry.is_dir(follow_symlinks=False)


@dataclass(frozen=True, slots=True)
class _Other:
    """Another store: what it takes of the limit, whether a process fills it, and whether that has too little."""

    space: int
    filled: bool = False
    hungry: bool = False


class SharedRoom:
    """This process's grant for the store in ``folder``. :meth:`close` gives it back.

    ``granted``: bytes that the store may use. Raises OSError.
    """

    def __init__(self, cache_dir: Path, folder: Path, limit: int) -> None:
        self.limit = limit
        self.granted = 0
        self.hungry = False
        self._cache_dir = cache_dir
        self._folder = folder
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        self._lock = os.open(cache_dir / LOCK_NAME, flags, 0o600)
        try:
            self._own = os.open(folder / GRANT_NAME, flags, 0o600)
            fcntl.flock(self._own, fcntl.LOCK_EX)  # whoever looks at it has it for a moment only
        except OSError:
            os.close(self._lock)
            raise
        self._write()

    @property
    def step(self) -> int:
        """By how much a grant is raised at a time, if there is so much."""
        return min(max(self.limit // 16, 1), STEP_MOST)

    def close(self) -> None:
        """Gives the grant back; what the store uses counts from now on."""
        with contextlib.suppress(OSError):
            os.unlink(self._folder / GRANT_NAME)
        os.close(self._own)
        os.close(self._lock)

    def ask(self, needed: int) -> bool:
        """Raises the grant to ``needed`` bytes, and a step more if there is room. False if it stays below."""
        with self._alone() as alone:
            if not alone:
                return self.granted >= needed
            others = self._others()
            most = self.limit - sum(other.space for other in others)
            if any(other.hungry for other in others):
                most = min(most, self._share(others))
            self.granted = max(self.granted, min(needed + self.step, most))
            self.hungry = self.granted < needed and self.granted < self._share(others)
            self._write()
        return self.granted >= needed

    def settle(self, used: int) -> int:
        """Gives back what is granted and not needed; returns what the store should come down to, as others have too
        little.

        That is an equal share; ``used`` if nobody lacks anything.
        """
        with self._alone() as alone:
            if not alone:
                return used
            others = self._others()
            outside = sum(other.space for other in others)
            # Of what was there before there was a limit, or was made smaller: the rest has to go.
            most = max(0, self.limit - outside)
            if any(other.hungry for other in others):
                most = min(most, max(self._share(others), used - self.step))
            self.granted = min(self.granted, used + self.step, max(most, used))
            self._write()
        return min(used, most)

    def lower(self, to: int) -> None:
        """The store uses less now, and others may have the rest."""
        self.granted = min(self.granted, to)
        self._write()

    def _share(self, others: list[_Other]) -> int:
        return self.limit // (1 + sum(other.filled for other in others))

    def _write(self) -> None:
        os.pwrite(self._own, f"{self.granted:20} {int(self.hungry)}\n".encode(), 0)

    def _others(self) -> list[_Other]:
        loose = 0
        with os.scandir(self._cache_dir) as found:
            for entry in found:
                with contextlib.suppress(OSError):
                    loose += 0 if entry.is_dir(follow_symlinks=False) else entry.stat().st_blocks * 512
        loose += os.stat(self._cache_dir).st_blocks * 512
        stores = [_other(folder) for folder in stores_in(self._cache_dir) if folder.name != self._folder.name]
        return [_Other(loose), *stores]

    @contextlib.contextmanager
    def _alone(self) -> Iterator[bool]:
        """Holds the lock of the cache folder; False if others have it for too long (a stopped process, perhaps)."""
        for _ in range(_TRIES):
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(_PAUSE)
        else:
            yield False
            return
        try:
            yield True
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_UN)


def _other(folder: Path) -> _Other:
    space = space_of(folder)
    try:
        fd = os.open(folder / GRANT_NAME, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return _Other(space)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        words = os.pread(fd, 64, 0).split()
        if len(words) != 2 or not all(word.isdigit() for word in words):
            return _Other(space, filled=True)
        return _Other(max(space, int(words[0])), filled=True, hungry=words[1] == b"1")
    finally:
        os.close(fd)
    return _Other(space)
