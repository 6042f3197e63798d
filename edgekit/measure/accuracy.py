"""Runs models on the evaluation images: what they answer, and the signal-to-noise ratio of their outputs.

Needs no torch. Shards of the images run one after the other or in other processes, are stored as they end, and are then
joined. A shard gives the same answers wherever it runs with the same runtime and number of threads.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import lru_cache
from math import inf, isfinite, log10
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import EngineError, ImageError
from edgekit.images.dataset import UNLABELLED, Dataset, LabelledCrops, LabelledImage
from edgekit.images.selection import InspectedImage, Selection, inspect_image
from edgekit.measure import machine
from edgekit.measure.machine import measuring_versions
from edgekit.measure.statistics import Floats
from edgekit.measure.task import MOST_CLASSES, Answers, ClassNames, Task
from edgekit.measure.tasks import task_of
from edgekit.report.document import EvaluatedClass
from edgekit.runtime.bundle import Bundle, read_bundle
from edgekit.runtime.session import Session
from edgekit.support.files import Inputs
from edgekit.support.libraries import quiet
from edgekit.support.progress import Step
from edgekit.support.run_folder import RunFolder

Run: TypeAlias = Callable[[NDArray[Any]], Floats]
"""A model: an image as its input to its outputs [1,K]."""
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
    logits: Floats | None = None
    """Torch's outputs [M,K] for the first M images, for the signal-to-noise ratio; None to leave that out."""

    @classmethod
    def of_arrays(
        cls, task: Task, pixels: NDArray[np.uint8], arrays: Any, files: Sequence[bytes], names: Sequence[str]
    ) -> "EvaluationImages":
        """The images with these pixels, uint8 [N,H,W,3], and what `arrays` gave."""
        return cls(
            task,
            LabelledCrops(pixels, arrays["labels"]),
            task.answers(**{name: arrays[name] for name in task.answers.names()}),
            files,
            "",
            names,
            arrays.get("logits"),
        )

    def arrays(self) -> dict[str, Any]:
        """Labels, torch's answers and its outputs for the first images, by their names in a .npz file."""
        outputs = {} if self.logits is None else {"logits": self.logits}
        return {"labels": self.crops.labels, **self.reference.arrays(), **outputs}

    def judged(self, bundle: Bundle, run: Run, images: Iterable[NDArray[Any]]) -> dict[str, Any]:
        """Figures of a bundle that `run` runs on the images in their order, by their fields of a measurement.

        They are its accuracy, with the classes that changed by their indices, and its signal-to-noise ratio in dB: None
        without torch's outputs, or for equal ones, whose ratio is infinite.
        """
        task = self.task
        targets = self.crops.labels
        first, logits = np.empty(0, np.float32) if self.logits is None else self.logits, list[Floats]()

        def watched(image: NDArray[Any]) -> Floats:
            outputs = run(image)
            if len(logits) < len(first):
                logits.append(outputs[0])
            return outputs

        answers = predict(task, watched, images, self.names)
        ratio = snr_db(first[: len(logits)], np.stack(logits)) if logits else inf
        confidence = task.confidence(answers, self.reference, targets)
        accuracy = replace(
            task.compare(answers, self.reference, targets),
            changes=task.changes(answers, self.reference, targets, self.names),
            right_by_class=task.right_by_class(answers, targets),
            given_by_class=task.given_by_class(answers, targets),
            confidence=replace(confidence, temperature=bundle.manifest.temperature),
        )
        return {"accuracy": accuracy, "snr_db": ratio if isfinite(ratio) else None}


def predict(task: Task, run: Run, images: Iterable[NDArray[Any]], names: Sequence[str] = ()) -> Answers:
    """Run a model on images, each as its input; raises EngineError if an output isn't finite.

    The message names the image by `names`, or by its position if there are none.
    """
    parts: list[Answers] = []
    block: list[Floats] = []
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


def snr_db(reference: Floats, other: Floats) -> float:
    """Signal-to-noise ratio of logits in dB: the power of `reference` over the power of its difference from `other`.

    Both have the same shape. The ratio is infinite if they are equal, and minus infinity if `reference` is all zeros.
    """
    signal = reference.astype(np.float64)
    power, noise = float(np.square(signal).sum()), float(np.square(other - signal).sum())
    if not noise:
        return inf
    return 10 * log10(power / noise) if power else -inf


def evaluated_classes(samples: Iterable[LabelledImage], class_names: ClassNames) -> tuple[EvaluatedClass, ...] | None:
    """The classes of these images, by index, and their numbers of images; None without labels, or for too many."""
    counts = Counter(label for sample in samples for label in sample.labels or (sample.label,))
    del counts[UNLABELLED]
    if not 0 < len(counts) <= MOST_CLASSES:
        return None
    return tuple(EvaluatedClass(class_names[label], counts[label]) for label in sorted(counts))


SHARD = 100
"""Images per shard, which is the most work that is lost when a worker dies."""


@dataclass(frozen=True)
class ShardInputs(Inputs):
    """Inputs of the answers of a bundle for some images."""

    bundle: str
    """`Bundle.sha256`."""
    threads: int | None
    """Number of threads; None for every physical core that the process may use."""
    images: tuple[str, ...]
    """SHA-256 of each image, in their order."""
    processor: str | None
    """Processor of this machine. The machines of a scheduler should have the same, which edgekit can't check."""
    versions: Mapping[str, str]
    """Versions of the runtime, of the packages that decode images, of Python and of edgekit, and a hash of its code."""


@dataclass(frozen=True)
class Shard:
    """Some images for one bundle. It is small, because it is sent to other processes."""

    bundle: Path
    """Absolute path of the bundle."""
    dataset: Dataset
    """The data set, with only the samples of this shard."""
    inputs: ShardInputs
    """Inputs of the answers."""


def shard_inputs(bundle: Bundle, images: tuple[str, ...], threads: int | None) -> ShardInputs:
    """Inputs of a bundle's answers on this machine for the images with these SHA-256."""
    return ShardInputs(
        bundle=bundle.sha256,
        threads=threads,
        images=images,
        processor=machine.describe().cpu,
        versions=measuring_versions(bundle.manifest.target),
    )


def shards_of(bundle: Bundle, dataset: Dataset, chosen: Selection, threads: int | None) -> list[Shard]:
    """Split the chosen images into shards, in their order."""
    whole = shard_inputs(bundle, chosen.hashes, threads)
    shards = []
    for start, part in _parts(dataset, chosen.samples):
        own = slice(start, start + SHARD)
        inputs = replace(whole, images=whole.images[own])
        shards.append(Shard(bundle.path.absolute(), part, inputs))
    return shards


def _parts(dataset: Dataset, samples: Sequence[LabelledImage]) -> Iterator[tuple[int, Dataset]]:
    for start in range(0, len(samples), SHARD):
        yield start, replace(dataset, samples=tuple(samples[start : start + SHARD]))


def answer(shard: Shard) -> Answers:
    """Run a shard's bundle on its images."""
    session = _session(shard.bundle, shard.inputs.bundle, shard.inputs.threads)
    samples = shard.dataset.samples
    manifest = session.bundle.manifest
    images = map(manifest.input_of, shard.dataset.crop_each(samples, manifest.preprocessing))
    return predict(task_in(session.bundle), session, images, [sample.name for sample in samples])


def task_in(bundle: Bundle) -> Task:
    """What the outputs of a bundle mean. Raises UsageError for a task of a newer edgekit."""
    return task_of(bundle.manifest.task, bundle.manifest.thresholds or ())


@lru_cache(maxsize=1)
def _session(path: Path, sha256: str, threads: int | None) -> Session:
    """Open a session and keep it for the next shard, because opening one may take longer than a shard."""
    with quiet():
        return Session(read_bundle(path), threads)


def close_session() -> None:
    """Close the session that `answer` left open in this process."""
    _session.cache_clear()


def evaluate_shards(
    task: Task, shards: Sequence[Shard], executor: Executor, run: RunFolder | None, name: str, step: Step
) -> Answers:
    """Run all shards of one bundle of a task and join their answers; raises the error of a shard.

    With `run`, completed shards are stored in the run folder, and shards that are stored there are not run again.
    """
    names = [f"shard-{name}-{index}" for index in range(len(shards))]
    answers: dict[int, Answers] = {}
    for index, shard in enumerate(shards):
        stored = task.answers.recalled(run, names[index], shard.inputs) if run else None
        if stored is not None:
            answers[index] = stored
            step(len(shard.dataset.samples))
    missing = [index for index in range(len(shards)) if index not in answers]
    for index, result in zip(missing, executor.map(answer, [shards[index] for index in missing]), strict=True):
        answers[index] = result
        if run:
            result.remember(run, names[index], shards[index].inputs)
        step(len(shards[index].dataset.samples))
    return task.answers.joined([answers[index] for index in range(len(shards))])


InspectedSamples = dict[str, InspectedImage | ImageError]
"""Result of `inspect_image` by sample name, or the error of an image that can't be read."""


def inspect_samples(dataset: Dataset) -> InspectedSamples:
    """Decode and hash every sample."""
    inspected: InspectedSamples = {}
    for sample in dataset.samples:
        try:
            inspected[sample.name] = inspect_image(dataset, sample)
        except ImageError as error:
            inspected[sample.name] = error
    return inspected


def inspect_all(dataset: Dataset, executor: Executor, step: Step) -> InspectedSamples:
    """Decode and hash every sample, in parts that an executor runs; calls `step` for each sample."""
    parts = [part for _, part in _parts(dataset, dataset.samples)]
    inspected: InspectedSamples = {}
    for part, result in zip(parts, executor.map(inspect_samples, parts), strict=True):
        inspected |= result
        step(len(part.samples))
    return inspected
