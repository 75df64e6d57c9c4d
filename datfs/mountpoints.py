"""Mount points as the kernel sees them: what is mounted where, whether we can mount there, and how it ends.

Owns the reading of mountinfo, the checks before mounting and the ways of unmounting (fuse.md section 9).
Needs no FUSE library. A live mount is never touched to learn about it, except for one ``statvfs`` of a mount
of ours, which is always answered at once.
"""

from __future__ import annotations

import ctypes
import enum
import errno
import logging
import os
import re
import shutil
import stat
import subprocess
import time
from dataclasses import dataclass

from datfs.errors import MountError
from datfs.fuse_control import MOUNTINFO, FuseConnection
from datfs.mount_options import SUBTYPE

log = logging.getLogger(__name__)

FUSE_DEVICE = "/dev/fuse"
OUR_TYPE = f"fuse.{SUBTYPE}"
# What a FUSE mount answers when its process has ended or its connection was aborted.
_DEAD = (errno.ENOTCONN, errno.ECONNABORTED)

_MNT_DETACH, _UMOUNT_NOFOLLOW = 2, 8
_HELPER_SECONDS = 10.0
LINKS_MOST = 40  # that are followed, as the kernel does


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of mountinfo (proc_pid_mountinfo(5)). ``device``: major and minor number. ``source``: our
    fsname.
    """

    device: tuple[int, int]
    point: str
    type: str
    source: str


class Unmounted(enum.Enum):
    """Which way of unmounting worked."""

    PLAIN = "plain"  # nobody used it
    LAZY = "lazy"  # detached while in use; the serving process ended after it
    ABORTED = "aborted"  # the connection had to be cut; programs that used it got errors


def parse_mountinfo(text: bytes) -> list[Mount]:
    """The mounts in the file's order: of two at one point the later lies on top. Odd lines are left out."""
    mounts = []
    for line in text.splitlines():
        before, dash, after = line.partition(b" - ")
        fields, more = before.split(b" "), after.split(b" ")
        if not dash or len(fields) < 6 or len(more) < 2:
            continue
        major, _, minor = fields[2].partition(b":")
        if major.isdigit() and minor.isdigit():
            point, kind, source = (os.fsdecode(_unescape(word)) for word in (fields[4], more[0], more[1]))
            mounts.append(Mount((int(major), int(minor)), point, kind, source))
    return mounts


def _unescape(word: bytes) -> bytes:
    return re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8) & 0xFF]), word)


def mounts() -> list[Mount]:
    """Everything mounted in our mount namespace now."""
    with open(MOUNTINFO, "rb") as file:
        return parse_mountinfo(file.read())


def mount_at(point: str) -> Mount | None:
    """The topmost mount at the absolute path ``point``."""
    return next((mount for mount in reversed(mounts()) if mount.point == point), None)


def is_mounted(device: tuple[int, int]) -> bool:
    """True while the mount with this device is attached anywhere, even if it was moved."""
    return any(mount.device == device for mount in mounts())


def resolve(path: str) -> str:
    """The absolute path as mountinfo writes it. Does not touch what may be mounted there, nor where a link leads."""
    point = os.path.abspath(path)
    for _ in range(LINKS_MOST):
        parent, name = os.path.split(point)
        if name in ("", os.curdir, os.pardir):
            break
        folder = os.path.realpath(parent)
        point = os.path.join(folder, name)
        if mount_at(point) is not None:
            return point
        try:
            # Not realpath, which looks at what the link leads to.
            point = os.path.join(folder, os.readlink(point))
        except OSError:
            return point
    return os.path.realpath(point)


def check_device() -> None:
    """Raises MountError if this machine cannot mount FUSE file systems, or we cannot."""
    if not os.path.exists(FUSE_DEVICE):
        raise MountError(
            f"there is no {FUSE_DEVICE}; try 'modprobe fuse' as root, in a container '--device {FUSE_DEVICE} "
            "--cap-add SYS_ADMIN'. 'datfs ls' and 'datfs cat' do without it"
        )
    user = os.geteuid() != 0
    if user and shutil.which("fusermount3") is None:
        raise MountError("fusermount3 is missing, which mounts for users other than root; run: apt-get install fuse3")
    try:
        # libfuse opens it with the rights of the user, too, and has fusermount3 mount then.
        os.close(os.open(FUSE_DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        fix = f"as root: chmod 666 {FUSE_DEVICE}"
        if not user:
            fix = f"in a container it takes '--device {FUSE_DEVICE} --cap-add SYS_ADMIN'"
        raise MountError(
            f"{FUSE_DEVICE} cannot be opened ({error.strerror}); {fix}. 'datfs ls' and 'datfs cat' do without it"
        ) from None


def prepare(path: str) -> str:
    """Checks that ``path`` can be mounted on and returns it absolute; a dead mount of ours there is cleared.

    Raises MountError: it does not exist, is not a directory, is not empty, is in use, or is not ours to mount
    on.
    """
    point = resolve(path)
    mount = mount_at(point)
    if mount is not None and mount.type.startswith("fuse"):
        if not is_dead(mount):
            raise MountError(
                f"{point} is already mounted ({mount.source}, {mount.type}); unmount it first: {_advice(mount)}"
            )
        log.warning("%s: clearing the mount that an earlier datfs left behind", point)
        _detach(mount, lazily=True)
        return prepare(point)  # there may be another one below it
    try:
        info = os.stat(point)
    except FileNotFoundError:
        raise MountError(f"{point} does not exist; create it first: mkdir -p {point}") from None
    except NotADirectoryError:
        raise MountError(f"{point} goes through something that is not a directory") from None
    except OSError as error:
        raise MountError(f"{point} cannot be looked at: {error.strerror}") from None
    if not stat.S_ISDIR(info.st_mode):
        raise MountError(f"{point} is not a directory; name an empty directory to mount on")
    try:
        with os.scandir(point) as names:
            empty = next(names, None) is None
    except OSError as error:
        raise MountError(f"no permission to mount on {point}: {error.strerror}; use a directory of your own") from None
    if not empty:
        raise MountError(f"{point} is not empty; mounting would hide what is in it. Name an empty directory")
    if os.geteuid() != 0 and not os.access(point, os.W_OK | os.X_OK, effective_ids=True):
        raise MountError(f"no permission to mount on {point}; use a directory that you own and can write to")
    return point


def refuse_inside(folder: str, point: str, what: str) -> None:
    """Raises MountError if ``folder`` lies at or under the mount point: using it would make us wait for
    ourselves.
    """
    inner, outer = os.path.realpath(folder), os.path.realpath(point)
    if inner == outer or inner.startswith(outer.rstrip("/") + "/"):
        raise MountError(f"{what} {folder} lies under the mount point {point}; choose another place for one of the two")


def unmount(path: str, *, grace: float = 5.0) -> Unmounted:
    """Ends the mount at ``path``: plainly; if it is in use by detaching it; then, after ``grace`` seconds, by
    force.

    The serving process ends by itself when its mount is detached. The force, an abort of the connection, is
    for one that does not, if we have the right to it. Raises MountError: nothing of ours is mounted there, or
    it may not be unmounted by us.
    """
    point = resolve(path)
    mount = mount_at(point)
    if mount is None:
        raise MountError(f"nothing is mounted at {point}")
    if mount.type != OUR_TYPE:
        raise MountError(f"{point} was not mounted by datfs, it is {mount.type}; use: {_advice(mount)}")
    try:
        connection = FuseConnection(mount.device)
    except OSError as error:
        log.debug("no control over the connection of %s: %s", point, error)
        return Unmounted.PLAIN if _detach(mount, lazily=False) or not _detach(mount, lazily=True) else Unmounted.LAZY
    with connection:
        if _detach(mount, lazily=False):
            return Unmounted.PLAIN
        _detach(mount, lazily=True)
        give_up = time.monotonic() + grace
        while connection.waiting:
            if time.monotonic() >= give_up:
                connection.abort()
                return Unmounted.ABORTED
            time.sleep(0.01)
        return Unmounted.LAZY


def clear_dead(path: str) -> bool:
    """Removes a mount of ours at ``path`` whose process has ended; True if there was one.

    Raises MountError if it may not be removed by us.
    """
    mount = mount_at(resolve(path))
    if mount is None or not is_dead(mount):
        return False
    _detach(mount, lazily=True)
    return True


def is_dead(mount: Mount) -> bool:
    """Whether it is ours and its process has ended. Waits for as long as a process that lives does not answer."""
    if mount.type != OUR_TYPE:
        return False
    try:
        # Not stat: the kernel may still answer that from its cache.
        os.statvfs(mount.point)
    except OSError as error:
        return error.errno in _DEAD
    return False


def _detach(mount: Mount, *, lazily: bool) -> bool:
    """True if it is unmounted, False if it is in use. Raises MountError otherwise."""
    libc = ctypes.CDLL(None, use_errno=True)
    flags = _UMOUNT_NOFOLLOW | (_MNT_DETACH if lazily else 0)
    if libc.umount2(os.fsencode(mount.point), flags) == 0:
        return True
    code = ctypes.get_errno()
    if code == errno.EBUSY:
        return False
    if code == errno.EPERM:
        return _detach_as_user(mount, lazily)
    if not is_mounted(mount.device):
        return True  # somebody else was faster
    raise MountError(f"{mount.point} cannot be unmounted: {os.strerror(code)}")


def _detach_as_user(mount: Mount, lazily: bool) -> bool:
    command = ["fusermount3", "-uz" if lazily else "-u", "--", mount.point]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_HELPER_SECONDS,
            env={**os.environ, "LC_ALL": "C"},
            check=False,
        )
    except FileNotFoundError:
        raise MountError("fusermount3 is missing, which unmounts for users; run: apt-get install fuse3") from None
    except subprocess.TimeoutExpired:
        raise MountError(f"{mount.point} cannot be unmounted: fusermount3 does not end") from None
    if done.returncode == 0:
        return True
    if not lazily and "busy" in done.stderr.lower():
        return False
    raise MountError(f"{mount.point} cannot be unmounted: {done.stderr.strip() or 'fusermount3 failed'}")


def _advice(mount: Mount) -> str:
    return f"datfs umount {mount.point}" if mount.type == OUR_TYPE else f"umount {mount.point}"
