"""Sizes of updates as whole files and as binary deltas, from the JSON of `benchmarks.deltas`."""

import json
from typing import Any

from docs.generate.figures import BENCHMARKS, processor
from docs.generate.markdown import table
from edgekit.config.runtimes import RUNTIMES

FILE = "deltas.json"


def delta_table() -> str:
    """The size of each update's model files, and the share of it that a compressed copy and each delta has."""
    rows = []
    for row in _results()["rows"]:
        shares = [
            f"{row[way] / row['whole']:.0%}".replace("%", " %") for way in ("zstd", "zstd_patch", "bsdiff4", "edgekit")
        ]
        bundle = f"{RUNTIMES[row['target']].title}, {row['precision']}"
        rows.append((row["update"], bundle, f"{row['whole'] / 1e6:.2f} MB", *shares))
    heads = ("what changed", "bundle", "model files", "zstd alone", "zstd --patch-from", "bsdiff4", "edgekit push")
    return table(heads, rows) + "\n"


def delta_caption() -> str:
    """How the figures came about."""
    results = _results()
    tuning, versions = results["fine_tuning"], results["versions"]
    return (
        f"The demo's network, calibrated on {results['calibration_images']} images, and on as many others; fine-tuned "
        f"by {tuning['steps']} steps of SGD of {tuning['images_per_step']} images with a learning rate of "
        f"{tuning['learning_rate']:g} and momentum, and once more from there. zstd {versions['zstd']} at level 19, "
        f"bsdiff4 {versions['bsdiff4']}, {processor(results['machine']['cpu'])}; `python -m benchmarks.deltas`.\n"
    )


def _results() -> dict[str, Any]:
    document: dict[str, Any] = json.loads((BENCHMARKS / FILE).read_text(encoding="utf-8"))
    return document
