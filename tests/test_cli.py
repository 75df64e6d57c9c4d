"""The command line: what each command prints, says and returns, run as a person would run it."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import pkgutil
import pty
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import datfs as package
import datfs.cli as command_line_package
from datfs.cli import MODULES, cli
from datfs.cli.failures import EXIT_CODES, exit_code
from datfs.cli.options import RateType
from datfs.crypto import key_pair
from datfs.errors import DatfsError
from datfs.storage import directory_storage
from datfs.writer import DriveWriter
from tests.command_line import DATFS, SECONDS, datfs, failure, interrupted, objects, on_a_terminal, output, shared
from tests.vector_drives import DRIVES, SEED, SIMPLE_KEY, copy_drive, manifest, snapshot

SIMPLE = DRIVES / "simple"
OTHER_KEY = "ab" * 32
HELLO = "hello world\n"


@pytest.fixture(scope="module")
def peer() -> Iterator[str]:
    """A process that shares the simple drive; its address."""
    with shared(SIMPLE) as (_, address, _):
        yield address


@pytest.fixture
def cache(tmp_path: Path) -> tuple[str, str]:
    """The option for a cache of this test's own."""
    return ("--cache-dir", str(tmp_path / "cache"))


# --- looking around ----------------------------------------------------------------------------------------------


def test_ls_lists_names_in_order() -> None:
    """Plain names, one a line, sorted."""
    assert output("ls", SIMPLE) == "big.bin\ndocs\nexact.bin\nhello.txt\n"


def test_ls_of_several_paths() -> None:
    """Files come first with their whole path, then each directory under a heading."""
    assert output("ls", SIMPLE, "docs", "hello.txt", "/docs/notes/") == (
        "/hello.txt\n\n/docs:\nnotes\nreadme.md\n\n/docs/notes:\none.txt\n"
    )


def test_ls_recursive() -> None:
    """Every directory under a heading, parents before children."""
    headings = [line for line in output("ls", "-R", SIMPLE).splitlines() if line.endswith(":")]
    assert headings == ["/:", "/docs:", "/docs/notes:"]


def test_ls_long() -> None:
    """Mode, size, share that is here and time stand before the name."""
    lines = output("ls", "-l", DRIVES / "modes").splitlines()
    script = next(line for line in lines if line.endswith(" script.sh"))
    assert script.split()[:3] == ["-rwxr-xr-x", "18", "100%"]
    assert next(line for line in lines if line.endswith(" private")).startswith("drwx------")


def test_tree_draws_branches() -> None:
    """The last child of a directory has a corner, the others a branch; the end counts."""
    assert output("tree", SIMPLE).splitlines() == [
        "/",
        "├── big.bin  (146.5 KiB)",
        "├── docs",
        "│   ├── notes",
        "│   │   └── one.txt  (4 B)",
        "│   └── readme.md  (25 B)",
        "├── exact.bin  (64.0 KiB)",
        "└── hello.txt  (12 B)",
        "",
        "2 directories, 5 files",
    ]


def test_cat_writes_exactly_the_bytes() -> None:
    """Several files one after the other, binary ones too."""
    ended = subprocess.run(
        [*DATFS, "cat", str(SIMPLE), "hello.txt", "big.bin"], capture_output=True, timeout=SECONDS, check=True
    )
    assert ended.stdout[:12] == HELLO.encode()
    big = next(fact for fact in manifest("simple")["files"] if fact["path"] == "/big.bin")
    assert hashlib.sha256(ended.stdout[12:]).hexdigest() == big["sha256"]


def test_old_versions_are_shown() -> None:
    """--version N shows the drive as it was, and its bytes."""
    folder = DRIVES / "history"
    assert output("ls", folder, "--version", "2") == "a.txt\nb.txt\n"
    assert output("cat", folder, "a.txt", "--version", "3") == "a, first\n"
    assert output("ls", folder, "--version", "0") == ""


def test_log_tells_each_change() -> None:
    """One line a version, oldest first, as the reference's history has them."""
    changes = objects("log", DRIVES / "history")
    expected = [(change["version"], change["type"], change["path"]) for change in manifest("history")["history"]]
    assert [(change["version"], change["change"], change["path"]) for change in changes] == expected
    lines = output("log", DRIVES / "history").splitlines()
    assert lines[4] == "05 [del] /b.txt"
    assert lines[5] == "06 [put] /dir/sub/d.bin 68.4 KiB (2 chunks)"


def test_log_and_info_of_paths() -> None:
    """With a PATH, log tells only of what is at and below it, and info sums up what is there."""
    told = [change["path"] for change in objects("log", DRIVES / "history", "dir/sub", "b.txt")]
    assert told == [
        "/b.txt",
        "/b.txt",
        "/dir/sub/d.bin",
        "/b.txt",
        "/dir/sub/d.bin",
        "/dir/sub/d.bin",
        "/dir/sub/e.txt",
    ]
    [info] = objects("info", SIMPLE, "docs", "big.bin")
    assert info["paths"] == [
        {"path": "/docs", "files": 2, "directories": 2, "size": 29, "chunks": 2, "chunks_held": 2},
        {"path": "/big.bin", "files": 1, "directories": 0, "size": 150000, "chunks": 3, "chunks_held": 3},
    ]
    assert "/docs: 2 files, 29 B; 2 of 2 chunks here" in output("info", SIMPLE, "docs")


def test_stat_and_info_for_people() -> None:
    """The facts that a person looks for are there."""
    told = output("stat", SIMPLE, "big.bin")
    assert "150000 (146.5 KiB)" in told
    assert "3 from 3, 3 here" in told
    told = output("info", SIMPLE)
    assert f"dat://{SIMPLE_KEY}" in told
    assert "7 of 7 chunks here" in told


# --- JSON ----------------------------------------------------------------------------------------------------------

NUMBER = (int, float)
ENTRY = {"path": str, "type": str, "size": int, "mode": str, "mtime": NUMBER}
LISTED = ENTRY | {"chunk_first": int, "chunks": int, "chunks_held": int, "bytes_held": int}
FILE = LISTED | {"byte_offset": int, "ctime": NUMBER}
SCHEMAS: dict[tuple[str, ...], list[dict[str, Any]]] = {
    ("ls", "-R", "modes"): [ENTRY, LISTED],
    ("stat", "simple", "docs", "hello.txt"): [ENTRY, FILE],
    ("log", "history"): [
        {"version": int, "change": str, "path": str},
        {"version": int, "change": str, "path": str, "size": int, "chunks": int, "mtime": NUMBER},
    ],
    ("info", "simple"): [
        {
            "link": str,
            "discovery_key": str,
            "content_key": str,
            "version": int,
            "newest_version": int,
            "files": int,
            "size": int,
            "writable": bool,
            "metadata_chunks": int,
            "metadata_chunks_held": int,
            "content_chunks": int,
            "content_chunks_held": int,
            "content_bytes": int,
            "store": str,
            "paths": list,
        }
    ],
}


@pytest.mark.parametrize("command", SCHEMAS, ids="-".join)
def test_json_has_the_documented_members(command: tuple[str, ...]) -> None:
    """Each line is one object with exactly the members of docs/json.md, of the types there."""
    words = [DRIVES / word if (DRIVES / word).is_dir() else word for word in command]
    found = objects(*words)
    assert found
    for one in found:
        schema = next((schema for schema in SCHEMAS[command] if schema.keys() == one.keys()), None)
        assert schema is not None, one
        for name, kind in schema.items():
            assert isinstance(one[name], kind), (name, one)


def test_every_member_is_documented() -> None:
    """docs/json.md names every member that these commands print."""
    text = (Path(__file__).parent.parent / "docs" / "json.md").read_text(encoding="utf-8")
    for schemas in SCHEMAS.values():
        for schema in schemas:
            for name in schema:
                assert f"`{name}`" in text, name


@pytest.mark.parametrize(
    "words",
    [
        ("verify", SIMPLE),
        ("debug", "sleep", SIMPLE / ".dat" / "metadata.tree"),
        ("debug", "sleep", SIMPLE / ".dat" / "metadata.bitfield"),
        ("debug", "register", SIMPLE),
        ("debug", "entries", SIMPLE),
        ("debug", "proof", SIMPLE, "3"),
    ],
    ids=lambda words: "-".join(map(str, words[:2])),
)
def test_members_of_verify_and_debug_are_documented(words: tuple[object, ...]) -> None:
    """docs/json.md names every member in the row of its command."""
    text = (Path(__file__).parent.parent / "docs" / "json.md").read_text(encoding="utf-8")
    command = words[1] if words[0] == "debug" else words[0]
    row = next(line for line in text.splitlines() if line.startswith(f"| `{command}` |"))
    for one in objects(*words):
        nested = [value for many in one.values() if isinstance(many, list) for value in many if isinstance(value, dict)]
        for part in (one, *nested, one.get("stat") or {}):
            for name in part:
                assert f"`{name}`" in row, name


def test_ls_json_is_the_manifest() -> None:
    """Paths, kinds and sizes as the reference tells them."""
    found = {one["path"]: (one["type"], one["size"]) for one in objects("ls", "-R", DRIVES / "unicode")}
    expected = {fact["path"]: (fact["type"], fact.get("size", 0)) for fact in manifest("unicode")["files"]}
    assert found == expected


# --- names -------------------------------------------------------------------------------------------------------


@pytest.fixture
def odd_names(tmp_path: Path) -> Path:
    """A drive with names of control bytes and bytes that are not UTF-8."""
    folder = tmp_path / "odd"
    folder.mkdir()
    writer = DriveWriter.create(directory_storage(folder), key_pair(SEED))
    for name in (b"new\nline", b"\x1b[31mred", b"\xff\xfe"):
        writer.put((name,), [b"x"], mtime=0)
    writer.close()
    return folder


def test_names_into_a_pipe_are_as_they_are(odd_names: Path) -> None:
    """Other programs get the very bytes."""
    ended = subprocess.run([*DATFS, "ls", str(odd_names)], capture_output=True, timeout=SECONDS, check=True)
    assert ended.stdout == b"\x1b[31mred\nnew\nline\n\xff\xfe\n"


@pytest.mark.parametrize("command", [("ls",), ("ls", "-l"), ("tree",), ("log",), ("stat",)], ids="-".join)
def test_names_on_a_terminal_are_escaped(command: tuple[str, ...], odd_names: Path) -> None:
    """No name of a drive sends escapes to a terminal, or breaks a line of it."""
    paths = ["new\nline", "\x1b[31mred"] if command == ("stat",) else []
    code, seen = on_a_terminal(*command, odd_names, *paths)
    assert code == 0
    assert "\x1b[31mred" not in seen
    assert "\\x1b[31mred" in seen
    assert "new\\nline" in seen


def test_errors_escape_names() -> None:
    """An error never carries what a name would do to a terminal."""
    assert "\\x1b[31m" in failure(3, "cat", SIMPLE, "\x1b[31mnope")


def test_a_path_that_is_not_utf8_is_found(odd_names: Path) -> None:
    """The bytes of a name can be given as they are."""
    ended = subprocess.run(
        [*DATFS, "cat", str(odd_names), os.fsdecode(b"\xff\xfe")], capture_output=True, timeout=SECONDS, check=True
    )
    assert ended.stdout == b"x"


# --- errors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "words", "message"),
    [
        (2, ["ls", "--nonsense", SIMPLE], "--nonsense.*datfs ls -h"),
        (2, ["ls"], "Missing argument.*datfs ls -h"),
        (2, ["nonsense"], "No such command.*datfs -h"),
        (2, ["ls", SIMPLE, "--timeout", "x"], "--timeout"),
        (2, ["ls", SIMPLE, "--peer", "host:99999"], "HOST:PORT"),
        (2, ["ls", SIMPLE_KEY, "--offline", "--peer", "127.0.0.1:1"], "exclude each other"),
        (2, ["ls", SIMPLE_KEY, "--memory", "--cache-dir", "x"], "exclude each other"),
        (3, ["ls", SIMPLE, "nope"], "no /nope in version 5"),
        (3, ["cat", SIMPLE, "docs/nope"], "no /docs/nope"),
        (3, ["cat", SIMPLE, "docs"], "/docs is a directory: name a file"),
        (3, ["cat", SIMPLE], "/ is a directory"),
        (3, ["ls", SIMPLE, "hello.txt/x"], "hello.txt/x"),
        (3, ["ls", SIMPLE, "--version", "6"], "no version 6: the newest known is 5"),
        (4, ["ls", "/"], "holds no drive"),
        (5, ["ls", SIMPLE_KEY, "--memory"], "name a peer that has it with --peer"),
        (5, ["ls", SIMPLE_KEY, "--memory", "--offline"], "we are offline"),
        (5, ["ls", SIMPLE_KEY, "--memory", "--peer", "127.0.0.1:1"], "127.0.0.1:1.*refused"),
        (7, ["ls", SIMPLE_KEY[:-1]], "63 hexadecimal digits"),
        (7, ["ls", "dat://" + "g" * 64], "not a dat key"),
        (7, ["ls", f"dat://{SIMPLE_KEY}+x"], "whole number"),
        (7, ["ls", "./no-such-folder"], "neither a dat:// link nor a folder"),
        (2, ["share", SIMPLE, "--listen", "nonsense:x"], "--listen"),
        (2, ["share", SIMPLE, "--version", "3"], "--version"),
        (2, ["share", SIMPLE, "--offline"], "--offline"),
        (7, ["share", SIMPLE, "--listen", "no-such-host.invalid:0"], "no address to listen on"),
    ],
)
def test_each_error_is_one_line_and_a_code(code: int, words: list[object], message: str) -> None:
    """What, why and what next in one line, and the exit code of docs/cli.md."""
    assert re.search(message, failure(code, *words))


def damaged(folder: Path, file: str, change: Any) -> Path:
    """The simple drive with one file changed."""
    copy = copy_drive("simple", folder)
    path = copy / ".dat" / file
    path.write_bytes(change(path.read_bytes()))
    return copy


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("metadata.tree", lambda data: b"XYZ" + data[3:], "metadata.tree: not a SLEEP file"),
        ("metadata.signatures", lambda data: data[:10], "metadata.signatures: "),
        ("metadata.bitfield", lambda data: data[:4] + b"\x07" + data[5:], "SLEEP version 7"),
        ("metadata.key", lambda data: data[:31], "metadata.key: a key of 32 bytes should be here"),
        ("metadata.tree", lambda data: data[:8] + b"Rot13" + bytes(19) + data[32:], "algorithm"),
        ("content.tree", lambda data: b"XYZ" + data[3:], "content.tree: not a SLEEP file"),
    ],
)
def test_damaged_folders_name_the_file(tmp_path: Path, file: str, change: Any, message: str) -> None:
    """A SLEEP file that cannot be trusted is named, and nothing in the folder changes."""
    folder = damaged(tmp_path, file, change)
    before = snapshot(folder)
    assert message in failure(1, "ls", folder)
    assert snapshot(folder) == before


def test_debug_shows_the_traceback_too() -> None:
    """With --debug the line of the error is still there, below the traceback."""
    ended = datfs("--debug", "ls", SIMPLE, "nope")
    assert ended.returncode == 3
    assert "Traceback" in ended.stderr
    assert ended.stderr.splitlines()[-1].startswith("datfs: there is no /nope")


def test_every_error_class_has_the_code_of_the_table() -> None:
    """Each kind of error that has a row gets its own code, not that of a wider class before it."""
    assert len({kind for kind, _ in EXIT_CODES}) == len(EXIT_CODES)
    for kind, code in EXIT_CODES:
        error = kind.__new__(kind)
        assert isinstance(error, DatfsError)
        assert exit_code(error) == code


def test_the_table_of_commands_is_what_the_modules_have() -> None:
    """A command that the table lacks would not exist, one in the wrong row would fail."""
    has = {
        module.name: tuple(command.name for command in commands)
        for module in pkgutil.iter_modules(command_line_package.__path__)
        if (commands := getattr(importlib.import_module(f"datfs.cli.{module.name}"), "COMMANDS", ()))
    }
    assert has == MODULES


def test_help_and_version() -> None:
    """-h and --help of the program and of each command, and the version."""
    runner = CliRunner()
    assert package.__version__ in runner.invoke(cli, ["--version"]).output
    for name in ("", *(name for names in MODULES.values() for name in names)):
        for option in ("-h", "--help"):
            ended = runner.invoke(cli, [name, option] if name else [option])
            assert ended.exit_code == 0
            assert "Usage:" in ended.output


def test_a_full_output_is_an_error() -> None:
    """Nothing is lost silently when the output cannot be written."""
    for words in (("ls", "-R", SIMPLE), ("cat", SIMPLE, "big.bin"), ("info", SIMPLE, "--json")):
        with open("/dev/full", "wb") as full:
            ended = datfs(*words, stdout=full.fileno())
        assert ended.returncode == 1, words
        assert ended.stderr == "datfs: the output cannot be written: No space left on device\n"


@pytest.mark.parametrize("words", [("cat", "big.bin"), ("ls", "-R", "--json")], ids=lambda words: words[0])
def test_a_reader_that_has_seen_enough_is_no_error(words: tuple[str, ...], tmp_path: Path) -> None:
    """``datfs cat … | head -c 1`` ends quietly."""
    folder = tmp_path / "long"
    folder.mkdir()
    writer = DriveWriter.create(directory_storage(folder), key_pair(SEED))
    writer.put((b"big.bin",), [bytes(8_000_000)], mtime=0)
    for number in range(500):
        writer.put((b"d", f"{'n' * 200}{number}".encode()), [], mtime=0)
    writer.close()
    command, *rest = words
    with subprocess.Popen(
        [*DATFS, command, str(folder), *rest], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(1)
        process.stdout.close()
        said = process.stderr.read()
        assert process.wait(timeout=SECONDS) == 0
        assert said == b""


def test_a_reader_that_is_gone_is_no_error_to_what_waits_either(tmp_path: Path) -> None:
    """``datfs doctor | head -1``, which prints from a task among others."""
    gone, output_end = os.pipe()
    os.close(gone)
    ended = datfs("doctor", "--discovery", "none", "--cache-dir", tmp_path, stdout=output_end)
    os.close(output_end)
    assert (ended.returncode, ended.stderr) == (0, "")


# --- peers and the cache --------------------------------------------------------------------------------------------


def test_what_was_fetched_is_there_offline(peer: str, cache: tuple[str, str]) -> None:
    """A file read once is read again without a peer; one that was not is an error that names it, at once."""
    assert output("cat", f"dat://{SIMPLE_KEY}/hello.txt", "--peer", peer, *cache) == HELLO
    assert output("cat", f"dat://{SIMPLE_KEY}/hello.txt", "--offline", *cache) == HELLO
    assert "hello.txt" in output("ls", SIMPLE_KEY, "--peer", peer, *cache)
    assert "hello.txt" in output("ls", SIMPLE_KEY, "--offline", *cache)
    said = failure(5, "cat", SIMPLE_KEY, "exact.bin", "--offline", *cache)
    assert "/exact.bin" in said
    assert "offline" in said
    assert output("info", SIMPLE_KEY, "--offline", *cache).count("chunks here") == 2


def test_ls_tells_the_share_that_is_here(peer: str, cache: tuple[str, str]) -> None:
    """``ls -l`` has it in percent, ``--json`` in chunks and bytes: nothing, all, and nothing to have."""
    assert output("cat", f"dat://{SIMPLE_KEY}/hello.txt", "--peer", peer, *cache) == HELLO
    lines = output("ls", "-l", SIMPLE_KEY, "--peer", peer, *cache).splitlines()
    assert {line.split()[-1]: line.split()[2] for line in lines} == {
        "big.bin": "0%",
        "docs": "-",
        "exact.bin": "0%",
        "hello.txt": "100%",
    }
    found = {one["path"]: one for one in objects("ls", SIMPLE_KEY, "--offline", *cache)}
    assert [found["/hello.txt"][name] for name in ("chunks", "chunks_held", "bytes_held")] == [1, 1, 12]
    assert [found["/big.bin"][name] for name in ("chunks", "chunks_held", "bytes_held")] == [3, 0, 0]


def test_links_with_versions_and_paths(peer: str, cache: tuple[str, str]) -> None:
    """+N and the path of a link count; --version wins over +N; beyond the end there is an error."""
    options = ("--peer", peer, *cache)
    assert output("ls", f"dat://{SIMPLE_KEY}+1", *options) == "hello.txt\n"
    assert output("ls", f"dat://{SIMPLE_KEY}+1/", "--version", "2", *options) == "docs\nhello.txt\n"
    assert output("ls", f"{SIMPLE_KEY}/docs", *options) == "notes\nreadme.md\n"
    assert output("cat", f"dat://{SIMPLE_KEY}/docs", "notes/one.txt", *options) == "one\n"
    assert "no version 99" in failure(3, "ls", f"dat://{SIMPLE_KEY}+99", *options)


def test_memory_leaves_nothing(peer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--memory writes nothing to disk."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert output("cat", SIMPLE_KEY, "hello.txt", "--peer", peer, "--memory") == HELLO
    assert list(tmp_path.iterdir()) == []


def test_a_key_that_nobody_has_leaves_nothing(tmp_path: Path) -> None:
    """A mistyped key does not leave a folder in the cache for ever."""
    failure(5, "ls", OTHER_KEY, "--peer", "127.0.0.1:1", "--cache-dir", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_peer_with_another_drive(peer: str) -> None:
    """A peer that does not have the drive is no reason to wait for long."""
    failure(5, "ls", OTHER_KEY, "--peer", peer, "--memory", "--timeout", "10")


def test_a_silent_peer_times_out() -> None:
    """A peer that says nothing costs --timeout and no more."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        said = failure(5, "ls", OTHER_KEY, "--peer", address, "--memory", "--timeout", "0.5")
    assert "within 0.5 s" in said


def test_ctrl_c_is_130() -> None:
    """An interrupted command ends at once, without a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        code, said = interrupted(1.5, "ls", OTHER_KEY, "--peer", address, "--memory")
    assert (code, said) == (130, "")


def test_ctrl_c_while_the_reader_waits() -> None:
    """Also when it is the reader of the output that makes it wait."""
    with subprocess.Popen(
        [*DATFS, "cat", str(SIMPLE), "big.bin", "big.bin", "big.bin"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=SECONDS) == 130


# --- share -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("name", ["simple", "simple-raf", "simple-dat"])
def test_share_serves_a_folder_until_stopped(name: str, number: signal.Signals) -> None:
    """Every layout is served; SIGINT and SIGTERM end it well; the folder is as it was."""
    before = snapshot(DRIVES / name)
    with shared(DRIVES / name) as (link, address, process):
        assert link == f"dat://{SIMPLE_KEY}"
        assert output("cat", link, "hello.txt", "exact.bin", "--peer", address, "--memory").startswith(HELLO)
        process.send_signal(number)
        _, said = process.communicate(timeout=SECONDS)
    assert (process.returncode, said) == (0, "datfs: stopped\n")
    assert snapshot(DRIVES / name) == before


def test_share_serves_what_the_cache_has(peer: str, cache: tuple[str, str]) -> None:
    """A link is shared from the cache, without a peer; what is not here is not offered."""
    output("cat", SIMPLE_KEY, "hello.txt", "--peer", peer, *cache)
    with shared(SIMPLE_KEY, *cache) as (link, address, _):
        assert output("cat", link, "hello.txt", "--peer", address, "--memory") == HELLO
        failure(5, "cat", link, "exact.bin", "--peer", address, "--memory", "--timeout", "1")


def test_two_shares_of_one_cache(peer: str, cache: tuple[str, str]) -> None:
    """The second is refused and names the owner; commands that only look are its peers, or see what it has written."""
    output("cat", SIMPLE_KEY, "hello.txt", "--peer", peer, *cache)
    with shared(SIMPLE_KEY, *cache) as (_, _, process):
        said = failure(1, "share", SIMPLE_KEY, "--listen", "127.0.0.1:0", *cache)
        assert f"in use by process {process.pid}" in said
        assert output("cat", SIMPLE_KEY, "hello.txt", *cache) == HELLO
        assert output("cat", SIMPLE_KEY, "hello.txt", "--peer", peer, *cache) == HELLO
        process.send_signal(signal.SIGSTOP)
        try:
            ended = datfs("cat", SIMPLE_KEY, "hello.txt", *cache)
        finally:
            process.send_signal(signal.SIGCONT)
        assert (ended.returncode, ended.stdout) == (0, HELLO)
        assert f"process {process.pid}, which does not answer; showing what it has written" in ended.stderr


def test_share_where_somebody_listens(peer: str) -> None:
    """A port that is taken is an error with the way out."""
    assert "Address already in use; port 0" in failure(1, "share", SIMPLE, "--listen", peer)


def test_limits_and_listening_are_checked() -> None:
    """What makes no sense is said before anything is opened."""
    for words, said in (
        (("--up", "1000"), "1024 bytes per second"),
        (("--down", "12Q"), "no rate"),
        (("--listen", "127.0.0.1:0", "--no-listen"), "exclude each other"),
        (("--no-listen",), "--no-listen"),
        (("--no-listen", "--peer", "127.0.0.1:9"), "folder"),
    ):
        assert said in failure(2, "share", SIMPLE, *words)


def test_a_link_is_served_without_listening(peer: str, cache: tuple[str, str]) -> None:
    """With --no-listen peers are dialed only; limits may be given."""
    output("cat", SIMPLE_KEY, "hello.txt", "--peer", peer, *cache)
    command = [*DATFS, "share", SIMPLE_KEY, "--no-listen", "--peer", peer, "--up", "1.5M", "--down", "20k", *cache]
    with subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"dat://{SIMPLE_KEY}\n"
        assert process.stdout.readline() == "not listening; peers are dialed\n"
        process.terminate()


@pytest.mark.parametrize(
    ("text", "rate"), [("1024", 1024), ("1K", 1024), ("1.5k", 1536), ("2M", 2 << 20), ("1g", 1 << 30)]
)
def test_rates(text: str, rate: int) -> None:
    """K, M and G count by 1024."""
    assert RateType().convert(text, None, None) == rate


def test_share_tells_what_it_does_on_a_terminal() -> None:
    """On a terminal a line of peers and rates lives at the bottom, until the signal."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [*DATFS, "share", str(SIMPLE), "--listen", "127.0.0.1:0"],
        stdout=slave,
        stderr=slave,
        env={**os.environ, "TERM": "xterm"},
    )
    os.close(slave)
    timer = threading.Timer(SECONDS, process.kill)
    timer.start()
    seen = b""
    try:
        while b"peers, up" not in seen:
            seen += os.read(master, 4096)
        process.terminate()
        assert process.wait(timeout=SECONDS) == 0
    finally:
        timer.cancel()
        process.kill()
        process.wait()
        os.close(master)
    assert b"listening on 127.0.0.1:" in seen


def test_share_json_is_one_object() -> None:
    """The first line has the link and where to connect."""
    with subprocess.Popen(
        [*DATFS, "share", str(SIMPLE), "--listen", "127.0.0.1:0", "--json"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        facts = json.loads(process.stdout.readline())
        process.terminate()
    assert facts.keys() == {"link", "listening"}
    assert facts["link"] == f"dat://{SIMPLE_KEY}"


def test_mount_without_pyfuse3_names_the_commands(tmp_path: Path) -> None:
    """Where the extra is not installed, mount says how to install it and ends with 8; everything else works."""
    without = "import sys; sys.modules['pyfuse3'] = None; from datfs.cli import main; main()"

    def run_without(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", without, *words], capture_output=True, text=True, timeout=60, check=False
        )

    ended = run_without("mount", str(SIMPLE), str(tmp_path))
    assert ended.returncode == 8
    assert "apt-get install libfuse3-dev fuse3 pkg-config gcc python3-dev" in ended.stderr
    assert "pip install 'datfs[fuse]'" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert run_without("cat", str(SIMPLE), "hello.txt").stdout == "hello world\n"


@pytest.mark.parametrize("entry", ["main", "mount_helper"])
def test_an_interrupt_before_anything_began_is_quiet(tmp_path: Path, entry: str) -> None:
    """Ctrl-C while the modules are still being read: no traceback, and a caller sees what the end was."""
    slow = "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(20)\n"
    (tmp_path / "trio.py").write_text(slow)
    start = f"from datfs.__main__ import {entry}; {entry}()"
    ended = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {start}", "cat"],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert (ended.stdout, ended.stderr) == ("", "")
    assert ended.returncode == -signal.SIGINT


@pytest.mark.fuse
def test_a_mount_that_waits_for_its_drive_is_interrupted(tmp_path: Path) -> None:
    """Ctrl-C while nobody brings the drive: code 130, no word, the cursor is back, and nothing is left."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        words = ("mount", f"dat://{OTHER_KEY}", tmp_path, "--peer", address, "--memory", "--timeout", "60")
        pid, terminal = pty.fork()
        if pid == 0:
            os.environ.update(TERM="xterm", COLUMNS="120", LANG="C.UTF-8")
            os.execv(sys.executable, [*DATFS, *map(str, words)])
        seen = b""
        try:
            while b"opening the drive" not in seen:
                seen += os.read(terminal, 65536)
            os.write(terminal, b"\x03")
            while piece := os.read(terminal, 65536):
                seen += piece
        except OSError:
            pass  # Linux says EIO when the other side is closed
        finally:
            os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 130
    assert seen.rfind(b"\x1b[?25h") > seen.rfind(b"\x1b[?25l")
    assert b"Traceback" not in seen
    assert b"SIGTERM" not in seen
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
