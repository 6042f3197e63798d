"""The evaluation images of a run, cropped once, and torch's predictions for them."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from edgekit.images.dataset import LabelledCrops, crop_samples
from edgekit.measure.accuracy import EvaluationImages, predict
from edgekit.measure.tasks import Answers, Task
from edgekit.measure.tasks.task import StoredArray
from edgekit.models.network import Network, NetworkIdentity, batched_logits
from edgekit.pipeline.job_images import JobImages
from edgekit.support.files import Inputs, writing
from edgekit.support.progress import Reporter
from edgekit.support.run_folder import RunFolder

MOST_LOGITS, LOGITS_BYTES = 2_000, 8 << 20
"""Most images for the signal-to-noise ratio, and most bytes of their logits: 2,000 images of 1,000 classes, and 96 of
21,843. They are stored in the run folder and sent to devices."""
FILES = 32
"""Image files that are kept undecoded, to time the whole path from file to label."""


def crop_images(
    network: Network,
    task: Task,
    images: JobImages,
    workspace: Path,
    run: RunFolder,
    reporter: Reporter,
    name: str = "reference",
) -> EvaluationImages:
    """Crop the evaluation images into a file, so that 50,000 of them need no memory, and let torch answer for them.

    The run folder stores the answers under `name`.
    """
    chosen, preprocessing = images.evaluation.samples, network.preprocessing
    pixels = reserve(workspace / f"{name}.npy", (len(chosen), *preprocessing.crop_shape))
    with reporter.stage("crop evaluation images", len(chosen)) as step:
        crops = crop_samples(images.dataset, chosen, preprocessing, pixels, step)
    files = [] if images.dataset.is_in_memory else [images.dataset.read(sample) for sample in chosen[:FILES]]
    inputs = reference_inputs(network, task, images)
    names = [sample.name for sample in chosen]
    first = FirstLogits(network)
    answers = torch_answers(network, task, crops, inputs, run, reporter, first, name)
    logits = first.of(crops, inputs, run, name)
    return EvaluationImages(task, crops, answers, files, inputs.key, names, logits)


class FirstLogits:
    """Torch's logits for the first evaluation images: at most `MOST_LOGITS` images, and `LOGITS_BYTES`."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._limit = max(1, min(MOST_LOGITS, LOGITS_BYTES // (4 * network.classes)))
        self._rows: list[NDArray[np.float32]] = []

    def add(self, row: NDArray[np.float32]) -> None:
        """Keep the logits [classes] of the next image, unless there are enough."""
        if len(self._rows) < self._limit:
            self._rows.append(row.copy())

    def of(self, crops: LabelledCrops, inputs: "ReferenceInputs", run: RunFolder, name: str) -> NDArray[np.float32]:
        """The logits [M,classes]: those that were added, or of an earlier run, or else computed here."""
        stored = None if self._rows else run.recall(f"{name}-logits", inputs, StoredArray)
        if stored is not None:
            return stored.array
        rows = self._rows or list(batched_logits(self._network, crops.pixels[: self._limit]))
        logits = np.vstack(rows)
        run.remember(f"{name}-logits", inputs, StoredArray.of(logits))
        return logits


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


@dataclass(frozen=True)
class ReferenceInputs(Inputs):
    """Inputs of torch's answers for the evaluation images. The key is `EvaluationImages.key`."""

    network: NetworkIdentity
    """The network."""
    images: tuple[str, ...]
    """SHA-256 of each evaluation image, in their order."""
    labels: tuple[tuple[int, ...], ...]
    """Indices of the right classes of each image."""
    task: str
    """`Task.key`."""


def reference_inputs(network: Network, task: Task, images: JobImages) -> ReferenceInputs:
    """Inputs of torch's answers for the evaluation images of a job."""
    labels = tuple(sample.labels or (sample.label,) for sample in images.evaluation.samples)
    return ReferenceInputs(network.identity, images.evaluation.hashes, labels, task.key)


def torch_answers(
    network: Network,
    task: Task,
    crops: LabelledCrops,
    inputs: ReferenceInputs,
    run: RunFolder,
    reporter: Reporter,
    first: FirstLogits | None = None,
    name: str = "reference",
) -> Answers:
    """Answers of torch's float network for the evaluation images, from an earlier run if it has them.

    If they are computed, `first` gets the logits of the images.
    """
    stored = task.answers.recalled(run, name, inputs)
    if stored is not None:
        return stored
    with reporter.stage("evaluate torch", len(crops)) as step:

        def outputs() -> Iterator[NDArray[np.float32]]:
            for row in (row for logits in batched_logits(network, crops.pixels) for row in logits):
                if first is not None:
                    first.add(row)
                yield row[None]
                step()

        answers = predict(task, lambda row: row, outputs())
    answers.remember(run, name, inputs)
    return answers
