"""One trial of a search: a point of the plan, its state, and its figures."""

from dataclasses import dataclass
from typing import Literal

from edgekit.report.row import Interval
from edgekit.tuning.space import Choices

State = Literal["waiting", "running", "complete", "fail", "pruned"]
"""State of a trial. "pruned" means skipped because a point with fewer layers in float had met the bounds."""


@dataclass(frozen=True)
class Figures:
    """Figures of a completed trial, measured on the tuning images."""

    drop_top1_points: float
    """Drop in top-1 against torch, in percentage points."""
    drop_ci95_points: Interval
    """95 % interval of the drop, in percentage points."""
    agreement: float
    """Share of images for which the model and torch predict the same class."""
    p50_ms: float
    """Median latency in ms on the machine of the search."""
    time_share: float
    """Latency divided by that of the float bundle in the same measurement, which is comparable between machines."""
    speedup: float
    """Speedup over the float bundle."""
    speedup_ci95: Interval
    """95 % interval of the speedup."""
    files: dict[str, str]
    """SHA-256 of each model file by its name."""
    drop_kept: bool
    """Whether the measured drop is at most --max-drop."""
    fast_enough: bool
    """Whether the whole 95 % interval of the speedup is above --min-speedup; true if the search doesn't judge speed."""
    float_layers: tuple[str, ...]
    """Names of the layers that the trial left in float."""


@dataclass(frozen=True)
class Trial:
    """A trial in the database."""

    number: int
    """Position in the plan, from 0."""
    choices: Choices
    """Point of the search space."""
    state: State
    """Current state."""
    worker: str | None
    """Name of the worker that runs it or ran it."""
    reason: str | None
    """Message of the error that made the trial fail; None if it failed because its workers were lost."""
    figures: Figures | None
    """Figures if the state is "complete", otherwise None."""

    @property
    def is_finished(self) -> bool:
        return self.state not in ("waiting", "running")
