"""Code of the process that computes logits and times of one runtime's candidates. It needs no torch."""

import gc
import random
import time
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.peerlib.candidates import Candidate, Infer, open_candidate
from edgekit.measure.latency import alternate

WARMUP = 5
OPENINGS = 5
"""How often every file is opened and timed anew. Where in memory a session lies makes it up to 5 % faster or slower."""
LEAST, MOST = 10, 60
"""Limits of the number of rounds of an opening, which otherwise follows from the requested seconds."""


def run_all(
    candidates: list[Candidate], images: NDArray[np.float32], threads: tuple[int, ...], seconds: float
) -> dict[str, dict[str, Any]]:
    """Run all candidates on images [N,3,H,W].

    Returns {"logits": [N,classes], "times": {threads: a list of [rounds] in ms for each opening}} or {"error": text} by
    name. `seconds` are those of a number of threads.
    """
    outcomes: dict[str, dict[str, Any]] = {}
    for candidate in candidates:
        try:
            infer = open_candidate(candidate, max(threads))
            logits = np.concatenate([infer(image[None]) for image in images])
            outcomes[candidate.name] = {"logits": logits, "times": {}}
        except Exception as error:  # a runtime may raise anything for a peer's file
            outcomes[candidate.name] = {"error": f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"}
    working = [candidate for candidate in candidates if "error" not in outcomes[candidate.name]]
    for count in threads:
        for opening in range(OPENINGS):
            order = random.Random(opening).sample(working, len(working))
            sessions = {candidate.name: open_candidate(candidate, count) for candidate in order}
            for name, times in time_all(sessions, images[:1], seconds / OPENINGS).items():
                outcomes[name]["times"].setdefault(count, []).append(times)
            del sessions
            gc.collect()
    return outcomes


def time_all(sessions: dict[str, Infer], image: NDArray[np.float32], seconds: float) -> dict[str, NDArray[np.float64]]:
    """Time the sessions in turn; return the milliseconds [rounds] of each."""
    calls = {name: partial(infer, image) for name, infer in sessions.items()}
    for call in calls.values():
        call()
    start = time.perf_counter()
    for call in calls.values():
        call()
    rounds = int(np.clip(seconds / (time.perf_counter() - start), LEAST, MOST))
    return alternate(calls, WARMUP, rounds)
