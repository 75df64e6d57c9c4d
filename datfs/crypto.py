"""Hashes, signatures and keys of registers (register.md sections 2 and 3). Pure; randomness is passed in.

Leaves of some size are hashed through libsodium, whose BLAKE2b took 67 µs for a 64 KiB chunk where that of
:mod:`hashlib` took 70. Both compute the same.
"""

from __future__ import annotations

import ctypes
import hashlib
import secrets
from collections.abc import Callable, Iterable
from typing import NamedTuple

from nacl.bindings import crypto_sign, crypto_sign_open, crypto_sign_seed_keypair
from nacl.exceptions import BadSignatureError

from datfs.sodium import load

HASH_BYTES = 32
SIGNATURE_BYTES = 64
SEED_BYTES = 32
Buffer = bytes | bytearray | memoryview

_sodium = load()
# Python's lock is let go for a chunk only: to get it back can take longer than a small call.
_locked = ctypes.PyDLL(None, handle=_sodium._handle)
_init = _locked.crypto_generichash_init
_prefix = _locked.crypto_generichash_update
_update = _sodium.crypto_generichash_update
_final = _locked.crypto_generichash_final
_init.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t]
_prefix.argtypes = _update.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_ulonglong]
_final.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
_STATE_BYTES = _sodium.crypto_generichash_statebytes()
ALIGNMENT = 64  # of such a state
SMALL = 4096  # below this the calls cost more than the faster hash saves


class TreeNode(NamedTuple):
    """A node of the Merkle tree. ``size``: bytes of all chunks below it."""

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs of a node
    hash: bytes
    size: int


class KeyPair(NamedTuple):
    """An Ed25519 key pair: ``public`` 32 bytes, ``secret`` 64 (seed, then public)."""

    public: bytes
    secret: bytes


def leaf_hash(value: Buffer) -> bytes:
    """The 32-byte hash of a chunk."""
    size = len(value)
    if size < SMALL:
        hasher = hashlib.blake2b(b"\0" + size.to_bytes(8, "big"), digest_size=HASH_BYTES)
        hasher.update(value)
        return hasher.digest()
    if isinstance(value, memoryview) and value.readonly:
        value = bytes(value)  # ctypes gives no address of such; the copy costs less than the slower hash
    address = value if isinstance(value, bytes) else (ctypes.c_char * size).from_buffer(value)
    # A state for each call costs one of a hundred parts, and needs no promise that all hashing is in one thread.
    memory = ctypes.create_string_buffer(_STATE_BYTES + ALIGNMENT)
    state = -(-ctypes.addressof(memory) // ALIGNMENT) * ALIGNMENT
    digest = ctypes.create_string_buffer(HASH_BYTES)
    _init(state, None, 0, HASH_BYTES)
    _prefix(state, b"\0" + size.to_bytes(8, "big"), 9)
    _update(state, address, size)
    _final(state, digest, HASH_BYTES)
    return digest.raw


def parent_node(left: TreeNode, right: TreeNode) -> TreeNode:
    """The parent of two siblings, given the one with the lower index first."""
    size = left.size + right.size
    data = b"\1" + size.to_bytes(8, "big") + left.hash + right.hash
    return TreeNode((left.index + right.index) // 2, hashlib.blake2b(data, digest_size=HASH_BYTES).digest(), size)


def root_checksum(roots: Iterable[TreeNode]) -> bytes:
    """What is signed: the hash over the roots of a register, left to right."""
    hasher = hashlib.blake2b(b"\2", digest_size=HASH_BYTES)
    for index, digest, size in roots:
        hasher.update(digest + index.to_bytes(8, "big") + size.to_bytes(8, "big"))
    return hasher.digest()


def key_pair(seed: bytes | None = None, random: Callable[[int], bytes] = secrets.token_bytes) -> KeyPair:
    """The key pair of a 32-byte seed; a new one from ``random`` without."""
    public, secret = crypto_sign_seed_keypair(random(SEED_BYTES) if seed is None else seed)
    return KeyPair(public, secret)


def content_key_pair(metadata_secret_key: bytes) -> KeyPair:
    """The key pair of a drive's content register, derived from the metadata secret key (drive.md section 2)."""
    seed = hashlib.blake2b(
        b"",
        digest_size=SEED_BYTES,
        key=metadata_secret_key[:SEED_BYTES],
        salt=(1).to_bytes(8, "little") + bytes(8),
        person=b"hyperdri" + bytes(8),
    ).digest()
    return key_pair(seed)


def sign(secret_key: bytes, message: bytes) -> bytes:
    """A detached 64-byte signature."""
    return crypto_sign(message, secret_key)[:SIGNATURE_BYTES]


def verify(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether the signature is right. Never raises for bytes of any length."""
    if len(signature) != SIGNATURE_BYTES or len(public_key) != HASH_BYTES:
        return False
    try:
        crypto_sign_open(signature + message, public_key)
    except BadSignatureError:
        return False
    return True
