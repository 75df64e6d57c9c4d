"""Opening a drive: its store, its registers and its peers, together, for as long as a context lasts.

This is what library users get, and what the command line and the mount stand on. Nothing here knows FUSE.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import trio

from datfs.budget import Budget
from datfs.cache_limit import CacheKeeper
from datfs.drive import Drive
from datfs.errors import BadLink, DatfsError, NoPeers, NotFound, TimedOut, Unavailable
from datfs.link import Link, parse_link
from datfs.local_service import LocalService, Place
from datfs.local_sockets import STATUS_NAME
from datfs.net.discovery import Discovery
from datfs.net.discovery.name_cache import NameCache
from datfs.net.discovery.names import NamedLink, Resolver, parse_named_link, resolve_link
from datfs.net.discovery.owner import Owner, connector
from datfs.net.discovery.remembered import Remembered
from datfs.net.discovery.static import StaticPeers
from datfs.net.discovery.ways import Ways
from datfs.net.listening import ListenAt, open_listeners, port_of
from datfs.net.reach import on_a_network
from datfs.net.swarm import Swarm
from datfs.net.transport import Address, connect
from datfs.orders import Orders
from datfs.owner_wants import OwnerWants
from datfs.register import Register
from datfs.sources import NoSource
from datfs.sparse import ChunkSource, SparseRegister
from datfs.store import PEERS_NAME, Store, closed_with, default_cache_dir, folder_store, memory_store
from datfs.store_choice import choose_store
from datfs.wants import Urgency
from datfs.working_files import WorkingFiles, working_content

log = logging.getLogger(__name__)

FLUSH_INTERVAL = 5.0
REFRESH_TIMEOUT = 3.0  # how long to look for a newer version when one is here already

Notice = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Options:
    """How to open a drive.

    ``peers``: addresses to dial. ``cache_dir``: None for the default. ``memory``: keep nothing. ``offline``: never
    use the network. ``timeout``: seconds for each wait. ``upload``: answer the requests of peers. ``share_locked``:
    if another process owns the cache, be a peer of it, in memory, instead of raising StoreLocked. ``listen``: where
    peers may call us, or sockets that are open already; they are closed with the drive. None: nowhere. ``ways``: of
    finding peers besides those given. ``up``, ``down``: limits on traffic in bytes per second, at least 1024.
    ``cache_size``: bytes of disk that all drives in the cache may take; None for no limit.
    ``budget``: of bytes that may be fetched from peers, by all drives that have the same one; None for no such limit.
    """

    peers: Sequence[Address] = ()
    cache_dir: Path | None = None
    memory: bool = False
    offline: bool = False
    timeout: float = 30.0
    upload: bool = True
    share_locked: bool = False
    listen: ListenAt | Sequence[trio.SocketListener] | None = None
    ways: Ways = field(default_factory=Ways)
    up: int | None = None
    down: int | None = None
    cache_size: int | None = None
    budget: Budget | None = None

    @property
    def may_find_peers(self) -> bool:
        """Whether anybody at all may be asked."""
        return not self.offline and bool(self.peers or self.ways.names)


def target_of(text: str) -> Link | NamedLink | Path:
    """A LINK argument: a dat link with a key or a name, a key, or a folder that holds a drive. Raises BadLink."""
    if text.startswith(("dat:", "//")):
        return parse_named_link(text) or parse_link(text)
    if text and Path(text).exists():
        return Path(text)
    try:
        return parse_link(text)
    except BadLink:
        if "/" in text or text.startswith("."):
            raise BadLink(f"{text!r} is neither a dat:// link nor a folder that exists") from None
        raise


class OpenDrive:
    """An open drive: ``drive``, its ``store``, its ``swarm`` (None for folders and offline), the ``link`` asked for.

    ``local``: how other programs of this machine look in. ``owner``: where the process answers that has the store in
    the cache, if that is another one. ``keeper``: None unless the store is ours and in the cache.
    """

    def __init__(
        self,
        drive: Drive,
        store: Store,
        swarm: Swarm | None,
        link: Link,
        stack: ExitStack,
        keeper: CacheKeeper | None = None,
    ) -> None:
        self.drive = drive
        self.store = store
        self.swarm = swarm
        self.link = link
        self.local = LocalService(drive, swarm, store)
        self.keeper = keeper
        self._orders = Orders(drive, keeper)
        self.local.questions.update(self._orders.questions())
        self.owner: Place | None = None
        self.owner_wants: OwnerWants | None = None
        self.budget: Budget | None = None
        self.working: WorkingFiles | None = None  # the files that are the content, if they are
        self._stack = stack
        self._registers: list[Register] = [drive.metadata.register]
        self._scope = trio.CancelScope()
        self._background_ended = trio.Event()

    def add_register(self, register: Register) -> None:
        """Will be flushed and closed with the rest."""
        self._registers.append(register)

    def vouches(self, offset: int, size: int) -> bool:
        """See :meth:`datfs.working_files.WorkingFiles.vouches`; those that are the content now."""
        return self.working is not None and self.working.vouches(offset, size)

    def facts(self) -> dict[bytes, bytes]:
        """Extended attributes of the root: what a person or a test may want to know of the drive as a whole."""
        swarm = self.swarm
        facts = {
            b"user.dat.newest_version": str(self.drive.version).encode(),
            b"user.dat.peers": str(len(swarm.sessions) if swarm is not None else 0).encode(),
            b"user.dat.bytes_received": str(swarm.bytes_in if swarm is not None else 0).encode(),
        }
        if self.budget is not None:
            facts[b"user.dat.budget_left"] = str(self.budget.left).encode()
        return facts

    async def flush(self) -> None:
        """Makes everything that is here durable; the waits for the disk happen in a thread. Raises OSError."""
        for register in self._registers:
            pending = register.begin_flush()
            try:
                await trio.to_thread.run_sync(pending.sync)
            except trio.Cancelled:
                pending.abandon()
                raise
            pending.finish()

    async def shut_down(self) -> None:
        """Ends everything in order: readers are let go, then the network, then the store is flushed and given up.

        Raises OSError if the last flush fails. A second call does nothing.
        """
        self.drive.close()
        self._scope.cancel()
        # A flush may be in its thread, with the files that are closed next.
        with trio.CancelScope(shield=True):
            await self._background_ended.wait()
        failed: OSError | None = None
        for register in self._registers:
            try:
                register.close()
            except OSError as error:
                failed = failed or error
        try:
            if failed is None and self.keeper is not None:
                self.keeper.settled()
        finally:
            self._stack.close()
        if failed is not None:
            raise failed

    async def run_background(self) -> None:
        """Network and flusher, until :meth:`shut_down`."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    if self.swarm is not None:
                        nursery.start_soon(self.swarm.run)
                    nursery.start_soon(self.local.run)
                    nursery.start_soon(self._orders.run)
                    if self.owner_wants is not None:
                        nursery.start_soon(self.owner_wants.run)
                    if not self.store.read_only and self.store.folder is not None:
                        nursery.start_soon(self._flush_now_and_then)
                    if self.keeper is not None:
                        nursery.start_soon(self.keeper.run)
                    await trio.sleep_forever()
        finally:
            self._background_ended.set()

    async def _flush_now_and_then(self) -> None:
        said = ""
        while True:
            await trio.sleep(FLUSH_INTERVAL)
            try:
                await self.flush()
                said = ""
            except OSError as error:
                if str(error) != said:  # once, not every few seconds while a disk is full
                    log.error("the cache cannot be written, what was fetched may be fetched again: %s", error)
                said = str(error)


@contextlib.asynccontextmanager
async def open_drive(
    target: str | Link | NamedLink | Path, options: Options | None = None, *, notice: Notice = log.info
) -> AsyncIterator[OpenDrive]:
    """Opens a drive by link or folder; yields it when its header and newest known version are here.

    ``notice`` is told, in a sentence, what a person may want to know (what is waited for, what is used instead).
    Raises BadLink, NotADrive, StoreLocked, BadStore, BadMetadata, UnsupportedFormat, TimedOut, NoPeers, OSError.
    """
    options = options or Options()
    place = target_of(target) if isinstance(target, str) else target
    if isinstance(place, NamedLink):
        place = await resolve_name(place, options, notice)
    with ExitStack() as stack:
        listeners = await _listeners(options, notice)
        for listener in listeners:
            stack.callback(listener.socket.close)
        opened = await _open(place, options, listeners, stack, notice)
        # Errors are raised outside of the nursery, so that they do not come wrapped in a group.
        failed: Exception | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(opened.run_background)
            try:
                await _load(opened, options, notice)
                yield opened
            except Exception as error:
                failed = error
            finally:
                try:
                    await opened.shut_down()
                except OSError as error:
                    if failed is not None:
                        log.error("the cache could not be written at the end: %s", error)
                    failed = failed or error
        if failed is not None:
            raise failed


async def resolve_name(named: NamedLink, options: Options, notice: Notice) -> Link:
    """The link that a name stands for, asked for or remembered. Raises BadLink, NoPeers, TimedOut."""
    cache = NameCache((options.cache_dir or default_cache_dir()) / "names.json")
    try:
        with trio.fail_after(options.timeout):
            return await resolve_link(named, Resolver(cache, offline=options.offline), notice)
    except trio.TooSlowError:
        raise TimedOut(f"dat://{named.host}: the name was not resolved within {options.timeout:g} s") from None


async def _listeners(options: Options, notice: Notice) -> Sequence[trio.SocketListener]:
    if isinstance(options.listen, ListenAt):
        return await open_listeners(options.listen, notice)
    return options.listen or ()


async def _open(
    place: Link | Path,
    options: Options,
    listeners: Sequence[trio.SocketListener],
    stack: ExitStack,
    notice: Notice,
) -> OpenDrive:
    store, owner = await _store_for(place, options, stack, notice)
    key = place.key if isinstance(place, Link) else None
    store = closed_with(store, stack)
    metadata = Register.open(store.open_storage, key=key, read_only=store.read_only, prefix=store.metadata_prefix)
    stack.callback(metadata.close)
    swarm = _swarm_for(store, options, listeners, owner)
    source: ChunkSource = swarm or NoSource(_why_alone(store, options))
    owner_wants = None
    if owner is not None:
        source = owner_wants = OwnerWants(source, (owner.folder, STATUS_NAME), offline=options.offline)
    sparse = SparseRegister(metadata, source, name="metadata")
    sparse.patience = options.timeout / 3
    budget = options.budget
    if budget is not None:
        sparse.limit_by(budget)
    keeper = _keeper_for(store, metadata, swarm, options)
    if keeper is not None:
        stack.callback(keeper.close)
        sparse.keeper = keeper
    opened: OpenDrive

    def open_content(content_key: bytes) -> SparseRegister:
        if store.working is not None:
            register, files = working_content(store, metadata, content_key)
            opened.working, opened.drive.check_bytes = files, files.check
        else:
            register = Register.open(
                store.open_storage, key=content_key, read_only=store.read_only, prefix=store.content_prefix
            )
        opened.add_register(register)
        shared = store.cached and store.read_only
        content = SparseRegister(register, source, name="content", trusted=store.working is None and not shared)
        content.vouched = opened.vouches
        content.patience = options.timeout / 3
        content.shared = shared
        if keeper is not None:
            keeper.watch(content)
        if budget is not None:
            content.limit_by(budget)
        if swarm is not None:
            swarm.add_register(content)
        opened.local.add_register(content)
        return content

    link = place if isinstance(place, Link) else Link(metadata.key)
    opened = OpenDrive(Drive(sparse, open_content), store, swarm, link, stack, keeper)
    opened.owner_wants = owner_wants
    opened.owner = owner_wants.place if owner_wants is not None else None
    opened.budget = budget
    if swarm is not None:
        swarm.add_register(sparse)
    return opened


async def _store_for(
    place: Link | Path, options: Options, stack: ExitStack, notice: Notice
) -> tuple[Store, Owner | None]:
    if isinstance(place, Path):
        return folder_store(place), None
    if options.memory:
        return memory_store(), None
    cache_dir = options.cache_dir or default_cache_dir()
    alone = not options.may_find_peers
    return await choose_store(place.key, cache_dir, stack, notice, share=options.share_locked, alone=alone)


def _keeper_for(store: Store, metadata: Register, swarm: Swarm | None, options: Options) -> CacheKeeper | None:
    if not store.cached or store.read_only or store.folder is None:
        return None

    def retract(register: SparseRegister, first: int, length: int) -> None:
        if swarm is not None and swarm.upload:
            swarm.retract(register, first, length)

    return CacheKeeper(store.folder, metadata, retract, cache_dir=store.folder.parent, limit=options.cache_size)


def _swarm_for(
    store: Store, options: Options, listeners: Sequence[trio.SocketListener], owner: Owner | None
) -> Swarm | None:
    if owner is None and (options.offline or (store.read_only and not listeners)):
        return None
    discoveries: list[Discovery] = [] if owner is None else [owner]
    remembered = None
    if not options.offline:
        port = port_of(listeners) if listeners and options.upload else None
        discoveries += [StaticPeers(options.peers), *options.ways.discoveries(port)]
        if store.cached and store.folder is not None and not store.read_only:
            remembered = Remembered(store.folder / PEERS_NAME)
            if options.ways.names:
                discoveries.insert(0, remembered)
    return Swarm(
        discoveries=discoveries,
        listeners=listeners,
        upload=options.upload,
        connect=connect if owner is None else connector(owner),
        outcomes=remembered,
        up=options.up,
        down=options.down,
        search_alone=_search_alone(options),
    )


def _search_alone(options: Options) -> float | None:
    return None if on_a_network() else options.ways.search_alone()


@contextlib.asynccontextmanager
async def swarm_for_folder(options: Options, notice: Notice) -> AsyncIterator[Swarm]:
    """A swarm for a drive in a folder of its own, not run yet; its sockets are closed with the context."""
    listeners = await _listeners(options, notice)
    try:
        port = port_of(listeners) if listeners and options.upload else None
        ways: list[Discovery] = [StaticPeers(options.peers), *options.ways.discoveries(port)]
        yield Swarm(
            discoveries=ways,
            listeners=listeners,
            upload=options.upload,
            up=options.up,
            down=options.down,
            search_alone=_search_alone(options),
        )
    finally:
        for listener in listeners:
            listener.socket.close()


async def link_of(place: Link | NamedLink, options: Options, notice: Notice) -> Link:
    """The link itself, or that which a name stands for. Raises BadLink, NoPeers, TimedOut."""
    return await resolve_name(place, options, notice) if isinstance(place, NamedLink) else place


def _why_alone(store: Store, options: Options) -> str:
    if options.offline:
        return "we are offline (--offline)"
    if store.cached:
        return "the process that has the cache does not answer: name a peer with --peer HOST:PORT"
    return "a folder is opened alone, without peers"


async def _load(opened: OpenDrive, options: Options, notice: Notice) -> None:
    """Learns the newest version, as far as somebody tells, and loads the header."""
    drive, metadata = opened.drive, opened.drive.metadata
    known = metadata.register.length
    if (
        opened.swarm is not None
        and opened.swarm.looks
        and not opened.store.read_only
        and not _enough(opened.link, known)
    ):
        await _refresh(opened, options, notice)
    if not metadata.register.length:
        raise _nothing_here(opened, options)
    try:
        with trio.fail_after(options.timeout):
            await drive.load_header()
    except trio.TooSlowError:
        raise TimedOut(f"the drive's header did not come within {options.timeout:g} s") from None


def _nothing_here(opened: OpenDrive, options: Options) -> DatfsError:
    key = opened.drive.key.hex()
    if opened.store.read_only and not opened.store.cached:
        return NotFound(f"the drive in {opened.store.folder} is empty: its metadata has no chunk")
    where = "the cache" if opened.store.folder is not None else "memory"
    if opened.swarm is None:
        return NoPeers(f"nothing of dat://{key} is in {where}, and {_why_alone(opened.store, options)}")
    if opened.drive.metadata.longest_claim is None:
        return NoPeers(f"nothing of dat://{key} is in {where}: name a peer that has it with --peer HOST:PORT")
    return NotFound(f"the drive dat://{key} is empty so far: the peers have no chunk of it either")


def _enough(link: Link, known: int) -> bool:
    return link.version is not None and link.version < known


async def _refresh(opened: OpenDrive, options: Options, notice: Notice) -> None:
    metadata = opened.drive.metadata
    known = metadata.register.length
    patience = min(REFRESH_TIMEOUT, options.timeout) if known else options.timeout
    metadata.want((0,), Urgency.SOON)
    try:
        with trio.fail_after(patience):
            await metadata.learn_length()
    except (Unavailable, trio.TooSlowError) as error:
        if known:
            why = "no peer answered yet" if isinstance(error, trio.TooSlowError) else str(error)
            notice(f"showing version {opened.drive.version}, which is here: {why}")
        elif isinstance(error, DatfsError):
            raise
        else:
            raise TimedOut(
                f"no peer gave anything of dat://{metadata.register.key.hex()} within {patience:g} s: {_peers(opened)}"
            ) from None
    finally:
        metadata.drop((0,), Urgency.SOON)


def _peers(opened: OpenDrive) -> str:
    assert opened.swarm is not None
    count = len(opened.swarm.sessions)
    return f"{count} connected" if count else "none is connected"
