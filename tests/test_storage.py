"""One suite for every storage, and what only files can do."""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datfs import storage as module
from datfs.errors import ReadOnly
from datfs.storage import PAGE, FileStorage, MemoryStorage, RandomAccess, directory_storage, memory_storage

Make = Callable[[], RandomAccess]


@pytest.fixture(params=["file", "memory"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    """Opens the same storage again and again."""
    if request.param == "file":
        return lambda: FileStorage(tmp_path / "file")
    files = memory_storage()
    return lambda: files("file")


def whole(file: RandomAccess) -> bytes:
    """Everything in it."""
    return file.read(0, file.size() + 100)


def test_empty(make: Make) -> None:
    """What was never written to is empty, and reading there gives nothing."""
    file = make()
    assert file.size() == 0
    assert file.read(0, 10) == b""
    assert file.read(1 << 40, 10) == b""
    file.sync()


def test_write_and_read(make: Make) -> None:
    """What was written is read, short only at the end."""
    file = make()
    file.write(0, b"abcdef")
    file.write(2, bytearray(b"XY"))
    file.write(6, memoryview(b"-gh-")[1:3])
    assert whole(file) == b"abXYefgh"
    assert file.read(6, 100) == b"gh"
    assert file.read(8, 1) == b""
    assert file.read(3, 0) == b""


def test_gap_reads_as_zeros(make: Make) -> None:
    """A gap before what was written reads as zeros and counts to the size."""
    file = make()
    far = 3 * PAGE + 5
    file.write(far, b"x")
    assert file.size() == far + 1
    assert file.read(0, far + 10) == bytes(far) + b"x"


def test_writing_nothing(make: Make) -> None:
    """Writing no bytes changes nothing, wherever it is."""
    file = make()
    file.write(100, b"")
    assert file.size() == 0


def test_across_pages(make: Make) -> None:
    """A write over several pages is read whole and in parts."""
    file = make()
    data = bytes(i * 7 % 251 for i in range(3 * PAGE))
    file.write(PAGE // 2, data)
    assert file.read(PAGE // 2, len(data)) == data
    assert file.read(PAGE, 2 * PAGE) == data[PAGE // 2 : PAGE // 2 + 2 * PAGE]


def test_truncate(make: Make) -> None:
    """Truncating cuts, never makes longer, and what is written behind again does not bring the old bytes back."""
    file = make()
    file.write(0, b"abcdef")
    file.truncate(10)
    assert whole(file) == b"abcdef"
    file.truncate(2)
    assert whole(file) == b"ab"
    file.write(4, b"!")
    assert whole(file) == b"ab\0\0!"


@pytest.mark.parametrize(("offset", "length"), [(0, 5), (10, PAGE), (PAGE - 3, 2 * PAGE + 6), (2 * PAGE, 10 * PAGE)])
def test_punch(make: Make, offset: int, length: int) -> None:
    """A punched range reads as zeros, the rest and the size stay."""
    file = make()
    data = b"\xaa" * (4 * PAGE)
    file.write(0, data)
    file.punch(offset, length)
    stop = min(offset + length, len(data))
    assert whole(file) == data[:offset] + bytes(stop - offset) + data[stop:]


def test_punch_beyond_the_end(make: Make) -> None:
    """Punching beyond the end, or nothing, changes nothing."""
    file = make()
    file.write(0, b"abc")
    file.punch(3, 10)
    file.punch(1, 0)
    assert whole(file) == b"abc"


def test_opening_again(make: Make) -> None:
    """The bytes are there when it is opened again; closing twice does nothing."""
    file = make()
    file.write(3, b"abc")
    file.sync()
    file.close()
    file.close()
    assert whole(make()) == b"\0\0\0abc"


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("write"), st.integers(0, 3 * PAGE), st.binary(max_size=40)),
            st.tuples(st.just("fill"), st.integers(0, 3 * PAGE), st.integers(0, 2 * PAGE)),
            st.tuples(st.just("truncate"), st.integers(0, 4 * PAGE)),
            st.tuples(st.just("punch"), st.integers(0, 3 * PAGE), st.integers(0, 2 * PAGE)),
        ),
        max_size=8,
    )
)
def test_memory_against_bytes(operations: list[tuple[object, ...]]) -> None:
    """Memory in pages behaves as plain bytes do."""
    file, model = MemoryStorage(), bytearray()
    for operation in operations:
        match operation:
            case ("write", int(offset), bytes(data)):
                pass
            case ("fill", int(offset), int(length)):
                data = b"\x55" * length
            case ("truncate", int(size)):
                file.truncate(size)
                del model[size:]
                continue
            case ("punch", int(offset), int(length)):
                file.punch(offset, length)
                stop = min(len(model), offset + length)
                model[offset:stop] = bytes(max(0, stop - offset))
                continue
        file.write(offset, data)
        if data:
            model.extend(bytes(max(0, offset + len(data) - len(model))))
            model[offset : offset + len(data)] = data
    assert file.size() == len(model)
    assert file.read(0, len(model) + 1) == model


def test_memory_costs_what_is_written() -> None:
    """A byte at the end of a terabyte costs one page."""
    file = MemoryStorage()
    file.write(1 << 40, b"x")
    file.punch(0, 1 << 20)
    assert len(file._pages) == 1


# --- files only


def test_read_only_writes_nothing(tmp_path: Path) -> None:
    """Read-only, every change is refused and nothing is made."""
    (tmp_path / "there").write_bytes(b"abc")
    opened = directory_storage(tmp_path, read_only=True)
    for name in ("there", "absent"):
        file = opened(name)
        changes: list[Callable[[], None]] = [
            lambda file=file: file.write(0, b"x"),  # type: ignore[misc]
            lambda file=file: file.truncate(0),  # type: ignore[misc]
            lambda file=file: file.punch(0, 1),  # type: ignore[misc]
        ]
        for change in changes:
            with pytest.raises(ReadOnly, match=name):
                change()
        file.sync()
        file.close()
    assert opened("there").read(0, 9) == b"abc"
    assert opened("absent").read(0, 9) == b""
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_opening_makes_nothing(tmp_path: Path) -> None:
    """A file is made when first written to, for its owner only."""
    file = directory_storage(tmp_path)("file")
    assert list(tmp_path.iterdir()) == []
    file.write(0, b"x")
    assert (tmp_path / "file").stat().st_mode & 0o077 == 0


def test_unreadable_is_not_absent(tmp_path: Path) -> None:
    """A file that exists and cannot be opened is an error that names it, not an empty file."""
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError, match="folder"):
        FileStorage(tmp_path / "folder")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(OSError, match="loop"):
        FileStorage(tmp_path / "loop", read_only=True)
    (tmp_path / "plain").write_bytes(b"")
    with pytest.raises(NotADirectoryError, match="inside"):
        FileStorage(tmp_path / "plain" / "inside")


def test_read_error_names_the_file(tmp_path: Path) -> None:
    """An error while reading carries the file's name and errno."""
    with pytest.raises(IsADirectoryError) as caught:
        FileStorage(tmp_path, read_only=True).read(0, 1)
    assert caught.value.filename == str(tmp_path)


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """The kernel refuses to make files longer, with EFBIG, as a full disk does with ENOSPC."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def test_write_that_does_not_fit(tmp_path: Path) -> None:
    """A write the kernel cuts short is an error with name and errno, and what was there before stays."""
    file = FileStorage(tmp_path / "file")
    file.write(0, b"before")
    with file_size_limit(100), pytest.raises(OSError) as caught:
        file.write(50, bytes(1000))
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(tmp_path / "file"))
    assert file.read(0, 6) == b"before"
    file.write(50, bytes(1000))
    assert file.size() == 1050


def test_full_disk() -> None:
    """A full disk is an OSError with ENOSPC and the file's name."""
    file = FileStorage(Path("/dev/full"))
    with pytest.raises(OSError) as caught:
        file.write(0, b"x")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, "/dev/full")
    file.close()


def test_short_calls_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that reads and writes less than asked for is asked again."""
    pread, pwrite = os.pread, os.pwrite
    monkeypatch.setattr(os, "pread", lambda fd, length, at: pread(fd, min(length, 7), at))
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: pwrite(fd, bytes(data)[:5], at))
    file = FileStorage(tmp_path / "file")
    data = bytes(range(100))
    file.write(3, data)
    assert file.read(0, 200) == bytes(3) + data


def test_punch_gives_space_back(tmp_path: Path) -> None:
    """Punching frees blocks where the file system can, and writes zeros where it cannot."""
    file = FileStorage(tmp_path / "file")
    file.write(0, b"x" * (1 << 20))
    file.sync()
    before = os.stat(tmp_path / "file").st_blocks
    file.punch(0, 1 << 19)
    assert os.stat(tmp_path / "file").st_blocks < before


def test_punch_without_holes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the file system cannot punch, zeros are written; another failure is an error."""

    class Libc:
        code = errno.EOPNOTSUPP

        def fallocate(self, *arguments: object) -> int:
            """Refuses."""
            return -1

    monkeypatch.setattr(module, "_libc", Libc())
    monkeypatch.setattr(ctypes, "get_errno", lambda: Libc.code)
    file = FileStorage(tmp_path / "file")
    file.write(0, b"x" * (3 * PAGE))
    file.punch(5, 2 * PAGE)
    assert file.read(0, 3 * PAGE) == b"x" * 5 + bytes(2 * PAGE) + b"x" * (PAGE - 5)
    Libc.code = errno.EIO
    with pytest.raises(OSError) as caught:
        file.punch(0, 1)
    assert caught.value.errno == errno.EIO


def test_new_file_is_found_after_a_power_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first sync of a file made here also syncs its folder; later ones and those of old files do not."""
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.readlink(f"/proc/self/fd/{fd}")))
    file = FileStorage(tmp_path / "file")
    file.write(0, b"x")
    file.sync()
    file.write(1, b"y")
    file.sync()
    assert synced == [str(tmp_path)]
    file.close()
    again = FileStorage(tmp_path / "file")
    again.write(0, b"z")
    again.sync()
    assert synced == [str(tmp_path)]


def test_sync_error_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that cannot sync is an OSError with the file's name."""

    def broken(fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fdatasync", broken)
    file = FileStorage(tmp_path / "file")
    file.write(0, b"x")
    with pytest.raises(OSError, match="file") as caught:
        file.sync()
    assert caught.value.errno == errno.EIO
