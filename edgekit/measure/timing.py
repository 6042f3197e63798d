"""Time sessions in turns in one process; a session that fails is dropped, and the others are timed again."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np

from edgekit.errors import StageError
from edgekit.measure.fresh_process import Fresh
from edgekit.measure.latency import CallFailed, Times, alternate
from edgekit.measure.settings import Settings
from edgekit.measure.steadiness import spread, time_steadily
from edgekit.measure.sustain import time_sustained
from edgekit.report.conditions import Conditions, Sustained
from edgekit.report.row import Latency
from edgekit.support.progress import Reporter

K = TypeVar("K")
T = TypeVar("T")
PERCENTILES = (5, 25, 50, 75, 90, 95, 99)


@dataclass(frozen=True)
class Timed(Generic[K]):
    """What timing gave: milliseconds of each call, and the error of each that failed."""

    times: Mapping[K, Times] = field(default_factory=dict)
    sustained: Mapping[K, Sustained] = field(default_factory=dict)
    """Of each call in a run that was sustained for a stated time."""
    conditions: Conditions | None = None
    """None where no call was left to be timed."""
    failures: Mapping[K, StageError] = field(default_factory=dict)


def time_in_turns(
    calls: Mapping[K, Callable[[], object]], threads: int, settings: Settings, title: str, reporter: Reporter
) -> Timed[K]:
    """Time the calls until they are steady, or for `settings.sustain_s` seconds."""

    def once(calls: Mapping[K, Callable[[], object]]) -> Timed[K]:
        if settings.sustain_s is None:
            times, conditions = time_steadily(calls, threads, settings, title, reporter)
            return Timed(times, {}, conditions)
        times, sustained, conditions = time_sustained(calls, settings.warmup, settings.sustain_s, title, reporter)
        return Timed(times, sustained, conditions)

    timed, failures = without_failing(calls, once)
    return (
        Timed(failures=failures) if timed is None else Timed(timed.times, timed.sustained, timed.conditions, failures)
    )


def time_end_to_end(
    calls: Mapping[K, Callable[[], object]], settings: Settings
) -> tuple[dict[K, Times], dict[K, StageError]]:
    """Times of calls that include decoding and preprocessing, which take fewer rounds; and the errors."""
    rounds = max(5, settings.iterations // 4)
    times, failures = without_failing(calls, lambda calls: alternate(calls, min(settings.warmup, 5), rounds))
    return times or {}, failures


def without_failing(
    calls: Mapping[K, Callable[[], object]], measure: Callable[[Mapping[K, Callable[[], object]]], T]
) -> tuple[T | None, dict[K, StageError]]:
    """What `measure` makes of the calls that do not fail, None if all do; and the error of each that does."""
    failures: dict[K, StageError] = {}
    left = dict(calls)
    while left:
        try:
            return measure(left), failures
        except CallFailed as failed:
            failures[failed.key] = failed.error
            del left[failed.key]
    return None, failures


def latency_of(times: Times, threads: int, fresh: Fresh) -> Latency:
    """The figures that the times [N] in ms give, with those of a fresh process."""
    p5, p25, p50, p75, p90, p95, p99 = np.percentile(times, PERCENTILES).tolist()
    return Latency(
        p5=p5, p25=p25, p50=p50, p75=p75, p90=p90, p95=p95, p99=p99,
        mean=float(times.mean()),
        std=float(times.std(ddof=1)) if len(times) > 1 else 0.0,
        spread=spread(times),
        count=len(times),
        threads=threads,
        load=fresh.load_ms,
        first=fresh.first_ms,
    )  # fmt: skip
