"""What is asked of a peer: only what it has, not more than it keeps up with, and never in a circle."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import trio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from datfs.bitfield import Bitfield, rle_encode
from datfs.errors import BadProof, RemoteProtocolError
from datfs.net.messages import Data, Have, Request, Unhave, Want
from datfs.net.peer_states import PEER, PeerEvent, PeerStage
from datfs.net.replication import (
    AVOIDED,
    HURRY,
    IMPATIENT,
    LATE,
    REGION,
    STALLED,
    STRIKES,
    WINDOW_FIRST,
    WINDOW_LEAST,
    WINDOW_MOST,
    PeerState,
)
from datfs.net.turns import ask_in_turn
from datfs.register import Register
from datfs.sparse import SparseRegister
from datfs.storage import memory_storage
from datfs.wants import Urgency
from tests.helpers import honest, make_register

COUNT = 40
SOURCE = make_register([bytes([number]) * (number + 1) for number in range(COUNT)])
EVERYTHING = Have(0, REGION, rle_encode(b"\xff" * (COUNT // 8)))


class Peers:
    """A source of nothing but the peers that a test drives by hand."""

    def __init__(self) -> None:
        self.peers: list[PeerState] = []
        self.now = 0.0

    def wants_changed(self, register: SparseRegister) -> None:
        ask_in_turn(self.peers, self.now)

    def hopeless(self, register: SparseRegister) -> None:
        return None

    def undecided(self, register: SparseRegister) -> bool:
        return False

    def held_by_peers(self, register: SparseRegister) -> list[Bitfield]:
        return [peer.held for peer in self.peers if peer.first_have]

    def all_told(self, register: SparseRegister, stop: int) -> bool:
        return False


def peers_of(count: int, source: Register = SOURCE) -> tuple[SparseRegister, Peers, list[PeerState]]:
    """An empty copy, and peers that have said nothing yet."""
    peers = Peers()
    copy = SparseRegister(Register.open(memory_storage(), key=source.key), peers, name="content")
    peers.peers = [PeerState(copy) for _ in range(count)]
    for peer in peers.peers:
        peer.start(0.0)
        peer.outgoing.clear()
    return copy, peers, peers.peers


def asked(peer: PeerState) -> list[int]:
    """The chunks of the Requests since the last look."""
    indices = [message.index for message in peer.outgoing if isinstance(message, Request)]
    peer.outgoing.clear()
    return indices


def answer(index: int, copy: SparseRegister, source: Register = SOURCE) -> Data:
    [data] = honest(source, Request(index, nodes=copy.register.digest(index)))
    assert isinstance(data, Data)
    return data


def test_an_empty_have_goes_before_the_first_want() -> None:
    """Old peers die of a Request that comes before any Have (wire.md section 11.4)."""
    copy, _, _ = peers_of(0)
    peer = PeerState(copy)
    peer.start(0.0)
    assert peer.outgoing == [Have(0, 8192, b""), Want(0, REGION)]


def test_only_what_the_peer_has_is_asked_for() -> None:
    """Wanted chunks that a peer lacks are left to others; no chunk is asked of two."""
    copy, peers, [a, b] = peers_of(2)
    a.on_have(Have(0, REGION, rle_encode(b"\xf0")), 0.0)
    b.on_have(Have(0, REGION, rle_encode(b"\x3f")), 0.0)
    copy.want(range(10), Urgency.NOW)
    peers.wants_changed(copy)
    from_a, from_b = asked(a), asked(b)
    assert set(from_a) <= {0, 1, 2, 3}
    assert set(from_b) <= {2, 3, 4, 5, 6, 7}
    assert sorted(from_a + from_b) == [0, 1, 2, 3, 4, 5, 6, 7]
    peers.wants_changed(copy)
    assert asked(a) == asked(b) == []


def test_the_window_grows_with_quick_answers_and_shrinks_with_stalls() -> None:
    """The number of requests in flight follows how well the peer keeps up, between two bounds."""
    source = make_register([b"chunk %d" % number for number in range(500)])
    copy, peers, [peer] = peers_of(1, source)
    peer.on_have(Have(0, REGION, rle_encode(b"\xff" * 62)), 0.0)
    copy.want(range(490), Urgency.LATER)
    peer.refill(0.0)
    queue = asked(peer)
    assert len(queue) == WINDOW_FIRST
    for _ in range(200):
        peer.on_data(answer(queue.pop(0), copy, source), 0.1)
        peer.refill(0.1)
        queue += asked(peer)
        assert peer.in_flight == len(queue) <= WINDOW_MOST
    assert peer.in_flight == WINDOW_MOST
    peer.tick(0.1 + STALLED + 1)
    peers.now = STALLED + 2
    assert peer.in_flight <= WINDOW_MOST // 2


def test_requests_gather_unless_a_reader_waits() -> None:
    """While answers come, new requests go out a quarter of the window at a time; a reader's chunk goes at once."""
    copy, _, [peer] = peers_of(1)
    copy.want(range(COUNT - 1), Urgency.SOON)
    peer.on_have(EVERYTHING, 0.0)
    first = asked(peer)
    assert len(first) == WINDOW_FIRST
    peer.outgoing.clear()
    peer.on_data(answer(first[0], copy), 0.1)
    peer.refill(0.1, in_batches=True)
    assert asked(peer) == []
    copy.want([COUNT - 1], Urgency.NOW)
    peer.refill(0.1, in_batches=True)
    assert COUNT - 1 in asked(peer)
    peer.outgoing.clear()
    for index in first[1:]:
        peer.on_data(answer(index, copy), 0.1)
    peer.refill(0.1, in_batches=True)
    assert len(asked(peer)) > WINDOW_FIRST // 4


def test_a_stalled_peer_is_given_up_after_some_strikes() -> None:
    """Its requests go back each time, and the connection ends in the end; another peer is asked meanwhile."""
    copy, peers, [bad, good] = peers_of(2)
    bad.on_have(EVERYTHING, 0.0)
    copy.want([5], Urgency.NOW)
    peers.wants_changed(copy)
    assert asked(bad) == [5]
    good.on_have(EVERYTHING, 0.0)
    assert asked(good) == []
    peers.now = STALLED + 1
    bad.tick(peers.now)
    assert asked(bad) == []
    assert asked(good) == [5]
    good.on_data(answer(5, copy), peers.now)
    assert copy.register.has(5)
    good.close()  # from here on it is the only one, so it is asked again
    copy.want([6], Urgency.NOW)
    peers.now += AVOIDED
    peers.peers.remove(good)
    bad.refill(peers.now)
    for _ in range(STRIKES - 2):
        peers.now += STALLED + 1
        bad.tick(peers.now)
    with pytest.raises(RemoteProtocolError, match="content"):
        bad.tick(peers.now + STALLED + 1)


def test_who_alone_has_something_is_asked_again_however_late() -> None:
    """Not left out for the sake of peers that have none of it; but once another has it too."""
    copy, peers, [bad, other] = peers_of(2)
    bad.on_have(EVERYTHING, 0.0)
    copy.want([5], Urgency.NOW)
    peers.wants_changed(copy)
    other.on_have(Have(0, REGION, b""), 0.0)
    assert asked(bad) == [5]
    peers.now = LATE + 1
    bad.tick(peers.now)
    assert asked(other) == []
    assert asked(bad) == [5]
    copy.want([6], Urgency.NOW)
    other.on_have(EVERYTHING, peers.now)
    assert asked(other) == [6]
    peers.now += LATE + 1
    bad.tick(peers.now)
    assert asked(other) == [5]
    copy.want([7], Urgency.NOW)
    other.on_unhave(Unhave(7, 1), peers.now)
    peers.wants_changed(copy)
    assert (asked(bad), asked(other)) == ([7], [])


def test_a_stalled_chunk_is_asked_elsewhere_though_something_is_wanted_that_nobody_has() -> None:
    """The other has room, and would never be asked for the rest: no reason to wait for the first."""
    copy, peers, [slow, other] = peers_of(2)
    nearly = Have(0, REGION, rle_encode(b"\xff" * (COUNT // 8 - 1)))
    for peer in (slow, other):
        peer.on_have(nearly, 0.0)
    copy.want([1, COUNT - 1], Urgency.BACKGROUND)
    peers.wants_changed(copy)
    first, second = (slow, other) if asked(slow) else (other, slow)
    peers.now = IMPATIENT + 1
    first.tick(peers.now)
    assert asked(second) == [1]


def test_one_late_answer_is_asked_elsewhere_and_still_welcome() -> None:
    """A single chunk that does not come while others do is asked of the next peer; whoever answers first wins."""
    copy, peers, [slow, other] = peers_of(2)
    slow.on_have(EVERYTHING, 0.0)
    copy.want([3, 4], Urgency.SOON)
    peers.wants_changed(copy)
    other.on_have(EVERYTHING, 0.0)
    assert asked(slow) == [3, 4]
    slow.on_data(answer(4, copy), LATE - 5)
    peers.now = LATE + 1
    slow.tick(peers.now)
    assert asked(other) == [3]
    assert slow.on_data(answer(3, copy), peers.now + 1)
    assert not other.on_data(answer(3, copy), peers.now + 2)
    assert copy.register.has(3)
    assert other.in_flight == slow.in_flight == 0


def test_unhave_is_not_answered_by_asking_again() -> None:
    """A peer that denies what it announced is not asked for it any more, not even to learn the length."""
    copy, peers, [peer] = peers_of(1)
    copy._length_waiters.add(trio.Event())  # somebody waits for a longer register
    peer.on_have(EVERYTHING, 0.0)
    assert asked(peer) == [COUNT - 1]
    copy._length_waiters.clear()
    peer.on_unhave(Unhave(COUNT - 1), 0.0)
    peer.refill(0.0)
    copy.want([COUNT - 1, 3], Urgency.NOW)
    peers.wants_changed(copy)
    assert asked(peer) == [3]
    assert peer.length == COUNT - 1
    peer.on_unhave(Unhave(0, COUNT), 0.0)
    assert (peer.length, peer.in_flight) == (0, 0)
    assert copy.longest_claim == 0


def test_an_answer_of_proof_alone_is_no_answer() -> None:
    """A peer that sends no bytes for a chunk does not have it: it is not asked in a circle."""
    copy, peers, [peer, other] = peers_of(2)
    peer.on_have(EVERYTHING, 0.0)
    copy.want([7], Urgency.NOW)
    peers.wants_changed(copy)
    other.on_have(EVERYTHING, 0.0)
    assert asked(peer) == [7]
    assert not peer.on_data(Data(7, None, answer(7, copy).nodes), 0.0)
    assert asked(other) == [7]
    other.close()
    peers.peers.remove(other)
    peer.refill(0.0)
    assert asked(peer) == []
    peer.on_have(Have(7), 1.0)
    assert asked(peer) == [7]


def test_a_bad_answer_leaves_nothing_reserved() -> None:
    """After BadProof and the end of the connection, the chunk may be asked of the next peer."""
    copy, peers, [liar, good] = peers_of(2)
    liar.on_have(EVERYTHING, 0.0)
    copy.want([3, 4], Urgency.NOW)
    peers.wants_changed(copy)
    data = answer(3, copy)
    with pytest.raises(BadProof):
        liar.on_data(Data(3, b"other", data.nodes, data.signature), 0.0)
    liar.close()
    peers.peers.remove(liar)
    good.on_have(EVERYTHING, 0.0)
    assert sorted(asked(good)) == [3, 4]


def test_impatience_only_where_a_reader_waits_and_another_peer_is_there() -> None:
    """With one peer a slow answer is waited for; with two, a reader's chunk is asked of both after a while."""
    copy, peers, [slow, other] = peers_of(2)
    slow.on_have(EVERYTHING, 0.0)
    copy.want([3, 4], Urgency.NOW)
    peers.wants_changed(copy)
    copy.want([5], Urgency.SOON)
    slow.refill(3.0)
    copy._waiters[3] = None  # type: ignore[assignment]  # a reader
    slow.tick(IMPATIENT + 1)
    assert slow.in_flight == 3
    other.on_have(EVERYTHING, 0.0)
    peers.now = IMPATIENT + 1
    slow.tick(peers.now)
    assert slow.in_flight == 1  # what was asked later is not late
    assert asked(other) == [3, 4]  # what was asked with it is next
    copy._waiters.clear()


def test_patience_ends_before_the_deadline_of_readers() -> None:
    """Who gives readers two seconds lets no peer have three: another one is asked before that."""
    copy, peers, [slow, other] = peers_of(2)
    copy.patience = 2.0 / 3
    for peer in (slow, other):
        peer.on_have(EVERYTHING, 0.0)
    copy.want([3], Urgency.NOW)
    peers.wants_changed(copy)
    copy._waiters[3] = None  # type: ignore[assignment]  # a reader
    first, second = (slow, other) if slow.in_flight else (other, slow)
    peers.now = 0.7
    first.tick(peers.now)
    assert (first.in_flight, second.in_flight) == (0, 1)
    copy._waiters.clear()


def test_a_quicker_peer_makes_us_less_patient() -> None:
    """What a reader waits for is asked of the other peer sooner, if that one usually answers much sooner."""
    copy, peers, [slow, quick] = peers_of(2)
    quick.on_have(EVERYTHING, 0.0)
    copy.want([1], Urgency.NOW)
    peers.wants_changed(copy)
    quick.on_data(answer(1, copy), 0.1)
    quick.on_have(Have(0, REGION, b""), 0.1)
    quick.on_unhave(Unhave(0, COUNT), 0.1)
    asked(quick)
    slow.on_have(EVERYTHING, 0.1)
    copy.want([3], Urgency.NOW)
    peers.wants_changed(copy)
    assert asked(slow) == [3]
    quick.on_have(EVERYTHING, 0.2)
    copy._waiters[3] = None  # type: ignore[assignment]  # a reader
    peers.now = 0.1 + HURRY / 2
    slow.tick(peers.now)
    assert asked(quick) == []
    peers.now = 0.2 + HURRY
    slow.tick(peers.now)
    assert asked(quick) == [3]
    copy._waiters.clear()


def test_what_one_peer_has_no_room_for_is_left_to_others() -> None:
    """Answers that come later than the link needs make the window smaller, down to what the peer keeps up with."""
    source = make_register([b"chunk %d" % number for number in range(500)])
    copy, _, [peer] = peers_of(1, source)
    peer.on_have(Have(0, REGION, rle_encode(b"\xff" * 62)), 0.0)
    copy.want(range(490), Urgency.LATER)
    peer.refill(0.0)
    queue = asked(peer)
    now, widths = 0.0, []
    for _ in range(200):  # one after the other, each takes a third of a second
        now += 1 / 3
        peer.on_data(answer(queue.pop(0), copy, source), now)
        peer.refill(now)
        queue += asked(peer)
        widths.append(peer.in_flight)
    assert WINDOW_LEAST <= max(widths[100:]) <= 6 < WINDOW_FIRST


@pytest.mark.parametrize(
    "have",
    [Have(0, 2**52), Have(2**52, 2**52), Have(2**53 - 1), Have(0, 2**53 - 1)],
    ids=str,
)
def test_huge_claims_take_no_memory(have: Have) -> None:
    """What a peer claims beyond the verified length is a number, not a bitfield."""
    _, _, [peer] = peers_of(1)
    peer.on_have(have, 0.0)
    assert len(peer.held) <= REGION
    peer.on_unhave(Unhave(have.start, have.length), 0.0)
    assert peer.length <= have.start


@pytest.mark.parametrize(
    "have",
    [
        Have(0, REGION, b"\x07\x02"),  # a literal that is cut off
        Have(0, REGION, b"\xff\xff\xff\xff\x0f"),  # a gigabyte of ones
        Have(0, REGION, b"\xff\xff\x20" * 3),  # each within the bounds, together not
        Have(3, REGION, b"\x07"),
        Have(0, REGION, b"\xff" * 12),  # a varint that never ends
    ],
    ids=["cut", "bomb", "bombs", "unaligned", "varint"],
)
def test_bad_bitfields_are_the_peers_mistake(have: Have) -> None:
    """Each is a RemoteProtocolError, whatever was announced before stays as it was."""
    _, _, [peer] = peers_of(1)
    peer.on_have(Have(4), 0.0)
    with pytest.raises(RemoteProtocolError):
        peer.on_have(have, 0.0)
    assert peer.held.count(0, REGION) == 1


def test_further_regions_are_wanted_when_needed() -> None:
    """A register of more than a million chunks: a region's Want goes out once, and when something in it is wanted."""
    copy, peers, [peer] = peers_of(1)
    peer.on_have(Have(3 * REGION + 5), 0.0)
    peer.on_have(Have(0, REGION, b""), 0.0)
    peer.outgoing.clear()
    copy.want([2 * REGION + 1], Urgency.NOW)
    peers.wants_changed(copy)
    peers.wants_changed(copy)
    assert peer.outgoing == [Want(2 * REGION, REGION)]


def download(
    copy: SparseRegister, source: Register, peers: Peers, seconds: dict[PeerState, float]
) -> dict[PeerState, list[int]]:
    """Lets peers answer one request after the other, each in its own time, until everything is here; who sent what."""
    queues: dict[PeerState, list[int]] = {peer: [] for peer in seconds}
    sent: dict[PeerState, list[int]] = {peer: [] for peer in seconds}
    busy_until = dict.fromkeys(seconds, 0.0)
    ticked = 0.0
    while copy.wants and not copy.has_range(0, source.length):
        for peer, queue in queues.items():
            new = asked(peer)
            if new and not queue:
                busy_until[peer] = peers.now + seconds[peer]
            queue += new
        ready = min((busy_until[peer], number) for number, peer in enumerate(queues) if queues[peer])
        if ready[0] > ticked + 0.5:
            peers.now = ticked = ticked + 0.5
            for peer in queues:
                peer.tick(peers.now)
            continue
        peers.now, peer = ready[0], list(queues)[ready[1]]
        index = queues[peer].pop(0)
        busy_until[peer] = peers.now + seconds[peer]
        if peer.on_data(answer(index, copy, source), peers.now):
            sent[peer].append(index)
        peer.refill(peers.now, in_batches=True)
    return sent


@pytest.mark.parametrize("slow_seconds", [0.1, 1.0, 4.0])
def test_a_fast_peer_gets_more(slow_seconds: float) -> None:
    """Each peer brings what it can: the slow one does not hold up the end, and the fast one never waits for it."""
    source = make_register([b"chunk %d" % number for number in range(1000)])
    copy, peers, [slow, fast] = peers_of(2, source)
    for peer in (slow, fast):
        peer.on_have(Have(0, REGION, rle_encode(b"\xff" * 125)), 0.0)
    copy.want(range(1000), Urgency.LATER)
    peers.wants_changed(copy)
    sent = download(copy, source, peers, {slow: slow_seconds, fast: 0.01})
    together = 1000 / (1 / slow_seconds + 1 / 0.01)
    assert len(sent[fast]) + len(sent[slow]) == 1000
    assert len(sent[fast]) > len(sent[slow]) * slow_seconds / 0.01 / 4
    assert peers.now < together * 1.2 + 2 * HURRY


MANY = make_register([b"chunk %d" % number for number in range(400)])


def in_turn(*seconds: float | None) -> list[int]:
    """How many of 16 newly wanted chunks each peer is asked for, by the seconds it needed for each so far."""
    copy, peers, states = peers_of(len(seconds), MANY)
    for number, (peer, each) in enumerate(zip(states, seconds, strict=True)):
        if each is None:
            continue
        peer.on_have(Have(0, REGION, rle_encode(b"\xff" * 50)), 0.0)
        copy.want(range(20 * number, 20 * number + 4), Urgency.NOW)
        peer.refill(0.0)
        for turn, index in enumerate(asked(peer)):
            peer.on_data(answer(index, copy, MANY), each * (turn + 1))
    for peer in states:
        peer.on_have(Have(0, REGION, rle_encode(b"\xff" * 50)), peers.now)
    copy.want(range(300, 316), Urgency.NOW)
    peers.wants_changed(copy)
    return [len(asked(peer)) for peer in states]


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ((0.1,), [16]),
        ((None, None), [8, 8]),
        ((0.1, 0.1, 0.1, 0.1), [4, 4, 4, 4]),
        ((0.1, 0.3), [12, 4]),
        ((0.01, 1.0), [16, 0]),
        ((0.1, None), [8, 8]),
        ((0.1, 0.3, None), [9, 3, 4]),
    ],
    ids=str,
)
def test_new_wants_go_to_who_should_bring_them_first(seconds: Sequence[float | None], expected: list[int]) -> None:
    """Nobody is left idle whose answer would be here before those in somebody's queue, and nobody else is asked."""
    assert in_turn(*seconds) == expected


def test_wants_that_only_one_peer_can_bring_wait_for_nobody() -> None:
    """The quick one has none of it, the slow one all."""
    copy, peers, [quick, slow] = peers_of(2, MANY)
    quick.on_have(Have(0, REGION, rle_encode(b"\xff" * 10)), 0.0)
    slow.on_have(Have(0, REGION, rle_encode(b"\xff" * 50)), 0.0)
    copy.want(range(70, 90), Urgency.NOW)
    peers.wants_changed(copy)
    quick_asked, slow_asked = asked(quick), asked(slow)
    assert set(quick_asked) <= set(range(80))
    assert sorted(quick_asked + slow_asked) == list(range(70, 90))


def test_a_peers_table_has_no_islands() -> None:
    """Every state can be reached from the first one, each event happens, and only the end is final."""
    reached = {PeerStage.NEW}
    while more := {after for (before, _), after in PEER.items() if before in reached} - reached:
        reached |= more
    assert reached == set(PeerStage)
    assert {stage for stage in PeerStage if not any(before is stage for before, _ in PEER)} == {PeerStage.CLOSED}
    assert {event for _, event in PEER} == set(PeerEvent)


def within_reach(before: PeerStage, events: frozenset[PeerEvent]) -> set[PeerStage]:
    """Where these events lead to by the table, each as often as it likes."""
    reached = {before}
    while more := {PEER[stage, event] for stage in reached for event in events if (stage, event) in PEER} - reached:
        reached |= more
    return reached


ASKED_MORE = frozenset({PeerEvent.ASK})  # whatever happens, a peer may be asked for what is free now
BY_TIME = frozenset({PeerEvent.FORGIVE, PeerEvent.LATE, PeerEvent.EMPTY})


class ManyPeers(RuleBasedStateMachine):
    """Readers want and drop, three peers announce, deny, answer, stall and go: no chunk is asked twice at a time
    without cause, none is forgotten, and at the end everything wanted that somebody has is here. Each change of a
    peer's state follows the table, by events that the step can have caused.
    """

    def __init__(self) -> None:
        super().__init__()
        self.copy, self.source, peers = peers_of(3)
        self.stages = dict.fromkeys(peers, PeerStage.LISTENING)
        self.flying: dict[PeerState, list[int]] = {peer: [] for peer in peers}
        self.wants: list[tuple[int, Urgency]] = []

    def look(self, *told: PeerState, events: frozenset[PeerEvent] = frozenset()) -> None:
        """After a step: ``events`` are what may have happened to the peers ``told`` besides new requests."""
        for peer in self.source.peers:
            new = asked(peer)
            self.flying[peer] += new
            stage = peer.stage(self.source.now)
            assert stage in within_reach(self.stages[peer], events | ASKED_MORE if peer in told else ASKED_MORE)
            assert not new or stage in (PeerStage.BUSY, PeerStage.TRIED) or PeerEvent.LATE in events
            self.stages[peer] = stage

    indices = st.integers(0, COUNT - 1)
    numbers = st.integers(0, 2)

    @rule(index=indices, count=st.integers(1, 20), urgency=st.sampled_from(Urgency))
    def want(self, index: int, count: int, urgency: Urgency) -> None:
        some = range(index, min(COUNT, index + count))
        self.copy.want(some, urgency)
        self.wants += [(one, urgency) for one in some]
        self.source.wants_changed(self.copy)
        self.look()

    @precondition(lambda self: self.wants)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from(self.wants))
        self.wants.remove(one)
        self.copy.drop([one[0]], one[1])

    @rule(number=numbers, bits=st.binary(min_size=5, max_size=5))
    def announce(self, number: int, bits: bytes) -> None:
        peer = self.source.peers[number]
        peer.on_have(Have(0, REGION, rle_encode(bits)), self.source.now)
        self.look(peer, events=frozenset({PeerEvent.TELL}))

    @rule(number=numbers, first=indices, count=st.integers(1, 10))
    def deny(self, number: int, first: int, count: int) -> None:
        peer = self.source.peers[number]
        peer.on_unhave(Unhave(first, count), self.source.now)
        self.flying[peer] = [index for index in self.flying[peer] if not first <= index < first + count]
        self.look(peer, events=frozenset({PeerEvent.EMPTY}))

    @rule(number=numbers, data=st.data())
    def arrive(self, number: int, data: st.DataObject) -> None:
        peer = self.source.peers[number]
        if self.flying[peer]:
            index = data.draw(st.sampled_from(self.flying[peer]))
            self.flying[peer].remove(index)
            peer.on_data(answer(index, self.copy), self.source.now)
            assert self.copy.register.has(index)
            peer.refill(self.source.now)
            self.look(peer, events=frozenset({PeerEvent.FORGIVE, PeerEvent.EMPTY}))

    @rule(seconds=st.sampled_from([1.0, 4.0, 12.0]))
    def wait(self, seconds: float) -> None:
        self.source.now += seconds
        for number, peer in enumerate(self.source.peers):
            try:
                peer.tick(self.source.now)
            except RemoteProtocolError:
                self.replace(number)
        self.look(*self.source.peers, events=BY_TIME)

    @rule(number=numbers)
    def replace(self, number: int) -> None:
        old = self.source.peers[number]
        old.close()
        assert old.stage(self.source.now) is PEER[self.stages.pop(old), PeerEvent.CLOSE]
        new = self.source.peers[number] = PeerState(self.copy)
        assert new.stage(self.source.now) is PeerStage.NEW
        new.start(self.source.now)
        new.outgoing.clear()
        self.stages[new] = PEER[PeerStage.NEW, PeerEvent.START]
        self.flying = {peer: indices for peer, indices in self.flying.items() if peer is not old} | {new: []}
        self.source.wants_changed(self.copy)
        self.look(*self.source.peers, events=BY_TIME)

    @invariant()
    def nothing_is_asked_twice(self) -> None:
        asked_now = [index for peer in self.source.peers for index in peer._asked]
        assert len(asked_now) == len(set(asked_now))
        assert self.copy.wants.in_flight == {index for index in asked_now if not self.copy.register.has(index)}

    @invariant()
    def nothing_is_forgotten(self) -> None:
        free = {index for index, _ in self.wants if not self.copy.register.has(index)} - set(self.copy.wants.in_flight)
        assert {index for level in self.copy.wants._open for index in level} == free

    def teardown(self) -> None:
        """Honest from here on: all that is wanted and held by some peer arrives."""
        self.source.now += 100.0
        for peer in self.source.peers:
            peer.refill(self.source.now)
        for _ in range(100):
            for peer in self.source.peers:
                for index in list(peer._asked):
                    peer.on_data(answer(index, self.copy), self.source.now)
                peer.refill(self.source.now)
        held = {index for index in range(COUNT) if any(peer.held.get(index) for peer in self.source.peers)}
        wanted = {index for index, _ in self.wants}
        assert all(self.copy.register.has(index) for index in wanted & held)
        for index, urgency in self.wants:
            self.copy.drop([index], urgency)
        assert not self.copy.wants


TestManyPeers = ManyPeers.TestCase
TestManyPeers.settings = settings(max_examples=40, stateful_step_count=40)
