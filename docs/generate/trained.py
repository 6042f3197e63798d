"""What INT8 costs networks with trained weights, from the JSON of `benchmarks.trained`."""

from dataclasses import dataclass
from itertools import chain

from benchmarks.rows import Row, read_rows
from benchmarks.trainedlib.choices import CHOICES, MOST_DROP, REPAIRED, SHIPPED, STOCK
from docs.generate.figures import BENCHMARKS, NOTHING, TIMES, recorded_rows
from docs.generate.markdown import code, table
from edgekit.config.runtimes import RUNTIMES
from edgekit.report.row import TOP1

FILE = "trained.json"
MOST_LOST = 1.0
"""Loss in percentage points up to which the fastest setting of a stock tool counts as its best."""
THRESHOLDS = (0.5, 0.8)
"""Those that the table of confidences shows."""
NETWORKS = {
    "convnextv2": "the demo model",
    "lite0": "EfficientNet-Lite0, published weights",
    "lite1": "EfficientNet-Lite1, published weights",
    "lite2": "EfficientNet-Lite2, published weights",
    "text-direction": "is a text upright, published weights",
    "resnet": "a narrow ResNet-18",
    "mobilenetv3": "a narrow MobileNetV3",
    "efficientnet": "a narrow EfficientNet",
    "repvit": "a narrow RepViT",
    "vit": "a small ViT",
    "davit": "a small DaViT",
    "coatnet": "a small CoAtNet",
    "scenes": "digits in drawn scenes",
    "vit-s": "DINOv2 ViT-S with a linear head, at 224 px",
    "dinov2": "the same without a head, at 112 px",
}


@dataclass(frozen=True)
class Loss:
    """What INT8 costs one trained network on one runtime."""

    network: str
    runtime: str
    """The runtime's name in `RUNTIMES`."""
    choice: str
    images: int
    metric: str
    float_score: float
    """The metric in float."""
    points: float
    low: float
    high: float
    """Drop of the metric in percentage points, and its 95 % interval."""
    snr_db: float
    speed: float | None
    """How many times as fast INT8 is as the fastest float; None if it wasn't timed."""
    ms: float | None

    def __str__(self) -> str:
        return f"{self.points:.2f} ({self.low:.2f} to {self.high:.2f})"

    @property
    def score(self) -> str:
        """The metric in float, with its name unless it is top-1."""
        return f"{100 * self.float_score:.2f} %{'' if self.metric == TOP1 else f' {self.metric}'}"

    @property
    def brief(self) -> str:
        """The drop, bold if its interval doesn't contain 0, and the speed."""
        drop = f"{self.points:.2f}" if self.low <= 0 <= self.high else f"**{self.points:.2f}**"
        return f"{drop}{'' if self.speed is None else f', {self.speed:.2f}{TIMES}'}{self.setting}"

    @property
    def setting(self) -> str:
        """The setting of a stock tool in parentheses, unless it is the first of `STOCK`."""
        stock = CHOICES[self.choice].stock
        return "" if stock is None or self.choice == STOCK[self.runtime][0] else f" ({stock.split()[-1]})"

    @property
    def rank(self) -> tuple[bool, float, float]:
        """What one would ship comes first: the fastest that loses at most `MOST_LOST`, or what loses least."""
        poor = self.points > MOST_LOST
        return poor, self.points if poor else -(self.speed or 0), -self.snr_db

    @property
    def whole(self) -> str:
        """The drop with its interval, the noise and the time."""
        time = "" if self.speed is None else f", {self.speed:.2f}{TIMES} ({self.ms:.2f} ms)"
        return f"{self}, {self.snr_db:.1f} dB{time}{self.setting}"


def losses(choice: str = SHIPPED) -> list[Loss]:
    """Every network with a choice, in the order of NETWORKS and of the runtimes."""
    return [
        Loss(
            row["network"],
            row["runtime"],
            row["choice"],
            row["images"],
            row.get("metric", TOP1),
            row["float_top1"],
            row["drop_top1_points"],
            row["drop_ci95_points"][0],
            row["drop_ci95_points"][1],
            row["snr_db"],
            row.get("timing", {}).get("ratio"),
            row.get("timing", {}).get("ms"),
        )
        for row in _rows_of(choice)
    ]


def _rows_of(*choices: str) -> list[Row]:
    """The rows of some choices, in the order of NETWORKS and of the runtimes."""
    rows = [row for row in read_rows(BENCHMARKS / FILE) if row["choice"] in choices and "error" not in row]
    order, runtimes = list(NETWORKS), list(RUNTIMES)
    return sorted(rows, key=lambda row: (order.index(row["network"]), runtimes.index(row["runtime"])))


def losses_table() -> str:
    """A line for each network, with edgekit's drop and speed and the stock tool's on each runtime."""
    heads = ["network", "images", "float"]
    for name in RUNTIMES:
        heads += [RUNTIMES[name].title, code(str(CHOICES[STOCK[name][0]].stock))]
    ours, stock = _by_place(SHIPPED), best_stock()
    rows = []
    for network in dict.fromkeys(network for network, _ in ours):
        first = next(loss for (name, _), loss in ours.items() if name == network)
        cells = [f"{code(network)}: {NETWORKS[network]}", f"{first.images:,}", first.score]
        for runtime in RUNTIMES:
            place = network, runtime
            cells.append(ours[place].brief if place in ours else NOTHING)
            cells.append(stock[place].brief if place in stock else _missing(place))
        rows.append(cells)
    recorded = _recorded(SHIPPED, *chain(*STOCK.values()))
    return f"{table(heads, rows)}\n\n{recorded} Every figure is in `benchmarks/{FILE}`.\n"


def details_table() -> str:
    """A line for each network and runtime: the drop, the noise and the time of edgekit, also repaired, and of stock."""
    heads = ("network", "runtime", "float", "fastest float", "edgekit", "repaired", "stock")
    ours, stock, timings = _by_place(SHIPPED), best_stock(), _timings()
    repaired = {(row["network"], row["runtime"]) for row in _rows_of(REPAIRED) if row["attempts"]}
    mended = {place: loss for place, loss in _by_place(REPAIRED).items() if place in repaired}
    rows = []
    for place, loss in ours.items():
        network, runtime = place
        fastest = f"{timings[place]['float_ms']:.2f} ms ({timings[place]['float']})" if place in timings else NOTHING
        repair = mended[place].whole if place in mended else NOTHING
        tool = stock[place].whole if place in stock else _missing(place)
        rows.append((code(network), RUNTIMES[runtime].title, loss.score, fastest, loss.whole, repair, tool))
    return f"{table(heads, rows)}\n\n{_recorded(SHIPPED, REPAIRED, *chain(*STOCK.values()))}\n"


def repairs() -> str:
    """How many bundles `--max-drop 0.3` repaired, and what gates would say of them."""
    rows = _rows_of(REPAIRED)
    repaired = [row for row in rows if row["attempts"]]
    left = max(row["drop_top1_points"] for row in rows if not row["attempts"])
    text = f"{len(repaired) or 'None'} of {len(rows)} bundles lost more than {MOST_DROP} points"
    if not repaired:
        return f"{text}; the largest drop was {left:.2f}.\n"
    unsettled = sum(row["drop_ci95_points"][1] > MOST_DROP for row in repaired)
    each = ", ".join(
        "{} on {} {:.2f} → {:.2f}".format(
            code(row["network"]), RUNTIMES[row["runtime"]].title, row["before_points"], row["drop_top1_points"]
        )
        for row in repaired
    )
    timed = [row["timing"]["ratio"] for row in repaired if "timing" in row]
    slower = f", and {sum(ratio <= 1 for ratio in timed)} of {len(timed)} were no faster than float" if timed else ""
    return (
        f"{text} and were repaired ({each}). The others lost at most {left:.2f}. For {unsettled} of the "
        f"{len(repaired)} the interval reaches beyond {MOST_DROP}, which `edgekit deploy --max-drop {MOST_DROP}` "
        f"wouldn't take as confirmed{slower}; the benchmark allows both.\n"
    )


def _by_place(choice: str) -> dict[tuple[str, str], Loss]:
    """The losses of a choice by network and runtime."""
    return {(loss.network, loss.runtime): loss for loss in losses(choice)}


def best_stock() -> dict[tuple[str, str], Loss]:
    """The losses of the stock tools by network and runtime, each with its best setting."""
    every = sorted((loss for choice in chain(*STOCK.values()) for loss in losses(choice)), key=lambda loss: loss.rank)
    return {(loss.network, loss.runtime): loss for loss in reversed(every)}


def _missing(place: tuple[str, str]) -> str:
    """What a table says where there are no figures of the stock tool: that it failed, or nothing."""
    network, runtime = place
    key = {"network": network, "runtime": runtime, "choice": STOCK[runtime][0]}
    failed = any("error" in row and key.items() <= row.items() for row in read_rows(BENCHMARKS / FILE))
    return "failed" if failed else NOTHING


def _timings() -> dict[tuple[str, str], Row]:
    return {(row["network"], row["runtime"]): row["timing"] for row in _rows_of(SHIPPED) if "timing" in row}


def _recorded(*choices: str) -> str:
    """When, where and of which commit the accuracies and the times are."""
    rows = _rows_of(*choices)
    times = [row["timing"] for row in rows if "timing" in row]
    return f"Accuracy: {recorded_rows(rows)}" + (f" Times, with one thread: {recorded_rows(times)}" if times else "")


def beside_stock() -> list[tuple[Loss, Loss]]:
    """The losses of top-1 of edgekit and of the stock tool, where both have one."""
    stock = best_stock()
    pairs = [(loss, stock.get((loss.network, loss.runtime))) for loss in losses() if loss.metric == TOP1]
    return [(loss, theirs) for loss, theirs in pairs if theirs is not None]


def confidence_table() -> str:
    """The calibration errors of float, INT8 and INT8 with a temperature, and the answers that cross 0.5 and 0.8."""
    rows = [row for row in _rows_of(SHIPPED) if len(row.get("crossings", ())) == len(THRESHOLDS)]
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
    images = " or ".join(f"{count:,}" for count in sorted({row["images"] for row in rows}))
    note = (
        f"{images} images. For {equal} of these {len(rows)} bundles, the 95 % interval of the difference "
        "between the errors of INT8 and of float contains 0. edgekit folded a temperature into "
        f"{', '.join(taken) or 'none'}, whose INT8 includes it. {recorded_rows(rows)}"
    )
    return f"{table(heads, lines)}\n\n{note}\n"
