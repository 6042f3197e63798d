"""What `edgekit tune` tried: `tuning` in report.json."""

from dataclasses import dataclass
from typing import Literal

from edgekit.report.row import Interval
from edgekit.report.sensitivity_document import ImageSet


@dataclass(frozen=True, kw_only=True)
class TrialSummary:
    """One recipe that was tried for one target; the figures are None unless it is complete."""

    number: int
    state: Literal["waiting", "running", "complete", "pruned", "fail"]
    met: bool
    """Whether it kept the bounds on the tuning images."""
    estimator: str
    smooth_quant: bool
    bias_correction: str
    layers_in_float: int
    float_layers: tuple[str, ...] | None = None
    drop_top1_points: float | None = None
    drop_ci95_points: Interval | None = None
    agreement: float | None = None
    p50_ms: float | None = None
    time_share: float | None = None
    """Latency as a share of the float bundle's."""
    speedup: float | None = None
    speedup_ci95: Interval | None = None
    drop_kept: bool | None = None
    fast_enough: bool | None = None
    files: dict[str, str] | None = None
    """Hashes of the model files."""
    reason: str | None = None
    """Why it failed."""


@dataclass(frozen=True, kw_only=True)
class TargetSearch:
    """The trials of one target."""

    target: str
    trials: tuple[TrialSummary, ...]
    front: tuple[int, ...]
    """Trials that no other beats in both accuracy and latency."""
    best: int | None
    """Number of the trial whose choices were taken; None if no trial is complete."""
    reproduced: bool | None = None
    """Whether the recipe gave that trial's model files, hash by hash."""

    @property
    def complete(self) -> list[TrialSummary]:
        """The trials that have figures."""
        return [trial for trial in self.trials if trial.state == "complete"]

    @property
    def taken(self) -> TrialSummary | None:
        """The trial whose choices were taken."""
        return next((trial for trial in self.complete if trial.number == self.best), None)


@dataclass(frozen=True, kw_only=True)
class SearchSummary:
    """The search as a whole."""

    recipe: str
    """File in the run folder."""
    max_drop_points: float
    min_speedup: float
    images: ImageSet
    """The tuning images, none of which is evaluated on."""
    targets: tuple[TargetSearch, ...]
