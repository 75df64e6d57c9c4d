"""Secret keys in the home folder, as the dat command keeps them."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from datfs import secret_keys
from datfs.crypto import key_pair
from datfs.errors import BadStore
from datfs.link import discovery_key
from datfs.register import Register
from datfs.storage import directory_storage

KEYS = key_pair(bytes(range(32)))
OTHER = key_pair(bytes(32))


@pytest.fixture
def owner(tmp_path: Path) -> Path:
    """Where the marker of a drive's folder is."""
    (tmp_path / "drive" / ".dat").mkdir(parents=True)
    return tmp_path / "drive" / ".dat" / "metadata.ogd"


def kept(home: Path, data: bytes) -> Path:
    """Puts something where the key belongs."""
    file = secret_keys.place(KEYS.public, home)
    file.parent.mkdir(parents=True)
    file.write_bytes(data)
    return file


def test_the_place_is_that_of_the_dat_command(tmp_path: Path) -> None:
    """Two digits of the discovery key are the folder, the other 62 the file."""
    name = discovery_key(KEYS.public).hex()
    assert secret_keys.place(KEYS.public, tmp_path) == tmp_path / ".dat" / "secret_keys" / name[:2] / name[2:]
    assert len(name[2:]) == 62


def test_the_default_home_is_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a home given the user's own counts."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert secret_keys.place(KEYS.public) == secret_keys.place(KEYS.public, tmp_path)


def test_a_stored_key_is_loaded(tmp_path: Path, owner: Path) -> None:
    """What was stored is found, and nobody else may read it, nor look into the folders."""
    secret_keys.store(KEYS, owner, home=tmp_path)
    assert secret_keys.load(KEYS.public, owner, home=tmp_path) == KEYS.secret
    file = secret_keys.place(KEYS.public, tmp_path)
    assert owner.read_bytes() == b"\0"
    assert file.read_bytes() == KEYS.secret
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    for folder in list(file.parents)[:3]:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert [at.name for at in file.parent.iterdir()] == [file.name]


@pytest.mark.parametrize("marker", [None, b""])
def test_without_a_marker_no_key_is_looked_for(tmp_path: Path, owner: Path, marker: bytes | None) -> None:
    """A folder without the marker, or with an empty one, is a reader's, whatever the home folder has."""
    secret_keys.store(KEYS, owner, home=tmp_path)
    owner.unlink()
    if marker is not None:
        owner.write_bytes(marker)
    assert secret_keys.load(KEYS.public, owner, home=tmp_path) is None


def test_a_marker_alone_is_no_key(tmp_path: Path, owner: Path) -> None:
    """In a copy of the folder on another machine there is nothing to load."""
    owner.write_bytes(b"\0")
    assert secret_keys.load(KEYS.public, owner, home=tmp_path) is None


@pytest.mark.parametrize("data", [KEYS.secret[:63], KEYS.secret + b"\0", OTHER.secret, b"\0" * 64])
def test_a_wrong_key_is_named(tmp_path: Path, owner: Path, data: bytes) -> None:
    """A key of another length, or of another drive, is refused with the file's name."""
    owner.write_bytes(b"\0")
    file = kept(tmp_path, data)
    with pytest.raises(BadStore, match=file.name):
        secret_keys.load(KEYS.public, owner, home=tmp_path)


def test_an_unreadable_key_is_not_an_absent_one(tmp_path: Path, owner: Path) -> None:
    """A key that cannot be read is an error: taken for absent, another one might be made."""
    owner.write_bytes(b"\0")
    secret_keys.place(KEYS.public, tmp_path).mkdir(parents=True)
    with pytest.raises(OSError, match=secret_keys.place(KEYS.public, tmp_path).name):
        secret_keys.load(KEYS.public, owner, home=tmp_path)
    owner.unlink()
    owner.mkdir()
    with pytest.raises(OSError, match=owner.name):
        secret_keys.load(KEYS.public, owner, home=tmp_path)


def test_another_key_is_never_written_over(tmp_path: Path, owner: Path) -> None:
    """What is there and is no part of this key stays, and the folder is not marked."""
    file = kept(tmp_path, OTHER.secret)
    with pytest.raises(BadStore, match=file.name):
        secret_keys.store(KEYS, owner, home=tmp_path)
    assert file.read_bytes() == OTHER.secret
    assert not owner.exists()


@pytest.mark.parametrize("size", [0, 17, 64])
def test_storing_is_finished_after_a_crash(tmp_path: Path, owner: Path, size: int) -> None:
    """A key that was stored in part, or whole but without the marker, is completed."""
    kept(tmp_path, KEYS.secret[:size])
    secret_keys.store(KEYS, owner, home=tmp_path)
    secret_keys.store(KEYS, owner, home=tmp_path)
    assert secret_keys.load(KEYS.public, owner, home=tmp_path) == KEYS.secret


def test_a_full_disk_leaves_nothing(tmp_path: Path, owner: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the key cannot be written, neither a part of it nor the marker is left."""

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    file = secret_keys.place(KEYS.public, tmp_path)
    file.parent.mkdir(parents=True)
    with pytest.raises(OSError, match="No space"):
        secret_keys.store(KEYS, owner, home=tmp_path)
    assert list(file.parent.iterdir()) == []
    assert not owner.exists()


def test_a_key_beside_the_register_opens_it_too(tmp_path: Path) -> None:
    """Where hypercore itself keeps the key it is found without marker or home folder, and checked as well."""
    storage = directory_storage(tmp_path)
    Register.create(storage, KEYS, prefix="metadata.").close()
    assert (tmp_path / "metadata.secret_key").read_bytes() == KEYS.secret
    register = Register.open(storage, prefix="metadata.")
    assert register.writable
    register.close()
    (tmp_path / "metadata.secret_key").write_bytes(OTHER.secret)
    with pytest.raises(BadStore, match=r"metadata\.secret_key"):
        Register.open(storage, prefix="metadata.")
