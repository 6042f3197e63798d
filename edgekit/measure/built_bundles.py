"""Measures the bundles that a run has built, one runtime after the other."""

from collections.abc import Mapping, Sequence

from edgekit.config.precisions import Precision
from edgekit.measure.baselines import Group
from edgekit.measure.group import measure_group
from edgekit.measure.measurement_store import Machine, MeasureGroup, MeasurementStore
from edgekit.measure.versions import measuring_versions
from edgekit.report.device import DeviceFacts
from edgekit.report.measurement import Failure, Measurement
from edgekit.runtime.bundle import Bundle
from edgekit.support.progress import Reporter

BuiltBundles = Mapping[str, Bundle | Exception]
"""Bundles by name; instead of a bundle, the error of making it."""


def measure_built(built: BuiltBundles, device: DeviceFacts, measure: MeasureGroup) -> list[Measurement]:
    """Measure each bundle, and return one measurement per bundle or error in the same order.

    `measure` gets the bundles of one runtime at a time.
    """
    measured = {name: _not_made(name, device, error) for name, error in built.items() if isinstance(error, Exception)}
    for group in by_runtime(built).values():
        measured |= measure(group)
    return [measured[name] for name in built]


def measure_here(
    built: BuiltBundles,
    device: DeviceFacts,
    store: MeasurementStore,
    reporter: Reporter,
) -> Sequence[Measurement]:
    """Measure the bundles of a report on this machine, with the images and the timing of the store."""

    def measure(group: Group) -> Mapping[str, Measurement]:
        return measure_group(group, store.timing, device, reporter, store.images)

    def resumed(group: Group) -> Mapping[str, Measurement]:
        target = next(iter(group.values())).manifest.target
        return store.resumed(group, Machine(device, measuring_versions(target)), measure, reporter)

    return measure_built(built, device, resumed)


def by_runtime(built: BuiltBundles) -> dict[str, dict[str, Bundle]]:
    """Group the bundles by target, without those that could not be made."""
    groups: dict[str, dict[str, Bundle]] = {}
    for name, bundle in built.items():
        if isinstance(bundle, Bundle):
            groups.setdefault(bundle.manifest.target, {})[name] = bundle
    return groups


def _not_made(name: str, device: DeviceFacts, error: Exception) -> Measurement:
    """Measurement of a bundle that could not be made; its name is TARGET-PRECISION."""
    target, _, precision = name.rpartition("-")
    kind: Precision = "int8" if precision == "int8" else "float"
    return Measurement(target=target, precision=kind, device=device, failure=Failure.of("compile", error))
