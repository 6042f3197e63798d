"""Measurements in a run folder, from which an interrupted run resumes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import quote

from edgekit.measure.accuracy import EvaluationImages
from edgekit.measure.baselines import Group
from edgekit.measure.settings import Timing
from edgekit.report.device import DeviceFacts
from edgekit.report.measurement import Measurement
from edgekit.support.files import Inputs, digest
from edgekit.support.progress import Reporter
from edgekit.support.run_folder import RunFolder

MeasureGroup = Callable[[Group], Mapping[str, Measurement]]


@dataclass(frozen=True)
class Machine:
    """The machine that measures a group of bundles, as far as its measurements depend on it."""

    device: DeviceFacts
    """Hardware and system of the machine."""
    versions: Mapping[str, str]
    """Versions of the runtime, Python and edgekit on the machine."""
    address: str | None = None
    """ssh:// address; None for the machine that edgekit runs on."""
    ssh_config: str | None = None
    """Path of the ssh configuration that the address is looked up in, if it isn't the user's own."""


@dataclass(frozen=True)
class GroupInputs(Inputs):
    """Inputs of the measurements of a group of bundles, except for the passing state of the machine."""

    bundles: tuple[tuple[str, str], ...]
    """Name and content of each bundle, in the order in which they take turns; see `MeasurementStore.contents`."""
    images: str
    """`EvaluationImages.key`."""
    image_names: tuple[str, ...]
    """Names of the images, which rows list where predictions changed."""
    timing: Timing
    """Settings of latency and throughput."""
    machine: Machine
    """The machine that measures the bundles."""


@dataclass(frozen=True)
class StoredRows:
    """The measurements of a group of bundles."""

    labels: str
    """Hash of the names of the bundles' classes."""
    rows: dict[str, Measurement]
    """Measurements by the name of the bundle."""


@dataclass(frozen=True)
class MeasurementStore:
    """Measurements in the run folder, from which the same command resumes after an interruption.

    A command whose bundles have other class names also takes those of a completed run.
    """

    run: RunFolder
    images: EvaluationImages
    timing: Timing
    contents: Mapping[str, str] = field(default_factory=dict)
    """Hash of what a bundle was made from without the names of its classes, by `Bundle.sha256`. Without an entry, the
    bundle's own hash stands for its content."""

    def resumed(
        self, group: Group, machine: Machine, measure: MeasureGroup, reporter: Reporter
    ) -> Mapping[str, Measurement]:
        """The measurements of an interrupted run if they have the same inputs; otherwise measure and store them.

        Those of a completed run are taken if only class names differ, as long as no bundle failed. The bundles are of
        one runtime. If the device is lost, its failures are not stored, so that the same command measures those bundles
        again.
        """
        target, device = next(iter(group.values())).manifest.target, machine.device.name
        # The name of a device may be an ssh:// address, which contains characters that are not valid in file names.
        name = target + ("" if machine.address is None else f"-on-{quote(device, safe='')}")
        where = "" if machine.address is None else f"{device}: "
        inputs, labels = self.inputs(group, machine), digest(*(bundle.labels for bundle in group.values()))
        stored = self._recall(f"row-{name}", inputs, group)
        if stored is not None and stored.labels == labels:
            reporter.say(f"{where}{target}: resumed the measurements of an interrupted run")
            return stored.rows
        stored = stored or self._recall(f"measured-{name}", inputs, group)
        if stored is not None and stored.labels != labels and not any(row.failure for row in stored.rows.values()):
            reporter.say(f"{where}{target}: kept the measurements of an earlier run, which had other class names")
            # The names are in the model files.
            measured = {each: replace(row, size_bytes=group[each].size_bytes) for each, row in stored.rows.items()}
        else:
            measured = dict(measure(group))
        if not any(map(lost_with_device, measured.values())):
            self.run.remember(f"row-{name}", inputs, StoredRows(labels, measured))
        return measured

    def _recall(self, name: str, inputs: GroupInputs, group: Group) -> StoredRows | None:
        stored = self.run.recall(name, inputs, StoredRows)
        return stored if stored is not None and stored.rows.keys() == group.keys() else None

    def inputs(self, group: Group, machine: Machine) -> GroupInputs:
        """Inputs of the measurements of these bundles on this machine."""
        bundles = tuple((name, self.contents.get(bundle.sha256, bundle.sha256)) for name, bundle in group.items())
        return GroupInputs(bundles, self.images.key, tuple(self.images.names), self.timing, machine)


def lost_with_device(measured: Measurement) -> bool:
    """Whether the device failed and not the bundle, so that the same command may succeed later."""
    return measured.failure is not None and measured.failure.stage == "device"
