"""Table of INT8 on x86 processors without VNNI, from benchmarks/processors.json, which cog writes into the Markdown."""

from benchmarks.rows import Row, read_rows
from docs.generate.figures import BENCHMARKS, NOTHING
from docs.generate.markdown import table
from edgekit.config.runtimes import RUNTIMES

HEADS = (
    "model",
    "runtime",
    "pairs that can saturate",
    "exact arithmetic, dB",
    "without VNNI, dB",
    "time",
)


def processors_table() -> str:
    """A line for each model and runtime: with unlimited pairs → with limited pairs."""
    order = list(RUNTIMES)
    rows = sorted(_rows(), key=lambda row: order.index(row["target"]))
    names = list(dict.fromkeys(row["model"] for row in _rows()))
    return table(HEADS, [_line(row) for name in names for row in rows if row["model"] == name]) + "\n"


def processors_note() -> str:
    """What the table was measured on."""
    rows = _rows()
    images, calibration = (_only({row[key] for row in rows}) for key in ("images", "calibration_images"))
    machine, vnni = (_only({row[key] for row in rows}) for key in ("cpu", "vnni"))
    emulated = sorted({row["emulated"] for row in rows} - {None})
    without = f"a {emulated[0]} core that QEMU emulates" if vnni else f"the {machine}"
    versions = ", ".join(dict.fromkeys(row["runtime"] for row in rows))
    return (
        f"{images} images, {calibration} others for calibration; {versions}. Exact arithmetic is that of the Q/DQ "
        f'graph in torch, which processors with VNNI compute. "Without VNNI" is {without}. The time is that of an '
        "inference with limited pairs, divided by that with unlimited pairs, with its 95 % interval, on one thread of "
        f"the {machine}, which has {'' if vnni else 'no '}VNNI.\n"
    )


def without_vnni(bundle: Row) -> float:
    """Signal-to-noise ratio in dB on a processor without VNNI: emulated, or of the machine itself."""
    return float(bundle["emulated_db"] if "emulated_db" in bundle else bundle["host_db"])


def _line(row: Row) -> tuple[str, ...]:
    before, after = row["unlimited"], row["limited"]
    low, high = row["time_ratio_ci95"]
    return (
        row["model"],
        RUNTIMES[row["target"]].title,
        f"{before['pairs_that_can_saturate']:,} → {after['pairs_that_can_saturate']:,}",
        f"{before['exact_db']:.1f} → {after['exact_db']:.1f}",
        f"{without_vnni(before):.1f} → {without_vnni(after):.1f}",
        f"{row['time_ratio']:.2f} ({low:.2f} to {high:.2f})" if before["pairs_that_can_saturate"] else NOTHING,
    )


def _rows() -> list[Row]:
    return read_rows(BENCHMARKS / "processors.json")


def _only(values: set[object]) -> object:
    (value,) = values
    return value
