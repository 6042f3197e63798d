"""Table of the time that bundles take to make, from benchmarks/making.json, which cog writes into the Markdown."""

from benchmarks.making import MODELS
from benchmarks.rows import Row, read_rows
from docs.generate.figures import BENCHMARKS, day_of, recorded_rows
from docs.generate.markdown import code, table

HEADS = (
    "model",
    "edgekit deploy, s",
    "calibrate",
    "compile",
    "evaluate and time",
    "other stages",
    "stock tools, s",
    "ratio",
    "recorded",
)


def making_table() -> str:
    """A line for each model, and what it was timed on."""
    rows = sorted(read_rows(BENCHMARKS / "making.json"), key=lambda row: MODELS.index(row["model"]))
    ((calibration, evaluation),) = {tuple(row["images"]) for row in rows}
    each_day = [[row for row in rows if day_of(row) == day] for day in sorted(set(map(day_of, rows)))]
    recorded = " ".join(map(recorded_rows, each_day))
    note = f"{calibration} images for calibration and {evaluation} for evaluation. {recorded}"
    return f"{table(HEADS, map(_line, rows))}\n\n{note}\n"


def _line(row: Row) -> tuple[str, ...]:
    own, stock = row["edgekit"], row["stock"]
    return (
        code(row["model"]),
        f"**{own['whole']:.0f}**",
        *(f"{own[part]:.0f}" for part in ("calibrate", "compile", "measure", "rest")),
        f"{stock['whole']:.0f}",
        f"{own['whole'] / stock['whole']:.2f}",
        day_of(row),
    )
