"""Time calls in turns, and compute ratios with their intervals. Needs only numpy."""

import gc
import time
from array import array
from collections.abc import Callable, Iterator, Mapping
from itertools import combinations
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import costs_a_row
from edgekit.report.measurement import Interval, Speedup

K = TypeVar("K")
Times = NDArray[np.float64]
"""Milliseconds [N], one value per round."""

TURN = 5
"""Timed runs of a call in a row. Intervals of longer turns are too short: of 100 for two sessions of the same bundle,
93 contained 1 with turns of 5, 83 with turns of 10, and 73 with turns of 20."""
LEAD_RUNS, LEAD_MS = 3, 25.0
"""Most untimed runs at the start of a turn, and the milliseconds after which no other one begins. The other calls have
emptied the processor's caches: on two cores of a Xeon, the first inference of a turn took 1.1 to 2.5 times as long as
the fifth, and a model of 2 ms needed three to be as fast as in a loop."""
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

    In its turn a call runs `TURN` times, as a model does in an app's loop, after up to `LEAD_RUNS` runs that don't
    count. A single call has no such runs, because nothing else ran since its last turn.

    Args:
        calls: The calls, by key. Each one runs once per round.
        warmup: Number of rounds before the timed ones.
        iterations: Number of timed rounds.
        on_round: Called after every round, which for a timed one is after the last call's run.
        seconds: Start turns for this long instead of timing `iterations` rounds; each call has at least one.
        enough: Called when every call has had its turn, with the milliseconds of each call so far; no other turns
            follow if it returns True.

    Returns:
        Milliseconds of each timed round, float64 [N], by key.

    Raises:
        CallFailed: A call raised a StageError, or an exception that is a bug in edgekit.
    """
    times = {name: array("d") for name in calls}
    last = next(reversed(tuple(calls)), None)
    gc_was_on = gc.isenabled()
    gc.disable()
    try:
        for _ in range(warmup):
            for name, call in calls.items():
                _run(name, call)
            on_round()
        for turn in _turns(iterations, seconds):
            for name, call in calls.items():
                if len(calls) > 1:
                    _lead(name, call)
                for _ in range(turn):
                    start = time.perf_counter_ns()
                    _run(name, call)
                    times[name].append((time.perf_counter_ns() - start) / 1e6)
                    if name == last:
                        on_round()
            if enough is not None and enough(times):
                break
    finally:
        if gc_was_on:
            gc.enable()
    return {name: np.array(values) for name, values in times.items()}


def _run(name: K, call: Callable[[], object]) -> None:
    try:
        call()
    except Exception as error:
        if not costs_a_row(error):
            raise
        raise CallFailed(name, error) from error


def _turns(iterations: int, seconds: float | None) -> Iterator[int]:
    """Yield how often each call runs in its next turn."""
    if seconds is None:
        yield from (min(TURN, iterations - done) for done in range(0, iterations, TURN))
        return
    end = time.monotonic() + seconds
    yield TURN
    while time.monotonic() < end:
        yield TURN


def _lead(name: K, call: Callable[[], object]) -> None:
    """Fill the processor's caches by running the call, without timing it."""
    end = time.perf_counter() + LEAD_MS / 1e3
    for _ in range(LEAD_RUNS):
        _run(name, call)
        if time.perf_counter() >= end:
            break


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
