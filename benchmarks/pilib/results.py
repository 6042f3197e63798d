"""Writes the section of RESULTS.md on instructions on a Raspberry Pi's cores."""

from pathlib import Path
from textwrap import fill
from typing import Any

from benchmarks.peerlib.results import NONE, table_row
from benchmarks.peerlib.wheels import WHEELS
from edgekit.config.runtimes import RUNTIMES

Row = dict[str, Any]

HEADING = "## Instructions on a Raspberry Pi's cores"
BOARDS = {"cortex-a76": "Pi 5", "cortex-a72": "Pi 4"}
INTRODUCTION = """\
Written by `python -m benchmarks.pi_instructions`; every figure is in `pi_instructions.json`. No board was
involved: these are the instructions of one inference with one thread and batch 1, counted in QEMU {qemu} under
Debian's arm64 kernel {kernel}. Each count is the median of three and repeats to 0.1 %. edgekit's bundles are built
for the device class of the core. **They are not times.** A count ignores caches, memory bandwidth, clocks and heat,
and how many instructions a core completes per cycle. INT8 reads a quarter of the bytes, which a count doesn't show;
a pass over memory has few instructions but can take long. So compare candidates on the same core, and measure
milliseconds on a board. SNR compares the logits with torch's for {images} images, on the emulated core and on x86.
OpenVINO computes most layers of INT8 files in floating point on Arm. MNN and ncnn are not targets of edgekit: they
run the plain network, ncnn's f16 being what it does by default."""
TITLES = {name: runtime.title for name, runtime in RUNTIMES.items()} | {
    name: wheel.title for name, wheel in WHEELS.items()
}
ARM_CARD = 1.61
"""Speedup of INT8 over float on Arm's own model card: a ConvNeXt on a Raspberry Pi 5, p50 443.25 and 275.01 ms."""


def section(results: Row) -> str:
    """The text of the section for the results in pi_instructions.json, whose "note" says which rows are older."""
    lines = [HEADING, "", fill(INTRODUCTION.format(**results), 118), ""]
    if "note" in results:
        lines += [fill(results["note"], 118, break_on_hyphens=False), ""]
    for name, cores in results["models"].items():
        lines += [f"### {name}", "", *_summary(cores), "", *_everything(cores), ""]
    return "\n".join(lines)


def with_section(page: str, text: str) -> str:
    """Replace the section at the end of a page."""
    return f"{page.partition(HEADING)[0].rstrip()}\n\n{text.rstrip()}\n"


def kept(page: Path) -> str:
    """The section of a page, or an empty string if it has none."""
    _, heading, text = page.read_text().partition(HEADING) if page.exists() else ("", "", "")
    return heading + text


def _summary(cores: Row) -> list[str]:
    heads = ("core", "runtime", "best float M", "INT8 M", "best float / INT8", "best stock INT8 M", "best stock / INT8")
    lines = [table_row(*heads), "|" + "---|" * len(heads)]
    for core, rows in cores.items():
        for runtime, title in TITLES.items():
            counted = [row for row in rows if row["runtime"] == runtime and "error" not in row]
            if not counted and runtime in WHEELS:
                continue
            ours = next((row for row in counted if row["candidate"] == "edgekit int8"), None)
            best = _fewest(row for row in counted if not row["precision"].startswith("int8"))
            stock = _fewest(row for row in counted if row["precision"].startswith("int8") and row["maker"] == "stock")
            where = f"{core} ({BOARDS[core]})"
            cells = [_millions(best), _millions(ours), _ratio(best, ours), _named(stock), _ratio(stock, ours)]
            lines.append(table_row(where, title, *cells))
    lines += ["", f"For comparison, Arm's model card of an INT8 ConvNeXt reports {ARM_CARD}x in time on a Pi 5."]
    return lines


def _everything(cores: Row) -> list[str]:
    """The table of every candidate, with a column for each core."""
    heads = ["runtime", "candidate", *(f"M on {core}" for core in cores), *(f"SNR dB on {core}" for core in cores)]
    lines = [table_row(*heads, "on x86"), "|" + "---|" * (len(heads) + 1)]
    by_candidate: dict[tuple[str, str], Row] = {}
    for core, rows in cores.items():
        for row in rows:
            by_candidate.setdefault((row["runtime"], row["candidate"]), {})[core] = row
    for (runtime, candidate), by_core in by_candidate.items():
        counts = [_cell(by_core.get(core)) for core in cores]
        snr = [_decibel(by_core.get(core), "snr_db") for core in cores]
        x86 = _decibel(next(iter(by_core.values())), "snr_x86_db")
        lines.append(table_row(TITLES[runtime], candidate, *counts, *snr, x86))
    return lines


def _fewest(rows: Any) -> Row | None:
    return min(rows, key=lambda row: float(row["instructions"]), default=None)


def _millions(row: Row | None) -> str:
    return NONE if row is None else f"{row['instructions'] / 1e6:.1f}"


def _named(row: Row | None) -> str:
    return NONE if row is None else f"{_millions(row)} ({row['candidate']})"


def _ratio(other: Row | None, ours: Row | None) -> str:
    return NONE if other is None or ours is None else f"{other['instructions'] / ours['instructions']:.2f}x"


def _cell(row: Row | None) -> str:
    if row is None:
        return NONE
    return f"failed: {row['error'].replace('|', '/')}" if "error" in row else _millions(row)


def _decibel(row: Row | None, key: str) -> str:
    return NONE if row is None or row.get(key) is None else f"{row[key]:.1f}"
