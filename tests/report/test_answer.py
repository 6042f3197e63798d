"""The answer of a run within 80 columns: what to ship, what it gains and costs, and how sure that is."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgekit.measure.gates import judge
from edgekit.measure.settings import Gates
from edgekit.report import load_report
from edgekit.report.document import Recommendation, Reference, Report
from edgekit.report.formats import summary_of_report
from edgekit.report.row import Accuracy, Bound, LowPrecision, Repair, RepairAttempt, Row, Speedup, ThreadTime
from edgekit.report.sentences import notes_of
from tests.helpers.recorded import Recorded
from tests.helpers.reports import (
    BEST,
    FAILED,
    RANDOM_MODEL,
    ROWS,
    accuracy,
    answered,
    device,
    failed_row,
    latency,
    report,
    report_with,
    row,
)
from tests.helpers.tiny import ROOT

BEST_BUNDLE = "openvino-int8"
UNSURE = (
    "cannot confirm a drop of at most 1 point (measured 0.40, 95 % interval -0.58 to 1.57, n = 500); about 2,421 "
    "images are needed"
)


def unsure(needed: int | None = 2421, **changes: Any) -> Accuracy:
    """A loss of 0.4 points on 500 images, which can't confirm a bound of 1 point."""
    bound = Bound(max_drop_points=1.0, shown=False, images_needed=needed)
    return accuracy(0.4, (-0.58, 1.57), count=500, bound=bound, **changes)


def failure_of(index: int) -> dict[str, Any]:
    """The changes that make any row fail as this one did."""
    empty = ("accuracy", "snr_db", "latency_ms", "end_to_end_ms", "speedup", "int8", "limit", "size_bytes")
    changes: dict[str, Any] = dict.fromkeys((*empty, "peak_rss_bytes", "energy", "throughput", "profile"))
    failed = ROWS[index]
    return changes | {"failure": failed.failure, "verdict": "error", "reasons": failed.reasons, "bundle": None}


def ship(bundle: str | None, why: str = "fastest") -> Recommendation:
    return Recommendation("local", bundle, why)


def with_rows(*rows: Row, bundle: str | None = BEST_BUNDLE) -> Report:
    """The report of these rows, which recommends this bundle."""
    return report(results=rows, recommendation=ship(bundle))


def threads(chosen: int, p50: dict[int, float]) -> Report:
    """The report with times of the best bundle by its number of threads."""
    by_threads = tuple(ThreadTime(*each) for each in p50.items())
    return report_with(BEST, latency_ms=latency(1.2, threads=chosen, by_threads=by_threads))


SHOWN = Bound(max_drop_points=1.0, shown=True, images_needed=500)
UNCONFIRMED = (*ROWS[:3], row("onnx", "int8", 8.0, accuracy=unsure(), remarks=(UNSURE,)))
INCONCLUSIVE = row("onnx", "int8", accuracy=unsure(None), verdict="inconclusive", reasons=(UNSURE,))
SLOW = row("onnx", "int8", speedup=Speedup(versus="onnx-float", ratio=0.58, ci95=(0.5, 0.6)))
BF16 = row(
    "openvino", "float", 14.5, low_precision=LowPrecision(computes_in="bf16", accuracy=None, p50_ms=7.0, verdict="pass")
)
OWN = RepairAttempt(drop_top1_points=2.1, speedup=1.31)
KEPT = RepairAttempt(float_layers=("a", "b", "c", "d"), drop_top1_points=0.3, speedup=0.95)
REPAIR = Repair(device="local", max_drop_points=1.0, ranking_images=32, attempts=(OWN, KEPT), chosen=0)
WARNED = {
    "random weights": report(model=RANDOM_MODEL),
    "a reference near chance": report(
        reference=Reference(engine="torch", top1=0.1, top5=0.5, top1_ci95=(0.08, 0.12), chance=0.1, near_chance=True)
    ),
    "an emulated device": report_with(BEST, device=device("pi", emulated=True)),
    "unreliable timing": report_with(BEST, remarks=("unreliable timing: other processes used 1.5 of 2 CPUs",)),
    "unreliable timing of float": report_with(0, remarks=("unreliable timing: it drifted by 79 %",)),
}
"""Reports that begin with a warning."""
ANSWERS = WARNED | {
    "a confirmed loss": report_with(BEST, accuracy=accuracy(bound=SHOWN)),
    "a gain that was measured in turns": with_rows(
        row("onnx", "float", 10.0), row("onnx", "int8", 5.0), bundle="onnx-int8"
    ),
    "an unconfirmed loss": with_rows(*UNCONFIRMED),
    "an unconfirmed loss of the bundle to ship": with_rows(*UNCONFIRMED, bundle="onnx-int8"),
    "an inconclusive row": with_rows(*ROWS[:3], INCONCLUSIVE),
    "an inconclusive loss of a row that failed": with_rows(
        *ROWS[:3], replace(INCONCLUSIVE, verdict="fail", reasons=("too slow", UNSURE))
    ),
    "a row that is slow and near chance": with_rows(
        *ROWS[:3], judge(SLOW, Gates(), random_weights=False, near_chance=True)
    ),
    "float in bf16": with_rows(BF16, row("openvino", "int8", 7.7), bundle="openvino-float"),
    "float, because INT8 failed": with_rows(
        BF16, row("openvino", "int8", 7.7, verdict="fail", reasons=("too slow",)), bundle="openvino-float"
    ),
    "a bound that costs the gain": with_rows(
        row("onnx", "float", 5.0), row("onnx", "int8", 4.0, verdict="fail", repair=REPAIR), bundle="onnx-float"
    ),
    "a bound that a repair keeps": with_rows(
        row("onnx", "float", 5.0), row("onnx", "int8", 4.0, repair=replace(REPAIR, chosen=1)), bundle="onnx-int8"
    ),
    "nothing to ship": report(
        recommendation=ship(None, "no bundle passed its gates: see the rows' reasons.")
    ),
    "two devices": report(
        results=(*ROWS[:2], *(replace(each, device=device("pi")) for each in ROWS[:2])),
        recommendation=Recommendation("local", BEST_BUNDLE, "fastest", (Recommendation("pi", None, "no row passed"),)),
    ),
    "a runtime whose float failed": report_with(2, **failure_of(FAILED)),
    "the fastest with one thread": threads(1, {1: 1.25, 2: 1.44}),
    "the fastest with every thread": threads(4, {2: 15.0, 4: 8.0}),
    "no number of threads that is clearly faster": threads(1, {1: 1.02, 2: 1.0, 4: 1.3}),
    "one number of threads": threads(2, {2: 1.0}),
}  # fmt: skip


def test_the_words_of_answers(recorded: Recorded) -> None:
    """Whole answers, and the one summary in which a remark about an unconfirmed loss becomes a sentence."""
    texts = {name: answered(whole) for name, whole in ANSWERS.items()}
    texts["the summary of an unconfirmed loss"] = summary_of_report(ANSWERS["an unconfirmed loss"])
    recorded("answers.txt", "".join(f"== {name}\n{text}\n" for name, text in texts.items()))


@pytest.mark.parametrize("name", ANSWERS)
def test_warnings_and_the_decision_come_first(name: str) -> None:
    first, *_ = answered(ANSWERS[name]).splitlines()
    assert first.startswith("Ship ") == (name not in WARNED)


def test_random_weights_have_no_accuracy() -> None:
    assert "76.5" not in answered(ANSWERS["random weights"])
    assert "76.5" in answered(report())


def test_the_reason_that_the_answer_replaces_is_the_one_that_gates_give() -> None:
    judged = judge(row(accuracy=accuracy(0.4, (-0.58, 1.57))), Gates(), random_weights=False)
    assert "unconfirmed" in [note.kind for note in notes_of(judged)]


def long_report() -> Report:
    """A report with names, figures and reasons that are as long as they get."""
    name = "ssh://somebody-with-a-long-name@a-board-in-a-far-away-rack.laboratory.example.org:2222"
    board = device(name)
    wide: list[Row] = [
        row("openvino", "float", 14555.5, device=board, size_bytes=9_876_543_210),
        row(
            "openvino",
            "int8",
            12345.678,
            device=board,
            size_bytes=1_234_567_890,
            accuracy=accuracy(-10.25, (-20.25, -10.05)),
            speedup=Speedup(versus="openvino-float", ratio=1234.5, ci95=(1000.0, 2000.0)),
            remarks=("a remark without end " * 20, "x" * 200),
        ),
        failed_row("onnx", "int8", device=board, reasons=("compile: " + "/a/very/long/path" * 20,)),
        failed_row("tflite", "float", device=board),
    ]
    return report(results=(*ROWS, *wide), recommendation=Recommendation("local", "openvino-int8", "y " * 200, (
        Recommendation(name, "openvino-int8", "fastest"),)))  # fmt: skip


@pytest.mark.parametrize("width", [40, 60, 80, 200])
@pytest.mark.parametrize("name", ["short", "long", "demo"])
def test_no_line_is_longer_than_80_columns_or_the_terminal(width: int, name: str) -> None:
    wholes = {"short": report(), "long": long_report(), "demo": load_report(ROOT / "benchmarks/demo.json")}
    lines = answered(wholes[name], width).splitlines()
    assert max(map(len, lines)) <= min(width, 80)
    assert not any("\x1b" in line or "…" in line for line in lines if "edgekit.load(" not in line)


def test_the_json_document_has_the_same_reasons_as_before(tmp_path: Path) -> None:
    """The sentences are made when they are shown: pipelines read the reasons."""
    from edgekit.report import write_report

    rows = (*ROWS[:3], row("onnx", "int8", 8.0, accuracy=unsure(), remarks=(UNSURE,)))
    write_report(report(results=rows), tmp_path)
    assert json.loads((tmp_path / "report.json").read_text())["results"][3]["remarks"] == [UNSURE]
