"""Finds libsodium: PyNaCl's compiled module carries all of it, a system library is the second choice.

PyNaCl has no Python function for the XSalsa20 stream, but its module exports the C symbol (spec README, "Cryptographic
building blocks"; wire.md section 3).
"""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import importlib

from datfs.errors import DatfsError

NEEDED = ("crypto_stream_xsalsa20_xor_ic", "crypto_generichash_init", "sodium_init")


class NoSodium(DatfsError):
    """There is no libsodium with the functions we need."""


@functools.cache
def load() -> ctypes.CDLL:
    """The library, initialised. Raises NoSodium with what to install."""
    tried = []
    for path in _candidates():
        try:
            library = ctypes.CDLL(path)
        except OSError as error:
            tried.append(f"{path}: {error}")
            continue
        missing = [name for name in NEEDED if not hasattr(library, name)]
        if not missing:
            library.sodium_init()
            return library
        tried.append(f"{path} lacks {', '.join(missing)}")
    raise NoSodium(
        "no usable libsodium: install PyNaCl from a binary wheel, or the system's library"
        f" (apt-get install libsodium23). Tried: {'; '.join(tried) or 'nothing was found'}"
    )


def _candidates() -> list[str]:
    found = []
    try:
        module = importlib.import_module("nacl._sodium")
    except ImportError:
        pass  # the system's library may still do
    else:
        if module.__file__ is not None:
            found.append(module.__file__)
    system = ctypes.util.find_library("sodium")
    if system is not None:
        found.append(system)
    return found
