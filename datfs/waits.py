"""Requests that wait: each with a deadline, counted, ended at the end of the mount, and when its caller is called away.

Owns the set of waits. Knows no FUSE and no tree; who is called away is what :mod:`datfs.signals` tells.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

import trio

from datfs import errors
from datfs.signals import Look

LOOK_SECONDS = 0.3  # between two looks, and how long a request waits before the first
LOOK_SHARE = 10  # this many times as long as a look took is the least pause after it

T = TypeVar("T")


class OthersBehind(Exception):
    """A wait was ended because a program that was called away may stand behind it."""


Called = Callable[[Look], bool]


@dataclass(eq=False, slots=True)
class _Wait:
    scope: trio.CancelScope
    called: Called
    in_front: bool
    since: float = field(default_factory=trio.current_time)
    interrupted: bool = False
    blocks: bool = False


class Waits:
    """``timeout``: seconds that any request may wait."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._waits: set[_Wait] = set()
        self._began = trio.Event()
        self._closed = False

    def __len__(self) -> int:
        return len(self._waits)

    async def wait(
        self,
        ask: Callable[[], Awaitable[T]],
        most: int,
        called: Called,
        timeout: float | None = None,
        *,
        in_front: bool = False,
    ) -> T:
        """The answer. ``called``: whether the caller is called away, by a look at the machine.

        ``in_front``: the kernel may let others wait for this request, who cannot be told from one another.
        Raises TimedOut, Busy if ``most`` requests wait, Closed after close(), InterruptedError (EINTR), and
        OthersBehind if it is ``in_front`` and somebody was called away who may stand behind it.
        """
        if self._closed:
            raise errors.Closed("the mount is being closed")
        if len(self._waits) >= most:
            raise errors.Busy(f"{len(self._waits)} requests are waiting for data already")
        with trio.move_on_after(self._timeout if timeout is None else timeout) as scope:
            wait = _Wait(scope, called, in_front)
            self._waits.add(wait)
            self._began.set()
            try:
                return await ask()
            finally:
                self._waits.discard(wait)
        if self._closed:
            raise errors.Closed("the mount was closed while a request waited")
        if wait.interrupted:
            raise InterruptedError(errno.EINTR, "the program was sent a signal")
        if wait.blocks:
            raise OthersBehind
        raise errors.TimedOut(f"nobody delivered within {self._timeout:g} s")

    def close(self) -> None:
        """Ends every wait, now and later, with Closed. Can be repeated."""
        self._closed = True
        for wait in self._waits:
            wait.scope.cancel()

    async def watch(self) -> None:
        """Lets callers go that were called away, until it is cancelled. Sleeps while nobody waits."""
        pause = LOOK_SECONDS
        while True:
            await self._began.wait()
            await trio.sleep(pause)
            if not self._waits:
                self._began = trio.Event()
            started = time.perf_counter()
            self._look()
            pause = max(LOOK_SECONDS, LOOK_SHARE * (time.perf_counter() - started))

    def _look(self) -> None:
        look = Look()
        long_ago = trio.current_time() - LOOK_SECONDS
        waits = [wait for wait in self._waits if wait.since <= long_ago]
        for wait in waits:
            if wait.called(look):
                wait.interrupted = True
                wait.scope.cancel()
        in_front = [wait for wait in waits if wait.in_front and not wait.interrupted]
        if in_front and look.somebody_waits_for_a_name():
            for wait in in_front:
                wait.blocks = True
                wait.scope.cancel()
