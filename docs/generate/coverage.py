"""Tables of the smallest classifier of each timm module, from benchmarks/coverage.json."""

import json
from textwrap import shorten

from benchmarks.rows import Row, read_rows
from docs.generate.figures import BENCHMARKS, recorded_rows
from docs.generate.markdown import code, plain, table
from edgekit.config.runtimes import RUNTIMES

USUAL = 8
"""Number of calibration images of most networks."""
PARITY = 1e-3
"""Largest allowed difference of a float bundle's logits from torch's, as a share of the largest logit."""
LONGEST = 120
"""Characters of a reason in the table of failures."""


def coverage_summary() -> str:
    """How many modules were measured and run on all runtimes, and which ones have not been measured on all."""
    rows = read_rows(BENCHMARKS / "coverage.json")
    modules = json.loads((BENCHMARKS / "coverage_models.json").read_text(encoding="utf-8"))
    works = {module: [row for row in rows if row["module"] == module and not _failure(row)] for module in modules}
    everywhere, somewhere = (sum(len(found) >= least for found in works.values()) for least in (len(RUNTIMES), 1))
    found = {(row["module"], row["target"]) for row in rows}
    left = sorted(module for module in modules if any((module, target) not in found for target in RUNTIMES))
    more = sorted({row["module"] for row in rows if row.get("calibration_images", USUAL) > USUAL})
    text = (
        f"Of timm's {len(modules)} modules, {len(modules) - len(left)} were measured with every runtime. "
        f"{everywhere} work with all of them, and {somewhere} with at least one."
    )
    if more:
        text += f" Calibrated on more images, because {USUAL} were too few: {', '.join(map(code, more))}."
    if left:
        text += f" Not measured with every runtime: {', '.join(map(code, left))}."
    return f"{text}\n"


def coverage_table() -> str:
    """A line for each module and runtime: the figures, or why there are none."""
    figures = ("float differs by", "agreement", "SNR", "`nncf.quantize`", "MACs in int8")
    heads = ("module", "model", "runtime", *figures, "fails")
    return f"{table(heads, map(_cells, _rows()))}\n\n{recorded_rows(_rows())}\n"


def failures_table() -> str:
    """A line for each module and runtime that doesn't work."""
    failures = [(row, reason) for row in _rows() if (reason := _failure(row))]
    rows = [(*_about(row), plain(shorten(reason, LONGEST, placeholder=" …"))) for row, reason in failures]
    return table(("module", "model", "runtime", "why"), rows) + "\n"


def _rows() -> list[Row]:
    """All rows, by module and in the order of the runtimes."""
    order = list(RUNTIMES)
    return sorted(read_rows(BENCHMARKS / "coverage.json"), key=lambda row: (row["module"], order.index(row["target"])))


def _about(row: Row) -> tuple[str, str, str]:
    side = f", {row['input']} px" if "input" in row else ""
    return code(row["module"]), code(row["model"]) + side, RUNTIMES[row["target"]].title


def _failure(row: Row) -> str | None:
    """Why a runtime doesn't work with a network."""
    if "reason" in row:
        return f"{row['stage']}: {row['reason']}"
    if row["float_parity"] > PARITY:
        return f"float differs from torch by more than the tolerance of {PARITY:.0e}"
    stock = row.get("nncf_snr_db")
    return "INT8 is noisier than that of nncf.quantize" if stock is not None and row["snr_db"] < stock else None


def _cells(row: Row) -> tuple[str, ...]:
    about = _about(row)
    parity = f"{row['float_parity']:.0e}" if "float_parity" in row else ""
    fails = plain(_failure(row) or "")
    if "reason" in row:
        return *about, parity, "", "", "", "", fails
    agreement, snr, share = (
        f"{100 * row['agreement']:.0f} %",
        f"{row['snr_db']:.1f} dB",
        f"{100 * row['int8_share_of_macs']:.0f} %",
    )
    stock = ("fails" if row["nncf_snr_db"] is None else f"{row['nncf_snr_db']:.1f} dB") if "nncf_snr_db" in row else ""
    return *about, parity, agreement, snr, stock, share, fails
