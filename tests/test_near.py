"""Mistyped keys and what they may have been meant to be."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datfs.near import MISTAKES_MOST, nearest

KEYS = [hashlib.sha256(bytes([number])).digest() for number in range(50)]
KEY = KEYS[7].hex()


@pytest.mark.parametrize(
    ("text", "changes"),
    [
        (KEY[:10] + ("0" if KEY[10] != "0" else "1") + KEY[11:], 1),
        (KEY[:-1], 1),
        (KEY[1:], 1),
        (KEY + "a", 1),
        (KEY[:20] + "ab" + KEY[20:], 2),
        (KEY[:-3], 3),
        (KEY[:30].upper() + KEY[31:], 1),
        ("x" + KEY[1:31] + "x" + KEY[32:63] + "x", 3),
    ],
)
def test_a_mistake_is_found(text: str, changes: int) -> None:
    """Digits changed, left out or added, anywhere, in either case."""
    assert nearest(text, KEYS) == (KEYS[7], changes)


@pytest.mark.parametrize("text", [KEY, KEY.upper(), "", "x", KEY[:-4], KEY[32:] + KEY[:32], "ab" * 32, KEY * 2])
def test_what_is_no_mistake(text: str) -> None:
    """A key that is right, and what is like none."""
    assert nearest(text, KEYS) is None


def test_the_nearest_one_counts() -> None:
    """Of two that are near, the one with fewer changes."""
    twin = KEYS[7][:-1] + bytes([KEYS[7][-1] ^ 1])
    assert nearest(KEY[:-1], [twin, *KEYS]) is not None
    text = KEY[:5] + "z" + KEY[6:]
    assert nearest(text, [twin, *KEYS]) == (KEYS[7], 1)
    assert nearest(text, []) is None


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 63), st.sampled_from("cad"), st.sampled_from("0123456789abcdef"))))
def test_few_changes_are_never_missed(edits: list[tuple[int, str, str]]) -> None:
    """Whatever and wherever they are; the distance is at most their number."""
    text = KEY
    for place, kind, digit in edits[:MISTAKES_MOST]:
        text = text[:place] + ("" if kind == "d" else digit) + text[place + (kind != "a") :]
    found = nearest(text, KEYS)
    assert (text == KEY) if found is None else (found[0] == KEYS[7] and found[1] <= MISTAKES_MOST)
