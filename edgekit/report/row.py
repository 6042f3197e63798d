"""One row of a report: a measurement with its verdict, and the table that describes the figures of a row.

A new figure needs a field in `edgekit.report.measurement`, an entry of `FIGURES` here, and its producer in
`edgekit.measure`: schema, CSV, terminal, page, `compare` and `inspect` read the table.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from edgekit.report.figure import TIMES, Figure
from edgekit.report.gate import Gate
from edgekit.report.measurement import Measurement
from edgekit.report.repair import Repair

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


# fmt: off
FIGURES: tuple[Figure, ...] = (
    Figure(path="size_bytes", title="size", unit="MB", digits=1, scale=1e-6, better="lower", tolerance=0.01,
           rank=4,
           meaning="size of the files that the runtime loads"),
    Figure(path="accuracy.top1", title="top-1", unit="%", scale=100, rank=2, csv="top1_percent",
           meaning="share of images whose highest-scoring class is the right one"),
    Figure(path="accuracy.drop_top1_points", title="drop", unit="points", interval="accuracy.drop_ci95_points",
           better="lower", rank=1, csv="drop_top1_points",
           meaning="top-1 accuracy lost against torch, in percentage points; above 0 is worse"),
    Figure(path="accuracy.agreement", title="agreement", unit="%", digits=1, scale=100, rank=6, csv="agreement_percent",
           meaning="share of images for which the bundle and torch predict the same class"),
    Figure(path="latency_ms.p50", title="p50", unit="ms", better="lower", rank=0, csv="latency_p50_ms",
           meaning="median latency of one inference at batch 1, without decoding and preprocessing"),
    Figure(path="latency_ms.p90", title="p90", unit="ms", rank=10, csv="latency_p90_ms",
           meaning="90th percentile of the latency of one inference"),
    Figure(path="latency_ms.p99", title="p99", unit="ms", rank=9, csv="latency_p99_ms",
           meaning="99th percentile of the latency of one inference"),
    Figure(path="speedup.ratio", title="speedup", unit=TIMES, interval="speedup.ci95", better="higher", rank=1,
           meaning="median latency of the runtime's fastest float bundle divided by that of this bundle"),
    Figure(path="int8.share_of_macs", title="int8", unit="% MAC", digits=0, scale=100, better="higher",
           tolerance=0.01, rank=3,
           meaning="share of multiply-accumulates that ran in integer kernels"),
    Figure(path="int8.pairs_that_can_saturate", title="can saturate", unit="pairs", digits=0, better="lower",
           csv="pairs_that_can_saturate",
           meaning="number of pairs of INT8 weights that can saturate on x86 processors without VNNI"),
    Figure(path="limit.fraction", title="of rated", unit="%", digits=0, scale=100, rank=5, csv="bound_percent",
           meaning="latency at the device class's nominal peak rate, as a share of the measured p50; above 100 % where "
                   "the processor's clock is higher than the class's"),
    Figure(path="peak_rss_bytes", title="peak", unit="MB", digits=0, scale=1e-6, better="lower", rank=8,
           meaning="peak resident memory of a process that runs only this bundle"),
    Figure(path="energy.inference_mj", title="energy", unit="mJ", better="lower", rank=7, optional=True,
           csv="inference_mj",
           meaning="power under load minus idle power, times the seconds of one inference"),
    Figure(path="end_to_end_ms.p50", title="end to end", unit="ms", rank=11, csv="end_to_end_p50_ms",
           meaning="median time from an encoded image file to logits, including decoding and preprocessing"),
    Figure(path="snr_db", title="SNR", unit="dB", digits=1, better="higher", rank=11,
           meaning="signal-to-noise ratio of the logits against torch's, on the first evaluation images"),
    Figure(path="accuracy.top5", title="top-5", unit="%", scale=100, rank=12, csv="top5_percent",
           meaning="share of images whose right class is among the five highest-scoring ones"),
    Figure(path="accuracy.count", title="images", unit="n", digits=0, rank=13, csv="eval_images",
           meaning="number of evaluation images"),
    Figure(path="latency_ms.count", title="runs", unit="n", digits=0, rank=14, csv="timed_runs",
           meaning="number of timed inferences"),
    Figure(path="accuracy.right_to_wrong", title="right to wrong", unit="n", digits=0, csv="right_to_wrong_images",
           meaning="number of images that torch classifies correctly and the bundle does not"),
    Figure(path="accuracy.wrong_to_right", title="wrong to right", unit="n", digits=0, csv="wrong_to_right_images",
           meaning="number of images that the bundle classifies correctly and torch does not"),
    Figure(path="accuracy.mcnemar_p", title="McNemar p", unit="", csv="mcnemar_p",
           meaning="p-value of McNemar's exact two-sided test for a difference in top-1"),
    Figure(path="accuracy.bound.max_drop_points", title="allowed drop", unit="points", csv="max_drop_points",
           meaning="largest drop in top-1 that the gate allows, in percentage points"),
    Figure(path="accuracy.bound.images_needed", title="images needed", unit="n", digits=0, csv="max_drop_images_needed",
           meaning="number of images that would confirm the allowed drop four times out of five at the measured rates"),
    Figure(path="latency_ms.mean", title="mean", unit="ms", csv="latency_mean_ms",
           meaning="mean latency of one inference"),
    Figure(path="latency_ms.std", title="std", unit="ms", csv="latency_std_ms",
           meaning="standard deviation of the latency of one inference"),
    Figure(path="latency_ms.spread", title="drift", unit="", csv="latency_spread",
           meaning="drift of the latency between 20 blocks of consecutive rounds, as a share of p50"),
    Figure(path="latency_ms.threads", title="threads", unit="n", digits=0, csv="threads",
           meaning="number of threads that the runtime uses"),
    Figure(path="latency_ms.load", title="load", unit="ms", csv="load_ms",
           meaning="time to load the bundle in a fresh process"),
    Figure(path="latency_ms.first", title="first inference", unit="ms", csv="first_ms",
           meaning="time of the first inference in a fresh process"),
    Figure(path="limit.bound_ms", title="rated", unit="ms", csv="bound_ms",
           meaning="time that the multiply-accumulates would take at the device class's nominal peak rate"),
    Figure(path="thermal.other_cpus", title="other load", unit="CPUs", csv="other_cpus",
           meaning="number of CPUs that other processes kept busy during the timing, on average"),
    Figure(path="throughput.images_per_second", title="throughput", unit="images/s", digits=1, better="higher",
           csv="images_per_second",
           meaning="images per second of all streams side by side"),
    Figure(path="throughput.p99_ms", title="p99 under load", unit="ms", csv="throughput_p99_ms",
           meaning="99th percentile of the latency of one inference while all streams run"),
)
# fmt: on
"""The table from which `all_figures` reads."""


def all_figures() -> tuple[Figure, ...]:
    """Every figure of a row, in the order of the columns of the terminal and of report.csv.

    Every output calls this while it is rendered, so a figure that a test adds to the table appears in all of them.
    """
    return FIGURES


def table_figures(rows: Sequence[Row]) -> list[Figure]:
    """The figures of a table of these rows, in the same order."""
    return [
        figure
        for figure in all_figures()
        if figure.rank is not None and not (figure.optional and all(figure.value(row) is None for row in rows))
    ]
