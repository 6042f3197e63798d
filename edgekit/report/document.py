"""report.json: what a run measured, on which model and images, and which bundle to ship."""

from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta

from edgekit.report.row import Count, Fraction, Row
from edgekit.report.search_document import SearchSummary
from edgekit.report.sensitivity_document import Sensitivity

Timestamp = Annotated[str, Meta(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$")]


@dataclass(frozen=True, kw_only=True)
class Model:
    """The network that was deployed."""

    name: str
    source: str
    weights: str
    """File name or tag of the weights, or "random"."""
    weights_sha256: str | None
    params: Count
    macs: Count
    input_shape: tuple[int, int, int, int]
    classes: Annotated[int, Meta(ge=1)]
    accuracy_meaningful: bool
    """False where the weights are random."""
    license: str | None = None


@dataclass(frozen=True)
class Unreadable:
    """An image that could not be decoded and was skipped."""

    name: str
    reason: str


@dataclass(frozen=True)
class Lookalike:
    """An evaluation image that looks like a calibration image, as a copy does that was encoded again."""

    name: str
    like: str


@dataclass(frozen=True)
class RangeRatio:
    """Widths of the activations' ranges from two halves of the images: the wider over the narrower."""

    median: Annotated[float, Meta(ge=1)]
    greatest: Annotated[float, Meta(ge=1)]
    layer: str
    """Where the greatest ratio is."""


@dataclass(frozen=True, kw_only=True)
class Stability:
    """How far apart the INT8 models are that two disjoint halves of the calibration images give."""

    target: str
    images: tuple[int, int]
    evaluation_images: Annotated[int, Meta(ge=1)]
    range_ratio: RangeRatio
    snr_db: tuple[float | None, float | None]
    """Logits of each half's model against torch's float network; None where they are equal."""
    snr_between_db: float | None
    agreement: Fraction


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The calibration images and the recipe."""

    count: Count
    sha256: str | None
    seed: int | None
    recipe: str | None
    unreadable: tuple[Unreadable, ...] = ()
    doubts: tuple[str, ...] = ()
    """Why ranges from these images may not fit others: too few of them, or one-sided."""
    stability: tuple[Stability, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The evaluation images, and how they overlap with the calibration images."""

    count: Count
    sha256: str | None
    overlap_with_calibration: Count
    unreadable: tuple[Unreadable, ...] = ()
    copies_left_out: tuple[str, ...] = ()
    """Images with the content of a calibration image, which are not evaluated on."""
    lookalikes: tuple[Lookalike, ...] = ()


@dataclass(frozen=True)
class Reference:
    """Accuracy of the float network in the framework that it comes from."""

    engine: str
    top1: Fraction
    top5: Fraction


@dataclass(frozen=True)
class Recommendation:
    """The bundle to ship to one device, and why; `others` has those of the other devices."""

    device: str | None
    bundle: str | None
    """None where no row passed."""
    why: str
    others: tuple["Recommendation", ...] = ()


@dataclass(frozen=True, kw_only=True)
class Report:
    """The whole of report.json."""

    schema_version: Literal[1] = 1
    edgekit: str
    created: Timestamp
    command: tuple[str, ...]
    model: Model
    calibration: Calibration
    evaluation: Evaluation
    reference: Reference
    results: tuple[Row, ...]
    recommendation: Recommendation
    tuning: SearchSummary | None = None
    """What `edgekit tune` tried before it made these bundles."""
    sensitivity: Sensitivity | None = None
    """What `edgekit sensitivity` found in the same run folder."""

    @property
    def devices(self) -> list[str]:
        """Names of the devices that were measured on, in order."""
        return list(dict.fromkeys(row.device.name for row in self.results))
