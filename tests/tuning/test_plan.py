"""The plan of trials, which of them meet the bounds, which one is best, and what the report says of them."""

from dataclasses import replace
from pathlib import Path

import pytest

from edgekit.config.recipes import load_recipe
from edgekit.measure.settings import Gates
from edgekit.report.measurement import Measurement
from edgekit.report.sensitivity_document import order_of
from edgekit.tuning.plan import best, describe, plan, summary, within
from edgekit.tuning.search import to_toml
from edgekit.tuning.study import Candidate, Trial
from tests.helpers.measurements import speedup
from tests.helpers.trials import GATES, LAYERS, measured, trials_of

BASE = load_recipe("convnextv2")
TEN = tuple("abcdefghij")
POINTS = plan(replace(load_recipe("default"), estimator="histogram"), LAYERS)
CHEAPEST = [point for point in POINTS if not point.float_layers]


def test_the_best_trial_has_the_fewest_layers_in_float_and_agrees_most() -> None:
    trials = trials_of(POINTS)
    winner = best(trials, GATES)
    assert winner is not None
    assert winner.candidate.float_layers == LAYERS[:2]
    met = [trial for trial in within(trials, GATES) if trial.candidate.float_layers == LAYERS[:2]]
    cheap = [trial for trial in met if not trial.candidate.smooth_quant]
    agreements = [trial.measured.accuracy.agreement for trial in cheap if trial.measured and trial.measured.accuracy]
    assert winner.measured is not None
    assert winner.measured.accuracy is not None
    assert winner.measured.accuracy.agreement == max(agreements)


def test_the_smallest_drop_wins_if_no_trial_meets_the_bounds() -> None:
    trials = trials_of(CHEAPEST, lambda candidate: measured(candidate, 3.0 - bool(candidate.smooth_quant)))
    winner = best(trials, GATES)
    assert winner is not None
    assert winner.candidate.smooth_quant
    assert within(trials, GATES) == []


def test_one_fast_trial_suffices_for_all_of_the_same_structure() -> None:
    def measure(candidate: Candidate) -> Measurement:
        lucky = candidate.estimator == "minmax" and not candidate.smooth_quant
        drop = 0.5 if candidate.estimator == "histogram" else 2.0
        return measured(candidate, drop, speedup=speedup(1.15, 1.1 if lucky else 0.9, 1.2))

    passed = [trial.candidate for trial in within(trials_of(CHEAPEST, measure), GATES)]
    assert {(candidate.estimator, candidate.smooth_quant) for candidate in passed} == {("histogram", False)}


@pytest.mark.parametrize(("min_speedup", "is_met"), [(0, True), (1.39, True), (1.4, False), (1.5, False)])
def test_the_whole_interval_of_the_speedup_must_be_above_its_bound(min_speedup: float, is_met: bool) -> None:
    trials = trials_of(CHEAPEST[:1], lambda candidate: measured(candidate, 0.0))
    assert bool(within(trials, Gates(min_speedup=min_speedup))) is is_met


def test_summary() -> None:

    def measure(candidate: Candidate) -> Measurement:
        ratio = 1.5 - 0.1 * len(candidate.float_layers)
        return measured(candidate, speedup=speedup(ratio, ratio - 0.1, ratio + 0.1))

    trials = [*trials_of(POINTS[:-1], measure), Trial(len(POINTS) - 1, POINTS[-1], "untried")]
    winner = best(trials, GATES)
    assert winner is not None
    search = summary("onnx", trials, GATES)
    assert (search.target, search.best) == ("onnx", winner.number)
    assert [trial.number for trial in search.trials] == list(range(len(POINTS)))
    optimal = {(trial.drop_top1_points, trial.time_share) for trial in search.trials if trial.number in search.front}
    assert optimal == {(1.5, 1 / 1.5), (0.1, 1 / 1.3)}
    assert search.taken is not None
    assert (search.taken.float_layers, search.taken.files) == (("d", "b"), {"model.onnx": "0" * 64})
    assert (search.taken.met, search.taken.drop_kept, search.taken.fast_enough) == (True, True, True)
    worst, *_, last = search.trials
    assert (worst.met, worst.drop_kept, worst.fast_enough) == (False, False, True)
    assert (last.state, last.met, last.agreement, last.drop_kept) == ("untried", False, None, None)


def test_failed_trials_are_summed_up_with_their_reasons() -> None:
    failed = [Trial(0, POINTS[0], "fail", error="no such operation")]
    search = summary("onnx", failed, GATES)
    assert (search.best, search.front) == (None, ())
    assert [trial.reason for trial in search.trials] == ["no such operation"]
    assert best(failed, GATES) is None


def test_describe_names_the_settings_and_the_bounds_that_are_missed() -> None:
    (trial,) = trials_of([Candidate(("a",), "mse", True, "fast")])
    line = describe(replace(trial, number=7), Gates(max_drop=1.0, min_speedup=1.45))
    title = "trial 7 (mse, smooth, bias fast, 1 layer in float)"
    figures = "drop +1.50 points, 1.00 ms, 1.50x float, agreement 91.10%"
    assert line == f"{title}: {figures}, over --max-drop, under --min-speedup"
    failed = Trial(7, trial.candidate, "fail", error="no such operation")
    assert describe(failed, GATES) == f"{title}: failed: no such operation"


def test_the_plan_starts_with_the_recipe_itself_and_continues_with_the_cheapest() -> None:
    points = plan(replace(BASE, estimator="minmax"), TEN)
    levels = [0, 1, 2, 4, 8]
    assert list(points[:5]) == [Candidate(TEN[:level], "minmax", False, "none") for level in levels]
    assert len(points) == len(set(points)) == 12 * 5
    assert [len(point.float_layers) for point in points[5:]] == [level for level in levels for _ in range(11)]
    assert {point.float_layers for point in plan(BASE, ("fc",))} == {()}, "a network's only layer never stays in float"


def test_a_candidate_applies_to_one_target() -> None:
    recipe = Candidate(("b", "a[0]"), "minmax", True, "fast").applied(replace(BASE, float_layers=("stem*",)), "onnx")
    onnx = recipe.for_target("onnx")
    assert (onnx.estimator, onnx.smooth_quant, onnx.bias_correction) == ("minmax", True, "fast")
    assert onnx.float_layers == ("stem*", "b", "a[[]0]")
    assert onnx.for_target("onnx") == onnx
    other = recipe.for_target("tflite")
    assert (other.estimator, other.float_layers) == ("mse", ("stem*",))
    assert other.targets["tflite"] == BASE.targets["tflite"]
    kept = Candidate(("b",)).applied(BASE, "onnx")
    assert kept == BASE.keeping_in_float("onnx", ["b"]), "the recipe's own settings hold"
    assert Candidate().applied(BASE, "onnx") is BASE


def test_layers_are_ordered_by_noise_per_cost() -> None:
    noise, macs = {"a": 1.0, "b": 1.0, "c": 3.5, "d": 0.3}, {"a": 10, "b": 5, "c": 30, "d": 0}
    assert order_of(noise, macs, 1) == ["d", "b", "c", "a"]
    assert order_of({"x": 1.0, "y": 8.0}, {"x": 1, "y": 16}, 1) == ["x", "y"]
    assert order_of(noise, {"a": -3.0, "b": 0.05, "c": 2.0}, 0.1) == ["a", "b", "c", "d"], "what is free comes first"
    assert order_of(noise, {}, 1) == ["c", "a", "b", "d"], "by noise alone without costs"


def test_a_recipe_survives_its_file(tmp_path: Path) -> None:
    recipe = replace(BASE, name='it\'s "tuned"', description="ü\nline", float_layers=("a*", "b"))
    recipe = Candidate(("head.fc",), "minmax", False, "none").applied(recipe, "tflite")
    path = tmp_path / "recipe.toml"
    path.write_text(to_toml(recipe, "two\nlines"), "utf-8")
    assert path.read_text("utf-8").startswith("# two\n# lines\n")
    assert load_recipe(path) == recipe


@pytest.mark.parametrize("target", ["openvino", "onnx", "tflite"])
def test_the_shipped_recipe_has_no_overrides(target: str) -> None:
    assert BASE.for_target(target) == BASE
