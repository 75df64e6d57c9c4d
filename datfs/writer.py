"""Writing a drive: content first, then the metadata entry that points to it (drive.md sections 5 and 6).

Synchronous and without network. A drive made here is byte for byte the one the reference makes for the same keys,
operations and times.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from datfs.crypto import KeyPair, content_key_pair
from datfs.errors import BadLink, NotFound, ReadOnly
from datfs.hashed_file import CHUNK_BYTES as CHUNK_BYTES
from datfs.index_builder import IndexBuilder
from datfs.metadata import (
    Header,
    Path,
    Record,
    Stat,
    decode_record,
    encode_header,
    encode_indexed,
    encode_stat,
    name_of,
    valid_component,
)
from datfs.register import Register
from datfs.storage import Buffer, OpenStorage

FILE = 0o100000
DIRECTORY = 0o040000


class DriveWriter:
    """The two registers of a drive we hold the secret key of. Make one with :meth:`create` or :meth:`open`."""

    def __init__(self, metadata: Register, content: Register) -> None:
        self.metadata = metadata
        self.content = content
        self._index = IndexBuilder(self._record)

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
        if self._entry(path) is None:
            raise NotFound("there is no such entry to delete")
        seq = self.metadata.length
        index = self._index.delete(self.version, seq, path)
        self.metadata.append([encode_indexed(name_of(path), None, index)], sync=False)
        return seq

    def flush(self) -> None:
        """Makes everything durable, content before metadata."""
        self.content.flush()
        self.metadata.flush()

    def close(self) -> None:
        """Flushes and closes both registers. Raises OSError; no entry is durable then whose content is not."""
        try:
            self.content.close()
        except OSError:
            self.metadata.close(flush=False)
            raise
        self.metadata.close()

    def _entry(self, path: Path) -> Record | None:
        """The entry at a path."""
        found = self._index.find(self.version, path) if self.version else None
        record = self._record(found) if found is not None else None
        return record if record is not None and record.value is not None else None

    def _record(self, seq: int) -> Record:
        return decode_record(seq, self.metadata.get(seq))

    def _put(self, path: Path, value: bytes) -> int:
        _check(path)
        seq = self.metadata.length
        index = self._index.put(self.version, seq, path)
        self.metadata.append([encode_indexed(name_of(path), value, index)], sync=False)
        return seq


def _check(path: Path) -> None:
    if not path or not all(map(valid_component, path)):
        raise BadLink("a drive's path has one or more names, none of them '.', '..' or with a slash or NUL in it")


def chunks_of(data: Buffer) -> Iterator[memoryview]:
    """Splits bytes as the reference does: 65,536 each, the rest in the last."""
    view = memoryview(data)
    for start in range(0, len(view), CHUNK_BYTES):
        yield view[start : start + CHUNK_BYTES]
