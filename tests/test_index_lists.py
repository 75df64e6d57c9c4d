"""The bytes of a path index: looked at together with those of other entries, it tells the same as alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datfs import varint
from datfs.index_lists import Siblings, encode, survey

NUMBERS = st.integers(0, 1 << 40) | st.integers(0, 200)
SHORT = st.lists(NUMBERS, max_size=3)
LISTS = st.lists(st.lists(NUMBERS, max_size=12) | st.lists(st.just(1), min_size=100, max_size=300), max_size=4)


def raw(lists: list[list[int]], flags: int) -> bytes:
    """An index with these differences in its lists."""
    parts = [varint.encode(flags)]
    for numbers in lists:
        parts += [varint.encode(len(numbers)), *map(varint.encode, numbers)]
    return b"".join(parts)


def is_alone(index: bytes, level: int) -> bool | None:
    """As :meth:`Siblings.is_alone`, of one index that nothing else is known of; None if it is not decodable."""
    try:
        lists, last = survey(index, level + 1)
    except ValueError:
        return None
    return lists <= level or index[last] == 0


INDEXES = st.builds(lambda lists, flags: raw(lists, flags), LISTS, st.integers(0, 300)) | st.binary(max_size=40)


@given(st.integers(1, 4), LISTS, st.lists(INDEXES | LISTS, min_size=1, max_size=8))
def test_siblings(level: int, common: list[list[int]], entries: list[bytes | list[list[int]]]) -> None:
    """Whatever came before, and whether indexes begin alike or not, each is judged as if it were the only one."""
    siblings = Siblings(level)
    for entry in entries:
        index = entry if isinstance(entry, bytes) else raw(common + entry, 1)
        expected = is_alone(index, level)
        if expected is None:
            try:
                assert not siblings.is_alone(index)
            except ValueError:
                pass
        else:
            assert siblings.is_alone(index) == expected


@given(
    st.integers(1, 3),
    LISTS,
    st.lists(st.tuples(SHORT, SHORT, st.integers(0, 6), st.sampled_from((b"", b"", b"\x80" * 9 + b"\1"))), max_size=6),
)
def test_siblings_that_grow(
    level: int, common: list[list[int]], steps: list[tuple[list[int], list[int], int, bytes]]
) -> None:
    """Each has the numbers of the one before and some more, or is cut short, or ends with too large a number."""
    siblings = Siblings(level)
    above = (common * level + [[]] * level)[: level - 1]
    numbers: list[int] = []
    for more, own, cut, end in steps:
        numbers = numbers + more
        whole = raw([*above, numbers, own], 1) + end
        for index in (whole[: len(whole) - cut], whole):
            expected = is_alone(index, level)
            try:
                assert siblings.is_alone(index) == bool(expected)
            except ValueError:
                assert expected is None


@pytest.mark.parametrize("count", [1, 3, 300])
def test_a_directory_as_it_is_written(count: int) -> None:
    """Each entry's lists: the root's, which stays, its directory's, which grows, and its own."""
    siblings = Siblings(2)
    above = [1, 500, 1000]
    for number in range(count):
        own = 2000 + number
        written = [[*above, own], list(range(2000, own + 1)), [own]]
        assert siblings.is_alone(encode(written, own))
        assert not siblings.is_alone(encode([*written[:2], [own - 1, own]], own))
