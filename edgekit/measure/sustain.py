"""Time a run of several minutes, to see how latency changes when the device warms up."""

from array import array
from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np

from edgekit.measure.latency import Times, alternate
from edgekit.measure.telemetry import TelemetrySampler
from edgekit.report.device import Conditions
from edgekit.report.times import Sustained, SustainedLatency, SustainedPoint
from edgekit.support.progress import Reporter

K = TypeVar("K")

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
