"""A register: an append-only, signed list of chunks with its Merkle tree, over storage (register.md, sleep.md).

Synchronous, for one thread. A register we have the secret key of can be appended to; any register can be filled with
chunks that verify, from any source (:meth:`Register.put`), and can prove what it holds (:meth:`Register.proof`).

Memory says what readers may see; the disk follows at :meth:`Register.flush`, in an order that never presents a hole as
data (``docs/storage.md``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import accumulate

from datfs import flat, key_files, proof, recovery
from datfs.audit import AuditReport as AuditReport
from datfs.audit import BadChunk as BadChunk
from datfs.audit import audit
from datfs.bitfield import Bitfield
from datfs.bitfield_file import BitfieldFile
from datfs.crypto import Buffer, KeyPair, TreeNode, key_pair, leaf_hash, root_checksum, sign
from datfs.errors import CorruptStorage, ForkedRegister, NotFound, ReadOnly
from datfs.link import discovery_key
from datfs.proof import PresenceSet
from datfs.sleep import NodeFile, SignatureFile
from datfs.storage import OpenStorage, RandomAccess, Syncer
from datfs.verification import check

BLOCK = 4096  # file systems give space back in blocks of this size
APPEND_JOIN = 1 << 20  # chunks of a batch are joined into writes of about this many bytes


class ChunkMissing(NotFound):
    """The chunk is not held here."""


@dataclass(frozen=True, slots=True)
class Proof:
    """The nodes of an answer, in order, and the signature that belongs to them, if one does."""

    nodes: list[TreeNode]
    signature: bytes | None


@dataclass(frozen=True, slots=True)
class SeekUnknown:
    """The byte lies in one of the chunks ``first .. stop-1``; which one is not known here."""

    first: int
    stop: int


class PendingFlush:
    """A flush in three steps, of which the middle one, :meth:`sync`, may run in another thread.

    After an OSError of any step nothing is lost: what was to be written is left to the next flush.
    """

    def __init__(self, register: Register, pages: list[tuple[int, bytes]], appended: bool) -> None:
        self._register = register
        self._pages = pages
        self._appended = appended

    def sync(self) -> None:
        """Makes chunks, nodes and signatures durable. Raises OSError."""
        try:
            self._register._sync_contents()
        except OSError:
            self.abandon()
            raise

    def finish(self) -> None:
        """Writes the bits that say so, and makes them durable. Only after :meth:`sync`. Raises OSError."""
        try:
            self._register._write_bits(self._pages, self._appended)
        except OSError:
            self.abandon()
            raise

    def abandon(self) -> None:
        """Leaves what this flush was to write to the next one."""
        self._register._redo_bits(self._pages, self._appended)


class Register:
    """One register. Make one with :meth:`create` or :meth:`open`.

    ``key``: 32-byte public key. ``secret_key``: 64 bytes, or None if we cannot append.
    """

    def __init__(
        self,
        key: bytes,
        secret_key: bytes | None,
        tree: NodeFile,
        signatures: SignatureFile,
        bits: BitfieldFile,
        data: RandomAccess,
        *,
        read_only: bool,
    ) -> None:
        self.key = key
        self.secret_key = secret_key
        self.read_only = read_only
        self._tree = tree
        self._signatures = signatures
        self._bits = bits
        self._data = data
        self.length = 0
        self.byte_length = 0
        self._next_place = (0, 0)  # chunk and byte offset after the last one placed: sequential puts need no sum
        self._next_read = (0, 0)  # the same for reads
        self._newest_roots: list[TreeNode] | None = []
        self._data_syncer = Syncer(data)
        self._undone: tuple[list[int], int] | None = None  # nodes and signature of an append that failed
        self._appended = False  # since the last flush
        self._closed = False

    # -- opening

    @classmethod
    def create(
        cls,
        open_storage: OpenStorage,
        keys: KeyPair | None = None,
        *,
        prefix: str = "",
        store_secret: bool = True,
    ) -> Register:
        """Makes an empty register in empty storage. Raises BadStore if there is one already, OSError.

        ``keys``: default a new pair. ``store_secret``: keep the secret key beside the register.
        """
        keys = keys or key_pair()
        key_files.write(open_storage, prefix, keys, store_secret=store_secret)
        return cls.open(open_storage, key=keys.public, secret_key=keys.secret, prefix=prefix)

    @classmethod
    def open(
        cls,
        open_storage: OpenStorage,
        *,
        key: bytes | None = None,
        secret_key: bytes | None = None,
        read_only: bool = False,
        prefix: str = "",
    ) -> Register:
        """Opens a register; with ``key`` and empty storage a new copy that holds nothing yet.

        ``read_only``: nothing is written, not even headers, and no secret key is looked for. What a crash left torn is
        mended in memory, and on disk at the next flush. Raises BadStore, naming file and offset, if it cannot be;
        OSError.
        """
        public = key_files.settle(open_storage, prefix, key, read_only=read_only)
        secret_key = key_files.secret(open_storage, prefix, public, secret_key, look=not read_only)
        with ExitStack() as stack:
            names = ("tree", "signatures", "bitfield", "data")
            files = [stack.enter_context(closing(open_storage(prefix + name))) for name in names]
            tree, signatures = NodeFile(files[0], read_only), SignatureFile(files[1], read_only)
            bits = BitfieldFile(files[2], read_only)
            register = cls(public, secret_key, tree, signatures, bits, files[3], read_only=read_only)
            writer = secret_key is not None
            register.length = recovery.settle(public, tree, signatures, bits, files[3], writer=writer)
            register._newest_roots = None
            register.byte_length = sum(node.size for node in register.roots())
            for part in (bits, tree, signatures):
                part.begin()
            stack.pop_all()
        return register

    def catch_up(self, newer: Register) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """Becomes what ``newer``, opened of the same files since, is; returns the ranges of chunks gained and lost.

        For a register that another process appends to. ``newer`` must not be used afterwards. Raises ForkedRegister,
        if it is no longer version of the same register; nothing is changed then.
        """
        if newer.key != self.key or newer.length < self.length or newer.roots(self.length) != self.roots():
            newer.close()
            raise ForkedRegister(f"{self._tree.file.name}: the register was replaced by another one while it was open")
        gained = list(_only_in(newer.data_bits, self.data_bits))
        lost = list(_only_in(self.data_bits, newer.data_bits))
        for file in (self._data, self._tree.file, self._signatures.file, self._bits.file):
            file.close()
        self._tree, self._signatures, self._bits, self._data = newer._tree, newer._signatures, newer._bits, newer._data
        self._next_read = (0, 0)
        self._stand_at(newer.length, newer.byte_length, None)
        return gained, lost

    # -- facts

    @property
    def writable(self) -> bool:
        """Whether we can append."""
        return self.secret_key is not None and not self.read_only

    @property
    def discovery_key(self) -> bytes:
        """32 bytes that may be shown to strangers."""
        return discovery_key(self.key)

    @property
    def data_bits(self) -> Bitfield:
        """Which chunks are held. To be read only."""
        return self._bits.data

    @property
    def tree_bits(self) -> Bitfield:
        """Which tree nodes are held. To be read only."""
        return self._bits.tree

    def has(self, index: int) -> bool:
        """Whether the chunk is held."""
        return self._bits.data.get(index)

    def has_range(self, first: int, stop: int) -> bool:
        """Whether all chunks of ``first .. stop-1`` are held."""
        return self._bits.data.all_set(first, stop)

    def node(self, index: int) -> TreeNode | None:
        """A node of the tree, None if it is not held."""
        return self._tree.get(index) if self._bits.tree.get(index) else None

    def roots(self, length: int | None = None) -> list[TreeNode]:
        """The roots of a length (default: all). Raises CorruptStorage or ChunkMissing if one is not held."""
        if length is not None and length != self.length:
            return [self._need(number) for number in flat.full_roots(2 * length)]
        if self._newest_roots is None:
            self._newest_roots = [self._need(number) for number in flat.full_roots(2 * self.length)]
        return list(self._newest_roots)

    def signature(self, index: int) -> bytes | None:
        """The signature that covers chunks ``0 .. index``, None if it is not held."""
        return self._signatures.get(index)

    def _need(self, number: int) -> TreeNode:
        if not self._bits.tree.get(number):
            raise ChunkMissing(f"tree node {number} is not here")
        node = self._tree.get(number)
        if node is None:
            name = self._tree.file.name
            raise CorruptStorage(
                f"{name}: node {number} should be at byte {32 + 40 * number} and is not there",
                name,
                32 + 40 * number,
            )
        return node

    # -- chunks

    def byte_offset(self, index: int) -> int:
        """Where the chunk begins, in bytes. Known for every chunk held. Raises ChunkMissing if it is not known."""
        if index == self._next_place[0]:
            return self._next_place[1]
        if index == self._next_read[0]:
            return self._next_read[1]
        return sum(self._need(number).size for number in flat.full_roots(2 * index))

    def size_of(self, index: int) -> int:
        """Bytes of the chunk. Raises ChunkMissing if its leaf is not held."""
        return self._need(2 * index).size

    def get(self, index: int) -> bytes:
        """The chunk. Raises ChunkMissing if it is not held, CorruptStorage if its bytes are gone, OSError."""
        if not self.has(index):
            raise ChunkMissing(f"chunk {index} is not here")
        offset, size = self.byte_offset(index), self.size_of(index)
        value = self._data.read(offset, size)
        if len(value) != size:
            raise CorruptStorage(
                f"{self._data.name}: chunk {index} should have {size} bytes at byte {offset},"
                f" only {len(value)} are there",
                self._data.name,
                offset,
            )
        self._next_read = (index + 1, offset + size)
        return value

    def get_run(self, first: int, stop: int) -> list[bytes]:
        """Chunks ``first .. stop-1`` with one read of the data, for many small ones. Raises as :meth:`get` does."""
        sizes = self._tree.leaf_sizes(first, stop)
        if not sizes or not all(sizes) or not self.has_range(first, stop):
            return [self.get(index) for index in range(first, stop)]  # tells what is wrong, if anything is
        offset = self.byte_offset(first)
        ends = list(accumulate(sizes))
        together = self._data.read(offset, ends[-1])
        if len(together) != ends[-1]:
            return [self.get(index) for index in range(first, stop)]
        self._next_read = (stop, offset + ends[-1])
        return [together[end - size : end] for size, end in zip(sizes, ends, strict=True)]

    def read(self, offset: int, length: int) -> bytes:
        """Bytes of the register, which the caller knows to be held. Raises OSError, CorruptStorage."""
        data = self._data.read(offset, length)
        if len(data) != length:
            raise CorruptStorage(
                f"{self._data.name}: {length} bytes should be at byte {offset}, only {len(data)} are there",
                self._data.name,
                offset,
            )
        return data

    def seek(self, byte: int) -> tuple[int, int] | SeekUnknown:
        """The chunk that holds a byte and the position in it; what is known if nodes are missing (register.md 9).

        Raises NotFound beyond the end.
        """
        if byte == 0:
            return 0, 0
        if byte == self.byte_length:
            return self.length, 0
        for root in self.roots():
            if byte < root.size:
                return self._seek_below(root.index, byte)
            byte -= root.size
        raise NotFound(f"the register has {self.byte_length} bytes")

    def _seek_below(self, top: int, byte: int) -> tuple[int, int] | SeekUnknown:
        while top & 1:
            left = held = flat.left_child(top)
            while not self._bits.tree.get(held) and held & 1:
                held = flat.left_child(held)
            node = self.node(held)
            if node is not None and byte < node.size:
                top = held
            elif node is not None and held == left:
                byte -= node.size
                top = flat.sibling(left)
            else:
                return SeekUnknown(flat.left_span(top) // 2, flat.right_span(top) // 2 + 1)
        return top // 2, byte

    def seek_chunk(self, byte: int) -> int | None:
        """The chunk that holds a byte, None if that is not known here or there is none."""
        try:
            found = self.seek(byte)
        except NotFound:
            return None
        return None if isinstance(found, SeekUnknown) or found[0] >= self.length else found[0]

    # -- proofs

    def digest(self, index: int) -> int:
        """What to say in a Request for the chunk about the nodes held (register.md section 6)."""
        return proof.digest(self._bits.tree, 2 * index)

    def proof(self, index: int, digest: int = 0, hash_only: bool = False, remote: PresenceSet | None = None) -> Proof:
        """What proves the chunk to a peer with this ``digest``. Raises ChunkMissing if we cannot prove it."""
        found = proof.proof_nodes(
            self._bits.tree, 2 * index, digest, hash_only, PresenceSet() if remote is None else remote
        )
        if found is None:
            raise ChunkMissing(f"chunk {index} cannot be proved: its leaf is not here")
        numbers, proven = found
        signature = None
        if proven:
            signature = self._signatures.get(proven // 2 - 1)
            if signature is None:
                raise ChunkMissing(f"chunk {index} cannot be proved: the signature of length {proven // 2} is not here")
        return Proof([self._need(number) for number in numbers], signature)

    def put(self, index: int, value: Buffer | None, nodes: Sequence[TreeNode], signature: bytes | None) -> bool:
        """Verifies an answer and stores it; True if the register grew. A chunk becomes visible last.

        With no ``value`` only its leaf is learned. Raises BadProof, ForkedRegister (nothing is stored), ReadOnly,
        OSError (the chunk is not held then).
        """
        if self.read_only:
            raise ReadOnly("the register was opened read-only")
        if self._undone is not None:
            self._forget_undone()
        new, length, roots = check(self.key, self.node, index, value, nodes, signature)
        tree, bits = self._tree, self._bits
        for node in new:
            tree.put(node)
        # No node is visible before its bit is set, and bits are set only when the data are written.
        if value is not None:
            offset = self._place(index, new)
            if value:
                self._data.write(offset, value)
                self._data_syncer.written()
            self._next_place = (index + 1, offset + len(value))
        has = bits.tree.get
        for node in new:
            proof.close_upwards(node.index, has, bits.set_tree)
        if value is not None:
            bits.set_data(index)
        if not length:
            return False
        assert signature is not None
        self._signatures.put(length - 1, bytes(signature))
        if length <= self.length:
            return False
        self.length = length
        self.byte_length = sum(root.size for root in roots)
        self._newest_roots = list(roots)
        return True

    def _place(self, index: int, new: Sequence[TreeNode]) -> int:
        """The byte offset of a chunk whose proof was accepted but whose nodes are not marked as held yet."""
        if index == self._next_place[0]:
            return self._next_place[1]
        fresh = {node.index: node.size for node in new}
        total = 0
        for number in flat.full_roots(2 * index):
            size = fresh.get(number)
            total += self._need(number).size if size is None else size
        return total

    # -- writing

    def append(
        self,
        chunks: Sequence[Buffer],
        *,
        sync: bool = True,
        leaves: Sequence[bytes] | None = None,
        whole: Buffer | None = None,
    ) -> int:
        """Appends chunks under one signature; returns the index of the first. With ``sync`` they survive a power cut.

        ``leaves``: their hashes, and ``whole``: all their bytes, for who has them already. Without ``sync``, call
        :meth:`flush` before telling anybody. Raises ReadOnly, OSError (the register is as it was).
        """
        if not self.writable or self.secret_key is None:
            raise ReadOnly("the register cannot be appended to: its secret key is not here")
        first, before = self.length, (self.length, self.byte_length)
        if not chunks:
            return first
        self._forget_undone()
        new, roots = self._grow(chunks, leaves)
        length = first + len(chunks)
        signature = sign(self.secret_key, root_checksum(roots))
        if whole is None:
            self._write_chunks(chunks)
        else:
            self._data.write(self.byte_length, whole)
            self._data_syncer.written()
        self._signatures.put(length - 1, signature)
        self._tree.put_many(new)
        self._bits.set_nodes([node.index for node in new], True)
        self._bits.set_data_range(first, length, True)
        self._appended = True
        self._stand_at(length, sum(root.size for root in roots), roots)
        if sync:
            try:
                self.flush()
            except OSError:
                self._bits.set_data_range(first, length, False)
                self._bits.set_nodes([node.index for node in new], False)
                self._undone = [node.index for node in new], length - 1
                self._stand_at(*before, None)
                try:
                    self._forget_undone()
                    self.flush()
                except OSError:
                    pass  # the disk fails still: the next append, put or close tries again
                raise
        return first

    def _forget_undone(self) -> None:
        """Takes back what an append wrote that failed. Raises OSError.

        The bits on the disk may mention it still. They go first, durably: else a crash after the next contents would
        leave bits of the one append with contents of the other.
        """
        if self._undone is None:
            return
        self.flush()
        nodes, signature = self._undone
        for number in nodes:
            self._tree.discard(number)
        self._signatures.discard(signature)
        self._undone = None

    def _stand_at(self, length: int, byte_length: int, roots: list[TreeNode] | None) -> None:
        self.length, self.byte_length, self._newest_roots = length, byte_length, roots
        self._next_place = (length, byte_length)

    def _grow(self, chunks: Sequence[Buffer], leaves: Sequence[bytes] | None) -> tuple[list[TreeNode], list[TreeNode]]:
        """The nodes that the chunks add, and the roots with them (register.md section 8)."""
        stack = self.roots()
        new: list[TreeNode] = []
        for number, (chunk, leaf) in enumerate(zip(chunks, leaves or map(leaf_hash, chunks), strict=True), self.length):
            new += recovery.grow(stack, TreeNode(2 * number, leaf, len(chunk)))
        return new, stack

    def _write_chunks(self, chunks: Sequence[Buffer]) -> None:
        offset = self.byte_length
        gathered: list[Buffer] = []
        size = 0
        for chunk in chunks:
            gathered.append(chunk)
            size += len(chunk)
            if size >= APPEND_JOIN:
                self._data.write(offset, gathered[0] if len(gathered) == 1 else b"".join(gathered))
                offset, gathered, size = offset + size, [], 0
        if size:
            self._data.write(offset, gathered[0] if len(gathered) == 1 else b"".join(gathered))
        self._data_syncer.written()

    def restore(self, first: int, stop: int) -> None:
        """Takes chunks for held again, whose bytes the caller has compared with their hashes, and which are stored."""
        if self.read_only:
            raise ReadOnly("the register was opened read-only")
        self._data_syncer.written()
        self._bits.set_data_range(first, stop, True)
        self._appended = True

    @property
    def stored_bits(self) -> Bitfield:
        """Which chunks the files say are held, as of the next flush. To be read only."""
        return self._bits.stored

    def hold_back(self) -> None:
        """From now on chunks that are put are readable as ever, and on the disk count only after :meth:`vouch`."""
        self._bits.hold_back()

    def vouch(self, first: int, stop: int) -> None:
        """The chunks ``first .. stop-1``, which are held, are where they belong, and durable."""
        self._bits.vouch(first, stop)

    def clear(self, first: int, stop: int) -> None:
        """Forgets the bytes of chunks ``first .. stop-1`` and gives their space back; nodes stay. Raises OSError."""
        self.clear_ranges([(first, stop)])

    def clear_ranges(self, ranges: Iterable[tuple[int, int]]) -> None:
        """:meth:`clear` for many ranges ``(first, stop)``, with one wait for the disk.

        The bits go first, durably: a crash in between leaves space in use, never a hole that looks like data.
        """
        if self.read_only:
            raise ReadOnly("the register was opened read-only")
        runs = [run for first, stop in ranges for run in self.data_bits.runs_of(first, stop)]
        if not runs:
            return
        places = [self._bytes_of(first, stop) for first, stop in runs]
        for first, stop in runs:
            self._bits.set_data_range(first, stop, False)
        self._bits.take_away(runs)
        for (first, stop), (start, end) in zip(runs, places, strict=True):
            self._give_back(first, stop, start, end)

    def _bytes_of(self, first: int, stop: int) -> tuple[int, int]:
        return self.byte_offset(first), self.byte_offset(stop - 1) + self.size_of(stop - 1)

    def _give_back(self, first: int, stop: int, start: int, end: int) -> None:
        """Frees the bytes of a run of chunks that are held no longer, and of blocks that only it kept in use."""
        bits = self._bits.data
        low, high = start - start % BLOCK, end + -end % BLOCK
        if low < start:
            before = bits.previous_set(first)
            low = max(low, self._bytes_of(before, before + 1)[1]) if before is not None else low
        if end >= self._data.size():
            self._data.truncate(low)
            return
        after = bits.next_set(stop, len(bits))
        if high > end and after is not None:
            high = min(high, self.byte_offset(after))
        self._data.punch(low, high - low)

    def reclaim(self) -> None:
        """Gives back the space of bytes that are of no held chunk: a crash leaves some, written but not noted as held.

        Raises OSError.
        """
        if self.read_only:
            raise ReadOnly("the register was opened read-only")
        reached = 0
        for first, stop in self.data_bits.runs():
            start, end = self._bytes_of(first, stop)
            if start > reached:
                self._data.punch(reached, start - reached)
            reached = end
        if self._data.size() > reached:
            self._data.truncate(reached)

    def forget(self, first: int, stop: int) -> None:
        """Takes chunks for not held, whose bytes others take care of: nothing is written before the next flush."""
        if self.read_only:
            raise ReadOnly("the register was opened read-only")
        stop = min(stop, len(self._bits.data))
        if first < stop:
            self._bits.set_data_range(first, stop, False)

    # -- durability

    def begin_flush(self) -> PendingFlush:
        """Writes nodes and signatures, and notes which bits are to follow. Raises OSError; nothing is lost then."""
        self._tree.flush()
        self._signatures.flush()
        appended, self._appended = self._appended, False
        return PendingFlush(self, self._bits.snapshot(), appended)

    def flush(self) -> None:
        """Makes everything that is held durable. Raises OSError, after which it may be tried again."""
        pending = self.begin_flush()
        pending.sync()
        pending.finish()

    def _sync_contents(self) -> None:
        self._data_syncer.sync()
        self._tree.sync()
        self._signatures.sync()

    def _write_bits(self, pages: list[tuple[int, bytes]], appended: bool) -> None:
        if appended:
            # The length follows from the nodes' bits. A page torn between these and the chunks' bits would leave a
            # longer register that lacks chunks which nobody else has.
            self._bits.write_data_part(pages)
            self._bits.sync()
        self._bits.write(pages)
        self._bits.sync()

    def _redo_bits(self, pages: list[tuple[int, bytes]], appended: bool) -> None:
        self._bits.redo(pages)
        self._appended |= appended

    def close(self, *, flush: bool = True) -> None:
        """Flushes and closes the files; a second call does nothing. Raises OSError of the flush, with files closed.

        Without ``flush`` what came since the last one is lost, as in a crash.
        """
        if self._closed:
            return
        self._closed = True
        try:
            if flush and not self.read_only:
                self._forget_undone()
                self.flush()
        finally:
            for file in (self._data, self._tree.file, self._signatures.file, self._bits.file):
                file.close()

    # -- checking what is stored

    def audit(self, progress: Callable[[int], None] | None = None) -> AuditReport:
        """Hashes every held chunk again and follows the tree up to the newest signature (register.md section 11).

        ``progress`` is told the bytes of each chunk. Changes nothing. Raises OSError.
        """
        return audit(self, self._data, progress)


def _only_in(bits: Bitfield, others: Bitfield) -> Iterator[tuple[int, int]]:
    """The ranges ``first, stop`` of what is set in ``bits`` and not in ``others``."""
    for begin, end in bits.runs():
        at: int | None = begin
        while at is not None and (first := others.next_clear(at, end)) is not None:
            at = others.next_set(first, end)
            yield first, end if at is None else at
