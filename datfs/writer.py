"""Writing a drive: content first, then the metadata entry that points to it (drive.md sections 5 and 6).

Synchronous and without network. A drive made here is byte for byte the one the reference makes for the same keys,
operations and times.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from datfs import path_index
from datfs.crypto import KeyPair, content_key_pair
from datfs.errors import BadLink, NotFound, ReadOnly
from datfs.metadata import (
    Header,
    Path,
    Record,
    Stat,
    decode_record,
    encode_header,
    encode_record,
    encode_stat,
    valid_component,
)
from datfs.register import Register
from datfs.storage import Buffer, OpenStorage

CHUNK_BYTES = 65_536  # how the reference splits files
FILE = 0o100000
DIRECTORY = 0o040000


class DriveWriter:
    """The two registers of a drive we hold the secret key of. Make one with :meth:`create` or :meth:`open`."""

    def __init__(self, metadata: Register, content: Register) -> None:
        self.metadata = metadata
        self.content = content

    @classmethod
    def create(
        cls,
        open_storage: OpenStorage,
        key_pair: KeyPair,
        *,
        metadata_prefix: str = "metadata.",
        content_prefix: str = "content.",
    ) -> DriveWriter:
        """Makes an empty drive: its header, and a content register with the key derived from ``key_pair``."""
        metadata = Register.create(open_storage, key_pair, prefix=metadata_prefix)
        derived = content_key_pair(key_pair.secret)
        content = Register.create(open_storage, derived, prefix=content_prefix, store_secret=False)
        metadata.append([encode_header(Header("hyperdrive", derived.public))])
        return cls(metadata, content)

    @classmethod
    def open(
        cls,
        open_storage: OpenStorage,
        secret_key: bytes | None = None,
        *,
        metadata_prefix: str = "metadata.",
        content_prefix: str = "content.",
    ) -> DriveWriter:
        """Opens a drive to go on writing it. Raises ReadOnly if the secret key is neither given nor stored."""
        metadata = Register.open(open_storage, secret_key=secret_key, prefix=metadata_prefix)
        if metadata.secret_key is None:
            metadata.close()
            raise ReadOnly("this copy of the drive cannot be written: its secret key is not here")
        derived = content_key_pair(metadata.secret_key)
        content = Register.open(open_storage, key=derived.public, secret_key=derived.secret, prefix=content_prefix)
        return cls(metadata, content)

    @property
    def version(self) -> int:
        """The newest version; 0 for an empty drive."""
        return self.metadata.length - 1

    def put(
        self,
        path: Path,
        pieces: Iterable[Buffer],
        *,
        mtime: int,
        ctime: int | None = None,
        mode: int = 0o644,
        uid: int = 0,
        gid: int = 0,
    ) -> int:
        """Adds a file, or a new version of one; returns the drive's new version.

        ``pieces``: its bytes, each piece one chunk (see :func:`chunks_of`). Times in ms since 1970. Not durable
        before :meth:`flush`. Raises BadLink for a path no drive may have.
        """
        _check(path)
        offset, byte_offset = self.content.length, self.content.byte_length
        for piece in pieces:
            self.content.append([piece], sync=False)
        stat = Stat(
            mode=FILE | mode,
            uid=uid,
            gid=gid,
            size=self.content.byte_length - byte_offset,
            blocks=self.content.length - offset,
            offset=offset,
            byte_offset=byte_offset,
            mtime=mtime,
            ctime=mtime if ctime is None else ctime,
        )
        return self._put(path, encode_stat(stat))

    def mkdir(self, path: Path, *, mtime: int, mode: int = 0o755) -> int:
        """Adds an explicit directory; returns the drive's new version."""
        stat = Stat(
            mode=DIRECTORY | mode,
            offset=self.content.length,
            byte_offset=self.content.byte_length,
            mtime=mtime,
            ctime=mtime,
        )
        return self._put(path, encode_stat(stat))

    def delete(self, path: Path) -> int:
        """Deletes a file or an explicit directory entry. Raises NotFound."""
        head = self.version
        if path_index.run(path_index.get(self._record, head, path)) is None:
            raise NotFound("there is no such entry to delete")
        return self._append(path, None, self._lists_without(path))

    def flush(self) -> None:
        """Makes everything durable, content before metadata."""
        self.content.flush()
        self.metadata.flush()

    def close(self) -> None:
        """Flushes and closes both registers."""
        self.content.close()
        self.metadata.close()

    def _record(self, seq: int) -> Record:
        return decode_record(seq, self.metadata.get(seq))

    def _lists_without(self, path: Path) -> list[list[int]]:
        """The index lists of a deletion, which leave every other entry reachable.

        Nearly always those of the reference. It forgets a directory, though, whose last entry with a value is deleted,
        although there may be more below sub-directories that only deletions stand for
        (:func:`datfs.path_index.delete_lists`).
        """
        head, own = self.version, self.metadata.length
        lists = path_index.run(path_index.delete_lists(self._record, head, own, path))
        assert lists is not None  # only for a drive without any change
        levels = [
            [
                seq
                for seq in path_index.run(path_index.list_index(self._record, head, path[:depth]))
                if self._record(seq).path[depth : depth + 1] != path[depth : depth + 1]
            ]
            for depth in range(len(path) + 1)
        ]
        inhabited = [depth for depth, level in enumerate(levels) if any(self._lives(seq, depth) for seq in level)]
        deepest = max(inhabited, default=0)
        if deepest < len(lists):
            return lists
        return [[*level, own] for level in levels[:deepest]] + [levels[deepest]]

    def _lives(self, seq: int, depth: int) -> bool:
        """Whether an element of the list of a directory of ``depth`` components stands for something."""
        record = self._record(seq)
        return record.value is not None or bool(record.children(depth + 1))

    def _put(self, path: Path, value: bytes) -> int:
        _check(path)
        lists = path_index.run(path_index.put_lists(self._record, self.version, self.metadata.length, path))
        return self._append(path, value, lists)

    def _append(self, path: Path, value: bytes | None, lists: Iterable[Iterable[int]]) -> int:
        seq = self.metadata.length
        name = b"/" + b"/".join(path)
        self.metadata.append([encode_record(name, value, tuple(map(tuple, lists)), seq)], sync=False)
        return seq


def _check(path: Path) -> None:
    if not path or not all(map(valid_component, path)):
        raise BadLink("a drive's path has one or more names, none of them '.', '..' or with a slash or NUL in it")


def chunks_of(data: Buffer) -> Iterator[memoryview]:
    """Splits bytes as the reference does: 65,536 each, the rest in the last."""
    view = memoryview(data)
    for start in range(0, len(view), CHUNK_BYTES):
        yield view[start : start + CHUNK_BYTES]
