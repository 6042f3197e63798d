"""Whether a latency may be quoted. The rule, in this order:

- heat: the processor was throttled while it was timed;
- other load: other processes took more than a tenth of the CPUs that the session's threads need;
- drift: of 20 blocks of neighbouring rounds, the third slowest median is more than 50 % of p50 above the third fastest.

An unreliable latency is timed again, three times at most. A row that stays unreliable gets a remark; where the user
states a speedup its verdict is inconclusive, with the reason: it does not pass and is not recommended. Too short a
measurement, or a system that does not tell, is not held against a row. In a sustained run heat and drift are what is
measured, so they are remarks there.

Why these limits: on two shared virtual cores, a ConvNeXt V2 atto of 8 ms drifted by 3 to 6 % when nothing else ran and
by 67 to 98 % beside two busy loops; a model of 1 ms drifted by 13 to 44 % when nothing else ran. Other processes took
at most 0.05 CPUs there, and 1.0 to 1.4 beside the loops.
"""

from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np

from edgekit.measure.latency import Times, alternate
from edgekit.measure.settings import Settings
from edgekit.measure.telemetry import TelemetrySampler
from edgekit.report.conditions import Conditions
from edgekit.support.progress import Reporter, Step

K = TypeVar("K")

BLOCKS = 20
FEWEST_ROUNDS = 100
"""Blocks of fewer than five rounds say more about single rounds than about drift."""
MOST_SPREAD = 0.5
MOST_TAKEN = 0.1
ATTEMPTS = 3


def time_steadily(
    calls: Mapping[K, Callable[[], object]], threads: int, settings: Settings, title: str, reporter: Reporter
) -> tuple[dict[K, Times], Conditions]:
    """Milliseconds of each call as `alternate` gives them, and the conditions; repeated while they are unreliable."""
    for attempt in range(ATTEMPTS):
        sampler = TelemetrySampler()
        with reporter.stage(title, settings.warmup + settings.iterations) as step:

            def on_round(step: Step = step, sampler: TelemetrySampler = sampler) -> None:
                step()
                sampler()

            times = alternate(calls, settings.warmup, settings.iterations, on_round)
        conditions = sampler.finish()
        reasons = unreliable(conditions, threads, max((spread(each) or 0 for each in times.values()), default=0))
        if not reasons or attempt == ATTEMPTS - 1:
            break
        reporter.say(f"timing again: {'; '.join(reasons)}")
    return times, conditions


def spread(times: Times) -> float | None:
    """How far apart blocks of neighbouring rounds are: from the third lowest of 20 medians to the third highest, as a
    share of the median of all. None for too few rounds, [N] in ms."""
    if len(times) < FEWEST_ROUNDS:
        return None
    medians = sorted(float(np.median(block)) for block in np.array_split(times, BLOCKS))
    return (medians[-3] - medians[2]) / float(np.median(times))


def unreliable(conditions: Conditions, threads: int, spread: float | None) -> list[str]:
    """Why a latency must not be quoted, each reason with what helps; empty if it may be."""
    found = [throttled(conditions), other_load(conditions, threads), drifted(spread)]
    return [reason for reason in found if reason]


def throttled(conditions: Conditions) -> str | None:
    """That the processor was slowed down while it was timed."""
    if not conditions.throttled:
        return None
    degrees = [sample.celsius for sample in conditions.series if sample.celsius is not None]
    hottest = f", {max(degrees):.0f} °C" if degrees else ""
    names = ", ".join(conditions.throttled)
    return f"the processor was slowed down while it was timed ({names}{hottest}): cool it, or power it better"


def other_load(conditions: Conditions, threads: int) -> str | None:
    """That other processes took CPUs that the session's threads need."""
    other, cpus = conditions.other_cpus, conditions.cpus
    if other is None or other + min(threads, cpus) <= cpus + MOST_TAKEN * threads:
        return None
    return (
        f"other processes kept {other:.1f} of {cpus} CPUs busy beside {threads} thread{'s' if threads > 1 else ''}: "
        "stop them, or use fewer --threads"
    )


def drifted(spread: float | None) -> str | None:
    """That blocks of neighbouring rounds are too far apart."""
    if spread is None or spread <= MOST_SPREAD:
        return None
    return f"latency drifted by {spread:.0%} of p50: let the machine settle, or raise --iterations"
