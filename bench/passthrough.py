"""A bare pass-through of a folder, the yardstick: what pyfuse3 can do when there is nothing to do.

As fast as the binding allows and no faster: plain ``os.pread`` on the loop, files kept in the page cache,
long timeouts for names, listings with attributes, several in one folder at a time. It knows what was in the folder
when it began, which is all that the benchmarks need.
"""

from __future__ import annotations

import errno
import os
import signal
import stat
import sys
from collections.abc import Sequence
from pathlib import Path

import pyfuse3
import trio
from pyfuse3 import EntryAttributes, FileHandleT, FileInfo, FUSEError, InodeT, ReaddirToken, RequestContext

from datfs import fuse_session

TIMEOUT = 300.0


class Passthrough(pyfuse3.Operations):
    """The folders and regular files below a folder. An inode is a place in the list of their paths, from 1 on."""

    supports_dot_lookup = False
    enable_writeback_cache = False

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._paths = [b"", os.fsencode(folder)]
        self._folders: dict[int, dict[bytes, InodeT]] = {}
        self._entries: dict[int, list[tuple[bytes, InodeT]]] = {}
        pending = [pyfuse3.ROOT_INODE]
        while pending:
            inode = pending.pop()
            names: dict[bytes, InodeT] = {}
            for entry in sorted(os.scandir(self._paths[inode]), key=lambda entry: entry.name):
                is_folder = entry.is_dir(follow_symlinks=False)
                if is_folder or entry.is_file(follow_symlinks=False):
                    names[entry.name] = InodeT(len(self._paths))
                    self._paths.append(entry.path)
                    if is_folder:
                        pending.append(names[entry.name])
            self._folders[inode] = names
            self._entries[inode] = list(names.items())

    def _attributes(self, inode: InodeT) -> EntryAttributes:
        found = os.stat(self._paths[inode])
        entry = EntryAttributes()
        entry.st_ino = inode
        entry.st_mode = stat.S_IFDIR | 0o755 if stat.S_ISDIR(found.st_mode) else stat.S_IFREG | 0o644
        entry.st_nlink = 1
        entry.st_uid, entry.st_gid = os.getuid(), os.getgid()
        entry.st_size = found.st_size
        entry.st_blksize = 65536
        entry.st_blocks = (found.st_size + 511) // 512
        entry.st_atime_ns = entry.st_mtime_ns = entry.st_ctime_ns = found.st_mtime_ns
        entry.attr_timeout = entry.entry_timeout = TIMEOUT
        return entry

    async def getattr(self, inode: InodeT, ctx: RequestContext) -> EntryAttributes:
        """Attributes from the folder below."""
        return self._attributes(inode)

    async def lookup(self, parent_inode: InodeT, name: bytes, ctx: RequestContext) -> EntryAttributes:
        """A name of the folder."""
        inode = self._folders[parent_inode].get(name)
        if inode is None:
            raise FUSEError(errno.ENOENT)
        return self._attributes(inode)

    async def opendir(self, inode: InodeT, ctx: RequestContext) -> FileHandleT:
        """There is nothing to prepare."""
        return FileHandleT(inode)

    async def readdir(self, fh: FileHandleT, start_id: int, token: ReaddirToken) -> None:
        """Entries with attributes, as many as fit."""
        entries = self._entries[fh]
        for place in range(start_id, len(entries)):
            name, inode = entries[place]
            if not pyfuse3.readdir_reply(token, name, self._attributes(inode), place + 1):
                return

    async def open(self, inode: InodeT, flags: int, ctx: RequestContext) -> FileInfo:
        """The handle is the descriptor of the file below."""
        return FileInfo(fh=FileHandleT(os.open(self._paths[inode], os.O_RDONLY)), keep_cache=True)

    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        """One pread."""
        return os.pread(fh, size, off)

    async def release(self, fh: FileHandleT) -> None:
        """Closes the descriptor."""
        os.close(fh)


async def _serve() -> None:
    await fuse_session.greet(fuse_session.descriptor())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_until_signal)
        with fuse_session.unblocked(fuse_session.descriptor()):
            await pyfuse3.main(max_tasks=1024)
        nursery.cancel_scope.cancel()


async def _until_signal() -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            pyfuse3.terminate()
            return


def main(argv: Sequence[str] | None = None) -> None:
    """Mounts the first argument on the second until a signal comes."""
    source, point = map(Path, argv if argv is not None else sys.argv[1:])
    options = {"ro", "default_permissions", "fsname=passthrough", "subtype=datfs-bench"}
    pyfuse3.init(Passthrough(source), str(point), options)
    try:
        trio.run(_serve)
    finally:
        pyfuse3.close(unmount=True)


if __name__ == "__main__":
    main()
