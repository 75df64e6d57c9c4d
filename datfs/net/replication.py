"""One register on one connection, as the side that downloads (wire.md sections 7 and 8). Pure.

Owns what the peer says it has, the requests in flight to it, and how many of those it may get. Chooses requests from
the register's want list; messages to send gather in :attr:`PeerState.outgoing`.

How a peer is dealt with is the table of :mod:`datfs.net.peer_states`.

The number of requests in flight adapts: it grows with answers that come about as quickly as the quickest, shrinks with
slower ones, and is halved by a stall. So a link is kept full and not buried, a fast peer gets more than a slow one, and
what one peer has no room for is left to the others.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Collection

from datfs.bitfield import Bitfield, rle_decode
from datfs.errors import DatfsError, RemoteProtocolError
from datfs.net.messages import Data, Have, Message, Request, Unhave, Want
from datfs.net.peer_states import PeerStage
from datfs.sparse import SparseRegister

REGION = 1 << 20  # chunks in one Want, aligned: what the reference asks for
HAVE_ALIGNMENT = 8192  # a Have with a bitfield starts at a multiple of this
WANTS_UNANSWERED = 16
WINDOW_FIRST = 16  # the reference's fixed number of requests in flight
WINDOW_LEAST = 2
WINDOW_MOST = 128
QUEUE = 0.1  # seconds that an answer may take beyond twice the quickest one: so much waits at the peer, as a link is
# kept full by little and more would only be missing elsewhere
STEP = 1 / 4  # so much the window changes with an answer: what that does is seen one round trip later
SLOW = 1.0  # seconds for an answer, above which a peer gets less than the first window
STALLED = 10.0  # seconds without any answer after which requests are asked elsewhere
IMPATIENT = 3.0  # seconds after which a chunk is asked of another peer as well, if a reader waits for it or nothing
# else is left to ask for; on a slow link twice the usual time of an answer, if that is more
HURRY = 1.0  # the same, if another peer usually answers in a quarter of it
CHUNK_USUAL = 1 << 16  # bytes; what the reference makes of files
LATE = 25.0  # seconds after which one request is given up although others are answered
AVOIDED = 15.0  # seconds for which a peer that owes late answers is asked for nothing more, if there are others
STRIKES = 3  # stalls in a row that end the connection


class PeerState:
    """What one peer has of one register, and what we asked it for.

    ``first_have`` tells whether the peer has answered our Want, i.e. whether we know what it has.
    """

    def __init__(self, register: SparseRegister) -> None:
        self.register = register
        self.outgoing: list[Message] = []
        self.held = Bitfield()
        self.length = 0  # the length it claims
        self.first_have = False
        self.chunks_received = 0
        self.bytes_most = math.inf  # may be on their way, as far as requests can tell
        self.unasked = 0  # answers nobody asked for, dropped
        self._asked: dict[int, float] = {}  # in flight: index → time of the request
        self._late: set[int] = set()  # given up; an answer that comes after all is welcome
        self._avoided_until = 0.0
        self._regions: set[int] = set()
        self._unanswered = 0
        self._window = float(WINDOW_FIRST)
        self._opening = True  # the window grows quickly until answers are slow for the first time
        self._quickest = math.inf  # seconds from request to answer
        self._usual = 0.0  # the same, smoothed
        self._gap = 0.0  # seconds from one answer to the next, if that had been asked for by then; smoothed
        self._answered = math.inf  # when the last answer came
        self._progress = 0.0
        self._strikes = 0
        self._started = False
        self._told = False  # what it has, or some of it
        self._closed = False

    def excuse(self, seconds: float, now: float) -> None:
        """We did not listen for so long, because of a limit of our own: the peer is not late by that."""
        for index, asked_at in self._asked.items():
            self._asked[index] = min(now, asked_at + seconds)
        self._progress = min(now, self._progress + seconds)

    @property
    def asked(self) -> Collection[int]:
        """The chunks that it was asked for and has not sent yet."""
        return self._asked.keys()

    @property
    def late(self) -> Collection[int]:
        """Those that it was asked for and did not send in time; they may still come."""
        return self._late

    def waiting(self, now: float) -> float | None:
        """Seconds since the oldest request that it has not answered, None if there is none."""
        return now - min(self._asked.values()) if self._asked else None

    @property
    def in_flight(self) -> int:
        """How many requests wait for an answer."""
        return len(self._asked)

    @property
    def pace(self) -> tuple[float, float] | None:
        """Seconds of its quickest answer, and from one answer to the next while requests queue. None before any."""
        if self._quickest == math.inf:
            return None
        return self._quickest, self._gap or self._quickest

    def told(self, stop: int) -> bool:
        """Whether the peer has told what it holds of the chunks before ``stop``."""
        return self.first_have and (stop <= REGION or self._told_regions(stop))

    def _told_regions(self, stop: int) -> bool:
        return not self._unanswered and all(region in self._regions for region in range(-(-stop // REGION)))

    def stage(self, now: float) -> PeerStage:
        """How far the peer is, and how well it does (:mod:`datfs.net.peer_states`)."""
        if self._closed:
            return PeerStage.CLOSED
        if not self._told:
            return PeerStage.LISTENING if self._started else PeerStage.NEW
        if now < self._avoided_until:
            return PeerStage.TRIED if self._asked else PeerStage.OWING
        return PeerStage.BUSY if self._asked else PeerStage.IDLE

    def start(self, now: float) -> None:
        """Both sides know the register and the peer has shaken hands: ask what it has."""
        self._started = True
        self._progress = now
        # Old peers die of a Request that comes before any Have, so an empty one goes first (wire.md section 11.4).
        self.outgoing.append(Have(start=0, length=HAVE_ALIGNMENT, bitfield=b""))
        self._want_region(0)

    # -- what the peer says

    def on_have(self, have: Have, now: float) -> None:
        """The peer announces chunks, or answers a Want. Raises RemoteProtocolError."""
        if have.ack:
            return
        limit = self._limit()
        if have.bitfield is None:
            stop = have.start + have.length
            self.length = max(self.length, stop)
            if have.start < limit:
                self.held.set_range(have.start, min(stop, limit), True)
        else:
            self._on_bitfield(have, limit)
        self._told |= self.first_have or self.length > 0
        if self.first_have:
            self.register.claim(self, self.length)
        self.refill(now)

    def _on_bitfield(self, have: Have, limit: int) -> None:
        assert have.bitfield is not None
        if have.start % HAVE_ALIGNMENT:
            raise RemoteProtocolError(f"Have with a bitfield that starts at chunk {have.start}, not a multiple of 8192")
        try:
            bits = rle_decode(have.bitfield, REGION // 8)
        except ValueError as error:
            raise RemoteProtocolError(f"Have with a bad bitfield: {error}") from error
        if have.start < limit:
            self.held.update(have.start, bits[: (limit - have.start) // 8])
        last = self.held.last_set()
        if last is not None:
            self.length = max(self.length, last + 1)
        if have.length <= 1:
            # A peer older than regions: this was all of its register, further Wants make no sense.
            self._regions.update(range(1 + self._limit() // REGION))
        elif have.length != REGION:
            return  # not the echo of a Want of ours, so not its answer
        self.first_have = True
        self._unanswered = max(0, self._unanswered - 1)

    def on_unhave(self, unhave: Unhave, now: float) -> None:
        """The peer no longer has these chunks; what was asked of them is asked elsewhere."""
        stop = unhave.start + unhave.length
        gone = [index for index in self._asked if unhave.start <= index < stop]
        self._give_up(gone)
        self._lacks(unhave.start, stop)
        if gone:
            self.register.source.wants_changed(self.register)

    def _lacks(self, first: int, stop: int) -> None:
        """The peer cannot give these chunks, so it is not asked for them again, not even to learn the length."""
        self.held.set_range(first, min(stop, self._limit()), False)
        if first < self.length <= stop:
            self.length = first
            if self.first_have:
                self.register.claim(self, self.length)

    def on_data(self, data: Data, now: float) -> bool:
        """An answer. True if it was stored. Raises BadProof or ForkedRegister, which end this peer."""
        asked_at = self._asked.pop(data.index, None)
        if asked_at is None:
            if data.index not in self._late:
                self.unasked += 1
                return False
            self._late.discard(data.index)
        if data.value is None:
            self._lacks(data.index, data.index + 1)  # only proof of it: else it would be asked for again at once
            self.register.release((data.index,))
            self.register.source.wants_changed(self.register)
            return False
        self._progress = now
        self._strikes = 0
        self._avoided_until = 0.0
        if asked_at is not None:
            self._took(asked_at, now)
        register = self.register
        if register.register.has(data.index):
            register.release((data.index,))
            return False
        try:
            register.put(data.index, data.value, data.nodes, data.signature)
        except DatfsError:
            register.release((data.index,))  # it is no longer among those that close() gives back
            raise
        if not register.register.has(data.index):
            return False  # our disk refused it
        self.chunks_received += 1
        return True

    def _took(self, asked_at: float, now: float) -> None:
        """An answer came: the window follows how long that took."""
        seconds = now - asked_at
        first = self._quickest == math.inf
        if asked_at <= self._answered <= now:
            gap = now - self._answered
            self._gap += (gap - self._gap) / (8 if self._gap else 1)
        self._answered = now
        self._quickest = min(self._quickest, seconds)
        self._usual += (seconds - self._usual) / (1 if first else 8)
        self.register.keeps_pace(self, self._usual)
        if self._usual <= QUEUE + 2 * self._quickest:
            self._window = min(self._window + (1.0 if self._opening else STEP), WINDOW_MOST)
            return
        self._opening = False
        if self._usual > SLOW:
            self._window = max(self._window - 1.0, WINDOW_LEAST)
        elif self._window > WINDOW_FIRST:
            self._window -= STEP

    # -- what we ask

    def refill(self, now: float, *, in_batches: bool = False, most: int = WINDOW_MOST) -> None:
        """Queues requests for wanted chunks that the peer has, up to the window and ``most`` at a time.

        ``in_batches``: not before a quarter of the window is free, unless a reader's chunk was not asked for yet. A
        message for each answer would be a packet for each answer.
        """
        if self._closed or not self._told:
            return
        register = self.register
        held = self.held
        if now < self._avoided_until:
            held = self._held_alone()
        room = int(min(self._window, self._affordable())) - len(self._asked)
        if room <= 0:
            register.has_room(self, False)
        if room <= 0 or (in_batches and room < int(self._window / 4) and not register.wants.urgent):
            return
        if not self._asked:
            self._progress = now
        length = register.register.length
        if register.length_wanted and self.length > length:
            newest = self.length - 1
            if newest not in self._asked and register.reserve(newest):
                self._request(newest, now)
                room -= 1
        wanted = min(room, most)
        chosen = register.next_wants(held, wanted)
        register.has_room(self, len(chosen) < wanted)
        for index in chosen:
            self._request(index, now)
        if self.length > REGION:
            self._want_regions()

    def _others(self) -> list[Bitfield]:
        """What the other peers hold."""
        return [held for held in self.register.source.held_by_peers(self.register) if held is not self.held]

    def _held_alone(self) -> Bitfield:
        """What no other peer holds: for that it is asked however late it is."""
        held = self.held
        for others in self._others():
            held = held.without(others)
        return held

    def _affordable(self) -> float:
        """How many chunks of the usual size may be on their way; one at least."""
        register = self.register.register
        usual = register.byte_length / register.length if register.byte_length else CHUNK_USUAL
        return max(1, self.bytes_most / usual)

    def _request(self, index: int, now: float) -> None:
        self._asked[index] = now
        self._late.discard(index)
        self.outgoing.append(Request(index=index, nodes=self.register.register.digest(index)))

    def _want_regions(self) -> None:
        for region in self.register.wants.places(REGION):
            if region * REGION < self.length and region not in self._regions and self._unanswered < WANTS_UNANSWERED:
                self._want_region(region)

    def _want_region(self, region: int) -> None:
        self._regions.add(region)
        self._unanswered += 1
        self.outgoing.append(Want(start=region * REGION, length=REGION))

    def _limit(self) -> int:
        """Bits beyond this are not kept, whatever a peer claims: the verified length, in whole regions."""
        return max(REGION, -(-self.register.register.length // REGION) * REGION)

    # -- time and the end

    def tick(self, now: float) -> None:
        """Gives up requests that are late; their answers are still welcome. To be called about once a second.

        Raises RemoteProtocolError when the peer has stalled too often.
        """
        if not self._asked:
            self.refill(now)  # it may have been left out for a while, and be the only one that has a chunk
            return
        if now - self._progress > STALLED:
            self._progress = now
            self._strikes += 1
            self._window = max(WINDOW_LEAST, self._window / 2)
            self._quickest = math.inf  # the way to it may have changed
            late = list(self._asked)
        else:
            late = self._overdue(now)
        if not late:
            return
        self._give_up(late)
        self._avoided_until = now + AVOIDED
        if self._strikes >= STRIKES:
            raise RemoteProtocolError(f"requests for {self.register.name} chunks were not answered for too long")
        self.register.source.wants_changed(self.register)

    def _overdue(self, now: float) -> list[int]:
        """What is late. Soon if others have it, and room, or a reader waits: then all that was asked as long ago."""
        register = self.register
        others = self._others()
        if others:
            patience = self._patience()
            old = [index for index, asked_at in self._asked.items() if now - asked_at > patience]
            old = [
                index for index in old if index >= register.register.length or any(held.get(index) for held in others)
            ]
            if old and (register.has_room_but(self) or register.length_wanted or any(map(register.is_waited_for, old))):
                return old
        return [index for index, asked_at in self._asked.items() if now - asked_at > LATE]

    def _patience(self) -> float:
        """Seconds after which something is asked of another peer, if it matters to somebody."""
        patience = max(IMPATIENT, 2 * self._usual)
        quicker = self.register.quickest_but(self)
        if quicker is not None:
            patience = min(patience, max(HURRY, 4 * quicker))
        return min(LATE, patience, self.register.patience)

    def _give_up(self, indices: list[int]) -> None:
        for index in indices:
            del self._asked[index]
            self._late.add(index)
        self.register.release(indices)

    def close(self) -> None:
        """The connection is gone: its requests are free for others."""
        self._closed = True
        self.register.release(self._asked)
        self._asked.clear()
        with contextlib.suppress(KeyError):
            self.register.unclaim(self)
