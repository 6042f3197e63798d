"""The paired interval covers the true drop, McNemar's test agrees with scipy, and `images_needed` is enough."""

from itertools import product
from math import sqrt

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from scipy.optimize import brentq, minimize_scalar
from scipy.stats import binomtest

from edgekit.measure.statistics import POWER, Z, images_needed, mcnemar, paired_interval

RATES = [
    (500, 0.02, 0.01),
    (500, 0.01, 0.01),
    (500, 0.01, 0.0),
    (2000, 0.015, 0.01),
    (2000, 0.003, 0.001),
    (10_000, 0.004, 0.0),
    (50_000, 0.02, 0.016),
]
"""Number of images, and the true shares of lost and won ones."""


def test_interval_is_the_published_one() -> None:
    """21 children before and after a transplantation, of whom 1 and 7 differ (Fagerland, Lydersen and Laake, 2014)."""
    assert paired_interval(1, 7, 21) == pytest.approx((-0.517, -0.026), abs=5e-4)


def test_interval_without_differences_has_a_closed_form() -> None:
    assert paired_interval(0, 0, 500) == pytest.approx((-(Z**2) / (500 + Z**2), Z**2 / (500 + Z**2)))


@pytest.mark.parametrize(("lost", "won", "count"), [(0, 0, 1), (0, 0, 500), (7, 3, 100), (5, 0, 5), (0, 5, 5)])
def test_interval_is_symmetric_and_never_a_point(lost: int, won: int, count: int) -> None:
    low, high = paired_interval(lost, won, count)
    assert -1 <= low < high <= 1
    assert paired_interval(won, lost, count) == pytest.approx((-high, -low))
    assert low <= (lost - won) / count <= high


def test_interval_contains_the_measured_drop_for_every_count() -> None:
    for count, lost, won in product((1, 2, 3, 7, 50), range(8), range(8)):
        if lost + won <= count:
            low, high = paired_interval(lost, won, count)
            assert -1 <= low <= (lost - won) / count <= high <= 1


def test_interval_narrows_with_more_images() -> None:
    widths = [high - low for low, high in (paired_interval(n // 50, n // 100, n) for n in (100, 1000, 10_000))]
    assert widths[0] > 2 * widths[1] > 4 * widths[2]


@pytest.mark.parametrize(("count", "lost", "won"), RATES)
def test_interval_covers_the_true_drop(count: int, lost: float, won: float) -> None:
    """It does so in about 95 of 100 repetitions of an evaluation."""
    covered = np.mean([low <= lost - won <= high for low, high in trials(count, lost, won)])
    assert 0.93 <= covered <= 0.97


def trials(count: int, lost: float, won: float, number: int = 1000) -> list[tuple[float, float]]:
    """Intervals of simulated evaluations of a network with known rates."""
    drawn = np.random.default_rng(0).multinomial(count, [lost, won, 1 - lost - won], size=number)
    return [paired_interval(int(b), int(c), count) for b, c, _ in drawn]


def test_a_normal_interval_would_be_too_short_where_images_are_only_lost() -> None:
    """The alternative is Agresti and Min's normal interval with half an observation added to each cell."""

    def covers(lost: int, count: int, true: float) -> bool:
        n, b, c = count + 2, lost + 0.5, 0.5
        return bool(abs((b - c) / n - true) <= Z * sqrt(b + c - (b - c) ** 2 / n) / n)

    drawn = np.random.default_rng(0).binomial(500, 0.004, 1000)
    assert np.mean([covers(int(lost), 500, 0.004) for lost in drawn]) < 0.9
    assert np.mean([low <= 0.004 <= high for low, high in trials(500, 0.004, 0.0)]) >= 0.95


def test_mcnemar_is_the_exact_binomial_test() -> None:
    for lost, won in [(0, 0), (1, 0), (3, 3), (1, 7), (40, 12), (900, 700)]:
        expected = binomtest(lost, lost + won).pvalue if lost + won else 1.0
        assert mcnemar(lost, won) == pytest.approx(expected, rel=1e-9)


def test_mcnemar_does_not_reject_too_often() -> None:
    """It calls at most one of 20 networks different if all of them are as good as their reference."""
    drawn = np.random.default_rng(0).binomial(60, 0.5, 1000)
    assert np.mean([mcnemar(int(lost), 60 - int(lost)) < 0.05 for lost in drawn]) <= 0.05


@pytest.mark.parametrize(
    ("lost", "won", "count", "most"),
    [(5, 4, 500, 0.01), (10, 5, 1000, 0.01), (0, 0, 500, 0.01), (40, 30, 10_000, 0.003), (1, 3, 500, 0.005)],
)
def test_images_needed_are_enough_and_half_of_them_are_not(lost: int, won: int, count: int, most: float) -> None:
    needed = images_needed(lost, won, count, most)
    assert needed is not None
    enough = trials(needed, lost / count, won / count)
    assert np.mean([high <= most for _, high in enough]) >= POWER - 0.05
    fewer = trials(needed // 2, lost / count, won / count)
    assert np.mean([high <= most for _, high in fewer]) < POWER - 0.05


def test_no_number_of_images_confirms_less_than_the_measured_drop() -> None:
    assert images_needed(10, 0, 1000, 0.01) is None
    assert images_needed(0, 0, 1000, 0.0) is None
    assert images_needed(0, 0, 10, 1.0) == 1


def likelihood(won_share: float, difference: float, lost: int, won: int, count: int) -> float:
    """Multinomial log-likelihood, where the share of lost images exceeds the share of won ones by `difference`."""
    shares = (won_share + difference, won_share, 1 - 2 * won_share - difference)
    terms = zip((lost, won, count - lost - won), shares, strict=True)
    return float(sum(times * np.log(max(share, 1e-300)) for times, share in terms if times))


def score(difference: float, lost: int, won: int, count: int) -> float:
    """Score statistic of a difference, with the most likely shares under it, which a numerical search finds."""
    low, high = max(0.0, -difference), (1 - difference) / 2
    best = minimize_scalar(
        lambda share: -likelihood(share, difference, lost, won, count),
        bounds=(low, high),
        method="bounded",
        options={"xatol": 1e-12},
    ).x
    variance = (2 * best + difference - difference**2) / count
    return float(((lost - won) / count - difference) / np.sqrt(variance))


@st.composite
def evaluations(draw: st.DrawFn) -> tuple[int, int, int]:
    """Number of lost, won and all images."""
    count = draw(st.integers(10, 5000))
    lost = draw(st.integers(0, count))
    return lost, draw(st.integers(0, min(count - lost, 200))), count


@given(evaluation=evaluations())
@example((1, 7, 21))
@example((2, 0, 500))
@example((150, 140, 10_000))
def test_the_interval_inverts_the_score_test(evaluation: tuple[int, int, int]) -> None:
    """Compute Tango's interval by brute force: a search for the most likely shares, and root finding for the ends."""
    lost, won, count = evaluation
    assume(0 < lost + won < count)
    measured = (lost - won) / count
    low, high = paired_interval(lost, won, count)
    edge = 1 - 1e-9
    for end, limit, sign in ((low, -edge, 1), (high, edge, -1)):
        expected = brentq(lambda d, s=sign: score(d, lost, won, count) - s * Z, measured, limit, xtol=1e-12)
        assert end == pytest.approx(expected, abs=1e-5)
