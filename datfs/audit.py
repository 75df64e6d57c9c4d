"""Hashing again everything that a register holds, up to the newest signature (register.md section 11).

The reference checks chunks against their leaves only; this also recomputes every parent of two held children.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from datfs import flat
from datfs.bitfield import Bitfield
from datfs.crypto import TreeNode, leaf_hash, parent_node, root_checksum, verify
from datfs.errors import CorruptStorage, NotFound
from datfs.storage import RandomAccess

READ_TOGETHER = 1 << 18  # bytes of small chunks


class Audited(Protocol):
    """What it takes of a register."""

    key: bytes
    length: int

    @property
    def data_bits(self) -> Bitfield:
        """Which chunks are held."""
        ...

    @property
    def tree_bits(self) -> Bitfield:
        """Which nodes are held."""
        ...

    def node(self, index: int) -> TreeNode | None:
        """A node, None if it is not held or, whatever the bits say, not stored."""
        ...

    def byte_offset(self, index: int) -> int:
        """Where a chunk begins."""
        ...

    def signature(self, index: int) -> bytes | None:
        """The signature that covers chunks up to ``index``."""
        ...


Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class BadChunk:
    """A held chunk whose bytes are not the verified ones."""

    index: int
    offset: int
    size: int


@dataclass(slots=True)
class AuditReport:
    """What :func:`audit` found. ``bad_nodes``: tree nodes that are gone, or do not follow from their children."""

    chunks: int = 0
    bytes: int = 0
    bad_chunks: list[BadChunk] = field(default_factory=list)
    bad_nodes: list[int] = field(default_factory=list)
    signature_ok: bool = True

    @property
    def ok(self) -> bool:
        """Whether everything held is right."""
        return self.signature_ok and not self.bad_chunks and not self.bad_nodes


def audit(register: Audited, data: RandomAccess, progress: Progress | None = None) -> AuditReport:
    """Checks a register with its data file. ``progress`` is told the bytes of each chunk. Raises OSError."""
    report = AuditReport()
    for first, stop in list(register.data_bits.runs()):
        _check_run(register, data, first, stop, report, progress)
    for first, stop in list(register.tree_bits.runs()):
        report.bad_nodes += [number for number in range(first, stop) if not _follows(register, number)]
    if register.length:
        signature = register.signature(register.length - 1)
        roots = [register.node(number) for number in flat.full_roots(2 * register.length)]
        present = [root for root in roots if root is not None]
        whole = signature is not None and len(present) == len(roots)
        report.signature_ok = whole and verify(register.key, root_checksum(present), signature or b"")
    return report


def _check_run(
    register: Audited,
    data: RandomAccess,
    first: int,
    stop: int,
    report: AuditReport,
    progress: Progress | None,
) -> None:
    """Hashes the held chunks ``first .. stop-1``, which lie one behind the other."""
    place, end = _known_offset(register, first), _known_offset(register, stop)
    block, block_at = b"", 0
    for index in range(first, stop):
        leaf = register.node(2 * index)
        if place is None:
            place = _known_offset(register, index)
        if leaf is None or place is None:  # what is wrong with the tree is reported as such
            place = None
            continue
        offset, place = place, place + leaf.size
        if place > block_at + len(block):
            ahead = READ_TOGETHER if end is None else min(READ_TOGETHER, end - offset)
            block, block_at = data.read(offset, max(leaf.size, ahead)), offset
        value = block if len(block) == leaf.size else block[offset - block_at : place - block_at]
        report.chunks += 1
        report.bytes += leaf.size
        if len(value) != leaf.size or leaf_hash(value) != leaf.hash:
            report.bad_chunks.append(BadChunk(index, offset, leaf.size))
        if progress is not None:
            progress(leaf.size)


def _known_offset(register: Audited, index: int) -> int | None:
    try:
        return register.byte_offset(index)
    except (NotFound, CorruptStorage):
        return None


def _follows(register: Audited, number: int) -> bool:
    node = register.node(number)
    if node is None or not number & 1:
        return node is not None
    left, right = register.node(flat.left_child(number)), register.node(flat.right_child(number))
    return left is None or right is None or parent_node(left, right) == node
