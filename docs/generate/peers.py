"""edgekit next to the stock tools: the tables of docs/concepts/comparison.md, from the JSON of `benchmarks.peers`."""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from statistics import geometric_mean, median
from typing import Any

from benchmarks.peerlib.results import FLOATS, OURS, Group, Row
from benchmarks.recording import recording_of
from docs.generate.figures import BENCHMARKS, TIMES, recorded
from docs.generate.markdown import code, table
from edgekit.config.runtimes import RUNTIMES
from edgekit.measure.latency import APART

PATTERN = "peers-*.json"
"""A file for each kind of processor."""
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

    file: str
    """The recording, which stands for a kind of processor."""
    model: str
    weights: str
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


def files() -> list[str]:
    """The recordings, one for each kind of processor."""
    return sorted(path.name for path in BENCHMARKS.glob(PATTERN))


def kind(file: str) -> str:
    """The kind of processor of a recording, such as "AMD, AVX-512 VNNI, bf16"."""
    recording = recording_of(BENCHMARKS / file)
    assert recording is not None
    return recording.kind


def peers(file: str, *threads: int) -> list[Peers]:
    """What the benchmark measured of edgekit's INT8, in the JSON's order; with any number of threads by default."""
    results = results_of(file)
    groups = [(name, model, runtime) for name, model in results["models"].items() for runtime in RUNTIMES]
    found = (_peers(file, *group, count) for count in threads or results["threads"] for group in groups)
    return [row for row in found if row is not None]


def all_peers(*threads: int) -> list[Peers]:
    """The same of every kind of processor."""
    return [row for file in files() for row in peers(file, *threads)]


def results_of(file: str) -> dict[str, Any]:
    """The JSON of a recording."""
    results: dict[str, Any] = json.loads((BENCHMARKS / file).read_text(encoding="utf-8"))
    return results


def _peers(file: str, name: str, model: dict[str, Any], runtime: str, threads: int) -> Peers | None:
    """None where a bundle of edgekit's is missing."""
    group, key = Group(model, runtime), str(threads)
    best, ours, plain = group.fastest_float(threads), group.ours, group.named("edgekit float")
    if best is None or ours is None or plain is None:
        return None
    stock = sorted(group.stock_int8(), key=lambda row: float(row["ms"][key]))
    return Peers(
        file=file,
        model=name,
        weights=model["weights"],
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


def ratios_tables() -> str:
    """A table for each kind of processor, with one thread: how much faster INT8 is than float and stock."""
    heads = ("model", *(runtime.title for runtime in RUNTIMES.values()))
    texts = []
    for file in files():
        lines: dict[str, list[str]] = {}
        for row in peers(file, THREADS):
            name = f"{code(row.model)} (trained)" if row.weights == "trained" else code(row.model)
            lines.setdefault(name, [name]).append(f"{_cell(row.speedup)}, {_cell(row.stock[0].ours)}")
        texts.append(f"### {kind(file)}\n\n{table(heads, lines.values())}\n\n{recorded(file)}\n")
    return "\n".join(texts)


def _cell(ratio: Ratio) -> str:
    return f"{ratio.ratio:.2f}{TIMES}" if ratio.settled else f"({ratio.ratio:.2f}{TIMES})"


def means(ratios: Sequence[float]) -> str:
    """Geometric mean and range."""
    return f"{geometric_mean(ratios):.2f}{TIMES} ({min(ratios):.2f} to {max(ratios):.2f})"


@dataclass(frozen=True)
class Best:
    """The fastest files of one model, in milliseconds, each with the number of threads that edgekit would take."""

    recipe: str
    float_ms: float
    int8_ms: float
    """edgekit's."""
    stock_ms: float
    """INT8 of a stock tool."""
    size: float
    """Bytes of edgekit's float bundle over those of its INT8, on the runtime where that is the fastest."""


def bests(file: str, runtimes: Collection[str]) -> list[Best]:
    """The fastest of each model on these runtimes. They are timed one after the other, so there is no interval."""
    found = []
    for model in results_of(file)["models"].values():
        rows = [row for row in model["rows"] if "ms" in row and row["runtime"] in runtimes]
        floats = [_ms(row) for row in rows if row["precision"] in FLOATS]
        stock = [_ms(row) for row in rows if row["maker"] == "stock" and row["precision"] not in FLOATS]
        own = min((row for row in rows if row["candidate"] == OURS), key=_ms)
        plain = next(row for row in rows if (row["runtime"], row["candidate"]) == (own["runtime"], "edgekit float"))
        size = plain["size_bytes"] / own["size_bytes"]
        found.append(Best(model["recipe"], min(floats), _ms(own), min(stock), size))
    return found


def _ms(row: Row) -> float:
    """Milliseconds with one thread, or with two where that is faster by more than edgekit's limit."""
    one, two = (float(row["ms"][str(threads)]) for threads in (1, 2))
    return two if one > APART * two else one


def verdicts() -> str:
    """How often edgekit's INT8 wins and loses against float and stock INT8, on each kind of processor."""
    lines = []
    for file in files():
        every = peers(file)
        against = [row.speedup for row in every], [row.stock[0].ours for row in every]
        lines.append((kind(file), str(len(every)), *map(_score, against)))
    heads = ("processor", "comparisons", "against the fastest float", "against the fastest stock INT8")
    return f"{table(heads, lines)}\n"


def _score(ratios: Sequence[Ratio]) -> str:
    wins, losses = sum(ratio.low > 1 for ratio in ratios), sum(ratio.high < 1 for ratio in ratios)
    return f"faster in **{wins}**, slower in **{losses}**, open in {len(ratios) - wins - losses}"


def quieter() -> str:
    """How often edgekit's INT8 has less noise than the fastest stock INT8, and by how much."""
    differences = [row.snr_db - row.stock[0].snr_db for row in all_peers(THREADS)]
    less = sum(difference > 0 for difference in differences)
    return (
        f"Its logits have less noise than those of the fastest stock INT8 in {less} of {len(differences)} cases with "
        f"one thread, by {median(differences):.1f} dB in the median.\n"
    )


def defeats() -> str:
    """Where the fastest stock INT8, or the fastest float, takes less time than edgekit's INT8 or might."""
    lines = []
    for file in files():
        every = peers(file)
        stock = [(row, row.stock[0].ours, row.stock[0].name) for row in every if row.stock[0].ours.ratio < 1]
        floats = [(row, row.speedup, row.float_name) for row in every if row.speedup.low <= 1]
        for title, rows in {"stock INT8 is faster": stock, "float is faster": floats}.items():
            settled = "; ".join(_defeat(*each) for each in rows if each[1].settled) or "nowhere"
            unsettled = "; ".join(_maybe(row, ratio) for row, ratio, _ in rows if not ratio.settled) or "nowhere"
            lines.append(f"- {kind(file)}: {title}: {settled}. Open: {unsettled}.")
    return "\n".join(lines) + "\n"


def _defeat(row: Peers, ratio: Ratio, other: str) -> str:
    return f"{_maybe(row, ratio)} [{ratio.low:.2f}, {ratio.high:.2f}] ({other})"


def _maybe(row: Peers, ratio: Ratio) -> str:
    return f"{code(row.model)}, {row.runtime}, {row.threads}: {ratio.ratio:.2f}{TIMES}"


def profiles() -> str:
    """The kernels of edgekit's INT8 and of each stock INT8 that is faster, where they differ by a tenth of a ms."""
    tables = []
    models = [(file, *each) for file in files() for each in results_of(file)["models"].items()]
    for file, name, model in models:
        for row in model["rows"]:
            if "profiles" not in row:
                continue
            (_, ours), (stock, theirs) = row["profiles"].items()
            times = {kernel: (ours.get(kernel, 0), theirs.get(kernel, 0)) for kernel in ours | theirs}
            shown = {kernel: pair for kernel, pair in times.items() if abs(pair[0] - pair[1]) >= LEAST_MS}
            shown |= {"all kernels": (sum(ours.values()), sum(theirs.values()))}
            heads = (f"{code(name)}, {RUNTIMES[row['runtime']].title}; {kind(file)}", "edgekit, ms", f"{stock}, ms")
            tables.append(table(heads, [(kernel, f"{a:.1f}", f"{b:.1f}") for kernel, (a, b) in shown.items()]) + "\n")
    return "\n".join(tables)


def closer_to_torch() -> str:
    """The stock INT8 with less noise than edgekit's, and that with torch's answer on more images."""
    pairs = [(row, stock) for row in all_peers(THREADS) for stock in row.stock if not stock.name.endswith(", bf16")]
    noise = [
        f"{_place(row)}: {stock.snr_db:.1f} against {row.snr_db:.1f} ({stock.name})"
        for row, stock in pairs
        if stock.snr_db > row.snr_db
    ]
    best = {_place(row): (row, max(row.stock, key=lambda stock: stock.agreement)) for row, _ in pairs}
    answers = [
        f"{place}: {100 * stock.agreement:.0f} against {100 * row.agreement:.0f} ({stock.name})"
        for place, (row, stock) in best.items()
        if stock.agreement > row.agreement
    ]
    lists = {"Less noise, dB": noise, "Torch's answer, % of images": answers}
    return "".join(f"- {title}: {'; '.join(each) or 'nowhere'}.\n" for title, each in lists.items())


def _place(row: Peers) -> str:
    return f"{code(row.model)}, {row.runtime}, {kind(row.file)}"


def fastest_runtimes() -> str:
    """Sentences on which runtime's INT8 is the fastest for how many models, on each kind of processor."""
    return " ".join(_fastest_runtimes(file) for file in files()) + "\n"


def _fastest_runtimes(file: str) -> str:
    fastest: dict[str, Peers] = {}
    for row in peers(file, THREADS):
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
        f"[the comparison](../concepts/comparison.md) ({kind(file)}){rest}. {recorded(file)}"
    )


def stock_slower_than_float(model: str) -> str:
    """A sentence with the stock tools' files of a model that take longer than the fastest float of their runtime."""
    slower = []
    for row in all_peers(THREADS):
        fastest: dict[str, float] = {}  # of each file, which may have been timed in bf16 too
        for stock in row.stock if row.model == model else ():
            fastest.setdefault(stock.name.removesuffix(", bf16"), stock.ms)
        slower += [
            f"{code(name)} on {row.runtime} ({ms:.1f} against {row.float_ms:.1f} ms; {kind(row.file)})"
            for name, ms in fastest.items()
            if ms > row.float_ms
        ]
    return f"{', '.join(slower[:-1])} and {slower[-1]}.\n"
