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
from edgekit.report.row import Confidence, Crossings, Speedup
from edgekit.report.sentences import (
    RANDOM,
    conditions,
    confidence_details,
    limits,
    outcomes,
    timing_words,
    warnings,
)
from tests.helpers.page import Page
from tests.helpers.recorded import Recorded
from tests.helpers.reports import RANDOM_MODEL, ROWS, answered, device, latency, report, report_with, row

STATED = Gates(max_drop=0.5, must_show_drop=True, min_speedup=1.2, needs_steady_timing=True)
CROSSED = Crossings(threshold=0.8, stated=False, count=2000, upward=3, downward=5, images=8, changed_class=1)
CONFIDENCE = Confidence(
    calibration_error=0.031,
    calibration_error_ci95=(0.02, 0.04),
    reference_calibration_error=0.0287,
    reference_calibration_error_ci95=(0.02, 0.04),
    calibration_error_change_ci95=(-0.001, 0.006),
    crossings=(CROSSED,),
    temperature=0.8,
)


def test_the_words_of_sentences(recorded: Recorded) -> None:
    """Conditions, limits, threads and confidences; other sentences are in the recorded answers."""
    rows = [row("onnx", "float"), row("onnx", latency_ms=latency(threads=4)), row("tflite", "float")]
    elsewhere = row("tflite", latency_ms=latency(threads=2), device=device("pi5"))
    low = report_with(
        1, speedup=Speedup(versus="openvino-float", versus_precision="bf16", ratio=1.88, ci95=(1.86, 1.9))
    )
    lines = [
        *conditions(report()),
        *conditions(report_with(0, latency_ms=latency(count=1_000))),
        *conditions(report(model=RANDOM_MODEL)),
        *conditions(low),
        *(limits([judge(row(), gates, random_weights=False)]) for gates in (Gates(), STATED)),
        timing_words(rows),
        timing_words([*rows, elsewhere]),
        confidence_details(CONFIDENCE),
        confidence_details(None),
    ]
    recorded("sentences.txt", "\n".join(lines) + "\n")


def test_gates_that_do_not_apply_have_no_limits() -> None:
    untimed = judge(row(), Gates(min_speedup=0), random_weights=True)
    assert (limits([untimed]), outcomes(untimed)) == ("", "")
    assert limits([replace(each, gates=()) for each in ROWS]) == ""


GUESSING = Reference(engine="torch", top1=0.24, top5=0.9, top1_ci95=(0.1669, 0.3323), chance=0.25, near_chance=True)
(WORDS,) = warnings(report(reference=GUESSING))
OUTPUTS: dict[str, Callable[[Report], str]] = {
    "terminal": lambda whole: " ".join(answered(whole).split()),
    "page": lambda whole: Page(render_html(whole)).words,
    "summary": lambda whole: Page(MarkdownIt("commonmark").enable("table").render(summary_of_report(whole))).words,
    "card": lambda whole: Page(MarkdownIt("commonmark").enable("table").render(render_card(whole))).words,
}


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
    assert warnings(report(reference=GUESSING, model=RANDOM_MODEL)) == [RANDOM]
