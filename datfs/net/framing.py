"""Length-prefixed frames out of and into a byte stream (wire.md section 1).

Owns the cutting. Does not decrypt and does not look into a frame, except that :func:`split_header` reads the
varint at its start. At most one frame is held, so a peer costs at most 8 MiB here whatever it sends.
"""

from __future__ import annotations

from collections.abc import Iterator

from datfs import varint
from datfs.crypto import Buffer
from datfs.errors import LocalProtocolError, RemoteProtocolError

MAX_FRAME = 8 * 1024 * 1024  # bytes of a frame after its length; the reference closes the connection beyond
_PREFIX_BYTES = 4  # a length of 8 MiB needs four; the reference gives up when the fourth says there is more


class FrameReader(Iterator[memoryview]):
    """Cuts whole frames out of what was received.

    Iterating gives the frames that are complete, without their length, and stops when more bytes are needed;
    iterate again after the next :meth:`receive`. A keep-alive is an empty frame. A frame that lies in one
    received buffer is a view of that buffer, so it is valid only as long as the buffer stays as it is.
    """

    __slots__ = ("_buffer", "_filled", "_frame", "_position", "_shift", "_size")

    def __init__(self) -> None:
        self._buffer = memoryview(b"")
        self._position = 0
        self._size = 0  # what is known of the length, while its varint is cut
        self._shift = 0
        self._frame: bytearray | None = None  # a frame that began in an earlier buffer
        self._filled = 0

    @property
    def mid_frame(self) -> bool:
        """Whether the bytes so far end inside a frame."""
        return self._frame is not None or self._shift > 0 or self._position < len(self._buffer)

    def receive(self, data: bytes | bytearray | memoryview) -> None:
        """Gives the next bytes of the stream. Take all of the frames before the next call: what is left is
        copied.
        """
        view = memoryview(data)
        rest = self._buffer[self._position :]
        if rest:
            view = memoryview(bytearray(rest) + view)
        self._buffer = view
        self._position = 0

    def unread(self) -> memoryview:
        """The received bytes after the last frame that was given out (writable if they were)."""
        return self._buffer[self._position :]

    def discard_unread(self) -> None:
        """Forgets them."""
        self._buffer = memoryview(b"")
        self._position = 0

    def __next__(self) -> memoryview:
        """The next whole frame. Raises StopIteration if more bytes are needed, RemoteProtocolError if it is
        too long.
        """
        if self._frame is not None:
            return self._continue(self._frame)
        size = self._read_length()
        start = self._position
        end = start + size
        if end <= len(self._buffer):
            self._position = end
            return self._buffer[start:end]
        self._frame = bytearray(size)
        self._filled = 0
        return self._continue(self._frame)

    def _read_length(self) -> int:
        buffer, position, stop = self._buffer, self._position, len(self._buffer)
        size, shift = self._size, self._shift
        while position < stop:
            byte = buffer[position]
            position += 1
            size |= (byte & 0x7F) << shift
            if byte < 0x80:
                if size > MAX_FRAME:
                    raise RemoteProtocolError(f"the peer sent a message of {size} bytes; 8 MiB is the most allowed")
                self._position = position
                self._size = self._shift = 0
                return size
            shift += 7
            if shift == 7 * _PREFIX_BYTES:
                raise RemoteProtocolError("the peer sent a message of more than 8 MiB")
        self._size, self._shift = size, shift
        self.discard_unread()
        raise StopIteration

    def _continue(self, frame: bytearray) -> memoryview:
        start = self._position
        part = self._buffer[start : start + len(frame) - self._filled]
        filled = self._filled + len(part)
        frame[self._filled : filled] = part
        self._filled = filled
        if filled < len(frame):
            # Not kept: the caller may receive into the same buffer again.
            self.discard_unread()
            raise StopIteration
        self._position = start + len(part)
        self._frame = None
        return memoryview(frame)


def split_header(frame: memoryview) -> tuple[int, int, memoryview]:
    """``(channel, type, payload)`` of a frame of 2 bytes or more. Raises RemoteProtocolError if its varint is
    cut.
    """
    first = frame[0]
    if first < 0x80:
        return first >> 4, first & 15, frame[1:]
    try:
        header, offset = varint.decode(frame)
    except ValueError:
        raise RemoteProtocolError("the peer sent a message with an invalid header") from None
    return header >> 4, header & 15, frame[offset:]


def encode_frame(channel: int, type_: int, payload: Buffer) -> bytes:
    """A whole frame. Raises LocalProtocolError if it would be longer than 8 MiB, which every peer refuses."""
    return b"".join((frame_start(channel, type_, len(payload)), payload))


def frame_start(channel: int, type_: int, size: int) -> bytes:
    """What comes before a payload of ``size`` bytes in a frame. Raises as :func:`encode_frame` does."""
    header = varint.encode(channel << 4 | type_)
    size += len(header)
    if size > MAX_FRAME:
        raise LocalProtocolError(f"a message of {size} bytes cannot be sent; 8 MiB is the most allowed")
    return varint.encode(size) + header
