"""The number of threads with which a bundle is fastest, for jobs that don't state one.

Below about a millisecond, waking a second thread may take longer than it saves. Such a bundle is fastest with one, and
an app has the other cores for itself.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import numpy as np

from edgekit.measure.latency import FEWEST_BLOCKS, TURN, CallFailed, Times, alternate, ratio
from edgekit.measure.machine import TelemetrySampler
from edgekit.measure.steadiness import enough_rounds, unreliable
from edgekit.report.device import Conditions
from edgekit.report.times import ThreadTime
from edgekit.runtime.bundle import Bundle
from edgekit.runtime.session import open_session
from edgekit.support.progress import Reporter

NEAR = 1.25
"""Largest median, as a multiple of the shortest one, with which a number of threads is timed in turns."""
APART = 1.05
"""Ratio up to which two sessions tie: the place of a session in memory alone makes as much."""
FEWEST_ROUNDS, MOST_ROUNDS = FEWEST_BLOCKS * TURN, 200


@dataclass(frozen=True)
class ThreadChoice:
    """The number of threads that a bundle is measured with."""

    threads: int
    times: tuple[ThreadTime, ...] = ()
    """Medians of the numbers that were compared, fewest first; empty if there was no comparison."""


def fastest_threads(bundle: Bundle, cores: int, reporter: Reporter) -> ThreadChoice:
    """Choose the fastest number of threads on this machine: one, every physical core, or a power of two between.

    It is every core if other processes, or heat, may have slowed down all larger numbers. Raises StageError if a
    session fails.
    """
    if cores == 1:
        return ThreadChoice(cores)
    image = bundle.manifest.preprocessing.normalize(bundle.golden().pixels[0])
    sampler = TelemetrySampler()

    def opened(threads: int, stack: ExitStack) -> Callable[[], object]:
        return partial(stack.enter_context(open_session(bundle, threads)), image)

    def look(threads: int) -> float:
        with ExitStack() as stack:
            times = alternate({threads: opened(threads, stack)}, 1, TURN)
        return float(np.median(times[threads]))

    try:
        with reporter.stage(f"{bundle.path.name}: choose threads"), ExitStack() as stack:
            p50 = promising(cores, look)
            near = [threads for threads, each in p50.items() if each <= NEAR * min(p50.values())]
            calls = {threads: opened(threads, stack) for threads in near}
            enough = partial(enough_rounds, fewest=FEWEST_ROUNDS, look_every=FEWEST_ROUNDS)
            times = alternate(calls, 1, MOST_ROUNDS, lambda *_: sampler(), enough=enough) if len(near) > 1 else {}
    except CallFailed as failed:
        raise failed.error from failed
    p50 |= {threads: float(np.median(each)) for threads, each in times.items()}
    chosen = fewest_of_the_fastest(times) if times else near[0]
    if not is_certain(chosen, p50, sampler.finish()):
        return ThreadChoice(cores)
    return ThreadChoice(chosen, tuple(ThreadTime(threads, p50[threads]) for threads in sorted(p50)))


def promising(cores: int, look: Callable[[int], float]) -> dict[int, float]:
    """Median latency in ms by number of threads, from every core down to the first number that is clearly too small."""
    p50: dict[int, float] = {}
    for threads in sorted(
        {cores, *(2**power for power in range(cores.bit_length()) if 2**power < cores)}, reverse=True
    ):
        p50[threads] = look(threads)
        if p50[threads] > NEAR * min(p50.values()):
            break
    return p50


def fewest_of_the_fastest(times: Mapping[int, Times]) -> int:
    """The number of threads to choose by times [N] in ms from the same rounds.

    More threads must be faster by the whole interval of the ratio, and by more than two sessions differ anyway.
    """
    chosen, *larger = sorted(times)
    for threads in larger:
        _, ends = ratio(times[chosen], times[threads])
        if ends is not None and ends[0] > APART:
            chosen = threads
    return chosen


def is_certain(chosen: int, compared: Iterable[int], conditions: Conditions) -> bool:
    """Whether no number of threads that would be faster on an idle machine can have lost.

    Of the numbers above the chosen one, one must have had all the cores that it needs, and was no faster.
    """
    larger = [threads for threads in compared if threads > chosen]
    return not larger or any(not unreliable(conditions, threads, None) for threads in larger)
