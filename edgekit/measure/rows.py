"""Measure all bundles of a run: group them by runtime, resume measurements of an interrupted run, measure the rest."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from urllib.parse import quote

import msgspec

from edgekit.config.precisions import Precision
from edgekit.errors import StageError
from edgekit.measure.measure_bundles import EvaluationImages, Group, measure_group
from edgekit.measure.settings import Timing
from edgekit.report.device_facts import DeviceFacts
from edgekit.report.row import Failure, Measurement
from edgekit.runtime.bundle import Bundle
from edgekit.support.hashes import digest
from edgekit.support.progress import Reporter
from edgekit.support.run_folder import RunFolder

Built = Mapping[str, Bundle | StageError]
"""Bundles by name; instead of a bundle, the error of making it."""
MeasureGroup = Callable[[Group], Mapping[str, Measurement]]


@dataclass(frozen=True)
class Memory:
    """Store of measurements in the run folder, from which the same command resumes after an interruption."""

    run: RunFolder
    images: EvaluationImages
    timing: Timing
    device: str = "local"
    """Name of the measured device."""

    def recall(self, target: str, group: Group) -> dict[str, Measurement] | None:
        """Measurements of exactly these bundles by an interrupted run, or None."""
        stored = self.run.recall(self._place(target), self._key(group))
        try:
            measured = msgspec.convert(stored, dict[str, Measurement])
        except msgspec.ValidationError:  # nothing stored, or by another version
            return None
        return measured if measured.keys() == group.keys() else None

    def remember(self, target: str, group: Group, measured: Mapping[str, Measurement]) -> None:
        """Store the measurements of a group."""
        self.run.remember(self._place(target), self._key(group), msgspec.to_builtins(dict(measured)))

    def _place(self, target: str) -> str:
        # The name of a device may be an ssh:// address, which contains characters that are not valid in file names.
        return f"row-{target}" if self.device == "local" else f"row-{target}-on-{quote(self.device, safe='')}"

    def _key(self, group: Group) -> str:
        """Hash of everything that the measurements depend on, except for the state of the machine."""
        fingerprints = [bundle.manifest.fingerprint for bundle in group.values()]
        return digest(fingerprints, asdict(self.timing), self.images.key)


def measure_bundles(
    built: Built, device: DeviceFacts, measure: MeasureGroup, reporter: Reporter, memory: Memory | None = None
) -> list[Measurement]:
    """Measure each bundle, and return one measurement per bundle or error in the same order.

    `measure` gets the bundles of one runtime at a time. If the device is lost, its failures are not stored, so that the
    same command measures those bundles again.
    """
    measured = {name: _not_made(name, device, error) for name, error in built.items() if isinstance(error, StageError)}
    for target, group in by_runtime(built).items():
        results = memory.recall(target, group) if memory else None
        if results is not None:
            where = "" if memory is None or memory.device == "local" else f"{memory.device}: "
            reporter.say(f"{where}{target}: resumed the measurements of an interrupted run")
        else:
            results = dict(measure(group))
            if memory and not any(map(lost_with_device, results.values())):
                memory.remember(target, group, results)
        measured |= results
    return [measured[name] for name in built]


def by_runtime(built: Built) -> dict[str, dict[str, Bundle]]:
    """Group the bundles by target, without those that could not be made."""
    groups: dict[str, dict[str, Bundle]] = {}
    for name, bundle in built.items():
        if isinstance(bundle, Bundle):
            groups.setdefault(bundle.manifest.target, {})[name] = bundle
    return groups


def _not_made(name: str, device: DeviceFacts, error: StageError) -> Measurement:
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

    def measure(group: Group) -> Mapping[str, Measurement]:
        return measure_group(group, timing, device, reporter, images)

    return measure_bundles(built, device, measure, reporter, Memory(run, images, timing))
