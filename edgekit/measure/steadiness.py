"""Whether a latency may be quoted. The rule, in this order:

- heat: the processor was throttled while it was timed;
- other load: other processes took more than a tenth of the CPUs that the session's threads need;
- spread: of 20 blocks of neighbouring rounds, the median of the third slowest is more than 50 % of p50 above the third
  fastest's.

What is unfit is timed again, three times at most. A row that stays unfit is remarked on; where the user states a
speedup it is "not shown", with the reason: it doesn't pass and is not recommended. Too short a measurement, or a system
that doesn't tell, is not held against a row. A sustained run is about heat and drift: there they are remarks.

Why these limits: on two shared virtual cores, a ConvNeXt V2 atto of 8 ms had a spread of 3 to 6 % when nothing else
ran and 67 to 98 % beside two busy loops; a model of 1 ms had 13 to 44 % when nothing else ran. Others took 0.05 CPUs at
the most there, and 1.0 to 1.4 beside the loops.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgekit.measure.latency import alternate
from edgekit.measure.settings import Settings
from edgekit.measure.telemetry import Watch
from edgekit.support.progress import Reporter, Step

K = TypeVar("K")
Row = dict[str, Any]
Times = NDArray[np.float64]

BLOCKS = 20
FEWEST_ROUNDS = 100
"""Blocks of fewer than five rounds say more of single rounds than of drift."""
MOST_SPREAD = 0.5
MOST_TAKEN = 0.1
ATTEMPTS = 3


def time_steadily(
    calls: Mapping[K, Callable[[], object]], threads: int, settings: Settings, title: str, reporter: Reporter
) -> tuple[dict[K, Times], Row]:
    """Milliseconds of each call as `alternate` gives them, and the conditions; again while they are unfit to quote."""
    for attempt in range(ATTEMPTS):
        watch = Watch()
        with reporter.stage(title, settings.warmup + settings.iterations) as step:

            def on_round(step: Step = step, watch: Watch = watch) -> None:
                step()
                watch()

            times = alternate(calls, settings.warmup, settings.iterations, on_round)
        conditions = watch.finish()
        reasons = unfit(conditions, threads, max((spread(each) or 0 for each in times.values()), default=0))
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


def unfit(conditions: Row | None, threads: int, spread: float | None) -> list[str]:
    """Why a latency is unfit to quote, each with what helps; empty if it may be."""
    conditions = conditions or {}
    return [each for each in (_heat(conditions), _load(conditions, threads), _spread(spread)) if each]


def _heat(conditions: Row) -> str | None:
    names = conditions.get("throttled")
    if not names:
        return None
    degrees = [each["celsius"] for each in conditions["series"] if each["celsius"] is not None]
    hottest = f", {max(degrees):.0f} °C" if degrees else ""
    return (
        f"the processor was slowed down while it was timed ({', '.join(names)}{hottest}): cool it, or power it better"
    )


def _load(conditions: Row, threads: int) -> str | None:
    other, cpus = conditions.get("other_cpus"), conditions.get("cpus")
    if other is None or cpus is None or other + min(threads, cpus) <= cpus + MOST_TAKEN * threads:
        return None
    return (
        f"other processes kept {other:.1f} of {cpus} CPUs busy beside {threads} thread{'s' if threads > 1 else ''}: "
        "stop them, or use fewer --threads"
    )


def _spread(found: float | None) -> str | None:
    if found is None or found <= MOST_SPREAD:
        return None
    return f"its blocks of rounds are {found:.0%} of p50 apart: let the machine come to rest, or raise --iterations"
