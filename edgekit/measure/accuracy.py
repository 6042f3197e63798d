"""Run models on the evaluation images: what they answer, and the signal-to-noise ratio of their outputs."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import inf, isfinite, log10
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import EngineError
from edgekit.images.dataset import UNLABELLED, LabelledCrops, Sample
from edgekit.measure.tasks import Answers, Task
from edgekit.measure.tasks.task import MOST_CLASSES, ClassNames
from edgekit.report.document import EvaluatedClass

Run: TypeAlias = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""A model: an image [1,C,H,W] to its outputs [1,K]."""
BLOCK = 256
"""Images whose outputs are held before what the task needs of them is kept."""


@dataclass(frozen=True)
class EvaluationImages:
    """The evaluation images, and torch's answers for them."""

    task: Task
    """What the outputs mean."""
    crops: LabelledCrops
    """Cropped images and their labels."""
    reference: Answers
    """Answers of the original network in torch."""
    files: Sequence[bytes]
    """A few encoded image files, for end-to-end times; none for images in memory, which have no file to decode."""
    key: str
    """Hash of everything that measurements depend on: the images in their order, their labels, network and task."""
    names: Sequence[str] = ()
    """Paths of the images within their data set, in the same order; empty where they are unknown."""
    logits: NDArray[np.float32] | None = None
    """Torch's outputs [M,K] for the first M images, for the signal-to-noise ratio; None to leave that out."""


def predict(task: Task, run: Run, images: Iterable[NDArray[np.float32]], names: Sequence[str] = ()) -> Answers:
    """Run a model on images, each float32 [1,C,H,W]; raises EngineError if an output isn't finite.

    The message names the image by `names`, or by its position if there are none.
    """
    parts: list[Answers] = []
    block: list[NDArray[np.float32]] = []
    for index, image in enumerate(images):
        outputs = run(image)[0]
        if not np.isfinite(outputs).all():
            image_name = f"'{names[index]}'" if names else str(index)
            raise EngineError(f"the outputs for image {image_name} are NaN or infinite")
        block.append(outputs)
        if len(block) == BLOCK:
            parts.append(task.kept(np.stack(block)))
            block.clear()
    if block:
        parts.append(task.kept(np.stack(block)))
    return task.answers.joined(parts)


def snr_db(reference: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Signal-to-noise ratio of logits in dB: the power of `reference` over the power of its difference from `other`.

    Both have the same shape. The ratio is infinite if they are equal, and minus infinity if `reference` is all zeros.
    """
    signal = reference.astype(np.float64)
    power, noise = float(np.square(signal).sum()), float(np.square(other - signal).sum())
    if not noise:
        return inf
    return 10 * log10(power / noise) if power else -inf


class SnrMeter:
    """Measures the signal-to-noise ratio of a model's logits while the model is run on images for another purpose."""

    def __init__(self, reference: NDArray[np.float32] | None) -> None:
        """`reference` are the logits [M,classes] for the first M images, or None to measure nothing."""
        self._reference = np.empty((0, 0), np.float32) if reference is None else reference
        self._logits: list[NDArray[np.float32]] = []

    def watched(self, run: Run) -> Run:
        """The same model, with a look at its logits for the first images."""
        if not len(self._reference):
            return run

        def watch(image: NDArray[np.float32]) -> NDArray[np.float32]:
            logits = run(image)
            if len(self._logits) < len(self._reference):
                self._logits.append(logits[0])
            return logits

        return watch

    @property
    def db(self) -> float | None:
        """The ratio in decibels; None without a reference, or for equal logits, whose ratio is infinite."""
        if not self._logits:
            return None
        ratio = snr_db(self._reference[: len(self._logits)], np.stack(self._logits))
        return ratio if isfinite(ratio) else None


def evaluated_classes(samples: Iterable[Sample], class_names: ClassNames) -> tuple[EvaluatedClass, ...] | None:
    """The classes of these images, by index, and their numbers of images; None without labels, or for too many."""
    counts = Counter(label for sample in samples for label in sample.labels or (sample.label,))
    del counts[UNLABELLED]
    if not 0 < len(counts) <= MOST_CLASSES:
        return None
    return tuple(EvaluatedClass(class_names[label], counts[label]) for label in sorted(counts))
