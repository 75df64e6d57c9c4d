"""What errors are for programs: the errno of each branch of :mod:`datfs.errors` (docs/fuse.md)."""

from __future__ import annotations

import errno

import trio

from datfs import errors

# One row per branch of datfs.errors; the nearest base class decides.
ERRNOS: dict[type[BaseException], int] = {
    errors.NotFound: errno.ENOENT,
    errors.NotADirectory: errno.ENOTDIR,
    errors.IsADirectory: errno.EISDIR,
    errors.ReadOnly: errno.EROFS,
    errors.BadLink: errno.EINVAL,
    errors.NotADrive: errno.EIO,
    errors.Unavailable: errno.ETIMEDOUT,
    errors.TimedOut: errno.ETIMEDOUT,
    errors.NoPeers: errno.EHOSTUNREACH,
    errors.Gone: errno.ENODATA,
    errors.Busy: errno.EBUSY,
    errors.BudgetSpent: errno.EDQUOT,
    errors.CacheFull: errno.ENOSPC,
    errors.Closed: errno.ECONNABORTED,  # what the kernel itself says then
    errors.IntegrityError: errno.EIO,
    errors.FormatError: errno.EIO,
    errors.StoreLocked: errno.EBUSY,
    errors.Conflict: errno.EEXIST,
    errors.FileChanged: errno.EIO,
    errors.BadProof: errno.EIO,
    errors.ProtocolError: errno.EIO,
    errors.MountError: errno.EIO,
    trio.TooSlowError: errno.ETIMEDOUT,
}


def known_errno(error: BaseException) -> int | None:
    """The errno that tells ``error`` to a program, None if the exception is not one that we expect.

    Of a group of exceptions the first expected one counts.
    """
    if isinstance(error, BaseExceptionGroup):
        return next((code for inner in error.exceptions if (code := known_errno(inner)) is not None), None)
    for kind in type(error).__mro__:
        if kind in ERRNOS:
            return ERRNOS[kind]
    if isinstance(error, OSError):
        return error.errno or errno.EIO
    return None
