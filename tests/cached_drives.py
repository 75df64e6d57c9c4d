"""Copies of drives in a cache folder under a limit, filled by a source that brings chunks late and out of order."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import trio

from datfs.bitfield import Bitfield
from datfs.cache_limit import CacheKeeper
from datfs.chunk_uses import microseconds
from datfs.drive import Drive, DriveTree
from datfs.errors import DatfsError
from datfs.open_file import OpenFile
from datfs.register import Register
from datfs.room import space_of, stores_in
from datfs.sparse import SparseRegister
from datfs.store import cache_store
from datfs.writer import DriveWriter


class LateSource:
    """Brings what is wanted of the registers it knows, some at a time, in any order; counts what it brought."""

    def __init__(self, dice: random.Random) -> None:
        self.brought = 0
        self._dice = dice
        self._origins: dict[bytes, Register] = {}
        self._copies: list[SparseRegister] = []
        self._wanted = trio.Event()

    def add(self, origin: Register, copy: SparseRegister) -> None:
        """Fills ``copy`` from ``origin``."""
        self._origins[copy.register.key] = origin
        self._copies.append(copy)

    def wants_changed(self, register: SparseRegister) -> None:
        """Wakes :meth:`run`."""
        self._wanted.set()

    def hopeless(self, register: SparseRegister) -> DatfsError | None:
        """There always is hope."""
        return None

    def undecided(self, register: SparseRegister) -> bool:
        """All is known."""
        return False

    def held_by_peers(self, register: SparseRegister) -> Sequence[Bitfield]:
        """What the origin holds."""
        return (self._origins[register.register.key].data_bits,)

    def all_told(self, register: SparseRegister, stop: int) -> bool:
        """There is nobody but the origin."""
        return True

    async def run(self) -> None:
        """Brings chunks until cancelled."""
        while True:
            self._wanted = trio.Event()
            for copy in self._copies:
                origin = self._origins[copy.register.key]
                wants = list(copy.next_wants(origin.data_bits, self._dice.choice((1, 3, 64))))
                self._dice.shuffle(wants)
                for index in wants:
                    if self._dice.random() < 0.3:
                        await trio.lowlevel.checkpoint()
                    if copy.register.has(index):
                        copy.release((index,))
                        continue
                    proof = origin.proof(index, copy.register.digest(index))
                    copy.put(index, origin.get(index), proof.nodes, proof.signature)
                    self.brought += 1
                if wants:
                    self._wanted.set()
            await trio.lowlevel.checkpoint()
            await self._wanted.wait()


class CachedDrive:
    """A copy of a drive in a cache folder, with its keeper."""

    def __init__(
        self, drive: Drive, tree: DriveTree, keeper: CacheKeeper, source: LateSource, retracted: list[tuple[int, int]]
    ) -> None:
        self.drive = drive
        self.tree = tree
        self.keeper = keeper
        self.source = source
        self.retracted = retracted
        self.killed = False

    def kill(self) -> None:
        """What was not flushed is lost, as after kill -9."""
        self.content.register.close(flush=False)
        self.killed = True

    @property
    def content(self) -> SparseRegister:
        assert self.drive.content is not None
        return self.drive.content

    async def open(self, path: str) -> OpenFile:
        """A file by its path."""
        return await self.tree.open(await self.tree.find(tuple(path.encode().strip(b"/").split(b"/"))))

    async def read(self, path: str, offset: int = 0, length: int = 1 << 30) -> bytes:
        """Bytes of a file, as a mount reads them."""
        file = await self.open(path)
        try:
            found = file.read_nowait(offset, length)
            return await file.read(offset, length) if found is None else found
        finally:
            file.close()

    async def held(self, path: str) -> bool:
        """Whether all of a file is here."""
        file = await self.open(path)
        file.close()
        return file.complete


@asynccontextmanager
async def cached_drive(
    writer: DriveWriter, cache_dir: Path, limit: int | None, *, dice: random.Random | None = None
) -> AsyncIterator[CachedDrive]:
    """A drive in a cache folder with a limit, its metadata fetched; its keeper's task does not run."""
    with ExitStack() as stack:
        store = stack.enter_context(cache_store(writer.metadata.key, cache_dir))
        assert store.folder is not None
        source = LateSource(dice or random.Random(0))
        retracted: list[tuple[int, int]] = []
        metadata = Register.open(store.open_storage, key=writer.metadata.key, prefix="metadata.")
        keeper = CacheKeeper(
            store.folder,
            metadata,
            lambda register, first, length: retracted.append((first, length)),
            cache_dir=cache_dir,
            limit=limit,
            clock=microseconds,
        )
        sparse = SparseRegister(metadata, source, name="metadata")
        sparse.keeper = keeper
        source.add(writer.metadata, sparse)

        def open_content(key: bytes) -> SparseRegister:
            register = Register.open(store.open_storage, key=key, prefix="content.")
            stack.callback(register.close)
            content = SparseRegister(register, source, name="content")
            source.add(writer.content, content)
            keeper.watch(content)
            return content

        stack.callback(metadata.close)
        drive = Drive(sparse, open_content)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(source.run)
            await sparse.ensure(range(writer.metadata.length))
            await drive.load_header()
            at = CachedDrive(drive, await drive.checkout(), keeper, source, retracted)
            yield at
            drive.close()
            nursery.cancel_scope.cancel()
        keeper.close()
        if not at.killed:
            keeper.settled()


def space_in(cache_dir: Path) -> int:
    """What ``du`` says of a cache folder."""
    return space_of(cache_dir) + sum(space_of(folder) for folder in stores_in(cache_dir))


def noise(size: int, seed: int) -> bytes:
    """Bytes without zeros: a hole shows."""
    return bytes(byte or 1 for byte in random.Random(seed).randbytes(size))


def contents(sizes: Mapping[str, int]) -> dict[str, bytes]:
    """Files of these sizes."""
    return {path: noise(size, number) for number, (path, size) in enumerate(sizes.items())}
