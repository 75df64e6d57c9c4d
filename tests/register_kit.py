"""Registers for tests: the vectors' key pair and chunks, copies, and disks that fail in the ways disks fail."""

from __future__ import annotations

import errno
import json
import os
import random
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from datfs.crypto import key_pair
from datfs.proof import PresenceSet
from datfs.register import Register
from datfs.storage import Buffer, MemoryStorage, OpenStorage, RandomAccess

VECTORS = Path(__file__).parent / "vectors"
KEYS = key_pair(bytes(range(32)))
"""Of all registers in ``vectors/``."""

PARTS = ("key", "secret_key", "tree", "signatures", "bitfield", "data")


def vectors(name: str) -> Any:
    """The contents of ``vectors/NAME.json``."""
    return json.loads((VECTORS / f"{name}.json").read_text(encoding="utf-8"))


def chunk(index: int) -> bytes:
    """Chunk ``index`` of the registers in ``vectors/``."""
    filler = b" " + b"x" * (index % 97) if index % 5 == 4 else b""
    return b"block %d" % index + filler


def chunks(first: int, stop: int) -> list[bytes]:
    """Chunks ``first .. stop-1`` of the registers in ``vectors/``."""
    return [chunk(index) for index in range(first, stop)]


def files_of(folder: Path) -> dict[str, bytes]:
    """The files of a folder, by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def contents_of(open_storage: OpenStorage) -> dict[str, bytes]:
    """What is in the files of a register, empty ones left out."""
    files = {name: open_storage(name) for name in PARTS}
    return {name: file.read(0, file.size()) for name, file in files.items() if file.size()}


def storage_with(contents: Mapping[str, bytes]) -> OpenStorage:
    """Files in memory with these contents."""
    files: dict[str, MemoryStorage] = {}

    def open_file(name: str) -> RandomAccess:
        if name not in files:
            files[name] = MemoryStorage(name)
            files[name].write(0, contents.get(name, b""))
        return files[name]

    return open_file


def written(values: Iterable[Buffer], open_storage: OpenStorage | None = None) -> Register:
    """A register with these chunks, appended at once."""
    register = Register.create(open_storage or storage_with({}), KEYS)
    register.append(list(values))
    return register


def empty_copy(open_storage: OpenStorage | None = None) -> Register:
    """A copy that holds nothing yet."""
    return Register.open(open_storage or storage_with({}), key=KEYS.public)


def fetch(copy: Register, origin: Register, index: int, remote: PresenceSet | None = None) -> bool:
    """What a request for one chunk does; True if the copy grew."""
    proof = origin.proof(index, copy.digest(index), remote=remote)
    return copy.put(index, origin.get(index), proof.nodes, proof.signature)


def copied(origin: Register, indices: Iterable[int], open_storage: OpenStorage | None = None) -> Register:
    """A copy that holds these chunks."""
    copy = empty_copy(open_storage)
    for index in indices:
        fetch(copy, origin, index)
    return copy


class CountingStorage(MemoryStorage):
    """Counts what would be system calls of a file."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.reads = self.writes = self.syncs = 0

    def read(self, offset: int, length: int) -> bytes:
        """Counts."""
        self.reads += 1
        return super().read(offset, length)

    def write(self, offset: int, data: Buffer) -> None:
        """Counts."""
        self.writes += 1
        super().write(offset, data)

    def sync(self) -> None:
        """Counts."""
        self.syncs += 1


class Counting:
    """Storage in memory that counts calls, by file."""

    def __init__(self) -> None:
        self.files: dict[str, CountingStorage] = {}

    def __call__(self, name: str) -> CountingStorage:
        """The file, the same each time."""
        return self.files.setdefault(name, CountingStorage(name))

    def calls(self) -> int:
        """All calls so far."""
        return sum(file.reads + file.writes + file.syncs for file in self.files.values())


class PowerCut(Exception):
    """The machine is gone."""


Change = tuple[int, bytes] | int
"""A write (offset, bytes) or a truncation (size). Punching is a write of zeros."""


class _DiskFile(MemoryStorage):
    def __init__(self, name: str, disk: Disk, begin: bytes) -> None:
        super().__init__(name)
        super().write(0, begin)
        self._disk = disk
        self.durable: list[Change] = [(0, begin)] if begin else []
        self.pending: list[Change] = []

    def write(self, offset: int, data: Buffer) -> None:
        self._disk.step(self, (offset, bytes(data)))
        super().write(offset, data)

    def truncate(self, size: int) -> None:
        if size < self.size():
            self._disk.step(self, size)
            MemoryStorage.punch(self, size, self.size() - size)
            self._size = size

    def punch(self, offset: int, length: int) -> None:
        self._disk.step(self, (offset, bytes(max(0, min(length, self.size() - offset)))))
        super().punch(offset, length)

    def sync(self) -> None:
        self._disk.step(self, None)
        self.durable += self.pending
        self.pending = []


class Disk:
    """Storage that remembers what was synced, and breaks at a chosen step.

    ``stop_after``: this many writes, truncations and syncs work, then the machine is gone. ``fail_at``: these fail
    with ``fail_with``, half of what they were to write being written.
    """

    def __init__(
        self,
        begin: Mapping[str, bytes] | None = None,
        *,
        stop_after: int | None = None,
        fail_at: Iterable[int] = (),
        fail_with: int = errno.ENOSPC,
    ) -> None:
        self.files = {name: _DiskFile(name, self, data) for name, data in (begin or {}).items()}
        self.stop_after = stop_after
        self.fail_at = set(fail_at)
        self.fail_with = fail_with
        self.steps = 0

    def __call__(self, name: str) -> RandomAccess:
        """The file, the same each time."""
        if name not in self.files:
            self.files[name] = _DiskFile(name, self, b"")
        return self.files[name]

    def step(self, file: _DiskFile, change: Change | None) -> None:
        """Counts, breaks, or notes what is not synced yet."""
        self.steps += 1
        if self.stop_after is not None and self.steps > self.stop_after:
            if isinstance(change, tuple):
                file.pending.append((change[0], change[1][: len(change[1]) // 2]))
            raise PowerCut
        if self.steps in self.fail_at:
            if isinstance(change, tuple):
                part = change[0], change[1][: len(change[1]) // 2]
                file.pending.append(part)
                MemoryStorage.write(file, *part)
            raise OSError(self.fail_with, os.strerror(self.fail_with), file.name)
        if change is not None:
            file.pending.append(change)

    def after(self, keep: Callable[[], float]) -> dict[str, bytes]:
        """What is found after the machine is back: what was synced, and of each other change the part that
        ``keep`` tells: 1.0 all of it, 0.0 nothing, between them a torn write.
        """
        found = {}
        for name, file in self.files.items():
            left = MemoryStorage(name)
            for change in file.durable:
                _apply(left, change, 1.0)
            for change in file.pending:
                _apply(left, change, keep())
            if left.size():
                found[name] = left.read(0, left.size())
        return found


def _apply(file: MemoryStorage, change: Change, part: float) -> None:
    if isinstance(change, int):
        if part == 1.0:
            file.truncate(change)
        return
    offset, data = change
    file.write(offset, data[: int(len(data) * part)])


def crash_outcomes(disk: Disk, seeds: int = 4) -> Iterable[dict[str, bytes]]:
    """What may be found after a crash: everything (``kill -9``), only what was synced, and some of the rest."""
    yield disk.after(lambda: 1.0)
    yield disk.after(lambda: 0.0)
    for seed in range(seeds):
        dice = random.Random(seed)
        yield disk.after(lambda dice=dice: dice.choice((0.0, 1.0)))  # type: ignore[misc]
        yield disk.after(lambda dice=dice: dice.choice((0.0, 1.0, dice.random())))  # type: ignore[misc]
