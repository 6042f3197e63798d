"""Markdown summaries, rendered as GitHub would."""

import re

from markdown_it import MarkdownIt

from edgekit.report.answer import decision
from edgekit.report.compare import compare_runs
from edgekit.report.markdown import UNCHANGED, escaped, summary_of_comparison, summary_of_report, summary_of_rows
from edgekit.report.measurement import Failure
from edgekit.report.sentences import RANDOM, limits
from tests.helpers.page import Page
from tests.helpers.reports import BEST, FAILED, RANDOM_MODEL, ROWS, accuracy, failed_row, report, report_with


def page(text: str) -> Page:
    return Page(MarkdownIt("commonmark").enable("table").render(text))


def lines(text: str, label: str) -> list[str]:
    """The cells of a row of the table."""
    (line,) = (line for line in text.splitlines() if line.startswith(f"| {label} "))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_report_begins_with_the_answer() -> None:
    text = summary_of_report(report())
    words = page(text).words
    places = [
        words.index(piece)
        for piece in (
            *decision(report(), report().recommendation),
            limits(ROWS),
            "verdict",
            "tflite-int8 failed: drop of 1.31 points",
            "edgekit tune RUN",
            "convnextv2_atto (timm,",
            "Accuracy:",
        )
    ]
    assert places == sorted(places)
    assert lines(text, "openvino-int8 on local")[:4] == ["openvino-int8 on local", "pass", "7.70", "0.09 [-0.11, 0.29]"]
    assert lines(text, "tflite-int8 on local")[1] == "**fail**"
    assert set(lines(text, "onnx-int8 on local")[2:]) == {"–"}  # noqa: RUF001
    heads = {len(line.split("|")) for line in text.splitlines() if line.startswith("|")}
    assert len(heads) == 1


def test_random_weights_have_no_accuracy() -> None:
    text = summary_of_report(report(model=RANDOM_MODEL))
    assert RANDOM in page(text).words
    assert "top-1 %" not in text


def test_text_is_shown_as_it_is() -> None:
    odd = "a|b `c` *d* _e_ <script> &amp; [x](y) ~~z~~ \\ end"
    assert page(escaped(odd)).words.strip() == odd
    failure = Failure("compile", "CompileError", f"first line\n{odd}")
    text = summary_of_rows("x", [failed_row(bundle="a|b", failure=failure, reasons=(str(failure),))])
    assert odd in page(text).words
    assert "<script" not in text.replace("\\<script", "")


def test_summaries_can_be_appended_to_each_other() -> None:
    both = summary_of_rows("one", ROWS[:2]) + summary_of_rows("two", ROWS[:2])
    assert [tag for tag, _ in page(both).elements if tag in ("h2", "table")] == ["h2", "table"] * 2


def test_a_comparison_lists_what_got_worse() -> None:
    assert UNCHANGED in summary_of_comparison(compare_runs(report(), report()))
    comparison = compare_runs(report(), report_with(BEST, accuracy=accuracy(0.5, (0.3, 0.7))))
    words = page(summary_of_comparison(comparison)).words
    assert f"worse: {comparison.regressions[0]}" in words
    assert UNCHANGED not in words
    assert re.search("onnx-int8 on local +error -> error", words)
    assert ROWS[FAILED].label == "onnx-int8 on local"
