"""A reader's files across bitfield pages are the reference's, byte for byte (vectors/sparse-pages.json)."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from tests.register_kit import chunks, contents_of, empty_copy, fetch, storage_with, vectors, written


@pytest.mark.parametrize("row", vectors("sparse-pages")["registers"], ids=lambda row: str(row["name"]))
def test_chunks_far_apart_make_the_reference_s_files(row: dict[str, Any]) -> None:
    """Pages that are skipped, reached from the far end, or filled with holes are what the reference writes.

    The parents in the index part lie in other pages than the bits they sum up, and new ones come into being when
    the file gets longer.
    """
    storage = storage_with({})
    copy = empty_copy(storage)
    if "get" in row:
        origin = written([])
        for length, index in row["get"]:
            origin.append(chunks(origin.length, length), sync=False)
            fetch(copy, origin, index)
    else:
        length, first, stop = row["range"]
        origin = written(chunks(0, length))
        for index in range(first, stop):
            fetch(copy, origin, index)
        for first, stop in row["clear"]:
            copy.clear(first, stop)
    copy.close()
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in contents_of(storage).items()}
    if "clear" in row:  # the reference leaves the bytes of cleared chunks where they are
        del hashes["data"], row["sha256"]["data"]
    assert hashes == row["sha256"]
