"""One row of a report: a bundle on a device, every figure that was measured of it, and the table of those figures.

`Measurement` holds the facts and `Row` adds the verdict. A new figure is a field and an entry of `FIGURES` here, beside
its producer in `edgekit.measure`: schema, CSV, terminal, page, `compare` and `inspect` read the table.

Fractions are 0 to 1, points are percentage points, times are milliseconds, sizes are bytes. A figure that was not
measured is None, which is null in JSON.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta

from edgekit.config.precisions import Precision
from edgekit.report.conditions import Conditions, Sustained
from edgekit.report.device_facts import DeviceFacts
from edgekit.report.figure import TIMES, Figure

Fraction = Annotated[float, Meta(ge=0, le=1)]
Milliseconds = Annotated[float, Meta(ge=0)]
Count = Annotated[int, Meta(ge=0)]
Interval = tuple[float, float]
"""A 95 % interval: its low and its high end."""

Verdict = Literal["pass", "fail", "inconclusive", "error"]
"""`fail`: a gate failed. `inconclusive`: the images are too few, or the latency too unsteady, to confirm the claim.
`error`: a stage failed, and there are no figures."""
Stage = Literal["compile", "evaluate", "benchmark", "device"]


@dataclass(frozen=True)
class Failure:
    """Why a row has no figures."""

    stage: Stage
    """Stage that failed."""
    error: str
    """Name of the exception's class, such as "EngineError"."""
    message: str
    """Message of the exception."""

    @classmethod
    def of(cls, stage: Stage, error: Exception) -> "Failure":
        return cls(stage, type(error).__name__, str(error))

    def __str__(self) -> str:
        return f"{self.stage}: {self.message}"


@dataclass(frozen=True)
class Bound:
    """Whether the interval of the drop lies within the drop that is allowed."""

    max_drop_points: float
    """Largest drop that the gate allows."""
    shown: bool
    """Whether the whole 95 % interval lies within the allowed drop."""
    images_needed: Annotated[int, Meta(ge=1)] | None
    """Images that would confirm the claim four times out of five at these rates; None where no number would."""


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Top-1 and top-5 of a bundle, and its paired difference from a reference on the same images."""

    top1: Fraction
    top5: Fraction
    count: Count
    drop_top1_points: float
    drop_ci95_points: Interval
    """95 % interval of the drop (Tango's score interval for paired differences)."""
    agreement: Fraction
    right_to_wrong: Count
    wrong_to_right: Count
    mcnemar_p: Fraction
    versus: str
    """Name of the reference: "reference" is the float network in its own framework."""
    bound: Bound | None = None
    """Comparison of the interval with the allowed drop; None where no gate applies."""


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Milliseconds of one inference at batch 1, model alone; `load` and `first` are those of a fresh process."""

    p5: Milliseconds
    """5th percentile of the latency."""
    p25: Milliseconds
    """25th percentile of the latency."""
    p50: Milliseconds
    p75: Milliseconds
    """75th percentile of the latency."""
    p90: Milliseconds
    p95: Milliseconds
    """95th percentile of the latency."""
    p99: Milliseconds
    mean: Milliseconds
    std: Milliseconds
    spread: Annotated[float, Meta(ge=0)] | None
    """How far blocks of neighbouring rounds are apart, as a share of p50; None for too few rounds."""
    count: Count
    threads: Count
    load: Milliseconds
    first: Milliseconds


@dataclass(frozen=True)
class EndToEnd:
    """Milliseconds from an encoded file to logits: decoding and preprocessing included."""

    p50: Milliseconds


@dataclass(frozen=True, kw_only=True)
class Speedup:
    """Median latency of another bundle over this one's; both were timed in turns in one process."""

    versus: str
    """Bundle that this one is compared with."""
    versus_precision: str | None = None
    """What the other bundle computed in: f32, bf16 or f16."""
    ratio: Annotated[float, Meta(ge=0)]
    ci95: Interval
    """95 % interval of the ratio, from a bootstrap over blocks of rounds."""

    @property
    def baseline(self) -> str:
        """Name of the other bundle, and what it computed in where that is not f32."""
        return self.versus if self.versus_precision in (None, "f32") else f"{self.versus} in {self.versus_precision}"


@dataclass(frozen=True, kw_only=True)
class Int8:
    """What ran in integer kernels, by the runtime's profiler. Where that says nothing, `method` has the reason."""

    share_of_macs: Fraction | None
    method: str
    """Source of the share: the profiler and its version, or the reason why there is no share."""
    float_layers: tuple[str, ...] | None
    """Dense layers that ran in floating point."""
    simulated: bool | None
    """Whether most of what the file quantizes was computed in floating point."""


@dataclass(frozen=True)
class Roofline:
    """The time that the device class's peak rate would take, and its share of the measured p50."""

    bound_ms: Milliseconds
    fraction: Annotated[float, Meta(ge=0)]


@dataclass(frozen=True, kw_only=True)
class LowPrecision:
    """A float bundle computed in bf16 or f16, where its runtime would choose that by itself."""

    computes_in: Literal["bf16", "f16"]
    """Number format that the runtime computed in."""
    accuracy: Accuracy
    """Accuracy of the bundle in that format."""
    p50_ms: Milliseconds
    """Median latency in that format."""
    verdict: Literal["pass", "fail"] | None = None
    """`fail` where it loses more than the allowed drop; None until it is judged."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What was measured of one bundle on one device, or the failure in place of the figures."""

    target: str
    """Runtime that the bundle was compiled for."""
    precision: Precision
    """Precision of the bundle."""
    device: DeviceFacts
    """Machine that the bundle was measured on."""
    bundle: str | None = None
    """Folder of the bundle, in the run folder."""
    scheme: str | None = None
    """Description of how weights and activations are quantized."""
    size_bytes: Count | None = None
    """Bytes that the runtime loads."""
    macs: Count | None = None
    """Multiply-accumulates of one inference."""
    accuracy: Accuracy | None = None
    """Accuracy on the evaluation images."""
    latency_ms: Latency | None = None
    """Latency of one inference."""
    end_to_end_ms: EndToEnd | None = None
    """Latency from an encoded image file to logits."""
    speedup: Speedup | None = None
    """Speedup over the fastest float of the same runtime."""
    int8: Int8 | None = None
    """Share of the work that ran in integer kernels."""
    limit: Roofline | None = None
    """Lower bound of the latency on this device class."""
    peak_rss_bytes: Count | None = None
    low_precision: LowPrecision | None = None
    """Figures of the float bundle when computed in bf16 or f16."""
    thermal: Conditions | None = None
    """Clocks, temperature and other load during the timing."""
    sustain: Sustained | None = None
    """Latency over minutes; filled by `--sustain`."""
    failure: Failure | None = None
    """Stage and error that left the row without figures."""

    def __post_init__(self) -> None:
        figures = (self.accuracy, self.latency_ms, self.end_to_end_ms, self.speedup, self.int8, self.limit)
        if self.failure and any(each is not None for each in (*figures, self.size_bytes, self.peak_rss_bytes)):
            raise ValueError("a row that failed has no figures")
        if self.failure is None and (self.bundle is None or self.size_bytes is None or self.latency_ms is None):
            raise ValueError("a row without a failure has a bundle, a size and a latency")

    @property
    def name(self) -> str:
        """The bundle, or the name that it would have had."""
        return self.bundle or f"{self.target}-{self.precision}"


@dataclass(frozen=True, kw_only=True)
class Row(Measurement):
    """One entry of `results` in report.json."""

    verdict: Verdict
    """Outcome of the gates."""
    reasons: tuple[str, ...] = ()
    """Why the row did not pass."""
    remarks: tuple[str, ...] = ()
    """What a reader should know of the row whatever its verdict."""

    @property
    def notes(self) -> tuple[str, ...]:
        """The reasons, then the remarks."""
        return (*self.reasons, *self.remarks)

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.verdict == "error") != (self.failure is not None):
            raise ValueError("the verdict is error exactly where there is a failure")


# fmt: off
FIGURES: tuple[Figure, ...] = (
    Figure(path="size_bytes", title="size", unit="MB", digits=1, scale=1e-6, better="lower", tolerance=0.01,
           rank=4,
           meaning="bytes that the runtime loads"),
    Figure(path="accuracy.top1", title="top-1", unit="%", scale=100, rank=2, csv="top1_percent",
           meaning="share of images whose first class is right"),
    Figure(path="accuracy.drop_top1_points", title="drop", unit="points", interval="accuracy.drop_ci95_points",
           better="lower", rank=1, csv="drop_top1_points",
           meaning="top-1 lost against torch; above 0 is worse"),
    Figure(path="accuracy.agreement", title="agreement", unit="%", digits=1, scale=100, rank=6, csv="agreement_percent",
           meaning="share of images that get the same first class as from torch"),
    Figure(path="latency_ms.p50", title="p50", unit="ms", better="lower", rank=0, csv="latency_p50_ms",
           meaning="median latency of the model alone at batch 1"),
    Figure(path="latency_ms.p90", title="p90", unit="ms", rank=10, csv="latency_p90_ms",
           meaning="90th percentile of the latency"),
    Figure(path="latency_ms.p99", title="p99", unit="ms", rank=9, csv="latency_p99_ms",
           meaning="99th percentile of the latency"),
    Figure(path="speedup.ratio", title="speedup", unit=TIMES, interval="speedup.ci95", better="higher", rank=1,
           meaning="median latency of the runtime's fastest float over this one's"),
    Figure(path="int8.share_of_macs", title="int8", unit="% MAC", digits=0, scale=100, better="higher",
           tolerance=0.01, rank=3,
           meaning="share of multiply-accumulates that ran in integer kernels"),
    Figure(path="limit.fraction", title="of bound", unit="%", digits=0, scale=100, rank=5, csv="bound_percent",
           meaning="time at the device class's peak rate over the measured p50"),
    Figure(path="peak_rss_bytes", title="peak", unit="MB", digits=0, scale=1e-6, better="lower", rank=8,
           meaning="peak resident memory of a process that runs the bundle alone"),
    Figure(path="end_to_end_ms.p50", title="end to end", unit="ms", rank=11, csv="end_to_end_p50_ms",
           meaning="median from an encoded file to logits"),
    Figure(path="accuracy.top5", title="top-5", unit="%", scale=100, rank=12, csv="top5_percent",
           meaning="share of images whose right class is among the first five"),
    Figure(path="accuracy.count", title="images", unit="n", digits=0, rank=13, csv="eval_images",
           meaning="images evaluated on"),
    Figure(path="latency_ms.count", title="runs", unit="n", digits=0, rank=14, csv="timed_runs",
           meaning="timed runs"),
    Figure(path="accuracy.right_to_wrong", title="lost", unit="n", digits=0, csv="right_to_wrong_images",
           meaning="images that torch classifies rightly and the bundle does not"),
    Figure(path="accuracy.wrong_to_right", title="won", unit="n", digits=0, csv="wrong_to_right_images",
           meaning="images that the bundle classifies rightly and torch does not"),
    Figure(path="accuracy.mcnemar_p", title="McNemar p", unit="", csv="mcnemar_p",
           meaning="two-sided exact p of as many images lost as won"),
    Figure(path="accuracy.bound.max_drop_points", title="allowed drop", unit="points", csv="max_drop_points",
           meaning="drop that the gate allows"),
    Figure(path="accuracy.bound.images_needed", title="images needed", unit="n", digits=0, csv="max_drop_images_needed",
           meaning="images that would confirm the allowed drop"),
    Figure(path="latency_ms.mean", title="mean", unit="ms", csv="latency_mean_ms",
           meaning="mean latency"),
    Figure(path="latency_ms.std", title="std", unit="ms", csv="latency_std_ms",
           meaning="standard deviation of the latency"),
    Figure(path="latency_ms.spread", title="spread", unit="", csv="latency_spread",
           meaning="drift between blocks of neighbouring rounds, as a share of p50"),
    Figure(path="latency_ms.threads", title="threads", unit="n", digits=0, csv="threads",
           meaning="threads of the runtime"),
    Figure(path="latency_ms.load", title="load", unit="ms", csv="load_ms",
           meaning="time to load the bundle in a fresh process"),
    Figure(path="latency_ms.first", title="first inference", unit="ms", csv="first_ms",
           meaning="time of the first inference in a fresh process"),
    Figure(path="limit.bound_ms", title="lower bound", unit="ms", csv="bound_ms",
           meaning="time that the device class's peak rate would take"),
    Figure(path="thermal.other_cpus", title="other load", unit="CPUs", csv="other_cpus",
           meaning="CPUs that other processes kept busy meanwhile"),
)
# fmt: on
"""The table behind `all_figures`."""


def all_figures() -> tuple[Figure, ...]:
    """Every figure of a row, in the order of the terminal's columns and of report.csv.

    Every output calls this when it is made, so a figure that a test adds to the table appears in all of them.
    """
    return FIGURES
