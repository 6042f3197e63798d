"""Right predictions class by class."""

import numpy as np

from edgekit.measure.accuracy import Predictions
from edgekit.measure.by_class import MOST_CLASSES, evaluated_classes, right_by_class
from edgekit.report.document import EvaluatedClass


def predictions(hits: list[bool]) -> Predictions:
    hit = np.array(hits)
    return Predictions(np.zeros(len(hits), np.int64), hit, hit)


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
