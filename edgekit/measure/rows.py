"""Measure all bundles of a run: group them by runtime, resume measurements of an interrupted run, measure the rest."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from edgekit.config.precisions import Precision
from edgekit.measure.baselines import Group
from edgekit.measure.measure_bundles import EvaluationImages, measure_group
from edgekit.measure.settings import Timing
from edgekit.measure.versions import measuring_versions
from edgekit.report.device_facts import DeviceFacts
from edgekit.report.row import Failure, Measurement
from edgekit.runtime.bundle import Bundle
from edgekit.support.progress import Reporter
from edgekit.support.run_folder import RunFolder
from edgekit.support.stored_results import Inputs

Built = Mapping[str, Bundle | Exception]
"""Bundles by name; instead of a bundle, the error of making it."""
MeasureGroup = Callable[[Group], Mapping[str, Measurement]]


@dataclass(frozen=True)
class Machine:
    """The machine that measures a group of bundles, as far as its measurements depend on it."""

    device: DeviceFacts
    """Its hardware and system."""
    versions: Mapping[str, str]
    """Versions of the runtime, Python and edgekit there."""
    address: str | None = None
    """ssh:// address; None for the machine that edgekit runs on."""
    ssh_config: str | None = None
    """Path of the ssh configuration that the address is looked up in, if it isn't the user's own."""


@dataclass(frozen=True)
class RowInputs(Inputs):
    """What the measurements of a group of bundles depend on, except for the passing state of the machine."""

    bundles: tuple[tuple[str, str], ...]
    """Name and `Bundle.sha256` of each bundle, in the order in which they take turns."""
    images: str
    """`EvaluationImages.key`."""
    image_names: tuple[str, ...]
    """Names of the images, which rows list where predictions changed."""
    timing: Timing
    """How latency and throughput are measured."""
    machine: Machine
    """The machine that measures them."""


@dataclass(frozen=True)
class MeasurementStore:
    """Measurements in the run folder, from which the same command resumes after an interruption."""

    run: RunFolder
    images: EvaluationImages
    timing: Timing

    def resumed(
        self, group: Group, machine: Machine, measure: MeasureGroup, reporter: Reporter
    ) -> Mapping[str, Measurement]:
        """The measurements of an interrupted run if they have the same inputs; otherwise measure and store them.

        The bundles are of one runtime. If the device is lost, its failures are not stored, so that the same command
        measures those bundles again.
        """
        target, device = next(iter(group.values())).manifest.target, machine.device.name
        # The name of a device may be an ssh:// address, which contains characters that are not valid in file names.
        name = f"row-{target}" + ("" if machine.address is None else f"-on-{quote(device, safe='')}")
        inputs = self.inputs(group, machine)
        stored = self.run.recall(name, inputs, dict[str, Measurement])
        if stored is not None and stored.keys() == group.keys():
            where = "" if machine.address is None else f"{device}: "
            reporter.say(f"{where}{target}: resumed the measurements of an interrupted run")
            return stored
        measured = dict(measure(group))
        if not any(map(lost_with_device, measured.values())):
            self.run.remember(name, inputs, measured)
        return measured

    def inputs(self, group: Group, machine: Machine) -> RowInputs:
        """What the measurements of these bundles on this machine depend on."""
        bundles = tuple((name, bundle.sha256) for name, bundle in group.items())
        return RowInputs(bundles, self.images.key, tuple(self.images.names), self.timing, machine)


def measure_bundles(built: Built, device: DeviceFacts, measure: MeasureGroup) -> list[Measurement]:
    """Measure each bundle, and return one measurement per bundle or error in the same order.

    `measure` gets the bundles of one runtime at a time.
    """
    measured = {name: _not_made(name, device, error) for name, error in built.items() if isinstance(error, Exception)}
    for group in by_runtime(built).values():
        measured |= measure(group)
    return [measured[name] for name in built]


def by_runtime(built: Built) -> dict[str, dict[str, Bundle]]:
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


def lost_with_device(measured: Measurement) -> bool:
    """Whether the device failed and not the bundle, so that the same command may succeed later."""
    return measured.failure is not None and measured.failure.stage == "device"


def measure_here(
    built: Built, device: DeviceFacts, images: EvaluationImages, timing: Timing, run: RunFolder, reporter: Reporter
) -> Sequence[Measurement]:
    """Measure the bundles of a report on this machine."""

    store = MeasurementStore(run, images, timing)

    def measure(group: Group) -> Mapping[str, Measurement]:
        return measure_group(group, timing, device, reporter, images)

    def resumed(group: Group) -> Mapping[str, Measurement]:
        target = next(iter(group.values())).manifest.target
        return store.resumed(group, Machine(device, measuring_versions(target)), measure, reporter)

    return measure_bundles(built, device, resumed)
