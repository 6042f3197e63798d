"""The whole rule of timing, on simulated machines: edgekit rarely finds a difference where there is none."""

from array import array
from collections.abc import Mapping

import numpy as np
import pytest

from benchmarks.timing_rule import NOISES, simulate
from edgekit.measure import latency

RUNS = 120
MOST = 0.1
"""Largest share of runs that may find a difference: an interval misses in 5 %, here with a deviation of 2 %."""


@pytest.mark.parametrize("noise", ["stalls", "turns"])
def test_equal_bundles_rarely_differ(noise: str) -> None:
    row = simulate(NOISES[noise], 1.0, RUNS)
    assert row["differs"] <= MOST
    assert row["faster"] <= MOST / 2
    assert row["rounds"] < 110, "it ends early, although there is no difference to find"


def test_a_rule_that_ends_at_the_first_difference_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def differ(times: Mapping[str, "array[float]"]) -> bool:
        slow, fast = (np.array(values) for values in times.values())
        rounds = len(slow)
        if rounds < latency.FEWEST_ROUNDS or rounds % latency.LOOK_EVERY:
            return False
        _, ends = latency.ratio(slow, fast)
        return ends is not None and not ends[0] <= 1 <= ends[1]

    monkeypatch.setattr(latency, "enough_rounds", differ)
    assert simulate(NOISES["turns"], 1.0, RUNS)["differs"] > MOST


@pytest.mark.parametrize(("ratio", "noise"), [(1.05, "stalls"), (1.1, "all")])
def test_bundles_that_differ_are_told_apart(ratio: float, noise: str) -> None:
    assert simulate(NOISES[noise], ratio, 30)["faster"] >= 0.9
