"""Float and INT8 on the same images: top-1, top-5, and the paired drop with its interval."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import inf, log10

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import WeightsError
from edgekit.measure.paired import mcnemar, paired_interval
from edgekit.report.row import Accuracy


@dataclass(frozen=True)
class Predictions:
    """What one model answered, image by image: `best` int64 [N], `hit1` and `hit5` bool [N]."""

    best: NDArray[np.int64]
    hit1: NDArray[np.bool_]
    hit5: NDArray[np.bool_]


def predict(
    run: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    images: Iterable[tuple[NDArray[np.float32], int]],
) -> Predictions:
    """Predictions of `run` on pairs of a float32 image [1,3,H,W] and its label.

    Raises WeightsError when a logit isn't finite.
    """
    best, hit1, hit5 = [], [], []
    for index, (image, label) in enumerate(images):
        logits = run(image)[0]
        if not np.isfinite(logits).all():
            raise WeightsError(f"the outputs for image {index} hold NaN or infinity: the weights are damaged")
        ranked = np.argsort(-logits, kind="stable")[:5]
        best.append(int(ranked[0]))
        hit1.append(bool(ranked[0] == label))
        hit5.append(bool((ranked == label).any()))
    return Predictions(np.array(best, np.int64), np.array(hit1, bool), np.array(hit5, bool))


def compare(given: Predictions, reference: Predictions, versus: str = "reference") -> Accuracy:
    """Accuracy of `given`, and its difference from `reference` on the same images in the same order."""
    count = len(given.best)
    lost = int((reference.hit1 & ~given.hit1).sum())
    won = int((~reference.hit1 & given.hit1).sum())
    low, high = paired_interval(lost, won, count)
    return Accuracy(
        top1=float(given.hit1.mean()),
        top5=float(given.hit5.mean()),
        count=count,
        drop_top1_points=100 * (lost - won) / count,
        drop_ci95_points=(100 * low, 100 * high),
        right_to_wrong=lost,
        wrong_to_right=won,
        mcnemar_p=mcnemar(lost, won),
        agreement=float((given.best == reference.best).mean()),
        versus=versus,
    )


def snr_db(reference: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Signal to noise in dB of logits: the power of `reference` over that of its difference to `other`, same shape.

    Infinite where both are equal, and minus infinity for a reference of zeros.
    """
    signal = reference.astype(np.float64)
    power, noise = float(np.square(signal).sum()), float(np.square(other - signal).sum())
    if not noise:
        return inf
    return 10 * log10(power / noise) if power else -inf
