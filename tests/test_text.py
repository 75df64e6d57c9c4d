"""What people see: nothing in a name acts on a terminal."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datfs.text import show, show_path, show_size


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"plain.txt", "plain.txt"),
        ("日本語 💾".encode(), "日本語 💾"),
        (b"new\nline", "new\\nline"),
        (b"\x1b[31mred", "\\x1b[31mred"),
        (b"\xff\xfe", "\\xff\\xfe"),
        ("right\u202eto-left".encode(), "right\\u202eto-left"),
        (b"\x7f\x00\x9b", "\\x7f\\x00\\x9b"),
        (b"", ""),
    ],
)
def test_names(name: bytes, shown: str) -> None:
    """Printable text stays, everything else is escaped."""
    assert show(name) == shown


@given(st.binary())
def test_any_name_is_printable(name: bytes) -> None:
    """Whatever a drive calls a file, the text is printable and can be encoded."""
    assert show(name).isprintable()
    show(name).encode()


def test_paths() -> None:
    """A leading slash, and each name escaped."""
    assert show_path(()) == "/"
    assert show_path((b"a", b"b\n")) == "/a/b\\n"


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (65_536, "64.0 KiB"),
        (150_000, "146.5 KiB"),
        (1024**2, "1.0 MiB"),
        (3 * 1024**3 // 2, "1.5 GiB"),
        (1024**4, "1.0 TiB"),
        (1024**5, "1.0 PiB"),
        (2**60, "1024.0 PiB"),
    ],
)
def test_sizes(size: int, shown: str) -> None:
    """Binary units, one decimal."""
    assert show_size(size) == shown
