"""One row of a report: what was measured for a bundle on a device, the outcomes of its gates and its verdict.

Fractions range from 0 to 1, points are percentage points, times are in milliseconds and sizes in bytes. A figure that
was not measured is None, which is null in JSON.
"""

from dataclasses import dataclass
from math import inf
from typing import Annotated, Literal, Protocol

from msgspec import Meta

from edgekit.config.runtimes import DeviceClass, Precision
from edgekit.errors import EdgekitError
from edgekit.report.figure import (
    Camera,
    Conditions,
    Count,
    DeviceFacts,
    EndToEnd,
    Fraction,
    Interval,
    Milliseconds,
    NotNegative,
    Positive,
    Seconds,
    Throughput,
    all_figures,
    counted,
)
from edgekit.support import progress


@dataclass(frozen=True)
class TimedKind:
    """Time of all operations of one kind."""

    kind: str
    """The runtime's name for the kind of operation; "int8" or "float" follows it where it multiplies matrices."""
    ms: Milliseconds
    """Time of one inference, in milliseconds."""


@dataclass(frozen=True)
class TimedLayer:
    """Time of one layer that multiplies and accumulates."""

    name: str
    """Name of the layer."""
    kernel: str
    """The runtime's name for the kernel that ran."""
    int8: bool
    """Whether the kernel multiplies integers of at most 8 bits."""
    ms: Milliseconds
    """Time of one inference, in milliseconds."""
    around_ms: Milliseconds = 0.0
    """Time of the activations, conversions and other operations that belong to the layer, in milliseconds."""


@dataclass(frozen=True, kw_only=True)
class TimeProfile:
    """Times of the operations of one inference at batch 1, from a few runs under the runtime's profiler."""

    kinds: tuple[TimedKind, ...] = ()
    """Kinds of operation, the slowest first; together they are the whole inference."""
    layers: tuple[TimedLayer, ...] = ()
    """Layers that multiply and accumulate, first those that take longest with what surrounds them; empty where the
    profiler does not tell them apart."""
    sum_ms: Milliseconds | None = None
    """Sum of the times of all kinds, in milliseconds; profiling adds time, so it may exceed the measured latency."""
    conversion_ns: float | None = None
    """Time to convert one value between float and 8 bits, in nanoseconds; null where nothing converts values."""
    missing: str | None = None
    """Reason why the runtime gave no times; null where it did."""


@dataclass(frozen=True)
class ThreadTime:
    """Median latency with one number of threads, from the comparison that chose the row's number."""

    threads: Positive
    """Number of threads that the runtime computed with."""
    p50: Milliseconds
    """Median latency with it, in milliseconds."""


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Milliseconds of one inference of the model alone at batch 1; `load` and `first` are from a fresh process."""

    p5: Milliseconds
    """5th percentile of the latency, in milliseconds."""
    p25: Milliseconds
    """25th percentile of the latency, in milliseconds."""
    p50: Milliseconds
    p75: Milliseconds
    """75th percentile of the latency, in milliseconds."""
    p90: Milliseconds
    p95: Milliseconds
    """95th percentile of the latency, in milliseconds."""
    p99: Milliseconds
    mean: Milliseconds
    std: Milliseconds
    spread: NotNegative | None
    """Third highest minus third lowest median of 20 blocks of rounds, as a share of p50; null for too few rounds."""
    count: Count
    threads: Count
    by_threads: tuple[ThreadTime, ...] = ()
    """Numbers of threads that were compared, fewest first; empty where the job states the number or the device has one
    core, and in reports of an edgekit without it."""
    batch: Positive = 1
    """Number of consecutive inferences whose mean is one time; above 1 in browsers, whose clocks are coarse."""
    load: Milliseconds
    first: Milliseconds

    def rated(self, device: DeviceFacts, macs: int, precision: Precision) -> "RatedLatency | None":
        """Latency at the nominal peak rate of the measured device, or None if its class is unknown.

        The bundle may have been made for a different class.
        """
        if device.device_class is None:
            return None
        cores = min(self.threads, device.cores or self.threads)
        nominal = DeviceClass.load(device.device_class).nominal_ms(macs, precision, cores)
        return RatedLatency(nominal, nominal / self.p50)


F32 = "f32"
"""Number format of float bundles, unless their runtime computes in bf16 or f16."""


def in_format(name: str, computes_in: str | None) -> str:
    """The name of a bundle, with the number format that it computes in unless that is f32."""
    return name if computes_in in (None, F32) else f"{name} in {computes_in}"


@dataclass(frozen=True, kw_only=True)
class Speedup:
    """Median latency of another bundle divided by that of this bundle; one process timed both in turns."""

    versus: str
    """Name of the bundle to compare with; `edgekit deploy` takes the fastest float bundle of the same runtime."""
    versus_precision: str | None = None
    """Number format that the other bundle computed in: f32, bf16 or f16."""
    ratio: NotNegative
    ci95: Interval | None
    """95 % interval of the ratio, from a bootstrap over blocks of rounds; null for fewer than 30 rounds."""

    def exceeds(self, limit: float) -> bool:
        """Whether the whole interval exceeds the limit, or without an interval the ratio."""
        return (self.ratio if self.ci95 is None else self.ci95[0]) > limit

    @property
    def baseline(self) -> str:
        """Name of the other bundle, with the number format that it computed in unless that is f32."""
        return in_format(self.versus, self.versus_precision)


@dataclass(frozen=True)
class RatedLatency:
    """Latency at the device class's nominal peak rate, and its share of the measured p50.

    It is no bound: a processor whose clock is higher than the class's takes less.
    """

    bound_ms: Milliseconds
    fraction: NotNegative


@dataclass(frozen=True, kw_only=True)
class Energy:
    """Energy of one inference, net of the idle machine; figures are null where no sensor could be read."""

    inference_mj: float | None
    source: str
    """Sensor that was read, or the reason why the energy is unknown."""
    idle_w: NotNegative | None = None
    """Mean power before the timing, in watts."""
    load_w: NotNegative | None = None
    """Mean power while only this bundle ran, in watts."""
    seconds: NotNegative | None = None
    """Duration of that load, in seconds."""
    inferences: Positive | None = None
    """Number of inferences during that load."""


@dataclass(frozen=True)
class SustainedLatency:
    """Latency within one window of a sustained run, in milliseconds."""

    p50: float
    """Median latency within the window, in milliseconds."""
    p90: float
    """90th percentile of the latency within the window, in milliseconds."""
    p99: float
    """99th percentile of the latency within the window, in milliseconds."""
    count: int
    """Number of inferences within the window."""


@dataclass(frozen=True)
class SustainedPoint:
    """One point of a sustained run's latency over time."""

    s: Seconds
    """Seconds since the timed rounds began."""
    p50: float
    """Median latency from this moment until the next point, in milliseconds."""
    count: int
    """Number of inferences from this moment until the next point."""


@dataclass(frozen=True, kw_only=True)
class Sustained:
    """Latency over minutes: in the first window, in the last window, and as a time series."""

    seconds: Seconds
    """Duration of the sustained run, in seconds."""
    window_s: Seconds
    """Length of the first and the last window, in seconds."""
    first: SustainedLatency
    """Latency within the first window."""
    last: SustainedLatency
    """Latency within the last window."""
    change: float
    """Change of p50 from the first to the last window, as a share of the first; above 0 is slower."""
    series: tuple[SustainedPoint, ...]
    """Median latency over time."""


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
    """Name of the class; without labels, of the reference's answer, or empty for vectors."""
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
        return cls("bug in edgekit", progress.kind_of(error), progress.summary_of(error))

    def __str__(self) -> str:
        return f"{self.stage}: {self.message}"


@dataclass(frozen=True)
class Bound:
    """Comparison of the drop's 95 % interval with the largest drop that the gate allows."""

    max_drop_points: float
    """Largest drop that the gate allows, in percentage points."""
    shown: bool
    """Whether the whole 95 % interval of the drop lies within the allowed drop, which confirms the claim."""
    images_needed: Positive | None
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
    """The metric of a task other than single-label, of images without labels, or of the user's."""

    metric: str
    """Name of the metric, such as "mAP"."""
    value: float
    """Value, at most 1, of which more is better."""
    details: tuple[Detail, ...] = ()
    """More figures of the task."""


TOP1 = "top-1"
"""Metric of the task single-label."""
AGREEMENT, COSINE = "agreement with float", "5th percentile of the cosine to float"
"""Metrics of classes and of vectors for images without labels."""


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
class ModelAccuracy:
    """The metric of one model on the evaluation images: top-1, or the `score` of another task."""

    top1: Fraction | None = None
    """Share of images whose highest-scoring class is the right one; null where there is a `score`."""
    top5: Fraction | None = None
    """Share of images whose right class is among the five highest-scoring ones; null where there is a `score`."""
    score: Score | None = None
    """Metric in place of top-1: of another task, or of images without labels; null for classes with labels."""
    right_by_class: tuple[Count, ...] | None = None
    """Number of right predictions for each class of `evaluation.classes`, in that order; null where that is null."""
    given_by_class: tuple[Count, ...] | None = None
    """Number of images for which each of these classes is given, right or wrong; null where each image has one."""

    @property
    def metric(self) -> str:
        """Name of the task's metric."""
        return self.score.metric if self.score else TOP1

    @property
    def without_labels(self) -> bool:
        """Whether the images have no labels, so that only the answers of two models are compared."""
        return self.metric in (AGREEMENT, COSINE)

    @property
    def value(self) -> float:
        """Value of the task's metric, at most 1."""
        return self.score.value if self.score else self.top1 or 0.0


@dataclass(frozen=True, kw_only=True)
class Accuracy(ModelAccuracy):
    """The metric of a bundle, and its paired difference from a reference on the same images."""

    count: Count
    drop_top1_points: float | None = None
    """Drop of top-1; null where there is a `score`."""
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
    drop_score_points: float | None = None
    """Drop of `score.value`, in hundredths; null where there is none."""
    bound: Bound | None = None
    """Comparison of the drop's interval with the allowed drop; null where no gate applies."""
    changes: tuple[ClassChange, ...] | None = None
    """Classes with changed predictions, the worst first, at most 100; null in reports of an edgekit without it."""
    confidence: Confidence | None = None
    """Confidences beside the reference's; null in reports of an edgekit without it."""

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
    pairs_that_can_saturate: Count | None = None
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
    latency_ms: Latency | None = None
    """Latency of one inference at batch 1, in milliseconds."""
    end_to_end_ms: EndToEnd | None = None
    """Latency from an encoded image file to logits, in milliseconds."""
    speedup: Speedup | None = None
    """Speedup over the fastest float bundle of the same runtime, in bf16 or f16 only if that keeps the allowed drop."""
    speedup_f32: Speedup | None = None
    """Speedup over the fastest float bundle in f32, where `speedup` is over one in bf16 or f16; else null."""
    int8: Int8 | None = None
    """Share of the work that ran in integer kernels."""
    profile: TimeProfile | None = None
    """Times of the operations, from the same profile; null in reports of an edgekit that did not write them."""
    limit: RatedLatency | None = None
    """Latency at the nominal peak rate of the measured machine's device class."""
    peak_rss_bytes: Count | None = None
    low_precision: LowPrecision | None = None
    """Figures of the float bundle when computed in bf16 or f16."""
    thermal: Conditions | None = None
    """Clocks, temperature and other load during the timing."""
    sustain: Sustained | None = None
    """Latency over minutes; null without `--sustain`."""
    energy: Energy | None = None
    """Energy of one inference, net of the idle machine; null in reports of an edgekit that did not measure it."""
    throughput: Throughput | None = None
    """Images per second of several streams side by side; null without `--streams`."""
    camera: Camera | None = None
    """Frames per second of a camera; null without `--camera`."""
    failure: Failure | None = None
    """Stage that failed and its error; null where the row has figures."""

    def __post_init__(self) -> None:
        parts = {"camera", "profile", *(figure.path.partition(".")[0] for figure in all_figures())} - {"thermal"}
        if self.failure and any(getattr(self, part, None) is not None for part in parts):
            raise ValueError("a row with a failure must not have figures")
        if self.failure is None and (self.bundle is None or self.size_bytes is None or self.latency_ms is None):
            raise ValueError("a row without a failure must have a bundle, a size and a latency")

    @property
    def name(self) -> str:
        """Name of the bundle, or the name that it would have had."""
        return self.bundle or f"{self.target}-{self.precision}"

    @property
    def lost_with_device(self) -> bool:
        """Whether the device failed and not the bundle, so that the same command may succeed later."""
        return self.failure is not None and self.failure.stage == "device"

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
        return self.low_precision.computes_in if self.low_precision and self.best_ms < self.p50 else F32

    @property
    def best_name(self) -> str:
        """Name of the bundle with that format."""
        return in_format(self.name, self.best_format)


SHOWN = 4
"""Number of layers that a sentence names before it only counts them."""
HARDLY = 0.1
"""Share of the multiply-accumulates below which a placement shows that INT8 doesn't pay."""


@dataclass(frozen=True)
class PlacedLayer:
    """Time of a layer that stays in float, with that of what surrounds it, from the runtime's profiler."""

    name: str
    """Name of the layer."""
    int8_ms: Milliseconds
    """Time in the INT8 bundle of the recipe, in milliseconds."""
    float_ms: Milliseconds
    """Time in the float bundle, in milliseconds."""

    @property
    def reason(self) -> str:
        """The two times in words."""
        return f"{self.int8_ms:.2g} ms in INT8, {self.float_ms:.2g} in float"


@dataclass(frozen=True, kw_only=True)
class ProfilePlacement:
    """Layers that stay in float because the INT8 bundle is faster with them in float."""

    device: str
    """Name of the device whose profile and times decided."""
    layers: tuple[PlacedLayer, ...]
    """Layers kept in float besides those of the recipe."""
    speedup: float
    """Speedup over the recipe's own INT8 bundle."""
    bundles: Positive
    """Number of other INT8 bundles that were timed beside it."""

    def words(self, share: float | None = None) -> str:
        """What stays in float and why, and another sentence if hardly any share of the work is left in INT8."""
        layers = self.layers
        named = "; ".join(f"{layer.name}, {layer.reason}" for layer in layers[:SHOWN])
        more = f"; and {len(layers) - SHOWN} more" if len(layers) > SHOWN else ""
        words = (
            f"placed by profile: {counted(len(layers), 'layer')} in float ({named}{more}) made it {self.speedup:.2f}x "
            "as fast as the recipe's own INT8 bundle"
        )
        if share is None or share >= HARDLY:
            return words
        return f"{words}. INT8 doesn't pay here: it is left with {share:.1%} of the multiply-accumulates"


@dataclass(frozen=True, kw_only=True)
class RepairAttempt:
    """One INT8 bundle that a repair compared: the recipe's own, or one with other kinds of layers."""

    float_layers: tuple[str, ...] = ()
    """Layers kept in float besides those of the recipe, the noisiest first; empty for the recipe's own bundle."""
    dynamic_layers: tuple[str, ...] = ()
    """Layers whose ranges are taken at run time, besides those of the recipe, the noisiest first."""
    drop_top1_points: float | None = None
    """Drop in top-1 against the float network, in percentage points; null where the attempt failed."""
    drop_ci95_points: Interval | None = None
    """95 % interval of the drop, in percentage points."""
    p50_ms: float | None = None
    """Median latency in ms."""
    speedup: float | None = None
    """Speedup over the runtime's fastest float bundle; null where it was not measured, as on an emulated device."""
    speedup_ci95: Interval | None = None
    """95 % interval of the speedup."""
    error: str | None = None
    """Message of the error because of which the bundle could not be made or measured."""

    @property
    def layers(self) -> str:
        """The layers of other kinds than the recipe's: the names of a few, or the number of many."""
        kinds = {"with ranges at run time": self.dynamic_layers, "in float": self.float_layers}
        words = []
        for kind, names in kinds.items():
            shown = ", ".join(names[:SHOWN])
            if names:
                listed = f"{len(names)} layers ({shown}, …)" if len(names) > SHOWN else shown
                words.append(f"{listed} {kind}")
        return " and ".join(words)

    @property
    def changes(self) -> tuple[int, int]:
        """How many layers are in float, and how many dynamic: more of them have less noise and take longer."""
        return len(self.float_layers), len(self.dynamic_layers)

    @property
    def points(self) -> str:
        """The drop in percentage points, in words."""
        return "unknown" if self.drop_top1_points is None else f"{self.drop_top1_points:.2f}"

    def is_within(self, max_drop: float) -> bool:
        """Whether the drop is at most this many percentage points."""
        return self.drop_top1_points is not None and self.drop_top1_points <= max_drop

    @property
    def words(self) -> str:
        """The layers of other kinds, and the drop and the speedup, or the error that the attempt failed with."""
        if self.error is not None:
            return f"{self.layers}: {self.error}"
        speed = f" and {self.speedup:.2f}x float" if self.speedup is not None else ""
        return f"{self.layers}: drop {self.points} points{speed}"


@dataclass(frozen=True, kw_only=True)
class Repair:
    """Attempts to bring the accuracy of an INT8 bundle within its bound by other kinds of layers."""

    device: str
    """Name of the device that judged the attempts."""
    max_drop_points: float
    """Largest drop in top-1 that the gate allows, in percentage points."""
    ranking_images: Count
    """Number of calibration images on which INT8 was simulated to choose the layers."""
    attempts: Annotated[tuple[RepairAttempt, ...], Meta(min_length=1)]
    """Bundles that were compared, in order; the first is the recipe's own."""
    chosen: Count
    """Position among the attempts of the bundle that the row has."""
    choosing_images: Count | None = None
    """Number of images, none of them an evaluation image, on which the attempts were compared; null if the evaluation
    images, which judge the row, did that too."""

    @property
    def where(self) -> str:
        """The images on which the attempts were compared, in words, unless they are the evaluation images."""
        return "" if self.choosing_images is None else f" on {self.choosing_images:,} other images"

    @property
    def result(self) -> RepairAttempt:
        """The attempt whose bundle the row has."""
        return self.attempts[self.chosen]

    @property
    def beside(self) -> str:
        """What the attempts with the next fewer and the next more layers cost, in words; empty without any."""
        attempts = sorted(self.attempts[1:], key=lambda attempt: attempt.changes)
        fewer = [attempt for attempt in attempts if attempt.changes < self.result.changes][-1:]
        more = [attempt for attempt in attempts if attempt.changes > self.result.changes][:1]
        next_ones = "; ".join(f"with {attempt.words}" for attempt in (*fewer, *more))
        return f". Next to it: {next_ones}" if next_ones else ""

    @property
    def words(self) -> str:
        """Which kinds of layers were changed and what it cost, or what was tried, in one sentence."""
        before, after = self.attempts[0], self.result
        same = "; the same images chose and judged" if self.choosing_images is None else ""
        if self.chosen > 0 and after.is_within(self.max_drop_points):
            return (
                f"repaired: {after.layers} changed the drop from {before.points} to "
                f"{after.points} points{_speed(before, after)}{self.where}{same}{self.beside}"
            )
        if len(self.attempts) == 1:
            return "not repaired: no set of layers in float cuts the INT8 noise to a quarter"
        tried = "; ".join(attempt.words for attempt in self.attempts[1:])
        kept = f"the bundle with {after.layers}" if self.chosen else "the recipe's own bundle"
        return f"not repaired: tried{self.where}, {tried}; this is {kept}{same}"


def _speed(before: RepairAttempt, after: RepairAttempt) -> str:
    if before.speedup is None or after.speedup is None:
        return ""
    return f" and the speedup over float from {before.speedup:.2f}x to {after.speedup:.2f}x"


GateName = Literal["above-chance", "max-drop", "min-agreement", "min-speedup", "steady-timing"]
ACCURACY_GATES: tuple[GateName, ...] = ("max-drop", "min-agreement")
"""The gates on the accuracy: of images with labels, and of images without."""


@dataclass(frozen=True, kw_only=True)
class Gate:
    """One gate of a row. The gates together give the row's verdict."""

    name: GateName
    """Name of the gate: an option that sets its limit; "above-chance", which every accuracy needs of the reference; or
    "steady-timing", which a stated speed-up needs."""
    verdict: Literal["pass", "fail", "inconclusive", "skipped"]
    """Outcome of the gate; "skipped" where it does not apply to the row."""
    figure: str | None = None
    """Path of the figure that the gate judges, such as "accuracy.drop_top1_points"; null for gates without a limit."""
    limit: float | None = None
    """Limit of that figure, in the units of report.json."""
    whole_interval: bool | None = None
    """Whether the whole 95 % interval must meet the limit, or else must not miss it as a whole; null for gates without
    a limit, and in reports of an edgekit without it."""
    reasons: tuple[str, ...] = ()
    """Reasons for an outcome other than "pass", and remarks on one that is "pass"."""


Verdict = Literal["pass", "fail", "inconclusive", "error"]
"""`fail`: a gate failed. `inconclusive`: there were too few images, or the latency was too unsteady, to confirm the
claim. `error`: a stage failed, so the row has no figures."""


@dataclass(frozen=True, kw_only=True)
class Row(Measurement):
    """One bundle on one device: its figures, or its failure, and the verdict of the gates."""

    verdict: Verdict
    """Outcome of the gates; "inconclusive" where too few images or unsteady latency leave the claim unconfirmed."""
    reasons: tuple[str, ...] = ()
    """Reasons why the row did not pass; empty where it did."""
    remarks: tuple[str, ...] = ()
    """Remarks on the row that do not affect its verdict."""
    gates: tuple[Gate, ...] = ()
    """Outcome of each gate; empty for a row with a failure, and where nothing is gated."""
    placement: ProfilePlacement | None = None
    """Layers that stay in float because the profile showed that INT8 makes them slower; null where there are none."""
    repair: Repair | None = None
    """Attempts to bring the accuracy within its bound; null where none was needed or wanted."""

    @property
    def label(self) -> str:
        """Name of the bundle and of the device, such as "onnx-int8 on local"."""
        return f"{self.name} on {self.device.label}"

    @property
    def notes(self) -> tuple[str, ...]:
        """Reasons, then remarks."""
        return (*self.reasons, *self.remarks)

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.verdict == "error") != (self.failure is not None):
            raise ValueError("the verdict must be error if the row has a failure, and only then")


class Judged(Protocol):
    """A row with a verdict: of a report, of `edgekit benchmark` or of `edgekit evaluate`."""

    @property
    def label(self) -> str:
        """Name of the row, which no other row of the document has."""
        ...

    @property
    def verdict(self) -> Verdict: ...

    @property
    def reasons(self) -> tuple[str, ...]: ...

    @property
    def notes(self) -> tuple[str, ...]: ...

    @property
    def failure(self) -> Failure | None: ...

    @property
    def gates(self) -> tuple[Gate, ...]: ...
