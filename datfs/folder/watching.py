"""Bringing what happens in a folder into its drive while it happens.

Names come from the kernel (inotify, by :mod:`watchfiles`) and say only where to look. A file that was just written
waits until it is left alone for a moment, so that a save in several steps is one change of the drive.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import trio
import watchfiles

from datfs.confined import PRIVATE
from datfs.errors import DatfsError
from datfs.folder.committing import EVERYTHING, Report, WorkingFolder, in_walking_order
from datfs.folder.ignore import RULES
from datfs.metadata import Path as DrivePath

SETTLED = 0.5  # seconds for which a file is left alone before it is taken
PATIENCE = 10.0  # seconds after which one is taken that is written all the time
RETRY = 5.0  # seconds after a disk refused
BATCH_MS = 100  # names are gathered for so long after the last one
MANY = 2_000  # of more names at once some may have got lost: everything is compared


class Stopped(DatfsError):
    """The watch is to end; nothing is left half done."""


class Until:
    """Is told how far work has come, in its thread, and ends it when :meth:`stop` was called."""

    def __init__(self) -> None:
        self._stopped = False

    def stop(self) -> None:
        """The next thing that is told ends the work."""
        self._stopped = True

    def file(self, name: bytes) -> None:
        """Ends the work, or not."""
        self.advance(0)

    def advance(self, size: int) -> None:
        """Ends the work, or not. Raises Stopped."""
        if self._stopped:
            raise Stopped("stopped")

    def file_done(self) -> None:
        """Nothing: it was told that it begins."""


class FolderWatch:
    """Watches a folder that is open for writing. ``tell`` is called with what each commit did, ``trouble`` when the
    disk refuses one, which is tried again.

    The folder is worked on in threads, one at a time, and by nobody else meanwhile.
    """

    def __init__(
        self, working: WorkingFolder, tell: Callable[[Report], None], trouble: Callable[[OSError], None], until: Until
    ) -> None:
        self._working = working
        self._top = os.path.realpath(working.folder)
        self._tell = tell
        self._trouble = trouble
        self._until = until
        self._waiting: dict[DrivePath, float] = {}  # since when
        self._came = trio.Event()

    async def run(self) -> None:
        """Until it is cancelled, which waits for the file that is being added. Raises Stopped."""
        self._note(())  # what happened before the watch began
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._gather)
            while True:
                await self._came.wait()
                self._came = trio.Event()
                while self._waiting:
                    try:
                        await self._take_settled()
                    except OSError as error:
                        self._trouble(error)
                        self._note(())
                        await trio.sleep(RETRY)
                    if self._waiting:
                        await trio.sleep(SETTLED / 2)

    async def _gather(self) -> None:
        private = os.path.join(self._top, os.fsdecode(PRIVATE))

        def concerns(_: watchfiles.Change, place: str) -> bool:
            return place != private and not place.startswith(private + os.sep)

        async for changes in watchfiles.awatch(self._top, watch_filter=concerns, step=BATCH_MS, recursive=True):
            if len(changes) > MANY:
                self._note(())
                continue
            for _, place in changes:
                self._note(self._path_of(place))

    def _path_of(self, place: str) -> DrivePath:
        """Where to look when the kernel names a place."""
        below = os.fsencode(os.path.relpath(place, self._top))
        if below in (b".", os.fsencode(RULES)):
            return ()
        path = tuple(below.split(b"/"))
        # Names that are not UTF-8 come mangled; what they are is seen in their folder.
        return path[:-1] if "\ufffd" in place else path

    def _note(self, path: DrivePath) -> None:
        self._waiting.setdefault(path, time.monotonic())
        self._came.set()

    async def _take_settled(self) -> None:
        now, clock = time.monotonic(), time.time()
        ready = [
            path
            for path, since in self._waiting.items()
            if now - since > PATIENCE or (now - since > SETTLED and not self._is_warm(path, clock))
        ]
        for path in ready:
            del self._waiting[path]
        if ready:
            paths = EVERYTHING if () in ready else in_walking_order(_outermost(ready))
            self._tell(await trio.to_thread.run_sync(self._commit, paths))

    def _is_warm(self, path: DrivePath, clock: float) -> bool:
        """Whether a file was written just now."""
        try:
            found = os.stat(b"/".join((os.fsencode(self._working.folder), *path)))
        except OSError:
            return False
        return bool(path) and 0 <= clock - found.st_mtime < SETTLED

    def _commit(self, paths: tuple[DrivePath, ...] | list[DrivePath]) -> Report:
        report = Report()
        found = self._working.compare(paths, self._until)
        report.left_out += found.left_out
        if found.changes or self._working.pending:
            self._working.commit(found.changes, self._until, report)
        return report


def _outermost(paths: list[DrivePath]) -> list[DrivePath]:
    """The paths without those that are below another one."""
    those = set(paths)
    return [path for path in those if not any(path[:depth] in those for depth in range(len(path)))]
