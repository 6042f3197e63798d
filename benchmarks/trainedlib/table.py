"""The table that benchmarks/trained.py prints."""

from collections.abc import Iterator, Sequence

from benchmarks.peerlib.results import NONE, table_row
from benchmarks.rows import Row

HEADS = (
    "network", "runtime", "choice", "recipe", "images", "float top-1", "drop in points", "SNR dB", "agreement",
    "MACs in int8", "calibration error of float, int8, int8 / T", "cross 0.5, 0.8", "seconds",
)  # fmt: skip


def table(rows: Sequence[Row]) -> Iterator[str]:
    """Markdown with a line for each row."""
    yield table_row(*HEADS)
    yield "|" + "---|" * len(HEADS)
    yield from map(line, rows)


def line(row: Row) -> str:
    start = (row["network"], row["runtime"], row["choice"], row["recipe"], str(row["images"]))
    if "error" in row:
        reason = " ".join(row["error"].split()).replace("|", "/")
        return table_row(*start, f"{row['float_top1']:.1%}", f"failed: {reason}", *[NONE] * 6)
    low, high = row["drop_ci95_points"]
    share = row["int8_share_of_macs"]
    return table_row(
        *start,
        f"{row['float_top1']:.1%}",
        f"{row['drop_top1_points']:.2f} [{low:.2f}, {high:.2f}]",
        f"{row['snr_db']:.1f}",
        f"{row['agreement']:.1%}",
        NONE if share is None else f"{share:.1%}",
        *confidence(row),
        f"{row['seconds']:.0f}",
    )


def confidence(row: Row) -> tuple[str, str]:
    """The calibration errors, and how many answers cross each threshold upward and downward."""
    if "calibration_error" not in row:
        return NONE, NONE
    errors = (row[f"{which}calibration_error"] for which in ("float_", "", "with_temperature_"))
    crossings = (f"+{upward} -{downward}" for _, upward, downward in row["crossings"])
    return f"{', '.join(f'{error:.1%}' for error in errors)} (T = {row['fitted_temperature']})", ", ".join(crossings)
