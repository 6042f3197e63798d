"""One trial of a search: a point of the plan, what became of it, and its figures."""

from dataclasses import dataclass
from typing import Literal

from edgekit.report.figure import Interval
from edgekit.tuning.space import Choices


@dataclass(frozen=True)
class Figures:
    """Figures of a completed trial, measured on the tuning images. They depend on no bound."""

    drop_top1_points: float
    """Drop in top-1 against torch, in percentage points."""
    drop_ci95_points: Interval
    """95 % interval of the drop, in percentage points."""
    agreement: float
    """Share of images for which the model and torch predict the same class."""
    p50_ms: float
    """Median latency in ms on the machine of the search."""
    time_share: float
    """Latency divided by that of the float bundle in the same measurement."""
    speedup: float
    """Speedup over the float bundle."""
    speedup_ci95: Interval | None
    """95 % interval of the speedup; None for few rounds."""
    files: dict[str, str] | None
    """SHA-256 of each model file by its name; None if the classes had other names then."""
    float_layers: tuple[str, ...]
    """Names of the layers that the trial left in float."""


@dataclass(frozen=True)
class Trial:
    """One trial of a study."""

    number: int
    """Position in the plan, from 0."""
    choices: Choices
    """Point of the search space."""
    state: Literal["complete", "fail", "pruned", "untried"]
    """Outcome: "pruned" if a point with fewer layers in float had met the bounds, "untried" if the time was up."""
    reason: str | None = None
    """Message of the error that made the trial fail."""
    figures: Figures | None = None
    """Figures if the state is "complete", otherwise None."""
