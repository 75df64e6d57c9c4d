"""The bytes of a path index: lists of chunk numbers, one for each level of a path (drive.md section 3).

Owns their encoding; what they mean is :mod:`datfs.path_index`'s. An entry in a directory of n names has a
list of n numbers, so nearly all of a large drive's metadata is numbers that nobody ever looks at. They are
checked and skipped in strides, without decoding, and one list is decoded at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate, chain, islice, pairwise

from datfs import varint

_CONTINUATION = bytes(range(0x80, 0x100))

# Varints of ten bytes are numbers from 2^63. Without them the work for one list is bounded by its count.
# (Translating and looking for a constant takes a tenth of the time of a regular expression.)
_IS_CONTINUATION = bytes(128) + b"\1" * 128
_LONG_VARINT = b"\1" * 9


def count(index: bytes, limit: int) -> int:
    """How many lists there are, up to ``limit``, which a user of the lists must not go beyond.

    Raises as :func:`survey` does.
    """
    return survey(index, limit)[0]


def survey(index: bytes, limit: int) -> tuple[int, int]:
    """How many lists there are, up to ``limit`` as for :func:`count`, and the offset of the last of these.

    Raises ValueError if the index is cut short or has a number from 2^63. After it, :func:`decode` of any list below
    ``limit`` raises none.
    """
    if not index:
        return 0, 0
    if not index.isascii() and _LONG_VARINT in index.translate(_IS_CONTINUATION):
        raise ValueError("a number is too large")
    offset = 1 if index[0] < 0x80 else varint.decode(index, 0)[1]
    lists = last = 0
    size = len(index)
    while lists < limit and offset < size:
        last = offset
        length = index[offset]
        if length < 0x80:
            offset += 1
        else:
            length, offset = varint.decode(index, offset)
        if length:  # in a deep path nearly all are empty
            offset = skip(index, offset, length)
        lists += 1
    return lists, last


class Siblings:
    """Looks at the indexes of entries of one directory, which begin alike: what was skipped once is only compared.

    ``level``: the number of components of the entries' paths.
    """

    def __init__(self, level: int) -> None:
        self._level = level
        # Of the entry before: all but the lists of its directory and of itself, and the numbers of the former.
        self._upper = b""
        self._numbers = b""
        self._count = 0

    def is_alone(self, index: bytes) -> bool:
        """Whether no other chunk stands in the entry's own list. Raises ValueError, or is False, where survey does."""
        if not index:
            return True
        start = len(self._upper)
        if start and index.startswith(self._upper) and start < len(index) and (count := index[start]) < 0x80:
            # In the order in which they were written each has the numbers of the one before, and that one's own.
            known = self._numbers
            if count >= self._count and index.startswith(known, start + 1):
                offset = start + 1 + len(known)
                rest = index[offset:]
                more = count - self._count
                if rest.isascii():
                    if len(rest) < more:
                        raise ValueError("a list is longer than the index")
                    offset += more
                elif _LONG_VARINT not in rest.translate(_IS_CONTINUATION):
                    offset = skip(index, offset, more)
                else:
                    raise ValueError("a number is too large")
                self._numbers, self._count = index[start + 1 : offset], count
                return offset >= len(index) or not index[offset]
        self._numbers, self._count = b"", 0
        if not index.isascii() and _LONG_VARINT in index.translate(_IS_CONTINUATION):
            raise ValueError("a number is too large")
        if self._upper and index.startswith(self._upper):
            lists, offset = self._level - 1, len(self._upper)
        else:
            lists, offset = 0, 1 if index[0] < 0x80 else varint.decode(index, 0)[1]
        size = len(index)
        while lists < self._level and offset < size:
            if lists == self._level - 1 and offset != len(self._upper):
                self._upper = index[:offset]
            length = index[offset]
            if length < 0x80:
                offset += 1
            else:
                length, offset = varint.decode(index, offset)
            if length:
                offset = skip(index, offset, length)
            lists += 1
        return offset >= size or not index[offset]


def decode_at(index: bytes, offset: int, own: int) -> tuple[int, ...]:
    """As :func:`decode`, of the list at an offset that :func:`survey` told."""
    flags = index[0] if index[0] < 0x80 else varint.decode(index, 0)[0]
    if not index[offset]:
        return (own,) if flags & 1 else ()
    return _list_at(index, offset, flags, own)[0]


def decode(index: bytes, level: int, own: int) -> tuple[int, ...]:
    """List ``level`` of the index of chunk ``own``; empty if there are not as many lists.

    Ascending, without duplicates, 1 to ``own``: other elements are left out (drive.md section 9).
    """
    if not index:
        return ()
    flags, offset = varint.decode(index, 0)
    for _ in range(level):
        if offset >= len(index):
            return ()
        length, offset = varint.decode(index, offset) if index[offset] > 0x7F else (index[offset], offset + 1)
        if length:
            offset = skip(index, offset, length)
    return _list_at(index, offset, flags, own)[0] if offset < len(index) else ()


def encode(lists: Sequence[Sequence[int]], own: int) -> bytes:
    """The index of chunk ``own``, byte for byte as the reference writes it. ``lists`` must ascend."""
    own_last = all(numbers and numbers[-1] == own for numbers in lists)
    parts = [bytes([own_last])]
    for numbers in lists:
        stored = numbers[:-1] if own_last else numbers
        parts.append(varint.encode(len(stored)))
        differences = [number - previous for previous, number in pairwise((0, *stored))]
        if max(differences, default=0) < 0x80:
            parts.append(bytes(differences))
        else:
            parts.extend(map(varint.encode, differences))
    return b"".join(parts)


def skip(index: bytes | bytearray, offset: int, length: int) -> int:
    """The offset after ``length`` varints. Raises ValueError if there are not as many.

    Each round jumps as many bytes as there are varints left to find, since none takes less than one, and
    counts those that ended there: a round for each byte of the longest varint, about, instead of one for each
    varint.
    """
    while length:
        jumped = index[offset : offset + length]
        if len(jumped) < length:
            raise ValueError("a list is longer than the index")
        offset += length
        if jumped.isascii():
            return offset
        length -= len(jumped.translate(None, _CONTINUATION))
    return offset


def _list_at(index: bytes, offset: int, flags: int, own: int) -> tuple[tuple[int, ...], int]:
    """The list that begins at ``offset``, and the offset after it."""
    length, offset = varint.decode(index, offset)
    end = skip(index, offset, length)
    raw = index[offset:end]
    # No more than ``own`` of them can be right, which bounds the memory that a list of nonsense takes.
    differences = islice(raw if raw.isascii() else _differences(raw), own)
    numbers = list(accumulate(differences))
    if 0 in raw or (numbers and numbers[-1] > own):
        numbers = list(dict.fromkeys(number for number in numbers if 0 < number <= own))
    if flags & 1 and (not numbers or numbers[-1] != own):
        numbers.append(own)
    return tuple(numbers), end


def _differences(raw: bytes) -> Iterable[int]:
    first, offset = varint.decode(raw, 0)
    rest = raw[offset:]
    # Most lists: chunks of one time, far from the first one of the drive and close to each other.
    return chain((first,), rest) if rest.isascii() else _varints(raw)


def _varints(raw: bytes) -> Iterable[int]:
    value = shift = 0
    for byte in raw:
        if byte < 0x80:
            yield value | byte << shift
            value = shift = 0
        else:
            value |= (byte & 0x7F) << shift
            shift += 7
