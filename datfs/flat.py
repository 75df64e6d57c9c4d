"""Index arithmetic of the Merkle tree: in-order numbering, chunk ``n`` is the leaf ``2 n`` (register.md section 1)."""

from __future__ import annotations


def depth(i: int) -> int:
    """Levels above the leaves: 0 for a leaf."""
    return ((i ^ (i + 1)).bit_length()) - 1


def offset(i: int) -> int:
    """Position among the nodes of the same depth."""
    return i >> (depth(i) + 1)


def index(depth: int, offset: int) -> int:
    """The node at this depth and position."""
    return ((2 * offset + 1) << depth) - 1


def parent(i: int) -> int:
    """The node above."""
    bit = (i ^ (i + 1)) + 1  # 2 ** (depth + 1)
    return (i | (bit >> 1)) & ~bit


def sibling(i: int) -> int:
    """The other child of the parent."""
    return i ^ ((i ^ (i + 1)) + 1)


def left_child(i: int) -> int:
    """The left child of a parent node (odd ``i``)."""
    return i - (((i ^ (i + 1)) + 1) >> 2)


def right_child(i: int) -> int:
    """The right child of a parent node (odd ``i``)."""
    return i + (((i ^ (i + 1)) + 1) >> 2)


def left_span(i: int) -> int:
    """The leftmost leaf below ``i``; itself for a leaf."""
    return i + 1 - (((i ^ (i + 1)) + 1) >> 1)


def right_span(i: int) -> int:
    """The rightmost leaf below ``i``; itself for a leaf."""
    return i - 1 + (((i ^ (i + 1)) + 1) >> 1)


def full_roots(x: int) -> list[int]:
    """The largest complete sub-trees that cover all leaves below ``x`` = twice a length, left to right.

    Raises ValueError for an odd ``x``.
    """
    if x & 1:
        raise ValueError("full_roots takes twice a length, which is even")
    left, start = x >> 1, 0
    roots = []
    while left:
        width = 1 << (left.bit_length() - 1)
        roots.append(start + width - 1)
        start += 2 * width
        left -= width
    return roots
