"""Which trials meet the bounds, which one is best, and what the report says of them."""

from dataclasses import replace

import pytest

from edgekit.config.recipes import load_recipe
from edgekit.measure.settings import Gates
from edgekit.tuning.ranking import best, describe, front, summary, within
from edgekit.tuning.space import Choices, plan
from edgekit.tuning.trial import Figures, Trial
from tests.helpers.trials import GATES, LAYERS, figures, trials_of

POINTS = plan(replace(load_recipe("default"), estimator="histogram"), len(LAYERS))
CHEAPEST = [point for point in POINTS if point.layers_in_float == 0]


def test_the_best_trial_has_the_fewest_layers_in_float_and_agrees_most() -> None:
    trials = trials_of(POINTS)
    winner = best(trials, GATES)
    assert winner is not None
    assert winner.choices.layers_in_float == 2
    met = [trial for trial in within(trials, GATES) if trial.choices.layers_in_float == 2]
    cheap = [trial for trial in met if not trial.choices.smooth_quant]
    assert winner.figures is not None
    assert winner.figures.agreement == max(trial.figures.agreement for trial in cheap if trial.figures)


def test_the_smallest_drop_wins_if_no_trial_meets_the_bounds() -> None:
    trials = trials_of(CHEAPEST, lambda choices: figures(choices, drop_top1_points=3.0 - choices.smooth_quant))
    winner = best(trials, GATES)
    assert winner is not None
    assert winner.choices.smooth_quant
    assert within(trials, GATES) == []


def test_one_fast_trial_suffices_for_all_of_the_same_structure() -> None:
    def measure(choices: Choices) -> Figures:
        lucky = choices.estimator == "minmax" and not choices.smooth_quant
        drop = 0.5 if choices.estimator == "histogram" else 2.0
        return figures(choices, drop_top1_points=drop, speedup_ci95=(1.1, 1.2) if lucky else (0.9, 1.2))

    passed = [trial.choices for trial in within(trials_of(CHEAPEST, measure), GATES)]
    assert {(choices.estimator, choices.smooth_quant) for choices in passed} == {("histogram", False)}


@pytest.mark.parametrize(("min_speedup", "is_met"), [(0, True), (1.39, True), (1.4, False), (1.5, False)])
def test_the_whole_interval_of_the_speedup_must_be_above_its_bound(min_speedup: float, is_met: bool) -> None:
    trials = trials_of(CHEAPEST[:1], lambda choices: figures(choices, drop_top1_points=0.0))
    assert bool(within(trials, Gates(min_speedup=min_speedup))) is is_met


def test_summary() -> None:
    trials = [*trials_of(POINTS[:-1]), Trial(len(POINTS) - 1, POINTS[-1], "untried")]
    winner = best(trials, GATES)
    assert winner is not None
    search = summary("onnx", trials, GATES)
    assert (search.target, search.best) == ("onnx", winner.number)
    assert [trial.number for trial in search.trials] == list(range(len(POINTS)))
    optimal = {(trial.drop_top1_points, trial.time_share) for trial in search.trials if trial.number in search.front}
    assert optimal == {(1.5, 1.0), (0.1, 3.0)}
    assert search.taken is not None
    assert (search.taken.float_layers, search.taken.files) == (("d", "b"), {"model.onnx": "0" * 64})
    assert (search.taken.met, search.taken.drop_kept, search.taken.fast_enough) == (True, True, True)
    worst, *_, last = search.trials
    assert (worst.met, worst.drop_kept, worst.fast_enough) == (False, False, True)
    assert (last.state, last.met, last.agreement, last.drop_kept) == ("untried", False, None, None)


def test_failed_trials_are_summed_up_with_their_reasons() -> None:
    failed = [Trial(0, POINTS[0], "fail", "no such operation")]
    search = summary("onnx", failed, GATES)
    assert (search.best, search.front) == (None, ())
    assert [trial.reason for trial in search.trials] == ["no such operation"]
    assert best(failed, GATES) is None
    assert front(failed) == []


def test_describe_names_the_choices_and_the_bounds_that_are_missed() -> None:
    choices = Choices("mse", True, "fast", 1)
    line = describe(Trial(7, choices, "complete", figures=figures(choices)), Gates(max_drop=1.0, min_speedup=1.45))
    title = "trial 7 (mse, smooth, bias fast, 1 layer in float)"
    measured = "drop +1.50 points, 1.00 ms, 1.50x float, agreement 91.10%"
    assert line == f"{title}: {measured}, over --max-drop, under --min-speedup"
    assert describe(Trial(7, choices, "fail", "no such operation"), GATES) == f"{title}: failed: no such operation"
