"""Instructions of an inference on a Raspberry Pi's cores, from the JSON of `benchmarks.pi_instructions`."""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from benchmarks.peerlib.results import FLOATS
from benchmarks.peerlib.results import TITLES as PEERS
from benchmarks.peerlib.wheels import WHEELS
from benchmarks.recording import recording_of
from docs.generate.figures import BENCHMARKS, NOTHING, TIMES
from docs.generate.markdown import code, table
from edgekit.config.runtimes import RUNTIMES

Row = dict[str, Any]

BOARDS = {"cortex-a76": "Pi 5", "cortex-a72": "Pi 4"}
TITLES = PEERS | {name: wheel.title for name, wheel in WHEELS.items()}
PACKAGES = {
    "qemu": "QEMU",
    "onnxruntime": "ONNX Runtime",
    "ai-edge-litert": "LiteRT",
    "MNN": "MNN",
    "executorch": "ExecuTorch",
}
OTHERS = ("fewest float", "fewest stock INT8", "fewest of others")
HEADS = ("network", "core", "runtime", "INT8", *(head for other in OTHERS for head in (other, "ratio")))


def instructions_table() -> str:
    """Millions of instructions of edgekit's INT8 and of what it competes with, by network, core and runtime."""
    path = BENCHMARKS / "pi_instructions.json"
    results = json.loads(path.read_text(encoding="utf-8"))
    lines = [
        cells
        for model, cores in results["models"].items()
        for core, rows in cores.items()
        for cells in table_rows(model, core, [row for row in rows if "instructions" in row])
    ]
    recording = recording_of(path)
    assert recording is not None
    versions = recording.versions | results["versions"]
    tools = ", ".join(f"{title} {versions[package]}" for package, title in PACKAGES.items())
    return f"{table(HEADS, lines)}\n\n{tools}; commit {code(recording.commit)}, {recording.date}.\n"


def table_rows(model: str, core: str, counted: Sequence[Row]) -> Iterator[tuple[str, ...]]:
    """A row for each runtime with an INT8 of edgekit; others are the runtimes that edgekit doesn't compile for."""
    others = _fewest(row for row in counted if row["runtime"] not in RUNTIMES)
    for runtime in RUNTIMES:
        rows = [row for row in counted if row["runtime"] == runtime]
        ours = next((row for row in rows if row["candidate"] == "edgekit int8"), None)
        if ours is None:
            continue
        best = _fewest(row for row in rows if row["precision"] in FLOATS)
        stock = _fewest(row for row in rows if row["precision"] not in FLOATS and row["maker"] == "stock")
        where = code(model), f"{BOARDS[core]}, {core}", TITLES[runtime], _millions(ours)
        yield *where, *_compared(best, ours), *_compared(stock, ours), *_compared(others, ours)


def _fewest(rows: Iterable[Row]) -> Row | None:
    return min(rows, key=lambda row: float(row["instructions"]), default=None)


def _millions(row: Row) -> str:
    return f"{row['instructions'] / 1e6:.1f}"


def _compared(other: Row | None, ours: Row) -> tuple[str, str]:
    """The other's count and name, and its ratio to edgekit's INT8, in bold where that is behind."""
    if other is None:
        return NOTHING, NOTHING
    name = other["candidate"] if other["runtime"] in RUNTIMES else f"{TITLES[other['runtime']]}: {other['candidate']}"
    ratio = other["instructions"] / ours["instructions"]
    text = f"{ratio:.2f}{TIMES}"
    return f"{_millions(other)} ({name})", f"**{text}**" if ratio < 1 else text
