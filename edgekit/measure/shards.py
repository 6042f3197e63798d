"""An evaluation in shards: done one after the other or by other processes, kept as they end, and put together again.

Needs no torch. A shard gives the same answers wherever it is run with the same runtime and number of threads.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from edgekit.errors import EdgekitError, ImageError, StageError
from edgekit.images.dataset import Dataset, Sample
from edgekit.images.selection import Selection, inspect_image
from edgekit.measure.accuracy import Predictions, predict
from edgekit.runtime.bundle import Bundle, read_bundle
from edgekit.runtime.session import Session
from edgekit.support.hashes import digest
from edgekit.support.libraries import quiet
from edgekit.support.progress import Step
from edgekit.support.run_folder import RunFolder

SHARD = 100
"""Images of a shard: what a worker that dies costs at most."""

Answers = dict[str, list[int]]
"""Predictions as JSON has them."""


@dataclass(frozen=True)
class Shard:
    """Some images for one bundle; small, since it is sent to other processes."""

    bundle: Path
    fingerprint: str
    threads: int | None
    dataset: Dataset
    """With the samples of this shard alone."""
    hashes: tuple[str, ...]

    @property
    def key(self) -> str:
        """Hash of what its answers depend on, but for the runtime's version."""
        labels = [sample.label for sample in self.dataset.samples]
        return digest(self.fingerprint, self.threads, self.hashes, labels)


class ShardExecutor(Protocol):
    """Runs pieces of work in this process or in others."""

    def map(self, work: Callable[[Any], Any], pieces: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """(index, result) of each piece, as they end; a StageError as the result of one that failed for good."""
        ...


class SerialExecutor:
    """Runs the pieces in this process, one after the other."""

    def map(self, work: Callable[[Any], Any], pieces: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        for index, piece in enumerate(pieces):
            try:
                yield index, work(piece)
            except StageError as error:
                yield index, error


def shards_of(bundle: Bundle, dataset: Dataset, chosen: Selection, threads: int | None) -> list[Shard]:
    """The chosen images in shards, in their order."""
    files = sorted(entry["sha256"] for entry in bundle.manifest.files.values())
    fingerprint = digest(bundle.manifest.fingerprint, files)
    path = bundle.path.absolute()
    return [
        Shard(path, fingerprint, threads, part, chosen.hashes[start : start + SHARD])
        for start, part in _parts(dataset, chosen.samples)
    ]


def _parts(dataset: Dataset, samples: Sequence[Sample]) -> Iterator[tuple[int, Dataset]]:
    for start in range(0, len(samples), SHARD):
        yield start, replace(dataset, samples=tuple(samples[start : start + SHARD]))


def answer(shard: Shard) -> Answers:
    """What the shard's bundle answers."""
    session = _session(shard.bundle, shard.fingerprint, shard.threads)
    images = ((session.preprocess(shard.dataset.image(sample)), sample.label) for sample in shard.dataset.samples)
    found = predict(session, images)
    return {name: value.astype(int).tolist() for name, value in vars(found).items()}


@lru_cache(maxsize=1)
def _session(path: Path, fingerprint: str, threads: int | None) -> Session:
    """A process goes on with the session that it has: opening one may take longer than a shard."""
    with quiet():
        return Session(read_bundle(path), threads)


def close_session() -> None:
    """Let go of the session that `answer` left open in this process."""
    _session.cache_clear()


def evaluate_shards(
    shards: Sequence[Shard], executor: ShardExecutor, run: RunFolder | None, name: str, step: Step
) -> Predictions:
    """The answers for all images of one bundle; a StageError if a shard failed for good.

    With `run`, shards that are done are kept in it, and taken from it.
    """
    kept = [run.recall(f"shard-{name}-{index}", shard.key) if run else None for index, shard in enumerate(shards)]
    found: dict[int, Answers] = {index: each for index, each in enumerate(kept) if each is not None}
    for index in found:
        _advance(step, shards[index])
    missing = [index for index in range(len(shards)) if index not in found]
    for place, result in executor.map(answer, [shards[index] for index in missing]):
        if isinstance(result, EdgekitError):
            raise result
        index = missing[place]
        found[index] = result
        if run:
            run.remember(f"shard-{name}-{index}", shards[index].key, result)
        _advance(step, shards[index])
    together = {key: [value for index in range(len(shards)) for value in found[index][key]] for key in found[0]}
    return Predictions(
        np.array(together["best"], np.int64), np.array(together["hit1"], bool), np.array(together["hit5"], bool)
    )


def _advance(step: Step, shard: Shard) -> None:
    for _ in shard.dataset.samples:
        step()


InspectedSamples = dict[str, tuple[str, bytes] | ImageError]
"""By sample name, what `inspect_image` returns, or why the image can't be read."""


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
    """Decode and hash every sample, in parts that an executor runs; `step` is called for each sample."""
    parts = [part for _, part in _parts(dataset, dataset.samples)]
    inspected: InspectedSamples = {}
    for index, found in executor.map(inspect_samples, parts):
        if isinstance(found, EdgekitError):
            raise found
        inspected |= found
        for _ in parts[index].samples:
            step()
    return inspected
