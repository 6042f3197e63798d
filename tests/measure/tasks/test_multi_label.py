"""Several labels for each image: average precision, thresholds and the paired drop."""

import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.stats import bootstrap
from sklearn.metrics import average_precision_score, f1_score

from edgekit.measure.statistics import bootstrap_weights, least_drop_bound, paired_interval
from edgekit.measure.task import Outputs, OwnMetric
from edgekit.measure.tasks import MultiLabel, average_precisions, best_thresholds, f1_scores, mean_over_classes
from edgekit.report.row import ChangedImage
from edgekit.runtime.session import activated

TASK = MultiLabel()


def scenes(count: int = 120, classes: int = 4, noise: float = 1.0) -> tuple[Outputs, np.ndarray]:
    """Outputs that follow the classes of the images with some noise, and these classes."""
    random = np.random.default_rng(0)
    targets = random.random((count, classes)) < 0.3
    targets[:, 0] |= ~targets.any(1)
    outputs = np.where(targets, 1.0, -1.0) + noise * random.normal(size=targets.shape)
    return Outputs(outputs.astype(np.float32)), targets


@pytest.mark.parametrize("digits", [5, 0])  # rounded outputs are often equal
def test_average_precision_is_that_of_scikit_learn(digits: int) -> None:
    answers, targets = scenes()
    outputs = answers.values.round(digits)
    weights = bootstrap_weights(len(targets))[:5]
    expected = [
        [average_precision_score(targets[:, c], outputs[:, c], sample_weight=row) for c in range(4)] for row in weights
    ]
    assert average_precisions(outputs, targets, weights) == pytest.approx(np.array(expected))


def test_f1_is_that_of_scikit_learn() -> None:
    answers, targets = scenes()
    given = TASK.given(answers)
    assert f1_scores(given, targets) == pytest.approx(f1_score(targets, given, average=None))


def test_the_counts_of_each_class_give_its_f1() -> None:
    answers, targets = scenes()
    right, given = TASK.right_by_class(answers, targets), TASK.given_by_class(answers, targets)
    assert right
    assert given
    f1 = [2 * hits / (own + given[c]) for c, (hits, own) in enumerate(zip(right, targets.sum(0), strict=True))]
    assert f1 == pytest.approx(f1_score(targets, TASK.given(answers), average=None))


def test_a_class_without_an_image_is_left_out_of_the_mean() -> None:
    answers, targets = scenes()
    targets[:, 2] = False
    precisions = average_precisions(answers.values, targets, np.ones((1, len(targets)), np.float32))
    assert np.isnan(precisions[0]).tolist() == [False, False, True, False]
    assert mean_over_classes(precisions)[0] == pytest.approx(np.nanmean(precisions[0]))
    assert TASK.right_by_class(answers, targets) is not None
    assert len(TASK.right_by_class(answers, targets) or ()) == 3


@pytest.mark.parametrize("count", [6, 30, 120])
def test_equal_answers_for_few_images_confirm_no_more_than_those_of_top1(count: int) -> None:
    answers, targets = scenes(count)
    accuracy = TASK.compare(answers, answers, targets)
    assert (accuracy.drop_points, accuracy.agreement) == (0, 1)
    of_top1 = 100 * paired_interval(0, 0, count)[1]
    assert accuracy.drop_ci95_points == pytest.approx((-of_top1, of_top1))
    assert (accuracy.metric, accuracy.top1, accuracy.mcnemar_p) == ("mAP", None, None)


def test_the_interval_of_the_drop_is_that_of_scipys_paired_bootstrap() -> None:
    reference, targets = scenes()
    noisy = Outputs(reference.values + np.random.default_rng(1).normal(size=targets.shape).astype(np.float32))

    def drop(images: np.ndarray) -> float:
        both = (
            mean_over_classes(
                average_precisions(each.values[images], targets[images], np.ones((1, len(images)), np.float32))
            )[0]
            for each in (reference, noisy)
        )
        return float(100 * (next(both) - next(both)))

    images = np.arange(len(targets))
    scipys = bootstrap(
        (images,), drop, n_resamples=500, vectorized=False, method="percentile", rng=np.random.default_rng(2)
    ).confidence_interval
    accuracy = TASK.compare(noisy, reference, targets)
    assert accuracy.drop_points == pytest.approx(drop(images))
    assert scipys.high - scipys.low > 2 * least_drop_bound(len(images)), "no floor counts here"
    assert accuracy.drop_ci95_points == pytest.approx((scipys.low, scipys.high), abs=0.8)


def test_other_thresholds_change_f1_and_agreement_but_not_the_metric() -> None:
    answers, targets = scenes()
    shifted = Outputs(answers.values - np.float32(1.5))
    accuracy = TASK.compare(shifted, answers, targets)
    (f1,) = accuracy.score.details if accuracy.score else ()
    assert accuracy.drop_points == 0
    assert f1.value < (f1.reference or 0) - 0.05
    assert accuracy.agreement < 0.9


def test_labels_in_another_order_are_near_chance() -> None:
    answers, targets = scenes()
    assert not TASK.reference("torch", answers, targets, 4, False).near_chance
    rolled = TASK.reference("torch", answers, np.roll(targets, 1, axis=1), 4, False)
    assert rolled.near_chance
    # A class that never comes with another one makes scores for it better than chance for the other's absence.
    apart = np.where(targets[:, :1], [True, False, False, False], targets)
    exclusive = Outputs(np.where(apart, 2.0, -2.0).astype(np.float32) + answers.values)
    assert not TASK.reference("torch", exclusive, apart, 4, False).near_chance
    assert TASK.reference("torch", exclusive, apart[:, ::-1], 4, False).near_chance
    assert not TASK.reference("torch", answers, np.roll(targets, 1, axis=1), 4, True).near_chance


@pytest.mark.parametrize("share", [0.03, 0.3])
def test_random_scores_are_near_chance_whatever_the_share_of_the_labels(share: float) -> None:
    random = np.random.default_rng(0)
    found = []
    for apart in (0.0, 1.5) * 20:
        targets = random.random((100, 6)) < share
        outputs = Outputs((apart * targets + random.normal(size=targets.shape)).astype(np.float32))
        found.append(TASK.reference("torch", outputs, targets, 6, False).near_chance)
    assert sum(found[::2]) >= 17, "at most 2.5 % of random scores are expected to seem better"
    assert sum(found[1::2]) <= 1


def test_an_evaluation_needs_no_scipy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy", None)
    answers, targets = scenes()
    for task in (TASK, replace(TASK, metric=OwnMetric(lambda outputs, targets: float(targets[outputs > 0].mean())))):
        kept: Any = task.kept(answers.values)
        assert not task.reference("torch", kept, targets, 4, False).near_chance
        assert task.compare(kept, kept, targets).drop_points == 0


def test_the_best_threshold_of_each_class_gives_the_best_f1() -> None:
    answers, targets = scenes()
    chosen = np.array(best_thresholds(answers.values, targets))
    scores = activated(answers.values, "sigmoid")
    best = f1_scores(scores >= chosen, targets)
    for threshold in np.linspace(0.01, 0.99, 99):
        assert (f1_scores(scores >= threshold, targets) <= best + 1e-9).all()


def test_few_images_of_a_class_choose_no_threshold() -> None:
    outputs = np.linspace(-3, 3, 80, dtype=np.float32)[:, None]
    own = (np.arange(80) >= 60)[:, None]
    assert best_thresholds(outputs, own)[0] > 0.5
    own[-1] = False
    assert best_thresholds(outputs, own) == (0.5,)


def test_changes_name_the_labels_before_and_after() -> None:
    targets = np.array([[True, False], [False, True]])
    before, after = Outputs(np.array([[1, -1], [-1, 1]], np.float32)), Outputs(np.array([[1, 1], [-1, -1]], np.float32))
    (change,) = TASK.with_class_names(TASK.changes(after, before, targets, ["a.png", "b.png"]), ("cat", "dog"))
    assert (change.label, change.images, change.reference_right, change.right, change.flipped) == ("dog", 1, 1, 0, 2)
    assert change.examples == (ChangedImage("a.png", "cat", "cat, dog"), ChangedImage("b.png", "dog", "none"))
