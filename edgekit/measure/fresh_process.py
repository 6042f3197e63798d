"""Load time, first inference and peak memory of a bundle, from a process that runs nothing else.

``python -m edgekit.measure.fresh_process BUNDLE THREADS`` is that process: it prints JSON, and needs numpy and the
runtime alone.
"""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekit.errors import EngineError
from edgekit.measure.memory import peak_rss_bytes
from edgekit.support.child_process import run_python


@dataclass(frozen=True)
class Fresh:
    """What a fresh process measured of one bundle, in milliseconds and bytes."""

    load_ms: float
    first_ms: float
    peak_rss_bytes: int


def measure_fresh(bundle: Path, threads: int, timeout: float = 600) -> Fresh:
    """Load time, first inference and peak memory of a bundle in a fresh process; EngineError if the process dies."""
    try:
        done = run_python(["-m", "edgekit.measure.fresh_process", str(bundle), str(threads)], timeout)
    except subprocess.TimeoutExpired:
        raise EngineError(f"'{bundle.name}' didn't finish one inference within {timeout:.0f} s") from None
    said = done.stderr.strip().splitlines()
    if done.returncode < 0:
        last_words = f". It printed last: {said[-1]}" if said else ""
        raise EngineError(
            f"'{bundle.name}' can't run here: its process was ended by {signal_name(-done.returncode)}{last_words}"
        )
    if done.returncode != 0:
        cause = said[-1] if said else f"exit status {done.returncode}"
        raise EngineError(f"'{bundle.name}' can't run in a process of its own: {cause}")
    return Fresh(**json.loads(done.stdout.splitlines()[-1]))


def signal_name(number: int) -> str:
    """With what it usually means for a runtime."""
    meanings = {
        "SIGILL": "the runtime uses an instruction that this processor lacks: leave it out with --target",
        "SIGSEGV": "the runtime crashed: try another version of it, or leave it out with --target",
        "SIGKILL": "most likely for want of memory: close what else runs, or use a smaller model",
    }
    try:
        name = signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
    return f"{name} ({meanings[name]})" if name in meanings else name


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
