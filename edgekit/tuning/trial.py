"""One trial of a search: a point of the plan, what became of it, and what it measured."""

from dataclasses import dataclass
from typing import Literal

from edgekit.report.row import Interval
from edgekit.tuning.space import Choices

State = Literal["waiting", "running", "complete", "fail", "pruned"]
"""A pruned trial was skipped, because a point with fewer layers in float had met the bounds."""


@dataclass(frozen=True)
class Figures:
    """What a complete trial measured on the tuning images. Drops are percentage points of top-1."""

    drop_top1_points: float
    drop_ci95_points: Interval
    agreement: float
    p50_ms: float
    time_share: float
    """Latency as a share of the float bundle's latency beside it, which is comparable between times and machines."""
    speedup: float
    speedup_ci95: Interval
    files: dict[str, str]
    """SHA-256 of each model file by its name."""
    drop_kept: bool
    """True if the measured drop is at most --max-drop."""
    fast_enough: bool
    """True if the measured speed-up is above --min-speedup."""
    float_layers: tuple[str, ...]
    """Layers that the trial left in float."""


@dataclass(frozen=True)
class Trial:
    """A trial as the database has it."""

    number: int
    """Position in the plan, from 0."""
    choices: Choices
    state: State
    worker: str | None
    reason: str | None
    """Message of the error that made the trial fail; None if it failed because its workers were lost."""
    figures: Figures | None
    """None unless the state is "complete"."""

    @property
    def is_finished(self) -> bool:
        return self.state not in ("waiting", "running")
