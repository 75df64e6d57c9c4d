"""A tree whose directories are drives: ``<key or name>[+N]/…`` is opened when somebody walks into it.

See docs/automount.md. :class:`DriveRoot` owns the open drives: one :class:`_Drive` for each key, and a :class:`_View`
for each name under which it is looked at. :class:`RootTree` is what FUSE sees of it (:class:`datfs.vfs.FileTree`).

A drive::

    lookup ──► opening ──► open ──idle, nobody uses it──► closing ──► gone
                  └─failed──► gone, and the reason remembered for a while
"""

from __future__ import annotations

import copy
import errno
import logging
import os
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from functools import partial
from typing import Any, Protocol

import trio

from datfs.activity import Activity
from datfs.client import Notice, OpenDrive, Options, open_drive, resolve_name
from datfs.errors import BadLink, Closed, DatfsError, FormatError, IsADirectory, NotFound
from datfs.grafts import Graft, Path, directory
from datfs.holdings import Facts
from datfs.link import Link, parse_key
from datfs.local_service import ASK, STATUS, WHY, Place, sample, serve_status
from datfs.near import MISTAKES_MOST, nearest
from datfs.net.discovery.names import NamedLink, parse_named_link
from datfs.status import PROTOCOL, status
from datfs.text import show
from datfs.time_travel import TimeTravel, with_past
from datfs.vfs import Entry, Kind, TreeFile, TreeStats, Update
from datfs.why import Networked, why_path

log = logging.getLogger(__name__)

FAILURE_KEPT = 5.0  # seconds for which a drive that could not be opened fails at once
FAILURES_MOST = 1000
LOOKS_MOST = 15.0  # seconds between two looks for idle drives
SHORTEST_LOOK = 0.05

_KEY = re.compile(r"([0-9a-fA-F]{64})(?:\+(0|[1-9][0-9]{0,15}))?")
# What file managers look for in every folder looks like a name of a host. None of these ends is a domain.
_NO_DOMAIN = frozenset({"inf", "ini", "db", "jpg", "png", "gif", "ico", "txt", "exe", "dll", "lnk", "theme", "desktop"})


class Opener(Protocol):
    """As :func:`datfs.client.open_drive`."""

    def __call__(self, target: Link, options: Options, *, notice: Notice) -> AbstractAsyncContextManager[OpenDrive]: ...


Deliver = Callable[[Update], Awaitable[None]]
Resolve = Callable[[NamedLink, Options, Notice], Awaitable[Link]]


class _Drive:
    """A drive that is being opened, open, or being closed. ``users``: requests at work in it, and open files."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.users = 0
        self.last_used = trio.current_time()
        self.opened: OpenDrive | None = None
        self.error: Exception | None = None
        self.ready = trio.Event()  # open, or failed
        self.opening = trio.CancelScope()
        self.close = trio.Event()  # set to end it once it is open
        self.done = trio.Event()
        self.views: dict[bytes, _View] = {}
        self.nursery: trio.Nursery | None = None

    @contextmanager
    def used(self) -> Iterator[None]:
        """Keeps it from being idle."""
        self.users += 1
        try:
            yield
        finally:
            self.release()

    def release(self) -> None:
        """One user less."""
        self.users -= 1
        self.last_used = trio.current_time()


class _View:
    """A drive under one name, at the version that the name says."""

    def __init__(self, name: bytes, drive: _Drive, tree: TimeTravel) -> None:
        self.name = name
        self.drive = drive
        self.show(tree)

    def show(self, tree: TimeTravel) -> None:
        """Another version from now on."""
        self.tree = tree
        # The key: a name may come to stand for another drive. The name: another version tells other facts of a file.
        self.graft = Graft(tree, (self.name,), (self.name, self.drive.link.key))


class DriveRoot:
    """The drives in use. ``idle``: seconds after which one that nobody uses is closed.

    ``known_keys``: keys that were seen before, of which a mistyped one may be. ``opener``, ``resolve``: how to open a
    drive, and to learn the key of a name. ``activity``: what programs do just now; whoever mounts it sets it.
    """

    def __init__(
        self,
        options: Options,
        *,
        idle: float,
        known_keys: Callable[[], Iterable[bytes]] = tuple,
        opener: Opener = open_drive,
        resolve: Resolve = resolve_name,
    ) -> None:
        self._options = options
        self._idle = idle
        self._known_keys = known_keys
        self._opener = opener
        self._resolve = resolve
        self._drives: dict[bytes, _Drive] = {}
        self._views: dict[bytes, _View] = {}
        self._failures: dict[bytes, tuple[float, Exception]] = {}
        self._problem = ""
        self._told: set[str] = set()
        self._deliver: Deliver | None = None
        self._nursery: trio.Nursery | None = None
        self._closed = False
        self.started = time.time_ns()
        self.opened = 0  # drives, since the start
        self.activity: Activity | None = None

    # -- life

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Drives can be opened while this context lasts; at its end all are closed."""
        failed: Exception | None = None
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._close_idle)
            try:
                yield
            except Exception as error:
                failed = error  # raised outside, so that it does not come wrapped in a group
            finally:
                with trio.CancelScope(shield=True):
                    await self.shut_down()
                nursery.cancel_scope.cancel()
        if failed is not None:
            raise failed

    def let_readers_go(self) -> None:
        """Readers that wait get Closed, and nothing is opened any more."""
        self._closed = True
        for drive in self._drives.values():
            if drive.opened is not None:
                drive.opened.drive.close()
            else:
                drive.opening.cancel()

    async def shut_down(self) -> None:
        """Closes every drive, each in order, and waits for that. A second call does nothing."""
        self.let_readers_go()
        drives = list(self._drives.values())
        for drive in drives:
            drive.close.set()
        for drive in drives:
            await drive.done.wait()

    async def follow(self, deliver: Deliver) -> None:
        """Tells ``deliver`` of newer versions of the drives, and of those that were closed, until cancelled."""
        self._deliver = deliver
        try:
            await trio.sleep_forever()
        finally:
            self._deliver = None

    async def _tell(self, changed: Sequence[Path], lasting: Iterable[Path] = ()) -> None:
        if self._deliver is not None:
            await self._deliver(Update(RootTree(self), changed, frozenset(lasting)))

    async def _close_idle(self) -> None:
        while True:
            await trio.sleep(min(LOOKS_MOST, self._idle / 4 + SHORTEST_LOOK))
            now = trio.current_time()
            for drive in self._drives.values():
                if drive.ready.is_set() and not drive.users and now - drive.last_used >= self._idle:
                    drive.close.set()

    async def _keep(self, drive: _Drive) -> None:
        """Opens a drive and keeps it open until it is to be closed."""
        shown = f"dat://{drive.link.key.hex()}"
        try:
            with drive.opening:
                async with self._opener(drive.link, self._options, notice=partial(log.info, "%s: %s", shown)) as opened:
                    drive.opened = opened
                    async with trio.open_nursery() as nursery:
                        drive.nursery = nursery
                        self.opened += 1
                        drive.ready.set()
                        await drive.close.wait()
                        nursery.cancel_scope.cancel()
            if drive.opening.cancelled_caught:
                drive.error = Closed("the mount was closed")
        except Exception as error:
            drive.error = error
            if drive.opened is not None:
                log.error("%s failed and was closed: %s", shown, error, exc_info=_unexpected(error))
            elif _unexpected(error):
                log.error("%s could not be opened", shown, exc_info=error)
            elif not drive.users:  # those who waited have gone, and cannot tell
                self._complain(f"{shown}: {explained(error)}")
        finally:
            names = list(drive.views)
            for name in names:
                del self._views[name]
            del self._drives[drive.link.key]
            drive.ready.set()
            drive.done.set()
        await self._tell([(name,) for name in names])

    # -- one name

    def known(self, name: bytes) -> _View | None:
        """What is open under a name."""
        return self._views.get(name)

    def views(self) -> list[_View]:
        """All that is open, by name."""
        return list(self._views.values())

    def stats(self) -> TreeStats:
        """The sum over all open drives."""
        total = TreeStats(0, 0)
        for drive in self._drives.values():
            found = [view.tree.stats() for view in drive.views.values()]
            most = max(found, key=lambda one: one.entries, default=TreeStats(0, 0))  # of its versions that are shown
            total = TreeStats(total.bytes + most.bytes, total.entries + most.entries)
        return total

    def facts(self) -> Facts:
        """What is told of the root."""
        return Facts(
            {b"user.dat.drives": lambda: len(self._drives), b"user.dat.problem": lambda: self._problem or None}
        )

    def status(self) -> dict[str, Any]:
        """What is told of it to programs of this machine (docs/json.md)."""
        drives = [drive.opened for drive in self._drives.values() if drive.opened is not None]
        return {
            "protocol": PROTOCOL,
            "pid": os.getpid(),
            "drives": [status(one.drive, one.swarm, one.store) for one in drives],
            "problem": self._problem or None,
        } | (self.activity.facts() if self.activity is not None else {})

    def offer_status(self, place: Place) -> None:
        """Answers the questions of other programs of this machine at a place, while :meth:`running`."""
        assert self._nursery is not None
        self._nursery.start_soon(serve_status, place, self._answer)
        self._nursery.start_soon(sample, lambda: self.activity)

    async def _answer(self, asked: dict[str, Any]) -> dict[str, Any]:
        if asked.get(ASK) == STATUS:
            return self.status()
        if asked.get(ASK) == WHY:
            return await why_path(asked.get("path"), self.activity, self._networked)
        raise FormatError(f"there is no question {asked.get(ASK)!r}")

    def _networked(self) -> list[Networked]:
        opened = [drive.opened for drive in self._drives.values() if drive.opened is not None]
        return [(one.drive, one.swarm) for one in opened]

    async def view(self, name: bytes) -> _View:
        """What stands under a name; it is opened if need be.

        Raises NotFound for what can never be a drive, OSError(ENOENT) for what is none now, and as
        :func:`datfs.client.open_drive` does.
        """
        view = self._views.get(name)
        if view is not None and not view.drive.close.is_set():
            return view
        until, error = self._failures.get(name, (0.0, None))
        if error is not None and trio.current_time() < until:
            raise copy.copy(error)
        try:
            return await self._open(name)
        except NotFound:
            raise
        except (DatfsError, OSError) as error:
            if not self._closed:
                self._note(name, error)
            raise

    def _note(self, name: bytes, error: Exception) -> None:
        """Remembers why a name could not be opened, and tells it to people."""
        if len(self._failures) >= FAILURES_MOST:
            self._failures.clear()
        self._failures[name] = (trio.current_time() + FAILURE_KEPT, error)
        self._complain(f"{show(name)}: {explained(error)}")

    def _complain(self, problem: str) -> None:
        self._problem = problem
        if problem not in self._told:  # a program that asks again and again need not fill the log
            log.warning("%s", problem)
        if len(self._told) >= FAILURES_MOST:
            self._told.clear()
        self._told.add(problem)

    async def _open(self, name: bytes) -> _View:
        link = await self._link_of(name)
        while (drive := self._drives.get(link.key)) is not None and drive.close.is_set():
            await drive.done.wait()
        if drive is None:
            if self._closed or self._nursery is None:
                raise Closed("the mount is being closed")
            drive = self._drives[link.key] = _Drive(link)
            self._nursery.start_soon(self._keep, drive)
        with drive.used():
            await drive.ready.wait()
            if drive.error is not None:
                raise _none_now(copy.copy(drive.error))
            assert drive.opened is not None
            try:
                tree = await drive.opened.drive.checkout(link.version)
            except NotFound as error:
                raise _none_now(error) from None
            tree.root_facts = drive.opened.facts
            shown = await with_past(drive.opened.drive, tree)
            view = self._views.get(name)  # somebody else may have been quicker
            if view is None:
                if drive.nursery is None or drive.close.is_set():
                    raise Closed("the drive was closed")
                view = self._views[name] = drive.views[name] = _View(name, drive, shown)
                if drive.opened.swarm is not None:
                    drive.nursery.start_soon(self._follow, view, link.version is not None)
            return view

    async def _follow(self, view: _View, pinned: bool) -> None:
        async def show(update: Update) -> None:
            assert isinstance(update.tree, TimeTravel)
            view.show(update.tree)
            if update.changed is None:
                await self._tell([(view.name,)])
            else:
                lasting = [(view.name,), *view.graft.changed(update.lasting)]
                await self._tell(view.graft.changed(update.changed), lasting)

        await view.tree.follow(show, pinned=pinned)

    # -- what a name means

    async def _link_of(self, name: bytes) -> Link:
        text = name.decode("ascii", "replace")
        match = _KEY.fullmatch(text)
        key, _, _ = text.partition("+")
        if match is not None:
            link = Link(parse_key(match[1]), None if match[2] is None else int(match[2]))
            if link.key not in self._drives and (hint := self._hint(key)):
                raise OSError(errno.ENOENT, hint)
            return link
        if hint := self._hint(key):
            self._complain(f"{show(name)}: {hint}")
        elif "." in text and text.rpartition(".")[2].lower() not in _NO_DOMAIN:
            named = parse_named_link(text)
            if named is not None:
                try:
                    return await self._resolve(named, self._options, partial(log.info, "%s"))
                except BadLink as error:
                    raise _none_now(error) from None
        raise NotFound(f"{show(name)} is neither the key nor the name of a drive")

    def _hint(self, text: str) -> str | None:
        """What a key that is not known may have been meant to be."""
        if not may_be_key(text):
            return None
        near = nearest(text, {*self._drives, *self._known_keys()})
        if near is None:
            return None
        digits = "one digit" if near[1] == 1 else f"{near[1]} digits"
        return f"no drive with this key is known; did you mean {near[0].hex()}, which differs in {digits}?"


class RootTree:
    """One version of all that is in a :class:`DriveRoot`: implements :class:`datfs.vfs.FileTree`."""

    def __init__(self, drives: DriveRoot) -> None:
        self._drives = drives

    @property
    def root(self) -> Entry:
        """The directory of the drives."""
        return directory((), self._drives.started, ((), 0))

    async def lookup(self, directory: Entry, name: bytes) -> Entry:
        """See :meth:`datfs.vfs.FileTree.lookup`; in the root it opens a drive."""
        if not directory.path:
            return (await self._drives.view(name)).graft.root
        view = await self._drives.view(directory.path[0])
        with view.drive.used():
            return await view.graft.lookup(directory, name)

    async def list(self, directory: Entry) -> Sequence[Entry]:
        """See :meth:`datfs.vfs.FileTree.list`; the root lists what is in use."""
        if not directory.path:
            return [view.graft.root for view in self._drives.views()]
        view = await self._drives.view(directory.path[0])
        with view.drive.used():
            return await view.graft.list(directory)

    async def open(self, entry: Entry) -> TreeFile:
        """See :meth:`datfs.vfs.FileTree.open`."""
        if entry.kind is Kind.DIRECTORY:
            raise IsADirectory(f"{show(entry.name)} is a directory")
        view = await self._drives.view(entry.path[0])
        with view.drive.used():
            file = await view.graft.open(entry)
            view.drive.users += 1
            return _UsedFile(file, view.drive)

    def facts(self, entry: Entry) -> Mapping[bytes, bytes]:
        """See :meth:`datfs.vfs.FileTree.facts`; nothing of a drive that is not open."""
        if not entry.path:
            return self._drives.facts()
        view = self._drives.known(entry.path[0])
        return view.graft.facts(entry) if view is not None else {}

    def stats(self) -> TreeStats:
        """See :meth:`datfs.vfs.FileTree.stats`."""
        return self._drives.stats()

    def news(self, directory: Entry) -> int:
        """See :meth:`datfs.vfs.FileTree.news`."""
        view = self._drives.known(directory.path[0]) if directory.path else None
        return view.tree.news(directory) if view is not None else self._drives.opened


class _UsedFile:
    """An open file, whose drive is in use until it is closed."""

    def __init__(self, file: TreeFile, drive: _Drive) -> None:
        self._file = file
        self._drive: _Drive | None = drive
        self.progress = file.progress
        self.read_nowait = file.read_nowait
        self.read = file.read

    @property
    def complete(self) -> bool:
        """See :class:`datfs.vfs.TreeFile`."""
        return self._file.complete

    @property
    def news(self) -> int:
        """See :class:`datfs.vfs.TreeFile`."""
        return self._file.news

    def begin(self) -> None:
        """See :class:`datfs.vfs.TreeFile`."""
        self._file.begin()

    def close(self) -> None:
        """See :class:`datfs.vfs.TreeFile`."""
        drive, self._drive = self._drive, None
        if drive is not None:
            self._file.close()
            drive.release()


def may_be_key(text: str) -> bool:
    """Whether somebody may have meant it as a key."""
    return abs(len(text) - 64) <= MISTAKES_MOST and text.isalnum() and text.isascii()


def explained(error: Exception) -> str:
    """A sentence for people."""
    return (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__


def _none_now(error: Exception) -> Exception:
    """What is not there now may be there later: an error that the kernel does not keep."""
    return OSError(errno.ENOENT, str(error)) if isinstance(error, NotFound | BadLink) else error


def _unexpected(error: Exception) -> Exception | None:
    return None if isinstance(error, DatfsError | OSError) else error
