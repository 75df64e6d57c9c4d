"""FUSE requests answered out of a :class:`datfs.vfs.FileTree`; a protocol adapter and nothing else.

Owns inode numbers, handles and waiting requests. What the tree is, stands behind the seam; how the mount begins and
ends, in :mod:`datfs.fuse_mount`. See fuse.md sections 2-7 and docs/fuse.md.

Everything runs in one thread, and between two awaits a handler is alone, so there are no locks. A handler
that may wait does so in :mod:`datfs.waits`: with a deadline, counted, ended by :meth:`Operations.close` and when the
program that asked is sent a signal.
"""

from __future__ import annotations

import errno
import functools
import itertools
import logging
import os
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, Concatenate, NoReturn, ParamSpec, TypeVar

import pyfuse3
import trio
from pyfuse3 import EntryAttributes, FileInfo, FUSEError, ReaddirToken, RequestContext, StatvfsData

from datfs import errors
from datfs.activity import Failure, FileActivity, WaitingRead
from datfs.appearance import BLOCK_SIZE, Appearance
from datfs.errnos import known_errno
from datfs.handles import ECHO_SECONDS, DirectoryHandle, FileHandle
from datfs.inodes import InodeTable, LookupCountError
from datfs.late import Failures, LateOnes
from datfs.signals import Look, catches_signals
from datfs.unsettled import is_stand_in, shown, stand_in, until
from datfs.vfs import Entry, FileTree, Kind, Update
from datfs.waits import Called, OthersBehind, Waits

log = logging.getLogger(__name__)

MAX_TASKS = 1024  # requests in hand at once; pyfuse3's 99 can all be used up by waiting reads
WAITING_READS = MAX_TASKS - 64  # beyond it reads of what is not here fail with EBUSY ...
WAITING_ANY = MAX_TASKS - 16  # ... and beyond this lookups too, so that a local read always finds a worker
# For this long after a time-out further reads of the file, lookups of the name and listings fail at once, unless
# something came meanwhile: a program that tries again and again, or the next one, does not wait in vain as long.
HOPELESS_SECONDS = 10.0
HOPELESS_KEPT = 1000  # files, and as many names
# Programs that catch signals open a file of which some read has waited this long past the page cache, as nothing but a
# deadly signal frees them from the wait for a page that another one has asked for. Not at once, as it costs MAP_SHARED;
# and others do not, as mmap of such a file waits for all of its pages that are being read, deaf even to SIGKILL.
STUCK_SECONDS = 3.0
DOTS = 2  # entries of every listing: "." and ".."
NAME_MAX = 255  # NAME_MAX of Linux; longer names are hidden (drive.md section 9)

_FRAGMENT_SIZE = 4096
_MOST = 2**63 - 1  # off_t, and whatever else is signed in struct stat

P = ParamSpec("P")
T = TypeVar("T")


def _guarded(
    handler: Callable[Concatenate[Operations, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Operations, P], Coroutine[Any, Any, T]]:
    """Lets only FUSEError out: any other exception in a handler would end the whole mount (fuse.md section
    5).

    Cancellation is no Exception and passes.
    """

    @functools.wraps(handler)
    async def guarded(self: Operations, /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await handler(self, *args, **kwargs)
        except FUSEError:
            raise
        except Exception as error:
            raise FUSEError(self._tell(handler.__name__, error)) from error

    return guarded


def _unfailing(
    handler: Callable[Concatenate[Operations, P], Coroutine[Any, Any, None]],
) -> Callable[Concatenate[Operations, P], Coroutine[Any, Any, None]]:
    """For handlers whose errors nobody can be told: forget, release, releasedir."""

    @functools.wraps(handler)
    async def unfailing(self: Operations, /, *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            await handler(self, *args, **kwargs)
        except Exception as error:
            self._report(handler.__name__, error)

    return unfailing


def _calls(thread: int) -> Callable[[Look], bool]:
    return lambda look: look.is_called(thread)


class Operations(pyfuse3.Operations):
    """Serves ``tree``. ``timeout``: seconds that any request may wait for the tree.

    ``show_facts``: tell the tree's facts as extended attributes.
    ``is_denied``: told a process; if true, nothing is fetched for it: it may open only what is here.
    """

    supports_dot_lookup = False
    enable_writeback_cache = False

    def __init__(
        self,
        tree: FileTree,
        *,
        timeout: float,
        appearance: Appearance | None = None,
        show_facts: bool = True,
        is_denied: Callable[[int], bool] | None = None,
    ) -> None:
        super().__init__()
        self.inodes = InodeTable(tree.root)
        self.started = trio.Event()  # set during the INIT exchange, which ends before the next task runs
        self.over = False  # the kernel can neither ask nor be told anything any more
        # True once waiting background reads cannot hold up others: then incomplete files go through the page
        # cache.
        self.buffer_incomplete = False
        self._tree = tree
        self._waits = Waits(timeout)
        self._timeout = timeout
        self._late_files = LateOnes(HOPELESS_SECONDS, HOPELESS_KEPT)
        self._late_names = LateOnes(HOPELESS_SECONDS, HOPELESS_KEPT)
        self._failures = Failures(HOPELESS_KEPT)
        self._show_facts = show_facts
        self._look = appearance if appearance is not None else Appearance(os.getuid(), os.getgid())
        self._files: dict[int, FileHandle] = {}
        self._listings: dict[int, DirectoryHandle] = {}
        self._handles = itertools.count(1)
        self._is_denied = is_denied
        self._reported: set[tuple[str, type[BaseException]]] = set()

    @property
    def waiting(self) -> int:
        """Requests that wait for the tree now."""
        return len(self._waits)

    def activity(self) -> list[FileActivity]:
        """The open files that are not here whole, and the reads that wait for them."""
        now = trio.current_time()
        by_entry: dict[Hashable, list[FileHandle]] = {}
        for opened in self._files.values():
            if not opened.file.complete:
                by_entry.setdefault(opened.entry.identity, []).append(opened)
        return [
            FileActivity(
                files[0].entry,
                self._tree.facts(files[0].entry),
                len(files),
                tuple(
                    WaitingRead(offset, size, now - since)
                    for opened in files
                    for offset, size, since in sorted(opened.waiting)
                ),
            )
            for files in by_entry.values()
        ]

    @property
    def tree(self) -> FileTree:
        """What is served now."""
        return self._tree

    def failure(self, path: tuple[bytes, ...], entry: Entry | None) -> Failure | None:
        """The last one of a path: of what is there, if that is known, or else of looking it up; or of listing it."""
        kinds: list[tuple[Hashable, LateOnes]] = [((path, b""), self._late_names)]
        if entry is not None:
            kinds.append((entry.identity, self._late_files))
        else:
            kinds += [((path[:depth], path[depth]), self._late_names) for depth in reversed(range(len(path)))]
        now = trio.current_time()
        for what, late in kinds:
            last = self._failures.last(what)
            if last is not None:
                return Failure(last[1], now - last[0], late.seconds_left(what, now))
        return None

    @property
    def open_handles(self) -> int:
        """Files and directories that programs hold open."""
        return len(self._files) + len(self._listings)

    def replace(self, update: Update) -> tuple[set[tuple[int, bytes]], set[int]]:
        """Serves a newer version from now on; open files keep the bytes they were opened with.

        Returns what the kernel has to forget: names as (number of the directory, name), and directories whose
        attributes changed.
        """
        self._tree = update.tree
        self.inodes.replace_root(update.tree.root)
        directories = self.inodes.directories()
        if update.changed is None:
            names = {(directories[path[:-1]], path[-1]) for path in directories if path[:-1] in directories and path}
            return names, set(directories.values())
        names, touched = set(), set()
        for path in update.changed:
            # A new file may bring directories with it, and the last one gone takes them away.
            for depth in range(len(path)):
                number = directories.get(path[:depth])
                if number is not None:
                    touched.add(number)
                    # Forgetting the name of a directory makes the kernel forget all that is below.
                    if path[: depth + 1] not in update.lasting:
                        names.add((number, path[depth]))
        return names, touched

    def close(self) -> None:
        """Ends every wait, now and later, with ECONNABORTED; what is here is still read. Can be repeated."""
        self._waits.close()

    async def watch(self) -> None:
        """Ends with EINTR what waits for a program that was sent a signal, until it is cancelled."""
        await self._waits.watch()

    def let_go(self) -> None:
        """Closes every file that is still open, and forgets all handles; for the end, when no request can
        come.
        """
        self.over = True
        for opened in self._files.values():
            opened.file.close()
        self._files.clear()
        self._listings.clear()

    def init(self) -> None:
        """The kernel has taken up the mount."""
        self.started.set()

    # Names

    @_guarded
    async def lookup(self, parent_inode: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
        """One reference for the kernel, except for a name that is not there."""
        if len(name) > NAME_MAX:
            raise FUSEError(errno.ENAMETOOLONG)
        directory = self._entry(parent_inode)
        called = _calls(ctx.pid)
        since = trio.current_time()
        while True:
            tree = self._tree
            ask = partial(tree.lookup, directory, name)
            try:
                entry = await self._name(directory, name, ask, called)
            except errors.NotFound:
                if tree is self._tree:
                    return self._look.no_such_name()
            except OthersBehind:
                entry = stand_in(directory, name, since + self._timeout)
                return replace(self._look, cache_seconds=0).attributes(shown(entry), self._told(entry))
            else:
                if tree is self._tree:
                    return self._look.attributes(entry, self._told(entry))
            # A newer version came while we waited, and the kernel would keep what was true before it.

    async def _name(
        self, directory: Entry, name: bytes, ask: Callable[[], Awaitable[T]], called: Called, *, in_front: bool = True
    ) -> T:
        """Waits for a name of a directory, empty for all of them; not if that timed out a moment ago.

        Raises as :meth:`datfs.waits.Waits.wait` does, and ``ask``.
        """
        what, news, late = (directory.path, name), self._tree.news(directory), self._late_names
        # For a name the kernel may ask a second time at once.
        in_vain = late.has(what, news, trio.current_time(), at_least=ECHO_SECONDS if name else 0.0)
        try:
            return await self._waits.wait(ask, WAITING_ANY, called, 0.0 if in_vain else None, in_front=in_front)
        except (errors.DatfsError, OSError) as error:
            if isinstance(error, errors.TimedOut) and not in_vain:
                late.note(what, news, trio.current_time())
            self._note_failure(what, error)
            raise

    def _note_failure(self, what: Hashable, error: errors.DatfsError | OSError) -> None:
        if not isinstance(error, errors.NotFound | InterruptedError):
            self._failures.note(what, error, trio.current_time())

    def _told(self, entry: Entry) -> int:
        """The number of what the kernel is told of, with one reference more."""
        number = self.inodes.number_of(entry)
        self.inodes.taken(number, entry)
        return number

    def _entry(self, inode: int) -> Entry:
        """What the kernel knows under this number. Raises ESTALE if it knows nothing, or only a stand-in."""
        entry = self.inodes.entry(inode)
        if is_stand_in(entry):
            raise OSError(errno.ESTALE, "what this name stands for is not known yet")
        return entry

    @_guarded
    async def getattr(self, inode: int, ctx: RequestContext) -> EntryAttributes:
        """Never waits, as the kernel knows from a lookup what it asks about; except for a stand-in."""
        entry = self.inodes.entry(inode)
        if is_stand_in(entry):
            await self._settled(entry, ctx)
            raise OSError(errno.ESTALE, "look it up again")
        return self._look.attributes(entry, inode)

    async def _settled(self, entry: Entry, ctx: RequestContext) -> None:
        *folder, name = entry.path
        ask = partial(self._tree.lookup, self.inodes.directory(tuple(folder)), name)
        with suppress(errors.NotFound):
            await self._waits.wait(ask, WAITING_ANY, _calls(ctx.pid), max(until(entry) - trio.current_time(), 0.0))

    @_unfailing
    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        """A wrong count is logged, and the others of the list are still taken back."""
        for number, references in inode_list:
            try:
                self.inodes.forget(number, references)
            except LookupCountError as error:
                self._report("forget", error)

    # Directories

    @_guarded
    async def opendir(self, inode: int, ctx: RequestContext) -> int:
        """Never waits, and asks nobody: ``df`` opens a directory, too, and reads nothing of it."""
        if self._entry(inode).kind is not Kind.DIRECTORY:
            raise errors.NotADirectory("a file has no listing")
        handle = next(self._handles)
        self._listings[handle] = DirectoryHandle(inode, ctx.pid, self.inodes.parent_of(inode))
        return handle

    async def _listing(self, handle: DirectoryHandle, start_id: int) -> tuple[FileTree, Sequence[Entry]]:
        """The snapshot that a handle lists, so that changes neither repeat nor skip a name; a new one at the beginning.

        Raises OthersBehind only where something can be answered without.
        """
        tree = self._tree
        listing = handle.listing
        if listing is None or (start_id == 0 and listing[0] is not tree):  # the latter as rewinddir(3) wants it
            handle.listing = None
            directory = self._entry(handle.inode)
            ask = partial(tree.list, directory)
            entries = await self._name(directory, b"", ask, handle.is_called, in_front=start_id < DOTS)
            handle.listing = listing = (tree, entries)
        return listing

    @_guarded
    async def readdir(self, fh: int, start_id: int, token: ReaddirToken) -> None:
        """Ids are the places in the snapshot, from 1, ``.`` and ``..`` included; 0 begins again, with a new one."""
        handle = self._listings[fh]
        entries: Sequence[Entry]
        try:
            tree, entries = await self._listing(handle, start_id)
            dots = DOTS
        except OthersBehind:
            # The kernel holds the directory's lock meanwhile. It lets go of it after this, and asks for the rest; but
            # takes it again so quickly that whoever waits for it gets it only the second time.
            tree, entries, dots = self._tree, (), start_id + 1
        look = self._look
        if tree is not self._tree:
            look = replace(look, cache_seconds=0)  # of an older version: not to be kept
        for place, (name, number) in enumerate(((b".", handle.inode), (b"..", handle.parent)), 1):
            # The kernel takes no reference for these, and nothing of them but the number and the kind.
            if start_id < place <= dots:
                shown = look.attributes(self.inodes.entry(number), number)
                if not pyfuse3.readdir_reply(token, name, shown, place):
                    return
        number_of, taken = self.inodes.number_of, self.inodes.taken
        show, reply = look.show, pyfuse3.readdir_reply
        attr = look.blank()  # one for all, as the answer has copies
        for place in range(max(start_id - DOTS, 0), len(entries)):
            entry = entries[place]
            number = number_of(entry)
            if not reply(token, entry.path[-1], show(attr, entry, number), place + DOTS + 1):
                break
            taken(number, entry)

    @_unfailing
    async def releasedir(self, fh: int) -> None:
        """Frees the snapshot."""
        del self._listings[fh]

    # Files

    @_guarded
    async def open(self, inode: int, flags: int, ctx: RequestContext) -> FileInfo:
        """Complete files go through the page cache, which is right for ever since an inode never changes.

        It is always kept: to drop it, the kernel would wait in ``open`` for every page that somebody reads.
        """
        if flags & os.O_ACCMODE != os.O_RDONLY:
            raise errors.ReadOnly("a mounted drive cannot be changed")
        entry = self._entry(inode)
        try:
            file = await self._waits.wait(lambda: self._tree.open(entry), WAITING_ANY, _calls(ctx.pid))
        except (errors.DatfsError, OSError) as error:
            self._note_failure(entry.identity, error)
            raise
        denied = self._is_denied is not None and self._is_denied(ctx.pid)
        if denied and not file.complete:
            file.close()
            raise FUSEError(errno.EACCES)
        if not denied:
            file.begin()
        buffered = file.complete or (
            self.buffer_incomplete and not (self._is_stuck(inode) and catches_signals(ctx.pid))
        )
        handle = next(self._handles)
        self._files[handle] = FileHandle(inode, ctx.pid, file, entry, buffered, denied)
        return FileInfo(fh=pyfuse3.FileHandleT(handle), direct_io=not buffered, keep_cache=True)

    def _is_stuck(self, inode: int) -> bool:
        long_ago = trio.current_time() - STUCK_SECONDS
        return len(self._waits) > 0 and any(
            since <= long_ago
            for opened in self._files.values()
            if opened.inode == inode
            for _, _, since in opened.waiting
        )

    @_guarded
    async def read(self, fh: int, off: int, size: int) -> bytes:
        """What is here is answered without waiting, by one read of the store."""
        opened = self._files[fh]
        try:
            data = opened.file.read_nowait(off, size)
            return data if data is not None else await self._read_missing(opened, off, size)
        except (errors.DatfsError, OSError) as error:
            self._note_failure(opened.entry.identity, error)
            raise

    async def _read_missing(self, opened: FileHandle, offset: int, size: int) -> bytes:
        if opened.denied:
            raise FUSEError(errno.EACCES)  # it was here when it was opened
        end = offset + size
        # An echo may be about a part of the range that is here, and was only asked for together with one that is not.
        now = trio.current_time()
        opened.find_program()
        echo = opened.is_echo(offset, end, now)
        if now - opened.interrupted[2] < ECHO_SECONDS and opened.is_called(Look()):
            raise InterruptedError(errno.EINTR, "the program was sent a signal")
        in_vain = echo or self._late_files.has(opened.entry.identity, opened.file.news, now)
        before = opened.file.progress(offset, size)
        read = (offset, size, now)
        opened.waiting.add(read)
        try:
            data = await self._waits.wait(
                lambda: opened.file.read(offset, size), WAITING_READS, opened.is_called, 0.0 if in_vain else None
            )
        except InterruptedError:
            opened.note_interrupted(offset, end, trio.current_time())
            raise
        except errors.TimedOut:
            if not in_vain and opened.file.progress(offset, size) <= before:
                self._note_late(opened, offset, end, trio.current_time())
            raise
        finally:
            opened.waiting.discard(read)
        wanted = max(min(size, opened.entry.size - offset), 0)
        if len(data) != wanted:
            # The kernel would take a short answer for the new end of the file and cut it there.
            raise errors.IntegrityError(f"{len(data)} bytes came for {wanted} at offset {offset}")
        return data

    def _note_late(self, opened: FileHandle, offset: int, end: int, now: float) -> None:
        opened.note_late(offset, end, now)
        self._late_files.note(opened.entry.identity, opened.file.news, now)

    @_unfailing
    async def release(self, fh: int) -> None:
        """Also ends the file's read-ahead."""
        self._files.pop(fh).file.close()

    @_guarded
    async def statfs(self, ctx: RequestContext) -> StatvfsData:
        """Never waits; a check whether the mount lives relies on that."""
        known = self._tree.stats()
        data = StatvfsData()
        data.f_bsize = BLOCK_SIZE
        data.f_frsize = _FRAGMENT_SIZE
        data.f_blocks = min(-(-known.bytes // _FRAGMENT_SIZE), _MOST)
        data.f_files = min(known.entries, _MOST)
        data.f_bfree = data.f_bavail = data.f_ffree = data.f_favail = 0
        data.f_namemax = NAME_MAX
        return data

    @_guarded
    async def getxattr(self, inode: int, name: bytes, ctx: RequestContext) -> bytes:
        """Facts that the tree tells of an entry."""
        if not name.startswith(b"user.") or not self._show_facts:
            # Not ENODATA: told that there are no ACLs and labels here, "ls -l" stops asking for each file.
            raise FUSEError(errno.EOPNOTSUPP)
        value = self._tree.facts(self._entry(inode)).get(name)
        if value is None:
            raise FUSEError(errno.ENODATA)
        return value

    @_guarded
    async def listxattr(self, inode: int, ctx: RequestContext) -> Sequence[bytes]:
        """The names of the facts."""
        if not self._show_facts:
            return []
        return list(self._tree.facts(self._entry(inode)))

    # The kernel refuses changes of a read-only mount itself; these are for root's "mount -o remount,rw".

    async def _refuse(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise FUSEError(errno.EROFS)

    setattr = mknod = mkdir = unlink = rmdir = symlink = rename = link = _refuse
    create = write = setxattr = removexattr = _refuse

    # Failing

    def _tell(self, handler: str, error: Exception) -> int:
        code = known_errno(error)
        if code is None:
            self._report(handler, error)
            return errno.EIO
        if code == errno.EIO:
            log.warning("%s: %s", handler, error)
        return code

    def _report(self, handler: str, error: Exception) -> None:
        """Logs a bug, with its traceback the first time."""
        cause = (handler, type(error))
        log.error("%s failed: %r", handler, error, exc_info=None if cause in self._reported else error)
        self._reported.add(cause)
