"""Latency and throughput of bundles: rounds in turns, threads, and what makes times unreliable.

Sessions are timed in turns in one process, for a number of rounds or for minutes, in which a device warms up. If one
fails, it is dropped and the others are timed again. Any of the following makes a latency unreliable, checked in this
order:

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

A job that states no number of threads gets the fastest for each bundle. Below about a millisecond, waking a second
thread may take longer than it saves; such a bundle is fastest with one, and an app has the other cores for itself.
Throughput is that of several streams side by side, each a thread with its own session.
"""

import gc
import math
import threading
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import combinations
from statistics import NormalDist
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import StageError, costs_a_row
from edgekit.measure.machine import TelemetrySampler
from edgekit.measure.settings import Timing
from edgekit.report.figure import Conditions, Interval, Throughput, counted
from edgekit.report.row import Latency, Speedup, Sustained, SustainedLatency, SustainedPoint, ThreadTime
from edgekit.runtime.bundle import Bundle
from edgekit.runtime.engine import check_threads
from edgekit.runtime.session import open_session
from edgekit.support.progress import Reporter, Step

K = TypeVar("K")
Times = NDArray[np.float64]
"""Milliseconds [N], one value per round."""


@dataclass(frozen=True)
class Turns:
    """How calls take turns."""

    turn: int = 5
    """Timed runs of a call in a row. Intervals of longer turns are too short: of 100 for two sessions of the same
    bundle, 93 contained 1 with turns of 5, 83 with turns of 10, and 73 with turns of 20."""
    lead_runs: int = 3
    """Most untimed runs at the start of a turn. The other calls have emptied the processor's caches: on two cores of a
    Xeon, the first inference of a turn took 1.1 to 2.5 times as long as the fifth, and a model of 2 ms needed three to
    be as fast as in a loop."""
    lead_ms: float = 25.0
    """Milliseconds after which no other untimed run begins."""


TURNS = Turns()
BLOCK = 10
"""Rounds of one block of the bootstrap: two turns, because neighbouring turns are correlated."""
FEWEST_BLOCKS = 10
"""Fewest blocks. Shorter runs have shorter blocks instead, down to one turn."""
FEWEST_FOR_INTERVAL = 6 * TURNS.turn
"""Fewest rounds that have an interval. The medians of fewer than six turns rarely lie on both sides of the true one."""
MOST_BLOCKS = 200
"""Most blocks. In runs of more than 2,000 rounds, blocks get longer instead, which bounds the bootstrap's time."""
RESAMPLES = 2000
VALUES = 1000
"""Most values among which the bootstrap looks for medians."""


class CallFailed(Exception, Generic[K]):
    """The call named `key` raised `error`."""

    def __init__(self, key: K, error: Exception) -> None:
        super().__init__(str(error))
        self.key, self.error = key, error


def alternate(
    calls: Mapping[K, Callable[[], object]],
    warmup: int,
    iterations: int,
    on_turn: Callable[[K, int], None] = lambda _, __: None,
    seconds: float | None = None,
    enough: Callable[[Mapping[K, "array[float]"]], bool] | None = None,
) -> dict[K, Times]:
    """Time calls in turns, so that drift of the machine affects all of them equally.

    In its turn a call runs `TURNS.turn` times, as a model does in an app's loop, after a few runs that don't count.

    Args:
        calls: The calls, by key. Each one runs once per round.
        warmup: Number of rounds before the timed ones.
        iterations: Number of timed rounds.
        on_turn: Called after every turn of every call, with its key and its number of rounds, which is 1 in warm-up.
            Untimed runs follow, so that what it does slows down no timed run, and no call more than the others.
        seconds: Start turns for this long instead of timing `iterations` rounds; each call has at least one.
        enough: Called when every call has had its turn, with the milliseconds of each call so far; no other turns
            follow if it returns True.

    Returns:
        Milliseconds of each timed round, float64 [N], by key.

    Raises:
        CallFailed: A call raised a StageError, or an exception that is a bug in edgekit.
    """
    times = {name: array("d") for name in calls}
    gc_was_on = gc.isenabled()
    gc.disable()
    try:
        for _ in range(warmup):
            for name, call in calls.items():
                _run(name, call)
                on_turn(name, 1)
        for turn in _turns(iterations, seconds):
            for name, call in calls.items():
                _lead(name, call)
                for _ in range(turn):
                    start = time.perf_counter_ns()
                    _run(name, call)
                    times[name].append((time.perf_counter_ns() - start) / 1e6)
                on_turn(name, turn)
            if enough is not None and enough(times):
                break
    finally:
        if gc_was_on:
            gc.enable()
    return {name: np.array(values) for name, values in times.items()}


def _run(name: K, call: Callable[[], object]) -> None:
    try:
        call()
    except Exception as error:
        if not costs_a_row(error):
            raise
        raise CallFailed(name, error) from error


def _turns(iterations: int, seconds: float | None) -> Iterator[int]:
    """Yield how often each call runs in its next turn."""
    if seconds is None:
        yield from (min(TURNS.turn, iterations - done) for done in range(0, iterations, TURNS.turn))
        return
    end = time.monotonic() + seconds
    yield TURNS.turn
    while time.monotonic() < end:
        yield TURNS.turn


def _lead(name: K, call: Callable[[], object]) -> None:
    """Fill the processor's caches by running the call, without timing it."""
    end = time.perf_counter() + TURNS.lead_ms / 1e3
    for _ in range(TURNS.lead_runs):
        _run(name, call)
        if time.perf_counter() >= end:
            break


def ratio(slow: Times, fast: Times, seed: int = 0) -> tuple[float, Interval | None]:
    """Median of `slow` divided by the median of `fast`, with a 95 % bootstrap interval.

    Both are [N] in ms, from the same rounds of `alternate`. The bootstrap draws blocks of neighbouring rounds, because
    neighbouring rounds are correlated. Fewer than `FEWEST_FOR_INTERVAL` rounds have no interval.
    """
    point, rounds = float(np.median(slow) / np.median(fast)), len(slow)
    if rounds < FEWEST_FOR_INTERVAL:
        return point, None
    blocks = min(max(rounds // BLOCK, min(rounds // TURNS.turn, FEWEST_BLOCKS)), MOST_BLOCKS)
    chosen = np.random.default_rng(seed).integers(0, blocks, (RESAMPLES, blocks))
    tail = 100 * _tail(blocks)
    low, high = np.percentile(_medians(slow, chosen) / _medians(fast, chosen), (tail, 100 - tail))
    return point, (float(low), float(high))


def _tail(blocks: int) -> float:
    """Share of resamples beyond each end of a 95 % interval, from so many blocks.

    The resamples of few blocks vary too little. As many standard deviations as Student's t has are therefore counted
    (Hesterberg's expanded percentiles, 2015), and Fisher's series gives t.
    """
    z, free = NormalDist().inv_cdf(0.975), blocks - 1
    t = z + (z**3 + z) / (4 * free) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * free**2)
    return NormalDist().cdf(-t * math.sqrt(blocks / free))


def are_precise(times: Mapping[K, Times], within: float) -> bool:
    """Whether each 95 % interval of the ratio of two calls, see `ratio`, lies within this share of the ratio.

    `times` are [N] in ms, from the same rounds; a single call has no ratio. Whether an interval contains 1 doesn't
    count: rounds that end as soon as it doesn't would find a difference between equal calls in one case of seven.
    """
    ratios = [ratio(slow, fast) for slow, fast in combinations(times.values(), 2)]
    return bool(ratios) and all(
        ends is not None and max(point - ends[0], ends[1] - point) <= within * point for point, ends in ratios
    )


def _medians(times: Times, chosen: NDArray[np.int64]) -> Times:
    """Median of each resample of blocks of times [N]; `chosen` [resamples, blocks] has the numbers of its blocks.

    A resample is never built, because those of a run of ten minutes would take gigabytes. How many of its times are at
    most a value follows from how many of each block's are, and how often it has the block. In long runs, the medians
    are taken from `VALUES` quantiles of the times.
    """
    resamples, blocks = chosen.shape
    rows = np.stack([block[: len(times) // blocks] for block in np.array_split(times, blocks)])
    total = rows.size
    values = np.sort(rows, axis=None)[np.unique(np.linspace(0, total - 1, min(total, VALUES)).astype(int))]
    up_to = np.stack([np.searchsorted(np.sort(row), values, "right") for row in rows]).astype(np.float32)
    places = chosen + blocks * np.arange(resamples)[:, None]
    repeats = np.bincount(places.ravel(), minlength=chosen.size).reshape(chosen.shape)
    counts = repeats.astype(np.float32) @ up_to
    lower, upper = ((counts <= rank).sum(axis=1) for rank in ((total - 1) // 2, total // 2))
    medians: Times = (values[lower] + values[upper]) / 2
    return medians


def speedup(versus: str, slow: Times, fast: Times, versus_precision: str | None = None) -> Speedup:
    """Speed-up of `fast` over `slow`, the times of the bundle `versus` when it computes in `versus_precision`."""
    point, interval = ratio(slow, fast)
    return Speedup(versus=versus, versus_precision=versus_precision, ratio=point, ci95=interval)


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


def enough_rounds(times: Mapping[K, "array[float]"], fewest: int = FEWEST_ROUNDS, look_every: int = LOOK_EVERY) -> bool:
    """Whether these rounds, by default enough to show drift, tell precisely how much faster each call is."""
    rounds = min(map(len, times.values()))
    if rounds < fewest or rounds % look_every:
        return False
    return are_precise({key: np.array(values) for key, values in times.items()}, PRECISE_WITHIN)


def repeats(attempt: int, times: Mapping[K, Times], conditions: Conditions, threads: int, reporter: Reporter) -> bool:
    """Whether another attempt follows this one, the first of which is 1: its times are unreliable, and it isn't the
    third."""
    reasons = unreliable(conditions, threads, max((spread(values) or 0 for values in times.values()), default=0))
    if not reasons or attempt >= ATTEMPTS:
        return False
    reporter.say(f"timing again: {'; '.join(reasons)}")
    return True


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


def time_in_turns(
    calls: Mapping[K, Callable[[], object]], threads: int, timing: Timing, title: str, reporter: Reporter
) -> Timed[K]:
    """Time the calls until the times are reliable, or for `timing.sustain_s` seconds.

    Without those that fail, the others are timed again.
    """
    remaining = dict(calls)
    failures: dict[K, Exception] = {}
    attempt = 0
    enough = enough_rounds if timing.may_end_early else None
    while remaining:
        sampler = TelemetrySampler()
        try:
            if timing.sustain_s is not None:
                timed = time_sustained(remaining, timing.warmup, timing.sustain_s, title, reporter)
                return replace(timed, failures=failures)
            with reporter.stage(title, timing.warmup + timing.iterations) as step:

                def on_turn(
                    _: K,
                    rounds: int,
                    step: Step = step,
                    sampler: TelemetrySampler = sampler,
                    count: int = len(remaining),
                ) -> None:
                    step(rounds / count)
                    sampler()

                times = alternate(remaining, timing.warmup, timing.iterations, on_turn, enough=enough)
        except CallFailed as failed:
            failures[failed.key] = failed.error
            del remaining[failed.key]
            attempt = 0
            continue
        attempt += 1
        conditions = sampler.finish()
        if not repeats(attempt, times, conditions, threads, reporter):
            return Timed(times, {}, conditions, failures)
    return Timed(failures=failures)


def latency_of(times: Times, **others: Any) -> Latency:
    """Compute latency figures from times [N] in ms, and add the others, by their fields."""
    p5, p25, p50, p75, p90, p95, p99 = np.percentile(times, PERCENTILES).tolist()
    return Latency(
        p5=p5,
        p25=p25,
        p50=p50,
        p75=p75,
        p90=p90,
        p95=p95,
        p99=p99,
        mean=float(times.mean()),
        std=float(times.std(ddof=1)) if len(times) > 1 else 0.0,
        spread=spread(times),
        count=len(times),
        **others,
    )


WINDOW_S = 60.0
"""Longest first and last window, in seconds."""
POINTS = 60
"""Largest number of points in the time series; each covers at least a second."""


def time_sustained(
    calls: Mapping[K, Callable[[], object]],
    warmup: int,
    seconds: float,
    title: str,
    reporter: Reporter,
) -> Timed[K]:
    """Time the calls in turns for `seconds`."""
    sampler = TelemetrySampler()
    ends = array("d")
    last = next(reversed(tuple(calls)), None)
    with reporter.stage(title, max(1, round(seconds))) as step:

        def on_turn(name: K, rounds: int) -> None:
            now = sampler.seconds()
            if name == last:
                step(int(now) - int(ends[-1] if ends else 0))
                ends.extend([now] * rounds)
            sampler()

        times = alternate(calls, warmup, 1, on_turn, seconds)
    conditions = sampler.finish()
    at = np.array(ends)[warmup:]
    return Timed(times, {name: sustained(values, at) for name, values in times.items()}, conditions)


def sustained(times: Times, at: Times) -> Sustained:
    """Summarize the first and the last minute, from times [N] in ms and the seconds [N] at which their turns ended.

    A run of less than two minutes is split into halves instead.
    """
    begin = float(at[0])
    end = float(at[-1])
    window = min(WINDOW_S, (end - begin) / 2)
    first = _figures(times[at <= begin + window])
    last = _figures(times[at >= end - window])
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


NEAR = 1.25
"""Largest median, as a multiple of the shortest one, with which a number of threads is timed in turns."""
APART = 1.05
"""Ratio up to which two sessions tie: the place of a session in memory alone makes as much."""
FEWEST_TRIAL_ROUNDS, MOST_ROUNDS = FEWEST_BLOCKS * TURNS.turn, 200


def fastest_threads(bundle: Bundle, cores: int, reporter: Reporter) -> tuple[int, tuple[ThreadTime, ...]]:
    """Choose the fastest number of threads on this machine: one, every physical core, or a power of two between.

    Also returns the medians of the numbers that were compared, fewest first; none if there was no comparison.
    It is every core if other processes, or heat, may have slowed down all larger numbers. Raises StageError if a
    session fails.
    """
    if cores == 1:
        return cores, ()
    image = bundle.manifest.input_of(bundle.golden().pixels[0])
    sampler = TelemetrySampler()

    def opened(threads: int, stack: ExitStack) -> Callable[[], object]:
        return partial(stack.enter_context(open_session(bundle, threads)), image)

    def look(threads: int) -> float:
        with ExitStack() as stack:
            times = alternate({threads: opened(threads, stack)}, 1, TURNS.turn)
        return float(np.median(times[threads]))

    try:
        with reporter.stage(f"{bundle.path.name}: choose threads"), ExitStack() as stack:
            p50 = promising(cores, look)
            near = [threads for threads, each in p50.items() if each <= NEAR * min(p50.values())]
            calls = {threads: opened(threads, stack) for threads in near}
            enough = partial(enough_rounds, fewest=FEWEST_TRIAL_ROUNDS, look_every=FEWEST_TRIAL_ROUNDS)
            times = alternate(calls, 1, MOST_ROUNDS, lambda *_: sampler(), enough=enough) if len(near) > 1 else {}
    except CallFailed as failed:
        raise failed.error from failed
    p50 |= {threads: float(np.median(each)) for threads, each in times.items()}
    chosen = fewest_of_the_fastest(times) if times else near[0]
    if not is_certain(chosen, p50, sampler.finish()):
        return cores, ()
    return chosen, tuple(ThreadTime(threads, p50[threads]) for threads in sorted(p50))


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


def measure_throughput(bundle: Bundle, image: NDArray[Any], timing: Timing) -> Throughput:
    """Run `timing.streams` sessions of the bundle at once on an image as its input.

    The sessions share the cores, unless the user stated the number of threads. Raises StageError if one of them fails.
    """
    streams = timing.streams or 1
    threads = check_threads(timing.threads)
    if timing.threads is None:
        threads = min(bundle.manifest.threads or threads, max(1, threads // streams))
    with ExitStack() as stack:
        sessions = [stack.enter_context(open_session(bundle, threads)) for _ in range(streams)]
        calls = [partial(session, image) for session in sessions]
        times = run_side_by_side(calls, timing.warmup, timing.iterations)
    p50, p99 = np.percentile(np.concatenate(times), (50, 99)).tolist()
    return Throughput(
        streams=streams,
        threads=threads,
        images_per_second=sum(1e3 / float(stream.mean()) for stream in times),
        p50_ms=p50,
        p99_ms=p99,
        count=sum(map(len, times)),
    )


def run_side_by_side(calls: Sequence[Callable[[], object]], warmup: int, iterations: int) -> list[Times]:
    """Time all calls at once, each in its own thread.

    All threads begin the timed rounds together, and end when the first of them has timed `iterations`, so that every
    time was taken while all of them ran. Each times at least one.

    Returns:
        Milliseconds of each call's rounds, float64 [N], in the order of the calls.

    Raises:
        StageError: A call raised it.
    """
    begin = threading.Barrier(len(calls))
    stop = threading.Event()

    def stream(call: Callable[[], object]) -> Times:
        times = array("d")
        try:
            for _ in range(warmup):
                call()
            begin.wait()
            while not times or not stop.is_set():
                start = time.perf_counter_ns()
                call()
                times.append((time.perf_counter_ns() - start) / 1e6)
                if len(times) >= iterations:
                    stop.set()
        except BaseException:
            stop.set()
            begin.abort()  # otherwise the others would wait for this stream
            raise
        return np.array(times)

    with ThreadPoolExecutor(len(calls)) as pool:
        try:
            streams = [pool.submit(stream, call) for call in calls]
            errors = [error for error in (each.exception() for each in streams) if error is not None]
        except BaseException:
            stop.set()
            begin.abort()
            raise
    if errors:  # a stream that waited for the one that failed has a BrokenBarrierError
        raise next((error for error in errors if isinstance(error, StageError)), errors[0])
    return [each.result() for each in streams]
