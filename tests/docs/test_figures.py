"""Figures in README and docs: they are what the benchmarks' JSON has."""

import json
import re
from typing import Any

import pytest

from docs.generate import figures, models
from tests.helpers.tiny import ROOT


@pytest.fixture(scope="module")
def measured() -> dict[str, Any]:
    results: dict[str, Any] = json.loads((ROOT / "benchmarks/peers.json").read_text())
    return results


def rows_of(measured: dict[str, Any], model: str, runtime: str) -> dict[str, Any]:
    rows = (row for row in measured["models"][model]["rows"] if row["runtime"] == runtime)
    return {row["candidate"]: row for row in rows}


def test_a_row_is_set_against_the_best_float_and_the_fastest_stock_int8(measured: dict[str, Any]) -> None:
    rows = rows_of(measured, "demo", "onnx")
    shown = figures.figure("peers.json", "demo", "onnx")
    assert shown.float_ms == min(rows[name]["ms"]["1"] for name in ("edgekit float", "plain float"))
    assert shown.int8_ms == rows["edgekit int8"]["ms"]["1"]
    assert shown.speedup == pytest.approx(shown.float_ms / shown.int8_ms, rel=0.02)
    low, high = shown.speedup_ci95
    assert low <= shown.speedup <= high
    stock = ("nncf.quantize", "nncf.quantize TRANSFORMER", "quantize_static")
    assert shown.stock_ms == min(rows[name]["ms"]["1"] for name in stock)
    assert shown.stock_snr_db == rows[shown.stock or ""]["snr_db"]


def test_int8_that_quantizes_as_it_runs_is_not_the_static_stock(measured: dict[str, Any]) -> None:
    rows = rows_of(measured, "demo", "tflite")
    assert rows["litert-quantizer dynamic"]["ms"]["1"] < rows["litert-quantizer static"]["ms"]["1"]
    assert figures.figure("peers.json", "demo", "tflite").stock == "litert-quantizer static"


def test_a_table_has_the_models_that_it_is_asked_for() -> None:
    lines = figures.peers_table("peers.json", "demo").splitlines()
    assert [line.split(" | ")[0] for line in lines[2:5]] == ["| demo (trained)"] * 3
    assert len(figures.peers("peers.json")) > 3
    with pytest.raises(LookupError, match="no-such-model"):
        figures.peers_table("peers.json", "demo", "no-such-model")


def test_headlines_are_of_the_json() -> None:
    row = figures.figure("peers.json", "convnextv2_tiny", "openvino")
    shown = figures.headlines("docs/")
    for number in (row.speedup, row.float_ms, row.int8_ms, row.snr_db, row.float_bytes / 1e6):
        assert re.search(rf"\b{re.escape(f'{number:.1f}')}", shown), number
    assert shown.count("(docs/concepts/comparison.md)") == 3


def test_every_model_of_a_benchmark_is_listed_with_its_runtimes(measured: dict[str, Any]) -> None:
    tried = models.tried_models()
    names = {(model.benchmark, model.name) for model in tried}
    for benchmark in ("leaderboard", "giants"):
        rows = json.loads((ROOT / f"benchmarks/{benchmark}.json").read_text())
        assert {(benchmark, row["model"]) for row in rows} <= names
    assert {("peers", name) for name in measured["models"]} <= names
    (demo,) = (model for model in tried if model.name == "demo")
    row = rows_of(measured, "demo", "openvino")["edgekit int8"]
    assert demo.outcomes["openvino"] == models.Outcome("measured", row["agreement"], row["snr_db"])


def test_a_measurement_takes_the_place_of_a_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    planned = models.Outcome("not run yet", reason="takes 1 GiB of memory")
    keys = ("convnextv2_huge", "onnx"), ("a model that was never run", "onnx")
    monkeypatch.setattr(models, "TOO_LARGE", dict.fromkeys(keys, planned))
    (huge,) = (model for model in models.tried_models() if model.name == "convnextv2_huge")
    assert huge.outcomes["onnx"].status == "measured"
    assert str(planned) == "not run yet: takes 1 GiB of memory"
