"""Measure throughput: several streams side by side, each a thread with its own session of the bundle."""

import threading
import time
from array import array
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import StageError
from edgekit.measure.latency import Times
from edgekit.measure.settings import Timing
from edgekit.report.figure import counted
from edgekit.report.times import Throughput
from edgekit.runtime.bundle import Bundle
from edgekit.runtime.engine import check_threads
from edgekit.runtime.session import open_session
from edgekit.support.progress import Reporter, each_bundle


def measure_streams(
    bundles: Mapping[str, tuple[Bundle, NDArray[np.float32]]], timing: Timing, reporter: Reporter
) -> tuple[dict[str, Throughput], dict[str, Exception]]:
    """Throughput of each bundle on its image, and the errors of those that fail; nothing without `timing.streams`."""
    if not timing.streams:
        return {}, {}
    work = f"run {counted(timing.streams, 'stream')}"

    def measure(name: str) -> Throughput:
        with reporter.stage(f"{name}: {work}"):
            return measure_throughput(*bundles[name], timing)

    return each_bundle(bundles, measure, reporter, work)


def measure_throughput(bundle: Bundle, image: NDArray[np.float32], timing: Timing) -> Throughput:
    """Run `timing.streams` sessions of the bundle at once on a normalized image, float32 [1,C,H,W].

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
    begin, stop = threading.Barrier(len(calls)), threading.Event()

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
