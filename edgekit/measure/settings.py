"""Settings: the timing of bundles, and the gates that they must pass."""

from dataclasses import dataclass, replace

from edgekit.errors import UsageError


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
    camera: tuple[int, int] | None = None
    """Width and height of a camera's frames to time, in pixels; None to leave that out."""
    may_end_early: bool = False
    """Whether timing ends before `iterations` once the bundles' ratios are precise, see `latency.are_precise`."""


NO_LABELS = "states no labels, so agreement with float is judged instead of accuracy"
"""What a set of images without labels means for an evaluation."""
LEAST_AGREEMENT = 95.0
"""Smallest agreement with float of an INT8 bundle, in percent, for images without labels."""


@dataclass(frozen=True)
class Gates:
    """Bounds that an INT8 bundle must keep. They decide about verdicts and change no measured figure."""

    max_drop: float = 1.0
    """Largest drop of an INT8 bundle's metric, in percentage points."""
    must_show_drop: bool = False
    """Whether the whole 95 % interval must keep `max_drop`, as when the user states it, or must not miss it as a whole.
    """
    min_agreement: float | None = None
    """Smallest agreement with float that the user states for images without labels, in percent; None for the usual."""
    min_speedup: float = 1.0
    """Speed-up over its float that the whole 95 % interval of an INT8 bundle must exceed; 0 turns the gate off."""
    needs_steady_timing: bool = False
    """Whether unreliable timing, or a number of runs that has no interval, makes a verdict inconclusive, as when the
    user states `min_speedup`."""

    def allow(self, drop_points: float) -> bool:
        """Whether this drop of the metric, in percentage points, is within the bound, regardless of its interval."""
        return drop_points <= self.max_drop

    def for_images(self, labelled: bool) -> "Gates":
        """The gates for images with labels, or for images without any.

        Without labels, the loss is what the agreement with float lacks of 100 %, and its interval must confirm the
        bound. Raises UsageError for a stated bound that such images can't show.
        """
        if not labelled and self.must_show_drop:
            raise UsageError(
                "--max-drop is a bound on the loss of accuracy, and the images have no labels",
                valid="--min-agreement PERCENT",
                fix="State --min-agreement instead of --max-drop, or evaluate on images with labels",
            )
        if labelled and self.min_agreement is not None:
            raise UsageError(
                "--min-agreement is for images without labels, and these have labels",
                valid="--max-drop POINTS",
                fix="State --max-drop instead of --min-agreement",
            )
        if labelled:
            return self
        least = LEAST_AGREEMENT if self.min_agreement is None else self.min_agreement
        return replace(self, max_drop=100 - least, must_show_drop=True, min_agreement=least)
