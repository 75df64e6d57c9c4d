"""Checking an answer against what is held and signed, before anything of it is stored (register.md section 7). Pure.

Stricter than the reference, which can be made to store forged chunks (register.md section 12): the climb must end at a
node that we trust or at one of the signed roots, nothing may be left over, and no node may contradict a stored one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from datfs import flat
from datfs.crypto import Buffer, TreeNode, leaf_hash, parent_node, root_checksum, verify
from datfs.errors import BadProof, ForkedRegister

CHUNK_MOST = 8 * 1024 * 1024  # a frame cannot carry more
SIZE_LIMIT = 1 << 53
INDEX_LIMIT = 1 << 52


@dataclass(slots=True)
class Accepted:
    """What an answer proved. ``nodes``: to be stored. ``length``: signed length it proves, 0 if none was signed."""

    nodes: list[TreeNode] = field(default_factory=list)
    length: int = 0
    roots: list[TreeNode] = field(default_factory=list)


NodeOf = Callable[[int], TreeNode | None]


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
    if not 0 <= index < INDEX_LIMIT:
        raise BadProof(index, "no such chunk number is possible")
    if value is not None and len(value) > CHUNK_MOST:
        raise BadProof(index, f"a chunk of {len(value)} bytes is larger than a message can be")
    for node in nodes:
        if not 0 <= node.index < 2 * INDEX_LIMIT or not 0 <= node.size < SIZE_LIMIT:
            raise BadProof(index, f"node {node.index} of size {node.size} is impossible")
    trusted, local = _way_up(node_of, 2 * index, value is not None, nodes)
    rest = deque(nodes)
    if value is not None:
        top = TreeNode(2 * index, leaf_hash(value), len(value))
    elif rest and rest[0].index == 2 * index:
        top = rest.popleft()
    else:
        raise BadProof(index, "the answer has neither the chunk nor its leaf")
    accepted = Accepted()
    if trusted is not None and trusted.index == top.index:
        if trusted.hash != top.hash:
            raise BadProof(index, "the bytes do not have the verified hash")
        if trusted.size != top.size:
            accepted.nodes = _resized(node_of, trusted, top)
        return accepted
    while True:
        sibling = flat.sibling(top.index)
        if rest and rest[0].index == sibling:
            other = rest.popleft()
            accepted.nodes.append(other)
        elif local and local[0].index == sibling:
            other = local.popleft()
        else:
            break
        accepted.nodes.append(top)
        top = parent_node(top, other) if top.index < sibling else parent_node(other, top)
        if trusted is not None and trusted.index == top.index:
            if (trusted.hash, trusted.size) != (top.hash, top.size):
                raise BadProof(index, f"the hash does not match at verified node {top.index}")
            _no_contradiction(index, node_of, accepted.nodes, signed=False)
            return accepted
    _check_roots(key, node_of, index, top, rest, nodes, signature, accepted)
    return accepted


def _way_up(
    node_of: NodeOf, leaf: int, has_value: bool, nodes: Sequence[TreeNode]
) -> tuple[TreeNode | None, deque[TreeNode]]:
    """The lowest node on the way up that we hold, and the held siblings that it takes to get there."""
    current, at = leaf, 0 if has_value else 1
    local: deque[TreeNode] = deque()
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


def _check_roots(
    key: bytes,
    node_of: NodeOf,
    index: int,
    top: TreeNode,
    rest: deque[TreeNode],
    nodes: Sequence[TreeNode],
    signature: bytes | None,
    accepted: Accepted,
) -> None:
    """The climb ended at ``top``: it must be a root, and the signature must cover it with the other roots."""
    last = rest[-1].index if rest else top.index
    proven = max(flat.right_span(top.index), flat.right_span(last)) + 2
    numbers = flat.full_roots(proven)
    if top.index not in numbers:
        raise BadProof(index, f"node {top.index} is no root of a register of {proven // 2} chunks")
    roots: list[TreeNode] = []
    for number in numbers:
        if number == top.index:
            roots.append(top)
        elif rest and rest[0].index == number:
            root = rest.popleft()
            accepted.nodes.append(root)
            roots.append(root)
        else:
            held = node_of(number)
            if held is None:
                raise BadProof(index, f"root {number} is missing")
            roots.append(held)
    if rest:
        raise BadProof(index, f"node {rest[0].index} is not needed")
    if signature is None:
        raise BadProof(index, "there is no signature")
    if not verify(key, root_checksum(roots), signature):
        raise BadProof(index, f"the signature of length {proven // 2} is not the writer's")
    accepted.nodes.append(top)
    _no_contradiction(index, node_of, accepted.nodes, signed=True)
    accepted.length = proven // 2
    accepted.roots = roots


def _no_contradiction(index: int, node_of: NodeOf, nodes: Sequence[TreeNode], *, signed: bool) -> None:
    for node in nodes:
        held = node_of(node.index)
        if held is not None and held.hash != node.hash:
            if signed:
                raise ForkedRegister(
                    f"the writer has signed two different histories: they differ below tree node {node.index}."
                    " Nothing newer of this drive can be trusted; what is here stays as it is"
                )
            raise BadProof(index, f"node {node.index} contradicts the verified one")


def _resized(node_of: NodeOf, stored: TreeNode, real: TreeNode) -> list[TreeNode]:
    """Corrects the size of a leaf that was learned without its chunk, and of its sibling.

    Hashes do not cover how a parent's size is split between its children, so a peer may have lied then (register.md
    section 12, pitfall 2); the leaf's own hash covers its size, so with the chunk at hand it is known.
    """
    corrected = [real]
    parent, sibling = node_of(flat.parent(real.index)), node_of(flat.sibling(real.index))
    if parent is not None and sibling is not None:
        corrected.append(TreeNode(sibling.index, sibling.hash, parent.size - real.size))
    return corrected
