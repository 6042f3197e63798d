"""Tests of `edgekit.measure.statistics`: planted confidences whose error and crossings are known."""

from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from edgekit.measure.statistics import Confidences, compare_confidences, crossings
from edgekit.measure.tasks import task_of
from edgekit.report.figure import Interval


def drawn(images: int, off: float, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Confidences, and draws of right answers that are `off` less likely than these say."""
    generator = np.random.default_rng(seed)
    confidence = generator.uniform(0.3, 0.95, images)
    return confidence, generator.random(images) < confidence - off


class CalibrationError(NamedTuple):
    value: float
    ci95: Interval


def calibration_error(confidence: NDArray[Any], right: NDArray[np.bool_]) -> CalibrationError:
    """The error of a bundle that answers as its reference does."""
    answers = Confidences(confidence, right)
    compared = compare_confidences(answers, answers)
    assert compared.calibration_error is not None
    assert compared.calibration_error_ci95 is not None
    return CalibrationError(compared.calibration_error, compared.calibration_error_ci95)


@pytest.mark.parametrize("off", [0.03, 0.2])
def test_calibration_error_finds_what_was_planted(off: float) -> None:
    error = calibration_error(*drawn(50_000, off))
    assert error.value == pytest.approx(off, abs=0.005)
    assert error.ci95[0] <= off <= error.ci95[1]


def test_a_calibrated_network_has_almost_no_error() -> None:
    assert calibration_error(*drawn(200_000, 0.0)).value < 0.006
    assert calibration_error(*drawn(500, 0.0)).ci95[0] < 0.01


def test_calibration_error_is_that_of_bins_without_their_noise() -> None:
    """Overconfident below 0.6 and underconfident above."""
    generator = np.random.default_rng(0)
    confidence = generator.uniform(0.3, 0.9, 200_000)
    right = generator.random(len(confidence)) < confidence + 0.5 * (confidence - 0.6)
    bins = np.digitize(confidence, np.quantile(confidence, np.linspace(0, 1, 16)[1:-1]))
    expected = np.abs(np.bincount(bins, right - confidence)).sum() / len(confidence)
    assert calibration_error(confidence, right).value == pytest.approx(expected, rel=0.06)


def test_confidences_that_hardly_change_keep_their_error() -> None:
    confidence, right = drawn(500, 0.05)
    moved = confidence + np.random.default_rng(1).normal(0, 0.002, len(confidence))
    assert calibration_error(moved, right).value == pytest.approx(calibration_error(confidence, right).value, abs=5e-4)


def test_the_interval_counts_images_and_not_their_answers() -> None:
    """Forty equal answers of each image say no more than one."""
    confidence, right = drawn(1_000, 0.1)
    once = calibration_error(confidence, right)
    repeated = calibration_error(np.repeat(confidence[:, None], 40, 1), np.repeat(right[:, None], 40, 1))
    assert repeated.value == pytest.approx(once.value)
    assert repeated.ci95 == pytest.approx(once.ci95)


@pytest.mark.parametrize("confidence", [np.ones(100), np.array([0.7])])
def test_equal_confidences_have_an_error(confidence: NDArray[np.float64]) -> None:
    error = calibration_error(confidence, np.ones(len(confidence), bool))
    assert error.value == pytest.approx(1 - confidence[0], abs=0.005)


def test_crossings_have_directions_and_reach_the_threshold_itself() -> None:
    before, after = np.array([0.79, 0.8, 0.9, 0.1, 0.81]), np.array([0.8, 0.79, 0.95, 0.2, 0.3])
    upward, downward = crossings(before, after, 0.8)
    assert [*np.flatnonzero(upward)] == [0]
    assert [*np.flatnonzero(downward)] == [1, 4]


def test_several_labels_cross_their_own_thresholds() -> None:
    before = np.array([[0.3, 0.9], [0.4, 0.2], [0.6, 0.6]], np.float32)
    after = np.array([[0.6, 0.6], [0.4, 0.2], [0.6, 0.6]], np.float32)
    (own,) = compare_confidences(Confidences(after), Confidences(before), (0.5, 0.7)).crossings
    assert (own.threshold, own.count, own.upward, own.downward, own.images) == (None, 6, 1, 1, 1)
    (same,) = compare_confidences(Confidences(after), Confidences(before), (0.7, 0.7)).crossings
    assert (same.threshold, same.upward, same.downward) == (0.7, 0, 1)


def test_a_comparison_has_both_errors_and_all_crossings() -> None:
    confidence, right = drawn(20_000, 0.0)
    classes = np.zeros(len(right), np.int64)
    reference = Confidences(confidence.astype(np.float32), right, classes)
    shrunk = Confidences(reference.values - np.float32(0.1), right, np.where(np.arange(len(right)) < 10, 1, classes))
    compared = compare_confidences(shrunk, reference, (0.5,))
    assert compared.calibration_error == pytest.approx(0.1, abs=0.01)
    assert compared.reference_calibration_error == pytest.approx(0, abs=0.02)
    low, high = compared.calibration_error_change_ci95 or (0, 0)
    assert 0.07 < low < high < 0.11
    (crossed,) = compared.crossings
    given = ((reference.values >= 0.5) & (reference.values < 0.6)).sum()
    assert (crossed.upward, crossed.downward, crossed.count) == (0, given, 20_000)
    assert crossed.changed_class == (shrunk.values[:10] >= 0.5).sum()
    assert crossed.images == given
    assert compared.crossing_share == given / 20_000


def test_confidences_that_are_no_probabilities_only_cross() -> None:
    cosines = np.array([0.4, 0.9], np.float32)
    compared = compare_confidences(Confidences(cosines), Confidences(cosines + np.float32(0.2)))
    assert compared.calibration_error is None
    assert compared.calibration_error_change_ci95 is None
    assert [each.downward for each in compared.crossings] == [1, 0]


@pytest.mark.parametrize(
    ("name", "thresholds"), [("single-label", (0.7,)), ("multi-label", (0.7,) * 3), ("embedding", (0.7,))]
)
def test_a_stated_threshold_replaces_those_of_a_task(name: str, thresholds: tuple[float, ...]) -> None:
    task = task_of(name, (0.2,) * len(thresholds))
    assert task.at(None, 3) == task
    assert task.at(0.7, 3).thresholds == thresholds


@pytest.mark.parametrize(("name", "errors"), [("single-label", True), ("multi-label", True), ("embedding", False)])
def test_every_task_has_confidences(name: str, errors: bool) -> None:
    generator = np.random.default_rng(0)
    outputs = generator.normal(0, 2, (200, 4)).astype(np.float32)
    labels = generator.integers(4, size=200)
    targets = np.eye(4, dtype=bool)[labels] if name == "multi-label" else labels
    task = task_of(name).at(0.6, 4)
    reference, halved = task.kept(outputs), task.kept(outputs / np.float32(2))
    compared = task.confidence(halved, reference, targets)
    assert (compared.calibration_error is not None) == errors
    (crossed,) = compared.crossings
    assert (crossed.threshold, crossed.stated, crossed.upward) == (0.6, True, 0)
    assert (crossed.downward > 20) == errors, "vectors of another length have the same cosines"
    assert crossed.count == (800 if name == "multi-label" else 200)
    same = task.confidence(reference, reference, targets)
    assert same.crossing_share == 0
    assert same.calibration_error_change_ci95 == ((0, 0) if errors else None)
