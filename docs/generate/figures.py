"""Tables of the benchmarks' figures for README and docs, which cog writes into the Markdown: `make figures`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.demo import OUTPUT
from benchmarks.peerlib.results import Group
from benchmarks.rows import read_rows
from docs.generate.markdown import table
from edgekit.config.runtimes import RUNTIMES

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
THREADS = 1
TIMES = "×"  # noqa: RUF001


@dataclass(frozen=True)
class Peers:
    """edgekit beside the stock tools, for one model on one runtime with one thread."""

    model: str
    runtime: str
    """The title of the runtime's own project."""
    weights: str
    float_ms: float
    """Latency of the fastest float in f32, edgekit's or the plain model's."""
    int8_ms: float
    speedup: float
    """Latency of that float over the INT8 one's."""
    speedup_ci95: tuple[float, float]
    float_bytes: int
    """What the runtime loads of edgekit's float bundle."""
    int8_bytes: int
    snr_db: float
    agreement: float
    """Share of images for which INT8 predicts torch's class."""
    stock: str | None
    """Name of the fastest static INT8 that a stock tool makes; None where each of them failed."""
    stock_ms: float | None
    stock_snr_db: float | None


def peers(file: str) -> list[Peers]:
    """What a JSON file of `benchmarks.peers` measured of edgekit's INT8, in its order."""
    results = json.loads((BENCHMARKS / file).read_text(encoding="utf-8"))
    groups = ((name, model, runtime) for name, model in results["models"].items() for runtime in RUNTIMES)
    rows = (_peers(name, model, runtime) for name, model, runtime in groups)
    return [row for row in rows if row is not None]


def _peers(name: str, model: dict[str, Any], runtime: str) -> Peers | None:
    """None where a bundle of edgekit's is missing."""
    group, key = Group(model, runtime), str(THREADS)
    best, ours, plain = group.fastest(THREADS, "float"), group.ours, group.named("edgekit float")
    faster = group.faster(best, THREADS)
    if best is None or ours is None or plain is None or faster is None:
        return None
    low, high = faster["ci95"]
    stock = min(group.stock_static(), key=lambda row: float(row["ms"][key]), default=None)
    return Peers(
        model=name,
        runtime=RUNTIMES[runtime].title,
        weights=model["weights"],
        float_ms=best["ms"][key],
        int8_ms=ours["ms"][key],
        speedup=faster["ratio"],
        speedup_ci95=(low, high),
        float_bytes=plain["size_bytes"],
        int8_bytes=ours["size_bytes"],
        snr_db=ours["snr_db"],
        agreement=ours["agreement"],
        stock=stock["candidate"] if stock else None,
        stock_ms=stock["ms"][key] if stock else None,
        stock_snr_db=stock["snr_db"] if stock else None,
    )


def peers_table(file: str, *models: str) -> str:
    """The table of these models, or of all, and a caption with the machine that measured them."""
    rows = [row for row in peers(file) if not models or row.model in models]
    if missing := set(models) - {row.model for row in rows}:
        raise LookupError(f"{file} has no figures of {', '.join(sorted(missing))}")
    heads = (
        "model (weights)", "runtime", "best float ms", "edgekit INT8 ms", "speedup", "fastest stock INT8 ms",
        "SNR dB, edgekit / stock",
    )  # fmt: skip
    return f"{table(heads, map(_cells, rows))}\n\n{caption(file)}\n"


def _cells(row: Peers) -> tuple[str, ...]:
    stock = "–" if row.stock_ms is None else f"{row.stock_ms:.2f} ({row.stock})"  # noqa: RUF001
    stock_snr = "–" if row.stock_snr_db is None else f"{row.stock_snr_db:.1f}"  # noqa: RUF001
    return (
        f"{row.model} ({row.weights})",
        row.runtime,
        f"{row.float_ms:.2f}",
        f"{row.int8_ms:.2f}",
        f"{row.speedup:.2f}{TIMES}",
        stock,
        f"{row.snr_db:.1f} / {stock_snr}",
    )


def noise_table(target: str) -> str:
    """What `benchmarks.noise` measured for a runtime's placement: by kind of quantizer and model."""
    rows = [row for row in read_rows(BENCHMARKS / "noise.json") if row["target"] == target]
    models = list(dict.fromkeys(row["model"] for row in rows))
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    cells = {(row["model"], row["kind"]): f"{row['snr_db']:.1f} dB ({row['quantizers']})" for row in rows}
    lines = [(kind, *(cells.get((model, kind), "–") for model in models)) for kind in kinds]  # noqa: RUF001
    return table(("only these quantizers", *models), lines) + "\n"


def caption(file: str) -> str:
    """Where and with what the figures of a file were measured."""
    results = json.loads((BENCHMARKS / file).read_text(encoding="utf-8"))
    versions = results["versions"]
    tools = ", ".join(f"{name} {versions[name]}" for name in ("openvino", "onnxruntime", "ai-edge-litert", "nncf"))
    return (
        f"{results['machine']['cpu']}, {THREADS} thread, {results['images']} images; {tools}. "
        f"Every figure is in `benchmarks/{file}`."
    )


def headlines(pages: str = "") -> str:
    """Three figures of one model on one runtime, each with the command that measures it again.

    `pages` is the path from the page to docs/, with a slash behind it.
    """
    row = figure("peers.json", "convnextv2_tiny", "openvino")
    assert row.stock_ms is not None
    assert row.stock_snr_db is not None
    times_smaller = row.float_bytes / row.int8_bytes
    command = f"[`python -m benchmarks.peers --models {row.model}`]({pages}concepts/comparison.md)"
    what = f"{row.model} on {row.runtime}"
    rows = [
        (
            f"**{row.speedup:.1f}{TIMES} as fast** as the best float",
            f"{what}, one thread: {row.float_ms:.1f} to {row.int8_ms:.1f} ms; the fastest stock INT8 takes "
            f"{row.stock_ms:.1f} ms",
            command,
        ),
        (
            f"**{times_smaller:.1f}{TIMES} smaller**",
            f"{what}: {row.float_bytes / 1e6:.1f} to {row.int8_bytes / 1e6:.1f} MB",
            command,
        ),
        (
            f"**{row.snr_db:.1f} dB** signal to noise of the logits",
            f"{what}; the fastest stock INT8 has {row.stock_snr_db:.1f} dB",
            command,
        ),
    ]
    return table(("figure", "of what", "measured by"), rows) + "\n"


def figure(file: str, model: str, runtime: str) -> Peers:
    """The figures of one model on one runtime, also for a sentence of one's own."""
    title = RUNTIMES[runtime].title
    return next(row for row in peers(file) if (row.model, row.runtime) == (model, title))


def demo_output() -> str:
    """What `edgekit demo` printed when `python -m benchmarks.demo` recorded it."""
    return f"```text\n{OUTPUT.read_text(encoding='utf-8')}```\n"
