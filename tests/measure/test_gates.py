"""Verdicts and the recommendation."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgekit.errors import UsageError
from edgekit.measure.gates import NEAR_CHANCE, SIMULATED, TOO_FEW_RUNS, judge, judge_latency, verdict_of
from edgekit.measure.recommendation import recommend
from edgekit.measure.settings import Gates
from edgekit.report.row import (
    AGREEMENT,
    Bound,
    Confidence,
    Crossings,
    Energy,
    Gate,
    GateName,
    Int8,
    LowPrecision,
    Row,
    Score,
    Speedup,
)
from edgekit.runtime.bundle import Bundle
from tests.helpers.measurements import accuracy, conditions, device, failed, latency, measurement, speedup
from tests.helpers.refusals import refuses
from tests.helpers.reports import ENERGY, THROUGHPUT
from tests.helpers.tiny import tiny_labels, tiny_manifest

GATES = Gates(max_drop=1.0, min_speedup=1.0)
STATED_DROP = replace(GATES, must_show_drop=True)
PAIR = {
    f"onnx-{kind}": Bundle(Path(kind), tiny_manifest("onnx", precision=kind), tuple(tiny_labels()))
    for kind in ("float", "int8")
}
"""The bundles of a benchmark."""


def row(gates: Gates = GATES, **figures: Any) -> Row:
    """The row of a measurement with these figures; `drop` gives the drop of its accuracy."""
    if "drop" in figures:
        figures["accuracy"] = accuracy(figures.pop("drop"))
    return judge(measurement(**figures), gates, random_weights=False)


def test_a_row_has_the_facts_of_its_measurement() -> None:
    measured = measurement(macs=5, peak_rss_bytes=7)
    judged = row(macs=5, peak_rss_bytes=7)
    assert (judged.bundle, judged.macs, judged.peak_rss_bytes) == ("onnx-int8", 5, 7)
    assert (judged.latency_ms, judged.speedup, judged.device) == (
        measured.latency_ms,
        measured.speedup,
        measured.device,
    )


def test_times_of_an_emulated_device_are_not_judged() -> None:
    board = device("pi", emulated=True)
    slow = row(speedup=speedup(0.5, 0.4, 0.6), device=board)
    assert slow.verdict == "pass"
    assert row(drop=1.6, device=board).verdict == "fail"
    loaded = conditions(cpus=2, other_cpus=1.9)
    claim = replace(GATES, needs_steady_timing=True)
    assert row(claim, thermal=loaded).verdict == "inconclusive"
    assert row(claim, thermal=loaded, device=board).verdict == "pass"
    advice = recommend([row(), slow])
    assert advice.bundle == "onnx-int8"
    (other,) = advice.others
    assert (other.device, other.bundle) == ("pi", None)
    assert other.why.startswith("emulated under QEMU")


def test_int8_within_its_gates_passes() -> None:
    judged = row()
    assert (judged.verdict, judged.reasons, judged.remarks) == ("pass", (), ())


@pytest.mark.parametrize(
    ("threshold", "stated", "images", "remarks"),
    [
        (0.8, False, 11, True),
        (0.8, False, 10, False),
        (0.8, True, 1, True),
        (0.8, True, 0, False),
        (None, True, 11, True),
        (None, True, 10, False),
    ],
)
def test_answers_that_cross_a_threshold_are_a_remark(
    threshold: float | None, stated: bool, images: int, remarks: bool
) -> None:
    crossed = Crossings(threshold=threshold, stated=stated, count=1000, upward=images, downward=0, images=images)
    judged = row(accuracy=replace(accuracy(), confidence=Confidence(crossings=(crossed,))))
    where = "the thresholds of their classes" if threshold is None else "a confidence of 0.8"
    remark = f"answers of {images} of 1,000 images cross {where}: {images} reach it only with this bundle, "
    assert (judged.verdict, judged.remarks) == ("pass", (f"{remark}0 only with the reference",) if remarks else ())


def test_a_reference_near_chance_leaves_every_row_inconclusive() -> None:
    for measured in (measurement(), measurement(precision="float")):
        judged = judge(measured, GATES, random_weights=False, near_chance=True)
        assert (judged.verdict, judged.reasons) == ("inconclusive", (NEAR_CHANCE,))
        assert recommend([judged]).bundle is None
    slow = judge(measurement(speedup=speedup(0.5, 0.4, 0.6)), GATES, random_weights=False, near_chance=True)
    assert slow.verdict == "fail"
    assert slow.reasons[1:] == (NEAR_CHANCE,)


def test_the_drop_gate_gives_figures() -> None:
    judged = row(drop=1.6)
    assert judged.verdict == "fail"
    (reason,) = judged.reasons
    assert "1.60 points (95 % interval 1.10 to 2.10, n = 1,000)" in reason
    assert "at most 1 is allowed" in reason


def test_a_drop_as_large_as_allowed_passes() -> None:
    assert row(drop=1.0).verdict == "pass"


def test_a_stated_bound_must_be_confirmed_by_the_interval() -> None:
    judged = row(STATED_DROP, drop=0.7)
    assert judged.verdict == "inconclusive"
    (reason,) = judged.reasons
    assert "at most 1 point (measured 0.70, 95 % interval 0.20 to 1.20, n = 1,000)" in reason
    assert "24,108 images" in reason
    assert judged.remarks == ()
    assert judged.accuracy is not None
    assert judged.accuracy.bound == Bound(max_drop_points=1.0, shown=False, images_needed=24108)


def test_without_a_stated_bound_an_unconfirmed_drop_is_a_remark() -> None:
    judged = row(drop=0.7)
    assert (judged.verdict, judged.reasons) == ("pass", ())
    assert judged.remarks == row(STATED_DROP, drop=0.7).reasons


@pytest.mark.parametrize(
    ("drop", "usual", "stated"), [(0.5, "pass", "pass"), (1.0, "pass", "inconclusive"), (1.5, "pass", "fail"),
                                  (1.51, "fail", "fail")]
)  # fmt: skip
def test_without_a_stated_bound_only_a_proven_loss_fails(drop: float, usual: str, stated: str) -> None:
    """The intervals of these losses are half a point wide to either side, and the bound is 1 point."""
    assert (row(drop=drop).verdict, row(STATED_DROP, drop=drop).verdict) == (usual, stated)


@pytest.mark.parametrize("gates", [GATES, STATED_DROP])
def test_a_bound_that_is_confirmed_passes(gates: Gates) -> None:
    judged = row(gates, drop=0.5)
    assert (judged.verdict, judged.reasons, judged.remarks) == ("pass", (), ())
    assert judged.accuracy is not None
    assert judged.accuracy.bound is not None
    assert judged.accuracy.bound.shown


def test_no_number_of_images_confirms_a_bound_that_the_drop_reaches() -> None:
    judged = row(STATED_DROP, drop=1.0)
    assert judged.verdict == "inconclusive"
    assert judged.accuracy is not None
    assert judged.accuracy.bound == Bound(max_drop_points=1.0, shown=False, images_needed=None)
    (reason,) = judged.reasons
    assert reason.endswith("more images would not help")


def agreeing(percent: float, least: float, gates: Gates = GATES) -> Row:
    """The row of a bundle that agrees with float on this share of images without labels, at least with `least`."""
    drops = {"drop_score_points": 100 - percent, "drop_ci95_points": (0.0, 100 - least)}
    measured = accuracy(0.0, top1=None, top5=None, score=Score(AGREEMENT, percent / 100), right_to_wrong=None,
                        wrong_to_right=None, drop_top1_points=None, **drops)  # fmt: skip
    return row(gates.for_images(labelled=False), accuracy=measured)


@pytest.mark.parametrize(
    ("percent", "least", "stated", "verdict"),
    [(98, 96, None, "pass"), (98, 94, None, "inconclusive"), (94, 90, None, "fail"), (94, 90, 90, "pass")],
)
def test_without_labels_the_whole_interval_of_the_agreement_is_judged(
    percent: float, least: float, stated: float | None, verdict: str
) -> None:
    judged = agreeing(percent, least, replace(GATES, min_agreement=stated))
    gate = named(judged, "min-agreement")
    assert (gate.verdict, judged.verdict, gate.limit) == (verdict, verdict, (stated or 95) / 100)
    assert (gate.figure, gate.whole_interval) == ("accuracy.score.value", True)
    assert (f"at least {stated or 95} %" in "".join(gate.reasons)) == (verdict != "pass")
    assert outcomes(judged)["above-chance"] == "skipped"
    assert "max-drop" not in outcomes(judged)


def test_a_bound_that_the_images_cannot_show_is_refused() -> None:
    with refuses(UsageError, "--max-drop", "no labels", "--min-agreement PERCENT"):
        STATED_DROP.for_images(labelled=False)
    with refuses(UsageError, "--min-agreement", "have labels", "--max-drop POINTS"):
        replace(GATES, min_agreement=90.0).for_images(labelled=True)
    assert STATED_DROP.for_images(labelled=True) is STATED_DROP


def test_an_unconfirmed_drop_is_listed_beside_a_failed_gate() -> None:
    judged = row(STATED_DROP, drop=0.7, speedup=speedup(0.5, 0.4, 0.6))
    assert judged.verdict == "fail"
    slow, unconfirmed = judged.reasons
    assert slow.startswith("0.50x its float")
    assert unconfirmed.startswith("cannot confirm a drop")


def test_a_bundle_with_an_unconfirmed_drop_is_not_recommended() -> None:
    advice = recommend([row(precision="float", latency_ms=latency(20.0)), row(STATED_DROP, drop=0.7)])
    assert advice.bundle == "onnx-float"
    assert "not passed: onnx-int8" in advice.why


def test_gains_pass() -> None:
    assert row(Gates(max_drop=0), drop=-3).verdict == "pass"


def test_random_weights_have_no_drop_gate_but_a_speed_gate() -> None:
    lost = measurement(accuracy=accuracy(50))
    judged = judge(lost, GATES, random_weights=True)
    assert judged.verdict == "pass"
    assert judged.accuracy is not None
    assert judged.accuracy.bound is None, "a bound on the accuracy of random weights means nothing"
    slow = replace(lost, speedup=speedup(0.9, 0.8, 1.0))
    assert judge(slow, GATES, random_weights=True).verdict == "fail"


@pytest.mark.parametrize("faster", [(0.9, 0.8, 0.95), (1.1, 0.99, 1.2), (1.2, 1.0, 1.4)])
def test_the_speed_gate_uses_the_lower_end_of_the_interval(faster: tuple[float, float, float]) -> None:
    judged = row(speedup=speedup(*faster))
    assert judged.verdict == "fail"
    (reason,) = judged.reasons
    assert reason.startswith(f"{faster[0]:.2f}x its float (95 % interval {faster[1]:.2f} to {faster[2]:.2f})")
    assert "more than 1 is required" in reason


def test_a_stated_speedup_needs_an_interval() -> None:
    few = Speedup(versus="onnx-float", ratio=1.5, ci95=None)
    stated = Gates(min_speedup=1.4, needs_steady_timing=True)
    for judged in (row(stated, speedup=few), judge_latency(measurement(speedup=few), stated, PAIR)):
        assert judged.verdict == "inconclusive"
        assert judged.reasons == (TOO_FEW_RUNS,)
    unstated = row(Gates(min_speedup=1.4), speedup=few)
    assert (unstated.verdict, unstated.remarks) == ("pass", (TOO_FEW_RUNS,))
    for gates in (stated, Gates(min_speedup=1.4)):
        missed = row(gates, speedup=replace(few, ratio=1.3))
        assert missed.verdict == "fail"
        assert missed.reasons[0].startswith("1.30x its float (too few runs for an interval)")


def test_the_speed_gate_uses_the_stated_factor() -> None:
    assert row(Gates(min_speedup=1.39)).verdict == "pass"
    assert row(Gates(min_speedup=1.4)).verdict == "fail"


def test_int8_without_a_float_baseline_fails() -> None:
    judged = row(speedup=None)
    assert judged.verdict == "fail"
    assert "float bundle could not be timed" in judged.reasons[0]


@pytest.mark.parametrize("faster", [None, speedup(0.5, 0.4, 0.6)])
def test_zero_turns_the_speed_gate_off(faster: Any) -> None:
    assert row(Gates(min_speedup=0), speedup=faster).verdict == "pass"


def test_both_gates_give_a_reason() -> None:
    judged = row(drop=9, speedup=speedup(0.5, 0.4, 0.6))
    drop, speed = judged.reasons
    assert drop.startswith("top-1 drops by 9.00 points")
    assert speed.startswith("0.50x its float")


def test_float_has_no_gates() -> None:
    judged = row(precision="float", drop=9)
    assert (judged.verdict, judged.reasons, judged.remarks) == ("pass", (), ())
    assert judged.accuracy == accuracy(9), "float has no bound"


def outcomes(judged: Row) -> dict[str, str]:
    return {gate.name: gate.verdict for gate in judged.gates}


def named(judged: Row, name: GateName) -> Gate:
    """The gate of a row with this name."""
    (gate,) = (gate for gate in judged.gates if gate.name == name)
    return gate


def test_a_verdict_comes_from_the_gates_and_not_from_their_reasons() -> None:
    passed = Gate(name="above-chance", verdict="pass", reasons=("a remark",))
    failed_, unsettled = (Gate(name="max-drop", verdict=verdict) for verdict in ("fail", "inconclusive"))
    assert verdict_of([passed]) == ("pass", ())
    assert verdict_of([passed, unsettled]) == ("inconclusive", ())
    assert verdict_of([unsettled, passed, failed_]) == ("fail", ())


def test_a_row_has_the_outcome_of_each_gate() -> None:
    judged = row(Gates(max_drop=0.5, min_speedup=1.2), drop=1.1)
    assert outcomes(judged) == {
        "above-chance": "pass",
        "max-drop": "fail",
        "min-speedup": "pass",
        "steady-timing": "skipped",
    }
    drop, speed = named(judged, "max-drop"), named(judged, "min-speedup")
    assert (drop.figure, drop.limit, drop.reasons) == ("accuracy.drop_top1_points", 0.5, judged.reasons)
    assert (speed.figure, speed.limit, speed.reasons) == ("speedup.ratio", 1.2, ())
    unconfirmed = row(STATED_DROP, drop=0.7)
    assert outcomes(unconfirmed)["max-drop"] == "inconclusive"
    measured = replace(named(unconfirmed, "max-drop"), verdict="pass", whole_interval=False)
    assert named(row(drop=0.7), "max-drop") == measured
    claim = replace(GATES, needs_steady_timing=True)
    assert outcomes(row(claim))["steady-timing"] == "pass"
    unsteady = row(claim, precision="float", latency_ms=latency(spread=0.9), thermal=conditions())
    assert list(outcomes(unsteady).values()) == ["pass", "skipped", "skipped", "inconclusive"]


def test_a_gate_that_does_not_apply_is_skipped_with_the_reason() -> None:
    emulated = row(device=device("pi", emulated=True))
    assert list(outcomes(emulated).values()) == ["pass", "pass", "skipped", "skipped"]
    random = judge(measurement(), Gates(min_speedup=0), random_weights=True)
    for judged in (emulated, random, row(precision="float")):
        assert all(gate.reasons for gate in judged.gates if gate.verdict == "skipped")
    assert set(outcomes(random).values()) == {"skipped"}
    assert judge(failed(), GATES, random_weights=False).gates == judge_latency(measurement()).gates == ()


def test_a_failed_measurement_is_an_error_with_its_reason() -> None:
    for judged in (judge(failed(), GATES, random_weights=False), judge_latency(failed())):
        assert (judged.verdict, judged.reasons) == ("error", ("compile: refused",))
        assert judged.failure == failed().failure
        assert judged.bundle is None


def test_a_benchmark_has_the_gates_that_the_user_states() -> None:
    stated = Gates(min_speedup=1.2, needs_steady_timing=True)
    fast = judge_latency(measurement(), stated, PAIR)
    assert (fast.verdict, outcomes(fast)) == ("pass", {"min-speedup": "pass", "steady-timing": "pass"})
    slow = judge_latency(measurement(speedup=speedup(1.3, 1.1, 1.4, "bf16")), stated, PAIR)
    assert slow.verdict == "fail"
    assert slow.reasons == ("1.30x onnx-float in bf16 (95 % interval 1.10 to 1.40), but more than 1.2 is required",)
    lonely = judge_latency(measurement(speedup=None), stated, PAIR)
    assert lonely.reasons == ("onnx-float could not be timed, so there is no baseline for the speed-up",)
    unsteady = judge_latency(measurement(latency_ms=latency(spread=0.9), thermal=conditions()), stated, PAIR)
    assert unsteady.verdict == "inconclusive"
    baseline = judge_latency(measurement(precision="float"), stated, PAIR)
    assert (baseline.verdict, outcomes(baseline)["min-speedup"]) == ("pass", "skipped")
    board = judge_latency(measurement(device=device("pi", emulated=True)), stated, PAIR)
    assert set(outcomes(board).values()) == {"skipped"}


def test_a_benchmark_has_no_other_gates() -> None:
    measured = measurement(speedup=speedup(0.5, 0.4, 0.6), accuracy=None, latency_ms=latency(spread=0.9))
    judged = judge_latency(replace(measured, thermal=conditions()))
    assert (judged.verdict, judged.reasons) == ("pass", ())
    assert judged.remarks[0].startswith("unreliable timing: ")


def test_recommends_the_fastest_that_passed() -> None:
    slow, fast = row(), row(target="tflite", latency_ms=latency(5.0))
    fails = row(target="openvino", latency_ms=latency(1.0), drop=9)
    advice = recommend([slow, fast, fails])
    assert (advice.device, advice.bundle, advice.others) == ("local", "tflite-int8", ())
    assert advice.why == (
        "fastest of the 2 that passed: p50 5.00 ms, 1.50x its float, 4.00 MB; not passed: openvino-int8."
    )


def test_recommends_float_where_it_is_fastest() -> None:
    advice = recommend([row(precision="float", latency_ms=latency(2.0)), row()])
    assert advice.bundle == "onnx-float"
    assert "ship float: no int8 bundle that passed is faster" in advice.why


def test_recommends_the_smaller_of_equally_fast_bundles() -> None:
    assert recommend([row(precision="float", size_bytes=9), row(size_bytes=4)]).bundle == "onnx-int8"


def test_recommends_nothing_when_nothing_passed() -> None:
    for nothing in (judge(failed(), GATES, random_weights=False), row(drop=9)):
        advice = recommend([nothing])
        assert advice.bundle is None
        assert "no bundle passed" in advice.why


def test_rows_without_a_bundle_are_named_too() -> None:
    failure = judge(failed(target="tflite"), GATES, random_weights=False)
    assert recommend([row(), failure]).why.endswith("not passed: tflite-int8.")


def test_the_speed_gate_names_the_low_precision_of_the_fastest_float() -> None:
    slow = row(speedup=speedup(0.9, 0.8, 0.95, "bf16"))
    assert slow.reasons[0].startswith("0.90x its float in bf16 (95 % interval 0.80 to 0.95)")
    fast = row(speedup=speedup(1.4, 1.3, 1.5, "bf16"))
    assert "1.40x its float in bf16" in recommend([fast]).why


def test_float_in_low_precision_is_recommended_where_it_is_fastest_and_keeps_the_drop() -> None:
    low = LowPrecision(computes_in="bf16", accuracy=accuracy(0.1), p50_ms=8.0)
    float_ = row(precision="float", latency_ms=latency(20.0), low_precision=low)
    assert float_.low_precision == replace(low, verdict="pass")
    advice = recommend([float_, row()])
    assert advice.bundle == "onnx-float"
    assert "p50 8.00 ms" in advice.why
    assert "no int8 bundle that passed is faster than float in bf16" in advice.why
    lossy = row(precision="float", latency_ms=latency(20.0), low_precision=replace(low, accuracy=accuracy(9.0)))
    assert lossy.low_precision is not None
    assert (lossy.verdict, lossy.low_precision.verdict) == ("pass", "fail")
    assert recommend([lossy, row()]).bundle == "onnx-int8"


def test_each_device_has_its_own_recommendation_and_the_first_comes_first() -> None:
    fast = row(device=device("pc"), target="tflite", latency_ms=latency(1.0))
    lost = judge(failed("device", on=device("gone")), GATES, random_weights=False)
    advice = recommend([row(device=device("pi")), fast, lost])
    assert (advice.device, advice.bundle) == ("pi", "onnx-int8")
    assert [(each.device, each.bundle) for each in advice.others] == [("pc", "tflite-int8"), ("gone", None)]


def test_simulated_int8_gets_a_remark() -> None:
    simulated = Int8(share_of_macs=0.0, method="x", float_layers=("conv",), simulated=True)
    judged = row(int8=simulated)
    assert (judged.verdict, judged.remarks) == ("pass", (SIMULATED,))
    assert judge_latency(measurement(int8=simulated)).remarks == (SIMULATED,)


def test_an_unreliable_latency_is_not_recommended_where_a_speedup_is_claimed() -> None:
    unsteady: dict[str, Any] = {"latency_ms": latency(spread=0.9), "thermal": conditions()}
    unclaimed = row(**unsteady)
    assert unclaimed.verdict == "pass"
    assert unclaimed.remarks[0].startswith("unreliable timing: ")
    claimed = row(replace(GATES, needs_steady_timing=True), **unsteady)
    assert (claimed.verdict, claimed.reasons, claimed.remarks) == ("inconclusive", unclaimed.remarks, ())
    assert recommend([claimed]).bundle is None


@pytest.mark.parametrize(
    ("streams", "threads", "remarks"),
    [
        (2, 1, ()),
        (1, 4, ()),
        (3, 1, ("3 streams, with 1 thread each, wait for each other on 2 cores",)),
        (2, 2, ("2 streams, with 2 threads each, wait for each other on 2 cores",)),
    ],
)
def test_more_streams_than_cores_are_remarked_on(streams: int, threads: int, remarks: tuple[str, ...]) -> None:
    judged = judge_latency(measurement(throughput=replace(THROUGHPUT, streams=streams, threads=threads)))
    assert (judged.verdict, judged.remarks) == ("pass", remarks)


def test_energy_that_is_lost_in_the_noise_is_remarked_on() -> None:
    assert judge_latency(measurement(energy=ENERGY)).remarks == ()
    assert judge_latency(measurement(energy=Energy(inference_mj=None, source="no sensor"))).remarks == ()
    (remark,) = judge_latency(measurement(energy=replace(ENERGY, inference_mj=0.0))).remarks
    assert remark.startswith("energy: vcgencmd pmic_read_adc does not show more power under load than idle")
