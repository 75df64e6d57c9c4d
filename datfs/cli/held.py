"""How much of a drive is here: in a store of our own, or in that of the process that has the drive open.

Beside such a process we are a peer of it and keep next to nothing ourselves; what a person wants to know of is the
cache, which is what that process answers for.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datfs import holdings, owners
from datfs.bitfield import Bitfield
from datfs.cli.options import View
from datfs.errors import DatfsError
from datfs.local_service import STATUS, ask
from datfs.metadata import Stat
from datfs.orders import CHUNK_NUMBERS
from datfs.owner_wants import Ranges
from datfs.prefetch_owner import missing_at_owner
from datfs.sparse import SparseRegister
from datfs.status import register_facts
from datfs.vfs import Entry, Kind


@dataclass(frozen=True, slots=True)
class Held:
    """Of the files that were asked about. ``lacks``: what the store's owner lacks; None if the store is our own."""

    content: SparseRegister
    lacks: Bitfield | None

    def chunks(self, stat: Stat) -> int:
        """How many chunks of the file are here."""
        if self.lacks is None or stat.offset + stat.blocks > CHUNK_NUMBERS:
            return holdings.chunks_held(self.content, stat)
        return stat.blocks - self.lacks.count(stat.offset, stat.offset + stat.blocks)

    def bytes(self, stat: Stat) -> int | None:
        """How many bytes of it are here, None if that is not known."""
        if self.lacks is None:
            return holdings.bytes_held(self.content, stat)
        held = self.chunks(stat)
        return stat.size if held == stat.blocks else None if held else 0


async def held(at: View, entries: Iterable[Entry]) -> Held:
    """Looks at what is here of all files among ``entries``, of whatever tree of the drive. Fetches nothing."""
    content = at.opened.drive.content
    assert content is not None
    lacks = None
    if at.opened.owner is not None:
        stats = (at.tree.known_stat(entry) for entry in entries if entry.kind is Kind.FILE)
        ranges = _joined(sorted((stat.offset, stat.offset + stat.blocks) for stat in stats if stat.blocks))
        try:
            missing = await missing_at_owner(at.opened.owner, ranges)
        except DatfsError:
            return Held(content, None)  # it ended or hangs: what we have ourselves is all that we can tell
        lacks = Bitfield()
        for first, stop in missing:
            lacks.set_range(first, stop, True)
    return Held(content, lacks)


def _joined(ranges: Iterable[tuple[int, int]]) -> Ranges:
    joined: Ranges = []
    for first, stop in ranges:
        if stop > CHUNK_NUMBERS:
            continue
        if joined and first <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(stop, joined[-1][1]))
        else:
            joined.append((first, stop))
    return joined


async def registers(at: View) -> tuple[Path | None, dict[str, dict[str, Any]]]:
    """The folder of the store, None for memory, and the facts of its registers (docs/json.md, "Status")."""
    opened = at.opened
    if opened.owner is not None:
        try:
            told = await ask(opened.owner, STATUS)
            facts = {name: dict(told["registers"][name]) for name in ("metadata", "content")}
            return Path(told["store"]), facts
        except (*owners.FAILURES, KeyError, TypeError):
            pass  # as above
    content = opened.drive.content
    assert content is not None
    logs = {"metadata": opened.drive.metadata.register, "content": content.register}
    return opened.store.folder, {name: register_facts(log) for name, log in logs.items()}
