"""The process that runs candidates of one runtime: their logits, and their times in turns. Needs no torch."""

import gc
import time
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.peerlib.candidates import Candidate, Infer, open_candidate
from edgekit.measure.latency import alternate

WARMUP = 5
LEAST, MOST = 30, 300
"""Rounds; between them as many as fit in the seconds given."""


def run_all(
    candidates: list[Candidate], images: NDArray[np.float32], threads: tuple[int, ...], seconds: float
) -> dict[str, dict[str, Any]]:
    """By name: {"logits": [N,classes], "times": {threads: [rounds] in ms}}, or {"error": text}. Images [N,3,H,W]."""
    found: dict[str, dict[str, Any]] = {}
    for candidate in candidates:
        try:
            infer = open_candidate(candidate, max(threads))
            found[candidate.name] = {"logits": np.concatenate([infer(image[None]) for image in images]), "times": {}}
        except Exception as error:  # a peer's file may be refused with anything
            found[candidate.name] = {"error": f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"}
    working = [candidate for candidate in candidates if "error" not in found[candidate.name]]
    for count in threads:
        sessions = {candidate.name: open_candidate(candidate, count) for candidate in working}
        for name, times in time_all(sessions, images[:1], seconds).items():
            found[name]["times"][count] = times
        del sessions
        gc.collect()
    return found


def time_all(sessions: dict[str, Infer], image: NDArray[np.float32], seconds: float) -> dict[str, NDArray[np.float64]]:
    """Milliseconds [rounds] of each, in turns."""
    calls = {name: partial(infer, image) for name, infer in sessions.items()}
    for call in calls.values():
        call()
    start = time.perf_counter()
    for call in calls.values():
        call()
    rounds = int(np.clip(seconds / (time.perf_counter() - start), LEAST, MOST))
    return alternate(calls, WARMUP, rounds)
