"""A register that lacks chunks: what is wanted, who waits, and how a source of chunks fills it.

Owns the want list (index → urgency, counted), the waiters, and the reservations of requests in flight. Does not know
where chunks come from: a :class:`ChunkSource` asks :meth:`SparseRegister.next_wants`, delivers with
:meth:`SparseRegister.put` and gives reservations back with :meth:`SparseRegister.release`.

What a chunk goes through is the table of :mod:`datfs.chunk_states`.

Everything here runs in one thread; nothing awaits while an invariant is broken (``docs/design.md``, "State").
"""

from __future__ import annotations

import enum
import errno
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Protocol

import trio

from datfs.bitfield import Bitfield
from datfs.budget import Budget
from datfs.chunk_states import ChunkState
from datfs.crypto import TreeNode
from datfs.errors import Closed, CorruptStorage, DatfsError, NoPeers
from datfs.register import Register


class Urgency(enum.IntEnum):
    """How soon a chunk is needed; lower values are asked for first."""

    NOW = 0  # a reader waits for it
    SOON = 1  # read-ahead of a sequential reader
    LATER = 2  # asked for in advance by a person or a command
    BACKGROUND = 3  # a whole drive that is to be here some day


class ChunkSource(Protocol):
    """Who can bring chunks."""

    def wants_changed(self, register: SparseRegister) -> None:
        """Something is wanted that was not before. Must not wait; may be called when nothing changed."""
        ...

    def hopeless(self, register: SparseRegister) -> DatfsError | None:
        """Why nobody will bring anything now, as the error for a reader; None while there is hope."""
        ...

    def undecided(self, register: SparseRegister) -> bool:
        """Whether somebody who has not told how long the register is may do so soon."""
        ...

    def held_by_peers(self, register: SparseRegister) -> Sequence[Bitfield]:
        """What each one who can be asked now has told to hold."""
        ...

    def all_told(self, register: SparseRegister, stop: int) -> bool:
        """Whether everybody who can be asked now, or may soon be, has told which chunks before ``stop`` he holds.

        Not if there is nobody.
        """
        ...


class Keeper(Protocol):
    """Who decides whether there is room for a chunk, and remembers when chunks were used."""

    tick: int  # changes about once a second; a use that was noted in this one need not be noted again

    def admit(self, register: SparseRegister, index: int, size: int) -> bool:
        """Whether a chunk of ``size`` bytes may be stored. May clear others to make room. Raises OSError."""
        ...

    def used(self, register: SparseRegister, first: int, stop: int) -> None:
        """Chunks ``first .. stop-1`` were read. Must be quick."""
        ...


class NoSource:
    """The source of a drive that is offline: nothing comes, and readers are told at once."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def wants_changed(self, register: SparseRegister) -> None:
        """Nothing will come."""

    def hopeless(self, register: SparseRegister) -> DatfsError | None:
        """Always: the reason given when this was made."""
        return NoPeers(f"{register.name} chunk is not here, and {self._reason}")

    def undecided(self, register: SparseRegister) -> bool:
        """Nobody will tell anything."""
        return False

    def held_by_peers(self, register: SparseRegister) -> Sequence[Bitfield]:
        """Nobody is there."""
        return ()

    def all_told(self, register: SparseRegister, stop: int) -> bool:
        """Nobody has been asked, so nothing is known of others."""
        return False


class CopySource:
    """Brings chunks from another register of the same key on this machine, on the spot, with proofs."""

    def __init__(self, origin: Register) -> None:
        self._origin = origin

    def wants_changed(self, register: SparseRegister) -> None:
        """Delivers all that is wanted and held by the origin, before it returns."""
        while wants := register.next_wants(self._origin.data_bits, 64):
            for index in wants:
                digest = register.register.digest(index)
                proof = self._origin.proof(index, digest)
                register.put(index, self._origin.get(index), proof.nodes, proof.signature)
        if register.length_wanted and self._origin.length > register.register.length:
            index = self._origin.length - 1
            proof = self._origin.proof(index, register.register.digest(index))
            register.put(index, self._origin.get(index), proof.nodes, proof.signature)

    def hopeless(self, register: SparseRegister) -> DatfsError | None:
        """What the origin lacks will not come."""
        return NoPeers(f"{register.name} chunk is neither here nor in the copy it comes from")

    def undecided(self, register: SparseRegister) -> bool:
        """The origin tells at once."""
        return False

    def held_by_peers(self, register: SparseRegister) -> Sequence[Bitfield]:
        """What the origin holds."""
        return (self._origin.data_bits,)

    def all_told(self, register: SparseRegister, stop: int) -> bool:
        """There is nobody but the origin."""
        return True


class _Waiter:
    """Readers that wait for one chunk. ``error`` makes the exception for each of them, None after success."""

    __slots__ = ("error", "event", "readers")

    def __init__(self) -> None:
        self.readers = 0
        self.event = trio.Event()
        self.error: Callable[[], Exception] | None = None


def _same(error: OSError | CorruptStorage) -> Callable[[], Exception]:
    """Makes equal errors, one for each reader: a raised exception gathers the traceback of one task only."""
    if isinstance(error, CorruptStorage):
        text, store, offset = str(error), error.store, error.offset
        return lambda: CorruptStorage(text, store, offset)
    number, reason, name = error.errno, error.strerror, error.filename
    return lambda: OSError(number, reason, name)


class SparseRegister:
    """A :class:`~datfs.register.Register` plus what is wanted of it.

    ``name``: "metadata" or "content", for messages. ``trusted``: False if the bytes in the store may have been
    changed by others since they were verified (files of a working folder), so that readers must hash them.
    """

    def __init__(
        self, register: Register, source: ChunkSource, *, name: str = "register", trusted: bool = True
    ) -> None:
        self.register = register
        self.name = name
        self.trusted = trusted
        self.patience = 10.0  # seconds after which a late answer is asked for elsewhere, whatever is usual: well before
        # the deadline of readers, of which whoever knows it takes a third
        self.source = source
        self._levels: tuple[dict[int, int], ...] = tuple({} for _ in Urgency)
        # What of each level may be asked for now: neither held nor in flight nor unstorable. Kept apart so that the
        # choice of the next request does not go through all that was wanted at once.
        self._open: tuple[dict[int, None], ...] = tuple({} for _ in Urgency)
        self._waiters: dict[int, _Waiter] = {}
        self._in_flight: set[int] = set()
        self._length_waiters: set[trio.Event] = set()
        self._claims: dict[object, int] = {}
        self._paces: dict[object, float] = {}  # of those that claim and have answered
        self._closed = False
        self._unstorable: dict[int, Callable[[], Exception]] = {}
        self._store_failed = False
        self._handed: dict[int, _Waiter] = {}  # stored, but a reader that waited has not had its turn yet
        self.keeper: Keeper | None = None
        self._budget: Budget | None = None
        self.cramped = False  # no room: only what a reader waits for is asked for
        self.clears = 0  # grows when chunks are cleared: whoever remembers that some are held has to look again
        self.read_ahead_most = 1 << 62  # bytes; a cache of less room than a window would lose it before it is read
        self.shared = False  # another process owns the store, and may clear chunks while we look at it
        self.news = 0
        self.came = 0  # chunks, from peers
        """Grows with every chunk that comes, and whenever a peer tells what it holds."""

    # -- what readers call

    def has_range(self, first: int, stop: int) -> bool:
        """True if every chunk of ``first .. stop-1`` is held."""
        return self.register.has_range(first, stop)

    def limit_by(self, budget: Budget) -> None:
        """From now on nothing is asked for beyond the budget; readers are told when it is used up."""
        self._budget = budget
        budget.on_end.append(lambda: self.fail(budget.error))

    def hopeless(self) -> DatfsError | None:
        """Why nothing that is missing will come now, as the error for a reader; None while there is hope."""
        if self._budget is not None and not self._budget.left:
            return self._budget.error()
        return self.source.hopeless(self)

    async def ensure(self, indices: Iterable[int], urgency: Urgency = Urgency.NOW) -> None:
        """Returns when every chunk of ``indices`` is held; at once, without a checkpoint, if they are.

        Put a deadline around it. Raises NoPeers (or why else there is no hope), Closed, IntegrityError.
        A cancelled call takes its wants with it; chunks that were on their way are stored when they come.
        """
        has = self.register.has
        missing = [index for index in indices if not has(index)]
        if not missing:
            return
        if self._closed:
            raise Closed("the drive was closed")
        for index in missing:
            if self._unstorable.pop(index, None) is not None:
                self._settle(index)
        self.want(missing, urgency)
        try:
            self.source.wants_changed(self)
            for index in missing:
                while not has(index):
                    if index in self._unstorable:
                        raise self._unstorable[index]()
                    error = self.hopeless()
                    if error is not None:
                        raise error
                    await self._wait_for(index)
        finally:
            self.drop(missing, urgency)

    async def _wait_for(self, index: int) -> None:
        waiter = self._waiters.get(index)
        if waiter is None:
            waiter = self._waiters[index] = _Waiter()
        waiter.readers += 1
        try:
            if self.cramped:
                self.source.wants_changed(self)  # only now the chunk counts as one that a reader waits for
            await waiter.event.wait()
        finally:
            waiter.readers -= 1
            if not waiter.readers:
                for waiters in (self._waiters, self._handed):
                    if waiters.get(index) is waiter:
                        del waiters[index]
        if waiter.error is not None:
            raise waiter.error()

    def want(self, indices: Iterable[int], urgency: Urgency) -> None:
        """Counts a want for each index; call ``source.wants_changed`` afterwards. Undone by :meth:`drop`."""
        level, is_open = self._levels[urgency], self._open[urgency]
        for index in indices:
            level[index] = level.get(index, 0) + 1
            if self._may_be_asked(index):
                is_open[index] = None

    def drop(self, indices: Iterable[int], urgency: Urgency) -> None:
        """Takes back what :meth:`want` counted."""
        level = self._levels[urgency]
        for index in indices:
            left = level[index] - 1
            if left:
                level[index] = left
            else:
                del level[index]
                self._open[urgency].pop(index, None)

    def _may_be_asked(self, index: int) -> bool:
        return index not in self._in_flight and index not in self._unstorable and not self.register.has(index)

    def _settle(self, index: int) -> None:
        """Puts the chunk into, or takes it out of, what may be asked for, after something about it changed."""
        may = self._may_be_asked(index)
        for level, is_open in zip(self._levels, self._open, strict=True):
            if may and index in level:
                is_open[index] = None
            else:
                is_open.pop(index, None)

    async def learn_length(self) -> bool:
        """Waits until a longer signed length is verified (True), or a peer says it has no longer one (False).

        Raises as :meth:`ensure` does. Put a deadline around it.
        """
        if self._closed:
            raise Closed("the drive was closed")
        before = self.register.length
        for index in [index for index in self._unstorable if index >= before]:
            del self._unstorable[index]
            self._settle(index)
        event = trio.Event()
        self._length_waiters.add(event)
        try:
            self.source.wants_changed(self)
            while True:
                if self.register.length > before:
                    return True
                if self._claims and max(self._claims.values()) <= self.register.length and self._is_settled():
                    return False
                for index, make_error in self._unstorable.items():
                    if index >= before:
                        raise make_error()
                error = self.source.hopeless(self)
                if error is not None:
                    raise error
                await event.wait()
                if self._closed:
                    raise Closed("the drive was closed")
                self._length_waiters.discard(event)
                event = trio.Event()
                self._length_waiters.add(event)
        finally:
            self._length_waiters.discard(event)

    def _is_settled(self) -> bool:
        """Whether a claim of no greater length is believed. Of nothing at all: only when all have told.

        Else a peer that has nothing either would hide from a new reader the one that has everything.
        """
        return self.register.length > 0 or not self.source.undecided(self)

    async def grown_beyond(self, length: int) -> int:
        """Waits, however long, until the verified length is greater than ``length``; returns it. Raises Closed."""
        while self.register.length <= length:
            if self._closed:
                raise Closed("the drive was closed")
            event = trio.Event()
            self._length_waiters.add(event)
            try:
                self.source.wants_changed(self)
                if self.register.length <= length:
                    await event.wait()
            finally:
                self._length_waiters.discard(event)
        return self.register.length

    @property
    def peers(self) -> int:
        """How many connected peers have told what they hold."""
        return len(self._claims)

    @property
    def longest_claim(self) -> int | None:
        """The greatest length that a connected peer claims; None while no peer has told."""
        return max(self._claims.values()) if self._claims else None

    # -- what sources call

    @property
    def length_wanted(self) -> bool:
        """True while somebody waits for a newer length."""
        return bool(self._length_waiters)

    @property
    def wanted(self) -> Collection[int]:
        """The indices that are wanted, most urgent first, each once."""
        return list(dict.fromkeys(index for level in self._levels for index in level))

    def count_wanted(self, urgency: Urgency) -> int:
        """How many different chunks are wanted with this urgency, held ones not counted."""
        return sum(not self.register.has(index) for index in self._levels[urgency])

    @property
    def count_in_flight(self) -> int:
        """How many chunks peers were asked for and have not sent yet."""
        return len(self._in_flight)

    @property
    def waiting(self) -> int:
        """How many different chunks readers wait for."""
        return len(self._waiters)

    def state_of(self, index: int) -> ChunkState:
        """Where a chunk is in its life (:mod:`datfs.chunk_states`)."""
        wanted = any(index in level for level in self._levels)
        if self.register.has(index):
            return ChunkState.HELD
        if index in self._unstorable:
            return ChunkState.REFUSED if wanted else ChunkState.SHELVED
        if index in self._in_flight:
            return ChunkState.IN_FLIGHT if wanted else ChunkState.UNWANTED
        return ChunkState.WANTED if wanted else ChunkState.ABSENT

    def next_wants(self, held: Bitfield, limit: int) -> Sequence[int]:
        """Up to ``limit`` wanted chunks that ``held`` has and nobody was asked for yet; reserves them.

        Each must end in :meth:`put` or :meth:`release`.
        """
        chosen: list[int] = []
        if self._budget is not None:
            limit = min(limit, self._budget.requests(len(self._in_flight)))
        if limit <= 0:
            return chosen
        # After a failed write nothing is fetched ahead until one succeeds.
        cramped = self.cramped
        for is_open in self._open[:1] if self._store_failed or cramped else self._open:
            for index in is_open:
                if held.get(index) and (not cramped or index in self._waiters):
                    chosen.append(index)
                    if len(chosen) == limit:
                        break
            for index in chosen:
                self._take(index)
            if len(chosen) == limit:
                break
        return chosen

    def _take(self, index: int) -> None:
        self._in_flight.add(index)
        for is_open in self._open:
            is_open.pop(index, None)

    @property
    def urgent(self) -> bool:
        """Whether a chunk that a reader waits for has not been asked for yet."""
        return bool(self._open[Urgency.NOW])

    @property
    def needed(self) -> list[int]:
        """The chunks that readers need now, though they may wait for others first; ascending, none of them here."""
        return sorted(index for index in self._levels[Urgency.NOW] if not self.register.has(index))

    @property
    def all_asked(self) -> bool:
        """Whether everything that is wanted and could be asked for was asked for."""
        return not any(self._open)

    def is_waited_for(self, index: int) -> bool:
        """Whether a reader waits for the chunk now."""
        return index in self._waiters

    def reserve(self, index: int) -> bool:
        """Reserves one chunk that need not be wanted (the newest, to learn the length). False if it is taken."""
        if not self._may_be_asked(index) or (self._budget is not None and not self._budget.left):
            return False
        self._take(index)
        return True

    def release(self, indices: Iterable[int]) -> None:
        """Gives reservations back unfulfilled; call ``wants_changed`` so that others are asked."""
        for index in indices:
            if index in self._in_flight:
                self._in_flight.discard(index)
                self._settle(index)

    def put(
        self,
        index: int,
        value: bytes | bytearray | memoryview | None,
        nodes: Sequence[TreeNode],
        signature: bytes | None,
    ) -> bool:
        """Verifies and stores an answer, then wakes its readers. True if the register grew.

        Raises BadProof (nothing was stored), ForkedRegister. A disk that is full or broken is not the peer's fault:
        the readers of the chunk get the OSError or CorruptStorage, nobody else.
        """
        if self._budget is not None and value is not None:
            self._budget.spend(len(value))
        try:
            if value is not None and self.keeper is not None and not self.keeper.admit(self, index, len(value)):
                self._no_room(index)
                return False
            grew = self.register.put(index, value, nodes, signature)
        except (OSError, CorruptStorage) as error:
            if isinstance(error, OSError) and error.errno == errno.ESTALE:
                # A folder that has moved on to a newer version in which this chunk has no file any more.
                self.release([index])
                return False
            self._store_refused(index, _same(error))
            return False
        self._in_flight.discard(index)
        self._settle(index)
        self.news += 1
        self.came += 1
        if self._store_failed:
            self._store_works_again()
        self._wake(index)
        if grew:
            self._wake_length_waiters()
        return grew

    def appended(self, first: int, count: int = 1) -> None:
        """We appended these chunks ourselves: wakes who waits for them, or for a longer register."""
        self.news += 1
        for index in range(first, first + count):
            self._settle(index)
            self._wake(index)
        self._wake_length_waiters()

    def _wake(self, index: int) -> None:
        waiter = self._waiters.pop(index, None)
        if waiter is not None:
            self._handed[index] = waiter
            waiter.event.set()

    def _no_room(self, index: int) -> None:
        self.cramped = True
        self._in_flight.discard(index)
        self._settle(index)

    def room_again(self) -> None:
        """There is room for chunks that nobody waits for."""
        if self.cramped:
            self.cramped = False
            self.source.wants_changed(self)

    def is_in_hand(self, index: int) -> bool:
        """Whether a reader waits for the chunk, or is about to read it: it must not be cleared now."""
        return index in self._waiters or index in self._handed

    def clear_ranges(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Forgets chunks (:meth:`Register.clear_ranges`); readers that want one of them have it fetched again.

        What is wanted ahead only is not: it would be fetched and cleared in turns. Raises OSError.
        """
        self.clears += 1
        try:
            self.register.clear_ranges(ranges)
        finally:
            wanted, is_open = self._levels[Urgency.NOW], self._open[Urgency.NOW]
            again = [index for index in wanted if any(first <= index < stop for first, stop in ranges)]
            is_open.update((index, None) for index in again if self._may_be_asked(index))
        if again:
            self.source.wants_changed(self)

    def _store_refused(self, index: int, make_error: Callable[[], Exception]) -> None:
        self._store_failed = True
        self._unstorable[index] = make_error
        self._in_flight.discard(index)
        self._settle(index)
        self._fail_one(index, make_error)
        if index >= self.register.length:
            self._wake_length_waiters()

    def _store_works_again(self) -> None:
        self._store_failed = False
        refused, self._unstorable = list(self._unstorable), {}
        for index in refused:
            self._settle(index)

    def claim(self, peer: object, length: int) -> None:
        """A peer has told, for the first time or anew, that it knows ``length`` chunks. A claim, not a proof."""
        self._claims[peer] = length
        self.news += 1
        self._wake_length_waiters()

    def unclaim(self, peer: object) -> None:
        """The peer is gone."""
        self._claims.pop(peer, None)
        self._paces.pop(peer, None)
        self._wake_length_waiters()

    def keeps_pace(self, peer: object, seconds: float) -> None:
        """A peer that claims something usually answers after so many seconds."""
        if peer in self._claims:
            self._paces[peer] = seconds

    def quickest_but(self, peer: object) -> float | None:
        """The usual seconds for an answer of the quickest other peer; None while none has answered."""
        return min((seconds for other, seconds in self._paces.items() if other is not peer), default=None)

    def reconsider(self) -> None:
        """What :meth:`ChunkSource.undecided` says may have changed."""
        self._wake_length_waiters()

    def fail(self, error: Callable[[], Exception]) -> None:
        """Every reader that waits now gets the exception that ``error`` makes."""
        for index in list(self._waiters):
            self._fail_one(index, error)
        self._wake_length_waiters()

    def _fail_one(self, index: int, error: Callable[[], Exception]) -> None:
        waiter = self._waiters.pop(index, None)
        if waiter is not None:
            waiter.error = error
            waiter.event.set()

    def close(self) -> None:
        """Every reader that waits, now or later, gets Closed. The register itself stays open."""
        self._closed = True
        self.fail(lambda: Closed("the drive was closed"))

    def _wake_length_waiters(self) -> None:
        for event in self._length_waiters:
            event.set()
