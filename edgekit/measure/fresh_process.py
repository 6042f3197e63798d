"""Measure load time, first inference and peak memory of a bundle in a process that runs nothing else.

That process is ``python -m edgekit.measure.fresh_process BUNDLE THREADS``, which prints JSON and needs only numpy and
the runtime.
"""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekit.errors import EngineError
from edgekit.support import child_process
from edgekit.support.child_process import run_python


@dataclass(frozen=True)
class Fresh:
    """Measurements of one bundle in a fresh process."""

    load_ms: float
    """Time to load the bundle, in milliseconds."""
    first_ms: float
    """Time of the first inference, in milliseconds."""
    peak_rss_bytes: int | None
    """Peak resident memory of the process, in bytes; None if it isn't known, as in a browser."""


def measure_fresh(bundle: Path, threads: int, timeout: float = 600) -> Fresh:
    """Measure a bundle in a fresh process; raises EngineError if the process fails or takes longer than `timeout` s."""
    try:
        done = run_python(["-m", "edgekit.measure.fresh_process", str(bundle), str(threads)], timeout)
    except subprocess.TimeoutExpired:
        raise EngineError(f"'{bundle.name}' didn't finish one inference within {timeout:.0f} s") from None
    lines = done.stderr.strip().splitlines()
    if done.returncode < 0:
        last_line = f". It printed last: {lines[-1]}" if lines else ""
        raise EngineError(
            f"'{bundle.name}' can't run here: its process was ended by {cause_of(-done.returncode)}{last_line}"
        )
    if done.returncode != 0:
        cause = lines[-1] if lines else f"exit status {done.returncode}"
        raise EngineError(f"'{bundle.name}' can't run in a separate process: {cause}")
    return Fresh(**json.loads(done.stdout.splitlines()[-1]))


def cause_of(number: int) -> str:
    """Name of the signal that ended a runtime's process, with its usual cause and what helps."""
    meanings = {
        "SIGILL": "the runtime uses an instruction that this processor lacks: choose other runtimes with --target",
        "SIGSEGV": "the runtime crashed: install another version of it, or choose other runtimes with --target",
        "SIGKILL": "probably out of memory: close other programs, or use a smaller model",
    }
    name = child_process.signal_name(number)
    return f"{name} ({meanings[name]})" if name in meanings else name


def peak_rss_bytes() -> int:
    """Peak resident memory of this process. Works without psutil, which doesn't report it on Linux."""
    try:
        # The peak from getrusage includes the parent's, because it survives exec.
        status = Path("/proc/self/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024
    except (OSError, StopIteration):
        pass
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main(arguments: Sequence[str]) -> None:
    from edgekit.runtime import load

    path, threads = Path(arguments[0]), int(arguments[1])
    start = time.perf_counter()
    session = load(path, threads)
    loaded = time.perf_counter()
    manifest = session.bundle.manifest
    session(np.zeros(manifest.input_shape, manifest.dtype))
    ran = time.perf_counter()
    fresh = Fresh((loaded - start) * 1e3, (ran - loaded) * 1e3, peak_rss_bytes())
    print(json.dumps(vars(fresh)))


if __name__ == "__main__":
    main(sys.argv[1:])
