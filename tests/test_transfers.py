"""Rates of files, and how many of their bytes are here."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from datfs.holdings import bytes_between
from datfs.transfers import WINDOW, Transfers
from tests.helpers import make_register


def test_a_rate_is_that_of_the_last_seconds() -> None:
    """What came before the window does not count; what was noted too shortly before is not needed."""
    transfers = Transfers()
    assert transfers.rate("a", 0.0, 100) == 0.0
    for second in range(20):
        transfers.note(float(second), {"a": 1000 * min(second, 10), "b": 5})
    assert transfers.rate("a", 12.0 + WINDOW, 10_000) == 0.0
    transfers = Transfers()
    for moment in (0.0, 0.1, 1.0, 2.0):
        transfers.note(moment, {"a": round(1000 * moment)})
    assert transfers.rate("a", 3.0, 3000) == 1000.0
    assert transfers.rate("a", 2.0, 0) == 0.0  # the cache dropped some


def test_what_is_not_open_is_forgotten() -> None:
    """A file that is opened again begins anew."""
    transfers = Transfers()
    transfers.note(0.0, {"a": 0})
    transfers.note(1.0, {})
    transfers.note(2.0, {"a": 500})
    assert transfers.rate("a", 2.0, 500) == 0.0
    assert transfers.rate("a", 3.0, 600) == 100.0


@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=20), gone=st.sets(st.integers(0, 19)), ends=st.data())
def test_bytes_that_are_here(sizes: list[int], gone: set[int], ends: st.DataObject) -> None:
    """The sum over the chunks that are held, of any part."""
    register = make_register([bytes(size) for size in sizes])
    for index in gone:
        register.clear(index, min(index + 1, len(sizes)))
    first = ends.draw(st.integers(0, len(sizes)))
    stop = ends.draw(st.integers(first, len(sizes)))
    assert bytes_between(register, first, stop) == sum(
        size for index, size in enumerate(sizes) if first <= index < stop and index not in gone
    )


def test_too_many_pieces() -> None:
    """They are not added up."""
    register = make_register([b"x"] * 5)
    register.clear(1, 2)
    assert bytes_between(register, 0, 5, 2) == 4
    register.clear(3, 4)
    assert bytes_between(register, 0, 5, 2) is None
