"""The summary of a bundle's profile: which part ran in integer kernels, and where the time goes."""

from dataclasses import dataclass, replace

from edgekit.errors import EngineError
from edgekit.report.measurement import Int8
from edgekit.report.times import TimedKind, TimedLayer, TimeProfile
from edgekit.runtime.profile import RUNS, Profile, profile_session
from edgekit.runtime.session import Session
from edgekit.support.libraries import quiet

PROFILED_MS = 500.0
"""Time that the profiled runs of a fast bundle take together, in milliseconds."""
MOST_RUNS = 50
DIGITS = 4
"""Decimals of a time in milliseconds; profilers count whole microseconds at best, and take medians and means."""


@dataclass(frozen=True)
class ProfileSummary:
    """The figures of a profile that a report has."""

    int8: Int8
    """The part that ran in integer kernels."""
    time: TimeProfile
    """Times of the kinds of operations, and of the layers."""


def summarize_profile(session: Session, runs: int = RUNS) -> ProfileSummary:
    """Profile the bundle of a session. Without a profile, the figures are None or empty, and the reason is in both."""
    try:
        with quiet():
            ran = profile_session(session, runs)
        int8, times = int8_of(ran), time_of(ran)
    except EngineError as error:
        int8 = Int8(share_of_macs=None, method=f"unknown: {error}", float_layers=None, simulated=None)
        times = TimeProfile(missing=str(error))
    pairs = session.bundle.manifest.pairs_that_can_saturate
    return ProfileSummary(replace(int8, pairs_that_can_saturate=pairs), times)


def runs_for(first_ms: float) -> int:
    """Number of runs to profile a bundle with for about half a second, by the time of its first inference."""
    return max(RUNS, min(MOST_RUNS, int(PROFILED_MS / max(first_ms, 1.0))))


def int8_of(ran: Profile) -> Int8:
    """Summarize which part of the model ran in integer kernels."""
    return Int8(
        share_of_macs=ran.share_of_macs, method=ran.method, float_layers=ran.float_layers, simulated=ran.simulated
    )


def time_of(ran: Profile) -> TimeProfile:
    """Summarize the times, the slowest first; without times, the method of the profile says why."""
    if not ran.time_by_kind:
        return TimeProfile(missing=ran.method)
    layers = [
        TimedLayer(op.name, op.kernel, op.int8, round(op.ms or 0.0, DIGITS), round(op.around_ms, DIGITS))
        for op in ran.ops
        if op.has_time
    ]
    return TimeProfile(
        kinds=tuple(TimedKind(kind, round(ms, DIGITS)) for kind, ms in ran.time_by_kind.items()),
        layers=tuple(sorted(layers, key=lambda layer: -layer.ms - layer.around_ms)),
        sum_ms=round(sum(ran.time_by_kind.values()), DIGITS),
        conversion_ns=ran.conversion_ns,
    )
