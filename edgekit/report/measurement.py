"""The figures that were measured for a bundle on a device.

Fractions range from 0 to 1, points are percentage points, times are in milliseconds and sizes in bytes. A figure that
was not measured is None, which is null in JSON.
"""

from dataclasses import dataclass
from math import inf
from typing import Annotated, Literal

from msgspec import Meta

from edgekit.config.choices import Precision
from edgekit.errors import EdgekitError
from edgekit.report import times
from edgekit.report.device import Conditions, DeviceFacts
from edgekit.report.figure import Count, Fraction, Interval, Milliseconds
from edgekit.support import error_text


@dataclass(frozen=True)
class ChangedImage:
    """An image whose answer differs from the reference's."""

    image: str
    """Path of the image within its data set."""
    before: str
    """Answer of the reference: a class, several labels, or the path of the nearest other image."""
    after: str
    """Answer of the bundle."""


@dataclass(frozen=True, kw_only=True)
class ClassChange:
    """Predictions for the images of one class, by the reference and by the bundle."""

    label: str
    """Name of the class; empty for images without labels, for which the reference's answer is the right one."""
    images: Count
    """Number of evaluation images of this class."""
    reference_right: Count
    """Number of them that the reference classifies correctly."""
    right: Count
    """Number of them that the bundle classifies correctly."""
    flipped: Count
    """Number of them for which the two predict different classes."""
    examples: tuple[ChangedImage, ...] = ()
    """A few of the flipped images, those that became wrong first."""


Stage = Literal["compile", "evaluate", "benchmark", "device", "bug in edgekit"]


@dataclass(frozen=True)
class Failure:
    """The stage that failed and its error, in a row without figures."""

    stage: Stage
    """Stage that failed: "compile", "evaluate", "benchmark" or "device"; "bug in edgekit" if edgekit itself did."""
    error: str
    """Class name of the exception, such as "EngineError"."""
    message: str
    """Message of the exception."""

    @classmethod
    def of(cls, stage: Stage, error: Exception) -> "Failure":
        """The failure of a stage. An exception that edgekit doesn't raise on purpose is its own bug in any stage."""
        if isinstance(error, EdgekitError):
            return cls(stage, type(error).__name__, str(error))
        return cls("bug in edgekit", error_text.kind_of(error), error_text.summary_of(error))

    def __str__(self) -> str:
        return f"{self.stage}: {self.message}"


@dataclass(frozen=True)
class Bound:
    """Comparison of the drop's 95 % interval with the largest drop that the gate allows."""

    max_drop_points: float
    """Largest drop that the gate allows, in percentage points."""
    shown: bool
    """Whether the whole 95 % interval of the drop lies within the allowed drop, which confirms the claim."""
    images_needed: Annotated[int, Meta(ge=1)] | None
    """Images that would confirm the claim four times out of five at the measured rates; null where no number would."""


@dataclass(frozen=True)
class Detail:
    """One more figure of a task, such as F1."""

    name: str
    """Name of the figure."""
    value: float
    """Value for the bundle, mostly from 0 to 1."""
    reference: float | None = None
    """Value for the reference; null where the figure compares the two."""


@dataclass(frozen=True)
class Score:
    """The metric of a task other than single-label, or one of the user's."""

    metric: str
    """Name of the metric, such as "mAP"."""
    value: float
    """Value, at most 1, of which more is better."""
    details: tuple[Detail, ...] = ()
    """More figures of the task."""


TOP1 = "top-1"
"""Metric of the task single-label."""


@dataclass(frozen=True, kw_only=True)
class Crossings:
    """Answers that reach a confidence threshold with only one of the bundle and the reference."""

    threshold: float | None
    """Confidence from which an app acts on an answer; null where each class has its own in the manifest."""
    stated: bool
    """Whether the user or the manifest states the threshold; otherwise it is one that every report has."""
    count: Count
    """Number of answers: of images, or of images times labels where each label is decided by itself."""
    upward: Count
    """Number of answers that reach the threshold with the bundle and not with the reference."""
    downward: Count
    """Number of answers that reach it with the reference and not with the bundle."""
    images: Count
    """Number of images with an answer that crosses it in either direction."""
    changed_class: Count = 0
    """Number of answers that reach it with both, but name different classes."""


@dataclass(frozen=True, kw_only=True)
class Confidence:
    """How far the confidences of a bundle can be trusted, beside those of the reference."""

    calibration_error: Fraction | None = None
    """Smooth calibration error (Błasiok and Nakkiran, 2024); null where confidences are no probabilities."""
    calibration_error_ci95: Interval | None = None
    """95 % interval of the calibration error (bootstrap over images)."""
    reference_calibration_error: Fraction | None = None
    """The same error of the reference."""
    reference_calibration_error_ci95: Interval | None = None
    """95 % interval of the reference's error."""
    calibration_error_change_ci95: Interval | None = None
    """95 % interval of the bundle's error minus the reference's, on the same images (paired bootstrap)."""
    crossing_share: Fraction | None = None
    """Share of the images with an answer that crosses the last threshold, in either direction."""
    crossings: tuple[Crossings, ...] = ()
    """Answers that cross each threshold."""
    temperature: float | None = None
    """Temperature by which the outputs of the INT8 network were divided, in the weights of its last layer, so that
    confidences match the float network's; null for none."""


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """The metric of a bundle, and its paired difference from a reference on the same images."""

    top1: Fraction | None = None
    """Share of images whose highest-scoring class is the right one; null for tasks with a `score`."""
    top5: Fraction | None = None
    """Share of images whose right class is among the five highest-scoring ones; null for tasks with a `score`."""
    count: Count
    drop_top1_points: float | None = None
    """Drop of top-1; null for tasks with a `score`."""
    drop_ci95_points: Interval
    """95 % interval of the drop in percentage points: Tango's score interval for paired differences, or a paired
    bootstrap over images for metrics that aren't a share of the images."""
    agreement: Fraction
    """Share of images with the same answer: class, set of labels, or nearest neighbour."""
    right_to_wrong: Count | None = None
    wrong_to_right: Count | None = None
    mcnemar_p: Fraction | None = None
    """P-value of McNemar's test; like both counts, null for metrics that aren't a share of the images."""
    versus: str
    """Name of the bundle to compare with, or "reference" for the float network in its own framework."""
    score: Score | None = None
    """Metric of another task than single-label; null for that one."""
    drop_score_points: float | None = None
    """Drop of `score.value`, in hundredths; null for the task single-label."""
    bound: Bound | None = None
    """Comparison of the drop's interval with the allowed drop; null where no gate applies."""
    changes: tuple[ClassChange, ...] | None = None
    """Classes with changed predictions, the worst first, at most 100; null in reports of an edgekit without it."""
    right_by_class: tuple[Count, ...] | None = None
    """Number of right predictions for each class of `evaluation.classes`, in that order; null where that is null."""
    confidence: Confidence | None = None
    """Confidences beside the reference's; null in reports of an edgekit without it."""
    given_by_class: tuple[Count, ...] | None = None
    """Number of images for which each of these classes is given, right or wrong; null where each image has one."""

    @property
    def metric(self) -> str:
        """Name of the task's metric."""
        return self.score.metric if self.score else TOP1

    @property
    def value(self) -> float:
        """Value of the task's metric, at most 1."""
        return self.score.value if self.score else self.top1 or 0.0

    @property
    def drop_points(self) -> float:
        """Drop of the task's metric, in percentage points."""
        return (self.drop_score_points if self.score else self.drop_top1_points) or 0.0


@dataclass(frozen=True, kw_only=True)
class Int8:
    """The part of the model that ran in integer kernels, according to the runtime's profiler."""

    share_of_macs: Fraction | None
    method: str
    """Source of the share: the profiler and its version, or the reason why the share is unknown."""
    float_layers: tuple[str, ...] | None
    """Names of the dense layers that ran in floating point; null where the profiler does not tell."""
    simulated: bool | None
    """Whether most of the quantized operations ran in floating point; null where the profiler does not tell."""
    pairs_that_can_saturate: Annotated[int, Meta(ge=0)] | None = None
    """Number of pairs of INT8 weights that can saturate on x86 processors without VNNI; null where it isn't known."""


@dataclass(frozen=True, kw_only=True)
class LowPrecision:
    """Figures of a float bundle computed in bf16 or f16, for runtimes that choose this format by default."""

    computes_in: Literal["bf16", "f16"]
    """Number format that the runtime computed in."""
    accuracy: Accuracy | None
    """Accuracy of the bundle in that format; null without evaluation images."""
    p50_ms: Milliseconds
    """Median latency in that format, in milliseconds."""
    verdict: Literal["pass", "fail"] | None = None
    """`fail` where the drop exceeds the allowed drop; null until the gates have judged it."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """The figures of one bundle on one device, or the failure that replaces them."""

    target: str
    """Runtime that the bundle was compiled for: "openvino", "onnx" or "tflite"."""
    precision: Precision
    """Precision of the bundle: "float" or "int8"."""
    device: DeviceFacts
    """Machine that the bundle was measured on."""
    engine: str | None = None
    """Distribution of the runtime that ran the bundle, with its version, such as "onnxruntime 1.27.1"; null for a
    failure, and in reports of an edgekit without it."""
    bundle: str | None = None
    """Name of the bundle, which is its folder within the run folder; null where none was made."""
    scheme: str | None = None
    """Description of how weights and activations are quantized."""
    size_bytes: Count | None = None
    """Size of the files that the runtime loads, in bytes."""
    macs: Count | None = None
    """Number of multiply-accumulates of one inference."""
    accuracy: Accuracy | None = None
    """Accuracy on the evaluation images, compared with the float network."""
    snr_db: float | None = None
    """Signal-to-noise ratio of the logits against torch's on the first evaluation images, at most 2,000, in decibels;
    null where they are equal, and in reports of an edgekit without it."""
    latency_ms: times.Latency | None = None
    """Latency of one inference at batch 1, in milliseconds."""
    end_to_end_ms: times.EndToEnd | None = None
    """Latency from an encoded image file to logits, in milliseconds."""
    speedup: times.Speedup | None = None
    """Speedup over the fastest float bundle of the same runtime, in bf16 or f16 only if that keeps the allowed drop."""
    speedup_f32: times.Speedup | None = None
    """Speedup over the fastest float bundle in f32, where `speedup` is over one in bf16 or f16; else null."""
    int8: Int8 | None = None
    """Share of the work that ran in integer kernels."""
    profile: times.TimeProfile | None = None
    """Times of the operations, from the same profile; null in reports of an edgekit that did not write them."""
    limit: times.RatedLatency | None = None
    """Latency at the nominal peak rate of the measured machine's device class."""
    peak_rss_bytes: Count | None = None
    low_precision: LowPrecision | None = None
    """Figures of the float bundle when computed in bf16 or f16."""
    thermal: Conditions | None = None
    """Clocks, temperature and other load during the timing."""
    sustain: times.Sustained | None = None
    """Latency over minutes; null without `--sustain`."""
    energy: times.Energy | None = None
    """Energy of one inference, net of the idle machine; null in reports of an edgekit that did not measure it."""
    throughput: times.Throughput | None = None
    """Images per second of several streams side by side; null without `--streams`."""
    failure: Failure | None = None
    """Stage that failed and its error; null where the row has figures."""

    def __post_init__(self) -> None:
        figures = (self.accuracy, self.snr_db, self.latency_ms, self.end_to_end_ms, self.speedup, self.int8, self.limit,
                   self.size_bytes, self.peak_rss_bytes, self.energy, self.throughput, self.profile)  # fmt: skip
        if self.failure and any(figure is not None for figure in figures):
            raise ValueError("a row with a failure must not have figures")
        if self.failure is None and (self.bundle is None or self.size_bytes is None or self.latency_ms is None):
            raise ValueError("a row without a failure must have a bundle, a size and a latency")

    @property
    def name(self) -> str:
        """Name of the bundle, or the name that it would have had."""
        return self.bundle or f"{self.target}-{self.precision}"

    def times_are_of(self, device_class: str) -> bool:
        """Whether its times hold for devices of this class: a real one of them was measured."""
        return not self.device.emulated and self.device.device_class == device_class

    @property
    def p50(self) -> float:
        """Median latency of one inference in milliseconds; infinite for a failure."""
        return self.latency_ms.p50 if self.latency_ms else inf

    @property
    def best_ms(self) -> float:
        """Median latency in the fastest number format whose accuracy is kept, in milliseconds."""
        low = self.low_precision
        return min(self.p50, low.p50_ms) if low and low.verdict == "pass" else self.p50

    @property
    def best_format(self) -> str:
        """Number format of `best_ms`: f32, bf16 or f16."""
        return self.low_precision.computes_in if self.low_precision and self.best_ms < self.p50 else times.F32

    @property
    def best_name(self) -> str:
        """Name of the bundle with that format."""
        return times.in_format(self.name, self.best_format)
