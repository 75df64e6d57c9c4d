"""The life of an address against a model: the table, back-off, what is remembered and what has to go."""

from __future__ import annotations

import re

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from datfs.net import address_states
from datfs.net.address_book import (
    ADDRESSES_MOST,
    ADDRESSES_OF_HOST,
    BACKOFF_FIRST,
    BACKOFF_MOST,
    FINAL,
    FORGET_AFTER,
    GRACE,
    LASTING,
    REST_LEAST,
    AddressBook,
    Known,
)
from datfs.net.address_states import ADDRESS, AddressEvent, AddressState
from datfs.net.places import CONNECTIONS_MOST, DIALED_MOST, INBOUND_MOST, OF_HOST_MOST, Places, host_of
from datfs.net.traffic import Meters

# Seconds that floats hold exactly, so that the model's sums are the book's to the last bit.
UP_TO_A_MINUTE = st.integers(0, 60 * 64).map(lambda ticks: ticks / 64)

ENDS = (AddressEvent.DROP, AddressEvent.RETREAT, AddressEvent.DOUBLE, AddressEvent.ECHO, AddressEvent.LIE)


def test_every_state_can_be_reached_and_only_the_last_ones_are_left_by_nothing() -> None:
    """The table has no islands, and what is final is final."""
    reached = {AddressState.NEW}
    while more := {after for (before, _), after in ADDRESS.items() if before in reached} - reached:
        reached |= more
    assert reached == set(AddressState)
    assert {state for state in AddressState if not any(before is state for before, _ in ADDRESS)} == set(FINAL)
    assert {event for _, event in ADDRESS} == set(AddressEvent)


def test_the_drawing_names_everything() -> None:
    """Each state and each event of the table stands in the drawing for people."""
    drawing = set(re.findall(r"[A-Z]+", address_states.__doc__ or ""))
    assert {one.name for one in AddressState} | {one.name for one in AddressEvent} <= drawing


class Life(RuleBasedStateMachine):
    """One address, driven as the dialer does, with a clock; the model knows what it should be."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.book = AddressBook(spread=lambda: 1.25)
        self.lied = self.is_us = False
        self.failures = 0
        self.wished = -1.0  # the failure after which somebody wished at once that it were dialed

    @initialize(source=st.sampled_from(("given", "dht")))
    def begin(self, source: str) -> None:
        """It is found."""
        known = self.book.add(("host", 1), source, Meters(), self.now)
        assert known is not None
        self.known: Known = known

    def step(self, event: AddressEvent) -> bool:
        return self.book.step(self.known, event, self.now)

    def count_failure(self) -> None:
        """One more in a row, or the first one after a connection that was there for long."""
        since = self.known.connected_at
        self.failures = 1 if since > self.known.failed_at and self.now - since > BACKOFF_MOST else self.failures + 1

    @property
    def waits(self) -> bool:
        return self.known.state in (AddressState.RESTING, AddressState.ELSEWHERE)

    @rule(seconds=UP_TO_A_MINUTE)
    def pass_time(self, seconds: float) -> None:
        """Nothing happens for a while."""
        self.now += seconds

    @precondition(lambda self: self.known.state is AddressState.NEW or (self.waits and self.now >= self.known.due))
    @rule(reachable=st.booleans())
    def dial(self, reachable: bool) -> None:
        """It is due: somebody answers, or nobody."""
        assert self.step(AddressEvent.DIAL)
        self.now += 1.0
        if reachable:
            assert self.step(AddressEvent.CONNECT)
        else:
            self.count_failure()
            assert self.step(AddressEvent.FAIL)

    @precondition(lambda self: self.known.state is AddressState.CONNECTED)
    @rule(event=st.sampled_from(ENDS), after=UP_TO_A_MINUTE, peer_id=st.sampled_from((b"", b"peer")))
    def end(self, event: AddressEvent, after: float, peer_id: bytes) -> None:
        """The connection ends, somehow."""
        self.now += after
        self.known.peer_id = peer_id
        if event is AddressEvent.RETREAT:
            self.count_failure()
        assert self.step(event)
        self.lied |= event is AddressEvent.LIE
        self.is_us |= event is AddressEvent.ECHO
        if event is AddressEvent.DROP:
            self.failures = 0
            assert self.known.state is AddressState.NEW
        if event is AddressEvent.DROP or (event is AddressEvent.RETREAT and peer_id and after > GRACE):
            assert self.book.hopeful(self.now + GRACE - 0.1)

    @rule(event=st.sampled_from((AddressEvent.WANT, AddressEvent.FIND)))
    def wish(self, event: AddressEvent) -> None:
        """A reader wants something, or it is found again: that ends a rest of more than a moment, and nothing else."""
        before, rested = self.known.state, self.now - self.known.failed_at
        assert self.step(event) == (before is AddressState.RESTING and rested >= REST_LEAST)
        if before is AddressState.RESTING and rested < REST_LEAST:
            self.wished = self.known.failed_at
            assert self.known.due <= self.known.failed_at + REST_LEAST, "it is not forgotten that somebody wished"

    @rule()
    def free(self) -> None:
        """The other connection to the peer ends."""
        before = self.known.state
        assert self.step(AddressEvent.FREE) == (before is AddressState.ELSEWHERE)

    @precondition(lambda self: self.waits and self.book.is_stale(self.known, self.now))
    @rule()
    def forget(self) -> None:
        """It failed for long enough, and may then be found anew."""
        assert self.known.source == "dht"
        assert self.now - self.known.since > FORGET_AFTER
        assert self.step(AddressEvent.FORGET)
        assert not len(self.book)
        self.failures = 0
        self.begin("dht")

    @invariant()
    def pauses_are_in_bounds(self) -> None:
        """A rest is never longer than the greatest back-off, and grows with each failure in a row."""
        if not hasattr(self, "known") or self.known.state is not AddressState.RESTING:
            return
        pause = self.known.due - self.known.failed_at
        expected = min(BACKOFF_FIRST * 2 ** (self.failures - 1), BACKOFF_MOST) * 1.25
        assert pause <= expected
        if self.known.failed_at >= self.known.hope_until:
            assert pause == (min(expected, REST_LEAST) if self.wished == self.known.failed_at else expected)

    @invariant()
    def the_end_is_the_end(self) -> None:
        """Liars and ourselves are never dialed again."""
        if self.lied:
            assert self.known.state is AddressState.BANNED
        if self.is_us:
            assert self.known.state is AddressState.OURSELVES


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=40, stateful_step_count=40)


def test_a_full_book_forgets_who_never_worked() -> None:
    """A flood takes the place of addresses that rest; those that worked, are connected or were given stay."""
    book = AddressBook()
    keep = {}
    for number, source in enumerate(("given", "dht", "dht", "dns")):
        known = keep[number] = book.add((f"10.0.0.{number}", 1), source, Meters(), 0.0)
        assert known is not None
    given, worked, connected, resting = (known for known in keep.values() if known is not None)
    for known in (worked, connected, resting, given):
        book.step(known, AddressEvent.DIAL, 0.0)
    book.step(worked, AddressEvent.CONNECT, 0.0)
    book.step(worked, AddressEvent.DROP, 0.0)
    book.step(connected, AddressEvent.CONNECT, 0.0)
    book.step(resting, AddressEvent.FAIL, 0.0)
    book.step(given, AddressEvent.FAIL, 0.0)
    for number in range(2 * ADDRESSES_MOST):
        book.add((f"10.1.{number // 250}.{number % 250}", 1), "flood", Meters(), 1.0)
    assert len(book) == ADDRESSES_MOST
    assert {given, worked, connected} <= set(book)
    assert resting.state is AddressState.FORGOTTEN


def test_few_addresses_of_one_host() -> None:
    """A stranger that names all ports of somebody makes us know a few; given and local ones are not counted."""
    book = AddressBook()
    for port in range(1, 50):
        for host in ("203.0.113.9", "127.0.0.1", f"2001:db8::{port:x}"):
            book.add((host, port), "dns", Meters(), 0.0)
    assert sum(known.address[0] == "203.0.113.9" for known in book) == ADDRESSES_OF_HOST
    assert sum(":" in known.address[0] for known in book) == ADDRESSES_OF_HOST
    assert sum(known.address[0] == "127.0.0.1" for known in book) == 49
    assert "given" in LASTING
    assert book.add(("203.0.113.9", 4000), "given", Meters(), 0.0) is not None


@pytest.mark.parametrize(
    ("host", "counts_as"),
    [
        ("127.0.0.1", None),
        ("127.3.2.1", None),
        ("::1", None),
        ("localhost", None),
        ("::ffff:127.0.0.1", None),
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("Example.ORG", "example.org"),
    ],
)
def test_what_is_one_host(host: str, counts_as: str | None) -> None:
    """One machine under all of its spellings; a network of IPv6 that one caller may have for itself; not ourselves."""
    assert host_of(host) == counts_as


def test_places() -> None:
    """Each direction, each host and all together have their limit; what is given back can be taken again."""
    places = Places()
    assert [places.take("a", dialed=bool(n % 2)) for n in range(OF_HOST_MOST + 1)] == [True] * OF_HOST_MOST + [False]
    places.give_back("a", dialed=True)
    assert places.take("a", dialed=False)
    places = Places()
    inbound = sum(places.take(None, dialed=False) for _ in range(100))
    dialed = sum(places.take(f"host {n}", dialed=True) for n in range(100))
    assert (inbound, dialed) == (INBOUND_MOST, CONNECTIONS_MOST - INBOUND_MOST)
    places = Places()
    assert sum(places.take(f"host {n}", dialed=True) for n in range(100)) == DIALED_MOST
    assert places.take(None, dialed=False)
