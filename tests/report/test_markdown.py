"""Markdown summaries, rendered as GitHub would."""

import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from edgekit.cli.main import main
from edgekit.errors import MissingExtraError
from edgekit.report import write_report
from edgekit.report.answer import decision
from edgekit.report.compare import UNCHANGED, compare_runs
from edgekit.report.document import NO_LICENSE, Recommendation, Report
from edgekit.report.formats import render_card, summary, summary_of_report
from edgekit.report.page import escaped
from edgekit.report.plot import templates
from edgekit.report.row import Failure, Int8
from edgekit.report.sentences import RANDOM, limits
from tests.helpers.page import Page
from tests.helpers.refusals import refuses
from tests.helpers.reports import (
    BEST,
    FAILED,
    MODEL,
    RANDOM_MODEL,
    ROWS,
    accuracy,
    benchmark,
    device,
    failed_row,
    report,
    report_with,
    row,
)


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
            "verdict",
            "Latency: model alone",
            "tflite-int8 failed: drop of 1.31 points",
            limits(ROWS),
            "edgekit sensitivity RUN",
            "convnextv2_atto (timm,",
        )
    ]
    assert places == sorted(places)
    assert lines(text, "openvino-int8")[-3:] == ["76.55", "0.09 (-0.11 to 0.29)", "pass"]
    assert lines(text, "tflite-int8")[-1] == "**fail**"
    assert set(lines(text, "onnx-int8")[1:-1]) == {"–"}  # noqa: RUF001
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
    text = summary(benchmark(failed_row(bundle="a|b", failure=failure, reasons=(str(failure),))))
    assert odd in page(text).words
    assert "<script" not in text.replace("\\<script", "")


def test_summaries_can_be_appended_to_each_other() -> None:
    both = 2 * summary(benchmark(*ROWS[:2]))
    assert [tag for tag, _ in page(both).elements if tag in ("h2", "table")] == ["h2", "table"] * 2


def test_a_comparison_lists_what_got_worse() -> None:
    assert UNCHANGED in summary(compare_runs(report(), report()))
    comparison = compare_runs(report(), report_with(BEST, accuracy=accuracy(0.5, (0.3, 0.7))))
    words = page(summary(comparison)).words
    assert f"worse: {comparison.regressions[0]}" in words
    assert UNCHANGED not in words
    assert re.search("onnx-int8 on local: error -> error", words)
    assert ROWS[FAILED].label == "onnx-int8 on local"


def card_of(whole: Report) -> ModelCard:
    return ModelCard(render_card(whole))


def compared(card: ModelCard) -> dict[str, list[str]]:
    """The lines of the table that has the original next to the optimized model."""
    section = card.text.partition("## Original and optimized")[2].partition("\n## ")[0]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if "|" in line]
    return {name: values for name, *values in cells}


def test_the_command_writes_a_card_that_the_hub_reads(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    note = "the licence of the published weights of convnextv2_atto is cc-by-nc-4.0, which forbids commercial use"
    whole = report(model=replace(MODEL, license=note))
    write_report(whole, tmp_path / "run")
    path = tmp_path / "README.md"
    assert main(["report", str(tmp_path / "run"), "--card", str(path)]) == 0
    assert "openvino-int8" in capfd.readouterr().out
    card = ModelCard.load(path)
    data = card.data
    assert (data.get("license"), data.get("library_name"), data.get("pipeline_tag")) == (
        "cc-by-nc-4.0",
        "edgekit",
        "image-classification",
    )
    assert data.get("tags") == ["edgekit", "int8", "openvino", "onnx", "tflite"]
    original, optimized = data.get("eval_results")
    assert (original.metric_value, optimized.metric_value) == (0.7664, 0.7655)
    assert optimized.metric_name == "top-1, optimized: openvino-int8 on local"
    assert optimized.dataset_args == {"sha256": whole.evaluation.sha256}
    assert ModelCard(str(card)).data.to_yaml() == data.to_yaml(), "the metadata round-trips"
    for piece in (
        "The licence of the published weights of convnextv2\\_atto is cc-by-nc-4.0, which forbids commercial use.\n",
        "edgekit deploy convnextv2_atto --data images.zip",
        "ab" * 32,
        "Layers in float: stem.0. Source: executed graph.",
        "128 images, recipe convnextv2",
    ):
        assert piece in card.text


def test_the_original_stands_beside_the_optimized_model() -> None:
    elsewhere = tuple(replace(each, device=device("pi5")) for each in ROWS[:2])
    assert compared(card_of(report(results=(*ROWS, *elsewhere)))) == {
        "figure": ["original (openvino-float)", "optimized (openvino-int8)"],
        "---": ["---:", "---:"],
        "size": ["14.9 MB", "4.3 MB"],
        "top-1": ["76.64 %", "76.55 %"],
        "loss": ["0.00 [0.00, 0.00] points", "0.09 [-0.11, 0.29] points"],
        "int8": ["0 % MAC", "96 % MAC"],
        "p50 on local": ["14.50 ms", "7.70 ms"],
        "speedup on local": ["", "1.88 [1.86, 1.90] ×"],  # noqa: RUF001
        "p50 on pi5": ["14.50 ms", "7.70 ms"],
        "speedup on pi5": ["", "1.88 [1.86, 1.90] ×"],  # noqa: RUF001
    }


def test_without_a_recommendation_the_first_int8_bundle_is_compared() -> None:
    nothing = Recommendation("local", None, "no bundle passed its gates")
    card = card_of(report(recommendation=nothing, results=(row("tflite", "float"), *ROWS[:2])))
    assert compared(card)["figure"] == ["original (openvino-float)", "optimized (openvino-int8)"]
    assert "Ship nothing: no bundle passed its gates." in card.text


def test_a_run_of_one_precision_or_of_failures_has_a_card() -> None:
    assert compared(card_of(report(results=(ROWS[0],))))["figure"] == ["original (openvino-float)"]
    card = card_of(report(results=(ROWS[FAILED],)))
    assert "No bundle was measured" in card.text
    assert card.data.get("eval_results") is None


def test_a_card_of_random_weights_has_no_accuracy() -> None:
    card = card_of(report(model=RANDOM_MODEL))
    assert card.data.get("eval_results") is None
    assert "Accuracy is meaningless" in card.text
    assert not {"top-1", "loss"} & compared(card).keys()


@pytest.mark.parametrize(
    ("note", "license_"),
    [
        (None, None),
        ("the licence of the published weights of x is apache-2.0", "apache-2.0"),
        ("the licence of the published weights of submit.v1 is not stated by timm", None),
    ],
)
def test_a_licence_is_named_as_the_hub_does(note: str | None, license_: str | None) -> None:
    card = card_of(report(model=replace(MODEL, license=note)))
    assert card.data.get("license") == license_
    assert (NO_LICENSE in card.text) == (note is None)


def test_the_licence_of_published_weights_is_not_that_of_a_checkpoint() -> None:
    note = "if 'mine.safetensors' was fine-tuned from the published weights of x, their licence applies: cc-by-nc-4.0"
    card = card_of(report(model=replace(MODEL, weights="mine.safetensors", license=note)))
    assert card.data.get("license") is None
    assert f"{NO_LICENSE} If 'mine.safetensors' was fine-tuned from the published weights" in card.text


def test_what_the_profiler_does_not_tell_is_unknown() -> None:
    unknown = Int8(share_of_macs=None, method="no profiler", float_layers=None, simulated=None)
    assert "openvino-int8 on local: unknown (no profiler)" in card_of(report_with(BEST, int8=unknown)).text
    simulated = Int8(share_of_macs=0.9, method="executed graph", float_layers=(), simulated=True)
    assert "simulated in floating point" in card_of(report_with(BEST, int8=simulated)).text


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    templates.cache_clear()
    with refuses(MissingExtraError, "jinja2"):
        render_card(report())
