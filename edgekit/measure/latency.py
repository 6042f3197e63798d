"""Latency of calls that are timed in turns, and what follows from the times. Needs numpy alone."""

import gc
import time
from array import array
from collections.abc import Callable, Iterator, Mapping
from itertools import repeat
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

K = TypeVar("K")
BLOCK = 10
FEWEST_BLOCKS = 20
"""Drawing from fewer gives intervals that are too short: of 3 blocks 79 in 100 cover, where 95 should."""
RESAMPLES = 2000
PERCENTILES = (5, 25, 50, 75, 90, 95, 99)


def alternate(
    calls: Mapping[K, Callable[[], object]],
    warmup: int,
    iterations: int,
    on_round: Callable[[], None] = lambda: None,
    seconds: float | None = None,
) -> dict[K, NDArray[np.float64]]:
    """Milliseconds of each call, [iterations] for each key; they take turns, so that drift hits all alike.

    With `seconds` there are as many timed rounds as begin within that time instead, one at the least.
    """
    times = {name: array("d") for name in calls}
    gc_was_on = gc.isenabled()
    gc.disable()
    try:
        for _ in range(warmup):
            for call in calls.values():
                call()
            on_round()
        for _ in _rounds(iterations, seconds):
            for name, call in calls.items():
                start = time.perf_counter_ns()
                call()
                times[name].append((time.perf_counter_ns() - start) / 1e6)
            on_round()
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


def summary(times: NDArray[np.float64], threads: int) -> dict[str, Any]:
    """The figures of `latency_ms` in report.json that the times give; `load` and `first` come from a fresh process."""
    percentiles = np.percentile(times, PERCENTILES)
    return {
        **{f"p{each}": float(value) for each, value in zip(PERCENTILES, percentiles, strict=True)},
        "mean": float(times.mean()),
        "std": float(times.std(ddof=1)) if len(times) > 1 else 0.0,
        "count": len(times),
        "threads": threads,
    }


def ratio(slow: NDArray[np.float64], fast: NDArray[np.float64], seed: int = 0) -> tuple[float, tuple[float, float]]:
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
