"""Copies of drives: datfs clones what the real ``dat`` shares, and in one copy either program goes on for the other."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.interop.discovery.namespaces import running
from tests.interop.discovery.test_real_dat_folder import FILES, SECONDS, World, files_in, fill, needed, world

__all__ = ["needed", "world"]  # fixtures

pytestmark = [pytest.mark.time_limit(300)]


def wait_for_files(copy: Path, source: Path) -> None:
    """Waits until a copy has the files of the source; fails with both otherwise."""
    end = time.monotonic() + SECONDS
    while files_in(copy) != files_in(source) and time.monotonic() < end:
        time.sleep(0.2)
    assert files_in(copy) == files_in(source)


def until_shared(world: World, link: str, path: str) -> None:
    """Waits until the sharing program has taken over a file."""
    end = time.monotonic() + SECONDS
    while path not in world.datfs("log", link, "--discovery", "mdns", "--memory") and time.monotonic() < end:
        time.sleep(0.2)


def test_datfs_clones_and_pulls_and_dat_goes_on(world: World, tmp_path: Path) -> None:
    """By the link alone; each later change of the writer is brought by the other program, into the same folder."""
    source, copy = tmp_path / "source", tmp_path / "copy"
    fill(source, FILES)
    with running(world.theirs, world.dat_words("share", source), more=world.environment) as sharing:
        sharing.wait_for("Watching for file updates", SECONDS)
        link = f"dat://{(source / '.dat' / 'metadata.key').read_bytes().hex()}"
        world.datfs("clone", link, copy, "--discovery", "mdns", "-q")
        assert files_in(copy) == files_in(source)

        fill(source, {"a.txt": b"changed by the writer\n", "later/x": b"x"})
        (source / "sub" / "gone").unlink()
        until_shared(world, link, "/later/x")
        world.datfs("pull", copy, "--discovery", "mdns", "-q")
        assert files_in(copy) == files_in(source)

        fill(source, {"later/y": b"y" * 100_000})
        until_shared(world, link, "/later/y")
        world.dat("pull", copy, "--exit")
        assert files_in(copy) == files_in(source)

        fill(source, {"later/z": b"z"})
        until_shared(world, link, "/later/z")
        world.datfs("pull", copy, "--discovery", "mdns", "-q")
        assert files_in(copy) == files_in(source)
    assert "all right" in world.datfs("verify", copy)


def test_datfs_goes_on_in_a_copy_of_dat_and_dat_syncs(world: World, tmp_path: Path) -> None:
    """``dat clone``, then ``datfs pull``, then ``dat sync`` follow what datfs commits and shares."""
    source, copy = tmp_path / "source", tmp_path / "copy"
    fill(source, FILES)
    link = world.datfs("init", source, "--title", "Ours").strip()
    world.datfs("commit", "-C", source, "-a", "-q")
    words = world.datfs_words("share", source, "--discovery", "mdns")
    with running(world.ours, words, more=world.environment) as sharing:
        sharing.wait_for("listening on", SECONDS)
        world.dat("clone", link, copy)
        assert files_in(copy) == files_in(source)

        fill(source, {"a.txt": b"changed\n", "new/file": b"new\n"})
        world.datfs("commit", "-C", source, "-a", "-q")
        until_shared(world, link, "/new/file")
        world.datfs("pull", copy, "--discovery", "mdns", "-q")
        assert files_in(copy) == files_in(source)

        with running(world.theirs, world.dat_words("sync", copy), more=world.environment):
            for name in ("one", "two"):
                fill(source, {f"live/{name}": name.encode() * 1000})
                world.datfs("commit", "-C", source, "-a", "-q")
                wait_for_files(copy, source)
