"""Whether a reference is near chance, and the interval of its top-1."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binomtest

from edgekit.measure.accuracy import Predictions
from edgekit.measure.chance import chance, reference_of, share_interval
from edgekit.report.document import Reference


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
