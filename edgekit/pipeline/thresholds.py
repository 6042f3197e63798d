"""The scores from which a network's answers are given, chosen on images that neither calibrate nor judge it."""

from dataclasses import dataclass, replace

import numpy as np

from edgekit.images.dataset import crop_samples
from edgekit.models.network import NetworkIdentity, torch_logits
from edgekit.pipeline.job_images import JobImages
from edgekit.pipeline.request import BuildSpec
from edgekit.support.files import Inputs
from edgekit.support.progress import Reporter
from edgekit.support.run_folder import RunFolder

BLOCK = 256
"""Images whose crops are in memory at a time."""


@dataclass(frozen=True)
class ThresholdInputs(Inputs):
    """Inputs of the thresholds."""

    network: NetworkIdentity
    images: tuple[str, ...]
    """SHA-256 of each image, in their order."""
    labels: tuple[tuple[int, ...], ...]
    """Indices of the classes of each image."""


def with_thresholds(spec: BuildSpec, images: JobImages, run: RunFolder, reporter: Reporter) -> BuildSpec:
    """The same with thresholds that suit the float network's outputs for the images to choose on, if there are any.

    Only tasks with several labels choose thresholds.
    """
    samples = images.choosing.samples
    if spec.task.labelling != "several" or spec.task.thresholds or not samples:
        return spec
    inputs = ThresholdInputs(spec.network.identity, images.choosing.hashes, tuple(each.labels for each in samples))
    thresholds = run.recall("thresholds", inputs, tuple[float, ...])
    if thresholds is None:
        outputs = []
        with reporter.stage("choose thresholds", len(samples)) as step:
            for start in range(0, len(samples), BLOCK):
                part = samples[start : start + BLOCK]
                crops = crop_samples(images.dataset, part, spec.network.preprocessing, on_image=step)
                outputs.append(torch_logits(spec.network, crops.pixels))
        targets = images.dataset.targets(samples)
        thresholds = spec.task.with_thresholds(np.concatenate(outputs), targets).thresholds
        run.remember("thresholds", inputs, thresholds)
    return replace(spec, task=replace(spec.task, thresholds=thresholds))
