"""A metadata register as a list of chunks in memory, for tests of the path index."""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection
from functools import cache
from pathlib import Path as FilePath
from typing import Any, TypeVar

from datfs import path_index
from datfs.errors import BadMetadata
from datfs.index_lists import Siblings
from datfs.metadata import (
    Header,
    Path,
    Record,
    Stat,
    decode_plain,
    decode_record,
    encode_header,
    encode_record,
    encode_stat,
    name_of,
)
from datfs.path_index import Child, Steps
from tests import plain_lists

T = TypeVar("T")
VECTORS = FilePath(__file__).parent / "vectors"

A_FILE = encode_stat(Stat(0o100644, size=1, blocks=1))
A_DIRECTORY = encode_stat(Stat(0o040755))


def p(text: str) -> Path:
    """``/a/b`` as a path, not normalised; ``/`` is the root."""
    return tuple(part.encode() for part in text.split("/")[1:]) if text != "/" else ()


class MemoryDrive:
    """Chunk 0 is a header. ``batches``: what the last walk asked for, batch by batch."""

    def __init__(self) -> None:
        self.chunks = [encode_header(Header("hyperdrive", bytes(32)))]
        self.batches: list[Collection[int]] = []
        self._decode = cache(decode_record)

    @property
    def version(self) -> int:
        """The number of the newest chunk."""
        return len(self.chunks) - 1

    def record(self, seq: int) -> Record:
        """The decoded chunk; raises BadMetadata."""
        return self._decode(seq, self.chunks[seq])

    def forget_decoded(self) -> None:
        """A chunk was replaced."""
        self._decode = cache(decode_record)

    def append(self, path: Path | bytes, value: bytes | None, lists: list[list[int]]) -> int:
        """Appends an entry that may be anything; ``path`` as bytes is a raw name."""
        name = path if isinstance(path, bytes) else name_of(path)
        seq = len(self.chunks)
        self.chunks.append(encode_record(name, value, lists, seq))
        return seq

    def put(self, path: Path, value: bytes = A_FILE) -> int:
        """A put as the reference does it."""
        return self.append(path, value, self.walk(plain_lists.put_lists, self.version, len(self.chunks), path))

    def delete(self, path: Path) -> int:
        """A deletion as the reference does it, in a drive that is not empty."""
        lists = self.walk(plain_lists.delete_lists, self.version, len(self.chunks), path)
        assert lists is not None
        return self.append(path, None, lists)

    def walk(self, function: Callable[..., Steps[T]], *args: Any) -> T:
        """Runs a walk that sees only the chunks it asked for before."""
        fetched: set[int] = set()
        self.batches = []

        def records(seq: int) -> Record:
            assert seq in fetched, f"chunk {seq} is used before it is asked for"
            return self.record(seq)

        steps = function(records, *args)
        try:
            while True:
                wanted = next(steps)
                assert all(1 <= seq < len(self.chunks) for seq in wanted), wanted
                self.batches.append(wanted)
                fetched.update(wanted)
        except StopIteration as done:
            result: T = done.value
            return result

    def child_entries_quickly(self, records: path_index.Records, head: int, directory: Path) -> Steps[list[Child]]:
        """The same as ``path_index.child_entries``, as a drive does it."""
        above, siblings = name_of(directory) + b"/" if directory else b"/", Siblings(len(directory) + 1)

        def plain(seq: int) -> tuple[bytes, Stat] | None:
            return decode_plain(self.chunks[seq], above, siblings)

        return path_index.child_entries(records, head, directory, plain)

    def tree(self, version: int) -> dict[Path, path_index.Child]:
        """Everything that a file system shows in one version, by listing each directory."""
        result: dict[Path, path_index.Child] = {}
        pending: list[Path] = [()]
        while pending:
            directory = pending.pop()
            children = self.walk(path_index.child_entries, version, directory)
            assert self.walk(self.child_entries_quickly, version, directory) == children
            for child in children:
                path = (*directory, child.name)
                result[path] = child
                if child.kind == "directory":
                    pending.append(path)
        return result


def vector_drive(name: str) -> MemoryDrive:
    """The metadata of a drive that the reference wrote (vectors/drives)."""
    folder = VECTORS / "drives" / name / ".dat"
    tree, data = (folder / "metadata.tree").read_bytes(), (folder / "metadata.data").read_bytes()
    drive = MemoryDrive()
    drive.chunks = []
    offset = 0
    for leaf in range(32, len(tree), 80):  # 32 bytes of SLEEP header, then nodes of 40, of which every second is a leaf
        (size,) = struct.unpack_from(">Q", tree, leaf + 32)
        drive.chunks.append(data[offset : offset + size])
        offset += size
    assert offset == len(data)
    return drive


def outcome(drive: MemoryDrive, function: Callable[..., Steps[T]], *args: Any) -> T | type[BadMetadata]:
    """What a walk gives, or BadMetadata if it raises that."""
    try:
        return drive.walk(function, *args)
    except BadMetadata:
        return BadMetadata
