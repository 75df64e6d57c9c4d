"""Fetching files of a drive in advance, and telling which are not here whole.

For whoever has the drive open: a command that opened it, or a mount that is asked to. No terminal, no FUSE.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import trio

from datfs.client import OpenDrive
from datfs.drive import DriveTree
from datfs.errors import BadMetadata, CacheFull, DatfsError, NotADirectory, NotFound, TimedOut, Unavailable
from datfs.metadata import Path, plausible
from datfs.sparse import SparseRegister
from datfs.text import show_path, show_size
from datfs.vfs import Kind
from datfs.wants import Urgency

BATCH = 64  # chunks
BATCHES_AT_ONCE = 4
FULL_LOOK = 1.0  # seconds of waiting for a chunk before it is looked whether the cache is full


class Watcher(Protocol):
    """Who is told how far it has come, as :class:`datfs.cli.progress.Progress`."""

    def start(self, files: int, size: int) -> None:
        """There are so many files and bytes to fetch."""
        ...

    def file(self, name: bytes | str) -> None:
        """This one is being fetched."""
        ...

    def advance(self, size: int) -> None:
        """So many more bytes are here."""
        ...

    def file_done(self, files: int = 1) -> None:
        """One more file is here."""
        ...


@dataclass(frozen=True, slots=True)
class Wanted:
    """A file that was asked for: its chunks are ``first .. stop-1``."""

    path: Path
    size: int
    first: int
    stop: int


@dataclass(slots=True)
class Report:
    """What is here of the files that were asked for. ``missing``: those that are not here whole.

    ``size_held``: bytes, about: as if all chunks of a file were of one size.
    """

    files: int = 0
    size: int = 0
    chunks: int = 0
    chunks_held: int = 0
    size_held: int = 0
    missing: list[Wanted] = field(default_factory=list)


async def files_below(
    tree: DriveTree,
    paths: Iterable[Path],
    unknown: set[Path] | None = None,
    not_there: dict[Path, DatfsError] | None = None,
) -> list[Wanted]:
    """Every file at or below the paths, each once; fetches the metadata for it.

    ``unknown``: gets the paths whose metadata cannot be had, instead of the error. ``not_there``: likewise the paths
    that are not in the version, with what there is to say of each. Raises NotFound, NotADirectory, BadMetadata, and
    as :meth:`datfs.sparse.SparseRegister.ensure` does. Has no deadline of its own.
    """
    found: dict[Path, Wanted] = {}
    for path in paths:
        pending = [path]
        while pending:
            at = pending.pop()
            try:
                file, below = await _look_at(tree, at)
            except Unavailable:
                if unknown is None:
                    raise
                unknown.add(at)
                continue
            except (NotFound, NotADirectory) as error:
                if not_there is None:
                    raise
                not_there[at] = error
                continue
            pending += reversed(below)
            if file is not None:
                found[at] = file
    return list(found.values())


async def _look_at(tree: DriveTree, path: Path) -> tuple[Wanted | None, list[Path]]:
    """The file at a path, or the paths in the directory there."""
    entry = await tree.find(path)
    if entry.kind is Kind.DIRECTORY:
        return None, sorted(child.path for child in await tree.list(entry))
    stat = await tree.stat_of(entry)
    if (wrong := plausible(stat, None)) is not None:
        raise BadMetadata(f"{show_path(path)}: the drive's entry cannot be right: {wrong}")
    return Wanted(path, stat.size, stat.offset, stat.offset + stat.blocks), []


def report(content: SparseRegister, files: Sequence[Wanted]) -> Report:
    """What is here of these files."""
    result = Report()
    for file in files:
        held = content.register.data_bits.count(file.first, file.stop)
        result.files += 1
        result.size += file.size
        result.chunks += file.stop - file.first
        result.chunks_held += held
        result.size_held += file.size * held // max(1, file.stop - file.first)
        if held < file.stop - file.first:
            result.missing.append(file)
    return result


async def prefetch(opened: OpenDrive, files: Sequence[Wanted], watcher: Watcher, timeout: float) -> Report:
    """Fetches all chunks of the files, in their order, behind what readers wait for; tells what is here then.

    ``timeout``: seconds without any new chunk after which it is given up. Raises TimedOut, NoPeers, CacheFull;
    what came until then stays.
    """
    content = opened.drive.content
    assert content is not None
    lacking = [file for file in files if not content.has_range(file.first, file.stop)]
    size = sum(file.size for file in lacking)
    limit = opened.keeper.limit if opened.keeper is not None else None
    if limit is not None and sum(file.size for file in files) > limit:
        raise _no_room(f"{show_size(sum(file.size for file in files))} are asked for, the limit is {show_size(limit)}")
    watcher.start(len(lacking), size)
    work = _Work(content, lacking, watcher, timeout)
    failed: Exception | None = None
    try:
        async with trio.open_nursery() as workers:
            for _ in range(BATCHES_AT_ONCE):
                workers.start_soon(work.run)
    except* (DatfsError, OSError) as errors:
        failed = next(_leaves(errors))  # raised outside, so that it does not come wrapped in a group
    if failed is not None:
        raise failed
    return report(content, files)


def _leaves(group: BaseExceptionGroup[Exception]) -> Iterator[Exception]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


def _no_room(why: str) -> CacheFull:
    return CacheFull(f"the cache has no room for it within --cache-size: {why}")


class _Work:
    """What several workers share: the batches that are left, and when something came last."""

    def __init__(self, content: SparseRegister, files: Sequence[Wanted], watcher: Watcher, timeout: float) -> None:
        self._content = content
        self._watcher = watcher
        self._timeout = timeout
        self._batches = [
            (file, range(first, min(first + BATCH, file.stop)))
            for file in reversed(files)
            for first in reversed(range(file.first, file.stop, BATCH))
        ]
        self._left = {file: -(-(file.stop - file.first) // BATCH) for file in files}
        self._came = trio.current_time()

    async def run(self) -> None:
        """Takes batches until none is left."""
        while self._batches:
            file, batch = self._batches.pop()
            self._watcher.file(b"/" + b"/".join(file.path))
            await self._fetch(file, batch)
            self._left[file] -= 1
            if not self._left[file]:
                self._watcher.file_done()

    async def _fetch(self, file: Wanted, batch: range) -> None:
        content, register = self._content, self._content.register
        missing = [index for index in batch if not register.has(index)]
        content.want(missing, Urgency.LATER)
        try:
            for index in batch:
                if not register.has(index):
                    await self._wait_for(file, index)
                self._watcher.advance(register.size_of(index))
        finally:
            content.drop(missing, Urgency.LATER)

    async def _wait_for(self, file: Wanted, index: int) -> None:
        content = self._content
        while not content.register.has(index):
            if content.cramped:
                raise _no_room("nothing else in the cache can be given up (pins, metadata, other processes)")
            with trio.move_on_after(min(FULL_LOOK, self._timeout)):
                await content.ensure((index,), Urgency.LATER)
                self._came = trio.current_time()
                return
            if trio.current_time() - self._came > self._timeout:
                raise TimedOut(f"{show_path(file.path)}: nothing more came within {self._timeout:g} s")
