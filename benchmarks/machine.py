"""The machine under a benchmark: waits until other processes rest, and measures the memory that processes need."""

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import psutil

from edgekit.measure.machine import TelemetrySampler

T = TypeVar("T")
MOST_CPUS = 0.1
"""Processor cores that other processes may keep busy."""
MOST_STEAL = 0.02
"""Share of the processor's time that a virtual machine's host may take away."""
MOST_DRIFT = 0.25
"""How much the time of a fixed product may change from before to after a measurement."""
WATCH_S, WAIT_S, PRODUCT_S, TRIES = 2.0, 600.0, 0.5, 5
INTERVAL = 0.05
"""Seconds between two samples of a peak."""


@dataclass(frozen=True)
class Conditions:
    """The machine's state during a measurement."""

    other_cpus: float
    """Cores that other processes kept busy."""
    steal: float
    """Share of the processor's time that the host took away."""
    product_ms: tuple[float, float]
    """Median time of a fixed product of matrices before and after."""

    @property
    def idle(self) -> bool:
        """Whether nothing else used the processor."""
        return self.other_cpus <= MOST_CPUS and self.steal <= MOST_STEAL

    @property
    def steady(self) -> bool:
        """Whether the machine was idle and equally fast before and after."""
        before, after = self.product_ms
        return self.idle and abs(after / before - 1) <= MOST_DRIFT

    def __str__(self) -> str:
        before, after = self.product_ms
        return (
            f"other processes {self.other_cpus:.2f} cores, steal {self.steal:.1%}, "
            f"product {before:.2f} then {after:.2f} ms"
        )


def when_idle(measure: Callable[[], T], what: str) -> tuple[T, Conditions]:
    """Measure on an idle machine, again if it wasn't idle meanwhile; SystemExit if it doesn't become idle.

    `measure` may use child processes, which must have ended when it returns.
    """
    for _ in range(TRIES):
        wait_until_idle(what)
        watch = _Watch()
        measured = measure()
        conditions = watch.conditions()
        print(f"{what}: {conditions}{'' if conditions.steady else '; again'}", flush=True)
        if conditions.steady:
            return measured, conditions
    raise SystemExit(f"{what}: disturbed {TRIES} times; end other processes, and run the command again")


def wait_until_idle(what: str) -> None:
    """Return once other processes rest for some seconds."""
    end = time.monotonic() + WAIT_S
    while True:
        watch = _Watch()
        time.sleep(WATCH_S)
        conditions = watch.conditions()
        if conditions.idle:
            return
        if time.monotonic() > end:
            raise SystemExit(f"{what}: not timed, because the machine isn't idle: {conditions}")
        print(f"{what}: waiting for an idle machine: {conditions}", flush=True)
        time.sleep(WATCH_S)


class _Watch:
    """Watches the machine from its creation on."""

    def __init__(self) -> None:
        self._product_ms = product_ms()
        self._sampler, self._times = TelemetrySampler(), psutil.cpu_times()

    def conditions(self) -> Conditions:
        busy, times = self._sampler.finish().other_cpus, psutil.cpu_times()
        passed = sum(times) - sum(self._times)
        stolen = getattr(times, "steal", 0.0) - getattr(self._times, "steal", 0.0)
        steal = stolen / passed if passed else 0.0
        return Conditions(round(busy or 0.0, 3), round(steal, 4), (self._product_ms, product_ms()))


def product_ms() -> float:
    """Median milliseconds of a product of two float32 matrices [160,160] on one thread, during half a second."""
    matrix, times = np.ones((160, 160), np.float32), []
    end = time.perf_counter() + PRODUCT_S
    while (start := time.perf_counter()) < end:
        np.einsum("ij,jk", matrix, matrix)  # unlike @, it takes one thread, whatever the processes beside it do
        times.append(time.perf_counter() - start)
    return round(1e3 * float(np.median(times)), 3)


def memory_of(pid: int) -> int:
    """Bytes that a process needs. Pages that several processes share count once (PSS).

    Pages of files count only while they wait to be written; once written, the system can drop them.
    """
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith(("Pss_Dirty:", "SwapPss:")))


def memory_of_tree(pid: int) -> int:
    """Bytes that a process and its descendants need together; 0 if it has ended."""
    total = 0
    with suppress(psutil.Error):
        for process in (parent := psutil.Process(pid), *parent.children(recursive=True)):
            with suppress(psutil.Error, OSError):  # the process has ended in the meantime
                total += memory_of(process.pid)
    return total


@contextmanager
def peak_of_this_process() -> Iterator[Any]:
    """Yields a shared value whose `value` is the largest memory so far, which may be set to 0. Another process samples.

    A thread of this process would wait for compilers that hold Python's lock.
    """
    context = multiprocessing.get_context("spawn")
    peak = context.Value("q", 0)
    sampler = context.Process(target=_sample, args=(os.getpid(), peak), daemon=True)
    sampler.start()
    try:
        yield peak
    finally:
        sampler.kill()
        sampler.join()


def _sample(pid: int, peak: Any) -> None:
    while True:
        start = time.monotonic()
        size = memory_of(pid)
        with peak.get_lock():
            peak.value = max(peak.value, size)
        # The kernel walks over all pages, during which the process can't get new ones.
        time.sleep(max(INTERVAL, 10 * (time.monotonic() - start)))
