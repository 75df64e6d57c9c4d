"""Dates in paths: what they mean, and what is none."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from datfs.dates import day_of, end_of, stamp


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An hour before UTC in winter, two in summer; written so that no time zone files are needed."""
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def ms(*numbers: int) -> int:
    """A time in UTC."""
    return round(datetime(*numbers, tzinfo=UTC).timestamp() * 1000)  # type: ignore[misc,arg-type]


@pytest.mark.parametrize(
    ("text", "end"),
    [
        (b"2020-01-31Z", ms(2020, 2, 1)),
        (b"2020-12-31T23:59Z", ms(2021, 1, 1)),
        (b"2020-01-31T12:00:00Z", ms(2020, 1, 31, 12, 0, 1)),
        (b"2020-01-31", ms(2020, 1, 31, 23)),
        (b"2020-01-31T12:00", ms(2020, 1, 31, 11, 1)),
        (b"2020-07-31T12:00:05", ms(2020, 7, 31, 10, 0, 6)),
        (b"2020-03-29", ms(2020, 3, 29, 22)),  # a day of 23 hours
        (b"1969-12-31Z", 0),
    ],
)
def test_a_date_lasts_until_the_end_of_what_it_names(berlin: None, text: bytes, end: int) -> None:
    """A day, minute or second, in UTC with a Z, else in local time."""
    assert end_of(text) == end


@pytest.mark.parametrize(
    "text",
    [
        *(b"", b"2020", b"2020-01", b"2020-1-31", b"2020-02-30", b"2020-13-01", b"0000-01-01", b"9999-12-31"),
        *(b"2020-01-31T", b"2020-01-31T12", b"2020-01-31T24:00", b"2020-01-31T12:60", b"2020-01-31 12:00"),
        *(b"2020-01-31T12:00:00z", b"2020-01-31ZZ", b" 2020-01-31", b"2020-01-31\n", b"\xff\xfe"),
    ],
)
def test_what_is_no_date(berlin: None, text: bytes) -> None:
    """Other forms, days that no calendar has, and times that cannot be counted."""
    assert end_of(text) is None


def test_days_and_stamps(berlin: None) -> None:
    """The day is the local one, the stamp is in UTC and has no colon in it."""
    assert day_of(ms(2020, 1, 31, 23, 30)) == b"2020-02-01"
    assert stamp(ms(2020, 1, 31, 23, 30, 5)) == "2020-01-31T23.30.05Z"
