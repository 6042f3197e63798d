"""A run of minutes: what becomes of latency when a device has warmed up."""

from array import array
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgekit.measure.latency import alternate
from edgekit.measure.telemetry import Watch
from edgekit.support.progress import Reporter

K = TypeVar("K")
Row = dict[str, Any]

WINDOW_S = 60.0
POINTS = 60
"""Of the time series, at the most; none is shorter than a second."""


def time_sustained(
    calls: Mapping[K, Callable[[], object]], warmup: int, seconds: float, title: str, reporter: Reporter
) -> tuple[dict[K, NDArray[np.float64]], dict[K, Row], Row]:
    """Time the calls in turns for so long: their times in ms, their `sustain` objects, and the conditions."""
    watch, ends = Watch(), array("d")
    with reporter.stage(title, max(1, round(seconds))) as step:

        def on_round() -> None:
            ends.append(watch.seconds())
            if int(ends[-1]) > int(ends[-2] if len(ends) > 1 else 0):
                step()
            watch()

        times = alternate(calls, warmup, 1, on_round, seconds)
    conditions, at = watch.finish(), np.array(ends)[warmup:]
    return times, {name: sustained(each, at) for name, each in times.items()}, conditions


def sustained(times: NDArray[np.float64], at: NDArray[np.float64]) -> Row:
    """The `sustain` object of a row, from times [N] in ms and the seconds [N] at which their rounds ended.

    `first` and `last` are the figures of the first and the last minute, of each half where the run is shorter than two;
    `change` is how much longer p50 is in the last one, as a share.
    """
    begin, end = float(at[0]), float(at[-1])
    window = min(WINDOW_S, (end - begin) / 2)
    first, last = _figures(times[at <= begin + window]), _figures(times[at >= end - window])
    width = max(1.0, (end - begin) / POINTS)
    places = ((at - begin) // width).astype(int)
    series = [
        {"s": begin + place * width, "p50": float(np.median(each)), "count": len(each)}
        for place, each in ((place, times[places == place]) for place in np.unique(places).tolist())
    ]
    return {
        "seconds": end - begin,
        "window_s": window,
        "first": first,
        "last": last,
        "change": last["p50"] / first["p50"] - 1,
        "series": series,
    }


def _figures(times: NDArray[np.float64]) -> Row:
    p50, p90, p99 = (float(each) for each in np.percentile(times, (50, 90, 99)))
    return {"p50": p50, "p90": p90, "p99": p99, "count": len(times)}
