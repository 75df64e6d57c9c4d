"""Checking an answer against what is held and signed, before anything of it is stored (register.md section 7). Pure.

Stricter than the reference, which can be made to store forged chunks (register.md section 12): the climb must end at a
node that we trust or at one of the signed roots, nothing may be left over then, and no node may contradict a held one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from datfs import flat
from datfs.crypto import HASH_BYTES, Buffer, TreeNode, leaf_hash, parent_node, root_checksum, verify
from datfs.errors import BadProof, ForkedRegister

CHUNK_MOST = 8 * 1024 * 1024  # a frame cannot carry more
SIZE_LIMIT = 1 << 53
# Bits are held in memory from the first chunk to the last: whoever signs a register must not choose how many.
LENGTH_MOST = 1 << 28  # 16 TiB of 64 KiB chunks; bitfields of 96 MiB


class Accepted(NamedTuple):
    """What an answer proved. ``nodes``: to be stored. ``length``: signed length it proves, 0 if none was signed."""

    nodes: list[TreeNode]
    length: int = 0
    roots: Sequence[TreeNode] = ()


NodeOf = Callable[[int], TreeNode | None]


class _Contradiction(BadProof):
    """A node has another hash than the one that was verified before."""


def check(
    key: bytes,
    node_of: NodeOf,
    index: int,
    value: Buffer | None,
    nodes: Sequence[TreeNode],
    signature: bytes | None,
) -> Accepted:
    """Verifies chunk ``index`` (or with no ``value`` its leaf only). ``node_of``: nodes held, None for absent ones.

    Raises BadProof, or ForkedRegister if a validly signed answer contradicts what is held.
    """
    if not 0 <= index < LENGTH_MOST:
        raise BadProof(index, f"a register of more than {LENGTH_MOST} chunks is not supported")
    if value is not None and len(value) > CHUNK_MOST:
        raise BadProof(index, f"a chunk of {len(value)} bytes is larger than a message can be")
    for number, digest, size in nodes:
        if not (0 <= number < 2 * LENGTH_MOST and 0 <= size < SIZE_LIMIT and len(digest) == HASH_BYTES):
            raise BadProof(index, f"node {number} of size {size} is impossible")
    leaf = None if value is None else TreeNode(2 * index, leaf_hash(value), len(value))
    try:
        return _climb(key, node_of, index, leaf, nodes, signature)
    except _Contradiction:
        if signature is not None and _proves_itself(key, index, leaf, nodes, signature):
            raise _forked(index) from None
        raise


def _forked(index: int) -> ForkedRegister:
    return ForkedRegister(
        f"the writer has signed two different histories: they differ at chunk {index} or beside it."
        " Nothing newer of this drive can be trusted; what is here stays as it is"
    )


def _proves_itself(key: bytes, index: int, leaf: TreeNode | None, nodes: Sequence[TreeNode], signature: bytes) -> bool:
    """Whether the writer signed this answer, going by nothing that is held."""
    try:
        _climb(key, lambda number: None, index, leaf, nodes, signature)
    except BadProof:
        return False
    return True


def _climb(
    key: bytes,
    node_of: NodeOf,
    index: int,
    leaf: TreeNode | None,
    nodes: Sequence[TreeNode],
    signature: bytes | None,
) -> Accepted:
    """Hashes upwards from the leaf, to a node that is trusted or to a root."""
    trusted, uncles = _way_up(node_of, 2 * index, leaf is not None, nodes)
    at = 0  # the next of the nodes
    if leaf is not None:
        top = leaf
    elif nodes and nodes[0].index == 2 * index:
        top, at = nodes[0], 1
    else:
        raise BadProof(index, "the answer has neither the chunk nor its leaf")
    if trusted is not None and trusted.index == top.index:
        if trusted.hash != top.hash:
            raise _Contradiction(index, "the bytes do not have the verified hash")
        _compare_hashes(node_of, index, nodes[at:])
        return Accepted([] if leaf is None or leaf.size == trusted.size else _resized(node_of, leaf))
    new: list[TreeNode] = []
    uncles.reverse()
    while True:
        sibling = flat.sibling(top.index)
        if at < len(nodes) and nodes[at].index == sibling:
            other = nodes[at]
            at += 1
            new.append(other)
        elif uncles and uncles[-1].index == sibling:
            other = uncles.pop()
        else:
            break
        new.append(top)
        top = parent_node(top, other) if top.index < sibling else parent_node(other, top)
        if trusted is not None and trusted.index == top.index:
            if trusted.hash != top.hash or trusted.size != top.size:
                raise _Contradiction(index, f"the hash does not match at verified node {top.index}")
            _compare_hashes(node_of, index, nodes[at:])
            _compare_hashes(node_of, index, new)
            _compare_sizes(node_of, index, new)
            return Accepted(new)
    rest = nodes[at:]
    length, roots = _signed_roots(key, node_of, index, top, rest, signature)
    new += rest
    new.append(top)
    try:
        _compare_hashes(node_of, index, new)
    except _Contradiction:
        raise _forked(index) from None
    _compare_sizes(node_of, index, new)
    return Accepted(new, length, roots)


def _way_up(
    node_of: NodeOf, leaf: int, has_value: bool, nodes: Sequence[TreeNode]
) -> tuple[TreeNode | None, list[TreeNode]]:
    """The lowest node on the way up that we hold, and the held siblings that it takes to get there."""
    current, at = leaf, 0 if has_value else 1
    local: list[TreeNode] = []
    while True:
        held = node_of(current)
        if held is not None:
            return held, local
        sibling = flat.sibling(current)
        current = flat.parent(current)
        if at < len(nodes) and nodes[at].index == sibling:
            at += 1
            continue
        known = node_of(sibling)
        if known is None:
            return node_of(current), local
        local.append(known)


def _signed_roots(
    key: bytes,
    node_of: NodeOf,
    index: int,
    top: TreeNode,
    rest: Sequence[TreeNode],
    signature: bytes | None,
) -> tuple[int, list[TreeNode]]:
    """The climb ended at ``top``: it must be a root, and the signature must cover it with the other roots."""
    last = rest[-1].index if rest else top.index
    proven = max(flat.right_span(top.index), flat.right_span(last)) + 2
    if proven > 2 * LENGTH_MOST:
        raise BadProof(index, f"a register of more than {LENGTH_MOST} chunks is not supported")
    numbers = flat.full_roots(proven)
    if top.index not in numbers:
        raise BadProof(index, f"node {top.index} is no root of a register of {proven // 2} chunks")
    roots: list[TreeNode] = []
    at = 0
    for number in numbers:
        if number == top.index:
            roots.append(top)
        elif at < len(rest) and rest[at].index == number:
            roots.append(rest[at])
            at += 1
        else:
            held = node_of(number)
            if held is None:
                raise BadProof(index, f"root {number} is missing")
            roots.append(held)
    if at < len(rest):
        raise BadProof(index, f"node {rest[at].index} is not needed")
    if signature is None:
        raise BadProof(index, "there is no signature")
    if sum(root.size for root in roots) >= SIZE_LIMIT:
        raise BadProof(index, "a register of that many bytes is impossible")
    if not verify(key, root_checksum(roots), signature):
        raise BadProof(index, f"the signature of length {proven // 2} is not the writer's")
    return proven // 2, roots


def _compare_hashes(node_of: NodeOf, index: int, nodes: Sequence[TreeNode]) -> None:
    """No node, used or not, may contradict a held one: that is how a fork shows (register.md section 12, pitfall 4)."""
    for node in nodes:
        held = node_of(node.index)
        if held is not None and held.hash != node.hash:
            raise _Contradiction(index, f"node {node.index} contradicts the verified one")


def _compare_sizes(node_of: NodeOf, index: int, nodes: Sequence[TreeNode]) -> None:
    """No node to be stored may change the size of a held one.

    Hashes cover how a parent's size is split between its children only with the chunk at hand. A leaf that is held
    while its sibling is not has a size that was verified, so that the answer's is the lie (pitfall 2).
    """
    for node in nodes:
        held = node_of(node.index)
        if held is not None and held.size != node.size:
            raise BadProof(index, f"node {node.index} has another size than the verified one")


def _resized(node_of: NodeOf, leaf: TreeNode) -> list[TreeNode]:
    """Corrects the size of a leaf that was learned without its chunk, and of its sibling.

    A peer may have lied about both then (register.md section 12, pitfall 2): only the sum is covered by the hash of
    the parent. The leaf's own hash covers its size, so with the chunk at hand it is known.
    """
    corrected = [leaf]
    parent, sibling = node_of(flat.parent(leaf.index)), node_of(flat.sibling(leaf.index))
    if parent is not None and sibling is not None:
        corrected.append(TreeNode(sibling.index, sibling.hash, parent.size - leaf.size))
    return corrected
