"""A copy of a drive in a folder, brought up to date from peers: what ``clone``, ``pull`` and ``sync`` do.

The folder is one of the ``dat`` command (:mod:`datfs.dat_clone`), which can go on with it. Owns the order: metadata, a
look at what is in the way, room, content, the finishing of files. Which files are wanted is remembered in the folder.

A file of the person's own, or one that the person changed, is never overwritten or removed: it is named, and nothing
is done, unless :attr:`Choice.force` says so.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import trio
from pathspec import GitIgnoreSpec

from datfs.client import Notice, Options, swarm_for_folder
from datfs.dat_clone import CloneFile, DatClone, open_dat_clone
from datfs.dat_folder import INNER
from datfs.errors import BadStore, Conflict, DatfsError, NotFound, TimedOut, Unavailable
from datfs.metadata import Path as DrivePath
from datfs.net.swarm import Swarm
from datfs.sparse import SparseRegister, Urgency
from datfs.text import show_path, show_size

log = logging.getLogger(__name__)

SETTINGS = "datfs.json"
AHEAD_CHUNKS = 4096  # wanted at a time, so that every peer always has something to be asked for
STEP = 64  # chunks that are waited for at once
METADATA_AHEAD = 8192  # chunks
FLUSH_SECONDS = 5.0
SETTLE_SECONDS = 5.0  # for answers that are on their way when a newer version comes
ROOM_LEFT = 16 << 20  # bytes of the disk that are left alone


class Told(Protocol):
    """Who is told how far the files are."""

    def start(self, files: int, size: int) -> None:
        """So much there is to do."""
        ...

    def file(self, name: bytes | str) -> None:
        """This file is being fetched."""
        ...

    def advance(self, size: int) -> None:
        """So many more bytes are here."""
        ...

    def file_done(self, files: int = 1) -> None:
        """So many more files are here."""
        ...


@dataclass(frozen=True, slots=True)
class Choice:
    """What of a drive is wanted. ``select``: patterns as in .gitignore, None for everything; empty for nothing.

    ``version``: an older one, None for the newest. ``force``: overwrite and remove what is in the way.
    """

    select: tuple[str, ...] | None = None
    version: int | None = None
    force: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """A folder after an update. ``fetched``: files, ``size``: their bytes. ``removed``: those that the drive lost."""

    version: int
    fetched: int
    size: int
    removed: int


class Clone:
    """A folder with a copy, and its peers. Made by :func:`open_clone`."""

    def __init__(self, folder: Path, files: DatClone, swarm: Swarm, options: Options) -> None:
        self.folder = folder
        self.files = files
        self.swarm = swarm
        self.metadata = SparseRegister(files.metadata, swarm, name="metadata")
        self.content: SparseRegister | None = None
        self._options = options
        swarm.add_register(self.metadata)

    # -- versions

    async def learn_newest(self) -> None:
        """Asks for the newest version; one that is here already will do if nobody answers.

        Raises TimedOut or NoPeers if nothing of the drive is here and comes.
        """
        known = self.files.metadata.length
        try:
            with trio.fail_after(self._options.timeout):
                await self.metadata.learn_length()
        except (Unavailable, trio.TooSlowError) as error:
            if not known:
                raise self._nobody(error) from None
            log.info("the newest version could not be asked for: %s", error)
            raise self._nobody(error) from None

    def _nobody(self, error: Exception) -> DatfsError:
        if isinstance(error, DatfsError):
            return error
        peers = len(self.swarm.sessions)
        return TimedOut(
            f"no peer told the newest version of dat://{self.files.metadata.key.hex()} within"
            f" {self._options.timeout:g} s ({peers} connected): try again, or name a peer with --peer HOST:PORT"
        )

    async def fetch_metadata(self, version: int | None) -> int:
        """Fetches all entries up to a version (default: the newest known); returns it. Raises NotFound, Unavailable."""
        newest = max(0, self.files.metadata.length - 1)
        if version is not None and version > newest:
            raise NotFound(f"the drive has no version {version}: the newest known is {newest}")
        wanted = newest if version is None else version
        for first in range(0, wanted + 1, METADATA_AHEAD):
            await self._get(self.metadata, first, min(first + METADATA_AHEAD, wanted + 1), "the drive's entries")
        if self.content is None and (register := self.files.content) is not None:
            self.content = SparseRegister(register, self.swarm, name="content", trusted=False)
            self.swarm.add_register(self.content)
        return wanted

    async def _get(self, register: SparseRegister, first: int, stop: int, what: str) -> None:
        """Fetches chunks; the deadline is for each time that nothing at all comes."""
        while not register.has_range(first, stop):
            before = register.register.data_bits.count(first, stop)
            try:
                with trio.fail_after(self._options.timeout):
                    await register.ensure(range(first, stop), Urgency.BACKGROUND)
            except trio.TooSlowError:
                if register.register.data_bits.count(first, stop) == before:
                    raise TimedOut(
                        f"nobody delivered {what} within {self._options.timeout:g} s"
                        f" ({len(self.swarm.sessions)} peers connected): try again, what is here is kept"
                    ) from None

    # -- files

    async def update(self, choice: Choice, told: Told) -> Outcome:
        """Brings the folder to the wanted version. What was fetched before is not fetched again.

        Raises Conflict if files of the person's own are in the way, with nothing changed; Unavailable, NotFound,
        BadMetadata, OSError with what has come so far in place.
        """
        version = await self.fetch_metadata(choice.version)
        wants = _wants(choice)
        await self._settle()
        files = self.files
        change = files.plan(version)
        if not choice.force:
            blocking = files.in_the_way(change, wants)
            if blocking:
                raise Conflict(_conflict(self.folder, blocking))
        files.clean(version)
        wanted = [file for file in files.files() if wants(file.path)]
        missing = [file for file in wanted if not files.is_here(file)]
        self._check_room(missing)
        told.start(len(missing), sum(file.size for file in missing))
        async with self._flushing():
            fetched = await self._fetch(missing, told)
        files.finish(file for file in wanted if not file.size)
        files.flush()
        return Outcome(files.latest, len(fetched), sum(file.size for file in fetched), len(change.removed))

    async def _fetch(self, missing: Sequence[CloneFile], told: Told) -> list[CloneFile]:
        content = self.content
        if content is None:
            return []
        ahead = _Ahead(content, missing)
        try:
            for file in missing:
                told.file(b"/".join(file.path))
                await self._get_file(content, file, ahead, told)
                self.files.finish([file])
                told.file_done()
        finally:
            ahead.stop()
        return list(missing)

    async def _get_file(self, content: SparseRegister, file: CloneFile, ahead: _Ahead, told: Told) -> None:
        """In steps of some chunks, so that the bar moves within a large file too."""
        left = file.size
        for first in range(file.first, file.stop, STEP):
            stop = min(first + STEP, file.stop)
            if not content.has_range(first, stop):
                ahead.go_on()
                await self._get(content, first, stop, show_path(file.path))
            size = left if stop == file.stop else min(left, (stop - first) * max(1, file.size // file.blocks))
            told.advance(size)
            left -= size

    def _check_room(self, missing: Sequence[CloneFile]) -> None:
        needed = sum(file.size for file in missing)
        free = shutil.disk_usage(self.folder).free
        if needed > free - ROOM_LEFT:
            raise OSError(
                errno.ENOSPC,
                f"{show_size(needed)} are to come, and only {show_size(free)} are free: free some room,"
                " or take a part with --select",
                str(self.folder),
            )

    async def _settle(self) -> None:
        """Lets answers come that are on their way: they may be about files that are replaced next."""
        content = self.content
        with trio.move_on_after(SETTLE_SECONDS):
            while content is not None and content.count_in_flight:  # noqa: ASYNC110  # rare, and soon over
                await trio.sleep(0.05)

    @asynccontextmanager
    async def _flushing(self) -> AsyncIterator[None]:
        """Makes what comes durable now and then, so that a crash costs no more than seconds of it."""
        failed: list[OSError] = []

        async def run() -> None:
            while True:
                await trio.sleep(FLUSH_SECONDS)
                try:
                    for register in (self.files.metadata, self.files.content):
                        if register is not None:
                            pending = register.begin_flush()
                            await trio.to_thread.run_sync(pending.sync)
                            pending.finish()
                except OSError as error:
                    failed.append(error)
                    return

        error: Exception | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            try:
                yield
            except Exception as raised:
                error = raised  # raised outside, so that it does not come wrapped in a group
            nursery.cancel_scope.cancel()
        if error is not None or failed:
            raise error or failed[0]


class _Ahead:
    """Wants chunks before their turn, so many at a time, in the order of the files."""

    def __init__(self, content: SparseRegister, files: Sequence[CloneFile]) -> None:
        self._content = content
        self._coming = _pieces(content, files)
        self._wanted: deque[range] = deque()
        self._count = self._bytes = 0

    def go_on(self) -> None:
        """What is here by now makes room for what comes next."""
        content, wanted = self._content, self._wanted
        while wanted and content.has_range(wanted[0].start, wanted[0].stop):
            self._drop(wanted.popleft())
        added = False
        while self._count < AHEAD_CHUNKS:
            following = next(self._coming, None)
            if following is None:
                break
            content.want(following, Urgency.BACKGROUND)
            wanted.append(following)
            self._count += len(following)
            added = True
        if added:
            content.source.wants_changed(content)

    def _drop(self, indices: range) -> None:
        self._content.drop(indices, Urgency.BACKGROUND)
        self._count -= len(indices)

    def stop(self) -> None:
        """Nothing is wanted any more."""
        while self._wanted:
            self._drop(self._wanted.popleft())


def _pieces(content: SparseRegister, files: Sequence[CloneFile]) -> Iterator[range]:
    """Runs of chunks of the files that are not here, none of them long."""
    for file in files:
        for first in range(file.first, file.stop, STEP):
            stop = min(first + STEP, file.stop)
            if not content.has_range(first, stop):
                yield range(first, stop)


@asynccontextmanager
async def open_clone(
    folder: Path, key: bytes | None, options: Options, *, notice: Notice = log.info
) -> AsyncIterator[Clone]:
    """Opens the copy in a folder, with ``key`` also a new one, and looks for peers for as long as the context lasts.

    Raises NotADrive, ReadOnly for the folder of a writer, BadStore for one of another drive, StoreLocked, OSError.
    """
    files = open_dat_clone(folder, key)
    error: Exception | None = None
    try:
        async with swarm_for_folder(options, notice) as swarm, trio.open_nursery() as nursery:
            clone = Clone(folder, files, swarm, options)
            nursery.start_soon(swarm.run)
            try:
                yield clone
            except Exception as raised:
                error = raised  # raised outside, so that it does not come wrapped in a group
            for register in (clone.metadata, clone.content):
                if register is not None:
                    register.close()
            nursery.cancel_scope.cancel()
    finally:
        files.close()
    if error is not None:
        raise error


def _wants(choice: Choice) -> Callable[[DrivePath], bool]:
    """Whether a file is wanted, by its path."""
    if choice.select is None:
        return lambda path: True
    patterns = GitIgnoreSpec.from_lines(choice.select)
    return lambda path: patterns.match_file(b"/".join(path).decode("utf-8", "surrogateescape"))


def read_choice(folder: Path) -> Choice:
    """What was chosen when the folder was made; everything if nothing is noted. Raises BadStore, OSError."""
    try:
        noted = json.loads((folder / INNER / SETTINGS).read_text(encoding="utf-8"))
        select = noted["select"]
        if select is not None and not all(isinstance(one, str) for one in select):
            raise ValueError("select is no list of texts")
    except FileNotFoundError:
        return Choice()
    except (ValueError, KeyError, TypeError) as error:
        raise BadStore(f"{folder / INNER / SETTINGS} cannot be read ({error}): remove it to have everything") from None
    return Choice(tuple(select) if select is not None else None)


def write_choice(folder: Path, choice: Choice) -> None:
    """Notes which files are wanted, for the next time. Raises OSError."""
    place = folder / INNER / SETTINGS
    if choice.select is None:
        place.unlink(missing_ok=True)
        return
    beside = place.with_suffix(".new")
    beside.write_text(json.dumps({"select": choice.select}), encoding="utf-8")
    os.replace(beside, place)


def _conflict(folder: Path, paths: Iterable[DrivePath]) -> str:
    names = [show_path(path) for path in paths]
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return (
        f"{folder}: in the way of the drive's files: {', '.join(names[:5])}{more}; they are not the drive's, or were"
        " changed here. Move them away, or give --force to have them overwritten and removed. Nothing was changed"
    )
