"""Making a drive of a folder, with the ``dat.json`` that says what it is (drive.md section 7)."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from datfs.crypto import KeyPair
from datfs.dat_folder import INNER, create_dat_folder
from datfs.errors import BadStore
from datfs.folder.private_files import write_whole
from datfs.storage import FileStorage

ABOUT = "dat.json"


def link_in(folder: Path) -> str | None:
    """The link of the drive in a folder, None if there is none. Raises OSError."""
    file = FileStorage(folder / INNER / "metadata.key", read_only=True)
    try:
        key = file.read(0, 32)
    finally:
        file.close()
    return f"dat://{key.hex()}" if len(key) == 32 else None


def about(folder: Path) -> dict[str, Any]:
    """What the folder's ``dat.json`` says, if there is one. Raises BadStore if it is no JSON object, OSError."""
    place = folder / ABOUT
    try:
        found = json.loads(place.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise BadStore(f"{place} is not JSON ({error}): mend it, or remove it") from None
    if not isinstance(found, dict):
        raise BadStore(f"{place} is not a JSON object: mend it, or remove it")
    return found


def make_drive(
    folder: Path, keys: KeyPair, title: str, description: str, clock: Callable[[], int], *, home: Path | None = None
) -> int:
    """Makes a drive with ``dat.json`` in it, and returns its version. Other files are not added yet.

    What an older ``dat.json`` says besides is kept. Raises BadStore if there is a drive already, StoreLocked, OSError.
    """
    old = about(folder)
    new = {"title": title, "description": description, "url": f"dat://{keys.public.hex()}"}
    writer = create_dat_folder(folder, keys, home=home)
    try:
        place = folder / ABOUT
        mode = place.stat().st_mode & 0o777 if place.exists() else 0o666
        write_whole(place, encode_about({**old, **new}), mode=mode)
        writer.import_file((os.fsencode(ABOUT),), mtime=clock())
        return writer.version
    finally:
        writer.close()


def encode_about(members: dict[str, Any]) -> bytes:
    """The bytes of a ``dat.json``, as the reference writes them."""
    return json.dumps(members, indent=2, ensure_ascii=False).encode("utf-8", "surrogatepass")
