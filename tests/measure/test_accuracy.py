"""Accuracy on labelled images, alone and compared with a reference."""

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binomtest

from edgekit.errors import EngineError
from edgekit.measure.accuracy import (
    CLASSES,
    EXAMPLES,
    MOST_CLASSES,
    Predictions,
    SnrMeter,
    chance,
    changed_classes,
    compare,
    evaluated_classes,
    predict,
    reference_of,
    right_by_class,
    share_interval,
    snr_db,
    with_class_names,
)
from edgekit.report.document import EvaluatedClass, Reference
from edgekit.report.measurement import ChangedImage, ClassChange
from tests.helpers.refusals import refuses


def predictions(hits: Sequence[int], best: list[int] | None = None) -> Predictions:
    hit = np.array(hits, bool)
    return Predictions(np.array(best or [0] * len(hits)), hit, hit)


def test_predict_ranks_and_counts() -> None:
    logits = np.array([[0, 9, 1, 2, 3, 4, 5], [9, 1, 2, 3, 4, 5, 6], [6, 5, 4, 3, 2, 1, 0]], np.float32)
    images = [(row[None], label) for row, label in zip(logits, (1, 4, 6), strict=True)]
    answers = predict(lambda image: image, images)
    assert answers.best.tolist() == [1, 0, 0]
    assert answers.hit1.tolist() == [True, False, False]
    assert answers.hit5.tolist() == [True, True, False]


def test_predict_takes_the_first_of_equals() -> None:
    answers = predict(lambda image: image, [(np.zeros((1, 10), np.float32), 5)])
    assert answers.best.tolist() == [0]
    assert not answers.hit5[0]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_predict_refuses_outputs_that_are_not_finite(value: float) -> None:
    images = [(np.array([[0.0, x]], np.float32), 0) for x in (1.0, value)]
    with refuses(EngineError, "image 1"):
        predict(lambda image: image, images)
    with refuses(EngineError, "'cat/2.png'"):
        predict(lambda image: image, images, ["cat/1.png", "cat/2.png"])


def test_compare_counts_lost_and_won_images() -> None:
    reference = predictions([1, 1, 1, 1, 0, 0, 0, 0, 0, 0], best=list(range(10)))
    other = predictions([1, 0, 0, 1, 1, 0, 0, 0, 0, 0], best=[0, 9, 9, *range(3, 10)])
    accuracy = compare(other, reference)
    assert (accuracy.top1, accuracy.count, accuracy.versus) == (0.3, 10, "reference")
    assert accuracy.drop_top1_points == pytest.approx(10)
    assert accuracy.agreement == 0.8
    low, high = accuracy.drop_ci95_points
    assert low < 10 < high
    assert (accuracy.right_to_wrong, accuracy.wrong_to_right, accuracy.mcnemar_p) == (2, 1, 1.0)
    assert accuracy.bound is None


def test_changed_classes_come_worst_first() -> None:
    reference = predictions([1, 1, 0, 1, 1, 0], best=[0, 0, 1, 1, 1, 2])
    other = predictions([1, 1, 1, 0, 0, 0], best=[0, 0, 0, 2, 0, 2])
    labels, names = np.array([0, 0, 0, 1, 1, 1]), [f"{index}.png" for index in range(6)]
    changes = changed_classes(other, reference, labels, names)
    dogs = (ChangedImage("3.png", "dog", "fox"), ChangedImage("4.png", "dog", "cat"))
    assert with_class_names(changes, ("cat", "dog", "fox")) == (
        ClassChange(label="dog", images=3, reference_right=2, right=0, flipped=2, examples=dogs),
        ClassChange(
            label="cat",
            images=3,
            reference_right=2,
            right=3,
            flipped=1,
            examples=(ChangedImage("2.png", "dog", "cat"),),
        ),
    )
    assert changed_classes(reference, reference, labels, names) == ()


def test_lists_of_changes_are_short_and_begin_with_what_became_wrong() -> None:
    count = 9
    reference = predictions([0] * (count - 1) + [1], best=[1] * (count - 1) + [5])
    other = predictions([0] * count, best=[2] * count)
    (change,) = changed_classes(other, reference, np.full(count, 5), ())
    assert [example.image for example in change.examples] == ["image 8", *(f"image {n}" for n in range(EXAMPLES - 1))]
    assert change.flipped == count
    many = np.arange(CLASSES + 3)
    wrong = np.zeros(len(many), bool)
    changes = changed_classes(Predictions(many + 1, wrong, wrong), Predictions(many, wrong, wrong), many, ())
    assert len(changes) == CLASSES


def test_signal_to_noise() -> None:
    logits = np.array([[3, 4], [0, 5]], np.float32)
    assert snr_db(logits, logits + np.float32(0.5) * np.array([[1, 1], [1, 1]], np.float32)) == pytest.approx(
        10 * np.log10(50 / 1)
    )
    assert snr_db(logits, logits * np.float32(1.1)) == pytest.approx(20, abs=1e-3)
    assert snr_db(logits, logits) == np.inf
    assert snr_db(np.zeros_like(logits), logits) == -np.inf


def test_signal_to_noise_of_the_first_images_of_a_run() -> None:
    reference = np.array([[3, 4], [0, 5]], np.float32)
    meter = SnrMeter(reference)
    answers = iter([reference[:1], reference[1:] + 0.5, np.full((1, 2), 99, np.float32)])
    run = meter.watched(lambda _: next(answers))
    assert meter.db is None
    run(reference)
    assert meter.db is None, "the ratio of equal logits is infinite"
    run(reference)
    assert meter.db == pytest.approx(20)
    assert run(reference)[0, 0] == 99
    assert meter.db == pytest.approx(20), "torch's logits of the third image are unknown"


def test_without_a_reference_there_is_no_signal_to_noise() -> None:
    meter = SnrMeter(None)
    meter.watched(lambda image: image)(np.ones((1, 2), np.float32))
    assert meter.db is None


def reference(best: NDArray[np.int64], labels: NDArray[np.int64], outputs: int = 4, random: bool = False) -> Reference:
    hit = best == labels
    return reference_of("torch", Predictions(best, hit, hit), labels, outputs, random)


def answers(right: int, count: int, classes: int = 4) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Predictions of which this many are right, the others by the same distance, and balanced labels."""
    labels = np.arange(count) % classes
    return (labels + (np.arange(count) >= right)) % classes, labels


@pytest.mark.parametrize(("hits", "count"), [(0, 3), (1, 4), (7, 20), (20, 20), (40, 50)])
def test_the_interval_is_wilsons(hits: int, count: int) -> None:
    expected = binomtest(hits, count).proportion_ci(0.95, "wilson")
    assert share_interval(hits, count) == pytest.approx((expected.low, expected.high), abs=1e-9)


@pytest.mark.parametrize(
    ("right", "count", "classes", "near"),
    [
        (24, 100, 4, True),
        (81, 100, 4, False),
        (2, 100, 4, True),  # far below chance: the classes are in another order
        (40, 100, 4, False),
        (50, 100, 2, True),
        (65, 100, 2, False),
        (0, 500, 1000, True),
        (40, 500, 1000, False),  # 8 % of a thousand classes is poor, and not chance
        (2, 8, 4, True),
        (1, 4, 4, False),  # so few images show nothing
        (3, 4, 4, False),
        (2, 2, 2, False),
        (1, 2, 2, False),
        (1, 1, 4, False),
    ],
)
def test_near_chance(right: int, count: int, classes: int, near: bool) -> None:
    best, labels = answers(right, count, classes)
    assert reference(best, labels, classes).near_chance == near
    assert not reference(best, labels, classes, random=True).near_chance


def test_one_answer_for_all_images_is_chance() -> None:
    labels = np.arange(100) % 4
    constant = reference(np.full(100, 2), labels)
    assert (constant.top1, constant.chance, constant.near_chance) == (0.25, 0.25, True)


def test_chance_of_a_network_with_many_more_outputs_than_the_images_have_classes() -> None:
    labels = np.arange(100) % 2
    best = np.where(np.arange(100) < 45, labels, 500 + np.arange(100))
    assert chance(best, labels, 1000) == pytest.approx(0.225)
    assert not reference(best, labels, 1000).near_chance
    assert reference(np.zeros(100, np.int64), labels, 1000).near_chance


def test_a_set_of_mostly_one_class_raises_no_false_alarm() -> None:
    labels = (np.arange(200) < 4).astype(np.int64)
    best = np.where(np.arange(200) < 20, 1 - labels, labels)
    assert chance(best, labels, 2) == 0.5
    assert not reference(best, labels, 2).near_chance


def test_images_of_a_single_class() -> None:
    labels = np.zeros(100, np.int64)
    assert chance(labels, labels, 4) == 0.25
    assert not reference(np.arange(100) % 2, labels).near_chance
    assert reference(np.arange(100) % 4, labels).near_chance


def test_classes_and_counts_have_the_same_order() -> None:
    labels = np.array([7, 2, 7, 2, 2, 4])
    names = [f"class {index}" for index in range(8)]
    assert evaluated_classes(labels.tolist(), names) == (
        EvaluatedClass("class 2", 3),
        EvaluatedClass("class 4", 1),
        EvaluatedClass("class 7", 2),
    )
    assert right_by_class(predictions([True, True, False, False, True, False]), labels) == (2, 0, 1)


def test_too_many_classes_are_not_counted() -> None:
    for count, known in ((MOST_CLASSES, True), (MOST_CLASSES + 1, False)):
        labels = np.arange(count)
        assert (evaluated_classes(labels.tolist(), [""] * count) is not None) == known
        assert (right_by_class(predictions([True] * count), labels) is not None) == known
