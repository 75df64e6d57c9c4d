"""What ``datfs debug sleep`` tells of one SLEEP file (sleep.md sections 1 to 4)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datfs.bitfield_file import DATA_BYTES, TREE_BYTES, BitfieldFile
from datfs.errors import BadStore
from datfs.sleep import BITFIELD_HEADER, HEADER_BYTES, SIGNATURES_HEADER, TREE_HEADER, FileType, check_header, describe
from datfs.storage import FileStorage

READ_ENTRIES = 4096
EXPECTED = {FileType.BITFIELD: BITFIELD_HEADER, FileType.SIGNATURES: SIGNATURES_HEADER, FileType.TREE: TREE_HEADER}


def sleep_facts(path: Path) -> Iterator[dict[str, Any]]:
    """First what the header says, then each entry that is not all zeros; of a bitfield, the runs of set bits.

    A file of another kind than those of a register is told by its header, and nothing else in it is interpreted.
    Raises BadStore if it is no SLEEP file at all, OSError.
    """
    if not path.exists():
        raise FileNotFoundError(2, "there is no such file", str(path))
    file = FileStorage(path, read_only=True)
    try:
        header = describe(file.read(0, HEADER_BYTES), str(path))
        known = next((kind for kind in FileType if kind == header.type), None)
        why_not = None
        try:
            if known is None:
                raise BadStore(f"{path}: files of type {header.type} are not known (offset 3)")
            check_header(file.read(0, HEADER_BYTES), str(path), EXPECTED[known])
        except BadStore as error:
            why_not = str(error)
        size = file.size()
        entries, rest = divmod(size - HEADER_BYTES, header.entry_size) if header.entry_size else (0, 0)
        yield {
            "file": str(path),
            "type": known.name.lower() if known is not None else str(header.type),
            "version": header.version,
            "entry_size": header.entry_size,
            "algorithm": header.algorithm,
            "size": size,
            "entries": entries,
            "torn_bytes": rest,
            "trusted": why_not is None,
            "why_not": why_not,
        }
        if why_not is None and known is FileType.BITFIELD:
            yield from _pages(file)
        elif header.entry_size:
            yield from _entries(file, header.entry_size, entries, why_not is None and known is FileType.TREE)
    finally:
        file.close()


def _pages(file: FileStorage) -> Iterator[dict[str, Any]]:
    bits = BitfieldFile(file, read_only=True)
    for part, field, size in (("data", bits.data, DATA_BYTES), ("tree", bits.tree, TREE_BYTES)):
        yield {"part": part, "bits": bits.pages * size * 8, "set": field.count(0, len(field)), "runs": [*field.runs()]}


def _entries(file: FileStorage, size: int, count: int, is_tree: bool) -> Iterator[dict[str, Any]]:
    for start in range(0, count, READ_ENTRIES):
        data = file.read(HEADER_BYTES + start * size, min(READ_ENTRIES, count - start) * size)
        for number in range(len(data) // size):
            entry = data[number * size : (number + 1) * size]
            if not any(entry):
                continue
            index = start + number
            facts: dict[str, Any] = {"entry": index, "offset": HEADER_BYTES + index * size}
            if is_tree:
                facts |= {"hash": entry[:32].hex(), "bytes": int.from_bytes(entry[32:], "big")}
            yield facts | {"hex": entry.hex()}
