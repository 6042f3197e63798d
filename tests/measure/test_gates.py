"""Verdicts and the recommendation."""

from dataclasses import replace
from typing import Any

import pytest

from edgekit.measure.gates import judge, recommend
from edgekit.measure.settings import Settings

GATES = Settings(max_drop=1.0, min_speedup=1.0)


def row(
    precision: str = "int8",
    drop: float = 0.2,
    speedup: tuple[float, float, float] | None = (1.5, 1.4, 1.6),
    **more: Any,
) -> dict[str, Any]:
    ratio = speedup and {"versus": "onnx-float", "ratio": speedup[0], "ci95": list(speedup[1:])}
    return {
        "target": "onnx",
        "precision": precision,
        "bundle": f"onnx-{precision}",
        "device": {"name": "local"},
        "size_bytes": 4_000_000,
        "accuracy": {"drop_top1_points": drop, "drop_ci95_points": [drop - 0.5, drop + 0.5], "count": 1000}
        | {"right_to_wrong": 10 + max(0, round(drop * 10)), "wrong_to_right": 10 + max(0, round(-drop * 10))},
        "latency_ms": {"p50": 10.0},
        "speedup": ratio,
        "verdict": "pass",
        "reasons": [],
    } | more


def test_times_of_an_emulated_device_are_not_judged() -> None:
    there = {"name": "pi", "emulated": True}
    slow = row(speedup=(0.5, 0.4, 0.6), device=there)
    assert judge(slow, GATES, random_weights=False)["verdict"] == "pass"
    assert judge(row(drop=1.3, device=there), GATES, random_weights=False)["verdict"] == "fail"
    loaded: dict[str, Any] = {
        "thermal": {"cpus": 2, "other_cpus": 1.9, "throttled": None},
        "latency_ms": {"p50": 10.0, "threads": 1},
    }
    claim = replace(GATES, must_be_fit=True)
    assert judge(row(device={"name": "local"}, **loaded), claim, random_weights=False)["verdict"] == "not shown"
    assert judge(row(device=there, **loaded), GATES, random_weights=False)["verdict"] == "pass"
    found = recommend([row(device={"name": "local"}), slow])
    assert found["bundle"] == "onnx-int8"
    assert found["others"] == [
        {"device": "pi", "bundle": None, "why": "it is emulated by QEMU: its times can't tell what is fastest."}
    ]


def test_int8_within_its_gates_passes() -> None:
    found = judge(row(), GATES, random_weights=False)
    assert (found["verdict"], found["reasons"]) == ("pass", [])


def test_drop_gate_gives_figures() -> None:
    found = judge(row(drop=1.3), GATES, random_weights=False)
    assert found["verdict"] == "fail"
    (reason,) = found["reasons"]
    assert reason == "top-1 drops 1.30 points (95 % interval 0.80 to 1.80, n = 1000), at most 1 is allowed"


def test_a_drop_as_large_as_allowed_passes() -> None:
    assert judge(row(drop=1.0), GATES, random_weights=False)["verdict"] == "pass"


def test_a_stated_bound_must_be_shown_by_the_interval() -> None:
    found = judge(row(drop=0.7), replace(GATES, must_show_drop=True), random_weights=False)
    assert found["verdict"] == "not shown"
    assert found["reasons"] == [
        "a drop of at most 1 is not shown: measured 0.70 points, 95 % interval 0.20 to 1.20, n = 1,000; "
        "about 24,108 images would show it"
    ]
    assert found["accuracy"]["bound"] == {"max_drop_points": 1.0, "shown": False, "images_needed": 24108}
    assert "remarks" not in found


def test_without_a_stated_bound_what_is_not_shown_is_remarked_on() -> None:
    found = judge(row(drop=0.7), GATES, random_weights=False)
    assert (found["verdict"], found["reasons"]) == ("pass", [])
    assert found["remarks"][0].startswith("a drop of at most 1 is not shown: measured 0.70 points")


@pytest.mark.parametrize("stated", [True, False])
def test_a_bound_that_is_shown_passes(stated: bool) -> None:
    found = judge(row(drop=0.5), replace(GATES, must_show_drop=stated), random_weights=False)
    assert (found["verdict"], found["reasons"], found["accuracy"]["bound"]["shown"]) == ("pass", [], True)
    assert "remarks" not in found


def test_no_number_of_images_shows_a_drop_as_large_as_allowed_to_be_less() -> None:
    found = judge(row(drop=1.0), replace(GATES, must_show_drop=True), random_weights=False)
    assert found["verdict"] == "not shown"
    assert found["reasons"][0].endswith("no number of images would")


def test_what_is_not_shown_is_said_beside_a_gate_that_failed() -> None:
    found = judge(row(drop=0.7, speedup=(0.5, 0.4, 0.6)), replace(GATES, must_show_drop=True), random_weights=False)
    assert (found["verdict"], len(found["reasons"])) == ("fail", 2)


def test_what_is_not_shown_is_not_recommended() -> None:
    rows = [row("float", drop=0, speedup=None, latency_ms={"p50": 20.0}), row(drop=0.7)]
    found = recommend([judge(each, replace(GATES, must_show_drop=True), random_weights=False) for each in rows])
    assert found["bundle"] == "onnx-float"
    assert "not passed: onnx-int8" in found["why"]


def test_gains_pass() -> None:
    assert judge(row(drop=-3), Settings(max_drop=0), random_weights=False)["verdict"] == "pass"


def test_random_weights_have_no_drop_gate_but_a_speed_gate() -> None:
    assert judge(row(drop=50), GATES, random_weights=True)["verdict"] == "pass"
    assert judge(row(drop=50, speedup=(0.9, 0.8, 1.0)), GATES, random_weights=True)["verdict"] == "fail"


@pytest.mark.parametrize("speedup", [(0.9, 0.8, 0.95), (1.1, 0.99, 1.2), (1.2, 1.0, 1.4)])
def test_speed_gate_takes_the_lower_end_of_the_interval(speedup: tuple[float, float, float]) -> None:
    found = judge(row(speedup=speedup), GATES, random_weights=False)
    assert found["verdict"] == "fail"
    assert f"{speedup[0]:.2f}x its float" in found["reasons"][0]
    assert "more than 1 is asked for" in found["reasons"][0]


def test_speed_gate_asked_for() -> None:
    assert judge(row(), Settings(min_speedup=1.39), random_weights=False)["verdict"] == "pass"
    assert judge(row(), Settings(min_speedup=1.4), random_weights=False)["verdict"] == "fail"


def test_no_float_to_be_faster_than() -> None:
    found = judge(row(speedup=None), GATES, random_weights=False)
    assert found["reasons"] == ["its float bundle could not be timed: nothing to be faster than"]


@pytest.mark.parametrize("speedup", [None, (0.5, 0.4, 0.6)])
def test_zero_turns_the_speed_gate_off(speedup: tuple[float, float, float] | None) -> None:
    assert judge(row(speedup=speedup), Settings(min_speedup=0), random_weights=False)["verdict"] == "pass"


def test_both_gates_are_told() -> None:
    found = judge(row(drop=9, speedup=(0.5, 0.4, 0.6)), GATES, random_weights=False)
    assert len(found["reasons"]) == 2


def test_float_has_no_gates() -> None:
    found = row("float", drop=9, speedup=None)
    assert judge(found, GATES, random_weights=False) == found


def test_errors_stay_errors() -> None:
    failed = row(accuracy=None, latency_ms=None, speedup=None, verdict="error", reasons=["compile: refused"])
    assert judge(failed, GATES, random_weights=False) == failed


def test_judge_leaves_its_row_alone() -> None:
    given = row(drop=9)
    judge(given, GATES, random_weights=False)
    assert given["verdict"] == "pass"


def test_recommends_the_fastest_that_passed() -> None:
    slow, fast = row(), row(bundle="tflite-int8", latency_ms={"p50": 5.0}, target="tflite")
    failed = row(bundle="openvino-int8", target="openvino", latency_ms={"p50": 1.0}, verdict="fail")
    assert recommend([slow, fast, failed]) == {
        "device": "local",
        "bundle": "tflite-int8",
        "why": "fastest of the 2 that passed: p50 5.00 ms, 1.50x its float, 4.00 MB; not passed: openvino-int8.",
    }


def test_recommends_float_where_that_is_the_truth() -> None:
    found = recommend([row("float", speedup=None, latency_ms={"p50": 2.0}), row()])
    assert found["bundle"] == "onnx-float"
    assert "ship float: no int8 bundle that passed is faster" in found["why"]


def test_the_smaller_of_equally_fast_ones() -> None:
    assert recommend([row("float", size_bytes=9), row(size_bytes=4)])["bundle"] == "onnx-int8"


def test_recommends_nothing_when_nothing_passed() -> None:
    failed = row(verdict="error", latency_ms=None, bundle=None, size_bytes=None)
    found = recommend([failed])
    assert found["bundle"] is None
    assert "no bundle passed" in found["why"]


def test_rows_without_a_bundle_are_named_too() -> None:
    failed = row(verdict="error", latency_ms=None, bundle=None, target="tflite")
    assert recommend([row(), failed])["why"].endswith("not passed: tflite-int8.")


def test_the_speed_gate_says_when_float_was_fastest_in_low_precision() -> None:
    slow = {"versus": "openvino-float", "versus_precision": "bf16", "ratio": 0.9, "ci95": [0.8, 0.95]}
    found = judge(row() | {"speedup": slow}, GATES, random_weights=False)
    assert found["reasons"][0].startswith("0.90x its float in bf16 (95 % interval 0.80 to 0.95)")
    fast = slow | {"ratio": 1.4, "ci95": [1.3, 1.5]}
    assert "1.40x its float in bf16" in recommend([row() | {"speedup": fast}])["why"]


def test_float_in_low_precision_is_recommended_where_it_is_fastest_and_keeps_the_drop() -> None:
    low: dict[str, Any] = {
        "computes_in": "bf16",
        "accuracy": {**row()["accuracy"], "drop_top1_points": 0.1},
        "p50_ms": 8.0,
    }
    float_ = row("float", speedup=None, latency_ms={"p50": 20.0}, low_precision=low)
    found = recommend([judge(each, GATES, random_weights=False) for each in (float_, row())])
    assert found["bundle"] == "onnx-float"
    assert "p50 8.00 ms" in found["why"]
    assert (
        "no int8 bundle that passed is faster than it is in bf16, as edgekit.load(…, low_precision=True)"
        in found["why"]
    )
    low["accuracy"]["drop_top1_points"] = 9.0
    judged = judge(float_, GATES, random_weights=False)
    assert (judged["verdict"], judged["low_precision"]["verdict"]) == ("pass", "fail")
    assert recommend([judged, row()])["bundle"] == "onnx-int8"


def test_each_device_has_its_own_recommendation_and_the_first_comes_first() -> None:
    fast = row(device={"name": "pc"}, bundle="tflite-int8", latency_ms={"p50": 1.0})
    lost = row(device={"name": "gone"}, verdict="error", latency_ms=None, bundle=None)
    found = recommend([row(device={"name": "pi"}), fast, lost])
    assert (found["device"], found["bundle"]) == ("pi", "onnx-int8")
    assert [(each["device"], each["bundle"]) for each in found["others"]] == [("pc", "tflite-int8"), ("gone", None)]


def test_simulated_int8_is_remarked_on() -> None:
    found = judge(row(int8={"share_of_macs": 0.0, "simulated": True}), GATES, random_weights=False)
    assert found["verdict"] == "pass"
    assert any("its INT8 is simulated" in remark for remark in found["remarks"])


def test_a_latency_that_is_unfit_to_quote_is_not_recommended() -> None:
    latency = {"p50": 10.0, "threads": 1, "spread": 0.9}
    assert judge(row(latency_ms=latency), GATES, random_weights=False)["verdict"] == "pass"
    found = judge(row(latency_ms=latency), replace(GATES, must_be_fit=True), random_weights=False)
    assert found["verdict"] == "not shown"
    assert recommend([found])["bundle"] is None
