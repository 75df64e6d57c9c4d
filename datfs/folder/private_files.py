"""Small files of ours beside the registers in ``.dat``, which the ``dat`` command does not know: whole or not there."""

from __future__ import annotations

import os
from pathlib import Path


def write_whole(path: Path, data: bytes, *, mode: int = 0o666) -> None:
    """Writes a file beside and gives it its name when it is whole, durably. Raises OSError; the old one stays then."""
    beside = path.with_name(f"{path.name}.{os.getpid()}.new")
    fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(fd, rest) :]
            os.fsync(fd)
        finally:
            os.close(fd)
        beside.rename(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
