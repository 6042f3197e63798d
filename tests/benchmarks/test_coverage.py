"""benchmarks/coverage.py finds the smallest networks, measures each in a separate process, and keeps the rows."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import timm

from benchmarks.coverage import KEYS, ROWS, Limits, run_apart
from benchmarks.coveragelib.measure import Request
from benchmarks.coveragelib.smallest import CACHE, Smallest, smallest_models
from benchmarks.rows import read_rows
from edgekit.config.runtimes import RUNTIMES


def test_every_module_has_a_network_and_every_row_has_figures_or_a_reason() -> None:
    modules = [name for name in timm.list_modules() if find_spec(f"timm.models.{name}")]  # other tests register more
    assert sorted(json.loads(CACHE.read_text())) == sorted(modules)
    rows = read_rows(ROWS)
    assert {row["module"] for row in rows} == set(modules)
    assert len({tuple(row[key] for key in KEYS) for row in rows}) == len(rows)
    for row in rows:
        assert row["module"] in modules
        assert row["target"] in RUNTIMES
        assert row.get("reason") or {"float_parity", "agreement", "snr_db", "int8_share_of_macs"} <= row.keys()


def test_the_smallest_network_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("benchmarks.coveragelib.smallest.CACHE", tmp_path / "models.json")
    wanted = Smallest("legacy_xception", 22_855_952, 299)
    assert smallest_models(["xception"]) == {"xception": wanted}
    monkeypatch.setattr("benchmarks.coveragelib.smallest.timm", None)  # the second time it is remembered
    assert smallest_models(["xception"]) == {"xception": wanted}


SAMPLE = ("efficientnet", "mambaout", "byobnet")
"""Modules of different kinds with networks of at most two million parameters, for one runtime each."""


def run(module: str, data: Path, seconds: float, target: str) -> list[dict[str, Any]]:
    smallest = smallest_models([module])[module]
    request = Request({"module": module}, smallest.model, data, 64, True, {"num_classes": 10}, 8, 8, (target,))
    return run_apart(request, Limits(seconds, 8))


@pytest.mark.slow
@pytest.mark.parametrize(("module", "target"), list(zip(SAMPLE, RUNTIMES, strict=True)))
def test_a_sample_of_the_modules(module: str, target: str, photos: Path) -> None:
    (row,) = run(module, photos, 300, target)
    assert "reason" not in row, row["reason"]
    assert (row["module"], row["target"], row["input"]) == (module, target, 64)
    assert row["float_parity"] <= 1e-3
    assert row["snr_db"] >= min(10, row.get("nncf_snr_db", 10))
    assert row["int8_share_of_macs"] > 0.8


@pytest.mark.slow
def test_a_network_that_takes_too_long_has_a_reason(photos: Path) -> None:
    (row,) = run("resnet", photos, 0.01, "onnx")
    assert (row["module"], row["reason"]) == ("resnet", "takes longer than 0 s")
