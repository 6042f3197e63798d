"""The scores from which a network's answers are given, chosen on the calibration images."""

from dataclasses import dataclass, replace

from edgekit.images.dataset import UNLABELLED, crop_samples
from edgekit.models.network import NetworkIdentity, torch_logits
from edgekit.pipeline.request import BuildSpec
from edgekit.support.files import Inputs
from edgekit.support.progress import Reporter
from edgekit.support.run_folder import RunFolder


@dataclass(frozen=True)
class ThresholdInputs(Inputs):
    """Inputs of the thresholds."""

    network: NetworkIdentity
    images: tuple[str, ...]
    """SHA-256 of each calibration image, in their order."""
    labels: tuple[tuple[int, ...], ...]
    """Indices of the classes of each image."""


def with_thresholds(spec: BuildSpec, run: RunFolder, reporter: Reporter) -> BuildSpec:
    """The same with thresholds that suit the float network's outputs for the calibration images, if these have labels.

    Only tasks with several labels choose thresholds.
    """
    samples = spec.calibration.samples
    if spec.task.labelling != "several" or spec.task.thresholds or any(each.label == UNLABELLED for each in samples):
        return spec
    inputs = ThresholdInputs(spec.network.identity, spec.calibration.hashes, tuple(each.labels for each in samples))
    thresholds = run.recall("thresholds", inputs, tuple[float, ...])
    if thresholds is None:
        with reporter.stage("choose thresholds"):
            crops = crop_samples(spec.calibration_dataset, samples, spec.network.preprocessing)
            outputs = torch_logits(spec.network, crops.pixels)
            thresholds = spec.task.with_thresholds(outputs, crops.labels).thresholds
        run.remember("thresholds", inputs, thresholds)
    return replace(spec, task=replace(spec.task, thresholds=thresholds))
