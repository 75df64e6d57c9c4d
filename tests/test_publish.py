"""init, add, rm, commit, keys and the status of a folder, run as a person would run them."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import stat
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from datfs import secret_keys
from datfs.cli.folder_status import show_folder_status
from datfs.dat_folder import open_dat_folder
from datfs.folder.committing import now_ms
from tests.command_line import DATFS, SECONDS, datfs, failure, on_a_terminal, output, shared


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of the test's own."""
    place = tmp_path / "home"
    place.mkdir()
    monkeypatch.setenv("HOME", str(place))
    return place


@pytest.fixture
def folder(tmp_path: Path, home: Path) -> Path:
    """A folder with a drive, and files that are not in it yet."""
    place = tmp_path / "drive"
    for name in ("a.txt", "sub/b", "sub/deep/c"):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(name)
    assert datfs("init", place).returncode == 0
    return place


def link_of(folder: Path) -> str:
    """The link of the drive in a folder."""
    return f"dat://{(folder / '.dat' / 'metadata.key').read_bytes().hex()}"


def committed(folder: Path, *words: object) -> list[dict[str, Any]]:
    """What a commit says that must succeed."""
    return [json.loads(line) for line in output("commit", "-C", folder, "-q", "--json", *words).splitlines()]


def changes(folder: Path, *words: object) -> list[str]:
    """What a commit did, as ``change /path``."""
    return [f"{one['change']} {one['path']}" for one in committed(folder, *words)[:-1]]


def status(folder: Path) -> dict[str, Any]:
    """The status of a folder."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        show_folder_status(folder, True, quiet=True)
    found: dict[str, Any] = json.loads(said.getvalue())
    return found


def paths(those: list[dict[str, Any]]) -> list[str]:
    """Their paths."""
    return [one["path"] for one in those]


# --- init ----------------------------------------------------------------------------------------------------------


def test_init_prints_the_link_and_writes_dat_json(tmp_path: Path, home: Path) -> None:
    """The link alone is on stdout; dat.json is as the reference writes it, and the drive's only file."""
    folder = tmp_path / "new"
    link = output("init", folder, "--title", "Ä title", "--description", "words").strip()
    assert link == link_of(folder)
    text = f'{{\n  "title": "Ä title",\n  "description": "words",\n  "url": "{link}"\n}}'
    assert (folder / "dat.json").read_text(encoding="utf-8") == text
    assert output("cat", folder, "dat.json") == text
    assert output("ls", folder) == "dat.json\n"
    assert stat.S_IMODE(secret_keys.place(bytes.fromhex(link[6:]), home).stat().st_mode) == 0o600


def test_init_where_a_drive_is(folder: Path) -> None:
    """It is refused, and the link of the drive is named; nothing is changed."""
    before = link_of(folder)
    assert before in failure(1, "init", folder)
    assert link_of(folder) == before


def test_init_keeps_what_dat_json_says(tmp_path: Path, home: Path) -> None:
    """Other members stay, and so do title and description unless others are given; only the link is the new one's."""
    folder = tmp_path / "new"
    folder.mkdir()
    (folder / "dat.json").write_text('{"web_root": "/public", "title": "old", "description": "d", "url": "dat://x"}')
    (facts,) = [json.loads(line) for line in output("init", folder, "--title", "new", "--json").splitlines()]
    found = json.loads((folder / "dat.json").read_text())
    assert found == {"web_root": "/public", "title": "new", "description": "d", "url": facts["link"]}
    assert facts["version"] == 1


def test_init_with_a_dat_json_that_is_none(tmp_path: Path, home: Path) -> None:
    """It is named, and no drive is made."""
    folder = tmp_path / "new"
    folder.mkdir()
    for text in ("{", "[]"):
        (folder / "dat.json").write_text(text)
        assert "dat.json" in failure(1, "init", folder)
    assert not (folder / ".dat").exists()


# --- add, rm, commit -----------------------------------------------------------------------------------------------


def test_only_what_is_staged_is_committed(folder: Path) -> None:
    """Names are staged, a folder with all that is in it; the bytes are those at the commit."""
    assert output("add", "-C", folder, "-q", "sub") == "new      /sub/b\nnew      /sub/deep/c\n"
    (folder / "sub" / "b").write_text("later")
    assert changes(folder) == ["put /sub/b", "put /sub/deep/c"]
    assert output("cat", folder, "sub/b") == "later"
    assert changes(folder) == []
    assert changes(folder, "-a") == ["put /a.txt"]
    assert changes(folder, "-a") == []


def test_paths_are_those_of_where_the_person_is(folder: Path) -> None:
    """From a folder below the drive's, names are found from there; others are refused."""
    inside = folder / "sub"
    assert changes(inside, "deep") == ["put /sub/deep/c"]
    assert changes(inside, folder / "a.txt", "b") == ["put /a.txt", "put /sub/b"]
    assert "outside" in failure(7, "commit", "-C", inside, "../..")
    assert "registers" in failure(7, "commit", "-C", inside, "../.dat/metadata.key")
    assert "no such file" in failure(3, "commit", "-C", inside, "-q", "nothing")
    assert "no drive" in failure(4, "commit", "-C", folder.parent, "-a")


def test_gone_files_are_staged_and_committed(folder: Path) -> None:
    """A file that is gone leaves the drive, when it was named or everything is."""
    committed(folder, "-a")
    (folder / "sub" / "b").unlink()
    (folder / "a.txt").unlink()
    assert output("add", "-C", folder, "-q", "a.txt") == "removed  /a.txt\n"
    assert changes(folder) == ["del /a.txt"]
    assert changes(folder, "sub/b") == ["del /sub/b"]


def test_rm(folder: Path) -> None:
    """Files go from the folder at once and from the drive with the next commit; --cached leaves them in the folder."""
    committed(folder, "-a")
    assert "-r" in failure(2, "rm", "-C", folder, "sub")
    assert output("rm", "-C", folder, "-r", "sub") == "removed  /sub/deep/c\nremoved  /sub/b\n"
    assert not (folder / "sub").exists()
    output("rm", "-C", folder, "--cached", "a.txt")
    assert (folder / "a.txt").exists()
    assert changes(folder) == ["del /a.txt", "del /sub/b", "del /sub/deep/c"]
    assert "no such file" in failure(3, "rm", "-C", folder, "a.txt")


def test_rm_loses_no_change(folder: Path) -> None:
    """A file that is not in the drive as it is here stays, unless it is forced; and so do those named with it."""
    committed(folder, "-a")
    (folder / "sub" / "b").write_text("changed")
    assert "/sub/b was changed" in failure(1, "rm", "-C", folder, "a.txt", "sub/b")
    assert (folder / "a.txt").exists()
    assert changes(folder) == []
    output("rm", "-C", folder, "--force", "a.txt", "sub/b")
    assert not (folder / "sub" / "b").exists()


def test_a_commit_says_what_went_in(folder: Path) -> None:
    """On stdout one line for each change and one for all; as JSON objects with the same facts."""
    assert output("commit", "-C", folder, "-q", "a.txt").splitlines() == [
        "2 [put] /a.txt 5 B (1 chunk)",
        f"version 2 of {link_of(folder)}: 1 file put, 5 B; 0 deleted",
    ]
    assert committed(folder, "-a") == [
        {"version": 3, "change": "put", "path": "/sub/b", "size": 5, "chunks": 1},
        {"version": 4, "change": "put", "path": "/sub/deep/c", "size": 10, "chunks": 1},
        {"link": link_of(folder), "version": 4, "puts": 2, "dels": 0, "size": 15},
    ]


def test_a_file_that_cannot_be_committed_is_named(folder: Path) -> None:
    """The others are committed; the exit code says that not all is well. Notes alone do not."""
    os.mkfifo(folder / "pipe")
    ended = datfs("commit", "-C", folder, "-q", "a.txt", "pipe")
    assert (ended.returncode, ended.stderr) == (0, "datfs: /pipe is left out: it is a named pipe\n")
    (folder / "bad\udcff").write_text("x")
    ended = datfs("commit", "-C", folder, "-q", "-a", "--json")
    assert ended.returncode == 9
    assert "/bad\\xff is left out: its name is not UTF-8" in ended.stderr
    said = [json.loads(line) for line in ended.stdout.splitlines()]
    assert {"path": "/bad\udcff", "failed": True}.items() <= said[-2].items()
    assert paths(said[:2]) == ["/sub/b", "/sub/deep/c"]


def test_progress_is_told_unless_quiet(folder: Path) -> None:
    """Lines on stderr where that is no terminal, nothing with --quiet, and a bar on a terminal."""
    ended = datfs("commit", "-C", folder, "a.txt")
    assert re.fullmatch(r"datfs: imported 1 file, 5 B, .*/s\n", ended.stderr)
    assert datfs("commit", "-C", folder, "-q", "sub/b").stderr == ""
    code, seen = on_a_terminal("commit", "-C", folder, "-a")
    assert code == 0
    assert "importing" in seen
    assert "1/1 files" in seen
    assert "[put] /sub/deep/c" in seen


def test_nothing_to_do_is_said(folder: Path) -> None:
    """With nothing staged it is said how to stage."""
    assert "datfs add" in datfs("commit", "-C", folder).stderr
    committed(folder, "-a")
    assert "nothing differs" in datfs("commit", "-C", folder, "-a").stderr


def test_a_clock_that_went_back_is_told(folder: Path) -> None:
    """An entry from the future makes the next commit say so."""
    writer = open_dat_folder(folder)
    writer.import_file((b"a.txt",), mtime=now_ms() + 3_600_000)
    writer.close()
    assert "the clock is 3" in datfs("commit", "-C", folder, "-a").stderr


def test_two_writers_at_once(folder: Path) -> None:
    """The second one is refused with the number of the first, and does nothing."""
    writer = open_dat_folder(folder)
    try:
        for words in (("commit", "-a"), ("add", "."), ("rm", "dat.json")):
            said = failure(1, words[0], "-C", folder, *words[1:])
            assert f"in use by process {os.getpid()}" in said
    finally:
        writer.close()
    assert changes(folder, "a.txt") == ["put /a.txt"]


def test_watching_has_the_folder(folder: Path) -> None:
    """share --watch commits what is there, what comes, and lets nobody else write meanwhile."""
    with shared(folder, "--watch", "--quiet") as (link, _, process):
        assert link == link_of(folder)
        assert "in use" in failure(1, "commit", "-C", folder, "-a")
        (folder / "new").write_text("new")
        end = time.monotonic() + SECONDS
        while "new" not in output("ls", folder):
            assert time.monotonic() < end
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS) == 0
    assert changes(folder, "-a") == []
    assert "--watch" in failure(2, "share", "--watch", link)


def has_open(pid: int, folder: Path) -> bool:
    """Whether a process has a folder open, as one has that writes the drive in it."""
    with contextlib.suppress(OSError):
        return any(os.readlink(at) == os.fspath(folder) for at in Path(f"/proc/{pid}/fd").iterdir())
    return False


@pytest.mark.parametrize("with_", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_commit_that_is_ended_and_repeated(folder: Path, with_: signal.Signals) -> None:
    """Whenever that happens, the drive is all right, and no byte of a file is in it twice."""
    for number in range(300):
        (folder / f"file-{number:03}").write_bytes(os.urandom(2_000))
    (folder / "large").write_bytes(os.urandom(40 << 20))
    for after in (0.0, 0.05, 0.2):
        command = [*DATFS, "commit", "-C", str(folder), "-aq"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
            while process.poll() is None and not has_open(process.pid, folder / ".dat"):
                time.sleep(0.005)
            time.sleep(after)
            process.send_signal(with_)
            _, said = process.communicate(timeout=SECONDS)
        assert process.returncode in (0, -with_, 128 + with_), said
        assert b"Traceback" not in said
    committed(folder, "-a")
    (facts, content) = [json.loads(line) for line in output("verify", folder, "--json").splitlines()]
    assert facts["ok"]
    assert content["ok"]
    size = sum(at.stat().st_size for at in folder.rglob("*") if at.is_file() and ".dat" not in at.parts)
    info = json.loads(output("info", folder, "--json"))
    assert info["content_bytes"] == size
    assert info["content_chunks_held"] == info["content_chunks"]


# --- secret keys ---------------------------------------------------------------------------------------------------


def test_without_the_secret_key_nothing_is_written(folder: Path, home: Path) -> None:
    """A copy of the folder with another home says what is missing; looking at it works."""
    (folder / ".dat" / "metadata.ogd").unlink()
    said = failure(1, "commit", "-C", folder, "-a")
    assert "secret key" in said
    assert "datfs keys import" in said
    found = status(folder)
    assert found["writable"] is False
    assert "secret key" in found["why_not_writable"]


def test_a_secret_key_goes_out_and_in(folder: Path, home: Path, tmp_path: Path) -> None:
    """Exported into a new file that is the owner's only, and imported in another home; by pipes as well."""
    file = tmp_path / "key"
    assert output("keys", "export", folder, "-o", file) == ""
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "exists" in failure(1, "keys", "export", folder, "-o", file)
    text = output("keys", "export", link_of(folder))
    assert text == output("keys", "export", folder) == file.read_text()
    assert re.fullmatch(r"[0-9a-f]{128}\n", text)
    (listed,) = output("keys", "ls").splitlines()
    assert listed.endswith(link_of(folder))
    assert text[:64] not in listed
    for words, given in ((("-C", folder, file), ""), (("-C", folder), text)):
        secret_keys.place(bytes.fromhex(link_of(folder)[6:]), home).unlink()
        (folder / ".dat" / "metadata.ogd").unlink()
        failure(1, "keys", "export", folder)
        ended = subprocess.run(
            [*DATFS, "keys", "import", *map(str, words)], input=given, capture_output=True, text=True, check=False
        )
        assert (ended.returncode, ended.stdout) == (0, link_of(folder) + "\n")
    assert changes(folder, "a.txt") == ["put /a.txt"]


def test_a_secret_key_is_not_shown_on_a_terminal(folder: Path) -> None:
    """It says how to get it instead."""
    code, seen = on_a_terminal("keys", "export", folder)
    assert code == 2
    assert "--output" in seen
    assert not re.search(r"[0-9a-f]{128}", seen)


def test_wrong_secret_keys_are_refused(folder: Path, home: Path, tmp_path: Path) -> None:
    """That of another drive, none at all, and a file that others may read: no message shows what was given."""
    other = tmp_path / "other"
    output("init", other)
    file = tmp_path / "key"
    output("keys", "export", other, "-o", file)
    secret = file.read_text().strip()
    (folder / ".dat" / "metadata.ogd").unlink()
    wrong = failure(1, "keys", "import", "-C", folder, file)
    assert "not that of the drive" in wrong
    file.chmod(0o640)
    readable = failure(1, "keys", "import", "-C", other, file)
    assert "chmod 600" in readable
    file.chmod(0o600)
    file.write_text(secret[:-2])
    short = failure(7, "keys", "import", "-C", other, file)
    assert "128" in short
    assert not any(secret[:20] in said for said in (wrong, readable, short))
    kept = secret_keys.place(bytes.fromhex(link_of(folder)[6:]), home)
    kept.write_bytes(bytes.fromhex(secret))
    (folder / ".dat" / "metadata.ogd").write_bytes(b"\0")
    assert "does not belong" in failure(1, "commit", "-C", folder, "-a")
    assert status(folder)["writable"] is False
    assert "not the secret key" in output("keys", "ls")


# --- status --------------------------------------------------------------------------------------------------------


def test_status_tells_what_is_what(folder: Path) -> None:
    """Staged changes are apart from what a commit would leave as it is."""
    committed(folder, "sub")
    found = status(folder)
    assert (found["version"], found["files"], found["writable"]) == (3, 3, True)
    assert (found["link"], found["staged"], paths(found["untracked"])) == (link_of(folder), [], ["/a.txt"])
    (folder / "sub" / "b").write_text("changed")
    (folder / "sub" / "deep" / "c").unlink()
    (folder / "new").write_text("new")
    os.mkfifo(folder / "pipe")
    output("add", "-C", folder, "-q", "new")
    output("rm", "-C", folder, "--cached", "dat.json")
    found = status(folder / "sub")
    assert [(one["path"], one["change"]) for one in found["staged"]] == [("/dat.json", "removed"), ("/new", "new")]
    assert paths(found["changed"]) == ["/sub/b"]
    assert paths(found["untracked"]) == ["/a.txt"]
    assert paths(found["removed"]) == ["/sub/deep/c"]
    assert found["left_out"] == [{"path": "/pipe", "why": "it is a named pipe", "failed": False}]


def test_status_for_a_person(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same in words; and that there is nothing, if there is nothing."""
    output("add", "-C", folder, "-q", "a.txt")
    show_folder_status(folder, False, quiet=True)
    said = capsys.readouterr().out
    assert f"Link:          {link_of(folder)}\n" in said
    assert "to be committed:\n  new      /a.txt\n" in said
    assert "not in the drive:\n  /sub/b\n  /sub/deep/c\n" in said
    committed(folder, "-a")
    show_folder_status(folder, False, quiet=True)
    assert capsys.readouterr().out.endswith("The folder is as the drive.\n")


def test_a_damaged_staging_is_named(folder: Path) -> None:
    """What was staged is not guessed."""
    (folder / ".dat" / "datfs.staged").write_bytes(b"{")
    assert "datfs.staged" in failure(1, "commit", "-C", folder)


# --- JSON ----------------------------------------------------------------------------------------------------------


def test_every_member_is_documented(tmp_path: Path, home: Path) -> None:
    """docs/json.md names in the row of each command what it prints; for a status in its section."""
    text = (Path(__file__).parent.parent / "docs" / "json.md").read_text(encoding="utf-8")
    folder = tmp_path / "drive"
    folder.mkdir()
    (folder / "a").write_text("a")
    os.mkfifo(folder / "pipe")
    key = tmp_path / "key"
    said = {"init": output("init", folder, "--json")}
    said["add"] = datfs("add", "-C", folder, "--json").stdout
    said["commit"] = datfs("commit", "-C", folder, "-a", "--json").stdout
    said["rm"] = output("rm", "-C", folder, "a", "--json")
    said["keys ls"] = output("keys", "ls", "--json")
    output("keys", "export", folder, "-o", key)
    said["keys import"] = datfs("keys", "import", "-C", folder, key, "--json").stdout
    for command, lines in said.items():
        row = next(line for line in text.splitlines() if line.startswith(f"| `{command}` |"))
        members = {name for line in lines.splitlines() for name in json.loads(line)}
        assert members
        assert not [name for name in members if f"`{name}`" not in row], command
    section = text.partition("## The status of a folder")[2].partition("##")[0]
    found = status(folder)
    members = {*found, *(name for many in found.values() if isinstance(many, list) for one in many for name in one)}
    assert not [name for name in members if f"`{name}`" not in section]
