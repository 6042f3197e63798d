"""The evaluation images of a run, cropped once, and torch's predictions for them."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from edgekit.images.crops import LabelledCrops, crop_samples
from edgekit.measure.accuracy import Predictions, predict
from edgekit.measure.measure_bundles import EvaluationImages
from edgekit.models import Network
from edgekit.models.logits import batched_logits
from edgekit.pipeline.job import Job
from edgekit.support.files import writing
from edgekit.support.hashes import digest
from edgekit.support.progress import Reporter
from edgekit.support.run_folder import RunFolder

FILES = 32
"""Image files that are kept undecoded, to time the whole path from file to label."""


def crop_images(job: Job, workspace: Path, run: RunFolder, reporter: Reporter) -> EvaluationImages:
    """Crop the evaluation images into a file, so that 50,000 of them need no memory, and let torch predict them."""
    chosen, preprocessing = job.evaluation.samples, job.network.preprocessing
    pixels = reserve(workspace / "pixels.npy", (len(chosen), *preprocessing.crop_shape))
    with reporter.stage("crop evaluation images", len(chosen)) as step:
        crops = crop_samples(job.dataset, chosen, preprocessing, pixels, step)
    files = [job.dataset.read(sample) for sample in chosen[:FILES]]
    key = images_key(job)
    names = [sample.name for sample in chosen]
    return EvaluationImages(crops, torch_answers(job.network, crops, key, run, reporter), files, key, names)


def reserve(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Create a uint8 array in a file and reserve its disk space: a mapped file on a full disk kills the process."""
    with writing(path):
        array: np.memmap[Any, np.dtype[np.uint8]] = np.lib.format.open_memmap(
            path, mode="w+", dtype=np.uint8, shape=shape
        )
        with path.open("r+b") as file:
            _allocate(file, array.offset)
    return array


def _allocate(file: BinaryIO, header: int) -> None:
    """Reserve the disk space of a file whose first `header` bytes are written. Raises OSError if the disk is full."""
    size = os.fstat(file.fileno()).st_size
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
        return
    # macOS and Windows don't have this call.
    file.seek(header)
    while left := size - file.tell():
        file.write(bytes(min(left, 1 << 20)))
    file.flush()


def images_key(job: Job) -> str:
    """`EvaluationImages.key` of a job."""
    network = job.network
    parts = [network.name, network.weights_sha256, str(network.module), network.preprocessing.to_dict()]
    labels = [sample.label for sample in job.evaluation.samples]
    return digest(parts, job.evaluation.hashes, labels)


def torch_answers(network: Network, crops: LabelledCrops, key: str, run: RunFolder, reporter: Reporter) -> Predictions:
    """Predictions of torch's float network for the evaluation images, from an interrupted run if it has them."""
    stored = run.recall("reference", key)
    if stored is not None:
        return Predictions(*(np.array(stored[name]) for name in ("best", "hit1", "hit5")))
    with reporter.stage("evaluate torch", len(crops)) as step:

        def answers() -> Iterator[tuple[NDArray[np.float32], int]]:
            rows = (row for logits in batched_logits(network, crops.pixels) for row in logits)
            for row, label in zip(rows, crops.labels, strict=True):
                yield row[None], int(label)
                step()

        predictions = predict(lambda logits: logits, answers())
    run.remember("reference", key, {name: value.tolist() for name, value in vars(predictions).items()})
    return predictions
