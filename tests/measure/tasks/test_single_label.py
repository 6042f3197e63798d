"""One class for each image: top-1, chance, and the classes whose answers changed."""

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binomtest

from edgekit.measure.statistics import share_interval
from edgekit.measure.task import CLASSES, EXAMPLES, MOST_CLASSES
from edgekit.measure.tasks import SingleLabel, TopClasses, chance_of_top1
from edgekit.report.document import Reference
from edgekit.report.row import AGREEMENT, ChangedImage, ClassChange

SINGLE = SingleLabel()


def answered(best: Sequence[int] | NDArray[np.int64]) -> TopClasses:
    """Answers with these best classes."""
    return TopClasses(np.array(best, np.int64)[:, None], np.ones(len(best), np.float32))


def test_the_best_classes_are_kept_with_the_confidence_of_the_best() -> None:
    outputs = np.array([[0, 9, 1, 2, 3, 4, 5], [9, 1, 2, 3, 4, 5, 6], [6, 5, 4, 3, 2, 1, 0]], np.float32)
    answers, labels = SINGLE.kept(outputs), np.array([1, 4, 6])
    assert answers.best.tolist() == [1, 0, 0]
    assert answers.right(labels).tolist() == [True, False, False]
    assert answers.right_in_five(labels).tolist() == [True, True, False]
    scores = np.exp(outputs) / np.exp(outputs).sum(1, keepdims=True)
    assert answers.confidence == pytest.approx(scores.max(1))


def test_the_first_of_equals_is_the_best() -> None:
    answers = SINGLE.kept(np.zeros((1, 10), np.float32))
    assert answers.best.tolist() == [0]
    assert not answers.right_in_five(np.array([5]))[0]
    assert SINGLE.kept(np.zeros((1, 2), np.float32)).classes.shape == (1, 2)


def test_compare_counts_lost_and_won_images() -> None:
    labels = np.array([0, 1, 2, 3, 9, 9, 9, 9, 9, 0])
    reference = answered([0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
    accuracy = SINGLE.compare(answered([0, 9, 9, 3, 9, 5, 6, 7, 8, 9]), reference, labels)
    assert (accuracy.top1, accuracy.count, accuracy.versus) == (0.3, 10, "reference")
    assert (accuracy.metric, accuracy.value, accuracy.score) == ("top-1", 0.3, None)
    assert accuracy.drop_top1_points == pytest.approx(10)
    assert accuracy.drop_points == accuracy.drop_top1_points
    assert accuracy.agreement == 0.7
    low, high = accuracy.drop_ci95_points
    assert low < 10 < high
    assert (accuracy.right_to_wrong, accuracy.wrong_to_right, accuracy.mcnemar_p) == (2, 1, 1.0)
    assert accuracy.bound is None


def test_without_labels_the_metric_is_the_agreement() -> None:
    reference, other, none = answered([0, 0, 1, 2] * 25), answered([0, 0, 1, 0] + [0, 0, 1, 2] * 24), np.full(100, -1)
    accuracy = SINGLE.compare(other, reference, none)
    assert (accuracy.metric, accuracy.value, accuracy.agreement) == (AGREEMENT, 0.99, 0.99)
    assert (accuracy.top1, accuracy.top5, accuracy.drop_top1_points, accuracy.right_to_wrong) == (None,) * 4
    assert accuracy.drop_points == pytest.approx(1)
    low, high = share_interval(99, 100)
    assert accuracy.drop_ci95_points == pytest.approx((100 - 100 * high, 100 - 100 * low))
    judged = SINGLE.reference("torch", reference, none, 3, False)
    assert (judged.value, judged.top1, judged.chance, judged.near_chance) == (1, None, None, False)
    assert SINGLE.right_by_class(other, none) is None
    confidence = SINGLE.confidence(other, reference, none)
    assert confidence.calibration_error is None
    assert [crossed.changed_class for crossed in confidence.crossings] == [1, 1]


def test_without_labels_the_class_in_float_is_the_right_one() -> None:
    reference, other = answered([0, 0, 1, 1]), answered([0, 1, 1, 1])
    changes = SINGLE.with_class_names(SINGLE.changes(other, reference, np.full(4, -1), list("wxyz")), ["cat", "dog"])
    assert changes == (
        ClassChange(
            label="cat", images=2, reference_right=2, right=1, flipped=1, examples=(ChangedImage("x", "cat", "dog"),)
        ),
    )


def test_changed_classes_come_worst_first() -> None:
    reference, other = answered([0, 0, 1, 1, 1, 2]), answered([0, 0, 0, 2, 0, 2])
    labels, names = np.array([0, 0, 0, 1, 1, 1]), [f"{index}.png" for index in range(6)]
    changes = SINGLE.changes(other, reference, labels, names)
    dogs = (ChangedImage("3.png", "dog", "fox"), ChangedImage("4.png", "dog", "cat"))
    assert SINGLE.with_class_names(changes, ("cat", "dog", "fox")) == (
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
    assert SINGLE.changes(reference, reference, labels, names) == ()


def test_lists_of_changes_are_short_and_begin_with_what_became_wrong() -> None:
    count = 9
    reference = answered([1] * (count - 1) + [5])
    (change,) = SINGLE.changes(answered([2] * count), reference, np.full(count, 5), ())
    assert [example.image for example in change.examples] == ["image 8", *(f"image {n}" for n in range(EXAMPLES - 1))]
    assert change.flipped == count
    many = np.arange(CLASSES + 3)
    assert len(SINGLE.changes(answered(many + 1), answered(many), many, ())) == CLASSES


def reference(best: NDArray[np.int64], labels: NDArray[np.int64], outputs: int = 4, random: bool = False) -> Reference:
    return SINGLE.reference("torch", answered(best), labels, outputs, random)


def answers(right: int, count: int, classes: int = 4) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Best classes of which this many are right, the others by the same distance, and balanced labels."""
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
    assert chance_of_top1(best, labels, 1000) == pytest.approx(0.225)
    assert not reference(best, labels, 1000).near_chance
    assert reference(np.zeros(100, np.int64), labels, 1000).near_chance


def test_a_set_of_mostly_one_class_raises_no_false_alarm() -> None:
    labels = (np.arange(200) < 4).astype(np.int64)
    best = np.where(np.arange(200) < 20, 1 - labels, labels)
    assert chance_of_top1(best, labels, 2) == 0.5
    assert not reference(best, labels, 2).near_chance


def test_images_of_a_single_class() -> None:
    labels = np.zeros(100, np.int64)
    assert chance_of_top1(labels, labels, 4) == 0.25
    assert not reference(np.arange(100) % 2, labels).near_chance
    assert reference(np.arange(100) % 4, labels).near_chance


def test_right_answers_are_counted_by_class() -> None:
    labels = np.array([7, 2, 7, 2, 2, 4])
    assert SINGLE.right_by_class(answered([7, 2, 0, 0, 2, 0]), labels) == (2, 0, 1)
    for count, known in ((MOST_CLASSES, True), (MOST_CLASSES + 1, False)):
        assert (SINGLE.right_by_class(answered(np.arange(count)), np.arange(count)) is not None) == known
