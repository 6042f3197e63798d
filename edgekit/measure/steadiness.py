"""Decide whether a latency is reliable. Any of the following makes it unreliable, checked in this order:

- heat: the processor was throttled during timing;
- other load: other processes used more than a tenth of the cores that the session's threads need. A CPU that shares
  its core with a busy one is not idle, so cores count, and each busy CPU takes one;
- a hidden page: browsers slow down a page that is not in front;
- drift: of 20 blocks of neighbouring rounds, the third slowest median is more than 50 % of p50 above the third fastest.

An unreliable latency is timed again, up to three times in total. A row that stays unreliable gets a remark. If the user
stated a speed-up, its verdict is inconclusive instead, so that it neither passes nor is recommended. Measurements that
are too short to tell, and systems that report nothing, count as reliable. A sustained run measures heat and drift, so
there they are only remarks.

Reasons for the limits: on two shared virtual cores, a ConvNeXt V2 atto of 8 ms drifted by 3 to 6 % when nothing else
ran and by 67 to 98 % next to two busy loops. A model of 1 ms drifted by 13 to 44 % when nothing else ran. Other
processes used at most 0.05 CPUs there, and 1.0 to 1.4 with the loops.
"""

from array import array
from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np

from edgekit.measure.latency import Times, alternate, are_precise
from edgekit.measure.machine import TelemetrySampler
from edgekit.measure.settings import Timing
from edgekit.report.device import Conditions
from edgekit.report.figure import counted
from edgekit.support.progress import Reporter, Step

K = TypeVar("K")

BLOCKS = 20
FEWEST_ROUNDS = 100
"""Fewest rounds that show drift: in a block of less than five, single rounds dominate the median."""
MOST_SPREAD = 0.5
"""Largest drift, as a share of p50."""
MOST_TAKEN = 0.1
"""Largest load of other processes on the cores that the threads need, as a share of those."""
ATTEMPTS = 3
PRECISE_WITHIN = 0.03
"""Half of the largest interval, as a share of a ratio, with which timing may end early."""
LOOK_EVERY = 20
"""Rounds from one look at the intervals to the next, because it takes as long as some inferences."""


def time_steadily(
    calls: Mapping[K, Callable[[], object]], threads: int, timing: Timing, title: str, reporter: Reporter
) -> tuple[dict[K, Times], Conditions]:
    """Time the calls with `alternate`, again if the times are unreliable; returns milliseconds and conditions."""

    def attempt() -> tuple[dict[K, Times], Conditions]:
        sampler = TelemetrySampler()
        with reporter.stage(title, timing.warmup + timing.iterations) as step:

            def on_turn(_: K, rounds: int, step: Step = step) -> None:
                step(rounds / len(calls))
                sampler()

            enough = enough_rounds if timing.may_end_early else None
            times = alternate(calls, timing.warmup, timing.iterations, on_turn, enough=enough)
        return times, sampler.finish()

    return repeat_until_steady(attempt, threads, reporter)


def enough_rounds(times: Mapping[K, "array[float]"], fewest: int = FEWEST_ROUNDS, look_every: int = LOOK_EVERY) -> bool:
    """Whether these rounds, by default enough to show drift, tell precisely how much faster each call is."""
    rounds = min(map(len, times.values()))
    if rounds < fewest or rounds % look_every:
        return False
    return are_precise({key: np.array(values) for key, values in times.items()}, PRECISE_WITHIN)


def repeat_until_steady(
    attempt: Callable[[], tuple[dict[K, Times], Conditions]], threads: int, reporter: Reporter
) -> tuple[dict[K, Times], Conditions]:
    """Make attempts until the times are reliable, at most three; returns those of the last one."""
    for number in range(ATTEMPTS):
        times, conditions = attempt()
        reasons = unreliable(conditions, threads, max((spread(values) or 0 for values in times.values()), default=0))
        if not reasons or number == ATTEMPTS - 1:
            break
        reporter.say(f"timing again: {'; '.join(reasons)}")
    return times, conditions


def spread(times: Times) -> float | None:
    """Drift of times [N] in ms, or None for too few rounds.

    It is the distance from the third lowest to the third highest of the medians of 20 blocks of neighbouring rounds, as
    a share of the median of all rounds.
    """
    if len(times) < FEWEST_ROUNDS:
        return None
    medians = sorted(float(np.median(block)) for block in np.array_split(times, BLOCKS))
    return (medians[-3] - medians[2]) / float(np.median(times))


def unreliable(conditions: Conditions, threads: int, spread: float | None) -> list[str]:
    """Reasons why a latency is unreliable, each with a remedy; empty if it is reliable."""
    reasons = [reason] if (reason := throttled(conditions)) else []
    other, cores = conditions.other_cpus, conditions.cores or conditions.cpus
    needed = min(threads, cores)
    if other is not None and other + needed > cores + MOST_TAKEN * needed:
        reasons.append(
            f"other processes used {other:.1f} CPUs beside {counted(threads, 'thread')} on {counted(cores, 'core')}: "
            "stop them, or use fewer --threads"
        )
    if conditions.hidden:
        reasons.append("the page was hidden during timing: keep it in front, and the screen on")
    if spread is not None and spread > MOST_SPREAD:
        reasons.append(f"latency drifted by {spread:.0%} of p50: let the machine settle, or raise --iterations")
    return reasons


def throttled(conditions: Conditions) -> str | None:
    """Reason if the processor was throttled during timing, or None."""
    if not conditions.throttled:
        return None
    degrees = [sample.celsius for sample in conditions.series if sample.celsius is not None]
    hottest = f", {max(degrees):.0f} °C" if degrees else ""
    names = ", ".join(conditions.throttled)
    return f"the processor was throttled during timing ({names}{hottest}): improve its cooling or power supply"
