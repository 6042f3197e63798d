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
    """Model name as edgekit was asked for it."""
    source: str
    """Source that the network came from, such as "timm" or "open_clip"."""
    weights: str
    """File name or tag of the weights, or "random"."""
    weights_sha256: str | None
    """SHA-256 of the weights."""
    params: Count
    """Number of parameters."""
    macs: Count
    """Multiply-accumulates of one inference."""
    input_shape: tuple[int, int, int, int]
    """Shape of the input: batch, channels, height, width."""
    classes: Annotated[int, Meta(ge=1)]
    """Number of classes."""
    accuracy_meaningful: bool
    """False where the weights are random."""
    license: str | None = None
    """Note about the licence of the published weights."""


@dataclass(frozen=True)
class Unreadable:
    """An image that could not be decoded and was skipped."""

    name: str
    """Path of the image within its data set."""
    reason: str
    """Error that the decoder reported."""


@dataclass(frozen=True)
class Lookalike:
    """An evaluation image that looks like a calibration image, as a copy does that was encoded again."""

    name: str
    """Path of the evaluation image."""
    like: str
    """Path of the calibration image that it looks like."""


@dataclass(frozen=True)
class RangeRatio:
    """Widths of the activations' ranges from two halves of the images: the wider over the narrower."""

    median: Annotated[float, Meta(ge=1)]
    """Median ratio over all quantized activations."""
    greatest: Annotated[float, Meta(ge=1)]
    """Largest ratio of any quantized activation."""
    layer: str
    """Where the greatest ratio is."""


@dataclass(frozen=True, kw_only=True)
class Stability:
    """How far apart the INT8 models are that two disjoint halves of the calibration images give."""

    target: str
    """Runtime that both models were quantized for."""
    images: tuple[int, int]
    """Number of calibration images in each half."""
    evaluation_images: Annotated[int, Meta(ge=1)]
    """Number of images that the two models were compared on."""
    range_ratio: RangeRatio
    """Ratio of the activation ranges that the two halves give."""
    snr_db: tuple[float | None, float | None]
    """Logits of each half's model against torch's float network; None where they are equal."""
    snr_between_db: float | None
    """Signal-to-noise ratio between the logits of the two models; None where they are equal."""
    agreement: Fraction
    """Share of images for which the two models predict the same class."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The calibration images and the recipe."""

    count: Count
    """Number of calibration images."""
    sha256: str | None
    """SHA-256 over the contents of the calibration images."""
    seed: int | None
    """Seed that chose the calibration images."""
    recipe: str | None
    """Name of the recipe."""
    unreadable: tuple[Unreadable, ...] = ()
    """Images that could not be decoded and were skipped."""
    doubts: tuple[str, ...] = ()
    """Why ranges from these images may not fit others: too few of them, or one-sided."""
    stability: tuple[Stability, ...] = ()
    """Models from two halves of the calibration images compared, for each runtime; needs `--check-stability`."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The evaluation images, and how they overlap with the calibration images."""

    count: Count
    """Number of evaluation images."""
    sha256: str | None
    """SHA-256 over the contents of the evaluation images."""
    overlap_with_calibration: Count
    """Number of evaluation images that are also calibration images."""
    unreadable: tuple[Unreadable, ...] = ()
    """Images that could not be decoded and were skipped."""
    copies_left_out: tuple[str, ...] = ()
    """Images with the content of a calibration image, which are not evaluated on."""
    lookalikes: tuple[Lookalike, ...] = ()
    """Evaluation images that look like a calibration image."""


@dataclass(frozen=True)
class Reference:
    """Accuracy of the float network in the framework that it comes from."""

    engine: str
    """Framework that ran the float network."""
    top1: Fraction
    """Share of images whose first class is right."""
    top5: Fraction
    """Share of images whose right class is among the first five."""


@dataclass(frozen=True)
class Recommendation:
    """The bundle to ship to one device, and why; `others` has those of the other devices."""

    device: str | None
    """Name of the device."""
    bundle: str | None
    """None where no row passed."""
    why: str
    """Reason for the choice, or for the lack of one."""
    others: tuple["Recommendation", ...] = ()
    """Recommendations for the other devices."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """The whole of report.json."""

    schema_version: Literal[1] = 1
    """Version of the document's format."""
    edgekit: str
    """Version of edgekit that wrote the document."""
    created: Timestamp
    """Time at which the report was written."""
    command: tuple[str, ...]
    """Arguments of the command line."""
    model: Model
    """Network that was deployed."""
    calibration: Calibration
    """Calibration images and recipe."""
    evaluation: Evaluation
    """Evaluation images."""
    reference: Reference
    """Accuracy of the float network in its own framework, on the evaluation images."""
    results: tuple[Row, ...]
    """One row for each bundle on each device."""
    recommendation: Recommendation
    """Bundle to ship to each device."""
    tuning: SearchSummary | None = None
    """What `edgekit tune` tried before it made these bundles."""
    sensitivity: Sensitivity | None = None
    """What `edgekit sensitivity` found in the same run folder."""

    @property
    def devices(self) -> list[str]:
        """Names of the devices that were measured on, in order."""
        return list(dict.fromkeys(row.device.name for row in self.results))
