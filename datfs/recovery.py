"""What a register's files prove when they are opened, and mending what a crash left half done (sleep.md 9 and 10).

Nothing is believed that the files contradict: a chunk is held only if its leaf is there and its bytes are inside of
the data file; the register is as long as a signature proves that verifies over roots that are there.
"""

from __future__ import annotations

import logging

from datfs import flat, proof
from datfs.crypto import TreeNode, root_checksum, verify
from datfs.errors import BadStore
from datfs.sleep import BitfieldFile, NodeFile, SignatureFile
from datfs.storage import RandomAccess

log = logging.getLogger(__name__)

TRIES = 10_000  # signatures to try, newest first, before giving up


def settle(key: bytes, tree: NodeFile, signatures: SignatureFile, bits: BitfieldFile, data: RandomAccess) -> int:
    """The length that the files prove; clears bits that they do not. Raises BadStore if nothing fits together."""
    claimed = proof.length_of(bits.tree)
    length = _signed_length(key, tree, signatures, bits, claimed)
    if length != claimed:
        log.info(
            "%s: the newest %d chunks were not written whole and are dropped",
            bits.file.name,
            claimed - length,
        )
        _forget_beyond(bits, length)
    _drop_unproved(tree, bits, data, length)
    return length


def _roots(tree: NodeFile, bits: BitfieldFile, length: int) -> list[TreeNode] | None:
    roots = []
    for number in flat.full_roots(2 * length):
        node = tree.get(number) if bits.tree.get(number) else None
        if node is None:
            return None
        roots.append(node)
    return roots


def _signed_length(key: bytes, tree: NodeFile, signatures: SignatureFile, bits: BitfieldFile, claimed: int) -> int:
    if not claimed:
        return 0
    length, tries = min(claimed, signatures.count()), 0
    while length > 0 and tries < TRIES:
        signature = signatures.get(length - 1)
        if signature is not None:
            tries += 1
            roots = _roots(tree, bits, length)
            if roots is not None and verify(key, root_checksum(roots), signature):
                return length
        length -= 1
    raise BadStore(
        f"{signatures.file.name}: no signature verifies for the {claimed} chunks that {bits.file.name} claims"
        f" ({tree.file.name} has {tree.count()} nodes): the files do not belong together, or are damaged."
        " Remove the folder to fetch the drive again"
    )


def _forget_beyond(bits: BitfieldFile, length: int) -> None:
    """Clears all bits of chunks from ``length`` on, and of the nodes above them."""
    bits.set_data_range(length, len(bits.data), False)
    for number in range(max(0, 2 * length - 1), len(bits.tree)):
        bits.set_tree(number, False)
    above = 2 * length
    while flat.left_span(above) > 0 or above < len(bits.tree):
        above = flat.parent(above)
        bits.set_tree(above, False)


def _drop_unproved(tree: NodeFile, bits: BitfieldFile, data: RandomAccess, length: int) -> None:
    """Clears data bits of chunks whose leaf is missing or whose bytes cannot be in the data file."""
    if len(bits.data) > length:
        bits.set_data_range(length, len(bits.data), False)
    lost = 0
    for first, stop in list(bits.data.runs()):
        for index in range(first, stop):
            if not bits.tree.get(2 * index):
                bits.set_data(index, False)
                lost += 1
    last = bits.data.last_set()
    if last is not None and data.size() < _end(tree, last):
        size = data.size()
        while last is not None and _end(tree, last) > size:
            bits.set_data(last, False)
            lost += 1
            last = bits.data.last_set()
    if lost:
        log.warning("%s: %d chunks were not written whole and will be fetched again", data.name, lost)


def _end(tree: NodeFile, index: int) -> int:
    """Where the chunk ends in the data file, in bytes."""
    total = 0
    for number in (*flat.full_roots(2 * index), 2 * index):
        node = tree.get(number)
        if node is None:
            return 1 << 62  # it cannot be placed, so it cannot be there
        total += node.size
    return total
