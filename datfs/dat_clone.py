"""A reader's folder as the ``dat`` command has it: chunks become the files of the drive (sleep.md sections 7 and 8).

Only one version of each file fits. :meth:`DatClone.prepare` finds out what a version takes, chunks are put by whoever
fetches them, :meth:`DatClone.flushing` gives names to files that are whole, and :meth:`DatClone.finish` removes what
the drive has no more. Interrupted anywhere, every name has a whole file, old or new, and nothing comes twice
(``docs/storage.md``).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from functools import partial
from pathlib import Path
from typing import Any

from datfs.clone_content import ClonedContent
from datfs.clone_plan import Plan, Wants, Work, in_place
from datfs.confined import ConfinedFolder
from datfs.crypto import leaf_hash
from datfs.dat_content import Extent
from datfs.dat_folder import INNER, OWNER, drive_in, lock, mixed, unlock
from datfs.errors import BadMetadata, NotADrive, ReadOnly
from datfs.hashed_file import Marks, marks_of
from datfs.metadata import Path as DrivePath
from datfs.metadata import decode_header
from datfs.placing import send_out
from datfs.register import ChunkMissing, Register
from datfs.storage import FileStorage, directory_storage

LATEST = "metadata.latest"
LATEST_BYTES = 8


def open_dat_clone(folder: Path, key: bytes | None = None) -> DatClone:
    """Opens a reader's folder; with ``key`` one is made if it is not there.

    Raises NotADrive, ReadOnly for the folder of a writer, BadStore, StoreLocked, OSError.
    """
    base = folder / INNER
    if key is None:
        drive_in(folder)
    base.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        locked = lock(base, stack)
        if (base / "content.data").exists():
            raise NotADrive(f"{folder}: the content of this drive is in {base / 'content.data'}, not in the files")
        if any((base / name).exists() for name in (OWNER, "metadata.secret_key")):
            raise ReadOnly(f"{folder}: the drive is written here, so nothing is fetched into it")
        metadata = Register.open(directory_storage(base), key=key, prefix="metadata.")
        stack.callback(metadata.close)
        files = ClonedContent(ConfinedFolder(folder), base, metadata)
        stack.callback(files.close)
        clone = DatClone(base, metadata, files, locked)
        stack.pop_all()
    return clone


class DatClone:
    """A reader's copy of a drive in a folder. ``latest``: the version whose files are all in the folder, 0 if unknown.

    What is in the folder follows from the bits on the disk: they are set only of files that have their names.
    """

    def __init__(self, base: Path, metadata: Register, files: ClonedContent, locked: int) -> None:
        self.metadata = metadata
        self.latest = min(read_latest(base), max(0, metadata.length - 1))
        self._base = base
        self._files = files
        self._lock = locked
        self._content: Register | None = None
        self._work = Work(self.latest)
        files.entries.advance(metadata.length - 1)

    @property
    def content(self) -> Register | None:
        """The content register; None until metadata chunk 0 is here. Raises BadMetadata, BadStore, OSError."""
        if self._content is None and self.metadata.has(0):
            key = decode_header(self.metadata.get(0)).content_key
            if key == self.metadata.key:
                raise BadMetadata("the drive's header names the drive itself as its content")
            self._content = Register.open(mixed(self._base, self._files), key=key, prefix="content.")
            self._content.hold_back()
            places = (in_place(self._files, self._content, path) for path in self._files.entries.of)
            self._files.arrange((found[0] for found in places if found), ())
        return self._content

    def tell(self, told: Callable[[DrivePath, int, bool], None]) -> None:
        """``told`` is called with the path of a file, the bytes that come of it, and whether it is whole with them."""
        self._files.told = told

    # -- what is to be done

    def prepare(
        self,
        version: int | None = None,
        wants: Wants = lambda path: True,
        *,
        force: bool = False,
        around: bool = False,
    ) -> Iterator[Work | None]:
        """Finds out what brings the folder to a version (default: the newest): yields None now and then, then the work.

        ``wants``: which files, by path. From then on chunks can be put. Files that may have been changed are hashed.
        Raises Conflict, with nothing changed, if files would be lost that the drive did not put there, unless
        ``force``, or with ``around``, which leaves out what they are in the way of; ChunkMissing if an entry is not
        here; BadMetadata, OSError.
        """
        content = self.content
        newest = max(0, self.metadata.length - 1)
        work = Work(newest if version is None else min(version, newest))
        if content is None:
            yield work
            return
        if not self.metadata.has_range(0, work.version + 1):
            raise ChunkMissing(f"entries of version {work.version} are not here")
        self._files.entries.advance(newest)
        yield from Plan(self._files, content, work, self.latest, wants, force=force, around=around).make()
        yield from self._begin(work)
        yield work

    def still_there(self, found: Mapping[DrivePath, Marks]) -> bool:
        """Whether what was in the way is as it was found."""
        for path, marks in found.items():
            try:
                now = self._files.folder.look(path)
            except OSError:
                now = None
            if now is None or marks_of(now) != marks:
                return False
        return True

    # -- doing it

    def _begin(self, work: Work) -> Iterator[None]:
        """Arranges the folder for what is to come, and takes up what was here of it."""
        content = self._content
        assert content is not None
        for extent in work.stale:
            content.forget(extent.first, extent.first + extent.blocks)
        coming = {part.path for part, _ in work.parts}
        above = {path[:depth] for path in coming for depth in range(1, len(path))}
        first = [
            extent
            for extent in work.gone
            if extent.path in above or any(extent.path[:depth] in coming for depth in range(1, len(extent.path)))
        ]
        begun = set(self._files.parts_left())
        wanted = {extent.seq for extent, _ in work.parts}
        for extent, _ in work.parts:  # bits of parts that were given up meanwhile
            if not content.stored_bits.any_set(extent.first, extent.first + extent.blocks):
                content.forget(extent.first, extent.first + extent.blocks)
        self._files.arrange(work.in_place, work.parts)
        for seq in begun - wanted:
            self._files.remove_part(seq)
        here: dict[int, int] = {}
        for extent, _ in work.parts:
            if extent.seq in begun:
                here[extent.first] = yield from self._take_up(extent)
        work.missing = [file._replace(here=here.get(file.first, 0)) if file.size else file for file in work.missing]
        self._work = work
        self._remove(work, first)
        for extent, _ in work.parts:
            if extent.start == extent.stop:
                self._files.took(extent, 0)

    def _take_up(self, extent: Extent) -> Generator[None, None, int]:
        """Holds the chunks again that a part has, as their hashes tell; the bytes of them."""
        content = self._content
        assert content is not None
        size = 0
        for index in range(extent.first, extent.first + extent.blocks):
            leaf = content.node(2 * index)
            if leaf is None or content.has(index):
                continue
            try:
                data = self._files.read(content.byte_offset(index), leaf.size)
            except ChunkMissing:
                continue
            yield None
            if len(data) == leaf.size and leaf_hash(data) == leaf.hash:
                content.restore(index, index + 1)
                size += leaf.size
        if size:
            self._files.took(extent, size)
        return size

    def _remove(self, work: Work, extents: list[Extent]) -> None:
        """Removes files that the drive has no more: first the bits, durably. A crash between leaves a file behind."""
        content = self._content
        assert content is not None
        if not extents:
            return
        for extent in extents:
            content.forget(extent.first, extent.first + extent.blocks)
        content.flush()
        done = {extent.path for extent in extents}
        for path in done:
            self._files.remove(path)
        work.gone = [extent for extent in work.gone if extent.path not in done]
        work.removed += len(done)

    def flushing(self) -> Generator[Callable[[], Any], Any, None]:
        """Gives names to what is whole, and makes everything durable. Yields what waits for the disk, to be called in
        any thread, and is sent what that returned. Raises OSError; what was not done is left to the next time.
        """
        metadata = self.metadata.begin_flush()  # entries come before the bits that need them
        yield metadata.sync
        metadata.finish()
        content, files, work = self._content, self._files, self._work
        if content is None:
            return
        batch = [extent for extent in files.whole if content.has_range(extent.first, extent.first + extent.blocks)]
        files.whole = []
        try:
            yield from self._name(batch, work)
        except BaseException:
            files.whole = [extent for extent in batch if files.gathers(extent)] + files.whole
            raise
        for extent in files.begun:
            self._vouch_in_place(content, extent)
        files.begun = set()
        pending = content.begin_flush()
        yield pending.sync
        pending.finish()

    def sending_out(self) -> Callable[[], None]:
        """What makes the bytes of parts set out for the disk before they are whole; to be called in any thread."""
        return partial(_send_out, self._files.being_written())

    def _vouch_in_place(self, content: Register, extent: Extent) -> None:
        """What came of a file that is finished in its place; the flush syncs the file before the bits."""
        first, stop = extent.first, extent.first + extent.blocks
        if content.has_range(first, stop):
            stat = next(stat for seq, stat in self._files.entries.of[extent.path] if seq == extent.seq)
            assert stat is not None
            self._files.dress(extent.path, stat)
        held = content.data_bits
        while (begin := held.next_set(first, stop)) is not None:
            first = held.next_clear(begin, stop) or stop
            content.vouch(begin, first)

    def _name(self, batch: list[Extent], work: Work) -> Generator[Callable[[], Any], Any, None]:
        content, files = self._content, self._files
        assert content is not None
        if not batch:
            return
        yield partial(files.sync_parts, batch)
        # Before the names: a bit on the disk must never be one of bytes that another file has replaced, and the hashes
        # have to be there by which a file is known that has its name and no bits yet.
        for extent in (old for part in batch for old in work.replaced.get(part.path, ())):
            content.forget(extent.first, extent.first + extent.blocks)
        pending = content.begin_flush()
        yield pending.sync
        pending.finish()
        for extent, error in (yield partial(files.name_parts, batch, work.replaceable)):
            if error is None:
                files.settle(extent)
                content.vouch(extent.first, extent.first + extent.blocks)
            else:
                work.failed.append((extent.path, error.strerror or str(error)))

    def flush(self) -> None:
        """As :meth:`flushing`, all in this thread. Raises OSError."""
        run_here(self.flushing())

    def finish(self, work: Work) -> None:
        """When everything has come: names for the last files, and what the drive has no more is removed."""
        content = self._content
        if content is not None:
            self.flush()
            told = {path for path, _ in work.failed}
            for extent in (part for part, _ in work.parts if self._files.gathers(part)):
                if extent.path not in told:
                    work.failed.append((extent.path, "its entry does not fit the bytes of its chunks"))
                    self._files.remove_part(extent.seq)
            self._remove(work, work.gone)
        if not work.failed and work.version != self.latest:
            write_latest(self._base, work.version)
            self.latest = work.version

    def close(self) -> None:
        """Flushes and closes everything, and lets others have the folder."""
        with ExitStack() as stack:
            stack.callback(unlock, self._lock)
            stack.callback(self._files.close)
            stack.callback(self.metadata.close)
            if self._content is not None:
                stack.callback(self._content.close)
                stack.callback(self.flush)
        self._lock = -1


def _send_out(parts: Sequence[tuple[int, bool]]) -> None:
    for fd, large in parts:
        send_out(fd, let_go=large)
        os.close(fd)


def run_here(steps: Generator[Callable[[], Any], Any, None]) -> None:
    """Does what :meth:`DatClone.flushing` yields, in this thread."""
    with suppress(StopIteration):
        work = next(steps)
        while True:
            try:
                result = work()
            except BaseException as error:
                work = steps.throw(error)
            else:
                work = steps.send(result)


def read_latest(base: Path) -> int:
    """The version in ``metadata.latest``; 0 if the file is missing or short (sleep.md section 7). Raises OSError."""
    with closing(FileStorage(base / LATEST, read_only=True)) as file:
        data = file.read(0, LATEST_BYTES)
    return int.from_bytes(data, "big") if len(data) == LATEST_BYTES else 0


def write_latest(base: Path, version: int) -> None:
    """Writes ``metadata.latest``, durably. Raises OSError."""
    with closing(FileStorage(base / LATEST)) as file:
        file.write(0, version.to_bytes(LATEST_BYTES, "big"))
        file.sync()
