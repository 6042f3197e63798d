"""The search of `edgekit tune`: `tuning` in report.json."""

from dataclasses import dataclass
from typing import Literal

from edgekit.report.measurement import Interval
from edgekit.report.sensitivity_document import ImageSet


@dataclass(frozen=True, kw_only=True)
class TrialSummary:
    """One recipe that was tried for one runtime. Its figures are null unless the trial is complete."""

    number: int
    """Number of the trial within the study."""
    state: Literal["complete", "fail", "pruned", "untried"]
    """Outcome: "pruned" if a recipe with fewer layers in float had met the bounds, "untried" if the time was up."""
    met: bool
    """Whether the trial met the bounds on drop and speedup, measured on the tuning images."""
    estimator: str
    """Estimator of activation ranges that the trial used."""
    smooth_quant: bool
    """Whether SmoothQuant was applied."""
    bias_correction: str
    """Bias correction that was applied: "fast" or "none"."""
    layers_in_float: int
    """Number of layers that stayed in float in addition to those of the recipe."""
    float_layers: tuple[str, ...] | None = None
    """Names of the layers that stayed in float."""
    drop_top1_points: float | None = None
    """Top-1 lost against torch on the tuning images, in percentage points."""
    drop_ci95_points: Interval | None = None
    """95 % interval of the drop, in percentage points."""
    agreement: float | None = None
    """Share of tuning images for which the model and torch predict the same class."""
    p50_ms: float | None = None
    """Median latency, in milliseconds."""
    time_share: float | None = None
    """Median latency as a share of the float bundle's."""
    speedup: float | None = None
    """Median latency of the float bundle divided by that of this trial."""
    speedup_ci95: Interval | None = None
    """95 % interval of the speedup."""
    drop_kept: bool | None = None
    """Whether the drop is within its bound."""
    fast_enough: bool | None = None
    """Whether the whole 95 % interval of the speedup is above its bound."""
    files: dict[str, str] | None = None
    """SHA-256 of each model file, by file name; null also if the classes had other names when the trial ran."""
    reason: str | None = None
    """Reason why the trial failed."""


@dataclass(frozen=True, kw_only=True)
class TargetSearch:
    """The trials for one runtime."""

    target: str
    """Runtime that the trials were compiled for."""
    trials: tuple[TrialSummary, ...]
    """All trials of the search."""
    front: tuple[int, ...]
    """Numbers of the trials on the Pareto front: no other trial is better in both drop and latency."""
    best: int | None
    """Number of the trial whose choices the recipe adopts; null if no trial is complete."""
    reproduced: bool | None = None
    """Whether the recipe reproduced the hashes of that trial's model files; null where they aren't known."""

    @property
    def complete(self) -> list[TrialSummary]:
        """Trials that have figures."""
        return [trial for trial in self.trials if trial.state == "complete"]

    @property
    def taken(self) -> TrialSummary | None:
        """Trial whose choices the recipe adopts."""
        return next((trial for trial in self.complete if trial.number == self.best), None)


@dataclass(frozen=True, kw_only=True)
class SearchSummary:
    """A search for a recipe, for all runtimes."""

    recipe: str
    """File name of the recipe that the search wrote into the run folder."""
    max_drop_points: float
    """Largest drop in top-1 that the search allowed, in percentage points."""
    min_speedup: float
    """Speedup that a trial had to exceed with its whole 95 % interval; 0 if the search didn't judge speed."""
    images: ImageSet
    """Tuning images, none of which is an evaluation image."""
    targets: tuple[TargetSearch, ...]
    """Trials for each runtime."""
