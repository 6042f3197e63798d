"""Sentences about a whole report, for the terminal and the page."""

from dataclasses import replace

from edgekit.report.sentences import conditions
from tests.helpers.reports import RANDOM_MODEL, ROWS, latency, report, report_with


def test_conditions_of_the_measurement() -> None:
    accuracy, timing = conditions(report())
    assert "10,000 images" in accuracy
    assert "76.64 %" in accuracy
    assert "200 timed runs, threads: 1." in timing
    assert "200 to 1,000 timed runs" in conditions(report_with(0, latency_ms=latency(count=1_000)))[1]
    assert conditions(report(model=RANDOM_MODEL)) == [timing]


def test_a_float_that_was_fastest_in_low_precision_is_named() -> None:
    rows = tuple(
        replace(row, speedup=row.speedup and replace(row.speedup, versus_precision=computed_in))
        for row, computed_in in zip(ROWS, ["f32", "bf16", "f32", "f32", "f32", "f32"], strict=True)
    )
    assert "(openvino-float in bf16)" in conditions(report(results=rows))[1]
    assert "openvino-float" not in conditions(report())[1]
