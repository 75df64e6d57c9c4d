"""Writing drives: byte for byte what the reference writes, and nothing is lost."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path as FilePath
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import datfs
from datfs import path_index
from datfs.crypto import key_pair
from datfs.errors import BadLink, NotFound, ReadOnly
from datfs.metadata import Path, Record, decode_record, path_of
from datfs.storage import OpenStorage, directory_storage, memory_storage
from datfs.writer import CHUNK_BYTES, DriveWriter, chunks_of
from tests.vector_drives import DRIVES, SEED, SIMPLE_KEY, manifest, read, walk

START = 1_514_764_800_000  # ms; each operation of the plans is a second later
Operation = tuple[str, str, dict[str, Any]]


def fill(label: str, size: int) -> bytes:
    """Bytes that do not compress, as the reference's plans have them."""
    pieces = [hashlib.sha256(f"{label}:{number}".encode()).digest() for number in range(-(-size // 32))]
    return b"".join(pieces)[:size]


def put(path: str, data: str | bytes, **more: Any) -> Operation:
    """A put of text or bytes."""
    return ("put", path, {"data": data.encode() if isinstance(data, str) else data, **more})


def deep_plan() -> list[Operation]:
    """40 levels, and a tree of species."""
    plan, at = [], ""
    for level in range(40):
        at += f"/level-{level}"
        if level % 3 == 0:
            plan.append(put(f"{at}/file.txt", f"depth {level + 1}\n"))
    plan += [put(f"{at}/end/of/the/line.txt", "bottom\n"), put("/top.txt", "top\n")]
    done = {operation[1] for operation in plan}
    species = [change["path"] for change in manifest("deep")["history"] if change["path"] not in done]
    return plan + [put(path, path + "\n") for path in species]


PLANS: dict[str, list[Operation]] = {
    "empty": [],
    "simple": [
        put("/hello.txt", "hello world\n"),
        put("/docs/readme.md", "# simple\n\nA small drive.\n"),
        put("/docs/notes/one.txt", "one\n"),
        put("/big.bin", fill("/big.bin", 150_000)),
        put("/exact.bin", fill("/exact.bin", 65_536)),
    ],
    "deep": deep_plan(),
    "history": [
        put("/a.txt", "a, first\n"),
        put("/b.txt", "b, first\n"),
        put("/dir/c.txt", "c, first\n"),
        put("/a.txt", "a, second, and longer\n"),
        ("del", "/b.txt", {}),
        put("/dir/sub/d.bin", fill("/dir/sub/d.bin", 70_000)),
        ("del", "/dir/c.txt", {}),
        put("/b.txt", "b, back again\n"),
        put("/dir/sub/d.bin", fill("d-again", 66_000)),
        ("del", "/dir/sub/d.bin", {}),
        put("/dir/sub/e.txt", "e\n"),
        put("/a.txt", ""),
    ],
    "unicode": [
        put("/caf\u00e9.txt", "composed\n"),
        put("/cafe\u0301.txt", "decomposed\n"),
        put("/日本語/ファイル.txt", "japanese\n"),
        put("/\U0001f4be.bin", fill("/\U0001f4be.bin", 300)),
        put("/русский текст.txt", "russian\n"),
        put("/\u05e2\u05d1\u05e8\u05d9\u05ea.txt", "hebrew\n"),
        put("/with space/and  two.txt", "spaces\n"),
        put('/quote\'s "double".txt', "quotes\n"),
        put("/new\nline.txt", "newline\n"),
        put("/back\\slash.txt", "the writer turns the backslash into a slash\n"),
        put("/" + "\u00e9" * 127 + "x", "255 bytes of name\n"),
    ],
    "modes": [
        put("/plain.txt", "plain\n", mode=0o644, uid=1000, gid=1000),
        put("/script.sh", "#!/bin/sh\necho ok\n", mode=0o755),
        put("/secret.txt", "secret\n", mode=0o600),
        put("/none.txt", "no mode given: the writer uses 0644\n"),
        put("/setuid", "setuid\n", mode=0o4755),
        put("/read-only.txt", "read only\n", mode=0o444),
        put("/link", "plain.txt", mode=0o120777),
        put("/fifo", "", mode=0o010644),
        ("mkdir", "/private", {"mode": 0o700}),
        put("/private/inside.txt", "inside\n"),
        ("mkdir", "/empty-dir", {"mode": 0o755}),
        put("/old.txt", "mtime 0\n", mtime=0, ctime=0),
        put("/future.txt", "mtime in 2106\n", mtime=4_294_967_296_000),
        put("/millis.txt", "mtime with milliseconds\n", mtime=1_514_764_800_123),
        put("/big-uid.txt", "uid 4294967294\n", uid=4_294_967_294, gid=4_294_967_294),
    ],
    "zero-length": [
        put("/empty-1", ""),
        put("/data.txt", "some data\n"),
        put("/empty-2", ""),
        put("/dir/empty-3", ""),
        put("/more.txt", "more data\n"),
        put("/data.txt", ""),
    ],
}


def carry_out(writer: DriveWriter, plan: Sequence[Operation]) -> None:
    """Does what a plan says, with the times of the reference."""
    for number, (kind, name, arguments) in enumerate(plan, 1):
        path, more = path_of(name), {"mtime": START + 1000 * number, **arguments}
        if kind == "put":
            writer.put(path, chunks_of(more.pop("data")), **more)
        elif kind == "mkdir":
            writer.mkdir(path, **more)
        else:
            writer.delete(path)


def parts(storage: OpenStorage) -> dict[str, bytes]:
    """The bytes of the files that do not depend on how chunks were grouped under signatures."""
    found = {}
    for name in ("metadata.data", "metadata.tree", "metadata.key", "content.data", "content.tree", "content.key"):
        file = storage(name)
        found[name] = file.read(0, file.size())
        file.close()
    return found


@pytest.mark.parametrize("name", PLANS)
def test_a_drive_is_byte_for_byte_the_reference_s(name: str) -> None:
    """For the same seed, operations and times, data and trees of both registers are equal to the last byte."""
    storage = memory_storage()
    writer = DriveWriter.create(storage, key_pair(SEED))
    carry_out(writer, PLANS[name])
    writer.close()
    assert parts(storage) == parts(directory_storage(DRIVES / name / ".dat", read_only=True))


def test_writing_in_several_sessions_makes_no_difference(tmp_path: FilePath) -> None:
    """A drive that is closed and opened again between changes ends up with the same bytes."""
    storage = directory_storage(tmp_path)
    DriveWriter.create(storage, key_pair(SEED)).close()
    plan = PLANS["history"]
    for number, operation in enumerate(plan):
        writer = DriveWriter.open(storage)
        assert writer.version == number
        kind, name, arguments = operation
        if kind == "put":
            arguments = {"mtime": START + 1000 * (number + 1), **arguments}
        carry_out(writer, [(kind, name, arguments)])
        writer.close()
    assert parts(storage) == parts(directory_storage(DRIVES / "history" / ".dat", read_only=True))


async def test_what_was_written_is_read(tmp_path: FilePath) -> None:
    """A drive on disk is opened as a folder and has every file, mode and byte."""
    data = fill("data", 200_000)
    writer = DriveWriter.create(directory_storage(tmp_path), key_pair(SEED))
    assert writer.put((b"a", b"b"), chunks_of(data), mtime=1_000, mode=0o600) == 1
    assert writer.mkdir((b"empty",), mtime=2_000) == 2
    assert writer.version == 2
    writer.close()
    async with datfs.open_drive(tmp_path) as opened:
        assert opened.drive.key.hex() == SIMPLE_KEY
        tree = await opened.drive.checkout()
        found = await walk(tree)
        assert found.keys() == {"/a", "/a/b", "/empty"}
        assert await read(tree, found["/a/b"]) == data
        assert found["/a/b"].permissions == 0o600
        assert found["/a/b"].mtime_ns == 1_000_000_000


def test_a_copy_without_the_secret_key_cannot_be_written() -> None:
    """What the reference left without its secret key is refused, and opens for whoever has the key."""
    folder = directory_storage(DRIVES / "simple" / ".dat", read_only=True)
    copy = memory_storage()
    for name in ("metadata", "content"):
        for part in ("key", "tree", "signatures", "bitfield", "data"):
            source = folder(f"{name}.{part}")
            copy(f"{name}.{part}").write(0, source.read(0, source.size()))
    with pytest.raises(ReadOnly, match="secret key"):
        DriveWriter.open(copy)
    writer = DriveWriter.open(copy, key_pair(SEED).secret)
    assert writer.put((b"new",), [], mtime=0) == 6
    writer.close()


@pytest.mark.parametrize("path", [(), (b"..",), (b"a", b"."), (b"a/b",), (b"nul\0",), (b"x" * 256,), (b"",)])
def test_paths_that_no_drive_may_have(path: tuple[bytes, ...]) -> None:
    """Such a path is refused before anything is written."""
    writer = DriveWriter.create(memory_storage(), key_pair(SEED))
    with pytest.raises(BadLink):
        writer.put(path, [b"data"], mtime=0)
    assert (writer.version, writer.content.length) == (0, 0)


def test_what_is_not_there_cannot_be_deleted() -> None:
    """Deleting a path without an entry is an error, in an empty drive and in others, and changes nothing."""
    writer = DriveWriter.create(memory_storage(), key_pair(SEED))
    with pytest.raises(NotFound):
        writer.delete((b"a",))
    writer.put((b"a",), [], mtime=0)
    with pytest.raises(NotFound):
        writer.delete((b"b",))
    assert writer.version == 1


LEFT_BEHIND = ["/d/x/1", "/d/x/2", "/d/y", "/d/z/1/1", "/e", "/d/x/3/4"]


@settings(max_examples=60)
@given(st.data())
def test_a_deletion_loses_nothing_else(data: st.DataObject) -> None:
    """After any puts and deletions exactly the files are there that were put last: also where the reference forgets."""
    writer = DriveWriter.create(memory_storage(), key_pair(SEED))
    live: set[str] = set()
    for _ in range(data.draw(st.integers(1, 14))):
        name = data.draw(st.sampled_from(LEFT_BEHIND))
        if name in live and data.draw(st.booleans()):
            writer.delete(path_of(name))
            live.discard(name)
        else:
            writer.put(path_of(name), [], mtime=0)
            live.add(name)
        assert set(all_files(writer)) == live


def all_files(writer: DriveWriter, directory: Path = ()) -> Iterator[str]:
    """The paths of all files, by listing."""

    def record(seq: int) -> Record:
        return decode_record(seq, writer.metadata.get(seq))

    for child in path_index.run(path_index.child_entries(record, writer.version, directory)):
        path = (*directory, child.name)
        if child.kind == "file":
            yield "/" + b"/".join(path).decode()
        else:
            yield from all_files(writer, path)


def test_a_deletion_that_the_reference_would_get_wrong() -> None:
    """Only a deletion stands for /d/x; deleting /d/y leaves what is below /d/x where it was."""
    writer = DriveWriter.create(memory_storage(), key_pair(SEED))
    for name in ("/d/x/1", "/d/x/2", "/d/y"):
        writer.put(path_of(name), [], mtime=0)
    writer.delete(path_of("/d/x/1"))
    writer.delete(path_of("/d/y"))
    assert list(all_files(writer)) == ["/d/x/2"]


def test_chunks_are_cut_as_the_reference_does() -> None:
    """65,536 bytes each, the rest in the last; nothing for no bytes."""
    assert [len(piece) for piece in chunks_of(bytes(CHUNK_BYTES * 2 + 5))] == [CHUNK_BYTES, CHUNK_BYTES, 5]
    assert [len(piece) for piece in chunks_of(bytes(CHUNK_BYTES))] == [CHUNK_BYTES]
    assert list(chunks_of(b"")) == []
