"""The table of figures: each entry names fields of a row, and an added entry appears in every output."""

import csv
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints

import pytest

from edgekit.cli.main import main
from edgekit.measure.inspect_bundle import BundleInspection, Inspection, Int8Detail, ModelInspection
from edgekit.report import report_schema, write_report
from edgekit.report.compare import P50, SPEEDUP, compare_runs
from edgekit.report.document import to_json
from edgekit.report.figure import FIGURES, TIMES, Figure, figure_at
from edgekit.report.html import csv_columns, render_csv, render_html
from edgekit.report.row import Row
from tests.helpers.reports import BEST, ROWS, latency, report, report_with, row

P75 = Figure(
    path="latency_ms.p75", title="p75", unit="ms", better="lower", rank=7, meaning="75th percentile of the latency"
)
"""A figure for a field of every row that no entry of the table shows."""
GAIN = Figure(
    path="speedup.ratio", title="gain", unit="%", scale=100, interval="speedup.ci95", better="higher",
    csv="gain_percent", meaning="the speedup in percent",
)  # fmt: skip
"""A figure whose value and interval are scaled."""
Add = Callable[[Figure], Figure]


@pytest.fixture
def add(monkeypatch: pytest.MonkeyPatch) -> Add:
    """A function that adds a figure to the table."""

    def put(figure: Figure) -> Figure:
        monkeypatch.setattr("edgekit.report.figure.FIGURES", (*FIGURES, figure))
        return figure

    return put


@pytest.fixture
def p75(add: Add) -> Figure:
    return add(P75)


def type_at(kind: Any, path: str) -> Any:
    """Type of the field at a dotted path of a document's type, without None."""
    for name in path.split("."):
        hints = get_type_hints(kind)
        assert name in hints, f"{kind.__name__} has no field {name}"
        kind = hints[name]
        if NoneType in get_args(kind):
            (kind,) = (member for member in get_args(kind) if member is not NoneType)
    return kind


@pytest.mark.parametrize("figure", [*FIGURES, P75, GAIN], ids=lambda figure: figure.csv_column)
def test_every_path_is_a_number_of_a_row(figure: Figure) -> None:
    assert type_at(Row, figure.path) in (int, float)
    if figure.interval is not None:
        assert type_at(Row, figure.interval) == tuple[float, float]


def test_a_path_that_no_row_has_is_detected() -> None:
    with pytest.raises(AssertionError, match="Latency has no field p76"):
        type_at(Row, "latency_ms.p76")


def test_columns_titles_and_paths_are_unique() -> None:
    columns = csv_columns()
    assert len(set(columns)) == len(columns)
    assert len({figure.title for figure in FIGURES}) == len(FIGURES)
    assert len({figure.path for figure in FIGURES}) == len(FIGURES)
    assert P75.path not in {figure.path for figure in FIGURES}, (
        "the tests in this file need a field that no entry shows"
    )


def test_figures_that_are_named_elsewhere_exist() -> None:
    assert {SPEEDUP, P50} <= {figure.csv_column for figure in FIGURES}
    ratios = {figure.path for figure in FIGURES if figure.is_ratio}
    assert {"speedup.ratio", "latency_ms.p50", "end_to_end_ms.p50"} <= ratios
    assert not ratios & {"size_bytes", "accuracy.top1", "energy.inference_mj"}


def test_an_added_figure_is_in_the_schema(p75: Figure) -> None:
    properties = report_schema()["$defs"]["Latency"]["properties"]
    assert properties["p75"]["description"] == "p75: 75th percentile of the latency (shown in ms)"
    assert properties["p5"]["description"].startswith("5th percentile")


def test_an_added_figure_is_in_the_csv(p75: Figure) -> None:
    lines = list(csv.DictReader(io.StringIO(render_csv(report()))))
    assert [line["latency_ms_p75"] for line in lines] == ["14.79", "7.854", "17.034", "", "14.382", "7.6704"]


def test_an_added_figure_is_on_the_page(p75: Figure) -> None:
    html = render_html(report())
    assert "<dt>p75</dt><dd>7.85 ms" in html


def test_an_added_figure_of_a_low_rank_is_a_column_of_the_page(add: Add) -> None:
    add(replace(P75, rank=0))
    html = render_html(report())
    assert ">p75</button><small>ms</small>" in html
    assert ">7.85</td>" in html


def test_an_added_figure_is_compared(p75: Figure, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    slower = report_with(BEST, latency_ms=latency(7.7, p75=10.0))
    change = compare_runs(report(), slower).results[BEST].changes["latency_ms_p75"]
    assert (change.before, change.after) == (7.854, 10.0)
    write_report(report(), tmp_path / "a")
    write_report(slower, tmp_path / "b")
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 0, (
        "a figure without an interval or tolerance is never a regression"
    )
    assert "  p75: 7.85 -> 10.00 ms\n" in capfd.readouterr().out


def test_a_tolerance_makes_an_added_figure_a_gate(add: Add) -> None:
    add(replace(P75, tolerance=0.1))
    for p75, verdict in ((8.6, "pass"), (8.7, "fail")):
        assert compare_runs(report(), report_with(BEST, latency_ms=latency(7.7, p75=p75))).verdict == verdict


INT8 = Int8Detail(
    share_of_macs=0.957, method="executed graph", float_layers=("stem.0",), simulated=False, total_macs=1_000_000,
    int8_macs=957_000, time_by_kind_ms=None, ops=(),
)  # fmt: skip
BUNDLE = BundleInspection(
    bundle="run/onnx-int8", target="onnx", precision="int8", scheme="w8a8", model="tiny", input_shape=(1, 3, 32, 32),
    classes=10, device_class="x86-64-v4", size_bytes=2_560_000, engine="onnxruntime 1.20",
    golden_max_abs_difference=0.0, golden_tolerance=0.001, int8=INT8, provenance={},
)  # fmt: skip
MODEL = ModelInspection(model="model.onnx", size_bytes=2_560_000, int8=INT8)


@pytest.mark.parametrize("inspection", [BUNDLE, MODEL])
def test_an_added_figure_is_inspected(
    inspection: Inspection, add: Add, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """An inspection shows only those figures of the table that it has."""
    add(Figure(path="size_bytes", title="volume", unit="kB", digits=0, scale=1e-3, csv="size_kb", meaning="size again"))
    monkeypatch.setattr("edgekit.devices.remote.inspect_on", lambda *arguments: inspection)
    assert main(["inspect", "run/onnx-int8"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert {"size: 2.6 MB", "int8: 96 % MAC", "volume: 2,560 kB"} <= set(lines)
    assert not [line for line in lines if line.startswith(("p50:", "top-1:", "speedup:"))]


def test_the_interval_of_an_added_figure_has_its_unit(add: Add) -> None:
    figure = add(GAIN)
    assert (figure.text(ROWS[BEST]), figure.interval_text(ROWS[BEST])) == ("188.00", "[186.00, 190.00]")
    line = list(csv.DictReader(io.StringIO(render_csv(report()))))[BEST]
    columns = ("gain_percent", "gain_percent_ci95_low", "gain_percent_ci95_high")
    assert [float(line[column]) for column in columns] == pytest.approx([188, 186, 190])
    speedup = ROWS[BEST].speedup
    assert speedup is not None
    slower = report_with(BEST, speedup=replace(speedup, ratio=1.5, ci95=(1.4, 1.6)))
    (regression,) = compare_runs(report(), slower).regressions
    assert regression.endswith("gain got worse: 188.00 -> 150.00 % (difference -38.00, 95 % interval -48.20 to -27.80)")


@pytest.mark.parametrize("figure", [GAIN, replace(GAIN, unit=TIMES)])
def test_a_figure_without_its_interval_is_compared_by_its_values(figure: Figure, add: Add) -> None:
    add(replace(figure, path="size_bytes", interval="accuracy.drop_ci95_points", csv="size"))
    unknown = report_with(BEST, accuracy=None)
    change = compare_runs(report(), unknown).results[BEST].changes["size"]
    assert (change.before, change.after, change.ci95) == (4_310_000, 4_310_000, None)


def test_p99_of_few_runs_is_the_slowest_one_and_not_shown() -> None:
    few, many = (row("onnx", latency_ms=latency(10.0, count=count)) for count in (99, 100))
    p99 = figure_at("latency_ms.p99")
    assert [p99.text(each) for each in (few, many)] == ["–", "12.00"]  # noqa: RUF001
    assert "12.00" not in render_html(report(results=(few,)))
    assert json.loads(to_json(few))["latency_ms"]["p99"] == 12
