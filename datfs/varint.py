"""Unsigned LEB128 integers, as protobuf, the frames and the path index write them (spec README, "Conventions")."""

from __future__ import annotations

MAX_BYTES = 10
LIMIT = 1 << 64


def encode(number: int) -> bytes:
    """The bytes of ``number``. Raises ValueError for a negative one or one of more than 64 bits."""
    if not 0 <= number < LIMIT:
        raise ValueError(f"{number} does not fit a varint of 64 bits")
    if number < 0x80:
        return bytes((number,))
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def decode(buffer: bytes | bytearray | memoryview, offset: int = 0) -> tuple[int, int]:
    """The number at ``offset`` and the offset after it. Raises ValueError if it is cut off or too large."""
    number = 0
    end = min(len(buffer), offset + MAX_BYTES)
    for position in range(offset, end):
        byte = buffer[position]
        number |= (byte & 0x7F) << (7 * (position - offset))
        if byte < 0x80:
            if number >= LIMIT:
                raise ValueError("a varint has more than 64 bits")
            return number, position + 1
    raise ValueError("a varint is cut off" if end < offset + MAX_BYTES else "a varint has more than 64 bits")
