"""Computes the candidates' figures, and writes their tables."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from benchmarks.peerlib import executorch
from benchmarks.peerlib.candidates import Candidate
from benchmarks.peerlib.timing import OPENINGS, Times
from benchmarks.recording import recording_of
from edgekit.config.runtimes import RUNTIMES
from edgekit.measure.accuracy import snr_db

Row = dict[str, Any]
OURS = "edgekit int8"
TITLES = {name: runtime.title for name, runtime in RUNTIMES.items()} | {"executorch": executorch.TITLE}
NONE = "-"
FLOATS = ("float", "bf16", "f16")
"""Precisions that are not INT8; "float" is f32."""
WIDE = 0.1
"""Width of an interval, as a share of its ratio, from which a ratio counts as unsteady."""
INTRODUCTION = f"""\
Written by `python -m benchmarks.peers`; every figure is in `{{json}}`. One process opens all candidates of a runtime
{OPENINGS} times and times them in turns. A ratio is the mean of those of the openings' medians, with Student's 95 %
interval; a star marks an interval wider than {{wide:.0f}} % of its ratio. SNR compares the logits with torch's, and
agreement the top-1 predictions, on {{images}} real images. The fastest float is the fastest of the plain model and
edgekit's float bundle, in f32 or bf16. The fastest stock INT8 is that of any kind, dynamic range included. Ship is INT8
where it is faster than the fastest float over the whole interval. ExecuTorch isn't a target of edgekit. Its files run
in XNNPACK: the plain network, and one that its own quantizer made INT8, per channel."""


def answer_rows(
    candidates: Sequence[Candidate], answers: Mapping[str, NDArray[np.float32] | str], reference: NDArray[np.float32]
) -> list[Row]:
    """One row for each candidate of a runtime: its file, and how far its logits [N,classes] are from torch's."""
    rows = []
    for candidate in candidates:
        row: Row = {
            "runtime": candidate.runtime,
            "candidate": candidate.name,
            "maker": candidate.maker,
            "precision": candidate.precision,
        }
        logits = answers[candidate.name]
        if isinstance(logits, str):
            rows.append(row | {"error": logits})
            continue
        row |= {
            "path": str(candidate.path),
            "options": candidate.options,
            "size_bytes": candidate.size_bytes,
            **({"sha256": candidate.sha256} if candidate.maker == "edgekit" else {}),
            "snr_db": snr_db(reference, logits),
            "agreement": float((reference.argmax(1) == logits.argmax(1)).mean()),
        }
        rows.append(row)
    return rows


def candidate_of(row: Row) -> Candidate:
    """The candidate of a row without an error."""
    names = ("runtime", "maker", "precision", "options")
    return Candidate(row["candidate"], path=Path(row["path"]), **{name: row[name] for name in names})


def add_times(rows: Sequence[Row], times: Mapping[str, Times]) -> None:
    """Add the milliseconds to the rows of a runtime. The row of edgekit's INT8 compares it with every other one."""
    for row in rows:
        own = times[row["candidate"]]
        row["ms"] = {str(threads): float(np.median(np.concatenate(each))) for threads, each in own.items()}
        row["rounds"] = {str(threads): sum(map(len, each)) for threads, each in own.items()}
        row.pop("profiles", None)  # of earlier times
        if row["candidate"] == OURS:
            row["faster_than"] = {
                name: {str(threads): versus(other[threads], each) for threads, each in own.items()}
                for name, other in times.items()
                if name != OURS
            }


def versus(other: Sequence[NDArray[np.float64]], ours: Sequence[NDArray[np.float64]]) -> Row:
    """How many times as fast `ours` is; both have [rounds] in ms for each opening.

    The ratio is the geometric mean over the openings. Student's interval of the logarithms contains what the openings
    differ by, which a bootstrap over rounds would miss.
    """
    logs = np.log([np.median(theirs) / np.median(own) for theirs, own in zip(other, ours, strict=True)])
    interval = stats.t.interval(0.95, len(logs) - 1, logs.mean(), stats.sem(logs) or np.finfo(float).tiny)
    return {"ratio": float(np.exp(logs.mean())), "ci95": np.exp(interval).tolist()}


class Group:
    """The timed rows of one model and runtime."""

    def __init__(self, model: Row, runtime: str) -> None:
        self.rows = [row for row in model["rows"] if row["runtime"] == runtime and "ms" in row]
        self.ours = self.named(OURS)

    def named(self, name: str) -> Row | None:
        return next((row for row in self.rows if row["candidate"] == name), None)

    def fastest(self, threads: int, *precisions: str) -> Row | None:
        """The fastest candidate of these precisions."""
        return _fastest([row for row in self.rows if row["precision"] in precisions], threads)

    def fastest_float(self, threads: int) -> Row | None:
        """The fastest candidate that isn't INT8, whoever made it and whatever float it computes in."""
        return self.fastest(threads, *FLOATS)

    def fastest_stock(self, threads: int) -> Row | None:
        """The fastest INT8 of the stock tools, of any kind."""
        return _fastest(self.stock_int8(), threads)

    def faster(self, other: Row | None, threads: int) -> Row | None:
        """How many times faster edgekit's INT8 is than `other`: ratio and ci95."""
        if self.ours is None or other is None:
            return None
        speedup: Row = self.ours["faster_than"][other["candidate"]][str(threads)]
        return speedup

    def settled_loss(self, threads: int) -> Row | None:
        """The fastest INT8 of the stock tools if it is faster than edgekit's over the whole interval."""
        stock = self.fastest_stock(threads)
        versus = self.faster(stock, threads)
        return stock if versus is not None and versus["ci95"][1] < 1 else None

    def stock_int8(self) -> list[Row]:
        """INT8 of the stock tools: static or dynamic range, with the float part in f32 or bf16."""
        return [row for row in self.rows if row["maker"] == "stock" and row["precision"] not in FLOATS]

    def stock_snr(self) -> float | None:
        """Best SNR of the stock tools' INT8."""
        return max((row["snr_db"] for row in self.stock_int8()), default=None)

    def ship(self, threads: int) -> str:
        """INT8 if the whole interval of its speedup over the fastest float is above 1, otherwise float."""
        versus = self.faster(self.fastest_float(threads), threads)
        return "INT8" if versus is not None and versus["ci95"][0] > 1 else "float"


def _fastest(rows: list[Row], threads: int) -> Row | None:
    return min(rows, key=lambda row: float(row["ms"][str(threads)]), default=None)


def unsteady(versus: Row) -> bool:
    """Whether a ratio's interval is wider than `WIDE` of it."""
    low, high = versus["ci95"]
    return bool(high - low > WIDE * versus["ratio"])


def write_results(results: Row, path: Path) -> str:
    """The tables of the results in a JSON file, as Markdown."""
    recording = recording_of(path)
    assert recording is not None
    versions = recording.versions | {"executorch": results["executorch"]}
    lines = [
        f"# edgekit and its peers: {recording.kind}",
        "",
        fill(INTRODUCTION.format(json=path.name, wide=100 * WIDE, images=results["images"]), 118),
        "",
        fill(
            f"Recorded at commit {recording.commit} on {recording.date}: {recording.where}, {recording.system}, Python "
            f"{recording.python}; {', '.join(f'{name} {version}' for name, version in versions.items())}.",
            118,
        ),
        "",
    ]
    for threads in results["threads"]:
        lines += [f"## INT8 of edgekit at {threads} thread{'s' if threads > 1 else ''}", ""]
        lines += [*summary(results["models"], threads), ""]
    for name, model in results["models"].items():
        lines += one_model(name, model, results["threads"])
    return "\n".join(lines)


def summary(models: Row, threads: int) -> list[str]:
    """The summary table, with a row for each model and runtime."""
    heads = (
        "model", "runtime", "fastest float ms", "INT8 ms", "faster than fastest float", "than fastest f32",
        "than fastest stock INT8", "SNR dB (best stock)", "agreement", "MACs in int8", "ship",
    )  # fmt: skip
    lines = [table_row(*heads), "|" + "---|" * len(heads)]
    for name, model in models.items():
        for runtime in RUNTIMES:
            cells = summary_cells(Group(model, runtime), threads)
            lines.append(table_row(name, RUNTIMES[runtime].title, *(cells or [NONE] * (len(heads) - 2))))
    return lines


def summary_cells(group: Group, threads: int) -> list[str]:
    """Cells of the summary for one model and runtime; none if either bundle is missing."""
    ours, best, stock = group.ours, group.fastest_float(threads), group.fastest_stock(threads)
    if best is None or ours is None:
        return []
    snr, share = group.stock_snr(), ours["share_of_macs"]
    return [
        f"{best['ms'][str(threads)]:.2f} ({best['candidate']})",
        f"{ours['ms'][str(threads)]:.2f}",
        show(group.faster(best, threads)),
        show(group.faster(group.fastest(threads, "float"), threads)),
        NONE if stock is None else f"{show(group.faster(stock, threads))} ({stock['candidate']})",
        f"{ours['snr_db']:.1f} ({NONE if snr is None else f'{snr:.1f}'})",
        f"{100 * ours['agreement']:.0f} %",
        NONE if share is None else f"{100 * share:.1f} %",
        group.ship(threads),
    ]


def table_row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def show(versus: Row | None) -> str:
    """Format a ratio with its interval, and with a star if it is unsteady."""
    if versus is None:
        return NONE
    low, high = versus["ci95"]
    return f"{versus['ratio']:.2f}x [{low:.2f}, {high:.2f}]{'*' if unsteady(versus) else ''}"


def one_model(name: str, model: Row, threads: list[int]) -> list[str]:
    """The section of one model, with a row for every candidate."""
    height, width = model["input"]
    lines = [
        f"## {name}",
        "",
        f"{model['params'] / 1e6:.2f} M parameters, {model['macs'] / 1e9:.2f} GMAC at {height} x {width}, "
        f"{model['weights']} weights, recipe {model['recipe']}.",
        "",
        "| runtime | candidate | MB | "
        + " | ".join(f"ms, {count} thr." for count in threads)
        + " | speedup of edgekit INT8 (1 thr.) | SNR dB | agreement |",
        "|---|---|---|" + "---|" * (len(threads) + 3),
    ]
    for runtime, title in TITLES.items():
        group = Group(model, runtime)
        for row in (row for row in model["rows"] if row["runtime"] == runtime):
            start = f"| {title} | {row['candidate']} |"
            if "error" in row:
                lines.append(f"{start} failed: {row['error'].replace('|', '/')} |" + " |" * (len(threads) + 3))
                continue
            faster = "" if row is group.ours or "ms" not in row else show(group.faster(row, threads[0]))
            times = " | ".join(f"{row['ms'][str(count)]:.2f}" if "ms" in row else NONE for count in threads)
            lines.append(
                f"{start} {row['size_bytes'] / 1e6:.2f} | {times} | {faster} | {row['snr_db']:.1f} | "
                f"{100 * row['agreement']:.0f} % |"
            )
    return [*lines, ""]
