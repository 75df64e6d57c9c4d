"""Unix sockets by which programs of this machine reach the process that has a drive open (docs/design.md, "One store").

Owns where they are and how they are made; what is said over them is :mod:`datfs.local_service`'s. Two kinds of places:
the folder of a store, beside its lock; and the person's runtime folder, for mounts by the number of their device, for
drives without a store in the cache by their discovery key.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import trio

PEER_NAME = "peer.sock"
"""The wire protocol of Dat."""

STATUS_NAME = "status.sock"
"""A question and an answer in JSON (docs/json.md)."""

CONNECT_TIMEOUT = 2.0
_BACKLOG = 64


def runtime_dir() -> Path:
    """The person's folder for sockets: ``$XDG_RUNTIME_DIR/datfs`` or what stands for it. It need not exist.

    Not by platformdirs, which warns where the variable is not set: at boot, with sudo, in containers.
    """
    uid = os.geteuid()
    given = os.environ.get("XDG_RUNTIME_DIR")
    usual = Path(given) if given else Path("/run" if uid == 0 else f"/run/user/{uid}")
    return usual / "datfs" if usual.is_dir() else Path(tempfile.gettempdir(), f"datfs-{uid}")


def known_dirs() -> list[Path]:
    """Where sockets of ours may be, the usual place first: a process that began at boot or with sudo may lack the
    variable that we have, or the reverse. Folders of others are left out.
    """
    uid = os.geteuid()
    places = [runtime_dir(), Path(f"/run/user/{uid}/datfs"), Path(tempfile.gettempdir(), f"datfs-{uid}")]
    if uid == 0:
        places.append(Path("/run/datfs"))
    return [place for place in dict.fromkeys(places) if _is_ours(place)]


def _is_ours(folder: Path) -> bool:
    try:
        info = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(info.st_mode) and info.st_uid == os.geteuid() and not info.st_mode & 0o022


def mount_socket(device: tuple[int, int]) -> tuple[Path, str]:
    """The folder and the name of a mount's status socket. ``device``: major and minor number of the mount."""
    return runtime_dir(), f"mount-{device[0]}-{device[1]}.sock"


def drive_socket(discovery_key: bytes) -> tuple[Path, str]:
    """The same for a drive that this process has open without a store in the cache."""
    return runtime_dir(), f"{_drive_prefix(discovery_key)}{os.getpid()}.sock"


def drive_sockets(discovery_key: bytes | None = None) -> list[tuple[Path, str]]:
    """All such of processes that live; of one drive, or of all."""
    prefix = "drive-" if discovery_key is None else _drive_prefix(discovery_key)
    found = []
    for folder in known_dirs():
        for path in sorted(folder.glob(f"{prefix}*.sock")):
            pid = path.stem.rpartition("-")[2]
            if Path("/proc", pid).exists() or answers(folder, path.name):
                found.append((folder, path.name))
            else:
                remove(folder, path.name)  # left behind by a process that was killed
    return found


def _drive_prefix(discovery_key: bytes) -> str:
    return f"drive-{discovery_key.hex()[:32]}-"


@contextlib.contextmanager
def _short(folder: Path) -> Iterator[str]:
    """Another path of a folder that is short enough: that of a socket may have 107 bytes."""
    fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)


def make_private(folder: Path) -> None:
    """Makes a folder that only we can enter. Raises OSError, also for one that others can change."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not _is_ours(folder):
        raise PermissionError(f"{folder} is not ours alone: no socket is made there")


def listen(folder: Path, name: str) -> trio.SocketListener:
    """A listening socket that only we can reach. One left behind by a process that was killed is replaced.

    Raises OSError. Whoever owns the folder calls this; nobody else may listen there.
    """
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _short(folder) as short:
            path = f"{short}/{name}"
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            made.bind(path)
            os.chmod(path, 0o600)
        made.listen(_BACKLOG)
        return trio.SocketListener(trio.socket.from_stdlib_socket(made))
    except BaseException:
        made.close()
        raise


def remove(folder: Path, name: str) -> None:
    """Takes the name of a socket away, if it is there."""
    with contextlib.suppress(OSError):
        os.unlink(folder / name)


def answers(folder: Path, name: str) -> bool:
    """Whether somebody listens there now. Returns at once."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.setblocking(False)
        with _short(folder) as short:
            sock.connect(f"{short}/{name}")
        return True
    return False


async def connect(folder: Path, name: str) -> trio.SocketStream:
    """Connects to a socket of :func:`listen`. Raises OSError, or trio.TooSlowError after 2 seconds."""
    with trio.fail_after(CONNECT_TIMEOUT), _short(folder) as short:
        return await trio.open_unix_socket(f"{short}/{name}")
