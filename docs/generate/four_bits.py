"""Tables of 4-bit weights in LiteRT, from benchmarks/four_bits.json, which cog writes into the Markdown."""

from collections.abc import Iterable, Sequence

from benchmarks.four_bits import CHOICES, FILE, INT8, NETWORKS
from benchmarks.rows import Row, read_rows
from docs.generate.figures import NOTHING, processor
from docs.generate.markdown import code, table
from docs.generate.peers import AMX_FILE, THREADS, peers
from edgekit.config.runtimes import RUNTIMES

SHOWN = "gptq-clip"
"""The rounding of the first table."""
CORE = "cortex-a76"
BUSY = "convnextv2_atto"
"""The network that shows how busy the machine was."""
HEADS = ("network", "layers", "in 4 bits", "file, MB", "time", "instructions", "SNR, dB", "drop, points")
METHODS = {
    "nearest": "to the nearest level",
    "gptq": "GPTQ",
    "gptq-clip": "GPTQ, clipping searched per channel",
    "gptq-clip-descent": "the same, then coordinate descent (COMQ)",
}


def four_bits_table() -> str:
    """A line for each network and choice of layers; each figure as INT8 → 4 bits, or their ratio."""
    rows = [row for row in read_rows(FILE) if row["method"] == SHOWN]
    rows.sort(key=lambda row: (NETWORKS.index(row["network"]), CHOICES.index(row["choice"])))
    return table(HEADS, [_line(row, _int8(row)) for row in rows]) + "\n"


def methods_table(network: str) -> str:
    """A line for each rounding of all layers of a network."""
    rows = {row["method"]: row for row in read_rows(FILE) if row["network"] == network and row["choice"] == "all"}
    lines = [
        (title, f"{rows[method]['snr_db']:.1f}", _drop(rows[method]))
        for method, title in METHODS.items()
        if method in rows
    ]
    return table(("rounding", "SNR, dB", "drop, points"), lines) + "\n"


def four_bits_note() -> str:
    """What the tables were measured on."""
    rows = read_rows(FILE)
    (cpu,) = {row["cpu"] for row in rows}
    calibration = sorted({row["calibration_images"] for row in rows})
    calibrated = " or ".join(map(str, calibration))
    images = {row["network"]: row["images"] for row in rows if row["weights"] == "trained"}
    days = sorted({row["created"][:10] for row in rows})
    when = " to ".join(dict.fromkeys((days[0], days[-1])))
    counts = ", ".join(f"{count:,} for {code(name)}" for name, count in images.items())
    here = next(row["time"]["ms"] for row in rows if (row["network"], row["choice"]) == (BUSY, INT8))
    alone = next(
        row for row in peers(THREADS, AMX_FILE) if (row.model, row.runtime) == (BUSY, RUNTIMES["tflite"].title)
    )
    return (
        f"{processor(cpu)}, one thread; {calibrated} images for calibration, and for evaluation {counts}; {when}. Time "
        f"and instructions (one inference on a {CORE}) are divided by those of INT8. Other jobs slowed the machine: "
        f"INT8 of {code(BUSY)} took {here:.1f} ms, and {alone.int8_ms:.1f} in the [comparison](RESULTS_AMX.md).\n"
    )


def four_bits_summary() -> str:
    """What all layers in 4 bits do to size, time, instructions and accuracy, over all networks."""
    rows = [row for row in read_rows(FILE) if row["method"] == SHOWN and row["choice"] == "all"]
    cores = dict.fromkeys(core for row in rows for core in row["instructions"])
    counts = (
        f"{_span(rows, 'instructions', core)} times as many instructions on a {core}" for core in sorted(cores)[::-1]
    )
    drops = (row["drop_top1_points"] - _int8(row)["drop_top1_points"] for row in rows if row["weights"] == "trained")
    noise = [_int8(row)["snr_db"] - row["snr_db"] for row in rows]
    return (
        f"- Size: a file is {_span(rows, 'size')} times as large.\n"
        f"- Time: an inference takes {_span(rows, 'time')} times as long. It executes {' and '.join(counts)}.\n"
        f"- Accuracy: the logits lose {_range(noise, 0)} dB, and trained networks {_range(drops, 1)} points of top-1 "
        "more than INT8 does.\n"
    )


def _span(rows: Sequence[Row], figure: str, core: str = CORE) -> str:
    """The smallest and the largest ratio to INT8 among the rows that have it."""
    return _range((ratio for row in rows if (ratio := _ratio(row, figure, core)) is not None), 2)


def _range(figures: Iterable[float], digits: int) -> str:
    """The smallest and the largest of some figures, or the only one."""
    ends = sorted(figures)
    return " to ".join(dict.fromkeys(f"{end:.{digits}f}" for end in (ends[0], ends[-1])))


def _line(row: Row, int8: Row) -> tuple[str, ...]:
    trained = row["weights"] == "trained"
    count = _ratio(row, "instructions")
    low, high = row["time"]["ratio_ci95"]
    return (
        code(row["network"]) if trained else f"{code(row['network'])}, random weights",
        row["choice"],
        f"{row['layers']} of {row['dense']}",
        f"{int8['size_bytes'] / 1e6:.2f} → {row['size_bytes'] / 1e6:.2f} ({_ratio(row, 'size'):.2f})",
        f"{row['time']['ratio']:.2f} ({low:.2f} to {high:.2f})",
        NOTHING if count is None else f"{count:.2f}",
        f"{int8['snr_db']:.1f} → {row['snr_db']:.1f}",
        f"{int8['drop_top1_points']:.2f} → {_drop(row)}" if trained else NOTHING,
    )


def _ratio(row: Row, figure: str, core: str = CORE) -> float | None:
    """A figure divided by that of INT8; None if it wasn't measured."""
    int8 = _int8(row)
    if figure == "instructions":
        return row[figure][core] / int8[figure][core] if core in row[figure] else None
    return float(row["time"]["ratio"]) if figure == "time" else row["size_bytes"] / int8["size_bytes"]


def _int8(row: Row) -> Row:
    """The INT8 row of the same network."""
    return next(other for other in read_rows(FILE) if (other["network"], other["choice"]) == (row["network"], INT8))


def _drop(row: Row) -> str:
    low, high = row["drop_ci95_points"]
    return f"{row['drop_top1_points']:.2f} ({low:.2f} to {high:.2f})"
