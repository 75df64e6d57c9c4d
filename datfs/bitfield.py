"""A bitfield that grows, and the run-length coding of Have messages (sleep.md section 4, wire.md section 6).

Bits are most significant first in a byte. What was never set reads as clear, at any index.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bitarray import bitarray

from datfs import varint

GROW = 8192  # bits; one page of the file


class Bitfield:
    """Bits by index >= 0."""

    __slots__ = ("_bits",)

    def __init__(self, data: bytes = b"") -> None:
        self._bits = bitarray(endian="big")
        self._bits.frombytes(data)

    def __len__(self) -> int:
        """Bits held in memory; all beyond are clear."""
        return len(self._bits)

    def get(self, index: int) -> bool:
        """Whether the bit is set."""
        bits = self._bits
        return index < len(bits) and bits[index] == 1

    def set(self, index: int, on: bool = True) -> bool:
        """Sets or clears a bit; True if that changed it."""
        bits = self._bits
        if index >= len(bits):
            if not on:
                return False
            self._grow(index + 1)
        if bool(bits[index]) == on:
            return False
        bits[index] = on
        return True

    def _grow(self, length: int) -> None:
        missing = length - len(self._bits)
        if missing > 0:
            self._bits.extend(bitarray(-(-missing // GROW) * GROW))

    def set_range(self, first: int, stop: int, on: bool) -> None:
        """Sets or clears ``first .. stop-1``."""
        if on:
            self._grow(stop)
        else:
            stop = min(stop, len(self._bits))
        if first < stop:
            self._bits[first:stop] = on

    def set_many(self, indices: Sequence[int], on: bool) -> None:
        """Sets or clears each of the bits."""
        if not indices:
            return
        self._grow(max(indices) + 1)
        self._bits[indices] = on

    def every(self, first: int, step: int, count: int) -> bitarray:
        """``count`` bits, from ``first`` on each ``step``-th, as an array of its own."""
        part = self._bits[first : first + count * step : step]
        part.extend(bitarray(count - len(part)))
        return part

    def without(self, other: Bitfield) -> Bitfield:
        """A copy that lacks what ``other`` has."""
        result = Bitfield()
        result._bits = self._bits.copy()
        common = min(len(self._bits), len(other._bits))
        if common:
            result._bits[:common] &= ~other._bits[:common]
        return result

    def update(self, first: int, data: bytes) -> None:
        """Replaces the bits from ``first`` on by those of ``data``."""
        new = bitarray(endian="big")
        new.frombytes(data)
        self._grow(first + len(new))
        self._bits[first : first + len(new)] = new

    def all_set(self, first: int, stop: int) -> bool:
        """Whether every bit of ``first .. stop-1`` is set; true for an empty range."""
        bits = self._bits
        if stop <= first:
            return True
        return stop <= len(bits) and bits.find(0, first, stop) == -1

    def any_set(self, first: int, stop: int) -> bool:
        """Whether some bit of ``first .. stop-1`` is set."""
        return self.next_set(first, stop) is not None

    def next_clear(self, first: int, stop: int) -> int | None:
        """The first clear bit of ``first .. stop-1``."""
        if first >= stop:
            return None
        found = self._bits.find(0, first, min(stop, len(self._bits))) if first < len(self._bits) else -1
        if found != -1:
            return found
        beyond = max(first, len(self._bits))
        return beyond if beyond < stop else None

    def next_set(self, first: int, stop: int) -> int | None:
        """The first set bit of ``first .. stop-1``."""
        stop = min(stop, len(self._bits))
        if first >= stop:
            return None
        found = self._bits.find(1, first, stop)
        return None if found == -1 else found

    def previous_set(self, stop: int) -> int | None:
        """The last set bit below ``stop``."""
        found = self._bits.find(1, 0, min(stop, len(self._bits)), right=True)
        return None if found == -1 else found

    def last_set(self) -> int | None:
        """The highest set bit."""
        found = self._bits.find(1, right=True)
        return None if found == -1 else found

    def count(self, first: int, stop: int) -> int:
        """How many bits of ``first .. stop-1`` are set."""
        stop = min(stop, len(self._bits))
        return self._bits.count(1, first, stop) if first < stop else 0

    def runs(self, start: int = 0) -> Iterator[tuple[int, int]]:
        """The set bits from ``start`` on as ranges ``(first, stop)``, ascending."""
        stop = start
        while (first := self.next_set(stop, len(self._bits))) is not None:
            after = self.next_clear(first, len(self._bits) + 1)
            assert after is not None
            stop = after
            yield first, stop

    def runs_of(self, first: int, stop: int) -> Iterator[tuple[int, int]]:
        """The set bits of ``first .. stop-1`` as ranges, ascending."""
        while (begin := self.next_set(first, stop)) is not None:
            end = self.next_clear(begin, stop)
            first = stop if end is None else end
            yield begin, first

    def to_bytes(self, first: int, stop: int) -> bytes:
        """The bits ``first .. stop-1`` as bytes, padded with clear bits."""
        part = self._bits[first:stop]
        data = part.tobytes()
        return data + bytes(-(-(stop - first) // 8) - len(data))


# --- run-length coding -----------------------------------------------------------------------------------------------


def _varint_length(number: int) -> int:
    return max(1, -(-number.bit_length() // 7))


def rle_encode(data: bytes) -> bytes:
    """Encodes exactly as the reference does; clear bytes at the end are left out (wire.md section 6)."""
    data = data.rstrip(b"\0")
    out = bytearray()
    start = i = 0  # start: first byte not written yet
    while i < len(data):
        byte = data[i]
        if byte not in (0x00, 0xFF):
            i += 1
            continue
        end = i + 1
        while end < len(data) and data[end] == byte:
            end += 1
        run, literals = end - i, i - start
        coded = varint.encode(4 * run + (3 if byte else 1))
        cost = (_varint_length(2 * literals) + literals if literals else 0) + len(coded)
        if cost < _varint_length(2 * (end - start)) + end - start:
            if literals:
                out += varint.encode(2 * literals) + data[start:i]
            out += coded
            start = end
        i = end
    if start < len(data):
        out += varint.encode(2 * (len(data) - start)) + data[start:]
    return bytes(out)


def rle_decode(data: bytes, limit: int) -> bytes:
    """Decodes to at most ``limit`` bytes. Raises ValueError for more, and for a run that is cut off."""
    out = bytearray()
    offset = 0
    while offset < len(data):
        head, offset = varint.decode(data, offset)
        size = head >> 2 if head & 1 else head >> 1
        if len(out) + size > limit:
            raise ValueError(f"a bitfield of more than {limit} bytes")
        if head & 1:
            out += (b"\xff" if head & 2 else b"\0") * size
        else:
            if offset + size > len(data):
                raise ValueError("a literal run is cut off")
            out += data[offset : offset + size]
            offset += size
    return bytes(out)
