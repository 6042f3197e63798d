"""Pictures of the distribution of the latency, and of temperature over time."""

from dataclasses import replace
from typing import Any

from edgekit.report.document import Report
from edgekit.report.pictures import draw_heat, draw_spread
from tests.helpers.reports import CONDITIONS, FAILED, ROWS, report


def test_spread_has_a_box_for_each_row_that_was_timed() -> None:
    drawn = draw_spread(report(), "local")
    assert drawn is not None
    svg, words = drawn
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
    svg, words = drawn
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
    assert "temperature, °C" in drawn[0]
    assert "clock, MHz" not in drawn[0]
