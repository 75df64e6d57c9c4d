"""Programs that wait in a mount and are sent a signal: they are let go soon, and others go on waiting."""

from __future__ import annotations

import errno
import logging
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from datfs import fuse_session
from tests.fuse.conftest import SECONDS, Mounter, Served, wait_until
from tests.fuse.trees import SMALL_WAITER, WAITERS
from tests.memory_tree import noise

pytestmark = pytest.mark.fuse

WAYS = [pytest.param((), id="buffered"), pytest.param(("--direct",), id="direct")]
OTHER_PAGE = 256 * 1024
SOON = 10.0  # seconds; the timeout of these mounts is three times that

CATCHERS = ("dd", "python", "handler")
"""They catch some of the signals. Then the kernel lets them wait for a page that another program has asked for."""

MAP_END = """
import mmap, os, sys
file = os.open(sys.argv[1], os.O_RDONLY)
mapped = mmap.mmap(file, 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
sys.stdout.buffer.write(mapped[int(sys.argv[2]):][:4096])
"""

PROGRAMS: dict[str, Callable[[str], Sequence[str]]] = {
    "cat": lambda path: ["cat", path],
    "dd": lambda path: ["dd", f"if={path}", "of=/dev/null", "bs=64k"],
    "python": lambda path: [sys.executable, "-c", "import sys; open(sys.argv[1], 'rb').read()", path],
    "redirection": lambda path: ["sh", "-c", f"cat < '{path}'"],
    "inherited": lambda path: ["bash", "-c", f"exec 3< '{path}'; cat <&3; true"],
    "handler": lambda path: ["bash", "-c", f"trap 'exit 3' INT TERM; read -r line < '{path}'"],
}
READ_END = """
import os, sys
file = os.open(sys.argv[1], os.O_RDONLY)
os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)
sys.stdout.buffer.write(os.pread(file, 4096, int(sys.argv[2])))
"""


@contextmanager
def started(command: Sequence[str], **more: object) -> Iterator[subprocess.Popen[bytes]]:
    """A program in a process group of its own; the group is killed in the end."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        yield process
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.communicate(timeout=SECONDS)


def blocked(served: Served, count: int) -> None:
    """Waits until so many requests wait, and the kernel has had time to ask for whatever else it wants."""
    wait_until(lambda: served.waiting() >= count, "it waits")
    time.sleep(0.1)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("program", "number"),
    [
        ("cat", signal.SIGKILL),
        ("cat", signal.SIGINT),
        ("cat", signal.SIGTERM),
        ("dd", signal.SIGINT),
        ("python", signal.SIGKILL),
        ("python", signal.SIGINT),
        ("redirection", signal.SIGKILL),
        ("inherited", signal.SIGINT),
        ("handler", signal.SIGTERM),
    ],
)
def test_a_reader_that_gets_a_signal_is_let_go(
    mounter: Mounter, way: tuple[str, ...], program: str, number: signal.Signals
) -> None:
    """As Ctrl-C and kill send them: the program is gone soon, another reader of the file gets its bytes later."""
    served = mounter("missing", *way)
    path = served.point / "waiting" / "000"
    offset = OTHER_PAGE if program in CATCHERS else 0
    with started([sys.executable, "-c", READ_END, str(path), str(offset)]) as other:
        wait_until(lambda: open_in(other.pid, path), "the other reads")
        with started(PROGRAMS[program](str(path))) as process:
            wait_until(lambda: open_in(process.pid, path), "it reads")
            os.killpg(process.pid, number)
            process.wait(SOON)
            assert process.returncode != 0
            wait_until(lambda: not open_in(process.pid, path), "nothing of it is left", SOON)
        assert other.poll() is None
        served.command("arrive waiting/000")
        out, _ = other.communicate(timeout=SECONDS)
    assert other.returncode == 0
    assert out == noise(0, SMALL_WAITER)[offset : offset + 4096]


@pytest.mark.parametrize("program", CATCHERS)
@pytest.mark.parametrize(
    "way", [pytest.param(("--impatient",), id="buffered"), pytest.param(("--direct",), id="direct")]
)
@pytest.mark.parametrize("how", [READ_END, MAP_END], ids=["reads", "maps"])
def test_who_catches_signals_does_not_wait_for_a_page_of_another(
    mounter: Mounter, way: tuple[str, ...], program: str, how: str
) -> None:
    """A program that opens a file on which another one hangs can be interrupted, with a handler and for the same page.

    It does not hang in ``open`` either, and the other one gets its bytes later.
    """
    served = mounter("missing", *way)
    path = served.point / "waiting" / "000"
    with started([sys.executable, "-c", how, str(path), "0"]) as other:
        blocked(served, 1)
        with started(PROGRAMS[program](str(path))) as process:
            wait_until(lambda: open_in(process.pid, path), "it reads")
            os.killpg(process.pid, signal.SIGTERM if program == "handler" else signal.SIGINT)
            process.wait(SOON)
            assert process.returncode != 0
        assert other.poll() is None
        served.command("arrive waiting/000")
        out, _ = other.communicate(timeout=SECONDS)
    assert other.returncode == 0
    assert out == noise(0, SMALL_WAITER)[:4096]


def test_who_maps_a_file_on_which_another_hangs_can_be_killed(mounter: Mounter) -> None:
    """As one that is run is mapped; it waits for its page, not in mmap, where nothing would end it."""
    served = mounter("missing", "--impatient")
    path = str(served.point / "waiting" / "000")
    with started([sys.executable, "-c", READ_END, path, "0"]):
        blocked(served, 1)
        code = "import signal; signal.signal(signal.SIGINT, signal.SIG_DFL)\n" + MAP_END
        with started([sys.executable, "-c", code, path, str(OTHER_PAGE)]) as process:
            blocked(served, 2)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(SOON)
        served.command("arrive waiting/000")


@pytest.mark.parametrize("way", WAYS)
def test_a_mapped_file_lets_go_too(mounter: Mounter, way: tuple[str, ...]) -> None:
    """A handler runs while the program waits for a page of a mapped file; after a second signal the page fails.

    Python's own handler only makes a note. So the program goes back to the same page.
    """
    served = mounter("missing", *way)
    code = (
        "import mmap, os, signal, sys; file = os.open(sys.argv[1], os.O_RDONLY)\n"
        "mapped = mmap.mmap(file, 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)\n"
        "signal.signal(signal.SIGTERM, print); os.set_blocking(1, False); signal.set_wakeup_fd(1); mapped[OTHER]"
    ).replace("OTHER", str(OTHER_PAGE))
    with started([sys.executable, "-c", code, str(served.point / "waiting" / "000")]) as process:
        assert process.stdout is not None
        for _ in range(2):
            blocked(served, 1)
            os.killpg(process.pid, signal.SIGTERM)
            assert process.stdout.read(1) == bytes([signal.SIGTERM])
        process.wait(SOON)
        assert process.returncode == -signal.SIGBUS


@pytest.mark.parametrize("way", WAYS)
def test_signals_that_end_nothing_change_nothing(mounter: Mounter, way: tuple[str, ...]) -> None:
    """Stopped and continued, told of a child or of a larger window, a program goes on waiting and gets its bytes."""
    served = mounter("missing", *way)
    path = served.point / "waiting" / "000"
    code = (
        "import signal, sys\n"
        "for number in (signal.SIGCHLD, signal.SIGWINCH): signal.signal(number, lambda *_: None)\n"
        "sys.stdout.buffer.write(open(sys.argv[1], 'rb', buffering=0).read(4096))"
    )
    with started([sys.executable, "-c", code, str(path)]) as process:
        wait_until(lambda: open_in(process.pid, path), "it reads")
        for number in (signal.SIGWINCH, signal.SIGCHLD, signal.SIGTSTP):
            os.killpg(process.pid, number)
        time.sleep(1)
        os.killpg(process.pid, signal.SIGCONT)
        served.command("arrive waiting/000")
        out, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 0
    assert out == noise(0, SMALL_WAITER)[:4096]


@pytest.mark.parametrize("program", ["ls", "stat", "cat"])
def test_names_that_wait_let_go_too(mounter: Mounter, program: str) -> None:
    """The same while a listing, a lookup or an open waits for metadata."""
    served = mounter("missing")
    path = served.point if program == "ls" else served.point / "local.bin"
    if program == "cat":
        os.stat(path)
    served.command("hold")
    with started([program, str(path)]) as process:
        wait_until(lambda: served.waiting() >= 1, "it waits")
        os.killpg(process.pid, signal.SIGINT)
        process.wait(SOON)
        assert process.returncode == -signal.SIGINT
    served.command("free")


FIRST: dict[str, tuple[Sequence[str], Callable[[Served], bytes], int]] = {
    "opens": (["cat", "local.bin"], lambda served: served.tree.file("local.bin").content, 0),
    "asks": (["stat", "-c", "%s %F", "local.bin"], lambda served: b"2097152 regular file\n", 0),
    "goes further": (["stat", "-c", "%s %F", "waiting/000"], lambda served: b"300000 regular file\n", 0),
    "lists": (["ls", "waiting"], lambda served: b"".join(b"%03d\n" % number for number in range(WAITERS)), 0),
    "finds nothing": (["cat", "no such name"], lambda served: b"", 1),
}


@pytest.mark.parametrize("first", FIRST)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_who_waits_behind_the_lookup_of_another_is_let_go(mounter: Mounter, first: str, number: signal.Signals) -> None:
    """For the kernel one lookup of a name is enough, and others wait for it, deaf to everything; the first goes on."""
    served = mounter("missing")
    command, expected, code = FIRST[first]
    path = command[-1]
    waits = [sys.executable, "-c", "import os, sys; print(flush=True); os.stat(sys.argv[1])", str(served.point / path)]
    served.command("hold")
    with started([*command[:-1], str(served.point / path)]) as other:
        blocked(served, 1)
        for _ in range(2):
            with started(waits) as process:
                assert process.stdout is not None
                process.stdout.read(1)
                time.sleep(0.2)  # by now it waits
                os.killpg(process.pid, number)
                process.wait(SOON)
                assert process.returncode == -number
            assert other.poll() is None
        with started(waits) as late:  # with the name as it is now
            wait_until(lambda: served.waiting() >= 2, "it waits too")
            served.command("free")
            out, _ = other.communicate(timeout=SECONDS)
            late.communicate(timeout=SECONDS)
            assert late.returncode == code
    assert (out, other.returncode) == (expected(served), code)
    assert os.stat(served.point / "local.bin").st_size == 2 * 1024 * 1024


def test_who_goes_on_waiting_waits_no_longer_for_it(mounter: Mounter) -> None:
    """That others were let go costs a program none of its time, and gives it no more."""
    served = mounter("missing", "--timeout", "3")
    served.command("hold")
    path = str(served.point / "local.bin")
    with started([sys.executable, "-c", "import os, sys; os.stat(sys.argv[1])", path]) as other:
        began = time.monotonic()
        blocked(served, 1)
        with started(["stat", path]) as process:
            time.sleep(0.5)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(SOON)
        other.wait(SECONDS)
        assert other.returncode == 1
        assert 2.5 < time.monotonic() - began < 5
    served.command("free")


def test_names_of_one_folder_do_not_wait_for_each_other(mounter: Mounter) -> None:
    """Each waits for its own time, and is let go by itself, also beside a listing of the folder."""
    served = mounter("missing", "--timeout", "4")
    os.stat(served.point)
    served.command("hold")
    began = time.monotonic()
    with (
        started(["ls", str(served.point)]) as listing,
        started(["stat", str(served.point / "local.bin")]) as first,
        started(["stat", str(served.point / "corrupt.bin")]) as second,
    ):
        blocked(served, 3)
        os.killpg(second.pid, signal.SIGKILL)
        second.wait(SOON)
        assert (listing.poll(), first.poll()) == (None, None)
        for process, code in ((listing, 2), (first, 1)):
            assert process.wait(SECONDS) == code
    assert time.monotonic() - began < 7
    served.command("free")


def test_who_waits_for_the_lock_of_a_folder_is_let_go(mounter: Mounter) -> None:
    """A listing that waits holds it, and who wants to make something there waits for it, deaf to everything."""
    served = mounter("missing")
    served.command("hold")
    with started(["ls", str(served.point)]) as listing:
        blocked(served, 1)
        with started(["touch", str(served.point / "new")]) as process:
            time.sleep(0.5)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(SOON)
            assert process.returncode == -signal.SIGKILL
        assert listing.poll() is None
        served.command("free")
        out, _ = listing.communicate(timeout=SECONDS)
    assert listing.returncode == 0
    assert sorted(out.split()) == sorted(os.fsencode(name) for name in os.listdir(served.point))


QUESTION = struct.pack("=IIQQIIII", 104, 26, 2, 0, 0, 0, 0, 0) + struct.pack("=IIII", 7, 45, 0, 0x73FFFFFB)
ANSWER = struct.pack("=IiQ", 80, 0, 2) + struct.pack("=IIII", 7, 31, 131072, 0x4040B039) + bytes(48)


@pytest.mark.parametrize(
    ("question", "answer", "changed"),
    [
        (QUESTION, ANSWER, {30: 0x44}),
        (QUESTION[:-4] + bytes(4), ANSWER, {}),  # the kernel does not know of it
        (QUESTION[:4] + bytes([27]) + QUESTION[5:], ANSWER, {}),  # another question
        (QUESTION, ANSWER[:16], {}),  # an error
    ],
)
def test_what_is_agreed_on_with_the_kernel(question: bytes, answer: bytes, changed: dict[int, int]) -> None:
    """One bit of the answer to INIT is set, if the kernel has offered it; everything else is as pyfuse3 has it."""
    found = fuse_session.with_parallel_dirops(question, answer)
    assert found == bytes(changed.get(place, byte) for place, byte in enumerate(answer))


def test_a_request_that_is_withdrawn_holds_up_nothing(mounter: Mounter) -> None:
    """The kernel says that there is one; it is gone when we read, since its program was killed. Others are answered."""
    served = mounter("standard", "--withdrawn")
    for name in sorted(os.listdir(served.point)):
        os.stat(served.point / name)
        served.command("free")  # it is not the next request that goes on with it
    assert (served.point / "docs" / "guide.md").read_bytes() == b"# guide\n" * 1000


def test_an_answer_to_a_withdrawn_request_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    """After an abort there is nobody to answer, and pyfuse3 says so as if it were a failure; others are."""
    logger = logging.getLogger("pyfuse3")
    said = "fuse_read(): fuse_reply_* failed with %s"
    with fuse_session.without_withdrawn():
        logger.error(said, os.strerror(errno.ENOENT))
        logger.error(said, os.strerror(errno.EINVAL))
        logger.error("something else")
    logger.error(said, os.strerror(errno.ENOENT))
    assert [record.getMessage().rpartition(" ")[2] for record in caplog.records] == ["argument", "else", "directory"]


def open_in(group: int, path: Path) -> bool:
    """Whether a program of the process group has the file open, and has had the time to ask for its bytes."""
    for at in Path("/proc").glob("[0-9]*"):
        try:
            if os.getpgid(int(at.name)) == group and any(os.readlink(fd) == str(path) for fd in (at / "fd").iterdir()):
                time.sleep(0.2)
                return True
        except OSError:
            continue  # it has ended
    return False
