"""Chunks of files with their hashes: whole, in order, and of the file's end wherever that is by then."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from datfs.crypto import leaf_hash
from datfs.hashed_file import BATCH_BYTES, CHUNK_BYTES, FileHasher


@pytest.fixture
def hasher() -> Iterator[FileHasher]:
    """Its threads end with the test."""
    made = FileHasher()
    yield made
    made.close()


def chunks(hasher: FileHasher, place: Path, size: int | None = None, start: int = 0) -> list[bytes]:
    """The chunks of a file, whose hashes must be right."""
    found: list[bytes] = []
    with place.open("rb") as file:
        for batch in hasher.batches(file.fileno(), os.stat(place).st_size if size is None else size, start):
            assert list(map(leaf_hash, batch.chunks)) == batch.leaves
            assert b"".join(batch.chunks) == batch.whole
            found += map(bytes, batch.chunks)
    return found


@pytest.mark.parametrize(
    "size",
    [
        0,
        1,
        CHUNK_BYTES,
        CHUNK_BYTES + 1,
        BATCH_BYTES - 1,
        BATCH_BYTES,
        BATCH_BYTES + 1,
        2 * BATCH_BYTES,
        9 * BATCH_BYTES + 7,
    ],
)
def test_a_file_in_chunks(hasher: FileHasher, tmp_path: Path, size: int) -> None:
    """All of 65,536 bytes but the last one; also from a place in the middle."""
    data = os.urandom(size)
    (tmp_path / "file").write_bytes(data)
    expected = [data[at : at + CHUNK_BYTES] for at in range(0, size, CHUNK_BYTES)]
    assert chunks(hasher, tmp_path / "file") == expected
    assert chunks(hasher, tmp_path / "file", start=CHUNK_BYTES) == expected[1:]


@pytest.mark.parametrize("claimed", [0, 5, 3 * BATCH_BYTES, 20 * BATCH_BYTES])
def test_a_file_of_another_size_than_thought(hasher: FileHasher, tmp_path: Path, claimed: int) -> None:
    """It is read to its end."""
    data = os.urandom(6 * BATCH_BYTES + 5)
    (tmp_path / "file").write_bytes(data)
    assert b"".join(chunks(hasher, tmp_path / "file", claimed)) == data


def test_a_reader_that_stops(hasher: FileHasher, tmp_path: Path) -> None:
    """What was read ahead is waited for, so that the file may be closed; the next file is right."""
    data = os.urandom(12 * BATCH_BYTES)
    (tmp_path / "file").write_bytes(data)
    with (tmp_path / "file").open("rb") as file:
        batches = hasher.batches(file.fileno(), len(data))
        next(batches)
        del batches
    assert b"".join(chunks(hasher, tmp_path / "file")) == data
