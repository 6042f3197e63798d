"""The answer of a run within 80 columns: what to ship, what it gains and costs, and how sure that is."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgekit.measure.gates import judge
from edgekit.measure.settings import Gates
from edgekit.report import load_report
from edgekit.report.answer import unsteady
from edgekit.report.document import Recommendation, Reference, Report
from edgekit.report.formats import summary_of_report
from edgekit.report.row import Accuracy, Bound, LowPrecision, Repair, RepairAttempt, Row, Speedup, ThreadTime
from edgekit.report.sentences import notes_of
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

UNSURE = (
    "cannot confirm a drop of at most 1 point (measured 0.40, 95 % interval -0.58 to 1.57, n = 500); about 2,421 "
    "images are needed"
)


def unsure(needed: int | None = 2421, **changes: Any) -> Accuracy:
    """A loss of 0.4 points on 500 images, which can't confirm a bound of 1 point."""
    bound = Bound(max_drop_points=1.0, shown=False, images_needed=needed)
    return accuracy(0.4, (-0.58, 1.57), count=500, bound=bound, **changes)


def words(text: str) -> str:
    """The text without line breaks."""
    return " ".join(text.split())


def test_the_decision_comes_first() -> None:
    shown = Bound(max_drop_points=1.0, shown=True, images_needed=500)
    text = answered(report_with(BEST, accuracy=accuracy(bound=shown)))
    lines = text.splitlines()
    assert lines[0].startswith("Ship openvino-int8: 7.70 ms instead of 14.10 (1.83x) and 4.3 MB instead of 14.9")
    assert "compared with the fastest float, tflite-float." in words(text)
    assert "Top-1 is 76.55 % instead of 76.64 %. Confirmed on 10,000 images: the loss is at most 0.29" in words(text)
    assert "openvino-int8  7.70  9.24    1.88x  4.3  76.55  0.09 (-0.11 to 0.29)  pass" in lines
    assert "tflite-int8    7.52  9.02    1.88x  4.3  75.33   1.31 (0.92 to 1.70)  fail" in lines
    assert "Float: openvino 14.50 ms, onnx 16.70, tflite 14.10." in lines
    assert "tflite-int8 failed: drop of 1.31 points is more than --max-drop 1.0." in lines
    assert "onnx-int8 has an error: compile: onnxruntime refused node 'MatMul_3' [opset 21]." in lines


def test_the_gain_is_measured_in_turns_where_the_fastest_float_is_of_the_same_runtime() -> None:
    rows = (row("onnx", "float", 10.0), row("onnx", "int8", 5.0))
    assert "5.00 ms instead of 10.00 (1.88x)" in answered(report(results=rows, recommendation=ship("onnx-int8")))


def ship(bundle: str | None, why: str = "fastest") -> Recommendation:
    return Recommendation("local", bundle, why)


def test_a_loss_that_is_not_confirmed_contradicts_nothing() -> None:
    rows = [*ROWS[:3], row("onnx", "int8", 8.0, accuracy=unsure(), remarks=(UNSURE,))]
    text = words(answered(report(results=tuple(rows))))
    assert "8.00 1.88x 4.3 76.24 0.40 (-0.58 to 1.57) unconfirmed" in text
    sentence = "the measured loss, 0.40, is within 1 point. Not confirmed: the loss may be up to 1.57 points."
    assert f"onnx-int8 passes: {sentence} About 2,421 images would settle 1 point; this run had 500." in text
    assert "cannot confirm" not in text
    summary = summary_of_report(report(results=tuple(rows)))
    assert f"onnx-int8 passes: {sentence}" in summary
    assert "cannot confirm" not in summary
    shipped = words(answered(report(results=tuple(rows), recommendation=ship("onnx-int8"))))
    assert "Top-1 is 76.24 % instead of 76.64 %. Not confirmed: the loss may be up to 1.57 points." in shipped
    assert "the measured loss" not in shipped, "the decision says it"


def test_an_inconclusive_row_says_what_is_missing() -> None:
    unsettled = row("onnx", "int8", accuracy=unsure(None), verdict="inconclusive", reasons=(UNSURE,))
    text = words(answered(report(results=(*ROWS[:3], unsettled))))
    assert "onnx-int8 is inconclusive. Not confirmed: the loss may be up to 1.57 points. More than these 500" in text
    failed = replace(unsettled, verdict="fail", reasons=("too slow", UNSURE))
    text = words(answered(report(results=(*ROWS[:3], failed))))
    assert "onnx-int8 failed: too slow. onnx-int8: Not confirmed: the loss may be up to 1.57 points." in text


def test_what_leaves_a_gate_inconclusive_is_not_why_a_bundle_failed() -> None:
    slow = row("onnx", "int8", speedup=Speedup(versus="onnx-float", ratio=0.58, ci95=(0.5, 0.6)))
    judged = judge(slow, Gates(), random_weights=False, near_chance=True)
    text = words(answered(report(results=(*ROWS[:3], judged))))
    assert "onnx-int8 failed: 0.58x" in text
    assert "onnx-int8: the reference is near chance, so no accuracy means anything." in text
    assert "onnx-int8 failed: the reference" not in text


def test_the_reason_that_the_answer_replaces_is_the_one_that_gates_give() -> None:
    judged = judge(row(accuracy=accuracy(0.4, (-0.58, 1.57))), Gates(), random_weights=False)
    assert "unconfirmed" in [note.kind for note in notes_of(judged)]


def test_float_is_shipped_in_the_format_that_makes_it_fastest() -> None:
    low = LowPrecision(computes_in="bf16", accuracy=None, p50_ms=7.0, verdict="pass")
    rows = (row("openvino", "float", 14.5, low_precision=low), row("openvino", "int8", 7.7))
    text = words(answered(report(results=rows, recommendation=ship("openvino-float"))))
    assert text.startswith("Ship openvino-float in bf16: 7.00 ms, 14.9 MB.")
    assert "low_precision=True" in text
    assert "No INT8 bundle that passed is faster: openvino-int8 takes 7.70 ms." in text
    assert "Float: openvino 14.50 ms (7.00 in bf16)." in text
    failed = (rows[0], replace(rows[1], verdict="fail", reasons=("too slow",)))
    assert "No INT8 bundle passed." in words(answered(report(results=failed, recommendation=ship("openvino-float"))))


def test_what_the_bound_costs_stands_beside_the_bundle_to_ship() -> None:
    own = RepairAttempt(drop_top1_points=2.1, speedup=1.31)
    kept = RepairAttempt(float_layers=("a", "b", "c", "d"), drop_top1_points=0.3, speedup=0.95)
    repair = Repair(device="local", max_drop_points=1.0, ranking_images=32, attempts=(own, kept), chosen=0)
    rows = (row("onnx", "float", 5.0), row("onnx", "int8", 4.0, verdict="fail", repair=repair))
    price = (
        "onnx-int8 keeps the bound with 4 layers in float at 0.95x float; without repair it loses 2.10 points at 1.31x"
    )
    text = words(answered(report(results=rows, recommendation=ship("onnx-float"))))
    assert f"Ship onnx-float: 5.00 ms, 14.9 MB. No INT8 bundle passed. {price} float." in text
    rows = (rows[0], row("onnx", "int8", 4.0, repair=replace(repair, chosen=1)))
    assert price in words(answered(report(results=rows, recommendation=ship("onnx-int8"))))


def test_nothing_to_ship() -> None:
    why = "no bundle passed its gates: see the rows' reasons."
    assert answered(report(recommendation=ship(None, why))).startswith("Ship nothing: no bundle passed its gates.\n")


@pytest.mark.parametrize(
    ("whole", "warning"),
    [
        (report(model=RANDOM_MODEL), "Accuracy is meaningless: the weights are random."),
        (
            report(
                reference=Reference(
                    engine="torch", top1=0.1, top5=0.5, top1_ci95=(0.08, 0.12), chance=0.1, near_chance=True
                )
            ),
            "The reference is near chance: ",
        ),
        (report_with(BEST, device=device("pi", emulated=True)), "Emulated by QEMU: pi."),
        (
            report_with(BEST, remarks=("unreliable timing: other processes used 1.5 of 2 CPUs",)),
            "Unreliable timing of openvino-int8: other processes used 1.5 of 2 CPUs.",
        ),
    ],
)
def test_warnings_stand_above_the_decision(whole: Report, warning: str) -> None:
    text = answered(whole)
    assert text.startswith(warning)
    assert warning not in text[len(warning) :]


def test_random_weights_have_no_accuracy() -> None:
    text = answered(report(model=RANDOM_MODEL))
    assert "What it costs in accuracy is unknown, because the weights are random." in text
    assert "76.5" not in text
    assert "n/a" in text


def test_each_device_has_its_decision_and_its_table() -> None:
    rows = tuple(replace(each, device=device("pi")) for each in ROWS[:2])
    both = Recommendation("local", "openvino-int8", "fastest", (Recommendation("pi", None, "no row passed"),))
    lines = answered(report(results=(*ROWS[:2], *rows), recommendation=both)).splitlines()
    assert lines[0].startswith("Ship openvino-int8 on local: 7.70 ms")
    assert "Ship nothing on pi: no row passed." in lines[:5]
    assert lines.index("On local:") < lines.index("On pi:")


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


def test_an_error_row_has_no_figures() -> None:
    line = next(line for line in answered(report()).splitlines() if line.startswith("onnx-int8 "))
    assert line.split()[1:] == ["–"] * 6 + ["error"]  # noqa: RUF001
    assert "onnx failed" in answered(report_with(2, **failure_of(FAILED)))


def failure_of(index: int) -> dict[str, Any]:
    """The changes that make any row fail as this one did."""
    empty = ("accuracy", "snr_db", "latency_ms", "end_to_end_ms", "speedup", "int8", "limit", "size_bytes")
    changes: dict[str, Any] = dict.fromkeys((*empty, "peak_rss_bytes", "energy", "throughput", "profile"))
    failed = ROWS[index]
    return changes | {"failure": failed.failure, "verdict": "error", "reasons": failed.reasons, "bundle": None}


def test_the_json_document_has_the_same_reasons_as_before(tmp_path: Path) -> None:
    """The sentences are made when they are shown: pipelines read the reasons."""
    from edgekit.report import write_report

    rows = (*ROWS[:3], row("onnx", "int8", 8.0, accuracy=unsure(), remarks=(UNSURE,)))
    write_report(report(results=rows), tmp_path)
    assert json.loads((tmp_path / "report.json").read_text())["results"][3]["remarks"] == [UNSURE]


@pytest.mark.parametrize(
    ("threads", "p50", "sentence"),
    [
        (1, {1: 1.25, 2: 1.44}, "Fastest with 1 thread: it takes 1.15 times as long with 2."),
        (4, {2: 15.0, 4: 8.0}, "Fastest with 4 threads: it takes 1.88 times as long with 2."),
        (
            1,
            {1: 1.02, 2: 1.0, 4: 1.3},
            "No other number of threads is clearly faster than 1: it takes 0.98 times as long with 2, 1.27 times as "
            "long with 4.",
        ),
        (2, {2: 1.0}, None),
    ],
)
def test_the_number_of_threads_is_explained(threads: int, p50: dict[int, float], sentence: str | None) -> None:
    by_threads = tuple(ThreadTime(*each) for each in p50.items())
    text = words(answered(report_with(BEST, latency_ms=latency(1.2, threads=threads, by_threads=by_threads))))
    assert (sentence or "Ship openvino-int8") in text
    assert ("as long" in text) == (sentence is not None)
    assert text.count("1.20 ms") == 1


def test_unreliable_float_names_the_speedup_that_stands_on_it() -> None:
    shaky = report_with(0, remarks=("unreliable timing: it drifted by 79 %",))
    assert unsteady(shaky.results) == [
        "Unreliable timing of openvino-float: it drifted by 79 %. The speedup of openvino-int8 depends on it."
    ]
