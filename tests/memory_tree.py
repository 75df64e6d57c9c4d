"""A tree of files in memory behind the seam of :mod:`datfs.vfs`, whose files can be made to wait and to fail.

Used directly by the tests of the FUSE layer, and in a process of its own by those that mount for real.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import trio

from datfs.errors import IsADirectory, NotADirectory, NotFound
from datfs.vfs import Entry, Kind, TreeStats

MTIME_NS = 1_500_000_000_123_000_000


@dataclass(slots=True)
class MemoryFile:
    """``present``: how many bytes from the start are here; the rest comes when ``arrives`` is set.

    ``failure``: raised instead of anything that is not here. ``version``: another one is another identity.
    """

    content: bytes
    permissions: int = 0o644
    present: int | None = None
    failure: Exception | None = None
    arrives: trio.Event = field(default_factory=trio.Event)
    version: int = 1
    claimed_size: int | None = None
    news: int = 0
    progress: int = 0
    reads: int = 0  # by read_nowait

    def arrive(self) -> None:
        self.news += 1
        self.arrives.set()

    @property
    def size(self) -> int:
        return len(self.content) if self.claimed_size is None else self.claimed_size

    @property
    def complete(self) -> bool:
        return self.present is None


class OpenMemoryFile:
    """Implements TreeFile. Counts what is asked of it."""

    def __init__(self, file: MemoryFile) -> None:
        self.file = file
        self.closed = 0
        self.begun = 0
        self.waited_reads = 0

    @property
    def complete(self) -> bool:
        return self.file.complete

    @property
    def news(self) -> int:
        return self.file.news

    def progress(self, offset: int, length: int) -> int:
        return self.file.progress

    def read_nowait(self, offset: int, length: int) -> bytes | None:
        file = self.file
        file.reads += 1
        if file.present is not None and min(offset + length, file.size) > file.present:
            return None
        return file.content[offset : offset + length]

    async def read(self, offset: int, length: int) -> bytes:
        self.waited_reads += 1
        if self.file.failure is not None:
            raise self.file.failure
        await self.file.arrives.wait()
        return self.file.content[offset : offset + length]

    def begin(self) -> None:
        self.begun += 1

    def close(self) -> None:
        self.closed += 1


class MemoryTree:
    """Implements FileTree over ``{path: content}``; a path that ends in "/" is an empty directory.

    ``trouble(operation, path)`` is awaited before every lookup, list and open, to wait or to raise.
    """

    def __init__(self, files: dict[str, bytes | MemoryFile]) -> None:
        self.files: dict[tuple[bytes, ...], MemoryFile] = {}
        self.directories: dict[tuple[bytes, ...], set[bytes]] = {(): set()}
        self.opened: list[OpenMemoryFile] = []
        self.trouble: Callable[[str, tuple[bytes, ...]], object] | None = None
        self.hold_names: trio.Event | None = None
        self.names_news = 0
        for path, content in files.items():
            self.add(path, content)

    def add(self, path: str, content: bytes | MemoryFile) -> None:
        """Adds a file, with its parents, or replaces one."""
        parts = tuple(part.encode("utf-8", "surrogateescape") for part in path.split("/") if part)
        if path.endswith("/"):
            self.directories.setdefault(parts, set())
        else:
            self.files[parts] = content if isinstance(content, MemoryFile) else MemoryFile(content)
        while parts:
            name, parts = parts[-1], parts[:-1]
            self.directories.setdefault(parts, set()).add(name)

    def file(self, path: str) -> MemoryFile:
        return self.files[tuple(path.encode().split(b"/"))]

    @property
    def root(self) -> Entry:
        return self._entry(())

    def _entry(self, path: tuple[bytes, ...]) -> Entry:
        file = self.files.get(path)
        if file is None:
            return Entry(path, Kind.DIRECTORY, 0, 0o755, MTIME_NS, MTIME_NS, (path, 0))
        return Entry(path, Kind.FILE, file.size, file.permissions, MTIME_NS, MTIME_NS, (path, file.version))

    async def _meet_trouble(self, operation: str, path: tuple[bytes, ...]) -> None:
        if self.trouble is not None:
            self.trouble(operation, path)
        if self.hold_names is not None:
            await self.hold_names.wait()

    async def lookup(self, directory: Entry, name: bytes) -> Entry:
        await self._meet_trouble("lookup", (*directory.path, name))
        if directory.kind is not Kind.DIRECTORY:
            raise NotADirectory(repr(directory.path))
        if name not in self.directories.get(directory.path, ()):
            raise NotFound(repr(name))
        return self._entry((*directory.path, name))

    async def list(self, directory: Entry) -> Sequence[Entry]:
        await self._meet_trouble("list", directory.path)
        if directory.kind is not Kind.DIRECTORY:
            raise NotADirectory(repr(directory.path))
        return [self._entry((*directory.path, name)) for name in self.directories[directory.path]]

    async def open(self, entry: Entry) -> OpenMemoryFile:
        await self._meet_trouble("open", entry.path)
        if entry.kind is Kind.DIRECTORY:
            raise IsADirectory(repr(entry.path))
        opened = OpenMemoryFile(self.files[entry.path])
        self.opened.append(opened)
        return opened

    def facts(self, entry: Entry) -> Mapping[bytes, bytes]:
        return {b"user.test.size": str(entry.size).encode()}

    def stats(self) -> TreeStats:
        return TreeStats(bytes=sum(file.size for file in self.files.values()), entries=len(self.files))

    def news(self, directory: Entry) -> int:
        return self.names_news


@lru_cache
def noise(seed: int, size: int) -> bytes:
    """The same bytes in every process."""
    return random.Random(seed).randbytes(size)
