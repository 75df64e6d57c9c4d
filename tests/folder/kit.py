"""A person's folder with a drive in it, for tests: a clock that is set, and writers that are opened for each commit."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from datfs.crypto import key_pair
from datfs.dat_folder import create_dat_folder, open_dat_folder
from datfs.folder.committing import Report, WorkingFolder
from datfs.folder.compare import Comparison
from datfs.folder.told import Told
from datfs.metadata import name_of
from tests.vector_drives import SEED

NOW = 1_800_000_000_000  # ms; long after anything that a test writes


class Kit:
    """``folder``, the drive in it, and ``home``. ``now``: what the clock says."""

    def __init__(self, place: Path) -> None:
        self.home, self.folder = place / "home", place / "folder"
        self.home.mkdir(parents=True)
        self.now = NOW
        create_dat_folder(self.folder, key_pair(SEED), home=self.home).close()

    def write(self, name: str, data: bytes = b"data", *, age: float = 1000.0) -> Path:
        """Writes a file, so many seconds before the clock's time."""
        place = self.folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
        seconds = self.now / 1000 - age
        os.utime(place, (seconds, seconds))
        return place

    @contextmanager
    def opened(self) -> Iterator[WorkingFolder]:
        """The folder, open for writing."""
        writer = open_dat_folder(self.folder, home=self.home)
        try:
            yield WorkingFolder(self.folder, writer, lambda: self.now)
        finally:
            writer.close()

    def compare(self) -> Comparison:
        """What differs."""
        with self.opened() as working:
            return working.compare()

    def changes(self) -> list[str]:
        """What differs, as ``kind /path``."""
        return [f"{one.kind.value} {name_of(one.path).decode()}" for one in self.compare().changes]

    def commit(self, told: Told | None = None) -> Report:
        """Everything that differs."""
        with self.opened() as working:
            found = working.compare(told=told)
            return working.commit(found.changes, told, Report(left_out=found.left_out))

    def committed(self, told: Told | None = None) -> list[str]:
        """The same, as ``kind /path``."""
        return [f"{one.kind.value} {name_of(one.path).decode()}" for one in self.commit(told).done]

    def content_length(self) -> tuple[int, int]:
        """Chunks and bytes of the content register, which must be all right."""
        with self.opened() as working:
            content = working.writer.content
            assert content.audit().ok
            assert working.writer.metadata.audit().ok
            return content.length, content.byte_length


class Hook:
    """Told of everything, and calls back: at each file, and after each batch of bytes."""

    def __init__(
        self, on_file: Callable[[bytes], None] | None = None, on_bytes: Callable[[int], None] | None = None
    ) -> None:
        self._on_file, self._on_bytes = on_file, on_bytes

    def file(self, name: bytes) -> None:
        """Calls back."""
        if self._on_file is not None:
            self._on_file(name)

    def advance(self, size: int) -> None:
        """Calls back."""
        if self._on_bytes is not None:
            self._on_bytes(size)

    def file_done(self) -> None:
        """Nothing."""
