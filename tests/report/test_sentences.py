"""Sentences about a report: conditions, limits, and the warnings that every output has at its top."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from junitparser import JUnitXml
from markdown_it import MarkdownIt

from edgekit.measure.gates import judge
from edgekit.measure.settings import Gates
from edgekit.report.document import Reference, Report
from edgekit.report.formats import junit_of_report, render_card, summary_of_report
from edgekit.report.html import render_html
from edgekit.report.row import Confidence, Crossings
from edgekit.report.sentences import (
    RANDOM,
    conditions,
    confidence_details,
    limits,
    near_chance,
    outcomes,
    timing_words,
    warnings,
)
from tests.helpers.page import Page
from tests.helpers.reports import RANDOM_MODEL, ROWS, answered, device, latency, report, report_with, row


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


STATED = Gates(max_drop=0.5, must_show_drop=True, min_speedup=1.2, needs_steady_timing=True)
WHOLE = "with its whole 95 % interval"


@pytest.mark.parametrize(
    ("gates", "loss", "speedup"),
    [
        (Gates(), "at most 1 point, as measured", f"more than 1x, {WHOLE}"),
        (STATED, f"at most 0.5 points, {WHOLE}", f"more than 1.2x, {WHOLE}"),
    ],
)
def test_limits_are_those_that_the_gates_had(gates: Gates, loss: str, speedup: str) -> None:
    judged = [judge(row(target), gates, random_weights=False) for target in ("onnx", "tflite")]
    assert limits(judged) == f"Limits: a loss of top-1 of {loss}; a speedup over float of {speedup}."


def test_gates_that_do_not_apply_have_no_limits() -> None:
    untimed = judge(row(), Gates(min_speedup=0), random_weights=True)
    assert (limits([untimed]), outcomes(untimed)) == ("", "")
    assert limits([replace(each, gates=()) for each in ROWS]) == ""


GUESSING = Reference(engine="torch", top1=0.24, top5=0.9, top1_ci95=(0.1669, 0.3323), chance=0.25, near_chance=True)
WORDS = (
    "The reference is near chance: torch reaches top-1 24.0 % (95 % interval 16.7 to 33.2 %) on 10,000 images, and "
    "chance is 25.0 %. No accuracy means anything until this is settled. Likely causes: the classes have another order "
    "(list them with `--labels`), the images are normalized otherwise than in training (`--mean`, `--std`), or the "
    "network was trained for other classes."
)
OUTPUTS: dict[str, Callable[[Report], str]] = {
    "terminal": lambda whole: " ".join(answered(whole).split()),
    "page": lambda whole: Page(render_html(whole)).words,
    "summary": lambda whole: Page(MarkdownIt("commonmark").enable("table").render(summary_of_report(whole))).words,
    "card": lambda whole: Page(MarkdownIt("commonmark").enable("table").render(render_card(whole))).words,
}


def test_the_warning_names_figures_and_likely_causes() -> None:
    assert near_chance(GUESSING, 10_000) == warnings(report(reference=GUESSING)) == [WORDS]
    assert warnings(report()) == []
    assert warnings(report(reference=GUESSING, model=RANDOM_MODEL)) == [RANDOM]


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize(
    ("whole", "warning"), [(report(reference=GUESSING), WORDS), (report(model=RANDOM_MODEL), RANDOM)]
)
def test_outputs_begin_with_the_warning(output: str, whole: Report, warning: str) -> None:
    text = OUTPUTS[output](whole)
    assert text.count(warning) == 1
    assert text.index(warning) < text.index("Ship openvino-int8")
    assert warning not in OUTPUTS[output](report())


def test_junit_begins_with_the_warning_as_a_failure() -> None:
    (suite,) = JUnitXml.fromstring(junit_of_report(report(reference=GUESSING)).encode())
    first = next(iter(suite))
    assert (first.classname, first.name) == ("reference", "above-chance")
    (result,) = first.result
    assert (result.message, result.type) == (WORDS, "inconclusive")
    for whole in (report(), report(reference=GUESSING, model=RANDOM_MODEL)):
        assert "above-chance" not in junit_of_report(whole)


def test_bundles_with_other_threads_are_named() -> None:
    rows = [row("onnx", "float"), row("onnx", latency_ms=latency(threads=4)), row("tflite", "float")]
    assert timing_words(rows).endswith("threads: 4 for onnx-int8, 1 for the others")
    elsewhere = row("tflite", latency_ms=latency(threads=2), device=device("pi5"))
    assert timing_words([*rows, elsewhere]).endswith("threads: 1 to 4")


def test_details_name_the_calibration_error_the_crossings_and_the_temperature() -> None:
    crossed = Crossings(threshold=0.8, stated=False, count=2000, upward=3, downward=5, images=8, changed_class=1)
    confidence = Confidence(
        calibration_error=0.031,
        calibration_error_ci95=(0.02, 0.04),
        reference_calibration_error=0.0287,
        reference_calibration_error_ci95=(0.02, 0.04),
        calibration_error_change_ci95=(-0.001, 0.006),
        crossings=(crossed,),
        temperature=0.8,
    )
    assert confidence_details(confidence) == (
        "calibration error 3.10 %, the reference's 2.87 % (95 % interval of the difference -0.10 to 0.60 points); "
        "3 of 2,000 answers reach a confidence of 0.8 only with this bundle, 5 only with the reference, and 1 with "
        "both name another class; the last layer divides the outputs by 0.800"
    )
    assert confidence_details(None) == ""
