"""`edgekit benchmark` on this machine and on devices."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgekit.config.runtimes import find_runtime
from edgekit.devices.parallel import each_device
from edgekit.devices.registry import THIS, Device
from edgekit.devices.remote import measure_on_device
from edgekit.devices.web.evaluate import check_browsers, runnable_on
from edgekit.devices.web.pages import serving
from edgekit.errors import UsageError
from edgekit.measure import machine
from edgekit.measure.baselines import Group, baselines_of, is_baseline
from edgekit.measure.gates import judge_latency
from edgekit.measure.measure_bundles import measure_group
from edgekit.measure.settings import Gates, Timing
from edgekit.report.device import DeviceFacts
from edgekit.report.measurement import Measurement
from edgekit.report.row import Row
from edgekit.runtime.bundle import read_bundle
from edgekit.runtime.engine import check_threads
from edgekit.support.progress import Reporter


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """The document of `edgekit benchmark`."""

    schema_version: Literal[1] = 1
    """Version of this document's format."""
    device: DeviceFacts
    """The first device. Each row also names its own."""
    results: tuple[Row, ...]
    """One row for each bundle and device."""


def benchmark_devices(
    paths: Sequence[Path], devices: Sequence[Device], timing: Timing, reporter: Reporter, gates: Gates | None = None
) -> Benchmark:
    """Measure each bundle on each device. The rows of a device that fails contain its error.

    On this machine, one process times all bundles in turns. On a device, each runtime has its own process, so that a
    crash doesn't affect the other runtimes. With gates, each bundle has to beat its baselines of the same runtime.
    Raises UsageError if a bundle is the only one of its runtime then.
    """
    check_threads(timing.threads)
    bundles = {str(path): read_bundle(path) for path in paths}
    runnable = {device: runnable_on(device, bundles, reporter) for device in devices}
    check_browsers(devices, timing)
    if gates is not None:
        _check_comparable(bundles)

    with serving(devices, reporter) as pages:

        def measure(device: Device) -> Sequence[Measurement]:
            if device != THIS:
                return measure_on_device(device, runnable[device], timing, reporter, pages=pages)
            measured: Mapping[str, Measurement] = measure_group(bundles, timing, machine.describe(), reporter)
            return list(measured.values())

        measured = each_device(devices, measure)
    rows = tuple(
        judge_latency(row, gates, baselines_of(row.name, bundles) if row.name in bundles else ()) for row in measured
    )
    return Benchmark(device=rows[0].device, results=rows)


def _check_comparable(bundles: Group) -> None:
    """Raise UsageError for a bundle that has nothing to beat, and that no other bundle has to beat."""
    for name, bundle in bundles.items():
        if not baselines_of(name, bundles) and not is_baseline(name, bundles):
            raise UsageError(
                f"--min-speedup compares bundles of one runtime, and '{name}' is the only one for "
                f"{find_runtime(bundle.manifest.target).title}",
                fix="Also give the float bundle of this runtime, or leave out `--min-speedup`",
            )
