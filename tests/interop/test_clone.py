"""``datfs clone``, ``pull``, ``sync`` and so on, from the reference and from datfs: every byte, whatever interrupts."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.command_line import DATFS, SECONDS, commit, datfs, failure, made, objects, output, shared, write
from tests.dat_folders import files_in
from tests.interop.datfs_side import wait_until
from tests.interop.reference import MadeDrive, fill, serve

HOME_FILES = {"a.txt": b"hello\n", "d/big.bin": random.Random(1).randbytes(3_000_000), "d/e/x": b"x", "empty": b""}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder with a drive of ours in it."""
    return made(tmp_path / "source", HOME_FILES)


@pytest.fixture
def served(source: Path) -> Iterator[tuple[str, str, Path]]:
    """It is shared: link, address and folder."""
    with shared(source) as (link, address, _):
        yield link, address, source


def test_a_clone_of_the_reference(drive_of: object, tmp_path: Path) -> None:
    """Every file of a drive that the real hyperdrive serves, byte for byte."""
    drive: MadeDrive = drive_of("simple")  # type: ignore[operator]
    with serve(drive.path) as peer:
        (told,) = objects("clone", drive.link, tmp_path / "copy", "--peer", peer.address, "-q")
    assert told["version"] == 5
    found = files_in(tmp_path / "copy")
    assert {f"/{name}" for name in found} == set(drive.files)
    assert found["big.bin"] == fill("/big.bin", 150_000)
    assert output("verify", tmp_path / "copy")


def test_all_files_with_their_times_and_modes(served: tuple[str, str, Path], tmp_path: Path) -> None:
    """Files without bytes too; times are the drive's, and who may run a file is kept."""
    link, address, source = served
    (source / "a.txt").chmod(0o755)
    write(source, {"run.sh": b"#!/bin/sh\n"})
    (source / "run.sh").chmod(0o755)
    commit(source)
    wait_until(lambda: "run.sh" in output("ls", link, "--peer", address, "--memory"), "it is served")
    output("clone", link, tmp_path / "copy", "--peer", address, "-q")
    assert files_in(tmp_path / "copy") == files_in(source)
    assert (tmp_path / "copy" / "run.sh").stat().st_mode & 0o777 == 0o755
    entry = next(one for one in objects("ls", link, "--peer", address, "--memory") if one["path"] == "/run.sh")
    assert (tmp_path / "copy" / "run.sh").stat().st_mtime == pytest.approx(entry["mtime"], abs=0.001)


def test_pull_brings_changes_and_takes_what_is_gone(served: tuple[str, str, Path], tmp_path: Path) -> None:
    """New, changed and deleted files, a folder that became a file and the reverse; a second pull does nothing."""
    link, address, source = served
    copy = tmp_path / "copy"
    output("clone", link, copy, "--peer", address, "-q")
    (source / "a.txt").unlink()
    for name in ("d/e/x", "d/big.bin"):
        (source / name).unlink()
    (source / "d" / "e").rmdir()
    (source / "d").rmdir()
    write(source, {"d": b"a file now", "empty2": b"", "a.txt/deep": b"was a file"})
    commit(source)
    newest = objects("info", source)[0]["version"]
    wait_until(lambda: objects("info", link, "--peer", address, "--memory")[0]["version"] == newest, "it is served")
    (told,) = objects("pull", copy, "--peer", address, "-q")
    assert told["version"] == newest
    assert files_in(copy) == files_in(source)
    (told,) = objects("pull", copy, "--peer", address, "-q")
    assert (told["fetched"], told["removed"]) == (0, 0)


def test_what_a_person_changed_is_not_lost(served: tuple[str, str, Path], tmp_path: Path) -> None:
    """A changed file, and one of the person's own where a new one comes, stop the pull until --force."""
    link, address, source = served
    copy = tmp_path / "copy"
    output("clone", link, copy, "--peer", address, "-q")
    write(copy, {"a.txt": b"HELLO\n", "new": b"mine", "other": b"nobody's business"})
    write(source, {"a.txt": b"hello again\n", "new": b"theirs"})
    commit(source)
    newest = objects("info", source)[0]["version"]
    wait_until(lambda: objects("info", link, "--peer", address, "--memory")[0]["version"] == newest, "it is served")
    said = failure(1, "pull", copy, "--peer", address)
    assert "/a.txt" in said
    assert "/new" in said
    assert "--force" in said
    assert (copy / "a.txt").read_bytes() == b"HELLO\n"
    assert (copy / "new").read_bytes() == b"mine"
    output("pull", copy, "--peer", address, "--force", "-q")
    assert files_in(copy) == {**files_in(source), "other": b"nobody's business"}


def test_a_file_that_was_removed_comes_again(served: tuple[str, str, Path], tmp_path: Path) -> None:
    """pull restores what a person deleted in the copy."""
    link, address, source = served
    copy = tmp_path / "copy"
    output("clone", link, copy, "--peer", address, "-q")
    (copy / "d" / "big.bin").unlink()
    output("pull", copy, "--peer", address, "-q")
    assert files_in(copy) == files_in(source)


def test_selections_are_remembered(served: tuple[str, str, Path], tmp_path: Path) -> None:
    """Patterns choose, a path in the link does too, and pull keeps to them; --empty brings no file."""
    link, address, source = served
    some, none, path = tmp_path / "some", tmp_path / "none", tmp_path / "path"
    output("clone", link, some, "--select", "*.txt", "--select", "e/", "--peer", address, "-q")
    assert sorted(files_in(some)) == ["a.txt", "d/e/x"]
    output("clone", link, none, "--empty", "--peer", address, "-q")
    assert files_in(none) == {}
    output("clone", f"{link}/d/e", path, "--peer", address, "-q")
    assert sorted(files_in(path)) == ["d/e/x"]
    write(source, {"b.txt": b"b", "b.bin": b"b"})
    commit(source)
    newest = objects("info", source)[0]["version"]
    wait_until(lambda: objects("info", link, "--peer", address, "--memory")[0]["version"] == newest, "it is served")
    for copy in (some, none):
        output("pull", copy, "--peer", address, "-q")
    assert sorted(files_in(some)) == ["a.txt", "b.txt", "d/e/x"]
    assert files_in(none) == {}


def test_an_older_version(drive_of: object, tmp_path: Path) -> None:
    """--version, and +N in the link, copy the drive as it was; pull goes on to the newest."""
    drive: MadeDrive = drive_of("simple")  # type: ignore[operator]
    with serve(drive.path) as peer:
        (told,) = objects("clone", f"{drive.link}+2", tmp_path / "copy", "--peer", peer.address, "-q")
        assert told["version"] == 2
        assert len(files_in(tmp_path / "copy")) == 2
        (told,) = objects("pull", tmp_path / "copy", "--peer", peer.address, "-q")
        assert (told["version"], len(files_in(tmp_path / "copy"))) == (5, len(drive.files))
        assert "version 9" in failure(3, "clone", f"{drive.link}+9", tmp_path / "later", "--peer", peer.address)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_clone_goes_on(served: tuple[str, str, Path], tmp_path: Path, number: signal.Signals) -> None:
    """At any moment, again and again: in the end every byte is right, and signals end with their exit codes."""
    link, address, source = served
    write(source, {f"many/{n}": b"%d" % n * 50_000 for n in range(60)})
    commit(source)
    newest = objects("info", source)[0]["version"]
    wait_until(lambda: objects("info", link, "--peer", address, "--memory")[0]["version"] == newest, "it is served")
    rng = random.Random(number)
    command = [*DATFS, "clone", link, str(tmp_path / "copy"), "--peer", address, "--down", "4M", "-q"]
    for _ in range(4):
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
            wait_until((tmp_path / "copy" / ".dat" / "metadata.key").exists, "it has begun")
            time.sleep(rng.uniform(0.5, 1.2))  # the later times Python has to start first
            process.send_signal(number)
            _, said = process.communicate(timeout=SECONDS)
        ends = {0, -number, 128 + number}  # the second one while Python itself was still starting
        assert process.returncode in ends, said
        assert process.returncode == -signal.SIGINT or b"Traceback" not in said
    output("clone", link, tmp_path / "copy", "--peer", address, "-q")
    assert files_in(tmp_path / "copy") == files_in(source)
    assert output("verify", tmp_path / "copy")


def test_what_is_here_is_not_fetched_again(served: tuple[str, str, Path], tmp_path: Path) -> None:
    """A second clone into the same folder moves nothing, and works without the content's peers."""
    link, address, _ = served
    output("clone", link, tmp_path / "copy", "--peer", address, "-q")
    (told,) = objects("clone", link, tmp_path / "copy", "--peer", address, "-q")
    assert (told["fetched"], told["bytes"]) == (0, 0)


def has(place: Path, data: bytes) -> bool:
    """Whether a file is there with these bytes."""
    return place.exists() and place.read_bytes() == data


def test_sync_follows_until_stopped(served: tuple[str, str, Path], tmp_path: Path) -> None:
    """What is committed arrives by itself; Ctrl-C is a good end."""
    link, address, source = served
    copy = tmp_path / "copy"
    output("clone", link, copy, "--peer", address, "-q")
    command = [*DATFS, "sync", str(copy), "--peer", address]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        try:
            for data in (b"one", b"two and more", b""):
                write(source, {"live": data})
                commit(source)
                wait_until(partial(has, copy / "live", data), "it is synced")
        finally:
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, said
    assert files_in(copy) == files_in(source)


def test_sync_goes_on_round_a_file_in_the_way(served: tuple[str, str, Path], tmp_path: Path) -> None:
    """It is named once and stays, what else changes comes, and the drive's when it is gone; exit code 9 before."""
    link, address, source = served
    copy, mine = tmp_path / "copy", tmp_path / "mine"
    output("clone", link, copy, "--peer", address, "-q")
    (copy / "a.txt").write_bytes(b"my own words")
    for ends in (9, 0):
        with (tmp_path / "said").open("wb") as said:
            process = subprocess.Popen(
                [*DATFS, "sync", str(copy), "--peer", address], stdout=subprocess.DEVNULL, stderr=said
            )
        try:
            write(source, {"a.txt": b"new %d" % ends, "b.txt": b"b %d" % ends})
            commit(source)
            wait_until(partial(has, copy / "b.txt", b"b %d" % ends), "the rest is synced")
            write(source, {"live": b"%d" % ends})
            commit(source)
            wait_until(partial(has, copy / "live", b"%d" % ends), "it is live still")
            assert has(copy / "a.txt", b"my own words")
            if not ends:
                (copy / "a.txt").rename(mine)
                wait_until(partial(has, copy / "a.txt", b"new 0"), "the place is free")
        finally:
            # What it says last, it says when the files are there.
            wait_until(lambda: (tmp_path / "said").read_bytes().count(b"/a.txt is not in the folder") == 1, "told once")
            process.send_signal(signal.SIGINT)
            process.wait(timeout=SECONDS)
        assert process.returncode == ends, (tmp_path / "said").read_text()
    assert mine.read_bytes() == b"my own words"
    assert files_in(copy) == files_in(source)


def test_places_that_will_not_do(served: tuple[str, str, Path], tmp_path: Path) -> None:
    """A folder with something in it, one of another drive, the writer's own, none: each is told, nothing changes."""
    link, address, source = served
    write(tmp_path / "full", {"mine": b"1"})
    assert "not empty" in failure(1, "clone", link, tmp_path / "full", "--peer", address)
    assert files_in(tmp_path / "full") == {"mine": b"1"}
    output("clone", link, tmp_path / "copy", "--peer", address, "-q")
    failure(1, "clone", "ab" * 32, tmp_path / "copy", "--peer", address)
    assert "written here" in failure(1, "pull", source, "--peer", address)
    (tmp_path / "nothing").mkdir()
    failure(4, "pull", tmp_path / "nothing", "--peer", address)
    failure(5, "clone", link, tmp_path / "alone", "--timeout", "1", "--peer", "127.0.0.1:1")


def test_two_at_once(served: tuple[str, str, Path], tmp_path: Path) -> None:
    """The second command in a folder is refused while the first one has it."""
    link, address, _ = served
    copy = tmp_path / "copy"
    output("clone", link, copy, "--peer", address, "-q")
    with subprocess.Popen([*DATFS, "sync", str(copy), "--peer", address], stderr=subprocess.PIPE) as process:
        try:
            assert process.stderr is not None
            assert b"keeping" in process.stderr.readline()
            said = failure(1, "pull", copy, "--peer", address)
            assert str(process.pid) in said or "another process" in said
        finally:
            process.terminate()
            process.communicate(timeout=SECONDS)


@pytest.mark.parametrize("word", ["clone", "checkout"])
def test_a_disk_that_is_full(served: tuple[str, str, Path], tmp_path: Path, word: str) -> None:
    """One line names the file; each file is whole, old or new, and with room again the same command does the rest."""
    link, address, source = served
    out = tmp_path / "out"
    words = {
        "clone": ("clone", link, out, "--peer", address),
        "checkout": ("checkout", link, "-o", out, "--peer", address, "--memory", "--force"),
    }[word]
    output(*words, "-q")
    before = files_in(out)
    write(source, {"d/big.bin": random.Random(2).randbytes(4_000_000), "a.txt": b"a newer one"})
    commit(source)
    newest = objects("info", source)[0]["version"]
    wait_until(lambda: objects("info", link, "--peer", address, "--memory")[0]["version"] == newest, "it is served")
    # The kernel refuses to make files longer, with EFBIG, as a full disk does with ENOSPC.
    ended = subprocess.run(
        [*DATFS, *map(str, words), "-q"],
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
        preexec_fn=partial(resource.setrlimit, resource.RLIMIT_FSIZE, (1_000_000, 1_000_000)),
    )
    assert ended.returncode == 1, ended
    assert "File too large" in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr
    found = files_in(out)
    assert found.keys() == before.keys()
    assert all(data in (before[name], files_in(source)[name]) for name, data in found.items())
    output(*words, "-q")
    assert files_in(out) == files_in(source)


def test_a_drive_larger_than_the_disk(served: tuple[str, str, Path], tmp_path: Path) -> None:
    """It is refused before anything is fetched, with what is to come and what is free."""
    link, address, _ = served
    script = 'mount -t tmpfs -o size=8m none "$0" && exec "$@"'
    (tmp_path / "small").mkdir()
    place = tmp_path / "small" / "copy"
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, str(tmp_path / "small")]
    try:
        able = subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        able = False
    if not able:
        pytest.skip("needs unshare, and a kernel that lets users mount a tmpfs in a namespace of their own")
    ended = subprocess.run(
        [*command, *DATFS, "clone", link, str(place), "--peer", address, "-q"],
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
    )
    assert ended.returncode == 1, ended
    assert "are to come, and only" in ended.stderr


def test_checkout_writes_out_a_version(served: tuple[str, str, Path], tmp_path: Path) -> None:
    """Files and parts of a version; a second time nothing; other content is in the way unless --force."""
    link, address, source = served
    out = tmp_path / "out"
    options = ("-o", out, "--peer", address, "--cache-dir", tmp_path / "cache")
    output("checkout", link, "d", *options, "-q")
    assert files_in(out) == {name: data for name, data in files_in(source).items() if name.startswith("d/")}
    output("checkout", link, *options, "-q")
    assert files_in(out) == files_in(source)
    (told,) = objects("checkout", link, *options, "-q")
    assert (told["written"], told["same"]) == (0, len(files_in(source)))
    write(out, {"a.txt": b"HELLO\n", "d/e/x": b"longer"})
    assert "/d/e/x" in failure_of(1, "checkout", link, *options)
    (out / "d" / "e" / "x").write_bytes(b"x")
    assert "/a.txt" in failure_of(1, "checkout", link, *options)
    assert (out / "a.txt").read_bytes() == b"HELLO\n"
    output("checkout", link, *options, "--force", "-q")
    assert files_in(out) == files_in(source)
    assert not list(out.rglob(".datfs-*"))


def failure_of(code: int, *words: object) -> str:
    """The last line that a command says when it ends with ``code``."""
    ended = datfs(*words)
    assert ended.returncode == code, ended
    return ended.stderr.splitlines()[-1]


def test_checkout_follows_no_link_out(served: tuple[str, str, Path], tmp_path: Path) -> None:
    """A symbolic link in the folder leads nowhere else, with --force neither."""
    link, address, _ = served
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    out.mkdir()
    elsewhere.mkdir()
    write(elsewhere, {"a.txt": b"precious"})
    os.symlink(elsewhere, out / "d")
    os.symlink(elsewhere / "a.txt", out / "a.txt")
    options = ("-o", out, "--peer", address, "--memory")
    failure_of(1, "checkout", link, "d", *options)
    failure_of(1, "checkout", link, "d", *options, "--force")
    failure_of(1, "checkout", link, "a.txt", *options)
    output("checkout", link, "a.txt", *options, "--force", "-q")
    assert files_in(elsewhere) == {"a.txt": b"precious"}
    assert (out / "a.txt").read_bytes() == b"hello\n"
    assert not (out / "a.txt").is_symlink()


def test_differences(served: tuple[str, str, Path], tmp_path: Path) -> None:
    """Between two versions of a link, and by their numbers in a folder; both ways."""
    link, address, source = served
    before = objects("info", source)[0]["version"]
    (source / "d" / "e" / "x").unlink()
    write(source, {"a.txt": b"changed", "new": b"new"})
    commit(source)
    after = objects("info", source)[0]["version"]
    wait_until(lambda: objects("info", link, "--peer", address, "--memory")[0]["version"] == after, "it is served")
    expected = {("del", "/a.txt"), ("put", "/a.txt"), ("put", "/new"), ("del", "/d/e/x")}
    found = objects("diff", f"{link}+{before}", f"{link}+{after}", "--peer", address, "--memory")
    assert {(one["change"], one["path"]) for one in found} == expected
    found = objects("diff", f"{link}+{before}", link, "--peer", address, "--memory")
    assert {(one["change"], one["path"]) for one in found} == expected
    command = [*DATFS, "diff", str(after), str(before)]
    back = subprocess.run(command, cwd=source, capture_output=True, text=True, check=True).stdout
    assert "[put] /d/e/x 1 B (1 chunk)" in back.splitlines()
    assert "[del] /new 3 B (1 chunk)" in back.splitlines()
    assert "two drives" in failure(7, "diff", link, "ab" * 32)
    failure(3, "diff", f"{link}+{before}", f"{link}+999", "--peer", address, "--memory")


@pytest.mark.parametrize("here", [True, False])
def test_a_log_that_goes_on(served: tuple[str, str, Path], here: bool) -> None:
    """New versions are printed as they come, from a folder and from a peer."""
    link, address, source = served
    where = [str(source)] if here else [link, "--peer", address, "--memory"]
    with subprocess.Popen([*DATFS, "log", *where, "--live"], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            seen: list[str] = []
            while not seen or "/empty" not in seen[-1]:
                seen.append(process.stdout.readline())
                assert seen[-1]
            time.sleep(0.3)
            write(source, {"later": b"later"})
            commit(source)
            while "/later" not in seen[-1]:
                seen.append(process.stdout.readline())
                assert seen[-1]
        finally:
            process.kill()
