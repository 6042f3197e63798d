"""Milliseconds on a Raspberry Pi 5, estimated from counted instructions and from the times that Arm published.

A network's counted instructions, divided by its published time, are a rate. A count divided by the highest and the
lowest of these rates is the estimate. It is of XNNPACK's INT8 kernels on four threads, which ExecuTorch and LiteRT
share; for other runtimes there is none.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from math import sqrt
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.peerlib.results import FLOATS
from benchmarks.pilib.counting import CORES
from benchmarks.pilib.published import FIRST, PUBLISHED
from docs.generate.figures import BENCHMARKS, NOTHING
from docs.generate.instructions import BOARDS
from docs.generate.markdown import code, table
from edgekit.report.document import Report, load_report
from edgekit.report.row import Row

Counted = dict[str, Any]

COUNTS = ("pi_instructions.json", "pi_published.json", "pi_demo.json")
SENT = BENCHMARKS / "boards"
"""Folder of the reports that owners of boards sent back."""
CORE = "cortex-a76"
THREADS = 4
"""Number of threads that the published times are of."""
SIZE = (224, 224)
"""Height and width at which networks other than the demo's were counted."""


@dataclass(frozen=True)
class Bracket:
    """The lowest and highest estimate of a time, in milliseconds."""

    low: float
    high: float

    @property
    def middle(self) -> float:
        """The geometric middle."""
        return sqrt(self.low * self.high)

    def __str__(self) -> str:
        low, high = (f"{ms:.1f}" if ms < 10 else f"{ms:.0f}" for ms in (self.low, self.high))
        return f"{low} to {high}"


def bracket(instructions: float, rates: Iterable[float]) -> Bracket:
    """The estimate of a time for rates in instructions per millisecond."""
    every = list(rates)
    return Bracket(instructions / max(every), instructions / min(every))


@cache
def counted() -> dict[str, dict[str, list[Counted]]]:
    """The counted files of each network and core."""
    merged: dict[str, dict[str, list[Counted]]] = {}
    for file in COUNTS:
        for model, cores in json.loads((BENCHMARKS / file).read_text(encoding="utf-8"))["models"].items():
            merged[model] = {core: [row for row in rows if "instructions" in row] for core, rows in cores.items()}
    return merged


def instructions_of(model: str, runtime: str, candidate: str, core: str = CORE) -> float | None:
    """The counted instructions of one file, or None."""
    rows = counted().get(model, {}).get(core, [])
    found = (row["instructions"] for row in rows if (row["runtime"], row["candidate"]) == (runtime, candidate))
    return next(found, None)


@cache
def rates() -> Mapping[str, float]:
    """Instructions per millisecond of the networks with a published time."""
    counts = {name: instructions_of(name, "executorch", "XNNPACKQuantizer") for name in PUBLISHED}
    return {name: count / PUBLISHED[name].ms for name, count in counts.items() if count}


@dataclass(frozen=True)
class Check:
    """An estimate of a time that is known."""

    network: str
    estimate: Bracket
    ms: float

    @property
    def error(self) -> float:
        """By how much the estimate's middle exceeds the time, in percent of the time."""
        return 100 * (self.estimate.middle / self.ms - 1)

    @property
    def holds(self) -> bool:
        """Whether the estimate contains the time."""
        return self.estimate.low <= self.ms <= self.estimate.high


def checks(known: Mapping[str, float]) -> list[Check]:
    """Each published time beside its estimate from the other networks' rates."""
    return [
        Check(
            name,
            bracket(rate * PUBLISHED[name].ms, (other for each, other in known.items() if each != name)),
            PUBLISHED[name].ms,
        )
        for name, rate in known.items()
    ]


def checks_of_first(known: Mapping[str, float]) -> list[Check]:
    """Each published time that the first estimate didn't know, beside that estimate."""
    first = [known[name] for name in FIRST]
    return [
        Check(name, bracket(rate * PUBLISHED[name].ms, first), PUBLISHED[name].ms)
        for name, rate in known.items()
        if name not in FIRST
    ]


def published_table() -> str:
    """Each published time, its estimate from the other networks, and the error of that estimate."""
    every = checks(rates())
    lines = [
        (
            f"[{code(check.network)}]({PUBLISHED[check.network].page})",
            f"{rates()[check.network] * check.ms / 1e6:.1f}",
            f"{check.ms:.1f}",
            str(check.estimate),
            f"{check.error:+.0f} %",
        )
        for check in every
    ]
    heads = ("network", "million instructions", "published, ms", "estimate from the others, ms", "error of its middle")
    return f"{table(heads, lines)}\n\n{_off(checks_of_first(rates()))}\n"


def _off(others: list[Check]) -> str:
    inside = sum(check.holds for check in others)
    return (
        f"The first estimate knew {' and '.join(map(code, FIRST))} alone. Of the {len(others)} networks counted "
        f"later, it contained {inside}; its middle was off by {_span(others)}."
    )


def _span(some: Iterable[Check]) -> str:
    errors = [check.error for check in some]
    mean = fmean(map(abs, errors))
    return f"{min(errors):+.0f} to {max(errors):+.0f} %, {mean:.0f} % in the mean"


def pi_table() -> str:
    """A row for each network and board: edgekit's INT8, what it competes with, and the estimate of the Pi 5's time."""
    networks = json.loads((BENCHMARKS / COUNTS[0]).read_text(encoding="utf-8"))["models"]
    lines = [pi_row(name, core, counted()[name][core]) for core in CORES for name in networks]
    heads = (
        "network",
        "board",
        "LiteRT INT8",
        "ONNX Runtime INT8",
        "stock INT8",
        "float",
        "ExecuTorch INT8",
        "MNN float",
    )
    note = (
        "Million instructions of one inference at 224 × 224, with the fewest in bold; the first two columns are "  # noqa: RUF001
        "edgekit's. Stock INT8 and float are the fewest of these two runtimes. The estimate is of edgekit's LiteRT "
        f"INT8 on four threads. Such estimates of the {len(rates())} networks that Arm published were off by "
        f"{_span(checks(rates()))} (`benchmarks/NOTES.md`)."
    )
    return f"{table((*heads, 'estimate, ms'), lines)}\n\n{note}\n"


def pi_row(model: str, core: str, rows: list[Counted]) -> tuple[str, ...]:
    """The cells of a network on a core; a bold count is the fewest."""

    def fewest(runtimes: Iterable[str], maker: str | None, floats: bool) -> float | None:
        found = [
            row["instructions"]
            for row in rows
            if row["runtime"] in runtimes and maker in (None, row["maker"]) and (row["precision"] in FLOATS) is floats
        ]
        return min(found, default=None)

    both = ("onnx", "tflite")
    counts = (
        fewest(("tflite",), "edgekit", floats=False),
        fewest(("onnx",), "edgekit", floats=False),
        fewest(both, "stock", floats=False),
        fewest(both, None, floats=True),
        fewest(("executorch",), None, floats=False),
        fewest(("mnn",), None, floats=True),
    )
    least = min(count for count in counts if count is not None)
    cells = [_millions(count, bold=count == least) for count in counts]
    ours = counts[0]
    estimate = str(bracket(ours, rates().values())) if ours is not None and core == CORE else NOTHING
    return code(model), BOARDS[core], *cells, estimate


def _millions(count: float | None, bold: bool) -> str:
    if count is None:
        return NOTHING
    text = f"{count / 1e6:.1f}"
    return f"**{text}**" if bold else text


def sent_table(folder: Path = SENT) -> str:
    """The measured rows of the reports that owners of boards sent, each beside its estimate."""
    lines = [cells for path in sorted(folder.glob("*.json")) for cells in _sent(load_report(path))]
    if not lines:
        return "Nobody has sent a report of a board yet.\n"
    heads = ("board", "network", "bundle", "threads", "measured, ms", "estimate, ms", "error of its middle")
    return f"{table(heads, lines)}\n"


def _sent(report: Report) -> Iterator[tuple[str, ...]]:
    """A row for each bundle that a real Raspberry Pi ran."""
    for row in report.results:
        if row.latency_ms is None or row.device.emulated or row.device.device_class not in CORES.values():
            continue
        known = sent_estimate(report, row)
        error = NOTHING if known is None else f"{Check(row.name, known, row.p50).error:+.0f} %"
        board, threads = row.device.cpu or NOTHING, str(row.latency_ms.threads)
        yield board, code(network_of(report)), row.name, threads, f"{row.p50:.2f}", str(known or NOTHING), error


def network_of(report: Report) -> str:
    """The network as the counts name it: a run of `edgekit demo` is of the demo's."""
    return "demo" if report.command[:1] == ("demo",) else report.model.name


def sent_estimate(report: Report, row: Row) -> Bracket | None:
    """The estimate of a row, or None unless it is of what was counted, on a board as Arm's."""
    network = network_of(report)
    if network != "demo" and report.model.input_shape[2:] != SIZE:
        return None
    if (row.target, row.precision, row.device.device_class) != ("tflite", "int8", CORES[CORE]):
        return None
    if row.latency_ms is None or row.latency_ms.threads != THREADS:
        return None
    count = instructions_of(network, "tflite", "edgekit int8")
    return None if count is None else bracket(count, rates().values())
