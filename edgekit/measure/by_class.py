"""Accuracy class by class."""

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from edgekit.measure.accuracy import Predictions
from edgekit.report.document import EvaluatedClass

MOST_CLASSES = 1_000
"""Most classes that a report counts one by one."""


def evaluated_classes(labels: Iterable[int], class_names: Sequence[str]) -> tuple[EvaluatedClass, ...] | None:
    """The classes of images with these labels, by index, and their numbers of images; None for too many classes."""
    counts = Counter(labels)
    if len(counts) > MOST_CLASSES:
        return None
    return tuple(EvaluatedClass(class_names[label], counts[label]) for label in sorted(counts))


def right_by_class(predictions: Predictions, labels: NDArray[np.int64]) -> tuple[int, ...] | None:
    """Number of right predictions for each class of `evaluated_classes`; None for too many classes.

    Args:
        predictions: Predictions for N images.
        labels: Right class of each image, int64 [N].
    """
    classes, places = np.unique(labels, return_inverse=True)
    if len(classes) > MOST_CLASSES:
        return None
    return tuple(np.bincount(places[predictions.hit1], minlength=len(classes)).tolist())
