"""Everything in this folder speaks with the reference implementation: marked so, and never skipped for want
of it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from datfs import mountpoints
from tests.interop.plans import PLANS, SEED
from tests.interop.reference import MadeDrive, make_drive

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the tests of this folder ``interop``; those that mount need the device."""
    for item in items:
        if HERE not in item.path.parents:
            continue
        item.add_marker(pytest.mark.interop)
        if item.get_closest_marker("fuse") and not os.path.exists(mountpoints.FUSE_DEVICE):
            item.add_marker(pytest.mark.skip(reason=f"no {mountpoints.FUSE_DEVICE} on this machine"))


@pytest.fixture(scope="session")
def drive_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], MadeDrive]:
    """``drive_of(name)``: the drive of that plan, made by the reference once, not to be changed."""
    made: dict[str, MadeDrive] = {}

    def drive(name: str) -> MadeDrive:
        if name not in made:
            made[name] = make_drive(tmp_path_factory.mktemp(name) / "drive", PLANS[name], seed=SEED)
        return made[name]

    return drive
