"""Records of the metadata register: their bytes, and what may be believed of them (drive.md 1-3, 6, 7, 9)."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from datfs import drive_pb2, varint
from datfs.errors import BadMetadata, UnsupportedFormat
from datfs.metadata import (
    CHUNK_LIMIT,
    LAST_MS,
    NAME_LIMIT,
    SAFE_INTEGER,
    Header,
    Record,
    Stat,
    components,
    decode_header,
    decode_record,
    decode_stat,
    encode_header,
    encode_record,
    encode_stat,
    mtime_ns,
    name_of,
    path_of,
    plausible,
    valid_component,
)
from tests.memory_drive import A_FILE, VECTORS

STATS: dict[str, Any] = json.loads((VECTORS / "stat.json").read_text())
CONTENT_KEY = bytes.fromhex("5c17643217bc677a8b3366b8ae2fefa7d5d382fa3b160642147d070f1c4b107f")
HEADER = bytes.fromhex("0a0a687970657264726976651220") + CONTENT_KEY


def stat_of(fields: dict[str, int]) -> Stat:
    """A Stat from the names that the reference uses."""
    return Stat(**{"byte_offset" if name == "byteOffset" else name: value for name, value in fields.items()})


def raw_record(name: bytes, index: bytes) -> bytes:
    """A chunk with an index that need not make sense."""
    return drive_pb2.Node(name=name, value=A_FILE, paths=index).SerializeToString()


# --- names and paths


@pytest.mark.parametrize(
    ("name", "path"),
    [
        (b"/", ()),
        (b"", ()),
        (b"/a", (b"a",)),
        (b"a", (b"a",)),
        (b"/a/b/", (b"a", b"b")),
        (b"//x", (b"", b"x")),
        (b"/a//b", (b"a", b"", b"b")),
        (b"/../../etc/passwd", (b"..", b"..", b"etc", b"passwd")),
        (b"/caf\xc3\xa9/\xff", (b"caf\xc3\xa9", b"\xff")),
    ],
)
def test_names_are_split_as_the_reference_does(name: bytes, path: tuple[bytes, ...]) -> None:
    """One leading and one trailing empty part go; nothing else is changed or refused."""
    assert components(name) == path


@pytest.mark.parametrize("component", [b"", b".", b"..", b"a\0b", b"a/b", b"x" * 256])
def test_invalid_components(component: bytes) -> None:
    """What a file system cannot show, or would take for another place, is not valid."""
    assert not valid_component(component)


@pytest.mark.parametrize("component", [b"a", b"...", b".dat", b"new\nline", b"\x1b[31m", b"\xff\xfe", b"x" * 255])
def test_valid_components(component: bytes) -> None:
    """Odd names that a file system can show are valid."""
    assert valid_component(component)


@pytest.mark.parametrize(
    ("given_path", "path"),
    [
        ("", ()),
        ("/", ()),
        ("/..", ()),
        ("a/b", (b"a", b"b")),
        ("/a/./b//c/", (b"a", b"b", b"c")),
        ("a/../../b", (b"b",)),
        ("back\\slash.txt", (b"back", b"slash.txt")),
        ("caf\u00e9", (b"caf\xc3\xa9",)),
        ("\udcff", (b"\xff",)),
        (b"/a/\xff", (b"a", b"\xff")),
    ],
)
def test_paths_of_users_are_normalised(given_path: str | bytes, path: tuple[bytes, ...]) -> None:
    """As the reference normalises before it writes: resolved against the root, which ``..`` cannot leave."""
    assert path_of(given_path) == path


@given(st.lists(st.binary(min_size=1, max_size=5).filter(lambda c: b"/" not in c)).map(tuple))
def test_names_and_paths_convert_both_ways(path: tuple[bytes, ...]) -> None:
    """The components of a path's canonical name are the path."""
    assert components(name_of(path)) == path


# --- header


def test_header() -> None:
    """The header of the test identity's drive decodes, and encodes to the same bytes."""
    header = decode_header(HEADER)
    assert header == Header("hyperdrive", CONTENT_KEY)
    assert encode_header(header) == HEADER


@pytest.mark.parametrize("row", STATS["index"], ids=lambda row: row["encoded"][:12])
def test_headers_of_the_reference(row: dict[str, Any]) -> None:
    """Only one with a type that we read and a content key is a drive's."""
    encoded, fields = bytes.fromhex(row["encoded"]), row["index"]
    if fields["content"]:
        assert decode_header(encoded) == Header(fields["type"], bytes.fromhex(fields["content"]))
    elif fields["type"] == "hyperdrive":
        with pytest.raises(BadMetadata, match="content key of 0 bytes"):
            decode_header(encoded)
    else:
        with pytest.raises(UnsupportedFormat):
            decode_header(encoded)


@pytest.mark.parametrize("data", [b"", b"\xff", b"block 0", HEADER[:-1], b"\x12\x20" + bytes(32)])
def test_chunks_that_are_no_header(data: bytes) -> None:
    """A register whose first chunk is something else is refused, not read as a drive."""
    with pytest.raises(BadMetadata, match="no drive's header"):
        decode_header(data)


def test_header_of_another_type() -> None:
    """The type is named, with control bytes escaped and cut to a sensible length."""
    data = drive_pb2.Header(type=b"\xffhyperdb" + b"x" * 1000, content=CONTENT_KEY).SerializeToString()
    with pytest.raises(UnsupportedFormat, match="hyperdb") as caught:
        decode_header(data)
    assert caught.value.name.startswith("\\xffhyperdb")
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("length", [31, 33])
def test_header_with_a_content_key_of_another_length(length: int) -> None:
    """The content key has 32 bytes or the header is refused."""
    with pytest.raises(BadMetadata, match=f"{length} bytes"):
        decode_header(encode_header(Header("hyperdrive", bytes(length))))


# --- attributes


@pytest.mark.parametrize("row", STATS["stat"], ids=lambda row: row["encoded"][:24])
def test_stats_of_the_reference(row: dict[str, Any]) -> None:
    """Each decodes to what the reference reads; what it writes for files and mkdir is encoded alike."""
    encoded = bytes.fromhex(row["encoded"])
    assert decode_stat(encoded) == stat_of(row["decoded"])
    complete = len(row["stat"]) == 9
    made_by_mkdir = set(row["stat"]) == {"mode", "offset", "byteOffset", "mtime", "ctime"}
    if complete or made_by_mkdir:
        assert encode_stat(stat_of(row["stat"])) == encoded


def test_a_directory_keeps_its_owner() -> None:
    """A mkdir with an owner writes it."""
    stat = Stat(0o040700, uid=1000, gid=100)
    assert encode_stat(stat).hex() == "08c083" + "01" + "10e807" + "1864" + "3000" + "3800" + "4000" + "4800"
    assert decode_stat(encode_stat(stat)) == stat


@pytest.mark.parametrize("row", STATS["foreign"], ids=lambda row: row["note"])
def test_stats_of_other_writers(row: dict[str, Any]) -> None:
    """What the reference reads is read alike; what it refuses is refused."""
    if "error" in row:
        with pytest.raises(BadMetadata):
            decode_stat(bytes.fromhex(row["hex"]))
    else:
        assert decode_stat(bytes.fromhex(row["hex"])) == stat_of(row["decoded"])


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        (0o100644, "file"),
        (0o104755, "file"),
        (0o040755, "directory"),
        (0o041777, "directory"),
        (0o120777, None),
        (0o140777, None),
        (0o060600, None),
        (0o020600, None),
        (0o010600, None),
        (0o000644, None),
        (0xFFFFFFFF, None),
    ],
)
def test_kind_is_all_of_the_type_bits(mode: int, kind: str | None) -> None:
    """A socket is not a file and a directory at once, and a link is not a file."""
    assert Stat(mode).kind == kind


def test_permissions_are_nine_bits() -> None:
    """setuid, setgid and sticky bits do not get through."""
    assert Stat(0o107755).permissions == 0o755


@pytest.mark.parametrize(
    ("stat", "length"),
    [
        (Stat(0o100644), 0),
        (Stat(0o100644, offset=9, byte_offset=99), 5),
        (Stat(0o100644, size=10, blocks=1, offset=4), 5),
        (Stat(0o100644, size=10, blocks=1, offset=4), None),
        (Stat(0o100644, size=0, blocks=1, offset=4), 5),
        (Stat(0o100644, size=3 * CHUNK_LIMIT, blocks=3, offset=2), 5),
    ],
)
def test_plausible(stat: Stat, length: int | None) -> None:
    """Claims that can be true are not complained about; an empty file names no chunks at all."""
    assert plausible(stat, length) is None


@pytest.mark.parametrize(
    ("stat", "length", "why"),
    [
        (Stat(0o100644, size=1), None, "do not fit 0 chunks"),
        (Stat(0o100644, size=CHUNK_LIMIT + 1, blocks=1), None, "do not fit 1 chunks"),
        (Stat(0o100644, size=1, blocks=1, offset=5), 5, "chunk 5"),
        (Stat(0o100644, size=1, blocks=2, offset=4), 5, "chunk 5"),
        (Stat(0o100644, size=1, blocks=1), 0, "chunk 0"),
        (Stat(0o100644, size=1, blocks=2**60), None, "blocks is"),
        (Stat(0o100644, size=2**60, blocks=1), None, "size is"),
        (Stat(0o100644, size=1, blocks=1, offset=2**64 - 1), None, "offset is"),
        (Stat(0o100644, size=1, blocks=1, byte_offset=2**63), None, "byte_offset is"),
        (Stat(0o100644, size=1, blocks=1, offset=SAFE_INTEGER), None, "ends beyond"),
        (Stat(0o100644, size=1, blocks=1, byte_offset=SAFE_INTEGER), None, "ends beyond"),
    ],
)
def test_implausible(stat: Stat, length: int | None, why: str) -> None:
    """Overflow, more bytes than chunks can hold, and chunks beyond the end are named."""
    reason = plausible(stat, length)
    assert reason is not None
    assert why in reason


@pytest.mark.parametrize(
    ("milliseconds", "nanoseconds"),
    [
        (0, 0),
        (1514764800123, 1514764800123000000),
        (2**63, LAST_MS * 10**6),
        (2**64 - 1, LAST_MS * 10**6),
        (-1, 0),
    ],
)
def test_times_are_clamped(milliseconds: int, nanoseconds: int) -> None:
    """A time is one that struct stat and a calendar can hold."""
    assert mtime_ns(milliseconds) == nanoseconds


# --- records


def test_example_of_the_specification() -> None:
    """The worked example of drive.md section 3 decodes list by list."""
    name = b"/Animalia/Chordata/Mammalia/Carnivora/Feliformia/Felidae/Felis/F_silvestris.txt"
    record = decode_record(7, raw_record(name, bytes.fromhex("01020105000000010200000000")))
    assert record.lists == ((1, 6, 7), (7,), (7,), (7,), (2, 7), (7,), (7,), (7,), (7,))
    assert [record.children(level) for level in range(9)] == list(record.lists)


@pytest.mark.parametrize("row", STATS["node"], ids=lambda row: row["encoded"][:16])
def test_nodes_of_the_reference(row: dict[str, Any]) -> None:
    """Absence of a value is a deletion, an empty value is not; an index may be missing."""
    fields = row["node"]
    record = decode_record(9, bytes.fromhex(row["encoded"]))
    assert record.path == components(fields["name"].encode())
    assert record.value == (None if fields["value"] is None else bytes.fromhex(fields["value"]))
    assert record.index == bytes.fromhex(fields["paths"] or "")


def test_an_empty_value_is_an_entry_that_does_not_decode() -> None:
    """It is told from a deletion, and its name is still known."""
    record = decode_record(1, encode_record(b"/a", b"", [[1], [1]], 1))
    assert (record.path, record.value, record.stat) == ((b"a",), b"", None)
    assert record.stat_error is not None
    deletion = decode_record(1, encode_record(b"/a", None, [[1], [1]], 1))
    assert (deletion.value, deletion.stat, deletion.stat_error) == (None, None, None)


def test_invalid_utf8_survives() -> None:
    """A name is bytes."""
    assert decode_record(1, encode_record(b"/\xff\xfe", A_FILE, [[1], [1]], 1)).path == (b"\xff\xfe",)


@pytest.mark.parametrize(
    ("index", "lists"),
    [
        ("", ()),
        ("00", ()),
        ("01", ()),
        ("0100", ((9,),)),
        ("010000", ((9,), (9,))),
        ("0000", ((),)),
        ("0100000000", ((9,), (9,))),  # lists beyond those of the path's levels are not used
        ("00020009", ((9,),)),  # 0 is the header
        ("0003030002", ((3, 5),)),  # a duplicate
        ("00020309", ((3,),)),  # 12 is beyond the entry's own number
        ("000109", ((9,),)),  # its own number, written out
        ("010109", ((9,),)),  # its own number twice
        ("01010a", ((9,),)),
        ("0002038010", ((3,),)),
        ("000102" + "01" + "ffffffffffffffff7f", ((2,), ())),
        ("0301020100", ((2, 9), (9,))),  # other bits of the header mean nothing
    ],
)
def test_elements_that_cannot_be_are_left_out(index: str, lists: tuple[tuple[int, ...], ...]) -> None:
    """A list of chunk 9 holds numbers from 1 to 9, ascending, and 9 only as the last."""
    assert decode_record(9, raw_record(b"/a", bytes.fromhex(index))).lists == lists


@pytest.mark.parametrize(
    "index",
    [
        "80",  # the header is cut off
        "0080",  # a count is
        "000180",  # a number is
        "0001",  # a number is missing
        "01020503030101",  # a later list is longer than the rest
        "00ffffffff0f",  # a huge count
        "00" + "ffffffffffffffff7f",
        "00" + "01" + "80" * 9 + "01",  # a number from 2^63
        "00" + "01" + "80" * 12 + "01",
    ],
)
def test_indices_that_do_not_decode(index: str) -> None:
    """The entry is refused, with its number, before anything is made of the index."""
    with pytest.raises(BadMetadata, match="metadata chunk 9"):
        decode_record(9, raw_record(b"/a", bytes.fromhex(index)))


@pytest.mark.parametrize(
    "data", [b"", b"\xff", b"\x12\x00", b"\x0a\x05/a", raw_record(b"/" + b"a/" * (NAME_LIMIT // 2), b"")]
)
def test_chunks_that_are_no_record(data: bytes) -> None:
    """No name, cut off, or a name beyond every limit: refused, with the chunk's number."""
    with pytest.raises(BadMetadata, match="metadata chunk 3 "):
        decode_record(3, data)


ascending = st.sets(st.integers(1, 299) | st.integers(1, 20_000)).map(sorted)


@given(
    st.lists(st.binary(min_size=1, max_size=3).filter(lambda c: b"/" not in c), max_size=4).map(tuple),
    st.none() | st.binary(max_size=20),
    st.data(),
)
def test_records_convert_both_ways(path: tuple[bytes, ...], value: bytes | None, data: st.DataObject) -> None:
    """Decoding gives back what was encoded, if all lists end with the entry's number, some do, or none."""
    seq = 20_001
    count = data.draw(st.integers(0, len(path) + 1))
    endings = data.draw(st.sampled_from([[True] * count, [False] * count]) | st.lists(st.booleans(), min_size=count))
    lists = [[*data.draw(ascending), *([seq] if own else [])] for own in endings[:count]]
    record = decode_record(seq, encode_record(name_of(path), value, lists, seq))
    assert (record.path, record.value) == (path, value)
    assert [list(numbers) for numbers in record.lists] == lists
    assert [list(record.children(level)) for level in range(len(path) + 1)][:count] == lists


def check_sane(seq: int, data: bytes) -> None:
    """What must hold for any bytes."""
    try:
        record = decode_record(seq, data)
    except BadMetadata:
        return
    assert isinstance(record, Record)
    assert record.value is None or (record.stat is None) == (record.stat_error is not None)
    assert len(record.lists) <= len(record.path) + 1
    for level in range(len(record.path) + 3):
        numbers = record.children(level)
        assert numbers == (record.lists[level] if level < len(record.lists) else ())
        assert all(1 <= number <= seq for number in numbers)
        assert list(numbers) == sorted(set(numbers))


@given(st.binary(max_size=300))
@example(b"\x0a\x00\x1a\x00")
def test_random_chunks(data: bytes) -> None:
    """Any bytes are a record or BadMetadata, and a record's properties never fail."""
    check_sane(5, data)


@given(st.sampled_from([b"/", b"/a", b"/a/b/c", b"//"]), st.binary(max_size=40), st.integers(1, 300))
def test_random_indices(name: bytes, index: bytes, seq: int) -> None:
    """Any bytes as an index too."""
    check_sane(seq, raw_record(name, index))


@settings(max_examples=30)
@given(st.data())
def test_damaged_chunks(data: st.DataObject) -> None:
    """So do real chunks with a byte changed or their end cut off."""
    lists = [[1, 2, 300], [200, 300], [300]]
    chunk = bytearray(encode_record(b"/ab/cd", A_FILE, lists, 300))
    position = data.draw(st.integers(0, len(chunk) - 1))
    check_sane(300, bytes(chunk[:position]))
    chunk[position] = data.draw(st.integers(0, 255))
    check_sane(300, bytes(chunk))


@pytest.mark.parametrize(
    "index",
    [
        pytest.param(bytes(4_000_000), id="millions of lists"),
        pytest.param(b"\0" + varint.encode(3_999_990) + bytes(3_999_990), id="millions of zeros"),
        pytest.param(b"\0" + varint.encode(2_000_000) + b"\x80\x01" * 2_000_000, id="millions of numbers"),
        pytest.param(b"\0" + b"\x80" * 4_000_000, id="no end of a number"),
        pytest.param(b"\0" + (b"\xff" * 8 + b"\x7f") * 400_000, id="only large numbers"),
    ],
)
def test_memory_stays_within_a_few_times_the_chunk(index: bytes) -> None:
    """A large chunk of nonsense costs about its own size, in a record that stands for few numbers."""
    chunk = raw_record(b"/" + b"a/" * 10_000, index)
    tracemalloc.start()
    try:
        check_large(chunk)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * len(chunk)


def check_large(chunk: bytes) -> None:
    """Decodes it and reads one list near the root and one deep down."""
    try:
        record = decode_record(5, chunk)
    except BadMetadata:
        return
    assert set(record.children(0)) <= {1, 2, 3, 4, 5}
    assert set(record.children(9_999)) <= {1, 2, 3, 4, 5}
