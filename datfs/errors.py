"""Every exception that datfs raises on purpose.

::

    DatfsError
    ├─ NotFound                 no such path, version or drive
    ├─ NotADirectory
    ├─ IsADirectory
    ├─ ReadOnly
    ├─ BadLink                  a link, key, address or name that is none
    ├─ NotADrive                a folder without a drive in it
    ├─ Unavailable              nobody gave it in time
    │  ├─ TimedOut
    │  ├─ NoPeers               nobody to ask at all, or offline
    │  ├─ Gone                  nobody who can be asked has it any more
    │  ├─ Busy                  too many reads are waiting already
    │  ├─ BudgetSpent           as much was fetched as may be
    │  ├─ CacheFull             the cache's limit leaves no room
    │  └─ Closed                the drive was closed while we waited
    ├─ IntegrityError           our own store or a signed register is wrong
    │  ├─ CorruptStorage
    │  └─ ForkedRegister
    ├─ FormatError              bytes that do not follow the format
    │  ├─ BadMetadata
    │  ├─ BadStore              a SLEEP file or folder that cannot be opened
    │  └─ UnsupportedFormat
    ├─ FileChanged              a file was written while it was added to a drive
    ├─ Conflict                 files of the person's own are in the way
    ├─ StoreLocked              another process owns the store
    ├─ BadProof                 from a peer's data: ends that peer, never a read
    ├─ ProtocolError
    │  ├─ LocalProtocolError    we did something the protocol does not allow
    │  └─ RemoteProtocolError   the peer did
    └─ MountError               the mount could not be made or removed

An ``OSError`` of the storage keeps its own class and errno. Messages are for people: what, why, what next.
"""

from __future__ import annotations


class DatfsError(Exception):
    """Base of all of the exceptions here."""


class NotFound(DatfsError):
    """There is no such path, version or drive."""


class NotADirectory(DatfsError):
    """A path goes through something that is not a directory."""


class IsADirectory(DatfsError):
    """A file was wanted and the path is a directory."""


class ReadOnly(DatfsError):
    """A change was asked of something that cannot be changed."""


class BadLink(DatfsError):
    """The text is not a dat link, a key, an address or a folder."""


class NotADrive(DatfsError):
    """The folder exists and holds no drive."""


class Unavailable(DatfsError):
    """The data exist, as far as anybody knows, but nobody gave them."""


class TimedOut(Unavailable):
    """The deadline passed before a peer delivered."""


class NoPeers(Unavailable):
    """There is nobody to ask: no peer is connected or expected, or we are offline."""


class Gone(Unavailable):
    """Everybody who can be asked has told that he does not have it (any more)."""


class Busy(Unavailable):
    """So many reads wait already that this one was refused."""


class BudgetSpent(Unavailable):
    """As much was fetched from peers as may be."""


class CacheFull(Unavailable):
    """The cache's limit leaves no room for what should be fetched."""


class Closed(Unavailable):
    """The drive was closed while we waited."""


class IntegrityError(DatfsError):
    """Our own store or a signed register contradicts itself."""


class CorruptStorage(IntegrityError):
    """A store holds bytes that are not the ones that were verified.

    ``store`` names the file, ``offset`` is the byte where it begins.
    """

    def __init__(self, message: str, store: str = "", offset: int = 0) -> None:
        super().__init__(message)
        self.store = store
        self.offset = offset


class ForkedRegister(IntegrityError):
    """Two validly signed histories of one register exist; nothing after the fork can be trusted."""


class FormatError(DatfsError):
    """Bytes that do not follow the format they claim."""


class BadMetadata(FormatError):
    """A metadata chunk that does not decode, or says impossible things (drive.md section 9)."""


class BadStore(FormatError):
    """A SLEEP file or folder that cannot be opened; the message names file and offset (sleep.md)."""


class UnsupportedFormat(FormatError):
    """Well formed, but of a kind this program does not read. ``name`` is the kind."""

    def __init__(self, message: str, name: str = "") -> None:
        super().__init__(message)
        self.name = name


class FileChanged(DatfsError):
    """A file of the folder was written, cut or replaced while it was added to the drive."""


class Conflict(DatfsError):
    """Files that are not the drive's, or were changed, are where files of the drive belong; nothing was done."""


class StoreLocked(DatfsError):
    """Another process owns the store. ``pid`` is the owner's, 0 if unknown."""

    def __init__(self, message: str, pid: int = 0) -> None:
        super().__init__(message)
        self.pid = pid


class BadProof(DatfsError):
    """A chunk or proof from a peer does not verify (register.md section 7)."""

    def __init__(self, index: int, why: str) -> None:
        super().__init__(f"chunk {index}: {why}")
        self.index = index
        self.why = why


class ProtocolError(DatfsError):
    """The wire protocol was broken by one of the two sides."""


class LocalProtocolError(ProtocolError):
    """We tried to do what the protocol does not allow: a bug here."""


class RemoteProtocolError(ProtocolError):
    """The peer did what the protocol does not allow: the connection ends."""


class MountError(DatfsError):
    """The mount could not be made or removed; the message says why and what to do."""
