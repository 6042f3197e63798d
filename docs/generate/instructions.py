"""Instructions of an inference on a Raspberry Pi's cores, from the JSON of `benchmarks.pi_instructions`."""

import json

from benchmarks.pilib.results import BOARDS
from docs.generate.figures import BENCHMARKS, NOTHING, TIMES
from docs.generate.markdown import table
from edgekit.config.runtimes import RUNTIMES

FILE = "pi_instructions.json"


def instructions_table(model: str) -> str:
    """Millions of instructions of edgekit's bundles, by core and runtime."""
    cores = json.loads((BENCHMARKS / FILE).read_text(encoding="utf-8"))["models"][model]
    rows = []
    for core, counted in cores.items():
        for runtime in RUNTIMES:
            own = {
                row["candidate"]: row["instructions"]
                for row in counted
                if row["runtime"] == runtime and row["maker"] == "edgekit" and "error" not in row
            }
            f32, f16, int8 = (own.get(name) for name in ("edgekit float", "edgekit float, f16", "edgekit int8"))
            fewest = min(count for count in (f32, f16) if count)
            ratio = f"{fewest / int8:.2f}{TIMES}" if int8 else NOTHING
            counts = (NOTHING if count is None else f"{count / 1e6:.1f}" for count in (f32, f16, int8))
            rows.append((f"{BOARDS[core]}, {core}", RUNTIMES[runtime].title, *counts, ratio))
    heads = ("core", "runtime", "float in f32", "float in f16", "INT8", "float / INT8")
    return table(heads, rows) + "\n"
