"""Runs in the emulated machine, as its first process and once for each candidate.

/job has job.json ({"candidates": [fields of peerlib.candidates.Candidate]}) and images.npy, float32 [N,3,H,W].
Each candidate runs in a separate process. Lines on the console that start with MARK are JSON: first {"kernel"}, then a
row for each candidate ({"name", "nanoseconds", "logits" [N,classes]} or {"name", "error"}), and finally {"end": true}.
"""

import ctypes
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

MARK = "EDGEKIT "
JOB = Path("/job")
RUNS = 3
"""Counted inferences, of which the median is taken, because a task of the kernel may add millions to one of them."""
POWER_OFF = 0x4321FEDC


def first_process() -> None:
    """Work as init: mount the file systems, run every candidate and power off."""
    libc = ctypes.CDLL(None)
    for kind, place in ((b"proc", b"/proc"), (b"sysfs", b"/sys"), (b"devtmpfs", b"/dev")):
        libc.mount(kind, place, kind, 0, None)
    console = os.open("/dev/console", os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(console, descriptor)
    os.environ.update(HOME="/root", PATH="/usr/bin:/bin", LANG="C.UTF-8", PYTHONPATH="/packages:/job")
    try:
        say({"kernel": platform.release()})
        job = json.loads((JOB / "job.json").read_text())
        for index, candidate in enumerate(job["candidates"]):
            done = subprocess.run(
                [sys.executable, __file__, str(index)], capture_output=True, text=True, errors="replace", check=False
            )
            rows = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
            error = f"exit status {done.returncode}: {(done.stderr.strip().splitlines() or [''])[-1]}"
            say(json.loads(rows[-1].removeprefix(MARK)) if rows else {"name": candidate["name"], "error": error})
        say({"end": True})
    finally:
        time.sleep(0.1)
        libc.reboot(POWER_OFF)


def count(index: int) -> None:
    """Run one candidate. Computing the logits warms it up; the inferences after that are counted one by one."""
    import numpy as np

    from benchmarks.peerlib.candidates import Candidate, open_candidate
    from benchmarks.pilib.executorch import open_program

    job = json.loads((JOB / "job.json").read_text())
    fields = job["candidates"][index]
    candidate = Candidate(**fields | {"path": JOB / fields["path"]})
    images = np.load(JOB / "images.npy")
    infer = open_program(candidate.path) if candidate.runtime == "executorch" else open_candidate(candidate, 1)
    logits = np.concatenate([infer(image[None]) for image in images])

    nanoseconds = []
    for _ in range(RUNS):
        start = time.perf_counter_ns()
        infer(images[:1])
        nanoseconds.append(time.perf_counter_ns() - start)
    say({"name": candidate.name, "nanoseconds": statistics.median(nanoseconds), "logits": logits.tolist()})


def say(row: dict[str, Any]) -> None:
    print(MARK + json.dumps(row), flush=True)


if __name__ == "__main__":
    count(int(sys.argv[1])) if len(sys.argv) > 1 else first_process()
