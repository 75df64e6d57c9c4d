"""How entries look in a mount: attributes as stat(2) shows them, and for how long the kernel may believe them."""

from __future__ import annotations

import stat
from dataclasses import dataclass

import pyfuse3
from pyfuse3 import EntryAttributes

from datfs.vfs import Entry, Kind

PERMISSIONS_SHOWN = 0o555  # nothing can be written; setuid, setgid and sticky are no drive's to give
CACHE_SECONDS = 3600.0  # how long the kernel may believe names and attributes of an immutable version
BLOCK_SIZE = 65_536  # st_blksize: the usual chunk

_MOST = 2**63 - 1  # off_t, and whatever else is signed in struct stat


def _within(number: int) -> int:
    return number if 0 <= number <= _MOST else 0 if number < 0 else _MOST


@dataclass(frozen=True, slots=True)
class Appearance:
    """What entries get from the mount, not from the tree: owner, hidden permission bits, caching time."""

    uid: int
    gid: int
    umask: int = 0
    cache_seconds: float = CACHE_SECONDS

    def attributes(self, entry: Entry, number: int) -> EntryAttributes:
        """``entry`` as stat(2) shows it."""
        return self.show(self.blank(), entry, number)

    def blank(self) -> EntryAttributes:
        """What all entries have in common."""
        attr = EntryAttributes()
        # 1 says of a directory that its subdirectories were not counted; 2 would say that there are none.
        attr.st_nlink = 1
        attr.st_uid = self.uid
        attr.st_gid = self.gid
        attr.st_blksize = BLOCK_SIZE
        attr.entry_timeout = attr.attr_timeout = self.cache_seconds
        return attr

    def show(self, attr: EntryAttributes, entry: Entry, number: int) -> EntryAttributes:
        """Adds what makes ``entry`` itself. Values are cut to what the binding takes, which has no guard."""
        _, kind, size, permissions, mtime, ctime, _ = entry
        directory = kind is Kind.DIRECTORY
        if directory:
            size = 0
        if not (0 <= size <= _MOST and 0 <= mtime <= _MOST and 0 <= ctime <= _MOST):
            size, mtime, ctime = _within(size), _within(mtime), _within(ctime)
        attr.st_ino = number
        # Only the nine permission bits: never set-uid, set-gid, sticky or a device type.
        attr.st_mode = (stat.S_IFDIR if directory else stat.S_IFREG) | (permissions & PERMISSIONS_SHOWN & ~self.umask)
        attr.st_size = size
        # Those of the whole file however little is here: "tar -S" writes a file without blocks as zeros.
        attr.st_blocks = (size + 511) // 512
        attr.st_mtime_ns = attr.st_atime_ns = mtime
        attr.st_ctime_ns = ctime
        return attr

    def no_such_name(self) -> EntryAttributes:
        """The answer to a lookup of nothing, which the kernel keeps; ENOENT it would not."""
        attr = EntryAttributes()
        attr.st_ino = pyfuse3.InodeT(0)
        attr.entry_timeout = self.cache_seconds
        return attr
