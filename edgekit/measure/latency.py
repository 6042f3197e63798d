"""Time calls in turns, and compute ratios with their intervals. Needs only numpy."""

import gc
import time
from array import array
from collections.abc import Callable, Iterator, Mapping
from itertools import combinations, repeat
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import costs_a_row
from edgekit.report.measurement import Interval, Speedup

K = TypeVar("K")
Times = NDArray[np.float64]
"""Milliseconds [N], one value per round."""

BLOCK = 10
"""Rounds of one block of the bootstrap."""
FEWEST_BLOCKS = 20
"""Fewest blocks. Fewer give intervals that are too short: with 3, 79 of 100 cover the true ratio instead of 95."""
MOST_BLOCKS = 200
"""Most blocks. In runs of more than 2,000 rounds, blocks get longer instead, which bounds the bootstrap's time."""
RESAMPLES = 2000


class CallFailed(Exception, Generic[K]):
    """The call named `key` raised `error`."""

    def __init__(self, key: K, error: Exception) -> None:
        super().__init__(str(error))
        self.key, self.error = key, error


def alternate(
    calls: Mapping[K, Callable[[], object]],
    warmup: int,
    iterations: int,
    on_round: Callable[[], None] = lambda: None,
    seconds: float | None = None,
    enough: Callable[[Mapping[K, "array[float]"]], bool] | None = None,
) -> dict[K, Times]:
    """Time calls in turns, so that drift of the machine affects all of them equally.

    Args:
        calls: The calls, by key. Each one runs once per round.
        warmup: Number of rounds before the timed ones.
        iterations: Number of timed rounds.
        on_round: Called after every round.
        seconds: Start timed rounds for this long instead of `iterations` times; there is at least one.
        enough: Called after every timed round with the milliseconds of each call so far; the last round is the one
            after which it returns True.

    Returns:
        Milliseconds of each timed round, float64 [N], by key.

    Raises:
        CallFailed: A call raised a StageError, or an exception that is a bug in edgekit.
    """
    times = {name: array("d") for name in calls}
    gc_was_on = gc.isenabled()
    gc.disable()
    name, calling = None, False
    try:
        for _ in range(warmup):
            calling = True
            for name, call in calls.items():  # noqa: B007, `name` is needed if the call fails
                call()
            calling = False
            on_round()
        for _ in _rounds(iterations, seconds):
            calling = True
            for name, call in calls.items():
                start = time.perf_counter_ns()
                call()
                times[name].append((time.perf_counter_ns() - start) / 1e6)
            calling = False
            on_round()
            if enough is not None and enough(times):
                break
    except Exception as error:
        if not calling or not costs_a_row(error):
            raise
        raise CallFailed(name, error) from error
    finally:
        if gc_was_on:
            gc.enable()
    return {name: np.array(values) for name, values in times.items()}


def _rounds(iterations: int, seconds: float | None) -> Iterator[None]:
    if seconds is None:
        yield from repeat(None, iterations)
        return
    end = time.monotonic() + seconds
    yield
    while time.monotonic() < end:
        yield


def ratio(slow: Times, fast: Times, seed: int = 0) -> tuple[float, Interval]:
    """Median of `slow` divided by the median of `fast`, with a 95 % bootstrap interval.

    Both are [N] in ms, from the same rounds of `alternate`. The bootstrap draws blocks of neighbouring rounds, because
    neighbouring rounds are correlated.
    """
    point = float(np.median(slow) / np.median(fast))
    blocks = max(min(len(slow), FEWEST_BLOCKS), min(len(slow) // BLOCK, MOST_BLOCKS))
    chosen = np.random.default_rng(seed).integers(0, blocks, (RESAMPLES, blocks))
    low, high = np.percentile(_medians(slow, chosen) / _medians(fast, chosen), (2.5, 97.5))
    return point, (float(low), float(high))


def known(times: Mapping[K, Times], within: float) -> bool:
    """Whether it is clear by how much every call is faster than every other one.

    That is, whether each 95 % interval of the ratio of two calls, see `ratio`, lies within this share of the ratio, and
    doesn't contain 1. The ratio of a single call is never known. `times` are [N] in ms, from the same rounds.
    """
    intervals = (ratio(slow, fast) for slow, fast in combinations(times.values(), 2))
    return len(times) > 1 and all(
        max(point - low, high - point) <= within * point and not low <= 1 <= high for point, (low, high) in intervals
    )


def _medians(times: Times, chosen: NDArray[np.int64]) -> Times:
    """Median of each resample of blocks of times [N]; `chosen` [resamples, blocks] has the numbers of its blocks.

    A resample is never built, because those of a run of ten minutes would take gigabytes. Instead each block is sorted
    once, and the ranks of the median are found by bisection.
    """
    resamples, blocks = chosen.shape
    width = len(times) // blocks
    rows = [np.sort(block[:width]) for block in np.array_split(times, blocks)]
    repeats = np.stack([(chosen == block).sum(axis=1) for block in range(blocks)])
    values, total = np.sort(np.concatenate(rows)), blocks * width

    def at(rank: int) -> Times:
        """The value of each resample that exceeds `rank` others."""
        low, high = np.zeros(resamples, np.int64), np.full(resamples, total - 1)
        while (low < high).any():
            middle = (low + high) // 2
            up_to = sum(n * np.searchsorted(row, values[middle], "right") for n, row in zip(repeats, rows, strict=True))
            low, high = np.where(up_to > rank, low, middle + 1), np.where(up_to > rank, middle, high)
        return values[low]

    return (at((total - 1) // 2) + at(total // 2)) / 2


def speedup(versus: str, slow: Times, fast: Times, versus_precision: str | None = None) -> Speedup:
    """Speed-up of `fast` over `slow`, the times of the bundle `versus` when it computes in `versus_precision`."""
    point, interval = ratio(slow, fast)
    return Speedup(versus=versus, versus_precision=versus_precision, ratio=point, ci95=interval)
