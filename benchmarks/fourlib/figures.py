"""Figures of a LiteRT file that don't depend on labels: size, kernels and times."""

import json
from collections.abc import Hashable, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from benchmarks.fourlib.building import open_file
from benchmarks.rows import Row
from benchmarks.trainedlib.measuring import Bench
from edgekit.measure import machine
from edgekit.measure.latency import alternate, ratio
from edgekit.support.child_process import run_python

FOUR_BITS = "QC4W"
"""What the names of XNNPACK's kernels with 4-bit weights contain."""
PROFILE_S = 600
WARMUP = 5
K = TypeVar("K", bound=Hashable)


def facts(bench: Bench, path: Path) -> Row:
    """Size, number of kernels that ran with 4-bit weights, and what the figures were measured on."""
    return {
        "size_bytes": path.stat().st_size,
        "kernels": sum(FOUR_BITS in kernel for kernel in kernels(path)),
        "weights": bench.spec.network.weights if bench.spec.network.weights == "random" else "trained",
        "calibration_images": len(bench.spec.calibration.samples),
        "images": len(bench.crops),
        "float_top1": round(bench.float_score, 4),
        "cpu": machine.describe().cpu,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def kernels(path: Path) -> list[str]:
    """Names of the kernels that ran, in order. Raises RuntimeError if LiteRT's profiler fails."""
    done = run_python(["-m", "edgekit.runtime.tflite.litert_profiler", str(path.absolute()), "1", "1"], PROFILE_S)
    if done.returncode != 0:
        raise RuntimeError(f"LiteRT's profiler ended with status {done.returncode}: {done.stderr[-500:]}")
    (run,) = json.loads(done.stdout.splitlines()[-1])
    return [name for name, _ in run]


def times(files: Mapping[K, Path], image: NDArray[np.float32], seconds: float) -> dict[K, Row]:
    """Median milliseconds of each file, and their ratio to those of the first file with its 95 % interval."""
    calls = {key: partial(open_file(path), image) for key, path in files.items()}
    measured = alternate(calls, WARMUP, 0, seconds=seconds)
    first = next(iter(measured.values()))
    rows = {}
    for key, own in measured.items():
        value, interval = ratio(own, first)
        row = {"ms": round(float(np.median(own)), 3), "rounds": len(own), "ratio": round(value, 3)}
        rows[key] = row | {"ratio_ci95": [round(end, 3) for end in interval or ()]}
    return rows
