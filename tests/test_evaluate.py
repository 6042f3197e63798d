"""Accuracy and the interval of the paired drop."""

from math import sqrt
from typing import Any

import numpy as np
import pytest

from edgekit.errors import WeightsError
from edgekit.evaluate import Predictions, compare, paired_interval, predict


def predictions(hits: list[int], best: list[int] | None = None) -> Predictions:
    hit = np.array(hits, bool)
    return Predictions(np.array(best or [0] * len(hits)), hit, hit)


def test_predict_ranks_and_counts() -> None:
    logits = np.array([[0, 9, 1, 2, 3, 4, 5], [9, 1, 2, 3, 4, 5, 6], [6, 5, 4, 3, 2, 1, 0]], np.float32)
    images = [(row[None], label) for row, label in zip(logits, (1, 4, 6), strict=True)]
    found = predict(lambda image: image, images)
    assert found.best.tolist() == [1, 0, 0]
    assert found.hit1.tolist() == [True, False, False]
    assert found.hit5.tolist() == [True, True, False]


def test_predict_takes_the_first_of_equals() -> None:
    found = predict(lambda image: image, [(np.zeros((1, 10), np.float32), 5)])
    assert found.best.tolist() == [0]
    assert not found.hit5[0]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_predict_refuses_outputs_that_are_not_finite(value: float) -> None:
    images = [(np.array([[0.0, x]], np.float32), 0) for x in (1.0, value)]
    with pytest.raises(WeightsError, match="image 1 hold NaN or infinity"):
        predict(lambda image: image, images)


def test_compare_counts_what_was_lost_and_won() -> None:
    reference = predictions([1, 1, 1, 1, 0, 0, 0, 0, 0, 0], best=list(range(10)))
    given = predictions([1, 0, 0, 1, 1, 0, 0, 0, 0, 0], best=[0, 9, 9, *range(3, 10)])
    found = compare(given, reference)
    assert found["top1"] == 0.3
    assert found["count"] == 10
    assert found["drop_top1_points"] == pytest.approx(10)
    assert found["agreement"] == 0.8
    low, high = found["drop_ci95_points"]
    assert low < 10 < high


def test_interval_known_values() -> None:
    # (b - c) / n and its normal error for b = 2.5, c = 1.5 over n = 12, worked by hand
    half = 1.959963984540054 * sqrt(4 - 1 / 12) / 12
    assert paired_interval(2, 1, 10) == pytest.approx((1 / 12 - half, 1 / 12 + half))
    assert paired_interval(2, 1, 10) == pytest.approx((-0.23990, 0.40657), abs=1e-5)


@pytest.mark.parametrize(("lost", "won", "count"), [(0, 0, 1), (0, 0, 500), (7, 3, 100), (5, 0, 5), (0, 5, 5)])
def test_interval_is_symmetric_and_never_a_point(lost: int, won: int, count: int) -> None:
    low, high = paired_interval(lost, won, count)
    assert -1 <= low < high <= 1
    assert paired_interval(won, lost, count) == pytest.approx((-high, -low))
    assert low <= (lost - won) / count <= high


def test_interval_narrows_with_more_images() -> None:
    widths = [high - low for low, high in (paired_interval(n // 50, n // 100, n) for n in (100, 1000, 10_000))]
    assert widths[0] > 2 * widths[1] > 4 * widths[2]


@pytest.mark.parametrize(("count", "lost", "won"), [(500, 0.02, 0.01), (500, 0.01, 0.01), (2000, 0.015, 0.01)])
def test_interval_covers_the_true_drop(count: int, lost: float, won: float) -> None:
    """In 95 of 100 repetitions of an evaluation, as it says."""
    random = np.random.default_rng(0)
    drawn = random.multinomial(count, [lost, won, 1 - lost - won], size=1000)
    intervals = [paired_interval(int(b), int(c), count) for b, c, _ in drawn]
    covered: Any = np.mean([low <= lost - won <= high for low, high in intervals])
    assert 0.93 <= covered <= 0.97
