"""Dates as people write them in paths, and as the mount shows them (ISO 8601). Pure, but for the time zone."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

_DATE = re.compile(rb"(\d{4})-(\d\d)-(\d\d)(?:T(\d\d):(\d\d)(?::(\d\d))?)?(Z?)")


def end_of(text: bytes) -> int | None:
    """The end of the day, minute or second that ``text`` names, in ms since 1970; None if it names none.

    ``2020-01-31``, ``2020-01-31T12:00`` or ``2020-01-31T12:00:30``; with a ``Z`` behind it in UTC, else in local time.
    """
    match = _DATE.fullmatch(text)
    if match is None:
        return None
    year, month, day, hour, minute, second = (int(part) if part else 0 for part in match.groups()[:-1])
    unit = timedelta(seconds=1) if match[6] else timedelta(minutes=1) if match[4] else timedelta(days=1)
    try:
        start = datetime(year, month, day, hour, minute, second, tzinfo=UTC if match[7] else None)
        return round((start + unit).timestamp() * 1000)
    except (ValueError, OverflowError):  # no such day, or none that can be counted
        return None


def day_of(ms: int) -> bytes:
    """The local day of a time in ms since 1970."""
    return datetime.fromtimestamp(ms / 1000).strftime("%Y-%m-%d").encode()


def stamp(ms: int) -> str:
    """A time in UTC for names of files: without colons, which many other file systems and tools do not take."""
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%dT%H.%M.%SZ")
