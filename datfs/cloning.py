"""A copy of a drive in a folder, brought up to date from peers: what ``clone``, ``pull`` and ``sync`` do.

The folder is one of the ``dat`` command (:mod:`datfs.dat_clone`), which can go on with it. Owns the order: metadata, a
look at what is in the way, room, content, the finishing of files. Which files are wanted is remembered in the folder.

A file of the person's own, or one that the person changed, is never overwritten unless :attr:`Choice.force` says so:
it is named, and nothing is done, or with :attr:`Choice.around` everything but the file in its place. One that the drive
deleted and the person changed stays.
"""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import shutil
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Protocol

import trio
from pathspec import GitIgnoreSpec

from datfs.client import Notice, Options, swarm_for_folder
from datfs.clone_plan import CloneFile, Work
from datfs.dat_clone import DatClone, open_dat_clone
from datfs.dat_folder import INNER
from datfs.errors import BadStore, DatfsError, NotFound, TimedOut, Unavailable
from datfs.hashed_file import Marks
from datfs.metadata import Path as DrivePath
from datfs.net.swarm import Swarm
from datfs.sparse import SparseRegister
from datfs.text import show_size
from datfs.wants import Urgency

log = logging.getLogger(__name__)

SETTINGS = "datfs.json"
BATCH_CHUNKS = 1024  # wanted at a time
BATCHES_AHEAD = 2  # besides, so that every peer always has something to be asked for
METADATA_AHEAD = 8192  # chunks
FLUSH_SECONDS = 1.0  # between two flushes, or
FLUSH_SHARE = 5  # so many times what the last one took, if that is more: a slow disk has other things to do
SEND_SECONDS = 0.25  # between two times that the disk is asked to begin
SETTLE_SECONDS = 5.0  # for answers that are on their way when a newer version comes
LOOK_SECONDS = 2.0  # between two looks at what is in the way
LOOKED_AT_MOST = 256  # paths
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

    ``version``: an older one, None for the newest. ``force``: overwrite and remove what is in the way. ``around``:
    leave out what something is in the way of.
    """

    select: tuple[str, ...] | None = None
    version: int | None = None
    force: bool = False
    around: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """A folder after an update. ``fetched``: files, ``size``: their bytes. ``removed``: those that the drive lost.

    ``failed``: files that are not in the folder, and why. ``kept``: changed ones that the drive lost, and that stay.
    ``blocking``: what of the person's was in the way, and was left as it is.
    """

    version: int
    fetched: int
    size: int
    removed: int
    failed: tuple[tuple[DrivePath, str], ...] = ()
    kept: tuple[DrivePath, ...] = ()
    blocking: Mapping[DrivePath, Marks] = field(default_factory=dict)


class Clone:
    """A folder with a copy, and its peers. Made by :func:`open_clone`."""

    def __init__(self, folder: Path, files: DatClone, swarm: Swarm, options: Options) -> None:
        self.folder = folder
        self.files = files
        self.swarm = swarm
        self.metadata = SparseRegister(files.metadata, swarm, name="metadata")
        self.content: SparseRegister | None = None
        self._options = options
        self._disk = trio.Lock()  # the folder is worked on in threads, by one at a time
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

        Raises Conflict if files of the person's own are in the way and are not gone around, with nothing changed;
        Unavailable, NotFound, BadMetadata, OSError with what has come so far in place.
        """
        async with self._flushing():
            version = await self.fetch_metadata(choice.version)
            await self._settle()
            work = await self._prepare(version, choice)
            self._check_room(work)
            told.start(len(work.missing), sum(file.size for file in work.missing))
            told.advance(sum(file.here for file in work.missing))
            await self._fetch(work.missing, told)
        await self._flush()
        self.files.finish(work)
        failed = {path for path, _ in work.failed}
        fetched = [file for file in work.missing if file.path not in failed]
        size = sum(file.size for file in fetched)
        return Outcome(
            version, len(fetched), size, work.removed, tuple(work.failed), tuple(work.kept), dict(work.blocking)
        )

    async def more_to_do(self, length: int, blocking: Mapping[DrivePath, Marks]) -> None:
        """Waits until the metadata are longer than ``length``, or something of what was in the way is not any more.

        Raises Closed.
        """
        looked_at = dict(islice(blocking.items(), LOOKED_AT_MOST))
        while True:
            with trio.move_on_after(LOOK_SECONDS if looked_at else math.inf) as looking:
                await self.metadata.grown_beyond(length)
            if not looking.cancelled_caught or not self.files.still_there(looked_at):
                return

    async def _prepare(self, version: int, choice: Choice) -> Work:
        async with self._disk:
            for step in self.files.prepare(version, _wants(choice), force=choice.force, around=choice.around):
                if step is not None:
                    return step
                await trio.lowlevel.checkpoint()
        raise AssertionError("the work is the last step")

    async def _fetch(self, missing: Sequence[CloneFile], told: Told) -> None:
        content = self.content
        if content is None:
            return
        arrived = 0
        current: DrivePath = ()

        def tell(path: DrivePath, size: int, whole: bool) -> None:
            nonlocal arrived, current
            arrived += size
            if path is not current:
                current = path
                told.file(b"/".join(path))
            told.advance(size)
            if whole:
                told.file_done()

        self.files.tell(tell)
        batches = _batches(content, missing)
        ahead: deque[list[int]] = deque()
        try:
            while True:
                while len(ahead) <= BATCHES_AHEAD and (batch := next(batches, None)) is not None:
                    content.want(batch, Urgency.BACKGROUND)
                    ahead.append(batch)
                if not ahead:
                    return
                before = arrived
                try:
                    with trio.fail_after(self._options.timeout):
                        await content.ensure(ahead[0], Urgency.BACKGROUND)
                except trio.TooSlowError:
                    if arrived == before:
                        raise TimedOut(
                            f"nobody delivered anything within {self._options.timeout:g} s"
                            f" ({len(self.swarm.sessions)} peers connected): try again, what is here is kept"
                        ) from None
                    continue
                content.drop(ahead.popleft(), Urgency.BACKGROUND)
        finally:
            for batch in ahead:
                content.drop(batch, Urgency.BACKGROUND)
            self.files.tell(lambda path, size, whole: None)

    def _check_room(self, work: Work) -> None:
        needed = sum(file.size - file.here for file in work.missing)
        free = shutil.disk_usage(self.folder).free
        if needed > free - ROOM_LEFT:
            raise OSError(
                errno.ENOSPC,
                f"{show_size(needed)} are to come, and only {show_size(free)} are free",
                str(self.folder / INNER),
            )

    async def _settle(self) -> None:
        """Lets answers come that are on their way: they may be about files that are replaced next."""
        content = self.content
        with trio.move_on_after(SETTLE_SECONDS):
            while content is not None and content.wants.in_flight:  # noqa: ASYNC110  # rare, and soon over
                await trio.sleep(0.05)

    @asynccontextmanager
    async def _flushing(self) -> AsyncIterator[None]:
        """Gives names to what is whole now and then, and makes it durable: a crash costs no more than seconds of it."""
        failed: list[OSError] = []

        async def run() -> None:
            pause = FLUSH_SECONDS
            while True:
                try:
                    await self._send_out(pause)
                    began = trio.current_time()
                    await self._flush()
                    pause = max(FLUSH_SECONDS, FLUSH_SHARE * (trio.current_time() - began))
                except OSError as error:
                    failed.append(error)
                    nursery.cancel_scope.cancel()

        error: Exception | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            try:
                yield
            except Exception as raised:
                error = raised  # raised outside, so that it does not come wrapped in a group
            nursery.cancel_scope.cancel()
        if failed:
            raise failed[0]
        if error is not None:
            raise error

    async def _send_out(self, pause: float) -> None:
        """Waits for a flush. A disk that keeps up has less to do at the end if it begins with large files meanwhile.

        On one that does not, the flush of their hashes would have to wait for them, and more come again after a crash.
        """
        with trio.move_on_after(pause):
            while True:
                await trio.sleep(SEND_SECONDS if pause == FLUSH_SECONDS else pause)
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(self.files.sending_out())

    async def _flush(self) -> None:
        async with self._disk:
            with trio.CancelScope(shield=True), suppress(StopIteration):  # what a thread has done is to be noted
                steps = self.files.flushing()
                work = next(steps)
                while True:
                    try:
                        result = await trio.to_thread.run_sync(work)
                    except BaseException as error:
                        work = steps.throw(error)
                    else:
                        work = steps.send(result)


def _batches(content: SparseRegister, files: Sequence[CloneFile]) -> Iterator[list[int]]:
    """The chunks of files that are not here, in order, so many at a time that asking costs little."""
    batch: list[int] = []
    for file in files:
        for first in range(file.first, file.stop, BATCH_CHUNKS):
            has = content.register.has
            batch += [index for index in range(first, min(first + BATCH_CHUNKS, file.stop)) if not has(index)]
            if len(batch) >= BATCH_CHUNKS:
                yield batch
                batch = []
    if batch:
        yield batch


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
