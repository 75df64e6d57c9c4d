"""Where the ``dat`` command keeps the secret keys of drives: in the home folder, not with the drive (sleep.md 7).

A key is only looked for if the drive's folder has its marker, ``metadata.ogd``: the folder of a writer. So a copy of
the folder given to somebody else does not carry the right to write. A key beside the register, where hypercore itself
keeps one, is :mod:`datfs.key_files`'s.
"""

from __future__ import annotations

import os
from pathlib import Path

from datfs import key_files
from datfs.crypto import SEED_BYTES, KeyPair, key_pair
from datfs.errors import BadStore
from datfs.link import discovery_key
from datfs.storage import FileStorage, RandomAccess

MARKER = b"\0"


def place(public: bytes, home: Path | None = None) -> Path:
    """Where the secret key of a drive is kept, whether it is there or not. ``home``: default the user's."""
    name = discovery_key(public).hex()
    return (home or Path.home()) / ".dat" / "secret_keys" / name[:2] / name[2:]


def load(public: bytes, owner: Path, *, home: Path | None = None) -> bytes | None:
    """The secret key of a drive; None if it is not kept there, or ``owner``, the marker, is missing or empty.

    Raises BadStore if the file has another length or the key of another drive, OSError if it cannot be read.
    """
    return find(public, home=home) if _marked(owner) else None


def find(public: bytes, *, home: Path | None = None) -> bytes | None:
    """As :func:`load`, whether a folder has the marker or not."""
    file = place(public, home)

    def open_key(_: str) -> RandomAccess:
        return FileStorage(file, read_only=True)

    return key_files.secret(open_key, "", public, None, look=True)


def kept(home: Path | None = None) -> list[Path]:
    """The files of all secret keys that are kept. Raises OSError."""
    folder = (home or Path.home()) / ".dat" / "secret_keys"
    return sorted(file for file in folder.glob("[0-9a-f][0-9a-f]/*") if _is_name(file.parent.name + file.name))


def owner_of(file: Path) -> bytes:
    """The public key of the drive that a kept secret key is of. Raises BadStore if it is damaged, OSError."""
    secret = file.read_bytes()
    public = secret[SEED_BYTES:]
    if not belongs(public, secret) or discovery_key(public).hex() != file.parent.name + file.name:
        raise BadStore(f"{file}: this is not the secret key of the drive that its name says")
    return public


def belongs(public: bytes, secret: bytes) -> bool:
    """Whether a secret key is that of a drive."""
    return len(secret) == key_files.SECRET_KEY_BYTES and key_pair(secret[:SEED_BYTES]) == (public, secret)


def _is_name(digits: str) -> bool:
    return len(digits) == 64 and set(digits) <= set("0123456789abcdef")


def store(keys: KeyPair, owner: Path, *, home: Path | None = None) -> None:
    """Keeps a secret key, durably, and marks the drive's folder with ``owner``. A second time changes nothing.

    Raises BadStore if another key is there, OSError.
    """
    file = place(keys.public, home)
    if not _holds(file, keys.secret):
        _make_folders(file.parent, 3)  # .dat, secret_keys and the two digits: nobody else may look
        _write_beside(file, keys.secret)
    # Last: a marker promises a key. The reference makes it first, and a crash leaves it without one.
    if not _marked(owner):
        marker = FileStorage(owner)
        try:
            marker.write(0, MARKER)
            marker.sync()
        finally:
            marker.close()


def _marked(owner: Path) -> bool:
    file = FileStorage(owner, read_only=True)
    try:
        return bool(file.read(0, 1))
    finally:
        file.close()


def _holds(path: Path, secret: bytes) -> bool:
    """Whether the key is there already. What a crash left of it is not. Raises BadStore for anything else."""
    file = FileStorage(path, read_only=True)
    try:
        found = file.read(0, len(secret) + 1)
    finally:
        file.close()
    if found != secret and not secret.startswith(found):
        raise BadStore(f"{path}: another secret key is kept here (offset 0), and is not written over")
    return found == secret


def _make_folders(folder: Path, levels: int) -> None:
    if levels > 1:
        _make_folders(folder.parent, levels - 1)
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        return
    _sync_folder(folder.parent)


def _write_beside(path: Path, secret: bytes) -> None:
    """Writes the file under another name and gives it its own when it is whole."""
    beside = path.with_name(f"{path.name}.{os.getpid()}.new")
    fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        try:
            os.write(fd, secret)
            os.fsync(fd)
        finally:
            os.close(fd)
        beside.rename(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
