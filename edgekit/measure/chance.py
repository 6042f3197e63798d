"""Tells a reference whose accuracy is that of guessing, so that nothing is concluded from it."""

from math import sqrt

import numpy as np
from numpy.typing import NDArray

from edgekit.measure.accuracy import Predictions
from edgekit.measure.paired import Z
from edgekit.report.document import Reference


def reference_of(
    engine: str, predictions: Predictions, labels: NDArray[np.int64], outputs: int, random_weights: bool
) -> Reference:
    """Accuracy of the model that others are compared with, and whether it is near chance.

    It is near chance if the 95 % interval of its top-1 reaches down to chance and ends below the middle between chance
    and 100 %. The second condition excludes evaluations of so few images that a good network could give them too: of
    four classes, 1 right of 4 images shows nothing, 2 right of 8 do.

    Args:
        engine: Name of what ran the model.
        predictions: Its predictions for N images.
        labels: Right class of each image, int64 [N].
        outputs: Number of the model's classes.
        random_weights: Whether its weights are random, which are expected to guess.
    """
    hits, count = int(predictions.hit1.sum()), len(predictions.hit1)
    low, high = share_interval(hits, count)
    guessed = chance(predictions.best, labels, outputs)
    return Reference(
        engine=engine,
        top1=hits / count,
        top5=float(predictions.hit5.mean()),
        top1_ci95=(low, high),
        chance=guessed,
        near_chance=not random_weights and low <= guessed and high < (1 + guessed) / 2,
    )


def chance(best: NDArray[np.int64], labels: NDArray[np.int64], outputs: int) -> float:
    """Top-1 that tells nothing about a model: that of its own predictions, dealt to the images at random.

    A model that gives the same answer for every image has no other. At most it is one over the number of classes that
    the images have, so that a set of mostly one class raises no false alarm; and for images of a single class, on which
    every order of the predictions is equally right, it is one over the number of `outputs`.
    """
    classes, counts = np.unique(labels, return_counts=True)
    if len(classes) == 1:
        return 1 / outputs
    predicted = np.array([(best == label).mean() for label in classes])
    return min(float(predicted @ counts) / len(labels), 1 / len(classes))


def share_interval(hits: int, count: int) -> tuple[float, float]:
    """95 % interval of the share hits / count: Wilson's score interval, which holds for few images and near 0 and 1."""
    share, square = hits / count, Z**2
    middle = (share + square / (2 * count)) / (1 + square / count)
    half = Z / (1 + square / count) * sqrt(share * (1 - share) / count + square / (4 * count**2))
    return (0.0 if hits == 0 else middle - half), (1.0 if hits == count else middle + half)
