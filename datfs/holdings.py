"""How much of a file is here, and who has the rest: told from bitfields alone.

Owns nothing; only :func:`ensure_unless_lost` fetches. What peers hold is what they told (wire.md section 7), so it may
be out of date.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import reduce
from operator import or_

import trio

from datfs.bitfield import Bitfield
from datfs.errors import DatfsError, Gone
from datfs.metadata import Stat
from datfs.register import Register
from datfs.sparse import ChunkSource, SparseRegister

RUNS_MOST = 10_000  # gaps in a file beyond which its bytes are not added up: each costs a look into the tree
SHA256_MOST = 8 * 1024 * 1024  # bytes; a longer file is not hashed because somebody asks for its attributes
CHUNKS_MOST = 1 << 24  # of a file that is compared with what peers hold; a drive may claim any number
LOST_CHECKED = 0.2  # seconds between two looks at what peers have told, while a reader waits
READ_BYTES = 1024 * 1024


class Availability(enum.Enum):
    """Where the bytes of a file could come from."""

    HERE = "here"  # all of them
    PEERS = "peers"  # connected peers have all that is missing
    PARTLY = "partly"  # some of what is missing is at nobody who could be asked
    GONE = "gone"  # nothing is here, and nobody who could be asked has anything
    UNKNOWN = "unknown"  # somebody has yet to be found, or to tell


def chunks_held(content: SparseRegister, stat: Stat) -> int:
    """How many chunks of the file are here."""
    return content.register.data_bits.count(stat.offset, stat.offset + stat.blocks)


def bytes_held(content: SparseRegister, stat: Stat) -> int | None:
    """How many bytes of the file are here; None if they lie in too many pieces, or are more than the file has."""
    total = bytes_between(content.register, stat.offset, stat.offset + stat.blocks)
    return total if total is not None and total <= stat.size else None


def bytes_between(register: Register, first: int, stop: int, runs_most: int = RUNS_MOST) -> int | None:
    """How many bytes of the chunks ``first .. stop-1`` are here; None if they lie in too many pieces."""
    total = 0
    for number, (start, end) in enumerate(runs(register.data_bits, first, stop)):
        if number == runs_most:
            return None
        try:
            if end - start == 1:
                total += register.size_of(start)
            else:
                total += register.byte_offset(end - 1) + register.size_of(end - 1) - register.byte_offset(start)
        except DatfsError:
            return None  # a damaged tree; reading will say so
    return total


def runs(bits: Bitfield, first: int, stop: int) -> Iterator[tuple[int, int]]:
    """The set bits of ``first .. stop-1``, in ranges."""
    while (start := bits.next_set(first, stop)) is not None:
        end = bits.next_clear(start, stop)
        first = stop if end is None else end
        yield start, first


def peers_with_all(content: SparseRegister, stat: Stat) -> int:
    """How many connected peers have told that they hold every chunk of the file."""
    held = content.source.held_by_peers(content)
    return sum(bits.all_set(stat.offset, stat.offset + stat.blocks) for bits in held)


def availability(content: SparseRegister, stat: Stat) -> Availability:
    """Where the bytes of the file could come from now."""
    first, stop = stat.offset, stat.offset + stat.blocks
    if content.has_range(first, stop):
        return Availability.HERE
    if stat.blocks > CHUNKS_MOST:
        return Availability.UNKNOWN
    held = [content.register.data_bits, *content.source.held_by_peers(content)]
    covered = reduce(or_, (int.from_bytes(bits.to_bytes(first, stop)) for bits in held))
    if covered.bit_count() == stat.blocks:
        return Availability.PEERS
    if not content.source.all_told(content, stop):
        return Availability.UNKNOWN
    return Availability.PARTLY if covered else Availability.GONE


def is_lost(content: SparseRegister, index: int) -> bool:
    """Whether a chunk is neither here nor at anybody who could be asked."""
    return bool(lost_among(content, (index,), content.source))


def lost_among(register: SparseRegister, indices: Iterable[int], source: ChunkSource) -> list[int]:
    """Those chunks that are neither here nor at anybody who could be asked; none while somebody has yet to tell."""
    missing = [index for index in indices if not register.register.has(index)]
    if not missing or not source.all_told(register, max(missing) + 1):
        return []
    held = source.held_by_peers(register)
    return [index for index in missing if not any(bits.get(index) for bits in held)]


async def ensure_unless_lost(content: SparseRegister, indices: Iterable[int]) -> None:
    """As :meth:`SparseRegister.ensure`; raises Gone as soon as :func:`is_lost` one of the chunks."""
    wanted = list(indices)
    while missing := [index for index in wanted if not content.register.has(index)]:
        lost = next((index for index in missing if is_lost(content, index)), None)
        if lost is not None:
            raise Gone(f"content chunk {lost} is not here, and none of the peers has it any more")
        failed: Exception | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_until_lost, content, missing, nursery.cancel_scope)
            try:
                await content.ensure(missing)
            except Exception as error:
                failed = error  # raised outside, so that it does not come wrapped in a group
            nursery.cancel_scope.cancel()
        if failed is not None:
            raise failed


async def _until_lost(content: SparseRegister, missing: list[int], scope: trio.CancelScope) -> None:
    while not any(is_lost(content, index) for index in missing):  # noqa: ASYNC110 peers come, go and tell in many ways
        await trio.sleep(LOST_CHECKED)
    scope.cancel()


def can_hash(content: SparseRegister, stat: Stat) -> bool:
    """Whether :func:`sha256` may be asked: all is here, verified, and not too long."""
    return content.trusted and stat.size <= SHA256_MOST and content.has_range(stat.offset, stat.offset + stat.blocks)


def sha256(content: SparseRegister, stat: Stat) -> str | None:
    """The hash in hex of a file of which :func:`can_hash`; None if its entry does not fit its chunks.

    Raises OSError, CorruptStorage.
    """
    if stat.size and (
        bytes_held(content, stat) != stat.size or content.register.byte_offset(stat.offset) != stat.byte_offset
    ):
        return None
    digest = hashlib.sha256()
    for offset in range(0, stat.size, READ_BYTES):
        digest.update(content.register.read(stat.byte_offset + offset, min(READ_BYTES, stat.size - offset)))
    return digest.hexdigest()


class Facts(Mapping[bytes, bytes]):
    """Extended attributes whose values are made when they are asked for: some take longer than a look."""

    def __init__(self, makers: Mapping[bytes, Callable[[], object]]) -> None:
        self._makers = makers

    def without(self, name: bytes) -> Facts:
        """The same but for one."""
        return Facts({other: make for other, make in self._makers.items() if other != name})

    def __getitem__(self, name: bytes) -> bytes:
        value = self._makers[name]()
        if value is None:
            raise KeyError(name)
        return str(value).encode()

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)
