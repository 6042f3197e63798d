"""What `edgekit tune` tried: `tuning` in report.json."""

from dataclasses import dataclass
from typing import Literal

from edgekit.report.row import Interval
from edgekit.report.sensitivity_document import ImageSet


@dataclass(frozen=True, kw_only=True)
class TrialSummary:
    """One recipe that was tried for one target; the figures are None unless it is complete."""

    number: int
    """Number of the trial within the study."""
    state: Literal["waiting", "running", "complete", "pruned", "fail"]
    """State of the trial."""
    met: bool
    """Whether it kept the bounds on the tuning images."""
    estimator: str
    """Range estimator that the trial used."""
    smooth_quant: bool
    """Whether SmoothQuant was applied."""
    bias_correction: str
    """Bias correction that was applied."""
    layers_in_float: int
    """Number of layers that stayed in float beyond those of the recipe."""
    float_layers: tuple[str, ...] | None = None
    """Names of the layers that stayed in float."""
    drop_top1_points: float | None = None
    """Top-1 lost against torch on the tuning images."""
    drop_ci95_points: Interval | None = None
    """95 % interval of the drop."""
    agreement: float | None = None
    """Share of images that get the same first class as from torch."""
    p50_ms: float | None = None
    """Median latency."""
    time_share: float | None = None
    """Latency as a share of the float bundle's."""
    speedup: float | None = None
    """Median latency of the float bundle over this one's."""
    speedup_ci95: Interval | None = None
    """95 % interval of the speedup."""
    drop_kept: bool | None = None
    """Whether the drop stayed within its bound."""
    fast_enough: bool | None = None
    """Whether the speedup reached its bound."""
    files: dict[str, str] | None = None
    """Hashes of the model files."""
    reason: str | None = None
    """Why it failed."""


@dataclass(frozen=True, kw_only=True)
class TargetSearch:
    """The trials of one target."""

    target: str
    """Runtime that the trials were compiled for."""
    trials: tuple[TrialSummary, ...]
    """Every recipe that was tried."""
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
    """Largest drop that the search allowed."""
    min_speedup: float
    """Smallest speedup that the search asked for; 0 for none."""
    images: ImageSet
    """The tuning images, none of which is evaluated on."""
    targets: tuple[TargetSearch, ...]
    """Trials for each runtime."""
