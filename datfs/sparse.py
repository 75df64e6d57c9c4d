"""A register that lacks chunks: who waits for them, and how a source of chunks fills it.

Owns the waiters, what peers claim, and what of the wanted may be asked for (budget, room, a disk that fails). What is
wanted and in flight is a :class:`datfs.wants.Wants`. Does not know where chunks come from: a
:class:`ChunkSource` asks :meth:`SparseRegister.next_wants`, delivers with :meth:`SparseRegister.put` and
gives reservations back with :meth:`SparseRegister.release`.

Everything here runs in one thread; nothing awaits while an invariant is broken (``docs/design.md``, "State").
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import trio

from datfs.bitfield import Bitfield
from datfs.budget import Budget
from datfs.crypto import TreeNode
from datfs.errors import Closed, CorruptStorage, DatfsError
from datfs.register import Register
from datfs.wants import Refusal, Urgency, Wants


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


class _Waiter:
    """Readers that wait for one chunk. ``error`` makes the exception for each of them, None after success."""

    __slots__ = ("error", "event", "readers")

    def __init__(self) -> None:
        self.readers = 0
        self.event = trio.Event()
        self.error: Callable[[], Exception] | None = None


def _same(error: OSError | CorruptStorage) -> Refusal:
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
    ``vouched`` tells of bytes that were just read, by offset and size, whether there is good reason to believe that
    they are those that were verified: enough for peers, who hash what they get.
    """

    def __init__(
        self, register: Register, source: ChunkSource, *, name: str = "register", trusted: bool = True
    ) -> None:
        self.register = register
        self.name = name
        self.trusted = trusted
        self.vouched: Callable[[int, int], bool] = lambda offset, size: False
        self.patience = 10.0  # seconds after which a late answer is asked for elsewhere, whatever is usual: well before
        # the deadline of readers, of which whoever knows it takes a third
        self.source = source
        self.wants = Wants(register.has)
        self._waiters: dict[int, _Waiter] = {}
        self._length_waiters: set[trio.Event] = set()
        self._claims: dict[object, int] = {}
        self._roomy: set[object] = set()  # of those that claim, to ask for more of whom nothing is left
        self._paces: dict[object, float] = {}  # of those that claim and have answered
        self._closed = False
        self._store_failed = False
        self._handed: dict[int, _Waiter] = {}  # stored, but a reader that waited has not had its turn yet
        self.keeper: Keeper | None = None
        self._budget: Budget | None = None
        self.cramped = False  # no room: only what a reader waits for is asked for
        self.readers = 0  # open files that are being read: so many chunks may be stored although there is no room
        self.clears = 0  # grows when chunks are cleared: whoever remembers that some are held has to look again
        self.read_ahead_most = 1 << 62  # bytes; a cache of less room than a window would lose it before it is read
        self.shared = False  # another process owns the store, and may clear chunks while we look at it
        self.came = 0  # chunks, from peers
        self.news = 0
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
        self.wants.retry(missing)
        self.want(missing, urgency)
        try:
            self.source.wants_changed(self)
            for index in missing:
                while not has(index):
                    if index in self.wants.refused:
                        raise self.wants.refused[index]()
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
        self.wants.add(indices, urgency)

    def drop(self, indices: Iterable[int], urgency: Urgency) -> None:
        """Takes back what :meth:`want` counted."""
        self.wants.drop(indices, urgency)

    async def learn_length(self) -> bool:
        """Waits until a longer signed length is verified (True), or a peer says it has no longer one (False).

        Raises as :meth:`ensure` does. Put a deadline around it.
        """
        if self._closed:
            raise Closed("the drive was closed")
        before = self.register.length
        self.wants.retry([index for index in self.wants.refused if index >= before])
        event = trio.Event()
        self._length_waiters.add(event)
        try:
            self.source.wants_changed(self)
            while True:
                if self.register.length > before:
                    return True
                if self._claims and max(self._claims.values()) <= self.register.length and self._is_settled():
                    return False
                for index, make_error in self.wants.refused.items():
                    if index >= before:
                        raise make_error()
                error = self.hopeless()
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
    def waiting(self) -> int:
        """How many different chunks readers wait for."""
        return len(self._waiters)

    def next_wants(self, held: Bitfield, limit: int) -> Sequence[int]:
        """Up to ``limit`` wanted chunks that ``held`` has and nobody was asked for yet; reserves them.

        Each must end in :meth:`put` or :meth:`release`.
        """
        if self._budget is not None:
            limit = min(limit, self._budget.requests(len(self.wants.in_flight)))
        if limit <= 0:
            return []
        # After a failed write nothing is fetched ahead until one succeeds.
        only_now = self._store_failed or self.cramped
        return self.wants.take(held, limit, only_now=only_now, among=self._waiters if self.cramped else None)

    def is_waited_for(self, index: int) -> bool:
        """Whether a reader waits for the chunk now."""
        return index in self._waiters

    def reserve(self, index: int) -> bool:
        """Reserves one chunk that need not be wanted (the newest, to learn the length). False if it is taken."""
        return (self._budget is None or bool(self._budget.left)) and self.wants.take_one(index)

    def release(self, indices: Iterable[int]) -> None:
        """Gives reservations back unfulfilled; call ``wants_changed`` so that others are asked."""
        self.wants.release(indices)

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
        self.wants.settle(index)
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
            self.wants.settle(index)
            self._wake(index)
        self._wake_length_waiters()

    def _wake(self, index: int) -> None:
        waiter = self._waiters.pop(index, None)
        if waiter is not None:
            self._handed[index] = waiter
            waiter.event.set()

    def _no_room(self, index: int) -> None:
        self.cramped = True
        self.wants.settle(index)

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
            needed = self.wants.cleared(ranges)
        if needed:
            self.source.wants_changed(self)

    def _store_refused(self, index: int, why: Refusal) -> None:
        self._store_failed = True
        self.wants.refuse(index, why)
        self.fail_one(index, why)
        if index >= self.register.length:
            self._wake_length_waiters()

    def _store_works_again(self) -> None:
        self._store_failed = False
        self.wants.retry(self.wants.refused)

    def claim(self, peer: object, length: int) -> None:
        """A peer has told, for the first time or anew, that it knows ``length`` chunks. A claim, not a proof."""
        self._claims[peer] = length
        self.news += 1
        self._wake_length_waiters()

    def unclaim(self, peer: object) -> None:
        """The peer is gone."""
        self._claims.pop(peer, None)
        self._paces.pop(peer, None)
        self._roomy.discard(peer)
        self._wake_length_waiters()

    def has_room(self, peer: object, room: bool) -> None:
        """Whether a peer that claims something would be asked for more, if it had more of what is wanted."""
        if room and peer in self._claims:
            self._roomy.add(peer)
        else:
            self._roomy.discard(peer)

    def has_room_but(self, peer: object) -> bool:
        """Whether another peer would be asked for more."""
        return bool(self._roomy - {peer})

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
            self.fail_one(index, error)
        self._wake_length_waiters()

    def fail_one(self, index: int, error: Callable[[], Exception]) -> None:
        """Every reader that waits for this chunk now gets the exception that ``error`` makes."""
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
