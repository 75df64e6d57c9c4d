"""Everything in this folder speaks with the reference implementation: marked so, and never skipped for want
of it.
"""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the tests of this folder ``interop``."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.interop)
