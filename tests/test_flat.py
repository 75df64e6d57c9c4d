"""Tree numbering: the tables of register.md section 1, and the laws that tie the functions together."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datfs import flat

node_numbers = st.integers(0, 2**20) | st.integers(0, 2**53)
parents = node_numbers.map(lambda i: i | 1)

TABLE = [
    # node, depth, offset, parent, sibling, leftmost leaf, rightmost leaf
    (0, 0, 0, 1, 2, 0, 0),
    (1, 1, 0, 3, 5, 0, 2),
    (2, 0, 1, 1, 0, 2, 2),
    (3, 2, 0, 7, 11, 0, 6),
    (5, 1, 1, 3, 1, 4, 6),
    (7, 3, 0, 15, 23, 0, 14),
    (11, 2, 1, 7, 3, 8, 14),
    (13, 1, 3, 11, 9, 12, 14),
]


@pytest.mark.parametrize("row", TABLE, ids=lambda row: str(row[0]))
def test_the_table_of_the_specification(row: tuple[int, int, int, int, int, int, int]) -> None:
    """Every column of the table in register.md section 1 comes out."""
    i, depth, offset, parent, sibling, left, right = row
    assert flat.depth(i) == depth
    assert flat.offset(i) == offset
    assert flat.index(depth, offset) == i
    assert flat.parent(i) == parent
    assert flat.sibling(i) == sibling
    assert (flat.left_span(i), flat.right_span(i)) == (left, right)


@pytest.mark.parametrize(
    ("length", "roots"),
    [(0, []), (1, [0]), (2, [1]), (3, [1, 4]), (5, [3, 8]), (6, [3, 9]), (7, [3, 9, 12]), (8, [7]), (11, [7, 17, 20])],
)
def test_full_roots_of_the_specification(length: int, roots: list[int]) -> None:
    """The roots of a length are those of the table in register.md section 1."""
    assert flat.full_roots(2 * length) == roots


def test_full_roots_refuses_an_odd_argument() -> None:
    """Passing a chunk number or a parent instead of twice a length is caught where it can be."""
    with pytest.raises(ValueError, match="even"):
        flat.full_roots(7)


@given(node_numbers)
def test_depth_and_offset_name_a_node(i: int) -> None:
    """``index`` is the inverse of ``depth`` and ``offset``."""
    assert flat.index(flat.depth(i), flat.offset(i)) == i


@given(node_numbers)
def test_siblings_share_their_parent(i: int) -> None:
    """A node and its sibling are the two children of one parent, one level up."""
    parent, sibling = flat.parent(i), flat.sibling(i)
    assert flat.sibling(sibling) == i
    assert flat.parent(sibling) == parent
    assert flat.depth(parent) == flat.depth(i) + 1
    assert sorted((i, sibling)) == [flat.left_child(parent), flat.right_child(parent)]
    assert parent * 2 == i + sibling


@given(parents)
def test_children_halve_the_span(i: int) -> None:
    """The children of a node cover its leaves, left and right, without gap or overlap."""
    left, right = flat.left_child(i), flat.right_child(i)
    assert flat.left_span(left) == flat.left_span(i)
    assert flat.right_span(left) + 2 == flat.left_span(right)
    assert flat.right_span(right) == flat.right_span(i)
    assert flat.right_span(i) - flat.left_span(i) + 2 == 2 << flat.depth(i)


@given(st.integers(0, 2**40))
def test_full_roots_cover_all_leaves_once(length: int) -> None:
    """Roots lie side by side, cover exactly the leaves below the length, and no two are siblings."""
    roots = flat.full_roots(2 * length)
    leaf = 0
    for root in roots:
        assert flat.left_span(root) == leaf
        leaf = flat.right_span(root) + 2
    assert leaf == 2 * length
    assert len({flat.parent(root) for root in roots}) == len(roots)
    depths = [flat.depth(root) for root in roots]
    assert depths == sorted(set(depths), reverse=True)
