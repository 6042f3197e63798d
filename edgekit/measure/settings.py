"""Settings: the timing of bundles, and the gates that they must pass."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    """Settings of latency and throughput. Stored figures depend on every field."""

    threads: int | None = None
    """Number of threads; None for every physical core that the process may use."""
    warmup: int = 20
    """Number of rounds before the timed ones."""
    iterations: int = 200
    """Number of timed rounds; the largest if `may_end_early`."""
    sustain_s: float | None = None
    """Seconds of timing, instead of a number of rounds."""
    streams: int | None = None
    """Number of sessions to run side by side for the throughput; None to leave that out."""
    may_end_early: bool = False
    """Whether timing ends before `iterations` once the bundles' ratios are precise, see `latency.are_precise`."""


@dataclass(frozen=True)
class Gates:
    """Bounds that an INT8 bundle must keep. They decide about verdicts and change no measured figure."""

    max_drop: float = 1.0
    """Largest drop of an INT8 bundle's metric, in percentage points."""
    must_show_drop: bool = False
    """Whether the 95 % interval must confirm `max_drop`, as when the user states it, or only the measured drop."""
    min_speedup: float = 1.0
    """Speed-up over its float that the whole 95 % interval of an INT8 bundle must exceed; 0 turns the gate off."""
    needs_steady_timing: bool = False
    """Whether unreliable timing, or a number of runs that has no interval, makes a verdict inconclusive, as when the
    user states `min_speedup`."""

    def allow(self, drop_points: float) -> bool:
        """Whether this drop of the metric, in percentage points, is within the bound, regardless of its interval."""
        return drop_points <= self.max_drop
