"""dat:// links and keys."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datfs.errors import BadLink
from datfs.link import Link, discovery_key, parse_key, parse_link

KEY = "71120c1db0a1a43f8e0f2a7e5e6a9a3b0f52e9f0d54a2f4a5f3d6c7b8a9e0f12"
RAW = bytes.fromhex(KEY)


@pytest.mark.parametrize(
    ("text", "link"),
    [
        (KEY, Link(RAW)),
        (KEY.upper(), Link(RAW)),
        (f"dat://{KEY}", Link(RAW)),
        (f"//{KEY}", Link(RAW)),
        (f"  dat://{KEY}\n", Link(RAW)),
        (f"dat://{KEY}/", Link(RAW)),
        (f"dat://{KEY}+12", Link(RAW, 12)),
        (f"dat://{KEY}+0", Link(RAW, 0)),
        (f"{KEY}+3/a/b", Link(RAW, 3, "a/b")),
        (f"dat://{KEY}/a dir/b+c.txt/", Link(RAW, None, "a dir/b+c.txt")),
        (f"dat://{KEY}/new\nline", Link(RAW, None, "new\nline")),
    ],
)
def test_links(text: str, link: Link) -> None:
    """Key, version and path in all the ways that people write them."""
    assert parse_link(text) == link


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not a dat link"),
        ("dat://", "not a dat key"),
        ("hello", "64 hexadecimal digits"),
        (KEY[:-1], "has 63 hexadecimal digits"),
        (KEY + "a", "has 65 hexadecimal digits"),
        (KEY[:-1] + "g", "not a dat key"),
        (f"dat://{KEY}+", "whole number"),
        (f"dat://{KEY}+1.5", "whole number"),
        (f"dat://{KEY}+-1", "whole number"),
        (f"dat://{KEY}+12345678901234567", "whole number"),
        ("https://example.org/", "not a dat"),
        (f"dat://user@{KEY}", "not a dat key"),
    ],
)
def test_what_is_no_link(text: str, why: str) -> None:
    """The error says what is wrong with it."""
    with pytest.raises(BadLink, match=why):
        parse_link(text)


@given(
    st.binary(min_size=32, max_size=32),
    st.none() | st.integers(0, 10**15),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/"), min_size=1).map(str.strip),
)
def test_a_link_as_text_is_the_link(key: bytes, version: int | None, path: str) -> None:
    """Parsing the text of a link gives it back."""
    link = Link(key, version, path)
    assert parse_link(str(link)) == link


@given(st.text())
def test_any_text_is_a_link_or_an_error(text: str) -> None:
    """Nothing but BadLink is raised."""
    try:
        assert len(parse_link(text).key) == 32
    except BadLink:
        pass


def test_keys() -> None:
    """64 digits in either case."""
    assert parse_key(KEY) == parse_key(KEY.upper()) == RAW


def test_discovery_keys_are_those_of_the_reference() -> None:
    """Keyed BLAKE2b of ``hypercore``."""
    drives = Path(__file__).parent / "vectors" / "drives"
    facts = json.loads((drives / "simple.json").read_text(encoding="utf-8"))
    assert discovery_key(bytes.fromhex(facts["key"])).hex() == facts["discoveryKey"]
