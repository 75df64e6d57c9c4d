"""``datfs debug``: files, registers and sessions taken apart, compared with what the reference says of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from datfs import capture
from datfs.cli.output import plain
from datfs.errors import FormatError
from tests.command_line import datfs, failure, objects, output, shared
from tests.vector_drives import DRIVES, SIMPLE_KEY, copy_drive, manifest, snapshot

WIRE = Path(__file__).parent / "vectors" / "wire"
DOT_DAT = DRIVES / "simple" / ".dat"


# --- sleep ---------------------------------------------------------------------------------------------------------


def test_a_tree_file() -> None:
    """The header, and each node with place, hash and size; places that hold nothing are left out."""
    header, *entries = objects("debug", "sleep", DOT_DAT / "metadata.tree")
    assert header["type"] == "tree"
    assert (header["version"], header["entry_size"], header["algorithm"]) == (0, 40, "BLAKE2b")
    assert (header["entries"], header["torn_bytes"], header["trusted"], header["why_not"]) == (11, 0, True, None)
    data = (DOT_DAT / "metadata.tree").read_bytes()
    assert len(entries) == 10
    for entry in entries:
        raw = data[entry["offset"] : entry["offset"] + 40]
        assert entry["offset"] == 32 + 40 * entry["entry"]
        assert (entry["hex"], entry["hash"], entry["bytes"]) == (
            raw.hex(),
            raw[:32].hex(),
            int.from_bytes(raw[32:], "big"),
        )


def test_a_signatures_file() -> None:
    """Each signature as hex."""
    header, *entries = objects("debug", "sleep", DOT_DAT / "metadata.signatures")
    assert (header["type"], header["entries"], header["algorithm"]) == ("signatures", 6, "Ed25519")
    data = (DOT_DAT / "metadata.signatures").read_bytes()
    assert [entry["hex"] for entry in entries] == [data[at : at + 64].hex() for at in range(32, len(data), 64)]


def test_a_bitfield_file() -> None:
    """The set bits as ranges, for chunks and for tree nodes."""
    header, data, tree = objects("debug", "sleep", DOT_DAT / "content.bitfield")
    assert (header["type"], header["entry_size"], header["entries"]) == ("bitfield", 3584, 1)
    assert (data["part"], data["bits"], data["set"], data["runs"]) == ("data", 8192, 7, [[0, 7]])
    assert (tree["part"], tree["bits"], tree["set"], tree["runs"]) == ("tree", 16384, 11, [[0, 7], [8, 11], [12, 13]])
    assert "data: 7 of 8192 bits set: 0-6" in output("debug", "sleep", DOT_DAT / "content.bitfield")


def test_another_algorithm_is_described_and_not_trusted(tmp_path: Path) -> None:
    """A file with algorithm Rot13 is told as what it is; its entries are hex, and no hash is read out of them."""
    data = bytearray((DOT_DAT / "metadata.tree").read_bytes())
    data[7:13] = b"\x05Rot13"
    data[13:32] = bytes(19)
    (tmp_path / "tree").write_bytes(data)
    header, *entries = objects("debug", "sleep", tmp_path / "tree")
    assert header["algorithm"] == "Rot13"
    assert not header["trusted"]
    assert "Rot13" in header["why_not"]
    assert "hash" not in entries[0]
    assert "not trusted" in output("debug", "sleep", tmp_path / "tree")


@pytest.mark.parametrize(
    ("place", "value", "why"),
    [(3, 9, "type 9"), (4, 1, "SLEEP version 1"), (6, 41, "entries of 41 bytes")],
)
def test_unknown_kinds_are_described(tmp_path: Path, place: int, value: int, why: str) -> None:
    """Unknown types, versions and entry sizes too."""
    data = bytearray((DOT_DAT / "metadata.tree").read_bytes())
    data[place] = value
    (tmp_path / "file").write_bytes(data)
    header = objects("debug", "sleep", tmp_path / "file")[0]
    assert not header["trusted"]
    assert why in header["why_not"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x05\x02\x58" + bytes(29), "not a SLEEP file"),
        (bytes(10), "cut off"),
        (b"\x05\x02\x57\x02\0\0\x28\x19", "cut off"),
    ],
)
def test_files_that_are_no_sleep_files(tmp_path: Path, data: bytes, message: str) -> None:
    """Named, with what is wrong."""
    (tmp_path / "file").write_bytes(data)
    assert message in failure(1, "debug", "sleep", tmp_path / "file")


def test_a_torn_entry_is_told(tmp_path: Path) -> None:
    """Bytes after the last whole entry are counted."""
    (tmp_path / "tree").write_bytes((DOT_DAT / "metadata.tree").read_bytes() + b"x" * 7)
    assert objects("debug", "sleep", tmp_path / "tree")[0]["torn_bytes"] == 7


# --- register, entries, proof -----------------------------------------------------------------------------------


def test_the_registers_of_a_drive() -> None:
    """Keys and lengths are those of the manifest; every signature there is verifies."""
    metadata, content = objects("debug", "register", DRIVES / "simple")
    facts = manifest("simple")
    assert (metadata["register"], content["register"]) == ("metadata", "content")
    assert (metadata["key"], metadata["discovery_key"]) == (facts["key"], facts["discoveryKey"])
    assert content["key"] == facts["contentKey"]
    assert (metadata["length"], metadata["byte_length"]) == (facts["metadataLength"], facts["metadataBytes"])
    assert (content["length"], content["byte_length"]) == (facts["contentLength"], facts["contentBytes"])
    assert (metadata["signatures_checked"], metadata["signatures_bad"]) == (6, [])
    assert (content["held"], content["holes"]) == ([[0, 7]], [])
    assert sum(root["size"] for root in content["roots"]) == facts["contentBytes"]
    assert "signatures     6 checked, ok" in output("debug", "register", DRIVES / "simple")


def test_a_bad_signature_is_named(tmp_path: Path) -> None:
    """The length whose signature does not verify is told; the newest still makes the register trusted."""
    folder = copy_drive("simple", tmp_path)
    path = folder / ".dat" / "metadata.signatures"
    data = bytearray(path.read_bytes())
    data[32 + 64 * 2] ^= 1
    path.write_bytes(data)
    assert objects("debug", "register", folder)[0]["signatures_bad"] == [3]


def test_holes_of_a_sparse_copy(tmp_path: Path) -> None:
    """A link means its folder in the cache; what is not here are the holes."""
    with shared(DRIVES / "simple") as (link, address, _):
        output("cat", link, "hello.txt", "--peer", address, "--cache-dir", tmp_path)
    _, content = objects("debug", "register", link, "--cache-dir", tmp_path)
    assert content["chunks_held"] == 1
    assert content["holes"] == [[1, 7]]
    failure(4, "debug", "register", "ab" * 32, "--cache-dir", tmp_path)


def test_entries_are_the_history() -> None:
    """Each entry with name, attributes and lists, as the reference tells them."""
    header, *entries = objects("debug", "entries", DRIVES / "history")
    facts = manifest("history")
    assert (header["seq"], header["type"], header["content_key"]) == (0, "hyperdrive", facts["contentKey"])
    assert len(entries) == facts["version"]
    for entry, change in zip(entries, facts["history"], strict=True):
        assert (entry["seq"], entry["change"], entry["name"]) == (change["version"], change["type"], change["path"])
        if change["stat"] is None:
            assert entry["stat"] is None
        else:
            assert entry["stat"]["byte_offset"] == change["stat"]["byteOffset"]
            assert {name: entry["stat"][name] for name in ("mode", "size", "blocks", "offset", "mtime")} == {
                name: change["stat"][name] for name in ("mode", "size", "blocks", "offset", "mtime")
            }
    assert entries[2]["lists"] == [[1, 2, 3], [3], [3]]
    assert "5: del /b.txt" in output("debug", "entries", DRIVES / "history")


def test_proofs() -> None:
    """The nodes with their hashes, and the signature, as the tree file has them."""
    (found,) = objects("debug", "proof", DRIVES / "simple", 3)
    assert (found["register"], found["index"], found["digest"], found["hash"]) == ("metadata", 3, 0, False)
    assert [node["index"] for node in found["nodes"]] == [4, 1, 9]
    tree = (DOT_DAT / "metadata.tree").read_bytes()
    for node in found["nodes"]:
        assert node["hash"] == tree[32 + 40 * node["index"] :][:32].hex()
    assert found["signature"] == (DOT_DAT / "metadata.signatures").read_bytes()[-64:].hex()
    (known,) = objects("debug", "proof", DRIVES / "simple", 3, "--digest", 1)
    assert (known["nodes"], known["signature"]) == ([], None)
    (hashed,) = objects("debug", "proof", DRIVES / "simple", 3, "--hash", "--content")
    assert hashed["nodes"][0]["index"] == 6
    assert hashed["bytes"] is None
    (single,) = objects("debug", "proof", DRIVES / "simple-raf" / "content", 3, "--content")
    assert single["nodes"] == objects("debug", "proof", DRIVES / "simple", 3, "--content")[0]["nodes"]


def test_proofs_of_what_is_not_there() -> None:
    """A chunk beyond the end cannot be proved."""
    assert "cannot be proved" in failure(3, "debug", "proof", DRIVES / "simple", 99)


def test_nothing_is_changed() -> None:
    """Looking does not write."""
    before = snapshot(DRIVES / "simple")
    for words in (("register",), ("entries",)):
        output("debug", *words, DRIVES / "simple")
    assert snapshot(DRIVES / "simple") == before


def test_a_damaged_register_beside_a_good_one(tmp_path: Path) -> None:
    """The good one is told, the other one's error too; the exit code says that something is wrong."""
    folder = tmp_path / "simple"
    shutil.copytree(DRIVES / "simple", folder)
    (folder / ".dat" / "content.tree").write_bytes(b"XYZ" + bytes(100))
    ended = datfs("debug", "register", folder, "--json")
    told = [json.loads(line) for line in ended.stdout.splitlines()]
    assert ended.returncode == 1
    assert told[0]["length"] == 6
    assert "not a SLEEP file" in told[1]["error"]


# --- wire ------------------------------------------------------------------------------------------------------------


def session(name: str) -> dict[str, Any]:
    """What the reference says of a captured session."""
    facts: dict[str, Any] = json.loads((WIRE / name / "session.json").read_text(encoding="utf-8"))
    return facts


NAMES = {("Extension", "id"): "number"}
"""Fields that have another name here."""


def snake(name: str) -> str:
    """``discoveryKey`` as ``discovery_key``."""
    return "".join("_" + c.lower() if c.isupper() else c for c in name)


@pytest.mark.parametrize("name", ["two-files", "every-message"])
@pytest.mark.parametrize(("file", "direction"), [("a-to-b.bin", "aToB"), ("b-to-a.bin", "bToA")])
def test_frames_are_those_of_the_reference(name: str, file: str, direction: str) -> None:
    """Offset, length, channel, type and fields of each frame of a session."""
    facts = session(name)
    found = list(capture.frames((WIRE / name / file).read_bytes(), bytes.fromhex(facts["key"])))
    expected = facts[direction]
    assert [(frame.offset, frame.length) for frame in found] == [(one["offset"], one["length"]) for one in expected]
    for frame, one in zip(found, expected, strict=True):
        assert frame.type.lower() == one["type"].replace("-", "").lower()
        assert frame.channel == one.get("channel")
        fields = plain(frame.fields())
        for field, value in one.get("message", {}).items():
            assert fields[NAMES.get((frame.type, field), snake(field))] == value, (frame, field)


def test_wire_on_the_command_line() -> None:
    """The same through the command, for people and as JSON."""
    facts = session("two-files")
    found = objects("debug", "wire", WIRE / "two-files" / "a-to-b.bin", facts["key"])
    assert [one["type"] for one in found] == [one["type"] for one in facts["aToB"]]
    data = next(one for one in found if one["type"] == "Data")
    assert data["message"]["nodes"][0].keys() == {"index", "hash", "size"}
    text = output("debug", "wire", WIRE / "two-files" / "a-to-b.bin", f"dat://{facts['key']}")
    assert len(text.splitlines()) == len(found)


def test_captures_that_cannot_be_read() -> None:
    """Another key, no session at all, and a cut: each is said with its place."""
    facts = session("two-files")
    file = WIRE / "two-files" / "a-to-b.bin"
    assert "another register" in failure(1, "debug", "wire", file, SIMPLE_KEY)
    assert "no captured session" in failure(1, "debug", "wire", WIRE / "two-files" / "session.json", facts["key"])
    data, key = file.read_bytes(), bytes.fromhex(facts["key"])
    starts = {frame.offset for frame in capture.frames(data, key)}
    for cut in (1, 61, 63, 500, len(data) - 1):
        if cut in starts:
            continue
        with pytest.raises(FormatError, match="offset"):
            list(capture.frames(data[:cut], key))
