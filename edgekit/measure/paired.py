"""Two classifiers on the same images: the interval of the drop, McNemar's test, and how many images a claim needs.

`lost` images were right with the first and wrong with the second, `won` the other way round; `count` are all.
"""

from math import ceil, sqrt
from statistics import NormalDist

CONFIDENCE = 0.95
POWER = 0.8
"""Chance that as many images as `images_needed` says do show the claim."""
Z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)


def paired_interval(lost: int, won: int, count: int) -> tuple[float, float]:
    """95 % interval of the paired difference (lost - won) / count, as fractions: Tango's score interval (1998).

    It holds every difference that the score test doesn't reject. It covers where few images differ or all of them the
    same way, the usual case here, in which a normal interval is too short (500 images, 0.4 % lost, none won: 86 %).
    """
    given = (lost - won) / count
    return _end(lost, won, count, (given, -1.0)), _end(lost, won, count, (given, 1.0))


def _end(lost: int, won: int, count: int, between: tuple[float, float]) -> float:
    """The difference between one that the test accepts and one that it rejects where it changes its mind."""
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
    """Of one image's difference, if the true one is `difference`: the shares of lost and won are the likeliest then."""
    b = (2 - lost + won) * difference - lost - won
    won_then = (sqrt(max(0.0, b**2 + 8 * won * difference * (1 - difference))) - b) / 4
    return max(0.0, 2 * won_then + difference * (1 - difference))


def mcnemar(lost: int, won: int) -> float:
    """Exact two-sided p of McNemar's test that as many images are lost as won in truth."""
    differ, tail, ways = lost + won, 0, 1
    for k in range(min(lost, won) + 1):
        tail, ways = tail + ways, ways * (differ - k) // (k + 1)
    return min(1.0, 2 * tail / (1 << differ))


def images_needed(lost: int, won: int, count: int, most: float) -> int | None:
    """Images with which an interval would, four times of five, end below a drop of `most` (a fraction).

    Supposes that images are lost and won as often as here; None if the drop found here is as large as `most` already.
    After Nam (1997), with the score test of `paired_interval`.
    """
    given = (lost - won) / count
    if given >= most:
        return None
    if most >= 1:
        return 1
    tested = Z * sqrt(_variance(lost / count, won / count, most))
    true = NormalDist().inv_cdf(POWER) * sqrt((lost + won) / count - given**2)
    return max(1, ceil(((tested + true) / (most - given)) ** 2))
