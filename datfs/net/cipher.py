"""The XSalsa20 key stream that hides one direction of a connection (wire.md section 3).

Owns the position in the stream. Knows nothing of frames: the caller says which bytes are encrypted. It gives
secrecy from those who do not know the public key, and no integrity: whoever is in between can flip bits of
the plain text.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable

from datfs import sodium
from datfs.errors import DatfsError

KEY_BYTES = 32
NONCE_BYTES = 24
_BLOCK = 64

# The known answer: wire.md section 3, the first 64 bytes and, by block counter, those at 128.
_TEST_KEY = bytes.fromhex("03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8")
_TEST_NONCE = bytes(range(0x40, 0x58))
_TEST_STREAM = bytes.fromhex(
    "940944b5c55d6814f5f24b1809e5710b59bc2e5dec1c05a94721bd5e9f79e4f7"
    "d34fd26573593948b1466ccc246a94aa15c4dfca2746001b44e3cb2cdd2883b6"
)
_TEST_BLOCK_2 = bytes.fromhex("2605")

_XorFunction = Callable[[int, int, int, bytes, int, bytes], int]


class CipherUnavailable(DatfsError):
    """There is no libsodium whose XSalsa20 gives the right answer, so no peer can be spoken to."""


@functools.cache
def _xsalsa20_xor() -> _XorFunction:
    """``(out, in, length, nonce, block, key)`` of libsodium, once it has shown that it computes what it
    should.

    Checked because PyNaCl exports the symbol without promising it.
    """
    function = sodium.load().crypto_stream_xsalsa20_xor_ic
    function.restype = ctypes.c_int
    function.argtypes = (
        ctypes.c_void_p,
        ctypes.c_void_p,
        ctypes.c_ulonglong,
        ctypes.c_char_p,
        ctypes.c_uint64,
        ctypes.c_char_p,
    )
    for block, expected in ((0, _TEST_STREAM), (2, _TEST_BLOCK_2)):
        data = bytearray(len(expected))
        address = ctypes.addressof(ctypes.c_char.from_buffer(data))
        if function(address, address, len(data), _TEST_NONCE, block, _TEST_KEY) or data != expected:
            raise CipherUnavailable(
                "libsodium's XSalsa20 gives a wrong answer on this machine, so no peer could be understood: "
                "install another PyNaCl (pip install --force-reinstall pynacl) or the system's libsodium"
            )
    checked: _XorFunction = function
    return checked


class StreamCipher:
    """One direction of one connection. The same call encrypts and decrypts.

    ``key`` is the public key of the first register (32 bytes), ``nonce`` the one in the sender's first Feed
    (24 bytes). Raises ValueError for other lengths and CipherUnavailable if there is no libsodium to do it.
    """

    __slots__ = ("_key", "_nonce", "_position", "_xor")

    def __init__(self, key: bytes, nonce: bytes) -> None:
        if len(key) != KEY_BYTES or len(nonce) != NONCE_BYTES:
            raise ValueError(f"XSalsa20 takes a key of {KEY_BYTES} and a nonce of {NONCE_BYTES} bytes")
        self._key = bytes(key)
        self._nonce = bytes(nonce)
        self._position = 0
        self._xor = _xsalsa20_xor()

    @property
    def position(self) -> int:
        """Bytes done so far."""
        return self._position

    def xor(self, data: bytearray | memoryview) -> None:
        """Encrypts or decrypts ``data`` where it lies, and moves on. It must be writable and contiguous."""
        length = len(data)
        if not length:
            return
        position = self._position
        block, skip = divmod(position, _BLOCK)
        done = 0
        if skip:
            # libsodium starts at whole blocks only: the rest of a begun one goes through a block of our own.
            done = min(_BLOCK - skip, length)
            scratch = bytearray(_BLOCK)
            scratch[skip : skip + done] = data[:done]
            self._whole_blocks(scratch, 0, _BLOCK, block)
            data[:done] = scratch[skip : skip + done]
            block += 1
        if done < length:
            self._whole_blocks(data, done, length - done, block)
        self._position = position + length

    def process(self, data: bytes) -> bytes:
        """Like :meth:`xor`, into new bytes."""
        buffer = bytearray(data)
        self.xor(buffer)
        return bytes(buffer)

    def _whole_blocks(self, data: bytearray | memoryview, offset: int, length: int, block: int) -> None:
        address = ctypes.addressof(ctypes.c_char.from_buffer(data, offset))
        self._xor(address, address, length, self._nonce, block, self._key)
