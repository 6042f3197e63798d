"""Latency, memory and load time, through the very session that an app uses. Needs numpy and the runtime alone.

Run as a module it measures one bundle in a fresh process: ``python -m edgekit.benchmark BUNDLE THREADS`` prints JSON.
"""

import gc
import json
import os
import resource
import signal
import subprocess
import sys
import time
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import EngineError

K = TypeVar("K")
BLOCK = 10
FEWEST_BLOCKS = 20
"""Drawing from fewer gives intervals that are too short: of 3 blocks 79 in 100 cover, where 95 should."""
RESAMPLES = 2000
PERCENTILES = (5, 25, 50, 75, 90, 95, 99)


@dataclass(frozen=True)
class Fresh:
    """One bundle in a process of its own: milliseconds and bytes."""

    load_ms: float
    first_ms: float
    peak_rss_bytes: int


def alternate(
    calls: Mapping[K, Callable[[], object]],
    warmup: int,
    iterations: int,
    on_round: Callable[[], None] = lambda: None,
    seconds: float | None = None,
) -> dict[K, NDArray[np.float64]]:
    """Milliseconds of each call, [iterations] for each key; they take turns, so that drift hits all alike.

    With `seconds` there are as many timed rounds as begin within that time instead, one at the least.
    """
    times = {name: array("d") for name in calls}
    gc_was_on = gc.isenabled()
    gc.disable()
    try:
        for _ in range(warmup):
            for call in calls.values():
                call()
            on_round()
        for _ in _rounds(iterations, seconds):
            for name, call in calls.items():
                start = time.perf_counter_ns()
                call()
                times[name].append((time.perf_counter_ns() - start) / 1e6)
            on_round()
    finally:
        if gc_was_on:
            gc.enable()
    return {name: np.array(each) for name, each in times.items()}


def _rounds(iterations: int, seconds: float | None) -> Iterator[None]:
    if seconds is None:
        yield from repeat(None, iterations)
        return
    end = time.monotonic() + seconds
    yield
    while time.monotonic() < end:
        yield


def summary(times: NDArray[np.float64], threads: int) -> dict[str, Any]:
    """The figures of `latency_ms` in report.json that the times give; `load` and `first` come from a fresh process."""
    percentiles = np.percentile(times, PERCENTILES)
    return {
        **{f"p{each}": float(value) for each, value in zip(PERCENTILES, percentiles, strict=True)},
        "mean": float(times.mean()),
        "std": float(times.std(ddof=1)) if len(times) > 1 else 0.0,
        "count": len(times),
        "threads": threads,
    }


def ratio(slow: NDArray[np.float64], fast: NDArray[np.float64], seed: int = 0) -> tuple[float, tuple[float, float]]:
    """Median of `slow` over median of `fast`, with a 95 % bootstrap interval over blocks of neighbouring rounds.

    Both [N] in ms, from the same rounds of `alternate`; whole blocks are drawn because neighbours are alike.
    """
    point = float(np.median(slow) / np.median(fast))
    blocks = max(min(len(slow), FEWEST_BLOCKS), len(slow) // BLOCK)
    rows = [np.array_split(each, blocks) for each in (slow, fast)]
    width = min(len(block) for block in rows[0])
    a, b = (np.stack([block[:width] for block in each]) for each in rows)
    chosen = np.random.default_rng(seed).integers(0, blocks, (RESAMPLES, blocks))
    medians = [np.median(each[chosen].reshape(RESAMPLES, -1), axis=1) for each in (a, b)]
    low, high = np.percentile(medians[0] / medians[1], (2.5, 97.5))
    return point, (float(low), float(high))


def measure_fresh(bundle: Path, threads: int, timeout: float = 600) -> Fresh:
    """Load time, first inference and peak memory of a bundle in a process of its own; EngineError if that dies."""
    command = [sys.executable, "-P", "-m", "edgekit.benchmark", str(bundle), str(threads)]
    # The same packages as here, and none from the folder that the user happens to be in.
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False, env=environment)
    except subprocess.TimeoutExpired:
        raise EngineError(f"'{bundle.name}' didn't finish one inference within {timeout:.0f} s") from None
    if done.returncode < 0:
        raise EngineError(f"'{bundle.name}' can't run here: its process was ended by {signal_name(-done.returncode)}")
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()
        cause = said[-1] if said else f"exit status {done.returncode}"
        raise EngineError(f"'{bundle.name}' can't run in a process of its own: {cause}")
    return Fresh(**json.loads(done.stdout.splitlines()[-1]))


def signal_name(number: int) -> str:
    """With what it usually means for a runtime."""
    meanings = {
        signal.SIGILL: "the runtime uses an instruction that this processor lacks: leave it out with --target",
        signal.SIGSEGV: "the runtime crashed: try another version of it, or leave it out with --target",
        signal.SIGKILL: "most likely for want of memory: close what else runs, or use a smaller model",
    }
    try:
        found = signal.Signals(number)
    except ValueError:
        return f"signal {number}"
    return f"{found.name} ({meanings[found]})" if found in meanings else found.name


def peak_rss_bytes() -> int:
    """The most memory this process has had, in bytes."""
    try:
        # ru_maxrss would start at the parent's peak: it survives exec.
        status = Path("/proc/self/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main(arguments: Sequence[str]) -> None:
    from edgekit.runtime import load

    path, threads = Path(arguments[0]), int(arguments[1])
    start = time.perf_counter()
    session = load(path, threads)
    loaded = time.perf_counter()
    session(np.zeros(session.bundle.manifest.input_shape, np.float32))
    ran = time.perf_counter()
    fresh = Fresh((loaded - start) * 1e3, (ran - loaded) * 1e3, peak_rss_bytes())
    print(json.dumps(vars(fresh)))


if __name__ == "__main__":
    main(sys.argv[1:])
