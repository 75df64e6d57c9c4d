"""Path indexes that are made from the one before are those of the plain algorithm, which asks every sibling."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from datfs.index_builder import IndexBuilder
from datfs.metadata import Path, Record, encode_indexed, name_of
from tests.memory_drive import A_FILE, MemoryDrive, p

NAMES = ("/a", "/b", "/a/b", "/a/c", "/a/b/c", "/a/b/d/e", "/d/x/1", "/d/x/2", "/d/y", "/d/z/1/1", "/d")


class Both:
    """One drive, written by the builder, with the plain algorithm's opinion of each step."""

    def __init__(self) -> None:
        self.drive = MemoryDrive()
        self.asked = 0
        self.builder = IndexBuilder(self._record)
        self.live: set[Path] = set()

    def _record(self, seq: int) -> Record:
        self.asked += 1
        return self.drive.record(seq)

    def put(self, path: Path) -> None:
        """Puts a file; both must make the same chunk."""
        seq = len(self.drive.chunks)
        index = self.builder.put(self.drive.version, seq, path)
        self.drive.put(path)
        assert self.drive.chunks[seq] == encode_indexed(name_of(path), A_FILE, index)
        self.live.add(path)

    def delete(self, path: Path) -> None:
        """Deletes a file; both must make the same chunk, but where the plain algorithm forgets something."""
        seq = len(self.drive.chunks)
        chunk = encode_indexed(name_of(path), None, self.builder.delete(self.drive.version, seq, path))
        self.drive.delete(path)
        self.live.discard(path)
        if self.drive.chunks[seq] != chunk:
            plain, forgotten = self.drive.record(seq), self.shown() != self.live
            self.drive.chunks[seq] = chunk
            self.drive.forget_decoded()
            ours = self.drive.record(seq)
            assert forgotten or len(ours.lists) > len(plain.lists)
        assert self.shown() == self.live

    def shown(self) -> set[Path]:
        """The paths that have an entry, by walking."""
        return {path for path in map(p, NAMES) if self.builder.find(self.drive.version, path) is not None}


@settings(max_examples=150)
@given(st.lists(st.tuples(st.sampled_from(NAMES), st.booleans()), min_size=1, max_size=25))
def test_the_lists_are_those_of_the_plain_algorithm(steps: list[tuple[str, bool]]) -> None:
    """After any puts and deletions, in any order."""
    both = Both()
    for name, delete in steps:
        path = p(name)
        if delete and path in both.live:
            both.delete(path)
        else:
            both.put(path)


def test_large_numbers() -> None:
    """Elements whose differences take several bytes are taken out and put back anywhere in a list."""
    both = Both()
    for number in range(400):
        both.put((b"other", b"%d" % (number % 3)))
        if number % 40 == 0:
            both.put((b"a", b"%d" % number))
    for number in (80, 0, 360, 200, 80):
        both.put((b"a", b"%d" % number))
    for number in (160, 0, 360):
        seq = len(both.drive.chunks)
        index = both.builder.delete(both.drive.version, seq, (b"a", b"%d" % number))
        both.drive.delete((b"a", b"%d" % number))
        assert both.drive.chunks[seq] == encode_indexed(b"/a/%d" % number, None, index)


def test_one_more_file_asks_for_nothing() -> None:
    """However many names a directory has: no record of them is decoded for the next one."""
    both = Both()
    for number in range(50):
        both.put((b"d", b"%d" % number))
    assert both.asked == 0


def test_entries_that_somebody_else_wrote() -> None:
    """A builder that knows nothing yet goes on with any drive."""
    both = Both()
    for name in NAMES:
        both.put(p(name))
    both.delete(p("/a/c"))
    for name in NAMES:
        other = Both()
        other.drive, other.live = both.drive, set(both.live)
        other.put(p(name))
        both.live.add(p(name))
