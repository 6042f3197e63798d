"""Times of a bundle on a device: one inference, its operations, minutes, several streams; and its energy."""

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from edgekit.report.figure import Count, Interval, Milliseconds, Seconds


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

    threads: Annotated[int, Meta(ge=1)]
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
    spread: Annotated[float, Meta(ge=0)] | None
    """Third highest minus third lowest median of 20 blocks of rounds, as a share of p50; null for too few rounds."""
    count: Count
    threads: Count
    by_threads: tuple[ThreadTime, ...] = ()
    """Numbers of threads that were compared, fewest first; empty where the job states the number or the device has one
    core, and in reports of an edgekit without it."""
    batch: Annotated[int, Meta(ge=1)] = 1
    """Number of consecutive inferences whose mean is one time; above 1 in browsers, whose clocks are coarse."""
    load: Milliseconds
    first: Milliseconds


@dataclass(frozen=True)
class EndToEnd:
    """Milliseconds from an encoded image file to logits, including decoding and preprocessing."""

    p50: Milliseconds


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
    ratio: Annotated[float, Meta(ge=0)]
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
    fraction: Annotated[float, Meta(ge=0)]


Positive = Annotated[int, Meta(ge=1)]
NotNegative = Annotated[float, Meta(ge=0)]


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


@dataclass(frozen=True, kw_only=True)
class Throughput:
    """Images per second of several streams side by side, each with its own session of the bundle."""

    streams: Positive
    """Number of streams."""
    threads: Positive
    """Number of threads that each stream's session computes with."""
    images_per_second: NotNegative
    p50_ms: NotNegative
    """Median latency of one inference while all streams run, in milliseconds."""
    p99_ms: NotNegative
    count: Positive
    """Number of timed inferences of all streams."""


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
