"""Pictures of the page: the spread of latencies, temperature and clocks, and operations."""

from dataclasses import replace
from typing import Any

import pytest

from edgekit.report.document import Report
from edgekit.report.html import LAYERS, draw_heat, draw_spread, render_html, sum_words, timings
from edgekit.report.plot import axis, render_svg
from edgekit.report.row import TimedKind, TimedLayer, TimeProfile
from tests.helpers.page import Page
from tests.helpers.reports import CONDITIONS, FAILED, FLOAT_TIMES, INT8_TIMES, ROWS, device, report, row


def test_spread_has_a_box_for_each_row_that_was_timed() -> None:
    drawn = draw_spread(report(), "local")
    assert drawn is not None
    svg, words = render_svg(drawn), drawn.words
    for name in ("openvino-float", "openvino-int8", "onnx-float", "tflite-float", "tflite-int8"):
        assert f">{name}<" in svg
        assert f"{name} p50 " in words
    assert "onnx-int8" not in svg + words, "its compiler refused the graph"


def test_rows_that_were_not_timed_have_no_spread() -> None:
    assert draw_spread(report(results=(ROWS[FAILED],)), "local") is None
    assert draw_spread(report(), "another") is None


def test_temperature_and_clocks_over_time() -> None:
    drawn = draw_heat(report(), "local")
    assert drawn is not None
    svg, words = render_svg(drawn), drawn.words
    assert "temperature, °C" in svg
    assert "clock, MHz" in svg
    assert "openvino: 48 to 53 °C, 2400 MHz, not throttled" in words


def sampled(count: int = 3, **changes: Any) -> Report:
    """The report with only the first samples of each time series, with these changes."""
    series = tuple(replace(sample, **changes) for sample in CONDITIONS.series[:count])
    return report(results=tuple(replace(row, thermal=replace(CONDITIONS, series=series)) for row in ROWS))


def test_temperature_without_a_sensor_is_not_drawn() -> None:
    assert draw_heat(sampled(), "local") is not None
    assert draw_heat(sampled(celsius=None), "local") is None
    assert draw_heat(sampled(count=2), "local") is None, "two points are too few for a time series"
    drawn = draw_heat(sampled(clock_mhz=None), "local")
    assert drawn is not None
    assert "temperature, °C" in render_svg(drawn)
    assert "clock, MHz" not in render_svg(drawn)


def profiled(float_: TimeProfile | None = FLOAT_TIMES, int8: TimeProfile | None = INT8_TIMES) -> Report:
    """The report with profiles of OpenVINO's two bundles, in which INT8 comes first."""
    rows = (replace(ROWS[1], profile=int8), replace(ROWS[0], profile=float_), *ROWS[2:])
    return report(results=rows)


def test_float_and_int8_stand_side_by_side() -> None:
    (timing,) = timings(profiled())
    assert (timing.title, timing.bundles) == ("openvino", ("openvino-float", "openvino-int8"))
    assert timing.picture is not None
    svg, words = render_svg(timing.picture), timing.picture.words
    for operation in ("MatMul", "Conv", "Add", "QuantizeLinear"):
        assert f">{operation}<" in svg
    assert "QLinearMatMul" not in svg, "it is a MatMul in another number format"
    assert "openvino-float: MatMul 9.000 ms, Conv 4.000 ms, Add 1.200 ms, QuantizeLinear 0.000 ms" in words
    assert "openvino-int8: MatMul 3.000 ms, Conv 4.000 ms, Add 1.200 ms, QuantizeLinear 1.000 ms" in words
    assert [(line.name, line.times, line.kernel) for line in timing.layers] == [
        ("stages.0.fc1", (5.0, 1.5), "igemm"),
        ("stem.0", (4.0, 4.0), "sconv"),
    ]


def test_every_runtime_and_device_has_its_own_section() -> None:
    rows = [replace(row, profile=INT8_TIMES) for row in ROWS if row.failure is None]
    rows += [replace(rows[0], device=device("pi", emulated=True))]
    titles = [timing.title for timing in timings(report(results=tuple(rows)))]
    assert titles == ["openvino on local", "onnx on local", "tflite on local", "openvino on pi (emulated)"]
    assert timings(report()) == [], "a report of an edgekit that did not profile"


@pytest.mark.parametrize(
    ("sum_ms", "words"),
    [
        (5.1, "the profiler's sum 5.10 ms, measured 4.60 ms; profiling itself adds time"),
        (5.0, "the profiler's sum 5.00 ms, measured 4.60 ms"),
        (4.2, "the profiler's sum 4.20 ms, measured 4.60 ms"),
        (4.1, "the profiler's sum 4.10 ms, measured 4.60 ms; the rest passes outside these operations"),
        (0.5, "the profiler's sum 0.500 ms, measured 4.600 ms; the rest passes outside"),
    ],
)
def test_the_sum_stands_beside_the_measured_latency(sum_ms: float, words: str) -> None:
    sentence = sum_words(row(p50=4.6, profile=replace(INT8_TIMES, sum_ms=sum_ms)))
    assert sentence.startswith(f"openvino-int8: {words}")
    assert (";" in sentence) is (";" in words)


def test_a_missing_profile_is_reported_with_its_reason() -> None:
    text = Page(render_html(profiled(int8=TimeProfile(missing="No profile. No counters here.")))).words
    assert "openvino-int8 has no times by operation: No profile. No counters here. " in text
    assert "openvino-float: the profiler's sum 14.20 ms, measured 14.50 ms." in text
    missing = TimeProfile(missing="no counters here")
    (timing,) = timings(profiled(missing, missing))
    assert (timing.picture, timing.layers, timing.bundles) == (None, (), ())


def test_many_kinds_and_layers_are_cut_short() -> None:
    kinds = tuple(TimedKind(f"Op{index}", 20.0 - index) for index in range(12))
    layers = tuple(TimedLayer(f"layer.{index}", "gemm", True, 20.0 - index) for index in range(12))
    (timing,) = timings(profiled(int8=TimeProfile(kinds=kinds, layers=layers, sum_ms=174.0), float_=None))
    assert len(timing.layers) == LAYERS
    assert timing.picture is not None
    assert "Op7 13.000 ms, all others 42.000 ms" in timing.picture.words


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ((0, 17.4), ["0", "10", "20"]),
        ((-0.3, 0.4), ["-0.5", "0.0", "0.5"]),
        ((2400, 2400), ["2,200", "2,300", "2,400", "2,500", "2,600"]),
        ((0, 0.0031), ["0.000", "0.002", "0.004"]),
    ],
)
def test_ticks_have_round_numbers(values: tuple[float, float], texts: list[str]) -> None:
    drawn = axis(values)
    assert [text for _, text in drawn.ticks] == texts
    assert all(drawn.start <= value <= drawn.end for value in values)
