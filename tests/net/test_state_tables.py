"""The state machines as docs/network.md shows them are those of the code: drawings, and what follows what."""

from __future__ import annotations

import enum
import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import pytest

from datfs import chunk_states
from datfs.chunk_states import CHUNK
from datfs.net import address_states, peer_states
from datfs.net.address_states import ADDRESS
from datfs.net.peer_states import PEER

DOCS = (Path(__file__).parents[2] / "docs" / "network.md").read_text(encoding="utf-8")


def grid(table: Mapping[tuple[enum.Enum, enum.Enum], enum.Enum]) -> str:
    """The table as the docs show it: a line for each state that something leads away from, a column for each event."""
    states = list(dict.fromkeys(state for state, _ in table))
    events = list(type(next(iter(table))[1]))
    lines = ["| | " + " | ".join(event.name for event in events) + " |", "|---" * (len(events) + 1) + "|"]
    for state in states:
        after = (table.get((state, event)) for event in events)
        lines.append(f"| {state.name} | " + " | ".join("" if one is None else one.name for one in after) + " |")
    return "\n".join(lines).replace("  ", " ") + "\n"


@pytest.mark.parametrize("table", [CHUNK, PEER], ids=["chunk", "peer"])
def test_the_docs_have_the_table(table: Mapping[tuple[enum.Enum, enum.Enum], enum.Enum]) -> None:
    """What follows what stands in the docs, row by row, as in the code."""
    assert grid(table) in DOCS


@pytest.mark.parametrize(
    ("module", "table"),
    [(chunk_states, CHUNK), (peer_states, PEER), (address_states, ADDRESS)],
    ids=["chunk", "peer", "address"],
)
def test_the_drawing_is_that_of_the_docs(
    module: ModuleType, table: Mapping[tuple[enum.Enum, enum.Enum], enum.Enum]
) -> None:
    """The drawing in the module is the one in the docs, and with what is said below it names all states and events."""
    said = inspect.cleandoc(module.__doc__ or "").split("people::\n\n")[1]
    drawing = said.split("\n\n")[0]
    assert inspect.cleandoc(drawing) in DOCS
    names = {one.name for row in table for one in row} | {after.name for after in table.values()}
    assert names <= set(re.findall(r"[A-Z_]+", said))
