"""Time sessions in turns in one process, for a number of rounds or for minutes, in which a device warms up.

If a session fails, it is dropped and the others are timed again.
"""

from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

import numpy as np

from edgekit.measure.fresh_process import Fresh
from edgekit.measure.latency import CallFailed, Times, alternate
from edgekit.measure.machine import TelemetrySampler
from edgekit.measure.settings import Timing
from edgekit.measure.steadiness import spread, time_steadily
from edgekit.report.device import Conditions
from edgekit.report.times import Latency, Sustained, SustainedLatency, SustainedPoint, ThreadTime
from edgekit.support.progress import Reporter

K = TypeVar("K")
T = TypeVar("T")
PERCENTILES = (5, 25, 50, 75, 90, 95, 99)


@dataclass(frozen=True)
class Timed(Generic[K]):
    """Result of timing several calls."""

    times: Mapping[K, Times] = field(default_factory=dict)
    """Milliseconds of each call that didn't fail."""
    sustained: Mapping[K, Sustained] = field(default_factory=dict)
    """Summary of each call, if the run was sustained for a number of seconds."""
    conditions: Conditions | None = None
    """Conditions during timing; None if every call failed."""
    failures: Mapping[K, Exception] = field(default_factory=dict)
    """Error of each call that failed."""
    batches: Mapping[K, int] = field(default_factory=dict)
    """Number of inferences whose mean is one time, where it isn't 1."""


def time_in_turns(
    calls: Mapping[K, Callable[[], object]], threads: int, timing: Timing, title: str, reporter: Reporter
) -> Timed[K]:
    """Time the calls until the times are reliable, or for `timing.sustain_s` seconds."""

    def once(calls: Mapping[K, Callable[[], object]]) -> Timed[K]:
        if timing.sustain_s is None:
            times, conditions = time_steadily(calls, threads, timing, title, reporter)
            return Timed(times, {}, conditions)
        times, sustained, conditions = time_sustained(calls, timing.warmup, timing.sustain_s, title, reporter)
        return Timed(times, sustained, conditions)

    timed, failures = without_failing(calls, once)
    return replace(timed or Timed(), failures=failures)


def time_end_to_end(
    calls: Mapping[K, Callable[[], object]], timing: Timing
) -> tuple[dict[K, Times], dict[K, Exception]]:
    """Time calls that include decoding and preprocessing, in fewer rounds; returns the times and the errors."""
    rounds = max(5, timing.iterations // 8)
    times, failures = without_failing(calls, lambda calls: alternate(calls, min(timing.warmup, 2), rounds))
    return times or {}, failures


def without_failing(
    calls: Mapping[K, Callable[[], object]], measure: Callable[[Mapping[K, Callable[[], object]]], T]
) -> tuple[T | None, dict[K, Exception]]:
    """Measure the calls that don't fail; returns the result, or None if all fail, and the error of each that fails."""
    failures: dict[K, Exception] = {}
    remaining = dict(calls)
    while remaining:
        try:
            return measure(remaining), failures
        except CallFailed as failed:
            failures[failed.key] = failed.error
            del remaining[failed.key]
    return None, failures


def latency_of(
    times: Times, threads: int, fresh: Fresh, batch: int = 1, by_threads: tuple[ThreadTime, ...] = ()
) -> Latency:
    """Compute latency figures from times [N] in ms, and add those of a fresh process.

    Each time is the mean of `batch` inferences.
    """
    p5, p25, p50, p75, p90, p95, p99 = np.percentile(times, PERCENTILES).tolist()
    return Latency(
        p5=p5, p25=p25, p50=p50, p75=p75, p90=p90, p95=p95, p99=p99,
        mean=float(times.mean()),
        std=float(times.std(ddof=1)) if len(times) > 1 else 0.0,
        spread=spread(times),
        count=len(times),
        threads=threads,
        by_threads=by_threads,
        batch=batch,
        load=fresh.load_ms,
        first=fresh.first_ms,
    )  # fmt: skip


WINDOW_S = 60.0
"""Longest first and last window, in seconds."""
POINTS = 60
"""Largest number of points in the time series; each covers at least a second."""


def time_sustained(
    calls: Mapping[K, Callable[[], object]], warmup: int, seconds: float, title: str, reporter: Reporter
) -> tuple[dict[K, Times], dict[K, Sustained], Conditions]:
    """Time the calls in turns for `seconds`; returns their times in ms, their summaries, and the conditions."""
    sampler, ends, last = TelemetrySampler(), array("d"), next(reversed(tuple(calls)), None)
    with reporter.stage(title, max(1, round(seconds))) as step:

        def on_turn(name: K, rounds: int) -> None:
            now = sampler.seconds()
            if name == last:
                step(int(now) - int(ends[-1] if ends else 0))
                ends.extend([now] * rounds)
            sampler()

        times = alternate(calls, warmup, 1, on_turn, seconds)
    conditions, at = sampler.finish(), np.array(ends)[warmup:]
    return times, {name: sustained(values, at) for name, values in times.items()}, conditions


def sustained(times: Times, at: Times) -> Sustained:
    """Summarize the first and the last minute, from times [N] in ms and the seconds [N] at which their turns ended.

    A run of less than two minutes is split into halves instead.
    """
    begin, end = float(at[0]), float(at[-1])
    window = min(WINDOW_S, (end - begin) / 2)
    first, last = _figures(times[at <= begin + window]), _figures(times[at >= end - window])
    width = max(1.0, (end - begin) / POINTS)
    places = ((at - begin) // width).astype(int)
    series = tuple(
        SustainedPoint(begin + place * width, float(np.median(window_times)), len(window_times))
        for place, window_times in ((place, times[places == place]) for place in np.unique(places).tolist())
    )
    return Sustained(
        seconds=end - begin, window_s=window, first=first, last=last, change=last.p50 / first.p50 - 1, series=series
    )


def _figures(times: Times) -> SustainedLatency:
    p50, p90, p99 = np.percentile(times, (50, 90, 99)).tolist()
    return SustainedLatency(p50, p90, p99, len(times))
