"""What to send so that a peer can verify a chunk, and what to tell a peer that we hold already (register.md 4 to 6).

Pure: works on presence sets only. A presence set is anything with ``get(node index) -> bool``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from datfs import flat
from datfs.bitfield import Bitfield

DIGEST_LIMIT = 1 << 53  # longer ones cannot come from a register that the reference could hold


class Presence(Protocol):
    """Which nodes are held."""

    def get(self, index: int) -> bool:
        """Whether the node is held."""
        ...

    def __len__(self) -> int:
        """One past the highest node that may be held."""
        ...


class PresenceSet:
    """The nodes that a peer is believed to hold. Grows from its digests only, and to nodes that we hold only."""

    def __init__(self) -> None:
        self._nodes = Bitfield()  # a set of numbers would need fifty bytes for each node

    def get(self, index: int) -> bool:
        """Whether the peer holds the node."""
        return self._nodes.get(index)

    def __len__(self) -> int:
        """One past the highest node that may be held."""
        return len(self._nodes)

    def add(self, index: int) -> None:
        """The peer holds this node, and so each parent whose children it holds both."""
        close_upwards(index, self._nodes.get, self._nodes.set)


def close_upwards(index: int, has: Callable[[int], bool], add: Callable[[int], object]) -> None:
    """Adds a node, and each parent of which both children are then held (register.md section 4)."""
    if has(index):
        return
    add(index)
    while has(flat.sibling(index)):
        index = flat.parent(index)
        if has(index):
            break
        add(index)


def verified_by(held: Presence, index: int) -> int:
    """Twice the greatest length that the roots held round ``index`` prove; 0 if it is not held."""
    has = held.get
    if not has(index):
        return 0
    top = index
    while has(flat.parent(top)) and has(flat.sibling(top)):
        top = flat.parent(top)
    depth = flat.depth(top)
    while depth > 0:
        top = flat.left_child(top + (2 << depth))
        depth -= 1
        while not has(top) and depth > 0:
            top = flat.left_child(top)
            depth -= 1
    return top + 2 if has(top) else top


def length_of(held: Presence) -> int:
    """The length of a register, from the nodes that its files hold."""
    top = i = 0
    bits = len(held)
    while flat.right_span(i) < bits:
        i = flat.parent(i)
        if held.get(i):
            top = i
    return verified_by(held, top) // 2 if held.get(top) else 0


def digest(held: Presence, index: int) -> int:
    """The ``nodes`` number of a Request for the leaf ``index``: what we hold on its way up (register.md section 6)."""
    has = held.get
    if has(index):
        return 1
    result, bit = 0, 2
    width = 2  # of what lies below a sibling; :mod:`datfs.flat` in place, as this is asked for each chunk
    sibling, parent = index ^ width, (index | 1) & ~width
    limit = max(sibling + 2, len(held))
    while sibling - 1 + width // 2 < limit or parent + 1 > width:
        if has(sibling):
            result += bit
        if has(parent):
            result += 2 * bit
            result |= 1
            return 1 if result + 1 == 4 * bit else result
        width *= 2
        sibling, parent = parent ^ width, (parent | width // 2) & ~width
        bit *= 2
    return result


def proof_nodes(
    held: Presence, index: int, digest: int, hash_only: bool, remote: PresenceSet
) -> tuple[list[int], int] | None:
    """The nodes that prove leaf ``index`` to a peer, in order, and twice the length whose signature goes with them.

    0 instead of that length: no signature is needed. None: the leaf is not held. ``remote`` learns from the digest.
    """
    has = held.get
    if not has(index):
        return None
    nodes = [index] if hash_only else []
    if digest == 1:
        return nodes, 0
    _learn(has, index, digest, remote)
    n = index
    while not remote.get(n):
        sibling = flat.sibling(n)
        if not has(sibling):
            proven = verified_by(held, n)
            nodes += [root for root in flat.full_roots(proven) if root != n and not remote.get(root)]
            return nodes, proven
        if not remote.get(sibling):
            nodes.append(sibling)
        n = flat.parent(n)
    return nodes, 0


def _learn(has: Callable[[int], bool], index: int, digest: int, remote: PresenceSet) -> None:
    """Takes from a digest what the peer holds, as far as we hold it too."""
    if not 0 <= digest < DIGEST_LIMIT:
        return
    has_root, rest, n = digest & 1, digest >> 1, index
    while rest:
        if rest == 1 and has_root:
            if has(n):
                remote.add(n)
            sibling = flat.sibling(n)
            if sibling < n:
                n = sibling
            for root in flat.full_roots(flat.right_span(n) + 2):
                if has(root):
                    remote.add(root)
            return
        sibling = flat.sibling(n)
        if rest & 1 and has(sibling):
            remote.add(sibling)
        n = flat.parent(n)
        rest >>= 1
