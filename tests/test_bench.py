"""The benchmarks still run. What they measure is not judged, as a shared machine would toss coins."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

from bench import __main__ as catalogue
from bench import harness
from bench.harness import Report, Settings, in_turns, random_offsets, settings

CAN_MOUNT = Path("/dev/fuse").exists()


@pytest.mark.fuse
@pytest.mark.interop
@pytest.mark.time_limit(120)
@pytest.mark.skipif(not CAN_MOUNT, reason="there is no /dev/fuse here")
@pytest.mark.parametrize("name", catalogue.NAMES)
def test_each_benchmark_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With ``--quick`` every benchmark ends, and reports positive figures."""
    monkeypatch.setattr(harness, "KEPT", tmp_path / "kept")
    report = tmp_path / "report.json"
    importlib.import_module(f"bench.{name}").main(["--quick", "--json", str(report)])
    out = json.loads(report.read_text(encoding="utf-8"))
    assert out["quick"] is True
    assert out["rows"]
    for row in out["rows"]:
        assert row["values"], row["name"]
        assert "round trips" in row["name"] or row["median"] > 0, row["name"]


def test_the_catalogue_is_complete() -> None:
    """Every file that is a benchmark is run by ``./dev bench``."""
    folder = Path(catalogue.__file__).parent
    found = {at.stem for at in folder.glob("*.py") if "settings(argv" in at.read_text(encoding="utf-8")}
    assert found - {"harness"} == set(catalogue.NAMES)


def test_sides_take_turns() -> None:
    """What is compared runs A B A B, and each side's values come back under its name."""
    calls: list[str] = []

    def side(name: str) -> float:
        calls.append(name)
        return float(len(calls))

    values = in_turns(2, {"a": lambda: side("a"), "b": lambda: side("b")})
    assert calls == ["a", "b", "a", "b"]
    assert values == {"a": [1.0, 3.0], "b": [2.0, 4.0]}


def test_a_ratio_is_one_of_medians() -> None:
    """A row is compared with the row it names, median over median."""
    report = Report("title", Settings(quick=False, runs=3, json=None))
    report.add("base", "ms", [1.0, 2.0, 90.0])
    report.add("ours", "ms", [3.0, 3.0, 0.0], versus="base")
    assert [report.ratio(row) for row in report.rows] == [None, 1.5]


def test_quick_means_one_run_unless_said() -> None:
    """``--quick`` runs once, ``--runs`` decides otherwise."""
    assert settings(["--quick"], "text").runs == 1
    assert settings([], "text", runs=4).runs == 4
    assert settings(["--quick", "--runs", "2"], "text").runs == 2


def test_random_offsets_stay_inside() -> None:
    """Every piece lies within the file, and the places are the same in every run."""
    offsets = random_offsets(10_000, 4096, 200)
    assert min(offsets) >= 0
    assert max(offsets) + 4096 <= 10_000
    assert offsets == random_offsets(10_000, 4096, 200)
