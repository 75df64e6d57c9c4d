"""Counting bytes and rates: against all that was added, and in bounded memory."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datfs.net.traffic import SLOT, WINDOW, Meter, Meters


@given(st.lists(st.tuples(st.floats(0, 3), st.integers(0, 10**7)), max_size=40), st.floats(0, 8))
def test_the_rate_is_the_mean_of_the_window(steps: list[tuple[float, int]], after: float) -> None:
    """What was added in the window, give or take one slot, divided by its length; the total is everything."""
    whole, meter = Meter(), None
    meter = Meter(whole)
    now, added = 1000.0, []
    for pause, size in steps:
        now += pause
        added.append((now, size))
        meter.add(size, now)
    now += after
    least = sum(size for moment, size in added if now - moment <= WINDOW - SLOT)
    most = sum(size for moment, size in added if now - moment <= WINDOW + SLOT)
    assert least / WINDOW <= meter.rate(now) <= most / WINDOW
    assert meter.total == whole.total == sum(size for _, size in steps)
    assert whole.rate(now) == meter.rate(now)


def test_a_steady_stream() -> None:
    """Its rate is what it is, and nothing is kept of what is long over."""
    meter = Meter()
    for step in range(100_000):
        meter.add(100, step / 100)
    assert meter.rate(1000.0) == pytest.approx(10_000, rel=0.06)
    assert len(meter._slots) <= WINDOW / SLOT
    assert meter.rate(2000.0) == 0


def test_both_directions_of_several() -> None:
    """The whole has what its parts have, each direction for itself."""
    whole = Meters()
    one, other = Meters(whole), Meters(whole)
    one.received.add(10, 1.0)
    other.received.add(5, 1.0)
    other.sent.add(7, 1.0)
    told = whole.traffic(1.0)
    assert (told.received, told.sent) == (15, 7)
    assert (told.receiving, told.sending) == (15 / WINDOW, 7 / WINDOW)
    assert other.traffic(100.0).sending == 0
