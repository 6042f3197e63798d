"""`edgekit benchmark` here and on devices."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgekit.devices.parallel import each_device
from edgekit.devices.registry import THIS, Device
from edgekit.devices.remote import each_target
from edgekit.errors import DeviceError
from edgekit.measure.benchmark_bundles import BENCHMARKED, benchmark_bundles
from edgekit.measure.rows import Row, base_row
from edgekit.measure.settings import Settings
from edgekit.runtime.bundle import Bundle, read_bundle
from edgekit.runtime.engine import check_threads
from edgekit.support.progress import Reporter


def benchmark_devices(
    paths: Sequence[Path], devices: Sequence[Device], settings: Settings, reporter: Reporter, offline: bool = False
) -> dict[str, Any]:
    """The document of `edgekit benchmark`: rows of each device, each with its `device`. One that fails is in its rows.

    On a device float and int8 of one target are timed in turns in one process, and targets one after the other: a
    runtime that crashes takes no other with it.
    """
    check_threads(settings.threads)
    bundles = {str(path): read_bundle(path) for path in paths}

    def measure(device: Device) -> list[Row]:
        if device != THIS:
            return _rows_on(device, bundles, settings, reporter, offline)
        found = benchmark_bundles(paths, settings, reporter)
        return [row | {"device": found["device"]} for row in found["results"]]

    rows = each_device(devices, measure)
    return {"schema_version": 1, "device": rows[0]["device"], "results": rows}


def _rows_on(
    device: Device, bundles: dict[str, Bundle], settings: Settings, reporter: Reporter, offline: bool
) -> list[Row]:
    groups: dict[str, dict[str, Bundle]] = {}
    for name, bundle in bundles.items():
        groups.setdefault(bundle.manifest.target, {})[name] = bundle
    rows: dict[str, Row] = {}
    for target, found, facts in each_target(device, groups, settings, None, reporter, offline):
        if not isinstance(found, DeviceError):
            rows |= zip(groups[target], found, strict=True)
            continue
        for name, bundle in groups[target].items():
            row = base_row(name, bundle, facts) | {"verdict": "error", "reasons": [f"device: {found}"]}
            rows[name] = {key: row[key] for key in (*BENCHMARKED, "device")}
    return [rows[name] for name in bundles]
