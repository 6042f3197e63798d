"""Runs models on the evaluation images: what they answer, and the signal-to-noise ratio of their outputs.

Needs no torch. Shards of the images run one after the other or in other processes, are stored as they end, and are then
joined. A shard gives the same answers wherever it runs with the same runtime and number of threads.

Other processes, on this machine or on several, belong to Dask distributed. It sends work as pickles, which run code
when they are read, so every process of the cluster must belong to the user. On this machine the processes listen on
loopback and accept only clients with the certificate that is made for the run. A scheduler elsewhere is as safe as its
network, or as the certificates in the user's Dask configuration.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from math import inf, isfinite, log10
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import EdgekitError, EngineError, ImageError, StageError, UsageError
from edgekit.images.dataset import UNLABELLED, Dataset, LabelledCrops, LabelledImage
from edgekit.images.selection import InspectedImage, Selection, inspect_image
from edgekit.measure import machine
from edgekit.measure.machine import measuring_versions
from edgekit.measure.task import MOST_CLASSES, Answers, ClassNames, Task
from edgekit.measure.tasks import task_of
from edgekit.report.document import EvaluatedClass
from edgekit.runtime.bundle import Bundle, read_bundle
from edgekit.runtime.session import Session
from edgekit.support.child_process import child_environment
from edgekit.support.files import Inputs
from edgekit.support.libraries import first_line, import_needed, quiet
from edgekit.support.progress import Step
from edgekit.support.run_folder import RunFolder

Run: TypeAlias = Callable[[NDArray[Any]], NDArray[np.float32]]
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
    logits: NDArray[np.float32] | None = None
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

        They are its accuracy, with the classes that changed by their indices, and its signal-to-noise ratio.
        """
        task = self.task
        targets = self.crops.labels
        snr = SnrMeter(self.logits)
        answers = predict(task, snr.watched(run), images, self.names)
        confidence = task.confidence(answers, self.reference, targets)
        accuracy = replace(
            task.compare(answers, self.reference, targets),
            changes=task.changes(answers, self.reference, targets, self.names),
            right_by_class=task.right_by_class(answers, targets),
            given_by_class=task.given_by_class(answers, targets),
            confidence=replace(confidence, temperature=bundle.manifest.temperature),
        )
        return {"accuracy": accuracy, "snr_db": snr.db}


def predict(task: Task, run: Run, images: Iterable[NDArray[Any]], names: Sequence[str] = ()) -> Answers:
    """Run a model on images, each as its input; raises EngineError if an output isn't finite.

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


CONNECT_S = 10
WITHOUT_WORKERS_S = 120
"""Time in seconds that a cluster has to replace its last worker."""
LOOK_S = 5
"""Time in seconds between two looks at the workers of a cluster that has finished nothing meanwhile."""
QUEUED = 4
"""Shards in the queue of each worker; more would only fill the scheduler's memory."""


@contextmanager
def executor_of(workers: int | None, scheduler: str | None) -> Iterator[ShardExecutor]:
    """Open an executor: this process, a number of workers on this machine, or the workers of a Dask scheduler.

    Raises UsageError if no scheduler answers at the address, and MissingExtraError without the extra `scale`.
    """
    if workers is not None and scheduler is not None:
        raise UsageError(
            "--workers and --scheduler were both given",
            fix="Use --workers to start processes here, or --scheduler to use processes that run already",
        )
    if workers is None and scheduler is None:
        yield SerialExecutor()
        return
    distributed = import_needed("distributed", "scale")
    with ExitStack() as stack, quiet(), child_environment():
        try:
            if scheduler is None:
                client = _local_client(distributed, workers, stack)
            else:
                client = stack.enter_context(distributed.Client(scheduler, timeout=CONNECT_S))
        except (OSError, ValueError, RuntimeError) as error:
            if scheduler is None:
                problem = f"--workers: {workers} processes could not be started: {first_line(error)}"
                raise UsageError(problem, fix="Use fewer --workers, or leave it out") from error
            raise UsageError(
                f"--scheduler: no Dask scheduler answers at '{scheduler}': {error}",
                fix="Start one with `dask scheduler`",
            ) from error
        yield DaskExecutor(client)


def _local_client(distributed: Any, workers: int | None, stack: ExitStack) -> Any:
    """A client of new worker processes on this machine, which end with `stack`."""
    security = import_needed("distributed.security", "scale").Security.temporary()
    cluster = distributed.LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        processes=True,
        host="127.0.0.1",
        dashboard_address=None,
        security=security,
        silence_logs=logging.CRITICAL,
        memory_limit=0,
    )
    return stack.enter_context(distributed.Client(stack.enter_context(cluster), timeout=CONNECT_S, security=security))


class DaskExecutor:
    """A Dask client. If a worker dies, another one gets its shard; a shard that kills three workers fails.

    EngineError ends the work if no worker is left and none comes back.
    """

    def __init__(self, client: Any) -> None:
        self._client = client

    def map(self, work: Callable[[Any], Any], pieces: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        distributed = import_needed("distributed", "scale")
        todo = iter(enumerate(pieces))
        running = {}

        def submit(count: int) -> None:
            for index, piece in islice(todo, count):
                running[self._client.submit(work, piece, pure=False)] = index

        submit(QUEUED * max(1, self._workers()))
        while running:
            for future in self._finished(list(running)):
                index = running.pop(future)
                submit(1)
                try:
                    yield index, future.result()
                except StageError as error:
                    yield index, error
                except distributed.KilledWorker as error:
                    yield index, EngineError(f"a shard killed several workers in a row: {first_line(error)}")

    def _workers(self) -> int:
        return len(self._client.scheduler_info(n_workers=-1)["workers"])

    def _finished(self, running: Sequence[Any]) -> Sequence[Any]:
        """Wait until some of these futures are finished, and return those."""
        distributed, alone_since = import_needed("distributed", "scale"), None
        while True:
            try:
                finished: Sequence[Any] = distributed.wait(running, LOOK_S, "FIRST_COMPLETED").done
            except TimeoutError:
                alone_since = None if self._workers() else alone_since or time.monotonic()
                if alone_since and time.monotonic() - alone_since > WITHOUT_WORKERS_S:
                    raise EngineError(
                        f"no worker has been left for {WITHOUT_WORKERS_S} s",
                        fix="Run the same command again, with fewer --workers if memory is short",
                    ) from None
                continue
            return finished
