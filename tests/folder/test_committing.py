"""What differs between a folder and its drive is found, and committed once, whatever happens meanwhile."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from contextlib import suppress
from pathlib import Path

import pytest

from datfs.confined import ConfinedFolder
from datfs.folder.committing import Report
from datfs.folder.compare import LeftOut
from datfs.hashed_file import BATCH_BYTES, CHUNK_BYTES
from datfs.metadata import Path as DrivePath
from datfs.storage import Buffer, FileStorage
from tests.folder.kit import Hook, Kit


@pytest.fixture
def kit(tmp_path: Path) -> Kit:
    """A folder with an empty drive."""
    return Kit(tmp_path)


# --- what is found -------------------------------------------------------------------------------------------------


def test_changes_are_found_in_the_order_of_the_reference(kit: Kit) -> None:
    """Names that are gone first, falling; then all others, rising, each folder where its name stands."""
    for name in ("b", "a/2", "a/1", "a.txt", "c/d/e", "B"):
        kit.write(name)
    assert kit.committed() == [f"new /{name}" for name in ("B", "a/1", "a/2", "a.txt", "b", "c/d/e")]
    assert kit.changes() == []
    shutil.rmtree(kit.folder / "c")
    (kit.folder / "B").unlink()
    (kit.folder / "a" / "1").unlink()
    kit.write("a/2", b"other")
    kit.write("aa")
    assert kit.committed() == ["removed /c/d/e", "removed /B", "removed /a/1", "changed /a/2", "new /aa"]
    assert kit.changes() == []


def test_a_folder_where_a_file_was_and_the_reverse(kit: Kit) -> None:
    """What stood there leaves the drive before what stands there comes."""
    for name in ("file", "folder/x", "folder/sub/y"):
        kit.write(name)
    kit.commit()
    (kit.folder / "file").unlink()
    kit.write("file/below")
    shutil.rmtree(kit.folder / "folder")
    kit.write("folder")
    assert kit.committed() == [
        *("removed /file", "new /file/below"),
        *("removed /folder/x", "removed /folder/sub/y", "new /folder"),
    ]
    assert kit.changes() == []


def test_a_file_that_was_only_touched_is_not_imported(kit: Kit) -> None:
    """Another time with the same bytes is no change; reading it once is enough to know it."""
    place = kit.write("a", b"12345")
    kit.commit()
    before = kit.content_length()
    os.utime(place, (kit.now / 1000 + 5, kit.now / 1000 + 5))
    kit.now += 60_000
    read: list[int] = []
    assert kit.committed(Hook(on_bytes=read.append)) == []
    assert read == [5]
    assert kit.committed(Hook(on_bytes=lambda _: pytest.fail("read again"))) == []
    assert kit.content_length() == before


def test_an_older_file_of_the_same_size_is_noticed(kit: Kit) -> None:
    """What the dat command misses: a file put back from elsewhere, with a time before the import."""
    kit.write("a", b"first", age=5000)
    kit.write("b", b"b")
    kit.commit()
    kit.write("a", b"other", age=9000)
    assert kit.committed() == ["changed /a"]


def test_a_clock_that_went_back(kit: Kit) -> None:
    """Entries from the future hide no change: bytes are compared then."""
    kit.write("a", b"first")
    kit.write("b", b"same")
    kit.commit()
    kit.now -= 1_000_000
    kit.write("a", b"later")
    with kit.opened() as working:
        assert working.clock_behind() == 1000
    assert kit.committed() == ["changed /a"]
    assert kit.changes() == []


def test_damaged_notes_cost_a_reading(kit: Kit) -> None:
    """Whatever is in the file that saves work, the answer is right."""
    kit.write("a", b"first")
    kit.commit()
    notes = kit.folder / ".dat" / "datfs.seen"
    whole = notes.read_bytes()
    for damaged in (b"", b"nonsense", whole[:-3], whole.replace(b" ", b" x", 1), b"\xff" * 100):
        notes.write_bytes(damaged)
        assert kit.changes() == []
    notes.unlink()
    assert kit.changes() == []


def test_what_is_ignored_stays_as_it_is(kit: Kit) -> None:
    """Neither comes it into the drive, nor does it leave it."""
    kit.write("a.tmp")
    kit.write("b")
    kit.commit()
    kit.write(".datignore", b"*.tmp\n")
    kit.write("c.tmp")
    kit.write(".hidden/x")
    kit.write(".well-known/dat")
    (kit.folder / "a.tmp").unlink()
    assert kit.committed() == ["new /.well-known/dat"]


# --- what cannot be in a drive -------------------------------------------------------------------------------------


def left_out(kit: Kit) -> dict[str, tuple[str, bool]]:
    """What a commit leaves out, and whether that is a failure."""
    return {
        os.fsdecode(b"/".join(one.path)): (one.why, one.failed)
        for one in [*kit.commit().left_out, *kit.compare().left_out]
    }


def test_names_and_files_that_no_drive_has(kit: Kit) -> None:
    """Pipes, sockets, devices, links to folders or nothing are left out with a note, a name that is not UTF-8 fails."""
    kit.write("real/file")
    (kit.folder / "to-device").symlink_to("/dev/zero")
    with suppress(PermissionError):  # for root only
        os.mknod(kit.folder / "device", stat.S_IFCHR | 0o600, os.makedev(1, 5))
    os.mkfifo(kit.folder / "pipe")
    os.mknod(kit.folder / "socket", stat.S_IFSOCK | 0o600)
    (kit.folder / "to-folder").symlink_to("real")
    (kit.folder / "to-itself").symlink_to("to-itself")
    (kit.folder / "to-nothing").symlink_to("nothing")
    (kit.folder / "real" / "up").symlink_to("..")
    Path(os.fsdecode(os.fsencode(kit.folder) + b"/bad\xff")).write_bytes(b"x")
    found = left_out(kit)
    assert {name for name, (_, failed) in found.items() if failed} == {"bad\udcff"}
    assert "UTF-8" in found["bad\udcff"][0]
    assert "pipe" in found["pipe"][0]
    assert "socket" in found["socket"][0]
    assert "device" in found["to-device"][0]
    assert found.get("device", found["to-device"])[0] == found["to-device"][0]
    assert "circle" in found["to-itself"][0]
    assert "nothing" in found["to-nothing"][0]
    assert found["to-folder"][0] == found["real/up"][0] == "it is a symbolic link to a folder"
    with kit.opened() as working:
        assert {path for path, _ in working.drive.entries()} == {(b"real", b"file")}


def test_a_device_is_left_out(kit: Kit) -> None:
    """With a note, and without being opened; where a file of the drive was, that file is gone from it."""
    kit.write("was-a-file")
    kit.commit()
    (kit.folder / "was-a-file").unlink()
    try:
        os.mknod(kit.folder / "was-a-file", stat.S_IFCHR | 0o600, os.makedev(1, 3))
        os.mknod(kit.folder / "disk", stat.S_IFBLK | 0o600, os.makedev(7, 0))
    except PermissionError:
        pytest.skip("making a device takes CAP_MKNOD")
    found = left_out(kit)
    assert {(name, "device" in why, failed) for name, (why, failed) in found.items()} == {
        ("was-a-file", True, False),
        ("disk", True, False),
    }
    assert kit.changes() == []


def test_a_link_to_a_file_is_that_file(kit: Kit, tmp_path: Path) -> None:
    """As with the dat command: the drive has the bytes that the link leads to, and serves them."""
    outside = tmp_path / "outside"
    outside.write_bytes(b"outside")
    (kit.folder / "link").symlink_to(outside)
    assert kit.committed() == ["new /link"]
    assert kit.content_length() == (1, 7)
    outside.write_bytes(b"changed")
    assert kit.committed() == ["changed /link"]
    outside.unlink()
    assert kit.committed() == ["removed /link"]


def test_a_link_to_the_secret_key_is_refused(kit: Kit) -> None:
    """Nothing of the registers gets into the drive."""
    (kit.folder / ".dat" / "metadata.secret_key").write_bytes(b"secret")
    (kit.folder / "link").symlink_to(".dat/metadata.secret_key")
    report = kit.commit()
    assert report.done == []
    assert [(one.failed, "registers" in one.why) for one in report.left_out] == [(True, True)]


def test_a_file_that_cannot_be_read(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is named, the others are committed, and what the drive had of it stays."""
    kit.write("a", b"old")
    kit.write("b")
    kit.commit()
    open_file = ConfinedFolder.open_file

    def refusing(self: ConfinedFolder, path: DrivePath, *, write: bool = False, follow: bool = False) -> int:
        if path == (b"a",):
            raise PermissionError(errno.EACCES, "Permission denied", "/a")
        return open_file(self, path, write=write, follow=follow)

    monkeypatch.setattr(ConfinedFolder, "open_file", refusing)
    kit.write("a", b"newer")
    kit.write("c")
    report = kit.commit()
    assert [one.path for one in report.done] == [(b"c",)]
    assert report.left_out == [LeftOut((b"a",), "it cannot be read: Permission denied", failed=True)]


def test_a_folder_that_cannot_be_read_is_not_gone(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing below it is deleted from the drive."""
    kit.write("a/b")
    kit.write("c")
    kit.commit()
    listdir = os.listdir

    def refusing(place: bytes) -> list[bytes]:
        if place.endswith(b"/a"):
            raise PermissionError(errno.EACCES, "Permission denied", place)
        return listdir(place)

    monkeypatch.setattr("datfs.folder.compare.os.listdir", refusing)
    report = kit.commit()
    assert report.done == []
    assert [(one.path, one.failed) for one in report.left_out] == [((b"a",), True)]


# --- what happens meanwhile ----------------------------------------------------------------------------------------

LARGE = bytes(range(256)) * (3 * BATCH_BYTES // 256) + b"end"


def test_a_file_that_is_written_while_it_is_read(kit: Kit) -> None:
    """It is read again, and what is committed is the whole file as it was at one time."""
    place = kit.write("a", LARGE)
    kit.write("b")
    writes = iter([b"x" * len(LARGE)])

    def interfere(size: int) -> None:
        if size and (data := next(writes, None)) is not None:
            place.write_bytes(data)

    assert kit.committed(Hook(on_bytes=interfere)) == ["new /a", "new /b"]
    kit.content_length()
    assert kit.changes() == []


def test_a_file_that_is_written_all_the_time_is_left_out(kit: Kit) -> None:
    """It is named and not committed, not in part either; the others are. Nothing of it is claimed."""
    place = kit.write("a", LARGE)
    kit.write("b")

    def interfere(size: int) -> None:
        with place.open("ab") as file:
            file.write(b"more" if size else b"")

    report = kit.commit(Hook(on_bytes=interfere))
    assert [one.path for one in report.done] == [(b"b",)]
    assert [(one.path, one.failed, "being written" in one.why) for one in report.left_out] == [((b"a",), True, True)]
    with kit.opened() as working:
        assert working.writer.content.data_bits.count(0, working.writer.content.length) == 1


class Interrupted(Exception):
    """Stands for a signal."""


def test_an_interrupted_commit_goes_on(tmp_path: Path) -> None:
    """Wherever it was interrupted, and repeated: the registers are those of one that was not; nothing came twice."""
    whole = fill(Kit(tmp_path / "whole"))
    whole.commit()
    expected = registers(whole)
    steps = 0
    finished = False
    while not finished:
        kit = fill(Kit(tmp_path / f"interrupted-{steps}"))
        finished = interrupted_after(kit, steps)
        kit.commit()
        assert kit.content_length() == whole.content_length()
        assert registers(kit) == expected
        steps += 1
    assert steps > 8


def fill(kit: Kit) -> Kit:
    """Some files, one of several batches."""
    for name, data in (("a", b"a"), ("large", LARGE), ("sub/b", b"b" * CHUNK_BYTES), ("z", b"")):
        kit.write(name, data)
    return kit


def interrupted_after(kit: Kit, steps: int) -> bool:
    """Commits until so many things were told; whether it came to its end before."""
    left = steps

    def count(_: object) -> None:
        nonlocal left
        if not left:
            raise Interrupted
        left -= 1

    try:
        kit.commit(Hook(count, count))
    except Interrupted:
        return False
    return True


def registers(kit: Kit) -> dict[str, bytes]:
    """What is in ``.dat``, without signatures of content: which chunks are signed together may differ."""
    names = (
        "metadata.data",
        "metadata.tree",
        "metadata.bitfield",
        "metadata.signatures",
        "content.tree",
        "content.bitfield",
    )
    return {name: (kit.folder / ".dat" / name).read_bytes() for name in names}


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever write fails, the drive has whole files only, and the next commit completes it."""
    whole = fill(Kit(tmp_path / "whole"))
    whole.commit()
    steps = 0
    failing = True
    while failing:
        kit = fill(Kit(tmp_path / f"full-{steps}"))
        failing = fails_at_write(kit, steps, monkeypatch)
        with kit.opened() as working:
            content = working.writer.content
            for path, entry in working.drive.entries():
                held = b"".join(content.get(index) for index in range(entry.offset, entry.offset + entry.blocks))
                assert held == (kit.folder / os.fsdecode(b"/".join(path))).read_bytes()
        kit.commit()
        assert kit.changes() == []
        assert kit.content_length() == whole.content_length()
        steps += 1
    assert steps > 8


def fails_at_write(kit: Kit, steps: int, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Commits on a disk that takes so many writes more; whether it was full before the end."""
    left = steps
    write = FileStorage.write

    def limited(self: FileStorage, offset: int, data: Buffer) -> None:
        nonlocal left
        if not left:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self.name)
        left -= 1
        write(self, offset, data)

    report = Report()
    try:
        with monkeypatch.context() as patch, kit.opened() as working:
            patch.setattr(FileStorage, "write", limited)
            working.commit(working.compare().changes, report=report)
    except OSError:
        with kit.opened() as working:
            assert len(report.done) <= working.writer.version  # nothing is told that was not kept
        return True
    return False
