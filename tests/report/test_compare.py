"""Comparison of two runs: changes, regressions beyond the noise, and the exit code for CI."""

import json
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from edgekit.cli.main import main
from edgekit.report import write_report
from edgekit.report.compare import compare_runs
from edgekit.report.document import Report
from edgekit.report.figure import Interval
from edgekit.report.formats import junit_of_comparison, summary
from edgekit.report.row import Int8, LowPrecision, Speedup, ThreadTime, Verdict
from tests.helpers.reports import (
    BEST,
    FAILED,
    RANDOM_MODEL,
    ROWS,
    accuracy,
    device,
    failed_row,
    gates,
    latency,
    report,
    report_with,
    row,
)

DROPPED = accuracy(0.5, (0.3, 0.7))
"""The drop in `report` is 0.09 [-0.11, 0.29] points."""


def speed(ratio: float, interval: Interval, p50: float) -> dict[str, Any]:
    """Changes that give a row this speed. In `report` it is 1.88x [1.86, 1.90] at 7.7 ms."""
    speedup = Speedup(versus="openvino-float", ratio=ratio, ci95=interval)
    return {"speedup": speedup, "latency_ms": latency(p50)}


def share(of_macs: float) -> Int8:
    """A share of MACs in integer kernels. In `report` it is 95.7 %."""
    return Int8(share_of_macs=of_macs, method="executed graph", float_layers=(), simulated=False)


def test_a_run_is_no_worse_than_itself() -> None:
    comparison = compare_runs(report(), report())
    assert (comparison.verdict, comparison.regressions, comparison.notes) == ("pass", (), ())
    assert [row.bundle for row in comparison.results] == [
        "openvino-float", "openvino-int8", "onnx-float", "onnx-int8", "tflite-float", "tflite-int8",
    ]  # fmt: skip
    drop, speedup = (comparison.results[BEST].changes[column] for column in ("drop_top1_points", "speedup_ratio"))
    assert (drop.difference, drop.ratio) == (0, None)
    assert drop.ci95 == pytest.approx((-(2**0.5) * 0.2, 2**0.5 * 0.2))
    assert (speedup.difference, speedup.ratio) == (None, 1)
    assert speedup.ci95 == pytest.approx((0.985, 1.015), abs=1e-3)


@pytest.mark.parametrize(
    ("changes", "worse"),
    [
        ({"accuracy": accuracy(0.2, (0.0, 0.4))}, None),
        ({"accuracy": DROPPED}, "loss got worse: 0.09 -> 0.50 points (difference 0.41, 95 % interval 0.13 to 0.69)"),
        ({"accuracy": accuracy(-2.0, (-2.2, -1.8))}, None),
        (speed(1.87, (1.85, 1.89), 7.8), None),
        (speed(1.7, (1.68, 1.72), 8.4), "speedup got worse: 1.88 -> 1.70 ×"),  # noqa: RUF001
        ({"latency_ms": latency(8.4)}, None),
        ({"latency_ms": latency(8.5)}, "p50 got worse: 7.70 -> 8.50 ms (ratio 1.10, 95 % interval 1.08 to 1.13)"),
        ({"latency_ms": latency(5.0)}, None),
        ({"latency_ms": replace(latency(15.4), p25=6.0, p75=20.0)}, None),
        (speed(1.5, (1.48, 1.52), 7.6), None),
        (speed(2.5, (2.4, 2.6), 5.0), None),
        ({"size_bytes": 4_330_000}, None),
        ({"size_bytes": 9_000_000}, "size got worse: 4.3 -> 9.0 MB"),
        ({"size_bytes": 1_000_000}, None),
        ({"int8": share(0.95)}, None),
        ({"int8": share(0.5)}, "int8 got worse: 96 -> 50 % MAC"),
        ({"verdict": "fail", "reasons": ("too slow",)}, "the verdict changed from pass to fail: too slow"),
        ({"verdict": "inconclusive", "reasons": ("few",)}, "the verdict changed from pass to inconclusive: few"),
    ],
)
def test_regressions_and_noise(changes: dict[str, Any], worse: str | None) -> None:
    comparison = compare_runs(report(), report_with(BEST, **changes))
    assert comparison.verdict == ("fail" if worse else "pass")
    if worse:
        (regression,) = comparison.regressions
        assert regression.startswith(f"openvino-int8 on local: {worse}")
        assert comparison.results[BEST].regressions


VERDICTS: tuple[Verdict, ...] = ("pass", "inconclusive", "fail", "error")


@pytest.mark.parametrize(("old", "new"), list(product(VERDICTS, VERDICTS)))
def test_every_verdict_that_became_worse_is_a_regression(old: Verdict, new: Verdict) -> None:
    rows = {
        verdict: failed_row() if verdict == "error" else row("onnx", verdict=verdict, reasons=(verdict,))
        for verdict in VERDICTS
    }
    comparison = compare_runs(report(results=(rows[old],)), report(results=(rows[new],)))
    worse = VERDICTS.index(new) > VERDICTS.index(old)
    assert len(comparison.regressions) == worse
    assert not worse or f"the verdict changed from {old} to {new}: " in comparison.regressions[0]


def test_a_second_gate_that_fails_is_a_regression() -> None:
    failed = report_with(BEST, verdict="fail", reasons=("lost",), gates=gates("fail", ("lost",)))
    drop, speedup, timing = gates("fail", ("lost",))
    slow = replace(speedup, verdict="fail", reasons=("slow",))
    both = report_with(BEST, verdict="fail", reasons=("lost", "slow"), gates=(drop, slow, timing))
    assert compare_runs(failed, both).regressions == (
        "openvino-int8 on local: the gate min-speedup changed from pass to fail: slow",
    )
    assert compare_runs(both, failed).verdict == "pass"
    skipped = report_with(BEST, verdict="fail", reasons=("lost",), gates=(drop,))
    assert compare_runs(skipped, both).verdict == "pass", "a gate that did not exist before has no verdict to compare"
    (verdict,) = compare_runs(report(), both).regressions
    assert "the verdict changed from pass to fail: lost; slow" in verdict


def test_a_float_bundle_that_fails_in_low_precision_is_a_regression() -> None:
    low = LowPrecision(computes_in="bf16", accuracy=accuracy(), p50_ms=9.0, verdict="pass")
    before, after = (
        report_with(0, low_precision=replace(low, verdict=verdict), verdict="fail", reasons=("x",))
        for verdict in ("pass", "fail")
    )
    assert compare_runs(before, after).regressions == (
        "openvino-float on local: the verdict in bf16 changed from pass to fail",
    )
    assert compare_runs(after, before).verdict == "pass"


def slower(factor: float, **facts: Any) -> Report:
    """The report with every time multiplied, so that no speedup changes, on a device with these facts."""
    timed = [(each, each.latency_ms.p50 * factor) for each in ROWS if each.latency_ms]
    return report(results=tuple(replace(each, latency_ms=latency(p50), device=device(**facts)) for each, p50 in timed))


def test_everything_slower_on_the_same_machine() -> None:
    comparison = compare_runs(slower(1), slower(2))
    assert [text.partition(":")[2][:14] for text in comparison.regressions] == [" p50 got worse"] * 5
    assert compare_runs(slower(2), slower(1)).verdict == "pass"
    assert compare_runs(slower(1), slower(1.09)).verdict == "pass"
    assert compare_runs(slower(1), slower(1.09), max_slowdown=5).verdict == "fail"
    assert compare_runs(slower(1), slower(1.09), max_slowdown=0).max_slowdown_percent == 0
    assert compare_runs(slower(1), slower(2), max_slowdown=100).verdict == "pass"


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"cpu": "Cortex-A76"}, "the processors differ (AMD EPYC and Cortex-A76)"),
        ({"cpu": None}, "the processor is not known"),
        ({"emulated": True}, "QEMU emulates the device"),
    ],
)
def test_times_of_another_machine_are_not_judged(facts: dict[str, Any], reason: str) -> None:
    comparison = compare_runs(slower(1), slower(2, **facts))
    assert comparison.verdict == "pass"
    (note,) = comparison.notes
    assert note.startswith(f"p50 is not judged, because {reason}: openvino-float on local")
    assert all(row.changes["latency_p50_ms"].ci95 is None for row in comparison.results)


def test_times_with_other_threads_are_not_judged() -> None:
    comparison = compare_runs(report(), report_with(BEST, latency_ms=latency(15.4, threads=2)))
    assert comparison.notes == (
        "p50 is not judged, because the numbers of threads differ (1 and 2): openvino-int8 on local",
    )
    assert comparison.verdict == "pass"


def test_numbers_of_threads_that_the_runs_chose_may_differ() -> None:
    by_threads = (ThreadTime(1, 7.7), ThreadTime(2, 9.0))
    before, after = (
        report_with(BEST, latency_ms=latency(p50, threads=threads, by_threads=by_threads))
        for p50, threads in ((7.7, 1), (15.4, 2))
    )
    assert compare_runs(before, after).verdict == "fail"


def test_unreliable_timing_is_noted() -> None:
    comparison = compare_runs(report(), report_with(BEST, remarks=("unreliable timing: heat",)))
    assert comparison.notes == ("second run: Unreliable timing of openvino-int8: heat.",)


def test_layers_that_only_one_run_keeps_in_float_are_named() -> None:
    first, second = (
        report_with(BEST, int8=replace(share(0.9), float_layers=names)) for names in (("stem", "head"), ("stem", "mlp"))
    )
    (note,) = (note for note in compare_runs(first, second).notes if "in float" in note)
    assert note == "openvino-int8 on local: layers in float in the first run alone: head; in the second run alone: mlp"
    assert not [note for note in compare_runs(first, first).notes if "in float" in note]


def test_a_missing_row_is_a_regression_and_a_new_one_is_not() -> None:
    less = report(results=(*ROWS[:BEST], *ROWS[BEST + 1 :]))
    comparison = compare_runs(report(), less)
    assert comparison.regressions == ("openvino-int8 on local: missing in the second run",)
    assert comparison.results[BEST].verdicts == ("pass", None)
    assert compare_runs(less, report()).verdict == "pass"


def test_each_device_is_compared_with_itself() -> None:
    elsewhere = replace(ROWS[BEST], device=device("pi"), size_bytes=1_000_000)
    both = report(results=(*ROWS, elsewhere))
    assert compare_runs(both, both).verdict == "pass"
    assert {row.device for row in compare_runs(both, report()).results if row.regressions} == {"pi"}


def test_a_row_that_failed_before_has_no_changes() -> None:
    comparison = compare_runs(report(), report())
    assert comparison.results[FAILED].changes == {}
    assert comparison.results[FAILED].verdicts == ("error", "error")


@pytest.mark.parametrize("changes", [{}, {"accuracy": DROPPED}])
def test_other_images_or_models_are_inconclusive_unless_asked(changes: dict[str, Any]) -> None:
    """Their intervals are those of another accuracy: neither a loss nor its absence follows from them."""
    after = report_with(BEST, **changes)
    images = replace(after, evaluation=replace(after.evaluation, sha256="00" * 32))
    model = replace(after, model=replace(after.model, name="resnet18"))
    for other, reason in (
        (images, f"different evaluation images: {'ef' * 20} and {'00' * 20}"),
        (model, "different models: convnextv2_atto and resnet18"),
    ):
        comparison = compare_runs(report(), other)
        assert (comparison.verdict, comparison.reasons) == ("inconclusive", (reason,))
        assert "is inconclusive: different " in summary(comparison)
        assert f'message="{reason}" type="inconclusive"' in junit_of_comparison(comparison)
        asked = compare_runs(report(), other, different=True)
        assert (asked.verdict, asked.reasons, asked.notes) == ("fail" if changes else "pass", (), (reason,))


def test_other_weights_of_the_model_are_judged() -> None:
    trained = replace(report_with(BEST, accuracy=DROPPED), model=replace(report().model, weights_sha256="00" * 32))
    assert compare_runs(report(), trained).verdict == "fail"
    assert compare_runs(trained, trained).verdict == "pass"


def test_other_differences_are_noted() -> None:
    other = report(edgekit="9.9", results=tuple(replace(row, device=device(cpu="Cortex-A76")) for row in ROWS))
    other = replace(other, model=replace(other.model, weights_sha256="00" * 32))
    weights, version, processor = compare_runs(report(), other).notes
    assert weights.startswith("different weights: abab")
    assert version.endswith("0.1.0 and 9.9")
    assert "AMD EPYC and Cortex-A76" in processor


def test_random_weights_have_no_accuracy_to_compare() -> None:
    other = replace(report_with(BEST, accuracy=accuracy(50, (49, 51))), model=RANDOM_MODEL)
    comparison = compare_runs(report(), other)
    assert comparison.verdict == "pass"
    (note,) = comparison.notes
    assert "random weights" in note
    assert "drop_top1_points" not in comparison.results[BEST].changes
    assert "latency_p50_ms" in comparison.results[BEST].changes


def test_the_command_is_a_gate(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_report(report(), tmp_path / "a")
    write_report(report_with(BEST, accuracy=DROPPED), tmp_path / "b")
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "a")]) == 0
    assert capfd.readouterr().out.startswith("nothing got worse beyond the noise\n")
    write_report(report_with(BEST, latency_ms=latency(8.4)), tmp_path / "slower")
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "slower")]) == 0
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "slower"), "--max-slowdown", "5"]) == 1
    assert "p50 got worse" in capfd.readouterr().out
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 1
    out = capfd.readouterr().out
    assert "  loss: 0.09 -> 0.50 points (difference 0.41, 95 % interval 0.13 to 0.69)\n" in out
    assert "worse: openvino-int8 on local: loss got worse: 0.09 -> 0.50 points" in out
    write_report(report(model=replace(report().model, name="resnet18")), tmp_path / "other")
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "other")]) == 1
    assert "inconclusive: different models: convnextv2_atto and resnet18" in " ".join(capfd.readouterr().out.split())
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "other"), "--different"]) == 0
    capfd.readouterr()
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--json"]) == 1
    comparison = json.loads(capfd.readouterr().out)
    assert (comparison["schema_version"], comparison["verdict"]) == (1, "fail")
    assert comparison["results"][BEST]["changes"]["drop_top1_points"]["difference"] == pytest.approx(0.41)


def test_a_folder_without_a_report(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(tmp_path), str(tmp_path)]) == 2
    assert "`edgekit deploy`" in capfd.readouterr().err
