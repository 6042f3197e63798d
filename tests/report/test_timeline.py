"""Pictures of how latency is spread, and of heat over time: drawn where the report has the figures."""

from typing import Any

from edgekit.report.timeline import draw_heat, draw_spread
from tests.report.test_report import example


def test_spread_has_a_box_for_each_row_that_was_timed() -> None:
    drawn = draw_spread(example(), "local")
    assert drawn is not None
    svg, words = drawn
    for name in ("openvino-float", "openvino-int8", "onnx-float", "tflite-float", "tflite-int8"):
        assert f">{name}<" in svg
        assert f"{name} p50 " in words
    assert "onnx-int8" not in svg + words, "its compiler refused it"


def test_reports_without_percentiles_have_no_spread() -> None:
    report = example()
    for row in report["results"]:
        if row["latency_ms"]:
            del row["latency_ms"]["p25"]
    assert draw_spread(report, "local") is None
    assert draw_spread(example(), "another") is None


def test_heat_and_clocks_over_time() -> None:
    drawn = draw_heat(example(), "local")
    assert drawn is not None
    svg, words = drawn
    assert "heat, °C" in svg
    assert "clock, MHz" in svg
    assert "openvino: 48 to 53 °C, 2400 MHz, not throttled" in words


def test_heat_that_no_sensor_told_is_not_drawn() -> None:
    def without(**known: Any) -> dict[str, Any]:
        report = example()
        for row in report["results"]:
            if row["thermal"]:
                row["thermal"] = row["thermal"] | {"series": [s | known for s in row["thermal"]["series"]]}
        return report

    assert draw_heat(without(celsius=None), "local") is None
    drawn = draw_heat(without(clock_mhz=None), "local")
    assert drawn is not None
    assert "clock, MHz" not in drawn[0]
    short = example()
    for row in short["results"]:
        if row["thermal"]:
            row["thermal"] = row["thermal"] | {"series": row["thermal"]["series"][:2]}
    assert draw_heat(short, "local") is None
