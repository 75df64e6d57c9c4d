"""The text after ``-o``: known words taken, unknown ones refused by name."""

from __future__ import annotations

import os

import pytest

from datfs.mount_options import MountOptions, parse_options


def test_nothing_said_is_the_default() -> None:
    """No text, and words that are always so, change nothing."""
    assert parse_options("") == MountOptions()
    assert parse_options("ro,default_permissions,nosuid,nodev") == MountOptions()
    assert MountOptions().uid == os.getuid()


def test_every_mount_is_read_only_and_ours() -> None:
    """libfuse always gets ro, default_permissions and the type by which our mounts are known."""
    given = MountOptions(fsname="dat://ab").for_libfuse()
    assert given == {"ro", "default_permissions", "fsname=dat://ab", "subtype=datfs"}


def test_values_are_read() -> None:
    """Owner, umask (octal), read-ahead and flags arrive where they belong."""
    options = parse_options("allow_other, uid=1000,gid=100,umask=027,read_ahead_kb=1024,fsname=x,noexec")
    assert (options.uid, options.gid, options.umask, options.read_ahead_kb) == (1000, 100, 0o27, 1024)
    assert options.for_libfuse() >= {"allow_other", "noexec", "fsname=x"}


def test_what_fstab_adds_is_ignored() -> None:
    """A line of fstab can be handed through as it is."""
    assert parse_options("defaults,nofail,_netdev,noauto,user,x-systemd.automount") == MountOptions()


def test_a_base_is_kept_where_nothing_is_said() -> None:
    """The program's own choices stay unless the text names them."""
    base = MountOptions(fsname="dat://ab", umask=0o22)
    assert parse_options("umask=0", base) == MountOptions(fsname="dat://ab", umask=0)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("max_read=4096", "max_read"),
        ("ro,frobnicate", "frobnicate"),
        ("nonempty", "nonempty"),
        ("rw", "read-only"),
        ("uid=root", "uid=root"),
        ("uid=-1", "uid=-1"),
        ("umask=999", "umask=999"),
        ("umask=7777", "octal number from 0 to 777"),
        ("read_ahead_kb=", "read_ahead_kb="),
        ("read_ahead_kb=99999999", "65536"),
        ("allow_other=yes", "allow_other"),
        ("ro=1", "ro"),
        ("fsname=", "fsname"),
        ("fsname=a\\b", "fsname"),
        ("fsname=ä", "fsname"),
        ("remount", "unmount it and mount it anew"),
    ],
)
def test_the_unknown_and_the_wrong_are_named(text: str, named: str) -> None:
    """The message says which option is meant."""
    with pytest.raises(ValueError) as caught:
        parse_options(text)
    assert named in str(caught.value)
