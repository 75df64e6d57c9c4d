"""The records of a drive's metadata register: header, entries and their attributes (drive.md sections 1, 3,
6, 7).

Owns the bytes of one chunk and what may be believed of it; :mod:`datfs.path_index` walks from chunk to chunk,
and :mod:`datfs.drive` brings them. Pure: no I/O, no clock.

The writer of a drive is not trusted (drive.md section 9). Chunks that do not decode raise BadMetadata and
nothing else; what does decode is bounded, in time and memory, by a small multiple of the chunk's own size.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from google.protobuf.message import DecodeError

from datfs import drive_pb2, index_lists
from datfs.errors import BadMetadata, UnsupportedFormat

Path = tuple[bytes, ...]
"""Components from the root, which is the empty tuple."""

EntryKind = Literal["file", "directory"]

DRIVE_TYPE = b"hyperdrive"
COMPONENT_LIMIT = 255  # bytes; NAME_MAX of Linux
NAME_LIMIT = 65_536  # bytes; 16 times PATH_MAX, and it bounds the work that one name can cause
CHUNK_LIMIT = 8 * 1024 * 1024  # bytes; larger ones do not fit a wire message (wire.md)
SAFE_INTEGER = 2**53 - 1  # the reference's numbers are doubles: nothing it wrote is larger
LAST_MS = 253_402_300_799_999  # the last millisecond of the year 9999, as far as most tools can print

_VALID = re.compile(rb"(?!\.{1,2}\Z)[^\0/]{1,%d}" % COMPONENT_LIMIT).fullmatch
_TYPE_MASK = 0o170000
_FILE = 0o100000
_KINDS: dict[int, EntryKind] = {_FILE: "file", 0o040000: "directory"}


# --- paths --------------------------------------------------------------------------------------------------


def components(name: bytes) -> Path:
    """An entry's name as path, split as the reference does: one leading and one trailing empty part are
    dropped.

    The result may hold invalid components (empty, ``.``, ``..``); see :func:`valid_component`.
    """
    parts = name.split(b"/")
    if not parts[0]:
        del parts[0]
    if parts and not parts[-1]:
        del parts[-1]
    return tuple(parts)


def name_of(path: Path) -> bytes:
    """The canonical name of a path, as entries carry it: a leading slash, none at the end."""
    return b"/" + b"/".join(path)


def valid_component(component: bytes) -> bool:
    """Whether a file system can show the component; entries with others are hidden (drive.md section 9)."""
    return _VALID(component) is not None


def path_of(path: str | bytes) -> Path:
    """The path that a user means, normalised as the reference normalises names before it writes them.

    Backslashes count as slashes, everything is resolved against the root, and ``..`` cannot leave it. Text is
    encoded as UTF-8, with surrogate escapes for the bytes of a command line that are not.
    """
    raw = path.encode("utf-8", "surrogateescape") if isinstance(path, str) else path
    result: list[bytes] = []
    for part in raw.replace(b"\\", b"/").split(b"/"):
        if part == b"..":
            del result[-1:]
        elif part not in (b"", b"."):
            result.append(part)
    return tuple(result)


# --- chunk 0 ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Header:
    """Metadata chunk 0. ``content_key``: 32 bytes, the public key of the content register."""

    type: str
    content_key: bytes


def decode_header(data: bytes) -> Header:
    """Metadata chunk 0 of a drive (drive.md sections 1 and 2).

    Raises BadMetadata if it is no header, or lacks a content key of 32 bytes; UnsupportedFormat if it is the
    header of something else than a hyperdrive.
    """
    message = drive_pb2.Header()
    try:
        message.ParseFromString(data)
    except DecodeError:
        raise BadMetadata("the register's first chunk is no drive's header: it does not decode") from None
    if not message.HasField("type"):
        raise BadMetadata("the register's first chunk is no drive's header: it names no type")
    if message.type != DRIVE_TYPE:
        name = message.type[:64].decode("ascii", "backslashreplace")
        raise UnsupportedFormat(f"the register holds a {name!r}, and only hyperdrives can be read", name)
    if len(message.content) != 32:
        raise BadMetadata(f"the drive's header has a content key of {len(message.content)} bytes where 32 are needed")
    return Header(DRIVE_TYPE.decode(), message.content)


def encode_header(header: Header) -> bytes:
    """The bytes of metadata chunk 0."""
    return drive_pb2.Header(type=header.type.encode(), content=header.content_key).SerializeToString()


# --- attributes ---------------------------------------------------------------------------------------------


class Stat(NamedTuple):  # made in half the time of a frozen dataclass, once for each name of a listing
    """The attributes of one entry, as the writer claims them (drive.md sections 6 and 7).

    ``size`` in bytes; ``blocks`` content chunks from number ``offset``, which begins at byte ``byte_offset``
    of the content register; times in milliseconds since 1970. Nothing is negative, and nothing else is
    certain: see :func:`plausible`, :attr:`permissions` and :func:`mtime_ns`.
    """

    mode: int
    uid: int = 0
    gid: int = 0
    size: int = 0
    blocks: int = 0
    offset: int = 0
    byte_offset: int = 0
    mtime: int = 0
    ctime: int = 0

    @property
    def kind(self) -> EntryKind | None:
        """None for links, devices, sockets, fifos and modes without a type: those are hidden."""
        # Not (mode & mask) == mask as in the reference, where a socket is a file and a directory at once.
        return _KINDS.get(self.mode & _TYPE_MASK)

    @property
    def permissions(self) -> int:
        """The low nine bits of the mode: a drive cannot hand out setuid, setgid or sticky bits."""
        return self.mode & 0o777


@functools.lru_cache(maxsize=16_384)  # the attributes of a record are asked for a few times in a row
def decode_stat(data: bytes) -> Stat:
    """The attributes in an entry's value. Raises BadMetadata if they do not decode or have no mode."""
    return _stat(data)


def _stat(data: bytes) -> Stat:
    try:
        message = drive_pb2.Stat.FromString(data)
    except DecodeError:
        raise BadMetadata("an entry's attributes do not decode") from None
    mode = message.mode
    if not mode and not message.HasField("mode"):
        raise BadMetadata("an entry's attributes do not decode: they have no mode")
    # Half the time of Stat(...), once for each name of a listing.
    return tuple.__new__(
        Stat,
        (
            mode,
            message.uid,
            message.gid,
            message.size,
            message.blocks,
            message.offset,
            message.byte_offset,
            message.mtime,
            message.ctime,
        ),
    )


def encode_stat(stat: Stat) -> bytes:
    """The value of an entry, byte for byte as the reference writes it.

    For a directory it leaves out owner, size and blocks that are zero; for anything else it writes zeros too.
    """
    message = drive_pb2.Stat(
        mode=stat.mode,
        offset=stat.offset,
        byte_offset=stat.byte_offset,
        mtime=stat.mtime,
        ctime=stat.ctime,
    )
    sparse = stat.kind == "directory"
    for field in ("uid", "gid", "size", "blocks"):
        number = getattr(stat, field)
        if number or not sparse:
            setattr(message, field, number)
    return message.SerializeToString()


def plausible(stat: Stat, content_length: int | None) -> str | None:
    """Why a file's content fields cannot be right, or None if they can (drive.md section 9).

    ``content_length``: the verified number of content chunks, None while it is not known. A None does not
    promise that the chunks have the sizes claimed: only their tree nodes tell.
    """
    for field in ("size", "blocks", "offset", "byte_offset"):
        number = getattr(stat, field)
        if number > SAFE_INTEGER:
            return f"{field} is {number}, beyond any number that a drive can hold"
    if stat.offset + stat.blocks > SAFE_INTEGER or stat.byte_offset + stat.size > SAFE_INTEGER:
        return "the range it names ends beyond any number that a drive can hold"
    if stat.size > stat.blocks * CHUNK_LIMIT:
        return f"{stat.size} bytes do not fit {stat.blocks} chunks"
    if content_length is not None and stat.blocks and stat.offset + stat.blocks > content_length:
        return (
            f"it ends with content chunk {stat.offset + stat.blocks - 1}, and the last one that exists is "
            f"{content_length - 1}"
        )
    return None


def mtime_ns(milliseconds: int) -> int:
    """A time of :class:`Stat` in nanoseconds since 1970, clamped to the years 1970 to 9999."""
    if 0 <= milliseconds <= LAST_MS:  # without two calls, since a listing does this for each name
        return milliseconds * 1_000_000
    return 0 if milliseconds < 0 else LAST_MS * 1_000_000


# --- chunks 1, 2, ... ---------------------------------------------------------------------------------------


class Record(NamedTuple):
    """One change of the tree: metadata chunk ``seq``. Made by :func:`decode_record`.

    ``path``: the name's components, invalid ones included. ``value``: None for a deletion. ``index``: the
    encoded path index; ``last``: where its list for the whole path is, 0 if it has none. Attributes and
    lists are decoded each time they are asked for: a listing needs one list of very few records, and
    decoded they would take many times the chunk's own bytes.
    """

    seq: int
    path: Path
    value: bytes | None
    index: bytes  # type: ignore[assignment]  # hides tuple.index, which nobody needs of a record
    last: int

    @property
    def stat(self) -> Stat | None:
        """None for a deletion, and if the value does not decode."""
        try:
            return decode_stat(self.value) if self.value is not None else None
        except BadMetadata:
            return None

    @property
    def stat_error(self) -> str | None:
        """What is wrong with the value, if something is."""
        try:
            if self.value is not None:
                decode_stat(self.value)
        except BadMetadata as error:
            return str(error)
        return None

    @property
    def lists(self) -> tuple[tuple[int, ...], ...]:
        """All lists of the index; see :meth:`children`."""
        return tuple(self.children(level) for level in range(index_lists.count(self.index, len(self.path) + 1)))

    def children(self, level: int) -> tuple[int, ...]:
        """List ``level`` of the index: what is in the directory of this path's first ``level`` components.

        Chunk numbers, strictly ascending, all >= 1 and <= ``seq``; ``seq`` itself can only be the last one.
        Elements that do not fit are left out, and a list that is not there is empty (drive.md sections 3 and
        9).
        """
        depth = len(self.path)
        if level == depth:
            return index_lists.decode_at(self.index, self.last, self.seq) if self.last else ()
        return index_lists.decode(self.index, level, self.seq) if level < depth else ()


def decode_record(seq: int, data: bytes) -> Record:
    """Metadata chunk ``seq`` (>= 1).

    A value that does not decode is no reason to refuse the record, since the name is needed all the same.
    Raises BadMetadata, with the chunk's number, for anything else that does not decode.
    """
    try:
        message = drive_pb2.Node.FromString(data)
    except DecodeError:
        raise BadMetadata(f"metadata chunk {seq} is not an entry of a drive: it does not decode") from None
    if not message.HasField("name"):
        raise BadMetadata(f"metadata chunk {seq} is not an entry of a drive: it has no name")
    name, index = message.name, message.paths
    if len(name) > NAME_LIMIT:
        raise BadMetadata(f"metadata chunk {seq} has a name of {len(name)} bytes, over {NAME_LIMIT}")
    path = components(name)
    try:
        lists, last = index_lists.survey(index, len(path) + 1)
    except ValueError as error:
        raise BadMetadata(f"the path index of metadata chunk {seq} does not decode: {error}") from None
    value = message.value if message.HasField("value") else None
    return Record(seq, path, value, index, last if lists > len(path) else 0)


def decode_plain(data: bytes, above: bytes, siblings: index_lists.Siblings) -> tuple[bytes, Stat] | None:
    """Last component and attributes, if the chunk is a file right in ``above`` that nothing else has to do with.

    ``above``: the directory's canonical name with a slash at the end. None for anything else, and for what does not
    decode: :func:`decode_record` tells. It is quicker, and nearly all entries of a drive are such files.
    """
    try:
        message = drive_pb2.Node.FromString(data)
    except DecodeError:
        return None
    name = message.name
    if not name.startswith(above) or len(name) > NAME_LIMIT:
        return None
    last = name[len(above) :]
    value = message.value
    if not value or _VALID(last) is None:
        return None
    try:
        stat = _stat(value)
        if stat.mode & _TYPE_MASK != _FILE or not siblings.is_alone(message.paths):
            return None
    except (BadMetadata, ValueError):
        return None
    return last, stat


def encode_record(name: bytes, value: bytes | None, lists: Sequence[Sequence[int]], seq: int) -> bytes:
    """The bytes of metadata chunk ``seq`` (drive.md sections 1 and 3).

    ``value`` None makes a deletion. ``lists`` must ascend, as those of :mod:`datfs.path_index` do.
    """
    return encode_indexed(name, value, index_lists.encode(lists, seq))


def encode_indexed(name: bytes, value: bytes | None, index: bytes) -> bytes:
    """As :func:`encode_record`, with the path index encoded already."""
    message = drive_pb2.Node(name=name, paths=index)
    if value is not None:
        message.value = value
    return message.SerializeToString()
