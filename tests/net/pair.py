"""Two Connections joined by a link with latency and splits, under virtual time.

No test that uses this sleeps or opens a socket. Bytes are never reordered, since the link stands for TCP;
what can go wrong is where they are cut (:data:`Cut`), how late they are, and that the link goes dead
(:meth:`Pair.lose`).
"""

from __future__ import annotations

import itertools
import math
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from datfs.net.connection import Connection, Event, MessageReceived
from datfs.net.messages import Data, Message

Cut = Callable[[bytes], Iterable[bytes]]


def whole(data: bytes) -> Iterator[bytes]:
    """As it was sent."""
    yield data


def bytewise(data: bytes) -> Iterator[bytes]:
    """One byte at a time."""
    for byte in data:
        yield bytes((byte,))


def at_random(seed: int, longest: int = 100) -> Cut:
    """Pieces of 1 to ``longest`` bytes, the same for the same seed."""
    rng = random.Random(seed)

    def cut(data: bytes) -> Iterator[bytes]:
        position = 0
        while position < len(data):
            size = rng.randint(1, longest)
            yield data[position : position + size]
            position += size

    return cut


def feed(connection: Connection, data: bytes, cut: Cut = whole, now: float = 0.0) -> Iterator[Event]:
    """The events of bytes that arrive cut in pieces, each in the same buffer, which is overwritten
    afterwards.
    """
    buffer = bytearray(max(len(data), 1))
    for piece in cut(data):
        view = memoryview(buffer)[: len(piece)]
        view[:] = piece
        connection.receive(view, now)
        yield from map(kept, connection.events())
        view[:] = bytes(len(piece))


def kept(event: Event) -> Event:
    """An event that stays as it is when the buffer is overwritten: a large chunk is a view of it."""
    if isinstance(event, MessageReceived) and isinstance(event.message, Data) and event.message.value is not None:
        return replace(event, message=replace(event.message, value=bytes(event.message.value)))
    return event


def connection(number: int = 1, key: bytes | None = None, **options: Any) -> Connection:
    """A Connection whose id and nonce are made of one number. Its time starts at 0."""
    made_of = bytes((number,))
    return Connection(id=made_of * 32, nonce=made_of * 24, key=key, now=0.0, **options)


@dataclass
class End:
    """One end: its connection and all of the events it gave. ``on_event`` may answer by open and send."""

    connection: Connection
    on_event: Callable[[Event], None] | None = None
    events: list[Event] = field(default_factory=list)
    arriving: deque[tuple[float, bytes]] = field(default_factory=deque)

    def messages(self) -> list[tuple[int, Message]]:
        """What came, with our channel numbers."""
        return [(e.channel, e.message) for e in self.events if isinstance(e, MessageReceived)]

    def take_events(self) -> None:
        """Takes what the connection has to say, answering as it goes."""
        for event in self.connection.events():
            self.events.append(event)
            if self.on_event is not None:
                self.on_event(event)


class Pair:
    """Joins two connections. ``latency`` in seconds; ``cut`` for both directions. Errors of either end come
    out.
    """

    def __init__(self, a: Connection, b: Connection, *, latency: float = 0.05, cut: Cut = whole) -> None:
        self.a = End(a)
        self.b = End(b)
        self.now = 0.0
        self._latency = latency
        self._cut = cut
        self._lost = False

    def lose(self) -> None:
        """From now on nothing arrives, and neither end is told."""
        self._lost = True
        self.a.arriving.clear()
        self.b.arriving.clear()

    def settle(self) -> None:
        """Lets everything arrive that is under way and what is said in answer; the time is only that of the
        link.
        """
        for _ in range(10_000):
            self._send()
            arrival = self._next_arrival()
            if arrival is math.inf:
                return
            self._go_to(arrival)
        raise AssertionError("the two never stop talking")

    def run(self, seconds: float) -> None:
        """Lets time pass, with keep-alives and time-outs."""
        end = self.now + seconds
        for _ in itertools.count():
            self._send()
            deadlines = (x.connection.next_deadline() for x in (self.a, self.b))
            moment = min(self._next_arrival(), *(math.inf if d is None else d for d in deadlines))
            if moment > end:
                self.now = end
                return
            self._go_to(moment)
            for side in (self.a, self.b):
                side.connection.tick(self.now)

    def _send(self) -> None:
        for sender, receiver in ((self.a, self.b), (self.b, self.a)):
            sender.take_events()
            data = bytes(sender.connection.data_to_send())
            if not self._lost:
                for piece in self._cut(data) if data else ():
                    receiver.arriving.append((self.now + self._latency, piece))

    def _next_arrival(self) -> float:
        return min((x.arriving[0][0] for x in (self.a, self.b) if x.arriving), default=math.inf)

    def _go_to(self, moment: float) -> None:
        self.now = max(self.now, moment)
        for side in (self.a, self.b):
            while side.arriving and side.arriving[0][0] <= self.now:
                _, data = side.arriving.popleft()
                side.connection.receive(bytearray(data), self.now)
                side.take_events()
