"""What INT8 costs networks with trained weights, from the JSON of `benchmarks.trained`."""

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.rows import Row, read_rows
from benchmarks.trainedlib.choices import MOST_DROP, REPAIRED, SHIPPED
from docs.generate.figures import BENCHMARKS, processor
from docs.generate.markdown import code, table
from edgekit.config.runtimes import RUNTIMES
from edgekit.report.measurement import TOP1

FILE = "trained.json"
CONFIDENCE_FILE = "confidence.json"
DEMO = "convnextv2"
"""What the benchmark calls the demo's network."""
NETWORKS = {
    "convnextv2": "the demo model",
    "lite0": "EfficientNet-Lite0, published weights",
    "lite1": "EfficientNet-Lite1, published weights",
    "lite2": "EfficientNet-Lite2, published weights",
    "text-direction": "is a line of text upright, published weights",
    "resnet": "a narrow ResNet-18",
    "mobilenetv3": "a narrow MobileNetV3",
    "efficientnet": "a narrow EfficientNet",
    "repvit": "a narrow RepViT",
    "vit": "a small ViT",
    "davit": "a small DaViT",
    "coatnet": "a small CoAtNet",
    "scenes": "a narrow MobileNetV3 that tells digits in drawn scenes",
    "dinov2": "a DINOv2 ViT-S without a head, published weights, at 112 px",
}


@dataclass(frozen=True)
class Loss:
    """What INT8 with edgekit's recipe costs one trained network on one runtime."""

    network: str
    runtime: str
    """The runtime's name in `RUNTIMES`."""
    images: int
    metric: str
    float_score: float
    score: float
    """The metric in float and in INT8."""
    points: float
    low: float
    high: float
    """Drop of the metric in percentage points, and its 95 % interval."""
    day: str
    cpu: str | None
    """The processor that ran INT8; None for rows of before 28 November 2026."""

    def __str__(self) -> str:
        return f"{self.points:.2f} ({self.low:.2f} to {self.high:.2f})"


def losses() -> list[Loss]:
    """Every network with its own recipe, in the order of NETWORKS and of the runtimes."""
    return [
        Loss(
            row["network"],
            row["runtime"],
            row["images"],
            row.get("metric", TOP1),
            row["float_top1"],
            row["top1"],
            row["drop_top1_points"],
            row["drop_ci95_points"][0],
            row["drop_ci95_points"][1],
            row["created"][:10],
            row.get("cpu"),
        )
        for row in _rows_of(SHIPPED)
    ]


def _rows_of(choice: str) -> list[Row]:
    """The rows of a choice, in the order of NETWORKS and of the runtimes."""
    rows = [row for row in read_rows(BENCHMARKS / FILE) if row["choice"] == choice and "error" not in row]
    order, runtimes = list(NETWORKS), list(RUNTIMES)
    return sorted(rows, key=lambda row: (order.index(row["network"]), runtimes.index(row["runtime"])))


def loss_of(network: str, runtime: str) -> Loss:
    return next(loss for loss in losses() if (loss.network, loss.runtime) == (network, runtime))


def losses_table() -> str:
    """A line for each network, with the loss on each runtime."""
    heads = ("network", "images", "float", *(runtime.title for runtime in RUNTIMES.values()))
    every = losses()
    rows = []
    for network in dict.fromkeys(loss.network for loss in every):
        own = {loss.runtime: loss for loss in every if loss.network == network}
        first = next(iter(own.values()))
        cells = (str(own[runtime]) if runtime in own else "–" for runtime in RUNTIMES)  # noqa: RUF001
        name = f"{code(network)}: {NETWORKS[network]}"
        score = f"{100 * first.float_score:.2f} %{'' if first.metric == TOP1 else f' {first.metric}'}"
        rows.append((name, f"{first.images:,}", score, *cells))
    days = sorted(loss.day for loss in every)
    when = f"on {days[0]}" if days[0] == days[-1] else f"from {days[0]} to {days[-1]}"
    note = f"Measured {when}{_where(every)}. Every figure is in `benchmarks/{FILE}`."
    return f"{table(heads, rows)}\n\n{note}\n"


def repairs() -> str:
    """What `--max-drop 0.3` did to the bundles that lose more: their loss, their interval and their speed."""
    rows = _rows_of(REPAIRED)
    repaired = [row for row in rows if row["attempts"]]
    each = (
        "{} on {} {:.2f} → {:.2f} ({:.2f} to {:.2f})".format(
            code(row["network"]),
            RUNTIMES[row["runtime"]].title,
            row["before_points"],
            row["drop_top1_points"],
            *row["drop_ci95_points"],
        )
        for row in repaired
    )
    left = max(row["drop_top1_points"] for row in rows if not row["attempts"])
    unsettled = sum(row["drop_ci95_points"][1] > MOST_DROP for row in repaired)
    slower = sum(row["speedup"] <= 1 for row in repaired)
    return (
        f"{len(repaired)} of {len(rows)} bundles lost more than {MOST_DROP} points, and repair lowered their loss: "
        f"{'; '.join(each)}. The others lost at most {left:.2f}. For {unsettled} of the {len(repaired)} the interval "
        f"reaches beyond {MOST_DROP}, which `edgekit deploy --max-drop {MOST_DROP}` wouldn't take as confirmed, and "
        f"{slower} were no faster than float, which the benchmark allows and `edgekit deploy` doesn't.\n"
    )


def confidence_table() -> str:
    """The calibration errors of float, INT8 and INT8 with a temperature, and the answers that cross 0.5 and 0.8."""
    rows = read_rows(BENCHMARKS / CONFIDENCE_FILE)
    heads = (
        "network", "runtime", "float", "INT8", "INT8 / T", "T", "images that cross 0.5 upward and downward", "0.8",
        "0.8 with INT8 / T",
    )  # fmt: skip
    lines = [
        (
            code(row["network"]),
            RUNTIMES[row["runtime"]].title,
            *(f"{100 * row[f'{which}calibration_error']:.1f} %" for which in ("float_", "", "with_temperature_")),
            f"{row['fitted_temperature']:.3f}",
            *(f"{upward} + {downward}" for _, upward, downward in row["crossings"]),
            "{1} + {2}".format(*row["with_temperature_crossings"][-1]),
        )
        for row in rows
    ]
    taken = [f"{code(row['network'])} on {RUNTIMES[row['runtime']].title}" for row in rows if row["temperature"]]
    equal = sum(low <= 0 <= high for low, high in (row["change_ci95"] for row in rows))
    days, counts = sorted({row["created"][:10] for row in rows}), sorted({row["images"] for row in rows})
    images = " or ".join(f"{count:,}" for count in counts)
    note = (
        f"{images} images, {days[-1]}. For {equal} of these {len(rows)} bundles, the 95 % interval of the difference "
        "between the errors of INT8 and of float contains 0. edgekit folded a temperature into "
        f"{', '.join(taken) or 'none'}, whose INT8 includes it."
    )
    return f"{table(heads, lines)}\n\n{note}\n"


def _where(every: Sequence[Loss]) -> str:
    """On which processors, as far as the rows say."""
    cpus = {loss.cpu for loss in every}
    if len(cpus) == 1 and (cpu := cpus.pop()):
        return f" on an {processor(cpu)}"
    names: dict[str, list[str]] = {}
    for loss in every:
        if loss.cpu:
            names.setdefault(loss.cpu, []).append(code(loss.network))
    return "".join(f", {', '.join(dict.fromkeys(own))} on an {processor(cpu)}" for cpu, own in names.items())
