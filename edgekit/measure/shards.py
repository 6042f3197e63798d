"""Evaluate in shards, which run one after the other or in other processes, are stored as they end, and are then joined.

Needs no torch. A shard gives the same answers wherever it runs with the same runtime and number of threads.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from edgekit.errors import EdgekitError, ImageError, StageError
from edgekit.images.dataset import Dataset, Sample
from edgekit.images.selection import InspectedImage, Selection, inspect_image
from edgekit.measure import machine
from edgekit.measure.accuracy import predict
from edgekit.measure.machine import measuring_versions
from edgekit.measure.tasks import Answers, Task, task_of
from edgekit.runtime.bundle import Bundle, read_bundle
from edgekit.runtime.session import Session
from edgekit.support.files import Inputs
from edgekit.support.libraries import quiet
from edgekit.support.progress import Step
from edgekit.support.run_folder import RunFolder

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


class ShardExecutor(Protocol):
    """Executor of pieces of work, in this process or in others."""

    def map(self, work: Callable[[Any], Any], pieces: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """Yield (index, result) of each piece as it ends. A piece that failed for good results in a StageError."""
        ...


class SerialExecutor:
    """Executor that runs the pieces in this process, one after the other."""

    def map(self, work: Callable[[Any], Any], pieces: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        for index, piece in enumerate(pieces):
            try:
                yield index, work(piece)
            except StageError as error:
                yield index, error


def shards_of(bundle: Bundle, dataset: Dataset, chosen: Selection, threads: int | None) -> list[Shard]:
    """Split the chosen images into shards, in their order."""
    whole = ShardInputs(
        bundle=bundle.sha256,
        threads=threads,
        images=chosen.hashes,
        processor=machine.describe().cpu,
        versions=measuring_versions(bundle.manifest.target),
    )
    shards = []
    for start, part in _parts(dataset, chosen.samples):
        own = slice(start, start + SHARD)
        inputs = replace(whole, images=whole.images[own])
        shards.append(Shard(bundle.path.absolute(), part, inputs))
    return shards


def _parts(dataset: Dataset, samples: Sequence[Sample]) -> Iterator[tuple[int, Dataset]]:
    for start in range(0, len(samples), SHARD):
        yield start, replace(dataset, samples=tuple(samples[start : start + SHARD]))


def answer(shard: Shard) -> Answers:
    """Run a shard's bundle on its images."""
    session = _session(shard.bundle, shard.inputs.bundle, shard.inputs.threads)
    samples = shard.dataset.samples
    images = (session.preprocess(shard.dataset.image(sample)) for sample in samples)
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
    task: Task, shards: Sequence[Shard], executor: ShardExecutor, run: RunFolder | None, name: str, step: Step
) -> Answers:
    """Run all shards of one bundle of a task and join their answers; raises StageError if a shard failed for good.

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
    for place, result in executor.map(answer, [shards[index] for index in missing]):
        if isinstance(result, EdgekitError):
            raise result
        index = missing[place]
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


def inspect_all(dataset: Dataset, executor: ShardExecutor, step: Step) -> InspectedSamples:
    """Decode and hash every sample, in parts that an executor runs; calls `step` for each sample."""
    parts = [part for _, part in _parts(dataset, dataset.samples)]
    inspected: InspectedSamples = {}
    for index, result in executor.map(inspect_samples, parts):
        if isinstance(result, EdgekitError):
            raise result
        inspected |= result
        step(len(parts[index].samples))
    return inspected
