"""edgekit next to the stock tools: the tables of docs/concepts/comparison.md, from the JSON of `benchmarks.peers`."""

import json
from dataclasses import dataclass
from typing import Any

from benchmarks.peerlib.results import WIDE, Group, Row, unsteady
from docs.generate.figures import BENCHMARKS, TIMES, caption
from docs.generate.markdown import code, table
from edgekit.config.runtimes import RUNTIMES

FILE, AMX_FILE = "peers.json", "peers_amx.json"
"""What `benchmarks.peers` measured on a processor with VNNI, and on one with AMX too."""
THREADS = 1
NOTHING = "–"  # noqa: RUF001
BF16 = "edgekit int8, bf16"


@dataclass(frozen=True)
class Ratio:
    """How many times as fast edgekit's INT8 is as another model."""

    ratio: float
    low: float
    high: float
    unsteady: bool
    """Whether the 95 % interval is wider than `WIDE` of the ratio."""

    def __str__(self) -> str:
        mark = " *" if self.unsteady else ""
        return f"{self.ratio:.2f}{TIMES} [{self.low:.2f}, {self.high:.2f}]{mark}"


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
    int8_bf16_ms: float | None
    """Latency of the same INT8 file where its float part computes in bf16."""
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


def peers_of(model: str, runtime: str, threads: int = THREADS) -> Peers:
    """The figures of one model on one runtime, by its name in `RUNTIMES`."""
    title = RUNTIMES[runtime].title
    return next(row for row in peers(threads) if (row.model, row.runtime) == (model, title))


def _results(file: str) -> dict[str, Any]:
    results: dict[str, Any] = json.loads((BENCHMARKS / file).read_text(encoding="utf-8"))
    return results


def _peers(name: str, model: dict[str, Any], runtime: str, threads: int) -> Peers | None:
    """None where a bundle of edgekit's is missing."""
    group, key = Group(model, runtime), str(threads)
    best, ours, plain, bf16 = group.fastest_float(threads), group.ours, group.named("edgekit float"), group.named(BF16)
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
        int8_bf16_ms=bf16["ms"][key] if bf16 else None,
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
    return Ratio(versus["ratio"], low, high, unsteady(versus))


def peers_table(file: str = FILE) -> str:
    """Every model and runtime with one thread, and a caption with the machine that measured them."""
    heads = (
        "model (weights)", "runtime", "fastest float ms", "INT8 ms", "faster than that float",
        "fastest stock INT8 ms", "faster than that INT8", "SNR dB, edgekit / stock",
    )  # fmt: skip
    return f"{table(heads, map(_cells, peers(THREADS, file)))}\n\n{caption(file, THREADS)}\n"


def _cells(row: Peers) -> tuple[str, ...]:
    first = row.stock[0] if row.stock else None
    return (
        f"{row.model} ({row.weights})",
        row.runtime,
        f"{row.float_ms:.2f} ({row.float_name})",
        f"{row.int8_ms:.2f}",
        str(row.speedup),
        f"{first.ms:.2f} ({first.name})" if first else NOTHING,
        str(first.ours) if first else NOTHING,
        f"{row.snr_db:.1f} / {f'{first.snr_db:.1f}' if first else NOTHING}",
    )


def slower_table(file: str = FILE) -> str:
    """Where the fastest stock INT8 takes less time than edgekit's, with any number of threads that was timed."""
    heads = (
        "model", "runtime", "threads", "fastest stock INT8 ms", "edgekit INT8 ms", "in bf16", "ratio", "reading",
    )  # fmt: skip
    every = _of_all_threads(file)
    rows = [row for row in every if row.stock and row.stock[0].ours.ratio < 1]
    text = table(heads, map(_slower_cells, rows))
    return f"These are {len(rows)} of {len(every)} comparisons:\n\n{text}\n"


def _slower_cells(row: Peers) -> tuple[str, ...]:
    first = row.stock[0]
    return (
        row.model,
        row.runtime,
        str(row.threads),
        f"{first.ms:.2f} ({first.name})",
        f"{row.int8_ms:.2f}",
        NOTHING if row.int8_bf16_ms is None else f"{row.int8_bf16_ms:.2f}",
        str(first.ours),
        "edgekit is slower" if first.ours.high < 1 else "not settled",
    )


def _of_all_threads(file: str) -> list[Peers]:
    return [row for threads in _results(file)["threads"] for row in peers(threads, file)]


def float_wins(file: str = FILE) -> str:
    """A sentence with the models and runtimes where INT8 isn't faster than the fastest float beyond doubt."""
    every = _of_all_threads(file)
    names = [
        f"{code(row.model)} on {row.runtime} with {row.threads} thread{'s' * (row.threads > 1)} "
        f"({row.speedup} of {row.float_name})"
        for row in every
        if row.speedup.low <= 1
    ]
    if not names:
        return f"In all {len(every)} of them edgekit's INT8 is faster than the fastest float.\n"
    return (
        f"In {len(every) - len(names)} of the {len(every)} comparisons edgekit's INT8 is faster than the fastest float "
        f"over the whole interval. The rest, where you would ship float: {'; '.join(names)}.\n"
    )


def noisier_table() -> str:
    """Where a stock INT8 has less noise than edgekit's, or agrees with torch on more images."""
    heads = (
        "model (weights)", "runtime", "stock INT8", "SNR dB", "edgekit's", "agreement", "edgekit's", "ms", "edgekit's",
    )  # fmt: skip
    rows = [
        (
            f"{row.model} ({row.weights})",
            row.runtime,
            stock.name,
            f"{stock.snr_db:.1f}",
            f"{row.snr_db:.1f}",
            f"{100 * stock.agreement:.0f} %",
            f"{100 * row.agreement:.0f} %",
            f"{stock.ms:.2f}",
            f"{row.int8_ms:.2f}",
        )
        for row in peers()
        for stock in sorted(row.stock, key=lambda each: each.name)
        if not stock.name.endswith(", bf16") and (stock.snr_db > row.snr_db or stock.agreement > row.agreement)
    ]
    return table(heads, rows) + "\n"


def note_on_stars() -> str:
    """What a star in these tables means."""
    return (
        f"A star marks an interval wider than {100 * WIDE:.0f} % of its ratio: other work disturbed that timing, or "
        "the sessions differed in where they lay in memory. Read the interval then and not the ratio.\n"
    )


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
    rest = "; ".join(f"{title} for {', '.join(map(code, names))}" for title, names in others if names)
    return (
        f"With one thread, INT8 on {first} was the fastest for {len(models)} of the {len(fastest)} models that were "
        f"timed on x86-64, and on {rest}.\n"
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
