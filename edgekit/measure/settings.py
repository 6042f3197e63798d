"""How to measure a bundle, and the gates it must pass."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """How to measure, and the gates."""

    threads: int | None = None
    warmup: int = 20
    iterations: int = 200
    sustain_s: float | None = None
    """Seconds to time for, in place of `iterations`."""
    max_drop: float = 1.0
    """Percentage points of top-1 that an int8 bundle may lose."""
    must_show_drop: bool = False
    """Whether the 95 % interval must lie within `max_drop`, as where a user states it, or the measured drop alone."""
    min_speedup: float = 1.0
    """An int8 bundle must be faster than its float by more than this factor, interval included; 0 turns it off."""
    must_be_fit: bool = False
    """Whether a latency has to be fit to quote, as where a user states `min_speedup`, or is only remarked on."""
