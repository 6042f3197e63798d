"""Measures the bundles of a job on its devices, and judges them: the rows of its report."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path

from edgekit.devices.parallel import each_device
from edgekit.devices.registry import THIS, Device
from edgekit.devices.remote import measure_on_device
from edgekit.devices.web.pages import Pages
from edgekit.measure import machine
from edgekit.measure.accuracy import EvaluationImages
from edgekit.measure.baselines import over_accurate
from edgekit.measure.gates import judge
from edgekit.measure.measure_bundles import BuiltBundles, measure_built, measure_group, measure_here
from edgekit.measure.measurement_store import MeasurementStore
from edgekit.measure.recommendation import Finals, time_finals
from edgekit.measure.settings import Gates
from edgekit.measure.tasks import Task
from edgekit.measure.tasks.task import ClassNames
from edgekit.models.network import Network
from edgekit.pipeline.job_images import JobImages
from edgekit.pipeline.request import BuildSpec
from edgekit.report.document import Reference
from edgekit.report.measurement import Measurement
from edgekit.report.row import Row
from edgekit.report.sentences import near_chance
from edgekit.runtime.bundle import Bundle, read_bundle
from edgekit.support.files import without_folders
from edgekit.support.progress import Reporter


def reference_for(network: Network, evaluation: EvaluationImages, reporter: Reporter) -> Reference:
    """Torch's accuracy on the evaluation images. Warns if it is near chance."""
    task, answers, targets = evaluation.task, evaluation.reference, evaluation.crops.labels
    reference = task.reference("torch", answers, targets, network.classes, network.weights == "random")
    for warning in near_chance(reference, len(evaluation.crops)):
        reporter.warn(warning)
    return replace(
        reference,
        right_by_class=task.right_by_class(answers, targets),
        given_by_class=task.given_by_class(answers, targets),
    )


def fingerprints(built: BuiltBundles) -> dict[str, str]:
    """The hash of what each bundle was made from, whatever its classes are called, by the bundle's own hash."""
    return {bundle.sha256: bundle.manifest.fingerprint for bundle in built.values() if isinstance(bundle, Bundle)}


@dataclass(frozen=True)
class Bench:
    """The devices of a job, and the images and the timing with which they measure bundles. Browsers need `pages`."""

    devices: Sequence[Device]
    store: MeasurementStore
    reporter: Reporter
    pages: Pages | None = None
    max_drop: float = inf
    """Largest drop of a float bundle in bf16 or f16, in points, with which others are compared with it."""
    choosing: Callable[[], EvaluationImages] | None = None
    """Makes the images on which a repair chooses, once; None if the evaluation images have to choose."""

    def measure(self, bundles: BuiltBundles) -> list[Measurement]:
        """Measure all bundles on each device in turn."""
        return each_device(self.devices, lambda device: self.measure_on(device, bundles))

    def measure_on(
        self, device: Device, bundles: BuiltBundles, threads: int | None = None, others: EvaluationImages | None = None
    ) -> Sequence[Measurement]:
        """Measure bundles on one device, one measurement each; with a number of threads, only their times with it.

        Measurements with other images than those of the evaluation are not stored.
        """
        return over_accurate(self._measure_on(device, bundles, threads, others), self.max_drop)

    def compare_on(self, device: Device, bundles: BuiltBundles, threads: int | None = None) -> Sequence[Measurement]:
        """The same with the images on which a repair chooses."""
        return self.measure_on(device, bundles, threads, self.choosing() if self.choosing else None)

    def _measure_on(
        self, device: Device, bundles: BuiltBundles, threads: int | None, images: EvaluationImages | None
    ) -> Sequence[Measurement]:
        timing, store = self.store.timing, None
        if threads is not None:
            timing = replace(timing, threads=threads, sustain_s=None, streams=None)
        elif images is None:
            images, store = self.store.images, self.store
        if device != THIS:
            return measure_on_device(device, bundles, timing, self.reporter, images, store, self.pages)
        here = machine.describe()
        if store is not None:
            return measure_here(bundles, here, store, self.reporter)
        return measure_built(bundles, here, lambda group: measure_group(group, timing, here, self.reporter, images))

    def time_finals(self, rows: Sequence[Row]) -> Finals | None:
        """Time the finalists of this machine in turns; None if there is no final."""
        here, folder = [row for row in rows if row.device.name == THIS.name], self.store.run.path
        shipped = {row.bundle: read_bundle(folder / row.bundle) for row in here if row.bundle}
        return time_finals(here, shipped, self.store, self.reporter)


def judge_all(
    measured: Sequence[Measurement],
    gates: Gates,
    spec: BuildSpec,
    images: JobImages,
    reference: Reference,
    folder: Path,
) -> list[Row]:
    """The rows of the report, which doesn't reveal where the run's folder is."""
    random, names = spec.network.weights == "random", images.class_names(spec.task, spec.network.labels)
    shareable = (_shareable(_with_class_names(each, spec.task, names), folder) for each in measured)
    return [judge(each, gates, random, reference.near_chance) for each in shareable]


def _with_class_names(measured: Measurement, task: Task, names: ClassNames) -> Measurement:
    """The measurement with the names of the classes whose predictions changed, instead of their indices."""
    accuracy = measured.accuracy
    if accuracy is None or accuracy.changes is None:
        return measured
    return replace(measured, accuracy=replace(accuracy, changes=task.with_class_names(accuracy.changes, names)))


def _shareable(measured: Measurement, folder: Path) -> Measurement:
    """The measurement without the run's folder in the message of its failure."""
    failure = measured.failure
    if failure is None:
        return measured
    return replace(measured, failure=replace(failure, message=without_folders(failure.message, [folder])))
