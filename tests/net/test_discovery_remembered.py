"""Addresses that worked before: what comes in, in which order they are given, and what makes one go."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from datfs.net.discovery.remembered import ADDRESSES_MOST, FAILING_MOST, Remembered
from datfs.net.transport import Address
from datfs.store import PEERS_NAME

A, B = ("10.0.0.1", 3282), ("2001:db8::1", 4000)


class Clock:
    """Seconds since 1970, as a test says."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


async def found(folder: Path, clock: Clock) -> list[Address]:
    """What the next program finds."""
    return [address async for address in Remembered(folder / PEERS_NAME, clock).find(b"")]


async def test_what_worked_is_found_again(tmp_path: Path, clock: Clock) -> None:
    """The address that worked last comes first; nothing else is left in the folder."""
    remembered = Remembered(tmp_path / PEERS_NAME, clock)
    assert await found(tmp_path, clock) == []
    remembered.worked(A)
    clock.now += 1
    remembered.worked(B)
    assert await found(tmp_path, clock) == [B, A]
    clock.now += 1
    remembered.worked(A)
    assert await found(tmp_path, clock) == [A, B]
    assert os.listdir(tmp_path) == [PEERS_NAME]


async def test_only_what_worked_comes_in(tmp_path: Path, clock: Clock) -> None:
    """Failing and answering alone say nothing that is worth a file."""
    remembered = Remembered(tmp_path / PEERS_NAME, clock)
    remembered.failed(A)
    remembered.reached(A)
    remembered.lied(A)
    assert not os.listdir(tmp_path)


async def test_a_liar_is_forgotten_at_once(tmp_path: Path, clock: Clock) -> None:
    """One wrong answer counts more than all right ones before."""
    remembered = Remembered(tmp_path / PEERS_NAME, clock)
    remembered.worked(A)
    remembered.worked(B)
    remembered.lied(A)
    assert await found(tmp_path, clock) == [B]


async def test_failing_for_long_is_forgotten(tmp_path: Path, clock: Clock) -> None:
    """A week of failures ends it, not a year in which nobody tried; being there in between begins the week anew."""
    remembered = Remembered(tmp_path / PEERS_NAME, clock)
    remembered.worked(A)
    clock.now += 365 * 24 * 3600
    assert await found(tmp_path, clock) == [A]
    remembered.failed(A)
    clock.now += FAILING_MOST - 1
    remembered.failed(A)
    assert await found(tmp_path, clock) == [A]
    remembered.reached(A)
    remembered.failed(A)
    clock.now += FAILING_MOST - 1
    remembered.failed(A)
    assert await found(tmp_path, clock) == [A]
    clock.now += 2
    assert await found(tmp_path, clock) == []
    remembered.failed(A)
    assert json.loads((tmp_path / PEERS_NAME).read_text()) == {}


async def test_bounded(tmp_path: Path, clock: Clock) -> None:
    """Those that worked longest ago have to go."""
    remembered = Remembered(tmp_path / PEERS_NAME, clock)
    for number in range(2 * ADDRESSES_MOST):
        clock.now += 1
        remembered.worked(("10.0.0.1", 1000 + number))
    kept = await found(tmp_path, clock)
    assert [port for _, port in kept] == [1000 + 2 * ADDRESSES_MOST - 1 - n for n in range(ADDRESSES_MOST)]


@pytest.mark.parametrize(
    "text",
    ["", "{", "[1, 2]", "7", '{"x": 1}', "[" * 100_000, '{"10.0.0.1:1": {"worked": NaN, "failing": null}}', "\x00"],
)
async def test_broken_files_count_as_empty(text: str, tmp_path: Path, clock: Clock) -> None:
    """Whatever is in the file: it is no error, and the next address that works replaces it."""
    (tmp_path / PEERS_NAME).write_text(text)
    remembered = Remembered(tmp_path / PEERS_NAME, clock)
    assert [address async for address in remembered.find(b"")] == []
    remembered.worked(A)
    assert await found(tmp_path, clock) == [A]


async def test_entries_that_are_none_are_left_out(tmp_path: Path, clock: Clock) -> None:
    """The good ones in a file stay."""
    entry = {"worked": 1.0, "failing": None}
    bad = {"10.0.0.1:0": entry, "x:y": entry, "10.0.0.2:1": {}, "10.0.0.3:1": {"worked": "soon", "failing": None}}
    (tmp_path / PEERS_NAME).write_text(json.dumps({**bad, "10.0.0.4:1": entry}))
    assert await found(tmp_path, clock) == [("10.0.0.4", 1)]


async def test_a_disk_that_is_full(tmp_path: Path, clock: Clock) -> None:
    """What cannot be written is no error: it is remembered until the end."""
    (tmp_path / "file").touch()
    remembered = Remembered(tmp_path / "file" / PEERS_NAME, clock)
    remembered.worked(A)
    assert [address async for address in remembered.find(b"")] == [A]
