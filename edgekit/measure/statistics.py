"""Statistics of two models on the same images: interval of the drop, McNemar's test, and honesty of confidences.

Throughout, `lost` images are right with the first classifier and wrong with the second, `won` images the reverse, and
`count` is the number of all images. An app that acts on answers "above 0.8" depends on how honest confidences are, and
on which answers cross a threshold. Needs only numpy, because boards compute these figures too.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil, sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from edgekit.report.figure import Interval
from edgekit.report.row import Confidence, Crossings

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Hits = NDArray[np.bool_]
"""Whether each answer is right, bool [N]."""
CELLS = 256
"""Number of confidences that are told apart when they are smoothed."""
RESAMPLES, GROUPS = 1_000, 512
"""Resamples of the bootstrap, and most groups of images that it draws from."""
THRESHOLDS = (0.5, 0.8)
"""Thresholds whose crossings are counted if neither the user nor the manifest states any."""


@dataclass(frozen=True)
class Confidences:
    """Confidences of one model's answers for N images, each with one answer or with K of them."""

    values: Floats
    """Confidence of each answer, [N] or [N,K]."""
    right: Hits | None = None
    """Whether the event with this probability is true, in the same shape: the best class is the label, or the image has
    the label. None where a confidence is no probability, or nothing is labelled."""
    classes: NDArray[np.int64] | None = None
    """Class that each answer names, in the same shape; None where it is the same for every model."""


def compare_confidences(bundle: Confidences, reference: Confidences, thresholds: Sequence[float] = ()) -> Confidence:
    """Compare the confidences of a bundle with those of the reference for the same images.

    `thresholds` has one for all answers, one for each of K, or none, which gives `THRESHOLDS`.
    """
    each = tuple(dict.fromkeys(thresholds)) or THRESHOLDS
    one_by_one = len(thresholds) > 1 and len(each) > 1
    crossed = tuple(
        _crossings(bundle, reference, threshold, bool(thresholds))
        for threshold in ([np.array(thresholds)] if one_by_one else each)
    )
    compared = Confidence(crossing_share=crossed[-1].images / len(bundle.values), crossings=crossed)
    if bundle.right is None or reference.right is None:
        return compared
    both = [(bundle.values, bundle.right), (reference.values, reference.right)]
    (error, error_ci95), (of_reference, reference_ci95), (_, change_ci95) = _calibration_errors(both)
    return replace(
        compared,
        calibration_error=error,
        calibration_error_ci95=error_ci95,
        reference_calibration_error=of_reference,
        reference_calibration_error_ci95=reference_ci95,
        calibration_error_change_ci95=change_ci95,
    )


def crossings(before: Floats, after: Floats, threshold: float | Floats) -> tuple[Hits, Hits]:
    """Which answers reach the threshold only after, and which only before. All arrays have the same shape."""
    old, new = before >= threshold, after >= threshold
    return new & ~old, old & ~new


def _crossings(bundle: Confidences, reference: Confidences, threshold: float | Floats, stated: bool) -> Crossings:
    upward, downward = crossings(reference.values, bundle.values, threshold)
    changed = 0
    if bundle.classes is not None and reference.classes is not None:
        given = (reference.values >= threshold) & (bundle.values >= threshold)
        changed = int((given & (bundle.classes != reference.classes)).sum())
    return Crossings(
        threshold=threshold if isinstance(threshold, float) else None,
        stated=stated,
        count=bundle.values.size,
        upward=int(upward.sum()),
        downward=int(downward.sum()),
        images=int((upward | downward).reshape(len(upward), -1).any(1).sum()),
        changed_class=changed,
    )


def _calibration_errors(models: Sequence[tuple[Floats, Hits]]) -> Iterator[tuple[float, Interval]]:
    """The smooth calibration error of two models for the same images, and the first minus the second, with intervals.

    It is how far confidences are from the share of right answers, averaged over the answers. Błasiok and Nakkiran
    (2024) smooth the differences with a kernel instead of collecting them in bins, so that the error hardly changes
    when the confidences hardly do. Chance adds about 0.03 for 500 images and 0.02 for 2,000. The intervals are from a
    basic bootstrap over images, and so move down by what the resampling adds to the error.
    """
    generator = np.random.default_rng(0)
    images = len(models[0][0])
    group = generator.permutation(images) % GROUPS  # groups of images vary as the images do, and take less time
    groups = min(images, GROUPS)
    draws = generator.multinomial(groups, np.full(groups, 1 / groups), size=RESAMPLES)
    errors, samples = [], []
    for confidence, right in models:
        gaps = _gaps(confidence, right, group)
        error, smoothing = _smooth_error(gaps.sum(0))
        errors.append(error)
        samples.append(np.abs(draws @ gaps @ smoothing).sum(1))
    errors.append(errors[0] - errors[1])
    samples.append(samples[0] - samples[1])
    for error, drawn, least in zip(errors, samples, (0.0, 0.0, -1.0), strict=True):
        high, low = 2 * error - np.quantile(drawn, (0.025, 0.975))
        yield error, (float(np.clip(low, least, error)), float(max(high, error)))


def _gaps(confidence: Floats, right: Hits, group: NDArray[np.int64]) -> Doubles:
    """What each group of images adds to the mean of right - confidence, by confidence: [groups,CELLS]."""
    values = confidence.astype(np.float64).reshape(len(confidence), -1)
    cells = np.minimum((values * CELLS).astype(np.int64), CELLS - 1) + CELLS * group[:, None]
    gaps = np.bincount(cells.ravel(), (right.reshape(values.shape) - values).ravel(), CELLS * (int(group.max()) + 1))
    return gaps.reshape(-1, CELLS) / values.size


def _smooth_error(gaps: Doubles) -> tuple[float, Doubles]:
    """The error of gaps [CELLS], which is as large as the kernel that smooths them is wide, and that kernel."""
    low, high = 1 / CELLS, 1.0
    while high - low > 1e-4:
        width = (low + high) / 2
        low, high = (width, high) if np.abs(gaps @ _kernel(width)).sum() > width else (low, width)
    smoothing = _kernel(high)
    return float(np.abs(gaps @ smoothing).sum()), smoothing


def _kernel(width: float) -> Doubles:
    """A Gaussian on the cells, reflected at 0 and 1: [CELLS,CELLS], of which each row adds up to 1."""
    centres = (np.arange(CELLS) + 0.5) / CELLS
    distances = centres[:, None] - np.stack((centres, -centres, 2 - centres))[:, None]
    kernel = np.exp(-0.5 * (distances / width) ** 2).sum(0)
    normalized: Doubles = kernel / kernel.sum(1, keepdims=True)
    return normalized


CONFIDENCE = 0.95
POWER = 0.8
"""Statistical power that `images_needed` assumes."""
Z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)


def paired_interval(lost: int, won: int, count: int) -> Interval:
    """95 % interval of the paired difference (lost - won) / count, as fractions: Tango's score interval (1998).

    It contains every difference that the score test doesn't reject. Its coverage is right even if few images differ, or
    all of them in the same direction. That is the usual case here, in which a normal interval is too short: it covers
    86 % for 500 images with 0.4 % lost and none won.
    """
    measured = (lost - won) / count
    return _end(lost, won, count, (measured, -1.0)), _end(lost, won, count, (measured, 1.0))


def least_drop_bound(count: int) -> float:
    """Upper end of that interval, in points, for two models of which neither gets more of `count` images right."""
    return 100 * paired_interval(0, 0, max(1, count))[1]


def _end(lost: int, won: int, count: int, between: Interval) -> float:
    """End of the interval, between a difference that the test accepts and one that it rejects."""
    inside, outside = between
    for _ in range(50):
        middle = (inside + outside) / 2
        distance = abs((lost - won) / count - middle)
        if distance**2 * count > Z**2 * _variance(lost / count, won / count, middle):
            outside = middle
        else:
            inside = middle
    return inside


def _variance(lost: float, won: float, difference: float) -> float:
    """Variance of one image's difference under the most likely shares of lost and won with this true `difference`."""
    b = (2 - lost + won) * difference - lost - won
    won_share = (sqrt(max(0.0, b**2 + 8 * won * difference * (1 - difference))) - b) / 4
    return max(0.0, 2 * won_share + difference * (1 - difference))


def mcnemar(lost: int, won: int) -> float:
    """Exact two-sided p-value of McNemar's test, whose null hypothesis is that losses and wins are equally likely."""
    differ, tail, ways = lost + won, 0, 1
    for k in range(min(lost, won) + 1):
        tail, ways = tail + ways, ways * (differ - k) // (k + 1)
    return min(1.0, 2 * tail / (1 << differ))


def images_needed(lost: int, won: int, count: int, most: float) -> int | None:
    """Number of images with which the interval would end below a drop of `most` (a fraction) in four of five cases.

    It assumes the rates of lost and won images that were measured. None means that the measured drop is not below
    `most`. The formula is Nam's (1997), with the score test of `paired_interval`.
    """
    measured = (lost - won) / count
    if measured >= most:
        return None
    if most >= 1:
        return 1
    tested = Z * sqrt(_variance(lost / count, won / count, most))
    true = NormalDist().inv_cdf(POWER) * sqrt((lost + won) / count - measured**2)
    return max(1, ceil(((tested + true) / (most - measured)) ** 2))


def share_interval(hits: int, count: int) -> Interval:
    """95 % interval of the share hits / count: Wilson's score interval, which holds for few images and near 0 and 1."""
    share, square = hits / count, Z**2
    middle = (share + square / (2 * count)) / (1 + square / count)
    half = Z / (1 + square / count) * sqrt(share * (1 - share) / count + square / (4 * count**2))
    return (0.0 if hits == 0 else middle - half), (1.0 if hits == count else middle + half)


MOST_RESAMPLES, FEWEST_RESAMPLES, RESAMPLED = 1000, 200, 2_000_000
"""Largest and smallest number of bootstrap samples, and number of images in all of them between the two."""


def bootstrap_weights(count: int) -> Floats:
    """How often each of `count` images is in each bootstrap sample, [B,count]; once each in the first row.

    The samples are the same for the same count, so that two models are compared on the same images.
    """
    resamples = min(MOST_RESAMPLES, max(FEWEST_RESAMPLES, RESAMPLED // count))
    drawn = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=resamples)
    return np.vstack([np.ones(count), drawn]).astype(np.float32)


def percentile_interval(values: Doubles) -> Interval:
    """95 % interval from a figure's values on bootstrap samples, by their percentiles."""
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.nanpercentile(values, (tail, 100 - tail))
    return float(low), float(high)


def drop_interval(measured: float, drops: Doubles, count: int) -> Interval:
    """95 % interval of a drop, in points, from the drops on bootstrap samples of `count` images.

    It is at least as wide as that of a share of the images of which none differs: a bootstrap knows nothing of what no
    image shows.
    """
    (low, high), least = percentile_interval(drops), least_drop_bound(count)
    return min(low, measured - least), max(high, measured + least)


def images_for_width(drop: float, high: float, count: int, most: float) -> int | None:
    """Number of images with which an interval of the drop that ends at `high` would end at `most`, all in points.

    It assumes the measured drop, and that the interval shrinks with the square root of the number of images. None
    means that the measured drop is not below `most`.
    """
    return ceil(count * max(1e-9, (high - drop) / (most - drop)) ** 2) if drop < most else None
