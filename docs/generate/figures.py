"""Figures of the benchmarks' JSON for README and docs, which cog writes into the Markdown: `make figures`."""

import json
from pathlib import Path
from typing import Any

from benchmarks.demo import OUTPUT, REPORT
from benchmarks.rows import read_rows
from docs.generate.markdown import table

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
TIMES = "×"  # noqa: RUF001
NOTHING = "–"  # noqa: RUF001
GENERATIONS = {
    "family 25, model 1": "Zen 3, without VNNI",
    "family 25, model 17": "Zen 4",
    "family 26, model 2": "Zen 5",
}
"""What AMD calls the processors that measured, by the numbers in their names."""


def noise_table(target: str) -> str:
    """What `benchmarks.noise` measured for a runtime's placement: by kind of quantizer and model."""
    rows = [row for row in read_rows(BENCHMARKS / "noise.json") if row["target"] == target]
    models = list(dict.fromkeys(row["model"] for row in rows))
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    cells = {(row["model"], row["kind"]): f"{row['snr_db']:.1f} dB ({row['quantizers']})" for row in rows}
    lines = [(kind, *(cells.get((model, kind), NOTHING) for model in models)) for kind in kinds]
    return table(("only these quantizers", *models), lines) + "\n"


def caption(file: str) -> str:
    """Where, when and with what the figures of a file were measured."""
    results = _read(file)
    versions = results["versions"]
    days = sorted(model["created"][:10] for model in results["models"].values())
    when = " to ".join(dict.fromkeys((days[0], days[-1])))
    tools = ", ".join(f"{name} {versions[name]}" for name in ("openvino", "onnxruntime", "ai-edge-litert", "nncf"))
    return f"{processor(results['machine']['cpu'])}, {results['images']} images; {tools}; {when}."


def processor(name: str) -> str:
    """The name of a processor, with its generation if that is known."""
    generation = next((its for numbers, its in GENERATIONS.items() if f"({numbers})" in name), None)
    return name.replace(")", f": {generation})") if generation else name


def machine_of(file: str) -> str:
    """The processor that measured a file of `benchmarks.peers`."""
    return processor(_read(file)["machine"]["cpu"])


def demo_output() -> str:
    """What `edgekit demo` printed when `python -m benchmarks.demo` recorded it, and where."""
    report = _read(REPORT.name)
    where = processor(report["results"][0]["device"]["cpu"])
    version = f"edgekit {report['edgekit']} of {report['created'][:10]}"
    heading = f"The output of {version} on an {where}; later versions may print more:"
    return f"{heading}\n\n```text\n{OUTPUT.read_text(encoding='utf-8')}```\n"


def _read(file: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((BENCHMARKS / file).read_text(encoding="utf-8"))
    return document
