"""``mount.datfs``: what mount(8) says, as ``datfs mount`` understands it; and mount(8) itself where that is allowed."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from datfs.cli.mount_helper import SYSTEM_CACHE, Call, parse_call, split_options, words_for
from tests.vector_drives import DRIVES

LINK = "dat://" + "ab" * 32
ROOT = Path(__file__).parent.parent


def words(options: str, *, link: str = LINK, sloppy: bool = False) -> list[str]:
    """What ``datfs mount`` is called with, without the default place of the cache and the name of the source."""
    made = words_for(Call(link, "/mnt/x", options + ",memory,fsname=f", sloppy=sloppy))
    assert made[-3:] == ["--", link, "/mnt/x"]
    made = made[:-3]
    made.remove("--memory")
    kernel = made.index("-o")
    rest = [word for word in made[kernel + 1].split(",") if word != "fsname=f"]
    return made[:kernel] + (["-o", ",".join(rest)] if rest else [])


def test_calls_as_mount_makes_them() -> None:
    """Source, directory, and options together or apart from their letter, in any order."""
    assert parse_call([LINK, "/m", "-o", "rw,uid=5"]) == Call(LINK, "/m", "rw,uid=5")
    assert parse_call(["-sfnv", "-t", "datfs", LINK, "/m", "-orw", "-o", "x-y"]) == Call(
        LINK, "/m", "rw,x-y", fake=True, sloppy=True, verbose=True
    )


@pytest.mark.parametrize("call", [[], [LINK], [LINK, "/m", "/n"], [LINK, "/m", "-q"], [LINK, "/m", "-o"]])
def test_other_calls_are_refused(call: list[str]) -> None:
    """What is not a call of mount(8) gets the usage."""
    with pytest.raises(ValueError, match="usage: "):
        parse_call(call)


def test_values_in_quotes_may_have_commas() -> None:
    """As mount(8) leaves them."""
    assert list(split_options('a,discovery="mdns,dns", b=c=d,,')) == [
        ("a", None),
        ("discovery", "mdns,dns"),
        ("b", "c=d"),
    ]
    with pytest.raises(ValueError, match="quote"):
        list(split_options('a="b'))


def test_what_fstab_and_mount_add_says_nothing() -> None:
    """The words of mount(8), of systemd and of the kernel for other file systems change nothing."""
    assert words("rw,defaults,noauto,nofail,_netdev,x-systemd.automount,X-mount.mkdir,user=me,comment=hello") == []
    assert words("relatime,nosuid,nodev,exec,async,silent") == []


def test_long_options_of_datfs_mount_are_taken() -> None:
    """With underscores or dashes, as flags or with values, repeated too."""
    assert words("peer=a:1,peer=b:2,pin_version,no-upload,timeout=5") == [
        *("--peer", "a:1", "--peer", "b:2", "--pin-version", "--no-upload", "--timeout", "5")
    ]


def test_options_of_the_file_system_go_on_as_they_are() -> None:
    """What ``-o`` of datfs mount knows goes there."""
    assert words("allow_other,uid=5,umask=027,noatime,timeout=5") == [
        *("--allow-other", "--uid", "5", "--umask", "027", "--timeout", "5", "-o", "noatime")
    ]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ("frobnicate", "frobnicate"),
        ("frob=1", "frob"),
        ("remount", "remount"),
        ("timeout", "timeout=…"),
        ("pin_version=yes", "takes no value"),
        ("read_ahead_kb=x", "read_ahead_kb=x"),
    ],
)
def test_the_unknown_and_the_wrong_are_named(options: str, named: str) -> None:
    """The message names the option; with -s the unknown ones are left out, as mount(8) wants it."""
    with pytest.raises(ValueError, match=named):
        words(options)
    assert words("frobnicate,timeout=5", sloppy=True) == ["--timeout", "5"]


def test_the_cache_and_the_name_of_the_source(monkeypatch: pytest.MonkeyPatch) -> None:
    """As root the cache does not depend on HOME; the source is named as in fstab, if that can be."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert words_for(Call(LINK, "/m")) == ["--cache-dir", SYSTEM_CACHE, "-o", f"fsname={LINK}", "--", LINK, "/m"]
    assert words_for(Call("/a b", "/m", "cache_dir=/c")) == ["--cache-dir", "/c", "--", "/a b", "/m"]
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "--cache-dir" not in words_for(Call(LINK, "/m"))


def helper(*call: str) -> subprocess.CompletedProcess[str]:
    """Runs the helper as at boot: nothing is in the environment."""
    environment = {"PYTHONPATH": str(ROOT), "DATFS_DISCOVERY": "none"}
    command = [sys.executable, "-m", "datfs.cli.mount_helper", *call]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)


@pytest.mark.parametrize(
    ("call", "code"),
    [
        (("nonsense", "/mnt"), 32),
        ((LINK, "/does/not/exist", "-o", "memory"), 32),
        ((LINK, "/mnt", "-o", "frobnicate"), 1),
        ((LINK, "/mnt", "-o", "timeout=soon"), 1),
        ((LINK, "/mnt", "-o", "umask=999"), 1),
        ((), 1),
        ((LINK, "/does/not/exist", "-f"), 0),
    ],
)
def test_exit_codes_are_those_of_mount(call: tuple[str, ...], code: int) -> None:
    """1 for a wrong call, 32 for a mount that failed, each with one line; a fake mount does nothing."""
    ended = helper(*call)
    assert ended.returncode == code, ended
    assert len(ended.stderr.splitlines()) == (1 if code else 0)


WITH_MOUNT = """
set -e
mount -t tmpfs none "$WORK"
mkdir "$WORK/upper" "$WORK/work"
mount -t overlay overlay -o "lowerdir=/usr/sbin,upperdir=$WORK/upper,workdir=$WORK/work" /usr/sbin
cat >/usr/sbin/mount.datfs <<END
#!/bin/sh
PYTHONPATH="$PROJECT" exec "$PYTHON" -m datfs.cli.mount_helper "\\$@"
END
chmod +x /usr/sbin/mount.datfs
trap 'umount "$POINT" || umount -l "$POINT"' EXIT
echo "$DRIVE $POINT datfs noauto,nofail,_netdev,allow_other,uid=5,umask=027,x-systemd.automount 0 0" >"$WORK/fstab"
env -i mount -T "$WORK/fstab" "$POINT"
env -i mount -T "$WORK/fstab" -a
stat -c '%n %a %u' "$POINT"/hello.txt "$POINT"/docs
cat "$POINT/hello.txt"
grep "$POINT" /proc/self/mountinfo | wc -l
"""


@pytest.mark.fuse
def test_a_line_of_fstab(tmp_path: Path) -> None:
    """mount(8) mounts by fstab with an empty environment, knows that it did, and the options hold."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("needs root and unshare, to put mount.datfs where mount(8) looks in a namespace of our own")
    for name in ("work", "point"):
        (tmp_path / name).mkdir()
    environment = {
        **os.environ,
        "WORK": str(tmp_path / "work"),
        "POINT": str(tmp_path / "point"),
        "DRIVE": str(DRIVES / "simple"),
        "PROJECT": str(ROOT),
        "PYTHON": sys.executable,
    }
    command = ["unshare", "--mount", "sh", "-c", WITH_MOUNT]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=40, check=False)
    if "unshare" in ended.stderr or "overlay" in ended.stderr:
        pytest.skip(f"no mount namespace with an overlay here: {ended.stderr.strip()}")
    assert ended.returncode == 0, ended.stderr
    first, second, *rest = ended.stdout.splitlines()
    assert first.split()[1:] == ["440", "5"]
    assert second.split()[1:] == ["550", "5"]
    assert rest == ["hello world", "1"] or rest[-1] == "1", rest


def test_the_script_is_a_program_of_the_package() -> None:
    """What is installed as mount.datfs begins this module."""
    scripts = (ROOT / "pyproject.toml").read_text()
    assert '"mount.datfs" = "datfs.__main__:mount_helper"' in scripts
    assert stat.S_ISREG((ROOT / "datfs/cli/mount_helper.py").stat().st_mode)
