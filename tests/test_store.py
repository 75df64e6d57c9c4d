"""Where drives live: the cache with its one owner, memory, and folders in each layout."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from datfs.errors import BadLink, BadStore, NotADrive, ReadOnly, StoreLocked
from datfs.link import discovery_key
from datfs.store import (
    LOCK_NAME,
    cache_folder,
    cache_store,
    cache_view,
    default_cache_dir,
    folder_store,
    memory_store,
)
from tests.vector_drives import DRIVES, copy_drive

KEY = bytes(range(32))

OWNER = """
import sys
from pathlib import Path
from datfs.store import cache_store
with cache_store(bytes(range(32)), Path(sys.argv[1])) as store:
    store.open_storage("metadata.data").write(0, b"x")
    print("mine", flush=True)
    sys.stdin.read()
"""


def test_the_folder_is_named_by_the_discovery_key(tmp_path: Path) -> None:
    """The key is the right to read, and does not appear in a path; only its owner may look into the folder."""
    with cache_store(KEY, tmp_path / "cache") as store:
        assert store.folder == tmp_path / "cache" / discovery_key(KEY).hex() == cache_folder(KEY, tmp_path / "cache")
        assert KEY.hex() not in str(store.folder)
        assert stat.S_IMODE(store.folder.stat().st_mode) == 0o700
        assert (store.folder / LOCK_NAME).read_text() == f"{os.getpid()}\n"
        assert not store.read_only
        assert store.cached


def test_the_default_follows_xdg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """$XDG_CACHE_HOME is honoured."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / "datfs"


def test_a_user_without_a_home_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """What to do about it; such users run services."""
    for variable in ("XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000_000)
    with pytest.raises(BadStore, match="--cache-dir"):
        default_cache_dir()


def test_two_owners_in_one_process(tmp_path: Path) -> None:
    """The second is refused; after the first has gone it is not."""
    with cache_store(KEY, tmp_path):
        with pytest.raises(StoreLocked) as refused:
            with cache_store(KEY, tmp_path):
                pass
        assert refused.value.pid == os.getpid()
    with cache_store(KEY, tmp_path):
        pass


def test_another_process_owns_it(tmp_path: Path) -> None:
    """The pid of the owner is told; when it is killed, the cache is free, and what it wrote is there."""
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"mine\n"
        with pytest.raises(StoreLocked, match=f"process {owner.pid}") as refused:
            with cache_store(KEY, tmp_path):
                pass
        assert refused.value.pid == owner.pid
        assert cache_view(KEY, tmp_path).open_storage("metadata.data").read(0, 10) == b"x"
        owner.kill()
        owner.wait()
        with cache_store(KEY, tmp_path) as store:
            assert store.open_storage("metadata.data").read(0, 10) == b"x"


def test_a_folder_without_a_chunk_goes_with_its_owner(tmp_path: Path) -> None:
    """Nothing stays of a drive that nobody had; something does as soon as there is a chunk."""
    with cache_store(KEY, tmp_path) as store:
        store.open_storage("metadata.key").write(0, KEY)
        store.open_storage("metadata.tree").write(0, b"header")
    assert list(tmp_path.iterdir()) == []
    with cache_store(KEY, tmp_path) as store:
        store.open_storage("metadata.data").write(0, b"chunk")
    assert store.folder is not None
    assert store.folder.exists()


def test_foreign_files_are_not_removed(tmp_path: Path) -> None:
    """What somebody else put into the folder stays."""
    with cache_store(KEY, tmp_path) as store:
        assert store.folder is not None
        (store.folder / "note").write_text("mine")
    assert (store.folder / "note").read_text() == "mine"


def test_a_cache_that_cannot_be_made(tmp_path: Path) -> None:
    """The error is that of the disk, with the path."""
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError) as failed:
        with cache_store(KEY, tmp_path / "file"):
            pass
    assert str(tmp_path / "file") in str(failed.value)


@pytest.mark.parametrize(
    ("name", "inside", "prefix", "works_on_files"),
    [
        ("simple", ".dat", "metadata.", False),
        ("simple-raf", "", "metadata/", False),
        ("simple-dat", ".dat", "metadata.", True),
        ("history-dat", ".dat", "metadata.", True),
    ],
)
def test_layouts_are_recognised(name: str, inside: str, prefix: str, works_on_files: bool) -> None:
    """Each layout by its files: where the registers are, and whether the files are the content."""
    store = folder_store(DRIVES / name)
    assert store.folder == DRIVES / name / inside
    assert store.metadata_prefix == prefix
    assert store.working == (DRIVES / name if works_on_files else None)
    assert store.read_only
    assert not store.cached
    with pytest.raises(ReadOnly):
        store.open_storage(f"{prefix}data").write(0, b"x")


@pytest.mark.parametrize("name", ["simple", "simple-dat"])
def test_the_inner_folder_will_do(name: str) -> None:
    """Given the .dat folder itself, the drive is found, and its files."""
    store = folder_store(DRIVES / name / ".dat")
    assert store.folder == DRIVES / name / ".dat"
    assert store.working == (DRIVES / name if name == "simple-dat" else None)


def test_registers_beside_each_other(tmp_path: Path) -> None:
    """metadata.* and content.* in a folder of any name."""
    folder = copy_drive("simple", tmp_path)
    (folder / ".dat").rename(tmp_path / "plain")
    store = folder_store(tmp_path / "plain")
    assert (store.folder, store.working) == (tmp_path / "plain", None)


def test_no_drive_and_no_folder(tmp_path: Path) -> None:
    """The two are told apart."""
    with pytest.raises(NotADrive, match="holds no drive"):
        folder_store(tmp_path)
    with pytest.raises(BadLink, match="no such folder"):
        folder_store(tmp_path / "nothing")


def test_memory_is_shared_by_name() -> None:
    """Opening a file of a memory store again finds its bytes, and another store has none of them."""
    store = memory_store()
    store.open_storage("metadata.data").write(0, b"x")
    assert store.open_storage("metadata.data").read(0, 5) == b"x"
    assert memory_store().open_storage("metadata.data").read(0, 5) == b""
    assert store.folder is None
