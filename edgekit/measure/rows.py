"""One row of the report: what a bundle says of itself, and the figures that follow from its times."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.config.device_classes import load_device_class
from edgekit.errors import EngineError
from edgekit.measure.latency import ratio
from edgekit.runtime.bundle import Bundle
from edgekit.runtime.profiling import profile
from edgekit.support.libraries import quiet

Row = dict[str, Any]

NOTHING = (
    "scheme", "bundle", "size_bytes", "accuracy", "latency_ms", "end_to_end_ms", "speedup", "int8", "limit",
    "peak_rss_bytes", "thermal",
)  # fmt: skip
"""The figures of a row, null until they are known."""


def base_row(name: str, bundle: Bundle, device: Row) -> Row:
    """What the bundle itself says of a row, and nulls for what is measured."""
    manifest = bundle.manifest
    known: Row = {
        "target": manifest.target,
        "precision": manifest.precision,
        "scheme": manifest.scheme,
        "device": device,
        "bundle": name,
        "size_bytes": bundle.size_bytes,
        "verdict": "pass",
        "reasons": [],
        "macs": sum(layer["macs"] for layer in manifest.layers),
    }
    return dict.fromkeys(NOTHING) | known


def ran_in_int8(bundle: Bundle, threads: int) -> Row:
    """The `int8` object of report.json: what the runtime's profiler says; nulls, and why, where it gives no profile."""
    try:
        with quiet():
            return profile(bundle, threads).summary()
    except EngineError as error:
        return {"share_of_macs": None, "method": f"not known: {error}", "float_layers": None, "simulated": None}


def remarks_on(int8: Row | None) -> list[str]:
    """What a reader should know of a row, whatever its verdict, given its `int8` object."""
    if int8 and int8.get("simulated"):
        return ["its INT8 is simulated: the runtime computes it in floating point here, so it's smaller, not faster"]
    return []


def failed_row(name: str, device: Row, stage: str, error: Exception) -> Row:
    """A row whose stage failed: null figures, the stage and message as reasons."""
    target, precision = name.rsplit("-", 1)
    known = {"target": target, "precision": precision, "device": device}
    return dict.fromkeys(NOTHING) | known | {"verdict": "error", "reasons": [f"{stage}: {error}"]}


def speedup(versus: str, slow: NDArray[np.float64], fast: NDArray[np.float64]) -> Row:
    """The `speedup` object of report.json, from times [N] in ms that `alternate` took in turns."""
    point, interval = ratio(slow, fast)
    return {"versus": versus, "ratio": point, "ci95": list(interval)}


def limit(row: Row, threads: int) -> Row | None:
    """The time that the measured device's peak rate would take, and the share of it reached; None for no known class.

    The bundle may be made for another class than the one that it is measured on.
    """
    device = row["device"]
    if device["class"] is None:
        return None
    cls = load_device_class(device["class"])
    bound = cls.bound_ms(row["macs"], row["precision"], min(threads, device["cores"]))
    return {"bound_ms": bound, "fraction": bound / row["latency_ms"]["p50"]}
