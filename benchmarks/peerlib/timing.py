"""Code of the processes that compute logits and times of one runtime's candidates. It needs no torch."""

import gc
import random
import time
from collections import defaultdict
from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from benchmarks.peerlib.candidates import Candidate, Infer, open_candidate
from edgekit.measure.latency import alternate
from edgekit.runtime.profile import Profile, profile_model

WARMUP = 2
PROFILED_RUNS = 100
OPENINGS = 5
"""How often every file is opened and timed anew. Where in memory a session lies makes it up to 5 % faster or slower."""
Times = dict[int, list[NDArray[np.float64]]]
"""By number of threads, the milliseconds [rounds] of each opening."""
LEAST, MOST = 5, 60
"""Limits of the number of rounds of an opening, which otherwise follows from the requested seconds."""


def answer_all(candidates: Sequence[Candidate], images: NDArray[np.float32]) -> dict[str, NDArray[np.float32] | str]:
    """The logits [N,classes] of every candidate for images [N,3,H,W], or why it can't run."""
    answers: dict[str, NDArray[np.float32] | str] = {}
    for candidate in candidates:
        try:
            infer = open_candidate(candidate, 1)
            answers[candidate.name] = np.concatenate([infer(image[None]) for image in images])
        except Exception as error:  # a runtime may raise anything for a peer's file
            answers[candidate.name] = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
    return answers


def time_all(
    candidates: Sequence[Candidate], image: NDArray[np.float32], threads: Sequence[int], seconds: float
) -> dict[str, Times]:
    """Time the candidates with an image [1,3,H,W], for that many seconds with each number of threads."""
    times: dict[str, Times] = {candidate.name: {} for candidate in candidates}
    for count in threads:
        for opening in range(OPENINGS):
            order = random.Random(opening).sample(candidates, len(candidates))
            sessions = {candidate.name: open_candidate(candidate, count) for candidate in order}
            for name, found in time_sessions(sessions, image, seconds / OPENINGS).items():
                times[name].setdefault(count, []).append(found)
            del sessions
            gc.collect()
    return times


def kernel_times(candidates: Sequence[Candidate]) -> list[dict[str, float]]:
    """The milliseconds of each candidate's kernels with one thread, by name, as its runtime's profiler reports them.

    Products have the names of their kernels, and all else that of its kind.
    """
    for _ in range(3):  # the last one counts, because the processor was at rest before
        profiles = [profile_model(each.files[0], each.runtime, 1, PROFILED_RUNS) for each in candidates]
    return [_by_kernel(profile) for profile in profiles]


def _by_kernel(profile: Profile) -> dict[str, float]:
    times: defaultdict[str, float] = defaultdict(float)
    for op in profile.ops:
        times[op.kernel] += op.ms or 0.0
    for kind, ms in (profile.time_by_kind or {}).items():
        if not kind.endswith((" int8", " float")):
            times[kind] += ms
    return {kernel: round(ms, 3) for kernel, ms in times.items()}


def time_sessions(
    sessions: dict[str, Infer], image: NDArray[np.float32], seconds: float
) -> dict[str, NDArray[np.float64]]:
    """Time the sessions in turn; return the milliseconds [rounds] of each."""
    calls = {name: partial(infer, image) for name, infer in sessions.items()}
    for call in calls.values():
        call()
    start = time.perf_counter()
    for call in calls.values():
        call()
    rounds = int(np.clip(seconds / (time.perf_counter() - start), LEAST, MOST))
    return alternate(calls, WARMUP, rounds)
