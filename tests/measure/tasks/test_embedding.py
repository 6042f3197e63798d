"""Vectors: nearest neighbours, cosines and the paired drop."""

from typing import Any

import numpy as np
import pytest

from edgekit.measure.task import Outputs
from edgekit.measure.tasks import BY_LABEL, Embedding, neighbours, overlap
from edgekit.report.row import COSINE, ChangedImage

TASK = Embedding()


def vectors(count: int = 60, noise: float = 0.6) -> tuple[Outputs, np.ndarray]:
    """Vectors of three groups, and the group of each."""
    random = np.random.default_rng(0)
    labels = np.arange(count) % 3
    return TASK.kept((np.eye(8)[labels] + noise * random.normal(size=(count, 8))).astype(np.float32)), labels


def noisy(answers: Outputs, noise: float) -> Any:
    values = answers.values
    return TASK.kept(values + noise * np.random.default_rng(1).normal(size=values.shape).astype(np.float32))


def test_vectors_have_length_one_and_a_vector_of_zeros_stays_finite() -> None:
    kept = TASK.kept(np.array([[3, 4], [0, 0]], np.float32))
    assert kept.values == pytest.approx(np.array([[0.6, 0.8], [0, 0]]))


def test_neighbours_are_the_nearest_other_images(monkeypatch: pytest.MonkeyPatch) -> None:
    answers, _ = vectors()
    cosines = answers.values @ answers.values.T
    np.fill_diagonal(cosines, -2)
    expected = np.argsort(-cosines, axis=1)[:, :10]
    assert np.array_equal(neighbours(answers.values), expected)
    monkeypatch.setattr("edgekit.measure.tasks.BLOCK", 7)
    assert np.array_equal(neighbours(answers.values), expected)
    assert neighbours(answers.values[:3]).shape == (3, 2)
    assert neighbours(answers.values[:1]).tolist() == [[0]]


def test_with_labels_the_metric_is_whether_the_nearest_neighbour_has_the_same() -> None:
    reference, labels = vectors()
    accuracy = TASK.compare(noisy(reference, 0.2), reference, labels)
    near, were = (neighbours(each.values)[:, 0] for each in (noisy(reference, 0.2), reference))
    assert accuracy.metric == BY_LABEL
    assert accuracy.value == (labels[near] == labels).mean()
    assert accuracy.drop_points == pytest.approx(100 * ((labels[were] == labels).mean() - accuracy.value))
    assert accuracy.right_to_wrong == ((labels[were] == labels) & (labels[near] != labels)).sum()
    assert accuracy.agreement == (near == were).mean()
    assert TASK.reference("torch", reference, labels, 8, False).value == (labels[were] == labels).mean()


def test_without_labels_the_metric_is_the_cosine_to_float() -> None:
    reference, labels = vectors()
    accuracy = TASK.compare(noisy(reference, 0.05), reference, np.full(len(labels), -1))
    cosines = (noisy(reference, 0.05).values * reference.values).sum(1)
    assert accuracy.metric == COSINE
    assert accuracy.value == pytest.approx(np.percentile(cosines, 5))
    assert accuracy.drop_points == pytest.approx(100 * (1 - accuracy.value))
    low, high = accuracy.drop_ci95_points
    assert low < accuracy.drop_points < high
    assert TASK.changes(reference, reference, np.full(len(labels), -1), ()) == ()
    assert TASK.reference("torch", reference, np.full(len(labels), -1), 8, False).value == 1


def test_without_labels_the_neighbour_in_float_is_the_right_one() -> None:
    reference, labels = vectors()
    unlabelled, other = np.full(len(labels), -1), noisy(reference, 0.3)
    (change,) = TASK.with_class_names(TASK.changes(other, reference, unlabelled, ()), {-1: ""})
    flipped = int((neighbours(other.values)[:, 0] != neighbours(reference.values)[:, 0]).sum())
    assert (change.label, change.images, change.flipped) == ("", 60, flipped)
    assert (change.reference_right, change.right) == (60, 60 - flipped)
    assert flipped


def test_more_noise_lowers_every_figure() -> None:
    reference, labels = vectors()
    few, more = (TASK.compare(noisy(reference, noise), reference, labels) for noise in (0.05, 0.4))
    assert few.score
    assert more.score
    for one, other in zip(few.score.details, more.score.details, strict=True):
        assert one.name == other.name
        assert one.value > other.value


def test_overlap_counts_common_neighbours_in_any_order() -> None:
    assert overlap(np.array([[1, 2], [3, 4]]), np.array([[2, 1], [3, 5]])) == 0.75


def test_vectors_that_say_nothing_are_near_chance() -> None:
    _, labels = vectors()
    random = TASK.kept(np.random.default_rng(5).normal(size=(60, 8)).astype(np.float32))
    assert TASK.reference("torch", random, labels, 8, False).near_chance
    assert not TASK.reference("torch", vectors()[0], labels, 8, False).near_chance


def test_changes_name_both_neighbours() -> None:
    labels = np.array([0, 0, 1])
    before = TASK.kept(np.array([[1, 0], [1, 0.1], [0, 1]], np.float32))
    after = TASK.kept(np.array([[1, 0], [0, 1], [0.6, 0.8]], np.float32))
    changes = TASK.with_class_names(TASK.changes(after, before, labels, ["a", "b", "c"]) or (), {0: "cat", 1: "dog"})
    assert [change.label for change in changes] == ["cat"]
    assert changes[0].examples == (ChangedImage("a", "b", "c"), ChangedImage("b", "a", "c"))
