"""report.json: the results of a run, the model and images that it used, and the bundle to ship."""

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Literal

from msgspec import Meta

from edgekit.report.device import DeviceFacts
from edgekit.report.figure import Count, Fraction, Interval
from edgekit.report.measurement import TOP1, Accuracy, Score
from edgekit.report.row import Row
from edgekit.report.sensitivity_document import Sensitivity

Timestamp = Annotated[str, Meta(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$")]


@dataclass(frozen=True, kw_only=True)
class PreprocessingFacts:
    """Conversion of an image to the network's input: resize, crop, and (pixel / 255 - mean) / std for each channel."""

    height: int
    """Height of the input, in pixels."""
    width: int
    """Width of the input, in pixels."""
    interpolation: str
    """Filter that resizes images, such as "bicubic"."""
    crop_pct: Annotated[float, Meta(gt=0)]
    """Side of the input as a fraction of the resized image's side."""
    crop_mode: Literal["center", "squash", "border"]
    """Way to fit other aspect ratios: "center" crops, "squash" distorts and "border" pads."""
    mean: tuple[float, ...]
    """Mean of each channel, on a scale of 0 to 1."""
    std: tuple[float, ...]
    """Standard deviation of each channel, on a scale of 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """The network that was deployed."""

    name: str
    """Name of the model, as given to edgekit."""
    source: str
    """Source of the network, such as "timm" or "open_clip"."""
    weights: str
    """Name of the weights: a file name, a tag or "random"."""
    weights_sha256: str | None
    """SHA-256 of the weights."""
    params: Count
    """Number of parameters."""
    macs: Count
    """Number of multiply-accumulates of one inference."""
    input_shape: tuple[int, int, int, int]
    """Shape of the input: batch, channels, height, width."""
    classes: Annotated[int, Meta(ge=1)]
    """Number of outputs: of classes, or of values of a vector."""
    task: str = "single-label"
    """Meaning of the outputs: "single-label", "multi-label" or "embedding"."""
    class_order: str | None = None
    """Order of the images' classes, "alphabetical" or "natural", in which the float network is clearly better; null
    where names tell the order, where the two are the same, and in reports of an edgekit without it."""
    accuracy_meaningful: bool
    """Whether accuracies mean anything; false for random weights."""
    license: str | None = None
    """Note on the licence of the published weights."""
    preprocessing: PreprocessingFacts | None = None
    """Conversion of an image to the network's input; null in reports of an edgekit without it."""

    @property
    def hub_task(self) -> str:
        """Name of the task on model hubs."""
        return "image-feature-extraction" if self.task == "embedding" else "image-classification"


@dataclass(frozen=True)
class Unreadable:
    """An image that was skipped because it could not be decoded."""

    name: str
    """Path of the image within its data set."""
    reason: str
    """Error that the decoder reported."""


@dataclass(frozen=True)
class Lookalike:
    """An evaluation image that looks like a calibration image, for example because it is a re-encoded copy."""

    name: str
    """Path of the evaluation image within its data set."""
    like: str
    """Path of the calibration image that it looks like."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The calibration images and the recipe."""

    count: Count
    """Number of calibration images."""
    sha256: str | None
    """SHA-256 over the contents of the calibration images."""
    seed: int | None
    """Random seed of the choice of calibration images."""
    recipe: str | None
    """Name of the quantization recipe."""
    unreadable: tuple[Unreadable, ...] = ()
    """Images that were skipped because they could not be decoded."""
    doubts: tuple[str, ...] = ()
    """Reasons why ranges from these images may not fit other images, such as too few images or missing classes."""
    unlike_evaluation: bool = False
    """Whether the evaluation images are so much brighter or darker that ranges from these images may not fit them."""


@dataclass(frozen=True)
class EvaluatedClass:
    """A class that evaluation images have."""

    label: str
    """Name of the class."""
    images: Annotated[int, Meta(ge=1)]
    """Number of evaluation images of this class."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The evaluation images, and their overlap with the calibration images."""

    count: Count
    """Number of evaluation images."""
    sha256: str | None
    """SHA-256 over the contents of the evaluation images."""
    overlap_with_calibration: Count
    """Number of evaluation images that are also calibration images."""
    unreadable: tuple[Unreadable, ...] = ()
    """Images that were skipped because they could not be decoded."""
    copies_left_out: tuple[str, ...] = ()
    """Images that were left out because their content is that of a calibration image."""
    repeated_left_out: tuple[str, ...] = ()
    """Images that were left out because their content is that of another evaluation image."""
    lookalikes: tuple[Lookalike, ...] = ()
    """Evaluation images that look like a calibration image."""
    classes: tuple[EvaluatedClass, ...] | None = None
    """Classes that the images have, in the order of the network's outputs; null for more than 1,000 classes, and in
    reports of an edgekit without it."""


@dataclass(frozen=True, kw_only=True)
class Choosing:
    """Images, none of them an evaluation image, on which the job chose what the verdict must not choose."""

    thresholds: Count = 0
    """Number of images that chose the thresholds of several labels; 0 for thresholds of 0.5, or one that was stated."""
    temperature: Count = 0
    """Number of images that INT8's temperature was fitted to; 0 for a temperature of 1."""
    repair: Count = 0
    """Number of images on which a repair compares INT8 bundles; 0 if the evaluation images have to."""


@dataclass(frozen=True)
class Reference:
    """Accuracy of the model that the rows are compared with, on the evaluation images."""

    engine: str
    """Framework that ran the float network, such as "torch"; for `edgekit evaluate`, the bundle to compare with."""
    top1: Fraction | None = None
    """Share of images whose highest-scoring class is the right one; null for tasks with a `score`."""
    top5: Fraction | None = None
    """Share of images whose right class is among the five highest-scoring ones; null for tasks with a `score`."""
    top1_ci95: Interval | None = None
    """95 % interval of the task's metric (Wilson's score interval for shares of the images, else a bootstrap); null
    without labels, and in reports of an edgekit without it."""
    chance: Fraction | None = None
    """Metric of the same answers if they were dealt to the images at random, for top-1 at most one over the number of
    classes that the images have; null without labels, and in reports of an edgekit without it."""
    near_chance: bool = False
    """Whether the interval reaches down to chance and ends below the middle between chance and 1, so that no accuracy
    means anything; for several labels, whether the metric is below the upper end of chance's own interval, or the
    outputs fit other classes better. False for random weights, whose accuracies mean nothing anyway."""
    right_by_class: tuple[Count, ...] | None = None
    """Number of right predictions for each class of `evaluation.classes`, in that order; null where that is null."""
    given_by_class: tuple[Count, ...] | None = None
    """Number of images for which each of these classes is given, right or wrong; null where each image has one."""
    score: Score | None = None
    """Metric of another task than single-label; null for that one."""

    @property
    def metric(self) -> str:
        """Name of the task's metric."""
        return self.score.metric if self.score else TOP1

    @property
    def value(self) -> float:
        """Value of the task's metric, at most 1."""
        return self.score.value if self.score else self.top1 or 0.0


@dataclass(frozen=True)
class Recommendation:
    """The bundle to ship to one device, and the reason for the choice."""

    device: str | None
    """Name of the device."""
    bundle: str | None
    """Name of the bundle to ship; null where no row passed."""
    why: str
    """Reason for the choice, or for the lack of one."""
    others: tuple["Recommendation", ...] = ()
    """Recommendations for the other devices of the run."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """The results of a run: figures, verdicts and the bundle to ship."""

    schema_version: Literal[1] = 1
    """Version of the document's format."""
    name: str | None = None
    """Name of the run, which is that of its folder; null in reports of an edgekit without it."""
    edgekit: str
    """Version of edgekit that wrote the document."""
    created: Timestamp
    """Time at which the report was written."""
    command: tuple[str, ...]
    """Command line, split into its arguments; paths without their folders, because reports are shared."""
    model: Model
    """Network that was deployed."""
    calibration: Calibration
    """Calibration images and recipe."""
    evaluation: Evaluation
    """Evaluation images."""
    choosing: Choosing | None = None
    """Images to choose on; null in reports of an edgekit without it."""
    reference: Reference
    """Accuracy of the float network in its own framework, on the evaluation images."""
    results: tuple[Row, ...]
    """One row for each bundle on each device."""
    recommendation: Recommendation
    """Bundle to ship to each device."""
    sensitivity: Sensitivity | None = None
    """Result of `edgekit sensitivity` in the same run folder; null where it was not run."""

    def __post_init__(self) -> None:
        datetime.fromisoformat(self.created)  # a ValueError for a day that doesn't exist
        judged: list[Reference | Accuracy] = [self.reference, *(row.accuracy for row in self.results if row.accuracy)]
        classes = len(self.evaluation.classes or ())
        for counts in (each for part in judged for each in (part.right_by_class, part.given_by_class)):
            if counts is not None and len(counts) != classes:
                raise ValueError(f"{len(counts)} counts by class don't belong to {classes} classes")

    @property
    def title(self) -> str:
        """Name of the run and of its model, such as "vehicles (resnet18)"; one name if they have the same."""
        model = self.model.name
        return model if self.name in (None, model) else f"{self.name} ({model})"

    @property
    def devices(self) -> list[str]:
        """Names of the devices in the results, in order."""
        return list(dict.fromkeys(row.device.name for row in self.results))

    @property
    def has_several_devices(self) -> bool:
        """Whether the results are of more than one device."""
        return len(self.devices) > 1

    @property
    def bundles(self) -> tuple[str, ...]:
        """Names of the bundles that were made, without repetitions."""
        return tuple(dict.fromkeys(row.bundle for row in self.results if row.bundle))

    @property
    def recommendations(self) -> tuple[Recommendation, ...]:
        """The recommendation for each device."""
        return (self.recommendation, *self.recommendation.others)

    def rows_on(self, device: str | None) -> list[Row]:
        """The rows of one device; all of them if it has no name."""
        return [row for row in self.results if device is None or row.device.name == device]

    def facts_of(self, device: str) -> DeviceFacts:
        """The facts of a device with this name, which a row that failed before they were asked for may lack."""
        return min((row.device for row in self.rows_on(device)), key=lambda facts: not facts.cpu)
