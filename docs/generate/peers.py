"""edgekit next to the stock tools: the tables of docs/concepts/comparison.md, from the JSON of `benchmarks.peers`."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import geometric_mean, median
from typing import Any

from benchmarks.peerlib.results import FLOATS, Group, Row
from docs.generate.figures import BENCHMARKS, TIMES, recorded
from docs.generate.markdown import code, table
from edgekit.config.runtimes import RUNTIMES

FILE = "peers.json"
BF16_FILE = "peers_bf16.json"
"""An earlier recording, on a processor that computes in bf16."""
THREADS = 1
LEAST_MS = 0.1
"""Milliseconds by which the times of a kernel in two files differ, from which a table shows it."""


@dataclass(frozen=True)
class Ratio:
    """How many times as fast edgekit's INT8 is as another model."""

    ratio: float
    low: float
    high: float
    """The 95 % interval."""

    @property
    def settled(self) -> bool:
        """Whether the interval excludes 1."""
        return not self.low <= 1 <= self.high


@dataclass(frozen=True)
class Stock:
    """An INT8 model of a stock tool, of any kind."""

    name: str
    ms: float
    snr_db: float
    agreement: float
    ours: Ratio
    """Its latency over that of edgekit's INT8."""


@dataclass(frozen=True)
class Peers:
    """edgekit's INT8 next to everything else that one runtime ran of one model, with one number of threads."""

    model: str
    weights: str
    side: int
    """Input side in pixels."""
    runtime: str
    """The title of the runtime's own project."""
    threads: int
    float_name: str
    """The fastest float, edgekit's or the stock tools' and of any precision."""
    float_precision: str
    """"f32", "bf16" or "f16"."""
    float_ms: float
    int8_ms: float
    speedup: Ratio
    float_bytes: int
    """What the runtime loads of edgekit's float bundle."""
    int8_bytes: int
    snr_db: float
    agreement: float
    """Share of images for which INT8 predicts torch's class."""
    stock: tuple[Stock, ...]
    """The fastest first."""


def peers(threads: int = THREADS, file: str = FILE) -> list[Peers]:
    """What the benchmark measured of edgekit's INT8, in the JSON's order."""
    models = _results(file)["models"]
    found = (_peers(name, model, runtime, threads) for name, model in models.items() for runtime in RUNTIMES)
    return [row for row in found if row is not None]


def peers_of(model: str, runtime: str) -> Peers:
    """The figures of one model on one runtime, by its name in `RUNTIMES`."""
    title = RUNTIMES[runtime].title
    return next(row for row in peers() if (row.model, row.runtime) == (model, title))


def _results(file: str) -> dict[str, Any]:
    results: dict[str, Any] = json.loads((BENCHMARKS / file).read_text(encoding="utf-8"))
    return results


def _peers(name: str, model: dict[str, Any], runtime: str, threads: int) -> Peers | None:
    """None where a bundle of edgekit's is missing."""
    group, key = Group(model, runtime), str(threads)
    best, ours, plain = group.fastest_float(threads), group.ours, group.named("edgekit float")
    if best is None or ours is None or plain is None:
        return None
    stock = sorted(group.stock_int8(), key=lambda row: float(row["ms"][key]))
    return Peers(
        model=name,
        weights=model["weights"],
        side=model["input"][0],
        runtime=RUNTIMES[runtime].title,
        threads=threads,
        float_name=best["candidate"],
        float_precision="f32" if best["precision"] == "float" else best["precision"],
        float_ms=best["ms"][key],
        int8_ms=ours["ms"][key],
        speedup=_ratio(group, best, threads),
        float_bytes=plain["size_bytes"],
        int8_bytes=ours["size_bytes"],
        snr_db=ours["snr_db"],
        agreement=ours["agreement"],
        stock=tuple(
            Stock(row["candidate"], row["ms"][key], row["snr_db"], row["agreement"], _ratio(group, row, threads))
            for row in stock
        ),
    )


def _ratio(group: Group, other: Row, threads: int) -> Ratio:
    versus = group.faster(other, threads)
    assert versus is not None
    low, high = versus["ci95"]
    return Ratio(versus["ratio"], low, high)


def ratios_table() -> str:
    """A line for each model with one thread: how much faster edgekit's INT8 is than float and stock on each runtime."""
    lines: dict[str, list[str]] = {}
    for row in peers():
        name = f"{code(row.model)} (trained)" if row.weights == "trained" else code(row.model)
        lines.setdefault(name, [name]).append(f"{_cell(row.speedup)}, {_cell(row.stock[0].ours)}")
    heads = ("model", *(runtime.title for runtime in RUNTIMES.values()))
    return f"{table(heads, lines.values())}\n\n{recorded(FILE)}\n"


def _cell(ratio: Ratio) -> str:
    return f"{ratio.ratio:.2f}{TIMES}" if ratio.settled else f"({ratio.ratio:.2f}{TIMES})"


def means(ratios: Sequence[float]) -> str:
    """Geometric mean and range."""
    return f"{geometric_mean(ratios):.2f}{TIMES} ({min(ratios):.2f} to {max(ratios):.2f})"


@dataclass(frozen=True)
class Best:
    """The fastest files of one model on any runtime, in milliseconds."""

    float_ms: float
    int8_ms: float
    """edgekit's."""
    stock_ms: float
    """INT8 of a stock tool, ExecuTorch's included."""
    size: float
    """Bytes of edgekit's float bundle on the runtime of its fastest INT8, over those of that INT8."""


def best_of_all(threads: int = THREADS) -> list[Best]:
    """The fastest of each model on any runtime. Runtimes are timed one after the other, so there is no interval."""
    key, found = str(threads), []
    for name, model in _results(FILE)["models"].items():
        rows = [row for row in model["rows"] if "ms" in row]
        floats = [row["ms"][key] for row in rows if row["precision"] in FLOATS]
        stock = [row["ms"][key] for row in rows if row["maker"] == "stock" and row["precision"] not in FLOATS]
        own = min((row for row in peers() if row.model == name), key=lambda row: row.int8_ms)
        found.append(Best(min(floats), own.int8_ms, min(stock), own.float_bytes / own.int8_bytes))
    return found


def verdict(file: str = FILE) -> str:
    """How often edgekit's INT8 wins and loses against float and stock INT8, with any number of threads."""
    every = _of_all_threads(file)
    against = {"float": [row.speedup for row in every], "stock INT8": [row.stock[0].ours for row in every]}
    text = "; ".join(f"against the fastest {name}, {_score(ratios)}" for name, ratios in against.items())
    return f"Of {len(every)} comparisons: {text}.\n"


def _score(ratios: Sequence[Ratio]) -> str:
    wins, losses = sum(ratio.low > 1 for ratio in ratios), sum(ratio.high < 1 for ratio in ratios)
    return f"faster in **{wins}**, slower in **{losses}**, open in {len(ratios) - wins - losses}"


def bf16_means() -> str:
    """The geometric means of the earlier recording on a processor that computes in bf16."""
    rows = peers(THREADS, BF16_FILE)
    lines = [
        (
            runtime.title,
            means([row.speedup.ratio for row in rows if row.runtime == runtime.title]),
            means([row.stock[0].ours.ratio for row in rows if row.runtime == runtime.title]),
        )
        for runtime in RUNTIMES.values()
    ]
    heads = ("runtime", "against the fastest float", "against the fastest stock INT8")
    return f"{table(heads, lines)}\n\n{recorded(BF16_FILE)}\n"


def quieter() -> str:
    """How often edgekit's INT8 has less noise than the fastest stock INT8, and by how much."""
    differences = [row.snr_db - row.stock[0].snr_db for row in peers()]
    less = sum(difference > 0 for difference in differences)
    return (
        f"Its logits have less noise than those of the fastest stock INT8 in {less} of {len(differences)} cases with "
        f"one thread, by {median(differences):.1f} dB in the median.\n"
    )


def defeats(file: str = FILE) -> str:
    """Where the fastest stock INT8, or the fastest float, takes less time than edgekit's INT8 or might."""
    every = _of_all_threads(file)
    stock = [(row, row.stock[0].ours, row.stock[0].name) for row in every if row.stock[0].ours.ratio < 1]
    floats = [(row, row.speedup, row.float_name) for row in every if row.speedup.low <= 1]
    lists = {"Stock INT8 is faster": stock, "Float is faster": floats}
    lines = []
    for title, rows in lists.items():
        settled = "; ".join(_defeat(*each) for each in rows if each[1].settled) or "nowhere"
        unsettled = "; ".join(_maybe(row, ratio) for row, ratio, _ in rows if not ratio.settled) or "nowhere"
        lines.append(f"- {title}: {settled}. Open: {unsettled}.")
    return "\n".join(lines) + "\n"


def _defeat(row: Peers, ratio: Ratio, other: str) -> str:
    return f"{_maybe(row, ratio)} [{ratio.low:.2f}, {ratio.high:.2f}] ({other})"


def _maybe(row: Peers, ratio: Ratio) -> str:
    return f"{code(row.model)}, {row.runtime}, {row.threads}: {ratio.ratio:.2f}{TIMES}"


def _of_all_threads(file: str) -> list[Peers]:
    return [row for threads in _results(file)["threads"] for row in peers(threads, file)]


def profiles() -> str:
    """The kernels of edgekit's INT8 and of each stock INT8 that is faster, where they differ by a tenth of a ms."""
    tables = []
    for name, model in _results(FILE)["models"].items():
        for row in model["rows"]:
            if "profiles" not in row:
                continue
            (_, ours), (stock, theirs) = row["profiles"].items()
            times = {kernel: (ours.get(kernel, 0), theirs.get(kernel, 0)) for kernel in ours | theirs}
            shown = {kernel: pair for kernel, pair in times.items() if abs(pair[0] - pair[1]) >= LEAST_MS}
            shown |= {"all kernels": (sum(ours.values()), sum(theirs.values()))}
            heads = (f"{code(name)}, {RUNTIMES[row['runtime']].title}", "edgekit, ms", f"{stock}, ms")
            tables.append(table(heads, [(kernel, f"{a:.1f}", f"{b:.1f}") for kernel, (a, b) in shown.items()]) + "\n")
    return "\n".join(tables)


def closer_to_torch() -> str:
    """The stock INT8 with less noise than edgekit's, and that with torch's answer on more images."""
    pairs = [(row, stock) for row in peers() for stock in row.stock if not stock.name.endswith(", bf16")]
    noise = [
        f"{code(row.model)}, {row.runtime}: {stock.snr_db:.1f} against {row.snr_db:.1f} ({stock.name})"
        for row, stock in pairs
        if stock.snr_db > row.snr_db
    ]
    best = {(row.model, row.runtime): (row, max(row.stock, key=lambda stock: stock.agreement)) for row, _ in pairs}
    answers = [
        f"{code(row.model)}, {row.runtime}: {100 * stock.agreement:.0f} against {100 * row.agreement:.0f} "
        f"({stock.name})"
        for row, stock in best.values()
        if stock.agreement > row.agreement
    ]
    lists = {"Less noise, dB": noise, "Torch's answer, % of images": answers}
    return "".join(f"- {title}: {'; '.join(each) or 'nowhere'}.\n" for title, each in lists.items())


def fastest_runtimes() -> str:
    """A sentence on which runtime's INT8 is the fastest for how many models."""
    fastest: dict[str, Peers] = {}
    for row in peers():
        if row.model not in fastest or row.int8_ms < fastest[row.model].int8_ms:
            fastest[row.model] = row
    counts = {
        runtime.title: [row.model for row in fastest.values() if row.runtime == runtime.title]
        for runtime in RUNTIMES.values()
    }
    ((first, models), *others) = sorted(counts.items(), key=lambda item: -len(item[1]))
    rest = "".join(f", on {title} for {', '.join(map(code, names))}" for title, names in others if names)
    return (
        f"With one thread, INT8 on {first} was the fastest for {len(models)} of the {len(fastest)} models of "
        f"[the comparison](../concepts/comparison.md){rest}. {recorded(FILE)}\n"
    )


def stock_slower_than_float(model: str) -> str:
    """A sentence with the stock tools' files of a model that take longer than the fastest float of their runtime."""
    slower = []
    for row in peers():
        fastest: dict[str, float] = {}  # of each file, which may have been timed in bf16 too
        for stock in row.stock if row.model == model else ():
            fastest.setdefault(stock.name.removesuffix(", bf16"), stock.ms)
        slower += [
            f"{code(name)} on {row.runtime} ({ms:.1f} against {row.float_ms:.1f} ms)"
            for name, ms in fastest.items()
            if ms > row.float_ms
        ]
    return f"{', '.join(slower[:-1])} and {slower[-1]}.\n"
