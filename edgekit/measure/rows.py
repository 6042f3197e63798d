"""The one way to rows: group bundles by runtime, resume what an interrupted run measured, measure the rest."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote

import msgspec

from edgekit.config.precisions import Precision
from edgekit.errors import StageError
from edgekit.measure.measure_bundles import EvaluationImages, Group, measure_group
from edgekit.measure.settings import Settings
from edgekit.report.device_facts import DeviceFacts
from edgekit.report.row import Failure, Measurement
from edgekit.runtime.bundle import Bundle
from edgekit.support.hashes import digest
from edgekit.support.progress import Reporter
from edgekit.support.run_folder import RunFolder

Built = Mapping[str, Bundle | StageError]
"""Bundles by name, or the error that making one ended in."""
MeasureGroup = Callable[[Group], Mapping[str, Measurement]]


@dataclass(frozen=True)
class Memory:
    """Keeps measurements in the run folder, so that the same command resumes after an interruption."""

    run: RunFolder
    images: EvaluationImages
    settings: Settings
    device: str = "local"

    def recall(self, target: str, group: Group) -> dict[str, Measurement] | None:
        """What an interrupted run measured of exactly these bundles."""
        kept = self.run.recall(self._place(target), self._key(group))
        try:
            measured = msgspec.convert(kept, dict[str, Measurement])
        except msgspec.ValidationError:  # nothing, or what another version kept
            return None
        return measured if measured.keys() == group.keys() else None

    def remember(self, target: str, group: Group, measured: Mapping[str, Measurement]) -> None:
        self.run.remember(self._place(target), self._key(group), msgspec.to_builtins(dict(measured)))

    def _place(self, target: str) -> str:
        # A device's name may be an ssh:// address, which holds characters that no file name may have.
        return f"row-{target}" if self.device == "local" else f"row-{target}-on-{quote(self.device, safe='')}"

    def _key(self, group: Group) -> str:
        """Hash of everything that the measurements depend on, but for the machine's state."""
        prints = [bundle.manifest.fingerprint for bundle in group.values()]
        how = [self.settings.threads, self.settings.warmup, self.settings.iterations]
        return digest(prints, how, self.images.key)


def measure_bundles(
    built: Built, device: DeviceFacts, measure: MeasureGroup, reporter: Reporter, memory: Memory | None = None
) -> list[Measurement]:
    """One measurement for each bundle, or for the error that making it ended in, in the same order.

    `measure` gets the bundles of one runtime at a time. What a lost device left unmeasured is not remembered, so that
    the same command measures it.
    """
    measured = {name: _not_made(name, device, made) for name, made in built.items() if isinstance(made, StageError)}
    for target, group in by_runtime(built).items():
        known = memory.recall(target, group) if memory else None
        if known is not None:
            where = "" if memory is None or memory.device == "local" else f"{memory.device}: "
            reporter.say(f"{where}{target}: resumed the measurements of an interrupted run")
        else:
            known = dict(measure(group))
            if memory and not any(lost_with_device(each) for each in known.values()):
                memory.remember(target, group, known)
        measured |= known
    return [measured[name] for name in built]


def by_runtime(built: Built) -> dict[str, dict[str, Bundle]]:
    """The bundles that were made, by their target."""
    groups: dict[str, dict[str, Bundle]] = {}
    for name, made in built.items():
        if isinstance(made, Bundle):
            groups.setdefault(made.manifest.target, {})[name] = made
    return groups


def _not_made(name: str, device: DeviceFacts, error: StageError) -> Measurement:
    """The measurement of a bundle, named TARGET-PRECISION, that could not be made."""
    target, _, precision = name.rpartition("-")
    kind: Precision = "int8" if precision == "int8" else "float"
    return Measurement(target=target, precision=kind, device=device, failure=Failure.of("compile", error))


def lost_with_device(measured: Measurement) -> bool:
    """Whether the device failed and not the bundle: the same command may find the device well again."""
    return measured.failure is not None and measured.failure.stage == "device"


def measure_here(
    built: Built, device: DeviceFacts, images: EvaluationImages, settings: Settings, run: RunFolder, reporter: Reporter
) -> Sequence[Measurement]:
    """Measurements of the report on this machine."""

    def measure(group: Group) -> Mapping[str, Measurement]:
        return measure_group(group, settings, device, reporter, images)

    return measure_bundles(built, device, measure, reporter, Memory(run, images, settings))
