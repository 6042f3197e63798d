"""The figures of a row: the field that has each one's value, and how outputs show it.

A new figure needs a field in `edgekit.report.row`, an entry of `FIGURES` here, and its producer in `edgekit.measure`:
schema, CSV, terminal, page, `compare` and `inspect` read the table.

The facts of the machine that a row was measured on, its state meanwhile, the times of the way from an image to the
answer, and throughputs are here too.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field

Fraction = Annotated[float, Meta(ge=0, le=1)]
NotNegative = Annotated[float, Meta(ge=0)]
Milliseconds = NotNegative
Seconds = NotNegative
Count = Annotated[int, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1)]
Interval = tuple[float, float]
"""Lower and upper limit of a 95 % interval."""
NOTHING = "–"  # noqa: RUF001
TIMES = "×"  # noqa: RUF001
"""Unit of a ratio."""
MEANINGLESS = "n/a"
MAIN_RANKS = 5
"""Figures of a lower rank are the columns of a table; those of this rank and above are details."""


def lookup(tree: Any, path: str) -> Any:
    """The value at a dotted path of nested documents, or None if a document on the path is None."""
    for name in path.split("."):
        if tree is None:
            return None
        tree = getattr(tree, name)
    return tree


def points(value: float) -> str:
    """Percentage points in words, such as "1 point" or "0.5 points"."""
    return f"{value:g} point" if value == 1 else f"{value:g} points"


def counted(number: int, noun: str) -> str:
    """A number with its noun, such as "1 layer" and "2 layers"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


@dataclass(frozen=True)
class Figure:
    """One figure of a row."""

    path: str
    """Dotted path of fields, starting at the row, such as "latency_ms.p50"."""
    title: str
    """Heading of the figure's column."""
    unit: str
    """Unit of the value times `scale`."""
    _: KW_ONLY
    meaning: str
    """Definition of the figure, for the schema and the documentation: a noun phrase in lower case."""
    digits: int = 2
    """Decimals that tables print."""
    scale: float = 1.0
    """Factor from the value of the field to `unit`."""
    interval: str | None = None
    """Path of the 95 % interval."""
    better: Literal["lower", "higher"] | None = None
    """Direction of an improvement. `compare` shows only figures that have one."""
    tolerance: float | None = None
    """Limit beyond which `compare` reports a worse figure without an interval as a regression: a share of its earlier
    value if lower is better, an absolute difference if higher is better. None if it needs an interval for that."""
    rank: int | None = None
    """Position among the columns of a table, or among the details of a row. None keeps the figure out of both."""
    fewest_runs: int = 0
    """Fewest timed inferences with which outputs show the figure: of fewer, p99 is the slowest one."""
    csv: str | None = None
    """Name of the column in report.csv, with values in `unit`. By default it is named after the path and has the
    values of report.json."""

    @property
    def csv_column(self) -> str:
        return self.csv or self.path.replace(".", "_")

    @property
    def csv_scale(self) -> float:
        return self.scale if self.csv else 1.0

    @property
    def is_ratio(self) -> bool:
        """Whether `compare` gives the ratio of two runs instead of their difference, as for speedups and times."""
        return self.unit in (TIMES, "ms")

    @property
    def is_main(self) -> bool:
        """Whether the figure is a column of a table of rows."""
        return self.rank is not None and self.rank < MAIN_RANKS

    def is_part_of(self, document: object) -> bool:
        """Whether documents of this kind have the figure. An inspection has only some of a row's figures."""
        return hasattr(document, self.path.partition(".")[0])

    @property
    def is_accuracy(self) -> bool:
        """Whether the figure is meaningless for random weights."""
        return self.path.startswith("accuracy.")

    def value(self, row: Any, meaningful: bool = True) -> float | None:
        """The figure of a row in `unit`; None if it was not measured, or is an accuracy of random weights."""
        value = lookup(row, self.path)
        if value is None or (self.is_accuracy and not meaningful):
            return None
        if self.fewest_runs and row.latency_ms.count < self.fewest_runs:
            return None
        return float(value) * self.scale

    def ends(self, row: Any, meaningful: bool = True) -> tuple[float, float] | None:
        """The 95 % interval of a row's figure in `unit`; None if there is none."""
        ends = lookup(row, self.interval) if self.interval else None
        if ends is None or (self.is_accuracy and not meaningful):
            return None
        low, high = ends
        return low * self.scale, high * self.scale

    def text(self, row: Any, meaningful: bool = True) -> str:
        """The figure of a row as tables print it, without the unit."""
        value = self.value(row, meaningful)
        if value is not None:
            return self.number(value)
        return MEANINGLESS if self.is_accuracy and not meaningful and lookup(row, self.path) is not None else NOTHING

    def interval_text(self, row: Any, meaningful: bool = True) -> str:
        """The interval as tables print it, such as "[1.14, 1.16]"; empty if there is none."""
        ends = self.ends(row, meaningful)
        return f"[{self.number(ends[0])}, {self.number(ends[1])}]" if ends else ""

    def words(self, row: Any, meaningful: bool = True) -> str:
        """The figure of a row with its interval and unit, such as "1.15 [1.14, 1.16] ×"."""  # noqa: RUF002
        return " ".join(filter(None, (self.text(row, meaningful), self.interval_text(row, meaningful), self.unit)))

    def number(self, value: float) -> str:
        """A value in `unit`, rounded to `digits` decimals. Zero has no sign."""
        return f"{value:z,.{self.digits}f}"


# fmt: off
FIGURES: tuple[Figure, ...] = (
    Figure("size_bytes", "size", "MB", digits=1, scale=1e-6, better="lower", tolerance=0.01,
           rank=3,
           meaning="size of the files that the runtime loads"),
    Figure("accuracy.top1", "top-1", "%", scale=100, rank=5, csv="top1_percent",
           meaning="share of images whose highest-scoring class is the right one"),
    Figure("accuracy.drop_top1_points", "loss", "points", interval="accuracy.drop_ci95_points",
           better="lower", rank=2, csv="drop_top1_points",
           meaning="top-1 accuracy lost against torch, in percentage points; above 0 is worse"),
    Figure("accuracy.score.value", "score", "%", scale=100, rank=5, csv="score_percent",
           meaning="metric of a task other than single-label, such as mAP"),
    Figure("accuracy.drop_score_points", "score loss", "points", interval="accuracy.drop_ci95_points",
           better="lower", rank=2, csv="drop_score_points",
           meaning="score lost against torch, in percentage points; above 0 is worse"),
    Figure("accuracy.agreement", "agreement", "%", digits=1, scale=100, rank=6, csv="agreement_percent",
           meaning="share of images with torch's answer: the same class, set of labels, or nearest neighbour"),
    Figure("latency_ms.p50", "p50", "ms", better="lower", rank=0, csv="latency_p50_ms",
           meaning="median latency of one inference at batch 1, without decoding and preprocessing"),
    Figure("latency_ms.p90", "p90", "ms", rank=10, csv="latency_p90_ms",
           meaning="90th percentile of the latency of one inference"),
    Figure("latency_ms.p99", "p99", "ms", rank=9, csv="latency_p99_ms", fewest_runs=100,
           meaning="99th percentile of the latency of one inference, shown from 100 timed ones on"),
    Figure("speedup.ratio", "speedup", TIMES, interval="speedup.ci95", better="higher", rank=1,
           meaning="median latency of the runtime's fastest float bundle divided by that of this bundle"),
    Figure("int8.share_of_macs", "int8", "% MAC", digits=0, scale=100, better="higher",
           tolerance=0.01, rank=4,
           meaning="share of multiply-accumulates that ran in integer kernels"),
    Figure("int8.pairs_that_can_saturate", "can saturate", "pairs", digits=0, better="lower",
           csv="pairs_that_can_saturate",
           meaning="number of pairs of INT8 weights that can saturate on x86 processors without VNNI"),
    Figure("limit.fraction", "of rated", "%", digits=0, scale=100, csv="bound_percent",
           meaning="latency at the device class's nominal peak rate, as a share of the measured p50; above 100 % where "
                   "the processor's clock is higher than the class's"),
    Figure("peak_rss_bytes", "peak", "MB", digits=0, scale=1e-6, better="lower", rank=8,
           meaning="peak resident memory of a process that runs only this bundle"),
    Figure("energy.inference_mj", "energy", "mJ", better="lower", rank=7,
           csv="inference_mj",
           meaning="power under load minus idle power, times the seconds of one inference"),
    Figure("end_to_end_ms.p50", "end to end", "ms", rank=11, csv="end_to_end_p50_ms",
           meaning="median time from an encoded image file to logits, including decoding and preprocessing; null for "
                   "images in memory"),
    Figure("snr_db", "SNR", "dB", digits=1, better="higher", rank=11,
           meaning="signal-to-noise ratio of the logits against torch's, on the first evaluation images"),
    Figure("accuracy.top5", "top-5", "%", scale=100, rank=12, csv="top5_percent",
           meaning="share of images whose right class is among the five highest-scoring ones"),
    Figure("accuracy.confidence.calibration_error", "calibration error", "%", scale=100, rank=12,
           interval="accuracy.confidence.calibration_error_ci95", better="lower",
           csv="calibration_error_percent",
           meaning="difference between confidences and the share of right answers, averaged over the answers: smooth "
                   "calibration error"),
    Figure("accuracy.confidence.crossing_share", "cross threshold", "%", digits=1, scale=100, rank=10,
           better="lower", csv="crossing_percent",
           meaning="share of images with an answer whose confidence reaches the threshold, 0.8 unless one is stated, "
                   "with only one of the bundle and torch"),
    Figure("accuracy.count", "images", "n", digits=0, csv="eval_images",
           meaning="number of evaluation images"),
    Figure("latency_ms.count", "runs", "n", digits=0, csv="timed_runs",
           meaning="number of timed inferences"),
    Figure("accuracy.right_to_wrong", "right to wrong", "n", digits=0, csv="right_to_wrong_images",
           meaning="number of images that torch classifies correctly and the bundle does not"),
    Figure("accuracy.wrong_to_right", "wrong to right", "n", digits=0, csv="wrong_to_right_images",
           meaning="number of images that the bundle classifies correctly and torch does not"),
    Figure("accuracy.mcnemar_p", "McNemar p", "", csv="mcnemar_p",
           meaning="p-value of McNemar's exact two-sided test for a difference in top-1"),
    Figure("accuracy.bound.max_drop_points", "allowed loss", "points", csv="max_drop_points",
           meaning="largest drop that the gate allows, in percentage points"),
    Figure("accuracy.bound.images_needed", "images needed", "n", digits=0, csv="max_drop_images_needed",
           meaning="number of images that would confirm the allowed drop four times out of five at the measured rates"),
    Figure("latency_ms.mean", "mean", "ms", csv="latency_mean_ms",
           meaning="mean latency of one inference"),
    Figure("latency_ms.std", "std", "ms", csv="latency_std_ms",
           meaning="standard deviation of the latency of one inference"),
    Figure("latency_ms.spread", "drift", "", csv="latency_spread",
           meaning="drift of the latency between 20 blocks of consecutive rounds, as a share of p50"),
    Figure("latency_ms.threads", "threads", "n", digits=0, csv="threads",
           meaning="number of threads that the runtime uses: the stated one, or else the fastest"),
    Figure("latency_ms.load", "load", "ms", csv="load_ms",
           meaning="time to load the bundle in a fresh process"),
    Figure("latency_ms.first", "first inference", "ms", csv="first_ms",
           meaning="time of the first inference in a fresh process"),
    Figure("limit.bound_ms", "rated", "ms", csv="bound_ms",
           meaning="time that the multiply-accumulates would take at the device class's nominal peak rate"),
    Figure("thermal.other_cpus", "other load", "CPUs", csv="other_cpus",
           meaning="number of CPUs that other processes kept busy during the timing, on average"),
    Figure("throughput.images_per_second", "throughput", "images/s", digits=1, better="higher",
           csv="images_per_second",
           meaning="images per second of all streams side by side"),
    Figure("throughput.p99_ms", "p99 under load", "ms", csv="throughput_p99_ms",
           meaning="99th percentile of the latency of one inference while all streams run"),
)
# fmt: on
"""The table from which `all_figures` reads."""


def all_figures() -> tuple[Figure, ...]:
    """Every figure of a row, in the order of the columns of the terminal and of report.csv.

    Every output calls this while it is rendered, so a figure that a test adds to the table appears in all of them.
    """
    return FIGURES


def table_figures(rows: Iterable[Any], meaningful: bool = True) -> list[Figure]:
    """The figures that any of the rows has, in order: first the columns of their table, then the details of a row."""
    rows = list(rows)
    ranked = [figure for figure in _titled(rows) if figure.rank is not None]
    shown = [
        figure
        for figure in ranked
        if any(figure.is_part_of(row) and figure.value(row, meaningful) is not None for row in rows)
    ]
    return sorted(shown, key=lambda figure: figure.rank or 0)


def score_figures(rows: Sequence[Any]) -> tuple[Figure, Figure]:
    """The figures of the task's metric and of its drop, for rows with an `accuracy` of one task."""
    scored = any(lookup(row, "accuracy.score") is not None for row in rows)
    paths = (SCORE, SCORE_DROP) if scored else ("accuracy.top1", "accuracy.drop_top1_points")
    score, drop = (figure for figure in _titled(rows) if figure.path in paths)
    return score, drop


SCORE, SCORE_DROP = "accuracy.score.value", "accuracy.drop_score_points"


def _titled(rows: Iterable[Any]) -> Iterator[Figure]:
    """All figures; those of a task's metric and of its drop have their titles for rows of one task."""
    metrics = (lookup(row, "accuracy.score.metric") for row in rows)
    titles = {SCORE: next(filter(None, metrics), "score"), SCORE_DROP: "loss"}
    for figure in all_figures():
        yield replace(figure, title=titles.get(figure.path, figure.title))


def figure_at(path: str) -> Figure:
    """The figure with this path."""
    return next(figure for figure in all_figures() if figure.path == path)


DotProduct = Literal["signed", "unsigned", "emulated", "absent"]


class BrowserFacts(Struct, frozen=True, kw_only=True):
    """The browser that a row was measured in, as far as a page can know."""

    user_agent: str
    """The browser's own description of itself."""
    build: Literal["relaxed", "compat", "threaded"]
    """Build of LiteRT.js that ran: with relaxed SIMD, without it, or with relaxed SIMD and threads."""
    dot_product: DotProduct
    """The integer dot product of relaxed SIMD: an instruction of the processor for signed numbers (Arm SDOT) or for
    unsigned by signed ones (AVX-VNNI), several other instructions, or not in this browser."""
    clock_ms: float
    """Step of the page's clock, in milliseconds."""
    secure: bool
    """Whether the page came over HTTPS or from the same machine, without which it has no threads and no wake lock."""
    license: str
    """License of LiteRT.js, which edgekit served to the browser."""


class DeviceFacts(Struct, frozen=True, kw_only=True):
    """The machine that a row was measured on. Facts that could not be determined are null."""

    # A Struct instead of a dataclass, because the JSON key `class` is not a valid field name in Python.
    name: str
    """Name of the device on the command line: "local", a registered name or an SSH address."""
    device_class: str | None = field(name="class")
    """Device class that the machine belongs to, such as "raspberry-pi-5"."""
    cpu: str | None
    """Model of the board, or of the processor where no board is known, as the system reports it."""
    cores: Count | None
    """Number of physical cores that the measuring process may use, which is the default number of threads."""
    memory_bytes: Count | None
    """Total memory of the machine, in bytes."""
    system: str | None = None
    """Operating system, kernel release and architecture."""
    python: str | None = None
    """Version of the Python that ran the bundle."""
    emulated: bool | None = None
    """Whether QEMU emulates the device: its timings are not comparable, so no gate judges them."""
    browser: BrowserFacts | None = None
    """The browser that ran the bundle; null for a machine that runs Python."""

    @property
    def is_local(self) -> bool:
        """Whether it is the machine that edgekit runs on."""
        return self.name == "local"

    @property
    def label(self) -> str:
        """Name as outputs show it, which marks an emulated device."""
        return f"{self.name} (emulated)" if self.emulated else self.name


@dataclass(frozen=True)
class Throttling:
    """Causes of throttling that a Raspberry Pi's firmware reports."""

    bits: int
    """Bit mask of `vcgencmd get_throttled`."""
    now: tuple[str, ...]
    """Causes that slowed the processor down at that moment."""
    since_boot: tuple[str, ...]
    """Causes that slowed the processor down at any time since the last boot."""


@dataclass(frozen=True, kw_only=True)
class MachineState:
    """Clocks, temperature, throttling and load at one moment; values that the system does not report are null."""

    clock_mhz: float | None
    """Clock of the fastest core, in MHz."""
    clock_max_mhz: float | None
    """Highest clock that the cores may use, in MHz."""
    governor: str | None
    """Name of the frequency governor, such as "ondemand"."""
    celsius: float | None
    """Temperature of the hottest thermal zone, in degrees Celsius."""
    throttled: Throttling | None
    """Throttling flags of a Raspberry Pi's firmware; null on other machines."""
    throttle_events: int | None
    """Number of thermal throttling events that the processor has counted since boot."""
    cooling_state: int | None
    """Step at which the kernel's thermal governor caps the clock; 0 means no cap."""
    load: float | None
    """Load average of the last minute."""


@dataclass(frozen=True)
class Sample:
    """One point of the time series of clock and temperature."""

    s: Seconds
    """Seconds since the timing began."""
    clock_mhz: float | None
    """Clock of the fastest core, in MHz."""
    celsius: float | None
    """Temperature of the hottest thermal zone, in degrees Celsius."""
    throttled: tuple[str, ...] | None
    """Causes that slowed the processor down at that moment; null if the system does not report them."""


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """Clocks, temperature, throttling and other load while rows were timed."""

    before: MachineState
    """State of the machine before the first timed round."""
    after: MachineState
    """State of the machine after the last timed round."""
    seconds: Seconds
    """Duration of the timing, in seconds."""
    series: tuple[Sample, ...]
    """Clock and temperature over time, sampled between the timed rounds."""
    throttled: tuple[str, ...] | None
    """Causes that slowed the processor down during the timing; null if the system does not report them."""
    cpus: Positive
    """Number of CPUs that the timed process may use; two that share a core count as two."""
    other_cpus: NotNegative | None
    """Number of CPUs that other processes kept busy during the timing, on average."""
    cores: Positive | None = None
    """Number of physical cores of these CPUs; null in browsers, and in reports of an edgekit without it."""
    hidden: bool | None = None
    """Whether a browser hid the page at any time during the timing; null outside of browsers."""


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """Median milliseconds of each stage that prepares an image for the model."""

    decode: Milliseconds
    """Decoding of a file, or a copy of an array; with the fast form of preprocessing, at a fraction of the size."""
    resize: Milliseconds
    """Resizing and cropping."""
    normalize: Milliseconds
    """Conversion to the model's input."""


@dataclass(frozen=True)
class EndToEnd:
    """Milliseconds from an encoded image file to logits, including decoding and preprocessing."""

    p50: Milliseconds
    images: Preparation | None = None
    """Preparation of the evaluation images' files; null in reports of an edgekit without it."""
    photo: Preparation | None = None
    """Preparation of a JPEG of 12 megapixels that was made of the first evaluation image; null on emulated devices, and
    in reports of an edgekit without it."""
    frame: Preparation | None = None
    """Preparation of a uint8 array of 1920x1080 pixels that was made of the same image; null where `photo` is."""


@dataclass(frozen=True, kw_only=True)
class Camera:
    """Frames per second of a camera, whose frames are uint8 arrays that are prepared and classified by one session."""

    width: Positive
    """Width of a frame in pixels."""
    height: Positive
    """Height of a frame in pixels."""
    preparation: Preparation
    """Times of preparing a frame."""
    p50_ms: Milliseconds
    """Median time from a frame to logits, in milliseconds."""
    frames_per_second: NotNegative
    """Frames per second if each is prepared when the model has answered the one before it."""
    frames_per_second_ahead: NotNegative
    """Frames per second if another thread prepares the next frame while the model runs."""


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
