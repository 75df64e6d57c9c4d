"""The kernel's switches for one FUSE connection: abort, limits, read-ahead (fuse.md sections 1 and 4).

They are files of the ``fusectl`` file system, one folder per mount, named after the mount's device number.
Systemd mounts it on most machines. Where nobody did, root gets a private instance that is attached nowhere
and goes with its descriptor, so nothing of the machine is changed.

Reaching them is best effort: without the right to it, or without fusectl, there are simply no switches.
"""

from __future__ import annotations

import ctypes
import logging
import os
from types import TracebackType

log = logging.getLogger(__name__)

MOUNTINFO = "/proc/self/mountinfo"

# System calls without a wrapper in the C library of Debian 12; the numbers are the same on all usual
# architectures.
_SYS_FSOPEN, _SYS_FSCONFIG, _SYS_FSMOUNT = 430, 431, 432
_CLOEXEC = 1  # FSOPEN_CLOEXEC and FSMOUNT_CLOEXEC
_FSCONFIG_CMD_CREATE = 6

# More than Operations lets wait at once, so that its bound is met (EBUSY) before the kernel holds back reads
# of files that are here.
MAX_BACKGROUND = 2048
CONGESTION_THRESHOLD = 1536


class FuseConnection:
    """The switches of the mount with device ``major:minor``. Raises OSError if they cannot be reached.

    Holds the connection's folder: when the mount has gone it is empty, even if another mount gets its number.
    """

    def __init__(self, device: tuple[int, int]) -> None:
        root = _fusectl()
        try:
            # The folder carries the kernel's device number; FUSE mounts are anonymous devices, of major
            # number 0.
            self._folder = os.open(str(device[1]), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=root)
        finally:
            os.close(root)

    def __enter__(self) -> FuseConnection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._folder)

    @property
    def waiting(self) -> int:
        """How many requests have no answer yet; 0 when the mount has gone."""
        try:
            fd = os.open("waiting", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._folder)
        except FileNotFoundError:
            return 0
        try:
            return int(os.read(fd, 64) or b"0")
        finally:
            os.close(fd)

    def write(self, switch: str, value: int) -> None:
        """Sets one of the switches. Raises OSError."""
        _write(switch, value, self._folder)

    def abort(self) -> None:
        """Ends waiting requests with ECONNABORTED and all later ones with ENOTCONN. Raises OSError."""
        self.write("abort", 1)


def raise_background_limit(device: tuple[int, int]) -> bool:
    """Lets the kernel send many background reads at once, so that waiting ones do not hold up others.

    False if it was not possible: then files that are not complete must not be read through the page cache.
    """
    try:
        with FuseConnection(device) as connection:
            connection.write("max_background", MAX_BACKGROUND)
            connection.write("congestion_threshold", CONGESTION_THRESHOLD)
    except OSError as error:
        log.debug("max_background stays as it is: %s", error)
        return False
    return True


def set_read_ahead(device: tuple[int, int], kib: int) -> bool:
    """Sets the kernel's read-ahead of the mount in KiB; False if that was not possible.

    Must come after the INIT exchange, which sets it to the smaller of its present value and the reply's.
    """
    try:
        _write(f"/sys/class/bdi/{device[0]}:{device[1]}/read_ahead_kb", kib)
    except OSError as error:
        log.debug("read-ahead stays as it is: %s", error)
        return False
    return True


def _write(path: str, value: int, folder: int | None = None) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC, dir_fd=folder)
    try:
        os.write(fd, b"%d" % value)
    finally:
        os.close(fd)


def _fusectl() -> int:
    """A descriptor of the root of fusectl. Raises OSError."""
    with open(MOUNTINFO, "rb") as file:
        for line in file:
            before, _, after = line.partition(b" - ")
            if after.startswith(b"fusectl ") and b"\\" not in (point := before.split(b" ")[4]):
                return os.open(point, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    context = _call(_SYS_FSOPEN, b"fusectl", ctypes.c_uint(_CLOEXEC))
    try:
        _call(_SYS_FSCONFIG, context, ctypes.c_uint(_FSCONFIG_CMD_CREATE), None, None, 0)
        return _call(_SYS_FSMOUNT, context, ctypes.c_uint(_CLOEXEC), ctypes.c_uint(0))
    finally:
        os.close(context)


def _call(number: int, *arguments: object) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    result = int(libc.syscall(ctypes.c_long(number), *arguments))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
