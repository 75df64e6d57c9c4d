"""The ``key`` and ``secret_key`` files of a register (sleep.md section 6)."""

from __future__ import annotations

from contextlib import closing

from datfs.crypto import SEED_BYTES, KeyPair, key_pair
from datfs.errors import BadStore
from datfs.link import KEY_BYTES
from datfs.storage import OpenStorage, RandomAccess

SECRET_KEY_BYTES = 64


def write(open_storage: OpenStorage, prefix: str, keys: KeyPair, *, store_secret: bool) -> None:
    """Stores the keys of a new register, durably. Raises BadStore if there is one already, OSError."""
    with closing(open_storage(prefix + "key")) as file:
        if _read(file, KEY_BYTES) is not None:
            raise BadStore(f"{file.name}: there is a register here already")
        if store_secret:
            # First, so that a crash never leaves a key whose secret is lost.
            with closing(open_storage(prefix + "secret_key")) as secret_file:
                secret_file.write(0, keys.secret)
                secret_file.sync()
        file.write(0, keys.public)
        file.sync()


def settle(open_storage: OpenStorage, prefix: str, key: bytes | None, *, read_only: bool) -> bytes:
    """The public key, stored if it is not yet. Raises BadStore if there is none, or another one; OSError."""
    with closing(open_storage(prefix + "key")) as file:
        stored = file.read(0, KEY_BYTES + 1)
        if not stored and key is None:
            raise BadStore(f"{file.name}: there is no register here")
        # Cut off, or zeros: a crash while it was written, if it is known what was to be written.
        short = len(stored) < KEY_BYTES or not any(stored)
        if key is not None and short and key.startswith(stored.rstrip(b"\0")):
            if not read_only:
                file.write(0, key)
                file.sync()
            return key
        found = _read(file, KEY_BYTES)
        assert found is not None
        if key is not None and found != key:
            raise BadStore(f"{file.name}: another register is stored here (offset 0: {found.hex()}, not {key.hex()})")
        return found


def secret(open_storage: OpenStorage, prefix: str, public: bytes, given: bytes | None, *, look: bool) -> bytes | None:
    """The secret key given, or else with ``look`` the stored one, if there is one.

    Raises BadStore if it is not that of ``public``; OSError.
    """
    found, name = given, "the secret key given"
    if given is None and look:
        with closing(open_storage(prefix + "secret_key")) as file:
            found, name = _read(file, SECRET_KEY_BYTES), file.name
    if found is None:
        return None
    if len(found) != SECRET_KEY_BYTES or key_pair(found[:SEED_BYTES]) != (public, found):
        raise BadStore(f"{name}: the secret key (offset 0) does not belong to the register {public.hex()}")
    return found


def _read(file: RandomAccess, size: int) -> bytes | None:
    """A key file's bytes; None if it does not exist or is empty. Raises BadStore for another length, OSError."""
    data = file.read(0, size + 1)
    if not data:
        return None
    if len(data) != size:
        found = f"{file.size()} bytes" if file.size() <= 1 << 20 else "far too many bytes"
        raise BadStore(f"{file.name}: a key of {size} bytes should be here (offset 0), not {found}")
    return data
