"""Inode numbers and lookup counts: exact, the same for the same thing, never wrong in silence."""

from __future__ import annotations

import errno
import random

import pytest

from datfs import inodes
from datfs.inodes import ROOT_NUMBER, InodeTable, LookupCountError
from datfs.slot_index import SlotIndex
from datfs.vfs import Entry, Kind


def directory(*path: bytes, mtime_ns: int = 1) -> Entry:
    return Entry(path, Kind.DIRECTORY, 0, 0o755, mtime_ns, 1, (path, 0))


def file(*path: bytes, version: int = 1) -> Entry:
    return Entry(path, Kind.FILE, 10, 0o644, 1, 1, (path, version))


def take(table: InodeTable, entry: Entry) -> int:
    number = table.number_of(entry)
    table.taken(number, entry)
    return number


def test_the_root_is_number_one_and_never_goes() -> None:
    """The root is there before any lookup and stays whatever the kernel gives back."""
    table = InodeTable(directory())
    assert table.entry(ROOT_NUMBER) == directory()
    take(table, directory())
    table.forget(ROOT_NUMBER, 99)
    assert table.entry(ROOT_NUMBER) == directory()
    assert table.count(ROOT_NUMBER) == 0


def test_the_same_content_keeps_its_number_while_the_kernel_knows_it() -> None:
    """Two lookups of one version give one number and two references."""
    table = InodeTable(directory())
    number = take(table, file(b"a"))
    assert take(table, file(b"a")) == number
    assert table.count(number) == 2
    table.forget(number, 1)
    assert table.entry(number) == file(b"a")


def test_another_version_is_another_number() -> None:
    """A changed file never shares the pages the kernel keeps for the old one."""
    table = InodeTable(directory())
    old, new = take(table, file(b"a", version=1)), take(table, file(b"a", version=2))
    assert old != new
    assert table.entry(old) == file(b"a", version=1)


def test_a_directory_keeps_its_number_when_its_times_change() -> None:
    """Directories are their paths; the newest entry is the one that counts."""
    table = InodeTable(directory())
    number = take(table, directory(b"d", mtime_ns=1))
    assert take(table, directory(b"d", mtime_ns=2)) == number
    assert table.entry(number).mtime_ns == 2


def test_a_file_and_a_directory_of_one_path_are_two() -> None:
    """A path that turned from directory to file gets another number even if the identities are equal."""
    table = InodeTable(directory())
    as_file = Entry((b"x",), Kind.FILE, 1, 0o644, 1, 1, ((b"x",), 0))
    assert take(table, directory(b"x")) != take(table, as_file)


ODD = Entry((b"odd",), Kind.FILE, -1, 0o107777, -5, 2**70, ((b"x", None), -3))
FAR = Entry((b"far",), Kind.FILE, 1, 0o644, 1, 1, (b"key", 2**60))


@pytest.mark.parametrize("entry", [file(b"a"), file(b"a", version=2**32 - 1), directory(b"d"), directory(b"d", b"e")])
def test_what_comes_back_has_the_number_it_had(entry: Entry) -> None:
    """A number that the kernel forgot says nothing, and is that of the same thing again; other tables give it too."""
    table = InodeTable(directory())
    number = take(table, entry)
    table.forget(number, 1)
    with pytest.raises(OSError) as caught:
        table.entry(number)
    assert caught.value.errno == errno.ESTALE
    others = [take(table, other(b"d", b"%d" % at)) for at in range(50) for other in (file, directory)]
    assert take(table, entry) == number
    assert len({number, *others}) == 101
    assert table.entry(number) == entry
    assert take(InodeTable(directory()), entry) == number


@pytest.mark.parametrize("entry", [ODD, FAR])
def test_a_file_whose_figures_do_not_fit_gets_a_fresh_number(entry: Entry) -> None:
    """Each time that it comes back, as nothing could be made of its figures, and what was forgotten is nobody's."""
    table = InodeTable(directory())
    numbers = []
    for _ in range(3):
        numbers.append(take(table, entry))
        assert take(table, entry) == numbers[-1]
        table.forget(numbers[-1], 2)
    assert len(set(numbers)) == 3


def test_directories_whose_hashes_are_equal_are_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """A drive can have names that were looked for; then the second one gets the next number."""

    class Same:
        def __init__(self, path: bytes, digest_size: int) -> None:
            self.size = digest_size

        def digest(self) -> bytes:
            return b"\xff" * self.size

    monkeypatch.setattr(inodes, "blake2b", Same)
    table = InodeTable(directory())
    names = [directory(b"%d" % at) for at in range(20)]
    numbers = [take(table, entry) for entry in names]
    assert len(set(numbers)) == 20
    assert [table.entry(number) for number in numbers] == names
    assert max(numbers) < 2**53
    table.forget(numbers[0], 1)
    assert take(table, directory(b"other")) == numbers[0]
    assert table.number_of(names[0]) not in numbers


def test_files_of_too_many_sources_still_have_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their own, as long as the kernel knows them."""
    monkeypatch.setattr(inodes, "_SOURCES_MOST", 3)
    table = InodeTable(directory())
    files = [Entry((b"a",), Kind.FILE, 10, 0o644, 1, 1, (b"%d" % at, 7)) for at in range(9)]
    numbers = [take(table, entry) for entry in files]
    assert len(set(numbers)) == 9
    assert [take(table, entry) for entry in files] == numbers
    assert [table.entry(number) for number in numbers] == files


def test_a_number_that_was_not_taken_leaves_nothing() -> None:
    """An entry that did not fit the kernel's buffer costs no memory."""
    table = InodeTable(directory())
    table.number_of(file(b"a"))
    assert len(table) == 1


@pytest.mark.parametrize("references", [0, -1, 3])
def test_a_wrong_count_is_refused(references: int) -> None:
    """Giving back none, less than none or more than there are raises and changes nothing."""
    table = InodeTable(directory())
    number = take(table, file(b"a"))
    take(table, file(b"a"))
    with pytest.raises(LookupCountError):
        table.forget(number, references)
    assert table.count(number) == 2


def test_forgetting_the_unknown_is_refused() -> None:
    """A number the kernel does not have cannot be given back."""
    with pytest.raises(LookupCountError):
        InodeTable(directory()).forget(77, 1)


def test_a_number_cannot_be_taken_for_something_else() -> None:
    """Telling the kernel one number for two entries is a bug and is caught."""
    table = InodeTable(directory())
    number = take(table, file(b"a"))
    with pytest.raises(LookupCountError):
        table.taken(number, file(b"b"))


def test_counts_follow_a_plain_model() -> None:
    """Whatever the order of lookups and forgets, the table holds exactly what the kernel holds."""
    chance = random.Random(5)
    table = InodeTable(directory())
    held: dict[int, int] = {}
    for _ in range(3000):
        if held and chance.random() < 0.5:
            number = chance.choice(sorted(held))
            references = chance.randint(1, held[number])
            table.forget(number, references)
            held[number] -= references
            if not held[number]:
                del held[number]
        else:
            number = take(table, file(b"%d" % chance.randrange(20)))
            held[number] = held.get(number, 0) + 1
        assert len(table) == len(held) + 1
    assert all(table.count(number) == count for number, count in held.items())


@pytest.mark.parametrize(
    "entry",
    [
        Entry((b"a", b"\xffb"), Kind.FILE, 10, 0o644, 10**18, 10**18, (b"key", 7)),
        Entry((b"other-ctime",), Kind.FILE, 2**32 - 1, 0o777, 10**18, 5, (b"key", 2**32 - 1)),
        Entry((b"large",), Kind.FILE, 2**32, 0o644, 1, 1, (b"key", 7)),
        FAR,
        ODD,
    ],
    ids=lambda entry: entry.name.decode("ascii", "replace"),
)
def test_a_file_is_given_back_as_it_was(entry: Entry) -> None:
    """Whatever its figures are, what the kernel was told a number for comes out again, under the same number."""
    table = InodeTable(directory())
    number = take(table, entry)
    assert table.entry(number) == entry
    assert table.number_of(entry) == number
    table.forget(number, 1)
    assert len(table) == 1


@pytest.mark.parametrize("later", [(b"d", b"a"), (b"xa",), (b"a" * 255,)])
def test_a_file_is_where_it_was_seen_last(later: tuple[bytes, ...]) -> None:
    """A content that a tree shows at two paths has one number, and the path that it was looked up at last."""
    table = InodeTable(directory())
    first = Entry((b"a",), Kind.FILE, 10, 0o644, 1, 1, (b"key", 7))
    second = Entry(later, Kind.FILE, 10, 0o644, 1, 1, (b"key", 7))
    number = take(table, first)
    for entry in (second, first):
        assert take(table, entry) == number
        assert table.entry(number) == entry


def test_what_the_kernel_forgot_leaves_room() -> None:
    """However many files come and go, none takes memory that the kernel does not know."""
    table = InodeTable(directory())
    chance = random.Random(3)
    live: dict[int, Entry] = {}
    given: dict[int, Entry] = {}
    for turn in range(5000):
        entry = [file, directory, lambda *path: Entry(path, Kind.FILE, 1, 0, 1, 1, (b"far", 2**40 + len(given)))][
            turn % 3
        ](b"d%d" % (turn % 7), b"%d" % turn)
        number = take(table, entry)
        assert given.setdefault(number, entry) == entry
        live[number] = entry
        if len(live) > 50:
            gone = chance.choice(list(live))
            table.forget(gone, 1)
            del live[gone]
            with pytest.raises(OSError):
                table.entry(gone)
    assert len(given) == 5000
    assert len(table) == len(live) + 1
    assert {number: table.entry(number) for number in live} == live


def test_the_index_of_slots_is_a_dict() -> None:
    """Adding and removing in any order, it finds what a dict finds."""
    index, model = SlotIndex(), dict[tuple[bytes, int], int]()
    chance = random.Random(8)
    for slot in range(1, 3000):
        identity = (chance.choice([b"a", b"b"]), chance.choice([chance.randrange(100), 2**60 + chance.randrange(100)]))
        if identity in model:
            index.remove(identity)
            del model[identity]
            with pytest.raises(KeyError):
                index.remove(identity)
        else:
            index.add(identity, slot)
            model[identity] = slot
        assert index.find(identity) == model.get(identity, 0)
        assert len(index) == len(model)
    assert all(index.find(identity) == slot for identity, slot in model.items())
