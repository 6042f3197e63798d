"""Figures in README and docs: they are what the benchmarks' JSON has."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.making import MODELS
from benchmarks.record import RECORDED_PAGES
from benchmarks.recording import keep_recording
from benchmarks.rows import keep_rows, read_rows
from benchmarks.trainedlib.choices import KEYS
from docs.generate import figures, headlines, instructions, making, models, peers, processors, trained
from docs.generate.record import stamped
from edgekit.config.runtimes import RUNTIMES
from tests.benchmarks.test_recording import RECORDING
from tests.helpers.tiny import ROOT

FILE = peers.files()[0]


@pytest.fixture(scope="module")
def measured() -> dict[str, Any]:
    return peers.results_of(FILE)


def rows_of(measured: dict[str, Any], model: str, runtime: str) -> dict[str, Any]:
    rows = (row for row in measured["models"][model]["rows"] if row["runtime"] == runtime)
    return {row["candidate"]: row for row in rows}


def peers_of(model: str, runtime: str) -> peers.Peers:
    title = RUNTIMES[runtime].title
    return next(row for row in peers.peers(FILE, 1) if (row.model, row.runtime) == (model, title))


def test_a_row_is_set_against_the_fastest_float_of_any_precision(measured: dict[str, Any]) -> None:
    rows = rows_of(measured, "convnextv2_tiny", "openvino")
    shown = peers_of("convnextv2_tiny", "openvino")
    floats = [row for row in rows.values() if row["precision"] in ("float", "bf16")]
    assert shown.float_ms == min(row["ms"]["1"] for row in floats)
    assert shown.int8_ms == rows["edgekit int8"]["ms"]["1"]
    assert shown.speedup.ratio == pytest.approx(shown.float_ms / shown.int8_ms, rel=0.02)
    assert shown.speedup.low <= shown.speedup.ratio <= shown.speedup.high


@pytest.mark.parametrize("runtime", ["openvino", "onnx", "tflite"])
def test_a_row_is_set_against_the_fastest_stock_int8_of_any_kind(measured: dict[str, Any], runtime: str) -> None:
    rows = rows_of(measured, "demo", runtime)
    stock = {name: row for name, row in rows.items() if row["maker"] == "stock" and "int8" in row["precision"]}
    first = peers_of("demo", runtime).stock[0]
    assert first.ms == min(row["ms"]["1"] for row in stock.values())
    assert first.snr_db == rows[first.name]["snr_db"]
    assert (runtime == "tflite") == ("dynamic" in first.name)


@pytest.mark.parametrize("file", peers.files())
def test_every_defeat_by_a_stock_tool_or_by_float_is_listed(file: str) -> None:
    measured, kind = peers.results_of(file), f"- {peers.kind(file)}: "
    stock_line, float_line = (line for line in peers.defeats().splitlines() if line.startswith(kind))
    for model in measured["models"]:
        for runtime in RUNTIMES.values():
            rows = rows_of(measured, model, runtime.name)
            for threads in measured["threads"]:
                key, name = str(threads), f"`{model}`, {runtime.title}, {threads}: "
                int8 = [row for row in rows.values() if row["maker"] == "stock" and "int8" in row["precision"]]
                floats = [row for row in rows.values() if "int8" not in row["precision"]]
                for line, others in ((stock_line, int8), (float_line, floats)):
                    fastest = min((row for row in others if "error" not in row), key=lambda row: row["ms"][key])
                    versus = rows["edgekit int8"]["faster_than"][fastest["candidate"]][key]
                    low, high = versus["ci95"]
                    listed = versus["ratio"] < 1 if line is stock_line else low <= 1
                    assert (f"{name}{versus['ratio']:.2f}" in line) == listed, (name, versus)
                    settled = line.partition(" Open: ")[0]
                    assert (f"{name}{versus['ratio']:.2f}× [{low:.2f}, {high:.2f}]" in settled) == (high < 1)  # noqa: RUF001


@pytest.mark.parametrize("file", peers.files())
def test_the_verdict_counts_every_comparison(file: str) -> None:
    (line,) = (line for line in peers.verdicts().splitlines() if line.startswith(f"| {peers.kind(file)} |"))
    _, _, count, *against, _ = line.split("|")
    assert [sum(map(int, re.findall(r"\d+", cell))) for cell in against] == 2 * [int(count)]


@pytest.mark.parametrize("file", peers.files())
def test_every_network_says_how_fast_it_is_on_each_runtime(file: str) -> None:
    lines = peers.ratios_tables().partition(f"### {peers.kind(file)}\n")[2].partition("### ")[0].splitlines()
    for row in peers.peers(file, 1):
        (line,) = (line for line in lines if line.startswith(f"| `{row.model}`"))
        cells = [f"{ratio.ratio:.2f}×" for ratio in (row.speedup, row.stock[0].ours)]  # noqa: RUF001
        settled = (row.speedup.settled, row.stock[0].ours.settled)
        cells = [cell if sure else f"({cell})" for cell, sure in zip(cells, settled, strict=True)]
        assert line.split(" | ")[1 + [each.title for each in RUNTIMES.values()].index(row.runtime)].rstrip(" |") == (
            ", ".join(cells)
        )
    assert [peers.Ratio(1.1, *ends).settled for ends in ((1.05, 1.2), (0.9, 1.3), (0.8, 0.9))] == [True, False, True]


def test_headlines_are_means_over_the_networks_of_each_kind() -> None:
    shown = headlines.headlines()
    for runtime in RUNTIMES.values():
        for title, convnext in (("ConvNeXt", True), ("others", False)):
            (line,) = (line for line in shown.splitlines() if line.startswith(f"| {title} | {runtime.title} |"))
            for file in peers.files():
                best = peers.bests(file, [runtime.name])
                ratios = [each.float_ms / each.int8_ms for each in best if (each.recipe == "convnextv2") == convnext]
                mean = float(np.exp(np.log(ratios).mean()))
                assert f"| **{mean:.2f}× ({min(ratios):.2f} to {max(ratios):.2f})**" in line  # noqa: RUF001
    text = " ".join(shown.split())
    every = peers.all_peers()
    lost = {(row.model, row.runtime, row.file) for row in every if min(row.speedup.high, row.stock[0].ours.high) < 1}
    for row in every:
        named = f"`{row.model}` ({row.runtime}; {peers.kind(row.file)})" in text
        assert named == ((row.model, row.runtime, row.file) in lost)


def test_the_best_of_all_runtimes_is_set_against_executorch_too(measured: dict[str, Any]) -> None:
    def ms(row: dict[str, Any]) -> float:
        one, two = row["ms"]["1"], row["ms"]["2"]
        return float(two if one > 1.05 * two else one)

    bests = peers.bests(FILE, [*RUNTIMES, "executorch"])
    for model, best in zip(measured["models"].values(), bests, strict=True):
        rows = [row for row in model["rows"] if "error" not in row]
        stock = [row for row in rows if row["maker"] == "stock" and "int8" in row["precision"]]
        assert best.stock_ms == min(map(ms, stock))
        assert best.int8_ms == min(ms(row) for row in rows if row["candidate"] == "edgekit int8")
        assert best.float_ms == min(ms(row) for row in rows if "int8" not in row["precision"])


def test_a_recorded_page_says_when_and_where() -> None:
    page = stamped("# A\n\n<!-- recorded -->\nold\n\nold\n", RECORDING)
    assert page.endswith("\n\nold\n")
    assert "are of 2026-12-01 and commit 0123456789, from an a processor;" in page
    for name in RECORDED_PAGES:
        assert "<!-- recorded -->\nThe outputs" in (ROOT / name).read_text()


def test_the_fastest_runtimes_are_counted(measured: dict[str, Any]) -> None:
    assert f"of the {len(measured['models'])} models" in peers.fastest_runtimes()


def test_rows_of_several_recordings_say_so() -> None:
    rows = [
        {"created": "2026-11-27T10:00:00", "commit": "a" * 10},
        {"created": "2026-11-29", "commit": "b" * 10, "cpu": "x"},
    ]
    text = figures.recorded_rows(rows)
    assert text == "Recorded from 2026-11-27 to 2026-11-29 at commits aaaaaaaaaa to bbbbbbbbbb, on x."


def test_repairs_are_shown_with_their_intervals_and_what_the_gates_would_say() -> None:
    rows = [row for row in read_rows(ROOT / "benchmarks/trained.json") if row["choice"] == "repaired"]
    repaired = [row for row in rows if row["attempts"]]
    text = trained.repairs()
    assert text.startswith(f"{len(repaired) or 'None'} of {len(rows)} bundles lost more than 0.3 points")
    details = trained.details_table()
    for row in repaired:
        low, high = row["drop_ci95_points"]
        assert f"{row['before_points']:.2f} → {row['drop_top1_points']:.2f}" in text
        assert f"| {row['drop_top1_points']:.2f} ({low:.2f} to {high:.2f}), {row['snr_db']:.1f} dB" in details
    timed = [row["timing"]["ratio"] for row in repaired if "timing" in row]
    if timed:
        assert f"{sum(ratio <= 1 for ratio in timed)} of {len(timed)} were no faster than float" in text


def test_trained_tables_say_speeds_repairs_failures_and_recordings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (trained, figures):
        monkeypatch.setattr(module, "BENCHMARKS", tmp_path)
    name = keep_recording(tmp_path, RECORDING)
    timing = {"ms": 0.5, "ratio": 2.0, "float": "edgekit float", "float_ms": 1.0, "recording": name}
    row = {"network": "vit", "runtime": "onnx", "choice": "shipped", "images": 9, "float_top1": 0.7, "snr_db": 30.0}
    row |= {"drop_top1_points": 0.4, "drop_ci95_points": [0.1, 0.7], "created": "2026-12-01T10:00:00+00:00"}
    row |= {"timing": timing | {"created": "2026-12-02T10:00:00+00:00"}}
    repaired = {"choice": "repaired", "before_points": 0.4, "drop_top1_points": 0.2, "attempts": 1}
    rows = [row, row | repaired, {**row, "choice": "ort-minmax", "error": "none"}]
    keep_rows(tmp_path / trained.FILE, rows, KEYS, RECORDING)
    cells = ("0.40 (0.10 to 0.70), 30.0 dB, 2.00x (0.50 ms)", "0.20 (0.10 to 0.70), 30.0 dB, 2.00x (0.50 ms)", "failed")
    details = trained.details_table().replace(figures.TIMES, "x")
    assert f"| `vit` | ONNX Runtime | 70.00 % | 1.00 ms (edgekit float) | {' | '.join(cells)} |" in details
    table = trained.losses_table().replace(figures.TIMES, "x").replace(figures.NOTHING, "-")
    assert "| 9 | 70.00 % | - | - | **0.40**, 2.00x | failed | - | - |" in table
    assert "Accuracy: Recorded on 2026-12-01 at commit 0123456789: a processor at 2300 MHz" in table
    keep_rows(tmp_path / trained.FILE, [row | {"network": "davit"}], KEYS, replace(RECORDING, commit="abc"))
    assert "at commits 0123456789 to abc, on a processor." in trained.losses_table()


def test_every_trained_network_is_listed() -> None:
    table = trained.losses_table()
    names = {row["network"] for row in read_rows(ROOT / "benchmarks/trained.json")}
    assert [name for name in names if f"| `{name}`: " not in table] == []


def test_confidences_are_of_the_json() -> None:
    shipped = [row for row in read_rows(ROOT / "benchmarks/trained.json") if row["choice"] == "shipped"]
    rows, shown = [row for row in shipped if len(row.get("crossings", ())) == 2], trained.confidence_table()
    assert rows
    for row in rows:
        assert f"| {100 * row['calibration_error']:.1f} % |" in shown
        assert "{1} + {2}".format(*row["crossings"][-1]) in shown
    assert f"of these {len(rows)} bundles, the" in shown


def test_the_readme_names_the_largest_model() -> None:
    largest = max(model.params or 0 for model in models.tried_models())
    assert f"to {largest / 1e9:.1f} billion parameters" in (ROOT / "README.md").read_text()


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


def test_the_stages_of_making_bundles_are_shown_as_they_were_timed() -> None:
    rows = {row["model"]: row for row in read_rows(ROOT / "benchmarks/making.json")}
    lines = making.making_table().splitlines()[2 : 2 + len(rows)]
    shown = [[cell.strip(" *`") for cell in line.strip("|").split("|")] for line in lines]
    assert sorted(rows, key=MODELS.index) == [name for name, *_ in shown]
    for name, *seconds, stock, ratio, day in shown:
        own = rows[name]["edgekit"]
        expected = [own[stage] for stage in ("whole", "calibrate", "compile", "measure", "rest")]
        assert [*map(int, seconds)] == [*map(round, expected)]
        assert int(stock) == round(rows[name]["stock"]["whole"])
        assert float(ratio) == pytest.approx(own["whole"] / rows[name]["stock"]["whole"], abs=0.01)
        assert f"on {day} at commit" in making.making_table()


def test_the_table_of_processors_shows_pairs_and_noise_without_and_with_the_limit() -> None:
    rows = read_rows(ROOT / "benchmarks/processors.json")
    lines = processors.processors_table().splitlines()[2:]
    assert len(lines) == len(rows)
    for row in rows:
        before, after = row["unlimited"], row["limited"]
        (line,) = (text for text in lines if text.startswith(f"| {row['model']} | {RUNTIMES[row['target']].title} |"))
        assert f"| {before.get('emulated_db', before['host_db']):.1f} → " in line
        assert after["pairs_that_can_saturate"] == 0
        assert f"| {100 * before['host_agreement']:.0f} % → {100 * after['host_agreement']:.0f} % |" in line
    assert rows[0]["cpu"] in processors.processors_note()
    saturating = [row for row in rows if row["unlimited"]["pairs_that_can_saturate"]]
    ends = [[processors.without_vnni(row[name]) for row in saturating] for name in ("unlimited", "limited")]
    before, after = (f"{min(figures):.1f} to {max(figures):.1f}" for figures in ends)
    assert before in processors.processors_summary()
    assert after in processors.processors_summary()


def test_a_count_behind_another_is_bold() -> None:
    def row(runtime: str, candidate: str, precision: str, millions: float) -> dict[str, Any]:
        maker = "edgekit" if candidate.startswith("edgekit") else "stock"
        start = {"runtime": runtime, "candidate": candidate, "maker": maker, "precision": precision}
        return start | {"instructions": millions * 1e6}

    rows = [
        row("tflite", "edgekit int8", "int8", 100),
        row("tflite", "edgekit float, f16", "f16", 125),
        row("tflite", "plain float", "float", 460),
        row("tflite", "dynamic", "int8", 80),
        row("mnn", "plain float, f16", "f16", 127),
        row("onnx", "edgekit int8", "int8", 250),
    ]
    onnx, tflite = instructions.table_rows("net", "cortex-a76", rows)
    assert tflite == (
        "`net`", "Pi 5, cortex-a76", "LiteRT", "100.0", "125.0 (edgekit float, f16)", "1.25×",  # noqa: RUF001
        "80.0 (dynamic)", "**0.80×**", "127.0 (MNN: plain float, f16)", "1.27×",  # noqa: RUF001
    )  # fmt: skip
    assert onnx[4:] == ("–", "–", "–", "–", "127.0 (MNN: plain float, f16)", "**0.51×**")  # noqa: RUF001
