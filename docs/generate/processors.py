"""Table of INT8 on x86 processors without VNNI, from benchmarks/processors.json, which cog writes into the Markdown."""

from benchmarks.rows import Row, read_rows
from docs.generate.figures import BENCHMARKS, recorded_rows
from docs.generate.markdown import table
from edgekit.config.runtimes import RUNTIMES

HEADS = (
    "model",
    "runtime",
    "pairs that can saturate",
    "exact arithmetic, dB",
    "without VNNI, dB",
    "agreement there",
)


def processors_table() -> str:
    """A line for each model and runtime: with unlimited pairs → with limited pairs."""
    order = list(RUNTIMES)
    rows = sorted(_rows(), key=lambda row: order.index(row["target"]))
    names = list(dict.fromkeys(row["model"] for row in _rows()))
    return table(HEADS, [_line(row) for name in names for row in rows if row["model"] == name]) + "\n"


def processors_summary() -> str:
    """A sentence with the noise of limited and unlimited pairs without VNNI, where pairs can saturate."""
    rows = [row for row in _rows() if row["unlimited"]["pairs_that_can_saturate"]]
    before, after = ([without_vnni(row[name]) for row in rows] for name in ("unlimited", "limited"))
    cost = max(row["unlimited"]["exact_db"] - row["limited"]["exact_db"] for row in rows)
    names = len({row["model"] for row in rows})
    return (
        f"Of {names} networks on OpenVINO and ONNX Runtime, INT8 with unlimited pairs had {min(before):.1f} to "
        f"{max(before):.1f} dB on a processor without VNNI, and with limited pairs {min(after):.1f} to "
        f"{max(after):.1f}. The limit costs at most {cost:.1f} dB where nothing saturates.\n"
    )


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
        f'graph in torch, which processors with VNNI compute. "Without VNNI" is {without}. {recorded_rows(rows)}\n'
    )


def without_vnni(bundle: Row) -> float:
    """Signal-to-noise ratio in dB on a processor without VNNI: emulated, or of the machine itself."""
    return float(bundle["emulated_db"] if "emulated_db" in bundle else bundle["host_db"])


def agreement(bundle: Row) -> float:
    """Share of images for which INT8 predicts torch's class on the machine itself."""
    return float(bundle["host_agreement"])


def _line(row: Row) -> tuple[str, ...]:
    before, after = row["unlimited"], row["limited"]
    return (
        row["model"],
        RUNTIMES[row["target"]].title,
        f"{before['pairs_that_can_saturate']:,} → {after['pairs_that_can_saturate']:,}",
        f"{before['exact_db']:.1f} → {after['exact_db']:.1f}",
        f"{without_vnni(before):.1f} → {without_vnni(after):.1f}",
        " → ".join(f"{100 * agreement(bundle):.0f} %" for bundle in (before, after)),
    )


def _rows() -> list[Row]:
    return read_rows(BENCHMARKS / "processors.json")


def _only(values: set[object]) -> object:
    (value,) = values
    return value
