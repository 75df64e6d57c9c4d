"""What a register's files prove when they are opened, and mending what a crash left half done (sleep.md 9 and 10).

Nothing is believed that the files contradict: the register is as long as a signature proves that verifies over roots
that are there, and a chunk is held only if all is there that tells its place and its bytes are inside of the data file.

A crash can leave bitfield pages of different ages, never more bits than the other files have contents for
(``docs/storage.md``). So too few bits are mended, and files shorter than the bits say are damage, which is refused:
opening a shorter register then, and appending to it, would fork its history. For the same reason a writer takes up
again what it has signed and stored whole, whatever the bits say.
"""

from __future__ import annotations

import bisect
import logging
from collections.abc import Iterator

from bitarray import bitarray

from datfs import flat, proof
from datfs.bitfield_file import BitfieldFile
from datfs.crypto import TreeNode, leaf_hash, parent_node, root_checksum, verify
from datfs.errors import BadStore
from datfs.sleep import NodeFile, SignatureFile
from datfs.storage import RandomAccess

log = logging.getLogger(__name__)

ADVICE = "The files do not belong together, or are damaged: a copy may be removed, to be fetched again"


def settle(
    key: bytes,
    tree: NodeFile,
    signatures: SignatureFile,
    bits: BitfieldFile,
    data: RandomAccess,
    *,
    writer: bool,
) -> int:
    """The length that the files prove; clears bits that they do not. Raises BadStore if they contradict each other.

    ``writer``: the secret key is here, so the files have what a writer left.
    """
    if bits.fresh and signatures.entries:
        raise BadStore(
            f"{bits.file.name}: its header is missing or cut off (offset 0), though {signatures.file.name} has"
            f" {signatures.entries} entries. {ADVICE}"
        )
    claimed = proof.length_of(bits.tree)
    if claimed:
        _compare_sizes(tree, signatures, bits, claimed)
    length = _signed_length(key, tree, signatures, bits, claimed)
    if length != claimed:
        log.info("%s: the last %d chunks were not written whole, and are dropped", bits.file.name, claimed - length)
    _forget_beyond(bits, length)
    if length:
        if writer:
            _fill_tree(tree, bits, length)
        _mend_tree(tree, bits, length)
        _drop_chunks(tree, bits, data, length)
    if writer and signatures.entries > length:
        length = _replay(key, tree, signatures, bits, data, length)
    return length


def _compare_sizes(tree: NodeFile, signatures: SignatureFile, bits: BitfieldFile, claimed: int) -> None:
    last = bits.tree.last_set()
    for file, entry in ((tree, last), (signatures, claimed - 1)):
        if entry is not None and entry >= file.entries:
            raise BadStore(
                f"{file.file.name}: it ends at byte {file.file.size()}; by {bits.file.name} entry {entry}"
                f" should be at byte {file.offset_of(entry)}. {ADVICE}"
            )


def _signed_length(key: bytes, tree: NodeFile, signatures: SignatureFile, bits: BitfieldFile, claimed: int) -> int:
    """The greatest length up to ``claimed`` that is signed.

    A shorter one only where the signature of a longer one, of a batch whose bits were not all written, follows.
    """
    for length in range(claimed, 0, -1):
        signature = signatures.get(length - 1)
        if signature is None:
            if signatures.entries == claimed:
                break
            continue
        roots = _roots(tree, bits, length)
        if roots is None:
            continue
        if verify(key, root_checksum(roots), signature):
            return length
        raise BadStore(
            f"{signatures.file.name}: the signature of {length} chunks (offset {signatures.offset_of(length - 1)})"
            f" is not right for the roots in {tree.file.name}. {ADVICE}"
        )
    else:
        return 0
    raise BadStore(
        f"{signatures.file.name}: there is no signature for the {claimed} chunks that {bits.file.name} claims"
        f" (offset {signatures.offset_of(claimed - 1)}). {ADVICE}"
    )


def _roots(tree: NodeFile, bits: BitfieldFile, length: int) -> list[TreeNode] | None:
    """The roots; None if the bits do not claim them all."""
    numbers = flat.full_roots(2 * length)
    return [_stored(tree, bits, number) for number in numbers] if all(map(bits.tree.get, numbers)) else None


def _stored(tree: NodeFile, bits: BitfieldFile, number: int) -> TreeNode:
    node = tree.get(number)
    if node is None:
        raise BadStore(
            f"{tree.file.name}: node {number} (offset {tree.offset_of(number)}), which {bits.file.name} says is here,"
            f" is all zeros. {ADVICE}"
        )
    return node


def _forget_beyond(bits: BitfieldFile, length: int) -> None:
    """Clears all bits of chunks from ``length`` on, and of the nodes above them."""
    last = bits.data.last_set()
    if last is not None and last >= length:
        bits.set_data_range(length, last + 1, False)
    # Right of the last leaf everything is beyond; left of it only what is above the first leaf beyond.
    bits.set_nodes([n for first, stop in bits.tree.runs(max(0, 2 * length - 1)) for n in range(first, stop)], False)
    above = 2 * length
    while flat.left_span(above) > 0:
        above = flat.parent(above)
        if bits.tree.get(above):
            bits.set_tree(above, False)


def _fill_tree(tree: NodeFile, bits: BitfieldFile, length: int) -> None:
    """Takes for held, from the roots down, what the tree file has of the nodes that torn pages miss.

    A writer has no other source of them. Copies fetch them again with the chunks; looking would cost them a read for
    each sub-tree that they never had.
    """
    levels = list(_levels(bits, length))
    for depth in range(len(levels) - 2, -1, -1):
        held, above = levels[depth], levels[depth + 1]
        pairs = len(held) // 2
        missing = above[:pairs] & ~(held[0::2][:pairs] & held[1::2])
        for offset in list(missing.search(bitarray([1]))):
            number = flat.index(depth + 1, offset)
            left, right = tree.get(flat.left_child(number)), tree.get(flat.right_child(number))
            if left is not None and right is not None and parent_node(left, right) == tree.get(number):
                bits.set_nodes([left.index, right.index], True)
                held[2 * offset : 2 * offset + 2] = True


def _replay(
    key: bytes, tree: NodeFile, signatures: SignatureFile, bits: BitfieldFile, data: RandomAccess, length: int
) -> int:
    """Appends again what was signed and stored whole, but does not show in the bits; returns the length with it."""
    roots = [_stored(tree, bits, number) for number in flat.full_roots(2 * length)]
    offset = sum(root.size for root in roots)
    new: list[TreeNode] = []
    index = length
    while index < signatures.entries:
        leaf = tree.get(2 * index)
        value = data.read(offset, leaf.size) if leaf is not None else b""
        if leaf is None or (leaf_hash(value), len(value)) != (leaf.hash, leaf.size):
            break
        new += grow(roots, leaf)
        offset, index = offset + leaf.size, index + 1
        signature = signatures.get(index - 1)
        if signature is None:
            continue
        if not verify(key, root_checksum(roots), signature):
            break
        for node in new:
            tree.put(node)
        bits.set_nodes([node.index for node in new], True)
        bits.set_data_range(length, index, True)
        log.info("%s: %d chunks that were stored whole are taken up again", bits.file.name, index - length)
        length, new = index, []
    return length


def grow(roots: list[TreeNode], leaf: TreeNode) -> list[TreeNode]:
    """Appends a leaf to the roots, in place; returns the nodes that are new (register.md section 8)."""
    node, new = leaf, [leaf]
    while roots and roots[-1].index == flat.sibling(node.index) and roots[-1].index < node.index:
        node = parent_node(roots.pop(), node)
        new.append(node)
    roots.append(node)
    return new


def _mend_tree(tree: NodeFile, bits: BitfieldFile, length: int) -> None:
    """Makes the held nodes what verification leaves (register.md section 4), where torn pages left something else.

    A right child is held with its left sibling, and so are all right children above a held node; and a parent is
    held if both of its children are. Level by level on whole arrays of bits: a million chunks take a moment.
    """
    levels = list(_levels(bits, length))
    placed = bitarray([1])
    for depth in range(len(levels) - 1, -1, -1):
        held = levels[depth]
        below = bitarray(len(held))
        below[0::2] = placed[: len(below[0::2])]
        right = len(held) // 2
        below[1::2] = placed[:right] & held[0::2][:right]
        _note_changes(bits, depth, held, held & below)
        levels[depth] = held & below
        placed = below
    for depth in range(len(levels) - 1):
        held, above = levels[depth], levels[depth + 1]
        both = held[1::2] & held[0::2][: len(held) // 2]
        missing = both & ~above[: len(both)]
        for offset in missing.search(bitarray([1])):
            number = flat.index(depth + 1, offset)
            left, right_node = flat.left_child(number), flat.right_child(number)
            tree.put(parent_node(_stored(tree, bits, left), _stored(tree, bits, right_node)))
            bits.set_tree(number)
        above[: len(both)] |= missing


def _levels(bits: BitfieldFile, length: int) -> Iterator[bitarray]:
    """Which nodes of each depth are held, from the leaves up to a level of one node."""
    count, depth = length, 0
    while True:
        yield bits.tree.every(flat.index(depth, 0), 2 << depth, count)
        if count == 1:
            return
        count, depth = -(-count // 2), depth + 1


def _note_changes(bits: BitfieldFile, depth: int, before: bitarray, after: bitarray) -> None:
    lost = [flat.index(depth, offset) for offset in (before ^ after).search(bitarray([1]))]
    if lost:
        bits.set_nodes(lost, False)


def _drop_chunks(tree: NodeFile, bits: BitfieldFile, data: RandomAccess, length: int) -> None:
    """Clears data bits of chunks whose leaf is not held or whose bytes cannot be in the data file."""
    held = bits.data.every(0, 1, length)
    lost = list((held & ~bits.tree.every(0, 2, length)).search(bitarray([1])))
    for index in lost:
        bits.set_data(index, False)
    dropped = len(lost)
    last = bits.data.last_set()
    size = data.size()
    if last is not None and _end(tree, bits, last) > size:
        held = bits.data.every(0, 1, length)
        there = list(held.search(bitarray([1])))
        fits = bisect.bisect_right(there, size, key=lambda index: _end(tree, bits, index))
        bits.set_data_range(there[fits], last + 1, False)
        dropped += len(there) - fits
    if dropped:
        log.warning("%s: %d chunks were not written whole and will be fetched again", data.name, dropped)


def _end(tree: NodeFile, bits: BitfieldFile, index: int) -> int:
    """Where a held chunk ends in the data file, in bytes."""
    return sum(_stored(tree, bits, number).size for number in (*flat.full_roots(2 * index), 2 * index))
