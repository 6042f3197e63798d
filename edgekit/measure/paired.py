"""Statistics of two models on the same images: interval of the drop, McNemar's test, and images for a claim.

Throughout, `lost` images are right with the first classifier and wrong with the second, `won` images the reverse, and
`count` is the number of all images.
"""

from math import ceil, sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
POWER = 0.8
"""Statistical power that `images_needed` assumes."""
Z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)


def paired_interval(lost: int, won: int, count: int) -> tuple[float, float]:
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


def _end(lost: int, won: int, count: int, between: tuple[float, float]) -> float:
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


def share_interval(hits: int, count: int) -> tuple[float, float]:
    """95 % interval of the share hits / count: Wilson's score interval, which holds for few images and near 0 and 1."""
    share, square = hits / count, Z**2
    middle = (share + square / (2 * count)) / (1 + square / count)
    half = Z / (1 + square / count) * sqrt(share * (1 - share) / count + square / (4 * count**2))
    return (0.0 if hits == 0 else middle - half), (1.0 if hits == count else middle + half)


MOST_RESAMPLES, FEWEST_RESAMPLES, RESAMPLED = 1000, 200, 2_000_000
"""Largest and smallest number of bootstrap samples, and number of images in all of them between the two."""


def bootstrap_weights(count: int) -> NDArray[np.float32]:
    """How often each of `count` images is in each bootstrap sample, [B,count]; once each in the first row.

    The samples are the same for the same count, so that two models are compared on the same images.
    """
    resamples = min(MOST_RESAMPLES, max(FEWEST_RESAMPLES, RESAMPLED // count))
    drawn = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=resamples)
    return np.vstack([np.ones(count), drawn]).astype(np.float32)


def percentile_interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """95 % interval from a figure's values on bootstrap samples, by their percentiles."""
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.nanpercentile(values, (tail, 100 - tail))
    return float(low), float(high)


def drop_interval(measured: float, drops: NDArray[np.float64], count: int) -> tuple[float, float]:
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
