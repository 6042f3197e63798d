"""Time calls in turns, and compute ratios with their intervals. Needs only numpy."""

import gc
import math
import time
from array import array
from collections.abc import Callable, Iterator, Mapping
from itertools import combinations
from statistics import NormalDist
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import costs_a_row
from edgekit.report.figure import Interval
from edgekit.report.times import Speedup

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
"""Rounds of one block of the bootstrap: two turns, because neighbouring turns are correlated."""
FEWEST_BLOCKS = 10
"""Fewest blocks. Shorter runs have shorter blocks instead, down to one turn."""
FEWEST_FOR_INTERVAL = 6 * TURN
"""Fewest rounds that have an interval. The medians of fewer than six turns rarely lie on both sides of the true one."""
MOST_BLOCKS = 200
"""Most blocks. In runs of more than 2,000 rounds, blocks get longer instead, which bounds the bootstrap's time."""
RESAMPLES = 2000
VALUES = 1000
"""Most values among which the bootstrap looks for medians."""


class CallFailed(Exception, Generic[K]):
    """The call named `key` raised `error`."""

    def __init__(self, key: K, error: Exception) -> None:
        super().__init__(str(error))
        self.key, self.error = key, error


def alternate(
    calls: Mapping[K, Callable[[], object]],
    warmup: int,
    iterations: int,
    on_turn: Callable[[K, int], None] = lambda _, __: None,
    seconds: float | None = None,
    enough: Callable[[Mapping[K, "array[float]"]], bool] | None = None,
) -> dict[K, Times]:
    """Time calls in turns, so that drift of the machine affects all of them equally.

    In its turn a call runs `TURN` times, as a model does in an app's loop, after up to `LEAD_RUNS` runs that don't
    count.

    Args:
        calls: The calls, by key. Each one runs once per round.
        warmup: Number of rounds before the timed ones.
        iterations: Number of timed rounds.
        on_turn: Called after every turn of every call, with its key and its number of rounds, which is 1 in warm-up.
            Untimed runs follow, so that what it does slows down no timed run, and no call more than the others.
        seconds: Start turns for this long instead of timing `iterations` rounds; each call has at least one.
        enough: Called when every call has had its turn, with the milliseconds of each call so far; no other turns
            follow if it returns True.

    Returns:
        Milliseconds of each timed round, float64 [N], by key.

    Raises:
        CallFailed: A call raised a StageError, or an exception that is a bug in edgekit.
    """
    times = {name: array("d") for name in calls}
    gc_was_on = gc.isenabled()
    gc.disable()
    try:
        for _ in range(warmup):
            for name, call in calls.items():
                _run(name, call)
                on_turn(name, 1)
        for turn in _turns(iterations, seconds):
            for name, call in calls.items():
                _lead(name, call)
                for _ in range(turn):
                    start = time.perf_counter_ns()
                    _run(name, call)
                    times[name].append((time.perf_counter_ns() - start) / 1e6)
                on_turn(name, turn)
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


def ratio(slow: Times, fast: Times, seed: int = 0) -> tuple[float, Interval | None]:
    """Median of `slow` divided by the median of `fast`, with a 95 % bootstrap interval.

    Both are [N] in ms, from the same rounds of `alternate`. The bootstrap draws blocks of neighbouring rounds, because
    neighbouring rounds are correlated. Fewer than `FEWEST_FOR_INTERVAL` rounds have no interval.
    """
    point, rounds = float(np.median(slow) / np.median(fast)), len(slow)
    if rounds < FEWEST_FOR_INTERVAL:
        return point, None
    blocks = min(max(rounds // BLOCK, min(rounds // TURN, FEWEST_BLOCKS)), MOST_BLOCKS)
    chosen = np.random.default_rng(seed).integers(0, blocks, (RESAMPLES, blocks))
    tail = 100 * _tail(blocks)
    low, high = np.percentile(_medians(slow, chosen) / _medians(fast, chosen), (tail, 100 - tail))
    return point, (float(low), float(high))


def _tail(blocks: int) -> float:
    """Share of resamples beyond each end of a 95 % interval, from so many blocks.

    The resamples of few blocks vary too little. As many standard deviations as Student's t has are therefore counted
    (Hesterberg's expanded percentiles, 2015), and Fisher's series gives t.
    """
    z, free = NormalDist().inv_cdf(0.975), blocks - 1
    t = z + (z**3 + z) / (4 * free) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * free**2)
    return NormalDist().cdf(-t * math.sqrt(blocks / free))


def are_precise(times: Mapping[K, Times], within: float) -> bool:
    """Whether each 95 % interval of the ratio of two calls, see `ratio`, lies within this share of the ratio.

    `times` are [N] in ms, from the same rounds; a single call has no ratio. Whether an interval contains 1 doesn't
    count: rounds that end as soon as it doesn't would find a difference between equal calls in one case of seven.
    """
    ratios = [ratio(slow, fast) for slow, fast in combinations(times.values(), 2)]
    return bool(ratios) and all(
        ends is not None and max(point - ends[0], ends[1] - point) <= within * point for point, ends in ratios
    )


def _medians(times: Times, chosen: NDArray[np.int64]) -> Times:
    """Median of each resample of blocks of times [N]; `chosen` [resamples, blocks] has the numbers of its blocks.

    A resample is never built, because those of a run of ten minutes would take gigabytes. How many of its times are at
    most a value follows from how many of each block's are, and how often it has the block. In long runs, the medians
    are taken from `VALUES` quantiles of the times.
    """
    resamples, blocks = chosen.shape
    rows = np.stack([block[: len(times) // blocks] for block in np.array_split(times, blocks)])
    total = rows.size
    values = np.sort(rows, axis=None)[np.unique(np.linspace(0, total - 1, min(total, VALUES)).astype(int))]
    up_to = np.stack([np.searchsorted(np.sort(row), values, "right") for row in rows]).astype(np.float32)
    places = chosen + blocks * np.arange(resamples)[:, None]
    repeats = np.bincount(places.ravel(), minlength=chosen.size).reshape(chosen.shape)
    counts = repeats.astype(np.float32) @ up_to
    lower, upper = ((counts <= rank).sum(axis=1) for rank in ((total - 1) // 2, total // 2))
    medians: Times = (values[lower] + values[upper]) / 2
    return medians


def speedup(versus: str, slow: Times, fast: Times, versus_precision: str | None = None) -> Speedup:
    """Speed-up of `fast` over `slow`, the times of the bundle `versus` when it computes in `versus_precision`."""
    point, interval = ratio(slow, fast)
    return Speedup(versus=versus, versus_precision=versus_precision, ratio=point, ci95=interval)
