"""What can be chosen about a mount, and how it is written after ``-o`` (fuse.md section 1).

No FUSE library is needed to read options, so that a wrong one is refused before anything else is looked at.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace

SUBTYPE = "datfs"  # the kernel shows it as file system type "fuse.datfs": how our mounts are recognised

# Words that mount(8) and fstab hand to every helper and that say nothing about this mount.
_IGNORED = frozenset({"defaults", "auto", "noauto", "nofail", "_netdev", "user", "users", "owner"})
# Always so for a drive; accepted because people write them.
_GIVEN = frozenset({"ro", "default_permissions", "nosuid", "nodev"})
_PASSED = frozenset({"noexec", "noatime", "allow_other", "allow_root", "auto_unmount"})


@dataclass(frozen=True, slots=True)
class MountOptions:
    """``uid``, ``gid``: who owns every file. ``umask``: permission bits that are taken away from every entry.

    ``read_ahead_kb``: the kernel's read-ahead for the mount in KiB, None to leave it (needs root).
    ``xattrs``: show what is here as extended attributes. ``flags``: options handed to libfuse as they are.
    ``deny_programs``: names of programs that may open only what is here.
    """

    fsname: str = "dat"
    uid: int = field(default_factory=os.getuid)
    gid: int = field(default_factory=os.getgid)
    umask: int = 0
    read_ahead_kb: int | None = None
    xattrs: bool = True
    flags: frozenset[str] = frozenset()
    deny_programs: frozenset[str] = frozenset()

    def for_libfuse(self) -> set[str]:
        """The options as libfuse takes them."""
        return {"ro", "default_permissions", f"fsname={self.fsname}", f"subtype={SUBTYPE}", *self.flags}


def parse_options(text: str, base: MountOptions | None = None) -> MountOptions:
    """Reads the text after ``-o``: words and ``name=value`` with commas between. ``base``: what is not named.

    Raises ValueError for an option that is unknown or has a wrong value; the message names it.
    """
    options = base if base is not None else MountOptions()
    for word in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = word.partition("=")
        if (not equals and (name in _GIVEN or name in _IGNORED)) or name.startswith("x-"):
            continue
        if not equals and name in _PASSED:
            options = replace(options, flags=options.flags | {name})
        elif name == "noxattrs" and not equals:
            options = replace(options, xattrs=False)
        elif name == "fsname":
            options = replace(options, fsname=_fsname(value))
        elif name == "uid":
            options = replace(options, uid=_number(name, value, 10, 2**32 - 2))
        elif name == "gid":
            options = replace(options, gid=_number(name, value, 10, 2**32 - 2))
        elif name == "umask":
            options = replace(options, umask=_number(name, value, 8, 0o777))
        elif name == "read_ahead_kb":
            options = replace(options, read_ahead_kb=_number(name, value, 10, 65_536))
        elif name == "remount":
            raise ValueError("mount option 'remount': a mount cannot be changed; unmount it and mount it anew")
        elif name == "rw":
            raise ValueError("mount option 'rw': a mounted drive is always read-only")
        elif name in _PASSED or name in _GIVEN:
            raise ValueError(f"mount option '{name}' takes no value")
        else:
            raise ValueError(
                f"unknown mount option '{name}'; there are ro, allow_other, allow_root, auto_unmount, "
                "noexec, noatime, noxattrs, fsname=, uid=, gid=, umask=, read_ahead_kb="
            )
    return options


def _number(name: str, value: str, base: int, most: int) -> int:
    try:
        number = int(value, base)
    except ValueError:
        number = -1
    if not 0 <= number <= most:
        kind = "an octal number" if base == 8 else "a number"
        raise ValueError(
            f"mount option '{name}={value}': {kind} from 0 to {most:{'o' if base == 8 else 'd'}} is needed"
        )
    return number


def _fsname(value: str) -> str:
    # libfuse takes ASCII only, and a comma or a backslash would begin another option there.
    if not value or not value.isascii() or not value.isprintable() or set(value) & set(",\\ "):
        raise ValueError(f"mount option 'fsname={value}': printable ASCII without space, comma and backslash is needed")
    return value
