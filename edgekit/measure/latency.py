"""Latency of calls that are timed in turns, and the figures that follow from the times. Needs numpy alone."""

import gc
import time
from array import array
from collections.abc import Callable, Iterator, Mapping
from itertools import repeat
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import StageError
from edgekit.report.row import Interval, Speedup

K = TypeVar("K")
Times = NDArray[np.float64]
"""Milliseconds [N], one for each round."""

BLOCK = 10
FEWEST_BLOCKS = 20
"""Drawing from fewer gives intervals that are too short: of 3 blocks 79 in 100 cover, where 95 should."""
RESAMPLES = 2000


class CallFailed(Exception, Generic[K]):
    """One of the calls raised a StageError, which is `error`; `key` names the call."""

    def __init__(self, key: K, error: StageError) -> None:
        super().__init__(str(error))
        self.key, self.error = key, error


def alternate(
    calls: Mapping[K, Callable[[], object]],
    warmup: int,
    iterations: int,
    on_round: Callable[[], None] = lambda: None,
    seconds: float | None = None,
) -> dict[K, Times]:
    """Milliseconds of each call, [iterations] for each key; they take turns, so that drift affects all alike.

    With `seconds` there are as many timed rounds as begin within that time instead, at least one. Raises CallFailed.
    """
    times = {name: array("d") for name in calls}
    gc_was_on = gc.isenabled()
    gc.disable()
    name = None
    try:
        for _ in range(warmup):
            for name, call in calls.items():  # noqa: B007, the name of a call that fails
                call()
            on_round()
        for _ in _rounds(iterations, seconds):
            for name, call in calls.items():
                start = time.perf_counter_ns()
                call()
                times[name].append((time.perf_counter_ns() - start) / 1e6)
            on_round()
    except StageError as error:
        raise CallFailed(name, error) from error
    finally:
        if gc_was_on:
            gc.enable()
    return {name: np.array(each) for name, each in times.items()}


def _rounds(iterations: int, seconds: float | None) -> Iterator[None]:
    if seconds is None:
        yield from repeat(None, iterations)
        return
    end = time.monotonic() + seconds
    yield
    while time.monotonic() < end:
        yield


def ratio(slow: Times, fast: Times, seed: int = 0) -> tuple[float, Interval]:
    """Median of `slow` over median of `fast`, with a 95 % bootstrap interval over blocks of neighbouring rounds.

    Both [N] in ms, from the same rounds of `alternate`; whole blocks are drawn because neighbours are alike.
    """
    point = float(np.median(slow) / np.median(fast))
    blocks = max(min(len(slow), FEWEST_BLOCKS), len(slow) // BLOCK)
    rows = [np.array_split(each, blocks) for each in (slow, fast)]
    width = min(len(block) for block in rows[0])
    a, b = (np.stack([block[:width] for block in each]) for each in rows)
    chosen = np.random.default_rng(seed).integers(0, blocks, (RESAMPLES, blocks))
    medians = [np.median(each[chosen].reshape(RESAMPLES, -1), axis=1) for each in (a, b)]
    low, high = np.percentile(medians[0] / medians[1], (2.5, 97.5))
    return point, (float(low), float(high))


def speedup(versus: str, slow: Times, fast: Times, versus_precision: str | None = None) -> Speedup:
    """How much faster `fast` is than `slow`, which is called `versus` and computed in `versus_precision`."""
    point, interval = ratio(slow, fast)
    return Speedup(versus=versus, versus_precision=versus_precision, ratio=point, ci95=interval)
