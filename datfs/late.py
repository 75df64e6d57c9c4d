"""What failed a moment ago: files, names, listings.

What timed out would be waited for in vain: a program that tries again and again, or the next one, does not wait as long
once more; unless something came meanwhile. And people ask what went wrong. Knows no FUSE; :mod:`datfs.fuse_ops` asks.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Hashable


class LateOnes:
    """``seconds``: for how long; ``most``: how many are kept.

    ``news``: a count that has grown when it may be there after all (``vfs.TreeFile.news``, ``FileTree.news``).
    """

    def __init__(self, seconds: float, most: int) -> None:
        self._seconds = seconds
        self._most = most
        self._late: OrderedDict[Hashable, tuple[float, int]] = OrderedDict()

    def note(self, what: Hashable, news: int, now: float) -> None:
        """It timed out at ``now``."""
        self._late[what] = now, news
        self._late.move_to_end(what)
        if len(self._late) > self._most:
            self._late.popitem(last=False)

    def has(self, what: Hashable, news: int, now: float, *, at_least: float = 0.0) -> bool:
        """Whether to wait for it again would be in vain. ``at_least``: seconds for which it is, whatever came."""
        when, before = self._late.get(what, (-math.inf, 0))
        return now - when < (self._seconds if news == before else at_least)

    def seconds_left(self, what: Hashable, now: float) -> float:
        """For how long to wait for it will be in vain, unless something came or comes."""
        when, _ = self._late.get(what, (-math.inf, 0))
        return max(0.0, when + self._seconds - now)


class Failures:
    """The last one of each; of ``most``, the oldest goes first."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._last: OrderedDict[Hashable, tuple[float, str]] = OrderedDict()

    def note(self, what: Hashable, error: Exception, now: float) -> None:
        """It failed at ``now``."""
        text = str((isinstance(error, OSError) and error.strerror) or error)
        self._last[what] = now, text or type(error).__name__
        self._last.move_to_end(what)
        if len(self._last) > self._most:
            self._last.popitem(last=False)

    def last(self, what: Hashable) -> tuple[float, str] | None:
        """When it failed last, and why."""
        return self._last.get(what)
