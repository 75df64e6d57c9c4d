"""Serving a folder that another process writes: its registers are read again when their files change.

The folder is looked at a few times a second. What a writer has made durable is in the bits, which it writes last, so
whatever is found between two of its flushes is whole; what does not fit together yet is looked at again.
"""

from __future__ import annotations

import logging
import time
from dataclasses import replace

import trio

from datfs.client import OpenDrive
from datfs.errors import DatfsError, ForkedRegister
from datfs.register import Register
from datfs.sparse import SparseRegister
from datfs.storage import directory_storage
from datfs.working_files import working_content

log = logging.getLogger(__name__)

INTERVAL = 0.5  # seconds between two looks
RACY_NS = 50_000_000  # files written less than so long ago may be written again without their times telling

Marks = tuple[tuple[int, int, int], ...]


class FolderGrowth:
    """Follows what is appended to the registers of an open folder, and tells its peers if it has any."""

    def __init__(self, opened: OpenDrive) -> None:
        self._opened = opened
        assert opened.store.folder is not None
        self._folder = opened.store.folder
        # Each look opens and closes files of its own.
        self._store = replace(opened.store, open_storage=directory_storage(self._folder, read_only=True))
        self._marks: Marks | None = None

    async def follow(self) -> None:
        """Looks again and again, until it is cancelled. Raises ForkedRegister if the folder has another drive now."""
        while True:
            self.look()
            await trio.sleep(INTERVAL)

    def look(self) -> bool:
        """Takes over what is new; whether there was anything. Raises ForkedRegister."""
        marks = self._marks_now()
        if marks == self._marks:
            return False
        newest = max((mtime for mtime, _, _ in marks), default=0)
        self._marks = marks if time.time_ns() - newest > RACY_NS else None
        try:
            return self._take_over()
        except ForkedRegister:
            self._marks = None  # whoever looks next is told too
            raise
        except (DatfsError, OSError) as error:
            log.debug("the folder is looked at again: %s", error)
            self._marks = None
            return False

    def _marks_now(self) -> Marks:
        folder, store = self._folder, self._store
        marks = []
        for prefix in (store.metadata_prefix, store.content_prefix):
            for name in ("signatures", "bitfield"):
                try:
                    found = (folder / (prefix + name)).stat()
                except OSError:
                    continue
                marks.append((found.st_mtime_ns, found.st_size, found.st_ino))
        return tuple(marks)

    def _take_over(self) -> bool:
        opened, drive, store = self._opened, self._opened.drive, self._store
        metadata = Register.open(store.open_storage, key=drive.key, read_only=True, prefix=store.metadata_prefix)
        changed = self._catch_up(drive.metadata, metadata)
        content = drive.content
        if content is None:
            return changed
        key = content.register.key
        if store.working is None:
            return (
                self._catch_up(
                    content, Register.open(store.open_storage, key=key, read_only=True, prefix=store.content_prefix)
                )
                or changed
            )
        register, files = working_content(store, drive.metadata.register, key, opened.working)
        opened.working, drive.check_bytes = files, files.check
        return self._catch_up(content, register) or changed

    def _catch_up(self, sparse: SparseRegister, newer: Register) -> bool:
        swarm = self._opened.swarm
        gained, lost = sparse.register.catch_up(newer)
        if swarm is not None:
            for first, stop in lost:
                swarm.retract(sparse, first, stop - first)
        for first, stop in gained:
            if swarm is not None:
                swarm.announce(sparse, first, stop - first)
            else:
                sparse.appended(first, stop - first)
        return bool(gained or lost)
