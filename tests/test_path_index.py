"""Walks through the path index (drive.md sections 3 to 5 and 8 to 10)."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datfs import drive_pb2, path_index
from datfs.errors import BadMetadata
from datfs.metadata import Path, Stat, components, decode_header, encode_record, encode_stat, name_of, path_of
from datfs.path_index import EXPLICIT_SEARCH_ALL, EXPLICIT_SEARCH_FIRST, Child, Found
from tests import plain_lists
from tests.memory_drive import A_DIRECTORY, A_FILE, VECTORS, MemoryDrive, outcome, p, vector_drive

SEQUENCES: list[dict[str, Any]] = json.loads((VECTORS / "append-tree.json").read_text())
DRIVES = ["empty", "simple", "deep", "history", "modes", "unicode", "zero-length"]
A_PRIVATE_DIRECTORY = encode_stat(Stat(0o040700))


def replayed(sequence: dict[str, Any]) -> MemoryDrive:
    """The entries of a sequence as the reference encoded them."""
    drive = MemoryDrive()
    drive.chunks += [bytes.fromhex(entry["encoded"]) for entry in sequence["entries"]]
    return drive


def names(drive: MemoryDrive, directory: str, version: int | None = None) -> list[str]:
    """The names that a file system shows in a directory, sorted."""
    head = drive.version if version is None else version
    return sorted(child.name.decode() for child in drive.walk(path_index.child_entries, head, p(directory)))


def found_as(drive: MemoryDrive, child: Child) -> Found:
    """What :func:`path_index.stat_path` has to find where a listing shows this."""
    return Found(child.kind, drive.record(child.seq) if child.seq else None, child.newest, child.dated)


def kind(drive: MemoryDrive, path: str) -> str | None:
    """What ``path`` is in the newest version."""
    found = drive.walk(path_index.stat_path, drive.version, p(path))
    return None if found is None else found.kind


# --- what the reference wrote


@pytest.mark.parametrize("sequence", SEQUENCES, ids=lambda sequence: sequence["name"])
def test_sequences_are_written_as_by_the_reference(sequence: dict[str, Any]) -> None:
    """Each put and each deletion gives the reference's bytes and lists."""
    drive = MemoryDrive()
    for entry in sequence["entries"]:
        path = path_of(entry["path"])
        seq = drive.put(path, entry["value"].encode()) if entry["op"] == "put" else drive.delete(path)
        assert seq == entry["seq"]
        assert drive.chunks[seq].hex() == entry["encoded"]
        assert [list(numbers) for numbers in drive.record(seq).lists] == entry["children"]


@pytest.mark.parametrize("sequence", SEQUENCES, ids=lambda sequence: sequence["name"])
def test_views_are_read_as_by_the_reference(sequence: dict[str, Any]) -> None:
    """In each version given, every path gives the same value and the same names, and others give nothing."""
    drive = replayed(sequence)
    paths = {entry["path"] for entry in sequence["entries"]}
    for view in sequence["views"]:
        for path in paths | set(view["get"]) | set(view["list"]):
            record = drive.walk(path_index.get, view["version"], p(path))
            assert (record and record.value) == (view["get"][path].encode() if path in view["get"] else None)
            children = drive.walk(path_index.list_children, view["version"], p(path))
            assert sorted(name.decode() for name in children) == view["list"].get(path, [])


def test_worked_sequence_of_the_specification() -> None:
    """The table of drive.md section 3, row by row."""
    rows = [
        ("put", "/a", "010000"),
        ("put", "/b", "01010100"),
        ("put", "/d/x", "010201010000"),
        ("put", "/d/y", "01020101010300"),
        ("put", "/d/e/f/g", "01020101020301000000"),
        ("put", "/a", "0102020300"),
        ("put", "/d", "0102020403030101"),
        ("del", "/b", "00020601"),
        ("del", "/d/e/f/g", "0002060303030103"),
        ("del", "/d/x", "00020604020403"),
        ("del", "/d/y", "000206050107"),
        ("del", "/d", "000106"),
        ("del", "/nope", "000106"),
        ("del", "/a", "0000"),
    ]
    drive = MemoryDrive()
    for operation, path, index in rows:
        seq = drive.put(p(path)) if operation == "put" else drive.delete(p(path))
        assert (seq, drive.record(seq).index.hex()) == (seq, index)
    assert names(drive, "/", 7) == ["a", "b", "d"]
    assert names(drive, "/d", 7) == ["e", "x", "y"]
    assert names(drive, "/", 11) == ["a", "d"]
    assert [names(drive, "/", version) for version in (12, 13, 14)] == [["a"], ["a"], []]


@pytest.mark.parametrize("name", DRIVES)
def test_history_of_drives(name: str) -> None:
    """Header and records, decoded in order, are the history that the reference tells."""
    manifest = json.loads((VECTORS / "drives" / f"{name}.json").read_text())
    drive = vector_drive(name)
    assert decode_header(drive.chunks[0]).content_key.hex() == manifest["contentKey"]
    assert drive.version == manifest["version"] == len(manifest["history"])
    for change in manifest["history"]:
        record = drive.record(change["version"])
        assert name_of(record.path).decode() == change["path"]
        assert (record.value is None) == (change["type"] == "del")
        assert (change.get("stat") is None) == (record.stat is None)
        if (stat := record.stat) is not None:
            for field, value in change["stat"].items():
                assert getattr(stat, "byte_offset" if field == "byteOffset" else field) == value


@pytest.mark.parametrize("name", DRIVES)
def test_drives_are_written_as_by_the_reference(name: str) -> None:
    """Doing the history of a drive again gives the same chunks, attributes included."""
    original, copy = vector_drive(name), MemoryDrive()
    for seq in range(1, original.version + 1):
        record = original.record(seq)
        if record.value is None:
            copy.delete(record.path)
        else:
            assert record.stat is not None
            assert encode_stat(record.stat) == record.value
            copy.put(record.path, record.value)
    assert copy.chunks[1:] == original.chunks[1:]


@pytest.mark.parametrize("name", DRIVES)
def test_trees_of_drives(name: str) -> None:
    """Listing from the root downwards gives the reference's files, with their attributes, and nothing else.

    Links and fifos, which the reference calls files, are hidden.
    """
    manifest = json.loads((VECTORS / "drives" / f"{name}.json").read_text())
    drive = vector_drive(name)
    expected = {
        path_of(entry["path"]): entry
        for entry in manifest["files"]
        if "mode" not in entry or Stat(entry["mode"]).kind is not None
    }
    tree = drive.tree(drive.version)
    assert tree.keys() == expected.keys()
    for path, child in tree.items():
        entry = expected[path]
        assert child.kind == entry["type"]
        assert bool(child.seq) == entry["explicit"]
        if child.seq:
            stat = child.stat
            assert stat is not None
            assert (stat.mode, stat.size, stat.mtime) == (entry["mode"], entry["size"], entry["mtime"])
        found = drive.walk(path_index.stat_path, drive.version, path)
        assert found == found_as(drive, child)


def test_older_versions_of_a_drive() -> None:
    """Each version shows what the reference's checkout shows."""
    manifest = json.loads((VECTORS / "drives" / "history.json").read_text())
    drive = vector_drive("history")
    assert manifest["checkouts"]
    for version, files in manifest["checkouts"].items():
        tree = drive.tree(int(version))
        assert {name_of(path).decode(): child.kind for path, child in tree.items()} == {
            entry["path"]: entry["type"] for entry in files
        }


# --- a model: a dict from path to the number of the entry


NAMES = (b"a", b"b", b"c")
PATHS: list[Path] = [()] + [(x, *rest) for x in NAMES for rest in [(), *((y,) for y in NAMES), (b"a", b"b")]]
Version = dict[Path, int]


def forgets(drive: MemoryDrive, path: Path, live: Version) -> bool:
    """Whether deleting ``path`` loses more than that: see test_deletion_that_forgets_a_directory."""
    others = [other for other in live if other != path]
    if not others:
        return False
    depth = max(n for n in range(len(path) + 1) if any(other[:n] == path[:n] for other in others))
    level = drive.walk(path_index.list_index, drive.version, path[:depth])
    entries = [drive.record(seq) for seq in level]
    return not any(entry.value is not None and entry.path != path for entry in entries)


def grow(data: st.DataObject, operations: int) -> tuple[MemoryDrive, list[Version]]:
    """A drive of random changes, and what is live in each of its versions."""
    drive, versions = MemoryDrive(), [dict[Path, int]()]
    for _ in range(operations):
        live = dict(versions[-1])
        path = data.draw(st.sampled_from(PATHS))
        value = data.draw(st.sampled_from([A_FILE, A_FILE, A_DIRECTORY, A_PRIVATE_DIRECTORY, None, None]))
        if value is not None:
            live[path] = drive.put(path, value)
        elif drive.version and not forgets(drive, path, live):
            drive.delete(path)
            live.pop(path, None)
        else:
            continue
        versions.append(live)
    return drive, versions


def expected_found(drive: MemoryDrive, live: Version, path: Path) -> tuple[str, int | None] | None:
    """Kind and number of the entry to show for a path."""
    own = drive.record(live[path]) if path in live else None
    stat = own.stat if own is not None else None
    made = own.seq if own is not None and stat is not None and stat.kind == "directory" else None
    if not path or made is not None or any(other[: len(path)] == path != other for other in live):
        return "directory", made
    return ("file", own.seq) if own is not None else None


@settings(max_examples=60)
@given(st.data())
def test_every_version_is_what_a_dict_says(data: st.DataObject) -> None:
    """get, listings and stat of every path in every version, after random puts, mkdirs and deletions."""
    drive, versions = grow(data, data.draw(st.integers(1, 16)))
    for version, live in enumerate(versions):
        for path in [*PATHS, (b"a", b"a", b"a"), (b"z",)]:
            record = drive.walk(path_index.get, version, path)
            assert (record and record.seq) == live.get(path)
            found = drive.walk(path_index.stat_path, version, path)
            expected = expected_found(drive, live, path)
            assert (found and (found.kind, found.record and found.record.seq)) == expected
            children = {other[len(path)] for other in live if len(other) > len(path) and other[: len(path)] == path}
            assert drive.walk(path_index.list_children, version, path).keys() == children
        tree = drive.tree(version)
        shown = {path[:depth] for path in live for depth in range(1, len(path) + 1)}
        assert tree.keys() == shown
        for path, child in tree.items():
            assert (child.kind, child.seq or None) == expected_found(drive, live, path)


@settings(max_examples=60)
@given(st.data())
def test_differences_between_any_two_versions(data: st.DataObject) -> None:
    """A del for each entry of the first version only, a put for each of the second only, either way round."""
    drive, versions = grow(data, data.draw(st.integers(1, 16)))
    old = data.draw(st.integers(0, drive.version))
    new = data.draw(st.integers(0, drive.version))
    changes = drive.walk(path_index.diff, old, new)
    deleted = versions[old].items() - versions[new].items()
    put = versions[new].items() - versions[old].items()
    expected = sorted([("del", *item) for item in deleted] + [("put", *item) for item in put])
    assert sorted((change.kind, change.path, change.record.seq) for change in changes) == expected
    for first, second in pairwise(changes):
        assert not (first.path == second.path and first.kind == "put"), "a replaced entry is deleted first"


def test_deletion_that_forgets_a_directory() -> None:
    """When only a deletion stands for the rest of a directory, deleting the last plain entry loses that rest.

    append-tree 2.4.4 does so too: these are its bytes.
    """
    drive = MemoryDrive()
    for path in ("/d/x/1", "/d/x/2", "/d/y"):
        drive.put(p(path))
    drive.delete(p("/d/x/1"))
    assert names(drive, "/d/x") == ["2"]
    drive.delete(p("/d/y"))
    assert drive.record(5).lists == ((),)
    assert names(drive, "/") == []
    assert kind(drive, "/d/x/2") is None


def test_deletion_in_a_drive_without_entries_writes_nothing() -> None:
    """There is nothing to append, as in the reference."""
    assert MemoryDrive().walk(plain_lists.delete_lists, 0, 1, p("/a")) is None


# --- directories and files


def test_the_empty_drive() -> None:
    """Version 0 has a root, and nothing in it; no chunk is asked for."""
    drive = MemoryDrive()
    assert drive.walk(path_index.stat_path, 0, ()) == Found("directory", None, 0, 0)
    assert drive.walk(path_index.child_entries, 0, ()) == []
    assert drive.walk(path_index.get, 0, p("/a")) is None
    assert drive.walk(path_index.stat_path, 0, p("/a")) is None
    assert {seq for batch in drive.batches for seq in batch} == set()


@pytest.mark.parametrize("order", [("/d", "/d/x"), ("/d/x", "/d")])
def test_a_directory_wins_over_a_file(order: tuple[str, str]) -> None:
    """A value on a path that has others below does not hide them, whichever came first."""
    drive = MemoryDrive()
    for path in order:
        drive.put(p(path))
    (child,) = drive.walk(path_index.child_entries, 2, ())
    assert (child.kind, child.seq, child.stat) == ("directory", 0, None)
    assert kind(drive, "/d") == "directory"
    assert names(drive, "/d") == ["x"]
    drive.delete(p("/d/x"))
    assert kind(drive, "/d") == "file"


def test_deleting_below_a_file_leaves_a_file() -> None:
    """A deletion below a path that exists is no sign that there is a directory."""
    drive = MemoryDrive()
    drive.put(p("/a"))
    drive.delete(p("/a/nothing"))
    assert kind(drive, "/a") == "file"
    assert [(child.name, child.kind) for child in drive.walk(path_index.child_entries, 2, ())] == [(b"a", "file")]


@pytest.mark.parametrize("many", [3, 30])
def test_a_directory_in_which_something_was_deleted_has_a_time(many: int) -> None:
    """That of the newest entry that is left: a deletion tells none. A few chunks more are asked for at most."""
    drive = MemoryDrive()
    for number in range(many):
        drive.put(p(f"/d/{number}"))
    drive.put(p("/e"))
    newest = drive.delete(p("/d/1"))
    for path in ("/", "/d"):
        found = drive.walk(path_index.stat_path, newest, p(path))
        assert found is not None
        assert (found.newest, found.dated) == (newest, many + 1 if path == "/" else many)
        assert len(drive.batches[-1]) <= path_index.EXPLICIT_SEARCH_ALL + path_index.TIMES_SEARCHED
    children = {child.name: child for child in drive.walk(path_index.child_entries, newest, ())}
    assert (children[b"d"].newest, children[b"d"].dated) == (newest, many)
    assert (children[b"e"].newest, children[b"e"].dated) == (many + 1, many + 1)


def test_a_value_on_the_root_is_no_file() -> None:
    """The root stays a directory, with the mode of a mkdir if there was one."""
    drive = MemoryDrive()
    drive.put((), A_FILE)
    drive.put(p("/a"))
    assert drive.walk(path_index.stat_path, 2, ()) == Found("directory", None, 2, 2)
    assert names(drive, "/") == ["a"]
    made = drive.put((), A_PRIVATE_DIRECTORY)
    found = drive.walk(path_index.stat_path, made, ())
    assert found is not None
    assert found.record == drive.record(made)


@pytest.mark.parametrize("mode", [0o120777, 0o140777, 0o010644, 0o060600, 0o000644])
def test_other_types_are_hidden(mode: int) -> None:
    """Links, sockets, fifos, devices, modes without a type: neither listed nor found, though recorded."""
    drive = MemoryDrive()
    drive.put(p("/odd"), encode_stat(Stat(mode)))
    drive.put(p("/plain"))
    assert names(drive, "/") == ["plain"]
    assert kind(drive, "/odd") is None
    assert drive.walk(path_index.get, 2, p("/odd")) is not None


def test_mkdir_is_found_among_many_children_if_it_came_first() -> None:
    """In a large sub-directory only the oldest entries are looked at, and no more than that is fetched."""
    drive = MemoryDrive()
    drive.put(p("/first"), A_PRIVATE_DIRECTORY)
    for directory in ("first", "last"):
        for number in range(EXPLICIT_SEARCH_ALL + 10):
            drive.put((directory.encode(), str(number).encode()))
    drive.put(p("/last"), A_PRIVATE_DIRECTORY)
    drive.put(p("/last/more"))
    children = {child.name: child for child in drive.walk(path_index.child_entries, drive.version, ())}
    first, last = children[b"first"], children[b"last"]
    assert (first.kind, first.seq, first.stat) == ("directory", 1, drive.record(1).stat)
    assert (last.kind, last.seq) == ("directory", 0)
    assert len(drive.batches[-1]) == 2 * EXPLICIT_SEARCH_FIRST
    for name, child in children.items():
        found = drive.walk(path_index.stat_path, drive.version, (name,))
        assert found == found_as(drive, child)


# --- batches


def test_a_lookup_takes_one_batch_for_each_level() -> None:
    """The chunks of a level are asked for all at once, and only those on the way."""
    drive = MemoryDrive()
    for directory in range(10):
        for name in range(10):
            drive.put((b"top", b"d%d" % directory, b"f%d" % name))
    drive.put(p("/other"))
    drive.walk(path_index.get, drive.version, p("/top/d3/f7"))
    assert [len(batch) for batch in drive.batches] == [1, 1, 9, 9]
    drive.walk(path_index.get, drive.version, p("/nothing/at/all"))
    assert [len(batch) for batch in drive.batches] == [1, 1]


def test_a_listing_takes_one_batch_for_all_sub_directories() -> None:
    """Attributes of all children need one batch after their names, however many there are."""
    drive = MemoryDrive()
    for directory in range(10):
        for name in range(5):
            drive.put((b"d%d" % directory, b"f%d" % name))
    children = drive.walk(path_index.child_entries, drive.version, ())
    assert len(children) == 10
    assert [len(batch) for batch in drive.batches] == [1, 10, 40]
    drive.walk(path_index.child_entries, drive.version, p("/d5"))
    assert [len(batch) for batch in drive.batches] == [1, 9, 5, 0]


def test_differences_do_not_fetch_what_is_equal() -> None:
    """Sub-trees that are the same in both versions are not visited."""
    drive = MemoryDrive()
    for directory in range(10):
        for name in range(10):
            drive.put((b"d%d" % directory, b"f%d" % name))
    drive.put(p("/d3/f3"))
    (deleted, put) = drive.walk(path_index.diff, 100, 101)
    assert (deleted.kind, deleted.path, deleted.record.seq) == ("del", p("/d3/f3"), 34)
    assert (put.kind, put.path, put.record.seq) == ("put", p("/d3/f3"), 101)
    assert {seq for batch in drive.batches for seq in batch} == {100, 101, 40, 34}


# --- hostile drives


@pytest.mark.parametrize(
    "name", [b"/../../etc/passwd", b"/./x", b"//x", b"/a\0b", b"/" + b"x" * 256, b"/..", b"../x", b"/\0/y"]
)
def test_invalid_names_are_hidden(name: bytes) -> None:
    """Such an entry is neither listed nor found, and its neighbours are."""
    drive = MemoryDrive()
    drive.put(p("/good"))
    drive.append(name, A_FILE, drive.walk(plain_lists.put_lists, 1, 2, components(name)))
    drive.put(p("/dir/good"))
    for version in (2, 3):
        assert "good" in names(drive, "/", version)
        assert set(names(drive, "/", version)) <= {"good", "dir"}
        for depth in range(1, len(components(name)) + 1):
            assert drive.walk(path_index.stat_path, version, components(name)[:depth]) is None
    assert names(drive, "/dir") == ["good"]


@pytest.mark.parametrize("name", [b"/dir/../../x", b"/dir//y", b"/dir/."])
def test_invalid_names_deeper_down_hide_nothing_else(name: bytes) -> None:
    """A directory whose newest entry is hidden still shows the others; with no others there is none."""
    drive = MemoryDrive()
    drive.append(name, A_FILE, [[1]] * (len(components(name)) + 1))
    assert names(drive, "/") == []
    drive.put(p("/dir/good"))
    drive.append(name, A_FILE, drive.walk(plain_lists.put_lists, 2, 3, components(name)))
    assert names(drive, "/") == ["dir"]
    assert names(drive, "/dir") == ["good"]
    assert (kind(drive, "/dir"), kind(drive, "/dir/good")) == ("directory", "file")


def test_a_name_without_a_slash_is_absolute() -> None:
    """It is shown like any other."""
    drive = MemoryDrive()
    drive.append(b"relative/x", A_FILE, [[1], [1], [1]])
    assert names(drive, "/") == ["relative"]
    assert kind(drive, "/relative/x") == "file"


def test_names_of_bytes() -> None:
    """Control bytes, escapes, direction marks and invalid UTF-8 are names like others."""
    drive = MemoryDrive()
    odd = [b"new\nline", b"\x1b[31mred", "\u202egnp".encode(), b"\xff\xfe", b"..."]
    for name in odd:
        drive.put((name,))
    assert [child.name for child in drive.walk(path_index.child_entries, drive.version, ())] == odd
    for name in odd:
        assert drive.walk(path_index.stat_path, drive.version, (name,)) is not None


def test_elements_beyond_the_entry_are_ignored() -> None:
    """A later version does not leak into an older one, and chunks that do not exist are not asked for."""
    drive = MemoryDrive()
    drive.put(p("/a"))
    drive.append(p("/b"), A_FILE, [[1, 2, 3, 1000], [2, 3, 1000]])
    drive.put(p("/c"))
    assert names(drive, "/", 2) == ["a", "b"]
    assert drive.walk(path_index.stat_path, 2, p("/c")) is None


def test_the_header_is_never_an_entry() -> None:
    """Number 0 in a list is left out."""
    drive = MemoryDrive()
    drive.append(p("/a"), A_FILE, [[0, 1], [0, 1]])
    assert names(drive, "/") == ["a"]
    assert kind(drive, "/b") is None


def test_elements_of_another_branch_are_ignored() -> None:
    """An entry in the list of a directory that it is not in is not shown there, nor followed."""
    drive = MemoryDrive()
    drive.put(p("/a/x"))
    drive.put(p("/b/y"))
    drive.append(p("/c/z"), A_FILE, [[1, 2, 3], [1, 2, 3], [1, 2, 3]])
    assert names(drive, "/") == ["a", "b", "c"]
    assert names(drive, "/c") == ["z"]
    assert drive.walk(path_index.list_children, 3, p("/c")) == {b"z": 3}
    assert [kind(drive, path) for path in ("/c/x", "/c/y", "/c/a", "/c/z/x")] == [None] * 4


def test_the_first_of_two_elements_with_one_name_wins() -> None:
    """Listing, get and stat agree about it."""
    drive = MemoryDrive()
    drive.put(p("/a"))
    drive.put(p("/a"))
    drive.append(p("/b"), A_FILE, [[1, 2, 3], [3]])
    record = drive.walk(path_index.get, 3, p("/a"))
    assert record == drive.record(1)
    assert drive.walk(path_index.list_children, 3, ()) == {b"a": 1, b"b": 3}
    assert drive.walk(path_index.stat_path, 3, p("/a")) == Found("file", record, 1, 1)


def test_the_first_of_two_entries_of_a_directory_wins() -> None:
    """Among the elements of a directory two may claim to be its own entry."""
    drive = MemoryDrive()
    drive.put(p("/d"), A_PRIVATE_DIRECTORY)
    drive.put(p("/d"), A_DIRECTORY)
    drive.append(p("/d/x"), A_FILE, [[3], [1, 2, 3], [3]])
    assert drive.walk(path_index.get, 3, p("/d")) == drive.record(1)
    assert drive.walk(path_index.stat_path, 3, p("/d")) == Found("directory", drive.record(1), 3, 3)


@pytest.mark.parametrize("path", ["/gone", "/gone/x", "/gone/x/y"])
def test_a_deletion_stands_for_nothing_that_it_does_not_list(path: str) -> None:
    """A deletion among the elements of a directory, listing nothing below the name, shows no such name."""
    drive = MemoryDrive()
    drive.put(p("/a"))
    drive.append(p(path), None, [[1, 2], [], [1, 2], [1, 2]])
    assert drive.walk(path_index.list_children, 2, ()) == {b"a": 1}
    assert names(drive, "/") == ["a"]
    assert kind(drive, "/gone") is None


def test_entries_that_name_each_other_end() -> None:
    """Lists that lead back to where the walk has been give nothing."""
    drive = MemoryDrive()
    everything = list(range(1, 7))
    for path in ("/a", "/b", "/a/a", "/a", "/a/b", "/b/a"):
        drive.append(p(path), A_FILE, [everything[: drive.version + 1]] * 4)
    for version in range(1, 7):
        for path in ("/", "/a", "/b", "/a/a", "/a/b/a", "/a/a/a/a/a/a/a"):
            drive.walk(path_index.stat_path, version, p(path))
            assert len(drive.batches) <= len(p(path)) + 2
            drive.walk(path_index.child_entries, version, p(path))
            assert len(drive.batches) <= len(p(path)) + 3


def test_too_few_lists_are_empty_ones() -> None:
    """An entry without an index is still there, and has nothing beside or below it."""
    drive = MemoryDrive()
    drive.put(p("/a"))
    drive.append(p("/b/c"), A_FILE, [])
    assert names(drive, "/") == []
    assert kind(drive, "/b/c") == "file"
    assert kind(drive, "/a") is None


BAD_CHUNKS = [
    b"",
    b"\xff\xff",
    b"\x1a\x00",
    encode_record(b"/lost", A_FILE, [[1, 2], [2]], 2)[:-1],
    drive_pb2.Node(name=b"/lost", value=A_FILE, paths=b"\0\5").SerializeToString(),
]


@pytest.mark.parametrize("bad", BAD_CHUNKS, ids=lambda bad: bad.hex() or "empty")
def test_a_chunk_that_does_not_decode(bad: bytes) -> None:
    """Only what needs it fails: other names are listed and found, older versions are whole."""
    drive = MemoryDrive()
    drive.put(p("/first"))
    drive.put(p("/lost"))
    drive.put(p("/last"))
    drive.chunks[2] = bad
    assert names(drive, "/") == ["first", "last"]
    assert (kind(drive, "/first"), kind(drive, "/last")) == ("file", "file")
    assert outcome(drive, path_index.stat_path, 3, p("/lost")) is BadMetadata
    assert outcome(drive, path_index.get, 3, p("/lost/below")) is BadMetadata
    assert outcome(drive, path_index.child_entries, 2, ()) is BadMetadata
    assert names(drive, "/", 1) == ["first"]


@pytest.mark.parametrize("value", [b"", b"\x20\x05", b"\x08"])
def test_a_value_that_does_not_decode(value: bytes) -> None:
    """Its path fails with the chunk's number, listings leave it out, and what is below is shown."""
    drive = MemoryDrive()
    drive.put(p("/bad"), value)
    drive.put(p("/good"))
    with pytest.raises(BadMetadata, match="metadata chunk 1"):
        drive.walk(path_index.stat_path, 2, p("/bad"))
    assert names(drive, "/") == ["good"]
    drive.put(p("/bad/below"))
    assert names(drive, "/") == ["bad", "good"]
    assert (kind(drive, "/bad"), kind(drive, "/bad/below")) == ("directory", "file")


def test_ten_thousand_components() -> None:
    """A very deep path is found, and its neighbours are not slowed down by it."""
    deep = (b"d",) * 10_000
    drive = MemoryDrive()
    drive.put(deep)
    drive.put(p("/plain"))
    assert names(drive, "/") == ["d", "plain"]
    assert names(drive, "/d/d/d") == ["d"]
    found = drive.walk(path_index.stat_path, 2, deep)
    assert found is not None
    assert found.kind == "file"


HOSTILE_NAMES = st.sampled_from([b"a", b"a", b"b", b"..", b"", b"a\0"])
HOSTILE_PATHS = st.lists(HOSTILE_NAMES, max_size=4).map(tuple)


@settings(max_examples=60)
@given(st.data())
def test_random_graphs(data: st.DataObject) -> None:
    """Whatever the lists say, walks end after a batch a level, and ask only for chunks that exist."""
    drive = MemoryDrive()
    length = data.draw(st.integers(1, 8))
    numbers = st.sets(st.integers(0, length + 2)).map(sorted)
    for _ in range(length):
        path, value = data.draw(HOSTILE_PATHS), data.draw(st.sampled_from([A_FILE, A_DIRECTORY, b"", None]))
        drive.append(path, value, data.draw(st.lists(numbers, max_size=6)))
    if data.draw(st.booleans()):
        drive.chunks[data.draw(st.integers(1, length))] = b"\xff"
    head = data.draw(st.integers(1, length))
    for path in ((), p("/a"), p("/b"), p("/a/a"), p("/a/b"), p("/a/a/a/a/a")):
        for function in (path_index.get, path_index.stat_path, path_index.child_entries):
            outcome(drive, function, head, path)
            assert len(drive.batches) <= len(path) + 3
            assert all(seq <= head for batch in drive.batches for seq in batch)
        listed = outcome(drive, path_index.child_entries, head, path)
        assert outcome(drive, drive.child_entries_quickly, head, path) == listed
        if isinstance(listed, list):
            for child in listed:
                assert child.name in (b"a", b"b")
                assert (child.kind == "directory") or child.stat is not None
        for writer in (plain_lists.put_lists, plain_lists.delete_lists):
            lists = outcome(drive, writer, head, length + 1, path)
            assert lists is BadMetadata or isinstance(lists, list)
    outcome(drive, path_index.diff, data.draw(st.integers(0, length)), head)
