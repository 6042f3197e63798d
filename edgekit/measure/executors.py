"""What runs the pieces of an evaluation, each a `concurrent.futures.Executor`: this process, others, Dask, or parts.

`map` yields results in the order of the pieces, and raises the error of a piece. A worker process that dies costs only
its piece, which another one gets.

Dask sends work as pickles, which run code when they are read, so every process of the cluster must belong to the user.
A scheduler is as safe as its network, or as the certificates in the user's Dask configuration.

Parts are what commands evaluated independently, on any machines, and wrote to JSON files. A part is I of N equal shares
of the images in their order. Its file has what was read of each image, and each bundle's answers; their executor looks
results up. The images are looked up by their contents, and the bundles by their hashes, so that the joined answers are
those of these bundles for these images, or an error.
"""

import hashlib
import json
import multiprocessing
import os
import re
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Thread
from typing import Any, Self, TypeVar

import msgspec

from edgekit.errors import EngineError, ImageError, UsageError
from edgekit.images.dataset import Dataset
from edgekit.images.selection import InspectedImage
from edgekit.measure.accuracy import InspectedSamples, Shard, ShardInputs, task_in
from edgekit.measure.task import Answers, StoredArray
from edgekit.runtime.bundle import read_bundle
from edgekit.support.child_process import child_environment
from edgekit.support.files import write_json
from edgekit.support.libraries import first_line, import_needed, quiet
from edgekit.support.worker import SentError

T = TypeVar("T")

SPAWN = multiprocessing.get_context("spawn")

DEATHS = 3
"""Workers in a row that a piece may kill before it fails."""
CONNECT_S = 10
SHOWN = 10
"""Most parts that an error lists."""


class ThisProcess(Executor):
    """Runs each piece in this process when its result is asked for."""

    def map(self, fn: Callable[..., T], *iterables: Iterable[Any], **_: Any) -> Iterator[T]:
        return map(fn, *iterables)


class Processes(ThreadPoolExecutor):
    """Worker processes of this machine, for each of which a thread waits.

    A process that dies is replaced. EngineError is raised for a piece that kills `DEATHS` processes.
    """

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self._parent, self._open = SPAWN.Pipe(duplex=False)
        self._idle: deque[ProcessPoolExecutor] = deque()

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        return super().submit(self._run, fn, *args, **kwargs)

    def _run(self, work: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        deaths = 0
        while deaths < DEATHS:
            worker = self._idle.pop() if self._idle else ProcessPoolExecutor(1, SPAWN, _end_with, (self._parent,))
            try:
                future = worker.submit(work, *args, **kwargs)
            except BrokenProcessPool:  # it died while it had nothing to do
                continue
            except OSError as error:
                raise UsageError(
                    f"--workers: a process could not be started: {first_line(error)}", fix="Use fewer --workers"
                ) from error
            if self._open.closed or not isinstance(future.exception(), BrokenProcessPool):
                self._idle.append(worker)
                return future.result()
            deaths += 1
        raise EngineError(f"a piece of the evaluation killed {DEATHS} workers in a row")

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = True) -> None:
        """End the processes, also those that work, and drop what they haven't finished."""
        super().shutdown(wait=False, cancel_futures=cancel_futures)
        self._open.close()
        super().shutdown(wait)


def _end_with(parent: Connection) -> None:
    """Leave Ctrl-C to the parent of this worker process, and end when its end of the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        with suppress(EOFError, OSError):
            parent.recv()
        os._exit(1)

    Thread(target=watch, daemon=True).start()


class DaskWorkers(Executor):
    """The workers of a Dask scheduler. If one dies, another one gets its piece, and Dask waits until there is one."""

    def __init__(self, client: Any) -> None:
        self._executor = client.get_executor(pure=False)

    def map(self, fn: Callable[..., T], *iterables: Iterable[Any], **_: Any) -> Iterator[T]:
        distributed = import_needed("distributed", "scale")
        try:
            yield from self._executor.map(fn, *iterables)
        except distributed.KilledWorker as error:
            problem = f"a piece of the evaluation killed several workers in a row: {first_line(error)}"
            raise EngineError(problem) from error


@dataclass(frozen=True)
class AnsweredPart:
    """The answers of one bundle for the images of a part, or the error that ended its evaluation."""

    inputs: ShardInputs
    """Bundle, images, processor and versions."""
    answers: Mapping[str, StoredArray] | None = None
    """The answers for the images in their order; None for a bundle that failed, or if no image can be read."""
    error: SentError | None = None
    """The error; None for a bundle that worked."""


@dataclass(frozen=True)
class EvaluationPart:
    """One part of an evaluation."""

    number: int
    """Number of the part, from 1."""
    count: int
    """Number of all parts."""
    images: tuple[InspectedImage, ...] = ()
    """The images of the part that can be read."""
    unreadable: Mapping[str, SentError] = field(default_factory=dict)
    """Errors of the other images, by their names."""
    bundles: tuple[AnsweredPart, ...] = ()

    def file_in(self, folder: Path) -> Path:
        """Path of the part's file in this folder."""
        return folder / f"part-{self.number}-of-{self.count}.json"

    def of(self, dataset: Dataset) -> Dataset:
        """The data set with only the images of this part. Raises UsageError if there are fewer images than parts."""
        total = len(dataset.samples)
        if total < self.count:
            raise UsageError(
                f"--shard is {self.number}/{self.count}, and there are {total} images",
                valid=f"at most {total} parts",
                fix=f"Use --shard 1/{total} to --shard {total}/{total}, or fewer parts",
            )
        first, end = (total * number // self.count for number in (self.number - 1, self.number))
        return replace(dataset, samples=dataset.samples[first:end])

    def write(self, folder: Path) -> None:
        """Write the part's file. Raises OutputError."""
        write_json(self.file_in(folder), msgspec.to_builtins(self))

    def stored(self, folder: Path) -> Self | None:
        """The part with this number that a folder has; None if there is none, or if its file is damaged."""
        try:
            stored = msgspec.convert(json.loads(self.file_in(folder).read_text("utf-8")), type(self))
        except (OSError, ValueError):
            return None
        return stored if (stored.number, stored.count) == (self.number, self.count) else None


class JoinedParts(Executor):
    """Looks up the results of the parts in a folder. Raises UsageError if they aren't those of this evaluation."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        names = (re.fullmatch(r"part-\d+-of-([1-9]\d*)\.json", file.name) for file in folder.glob("part-*"))
        counts = sorted({int(name[1]) for name in names if name})
        if len(counts) != 1:
            has = f"has parts of {' and of '.join(map(str, counts))}" if counts else "has no parts of an evaluation"
            raise UsageError(
                f"--join: '{folder}' {has}",
                valid="a folder with all parts of one evaluation, such as part-1-of-2.json and part-2-of-2.json",
                fix="Evaluate each part with `--shard I/N --output FOLDER`, and join that folder",
            )
        self._count = counts[0]
        parts = {number: EvaluationPart(number, self._count).stored(folder) for number in range(1, self._count + 1)}
        if missing := [number for number, part in parts.items() if part is None]:
            more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
            raise UsageError(
                f"--join: of the {self._count} parts in '{folder}', {len(missing)} are missing or damaged: "
                f"{', '.join(map(str, missing[:SHOWN]))}{more}",
                valid="a folder with all parts",
                fix=f"Evaluate with `--shard {missing[0]}/{self._count} --output {folder}`, and so on",
            )
        self._parts = [part for part in parts.values() if part is not None]
        self._answers: dict[str, tuple[Answers, dict[str, int]]] = {}

    @property
    def processors(self) -> list[str]:
        """The processors that ran the parts."""
        return sorted({str(bundle.inputs.processor) for part in self._parts for bundle in part.bundles})

    def map(self, fn: Callable[..., Any], *iterables: Iterable[Any], **_: Any) -> Iterator[Any]:
        (pieces,) = iterables
        return map(self._result, pieces)

    def _result(self, piece: Dataset | Shard) -> InspectedSamples | Answers:
        return self._inspected(piece) if isinstance(piece, Dataset) else self._answered(piece)

    def _inspected(self, dataset: Dataset) -> InspectedSamples:
        known: dict[str, InspectedImage | SentError] = {}
        for part in self._parts:
            known.update({image.sample.name: image for image in part.images})
            known.update(part.unreadable)
        result: InspectedSamples = {}
        for sample in dataset.samples:
            image = known.get(sample.name)
            if image is None:
                raise self._other("images", f"'{sample.name}' is in none of them")
            if isinstance(image, SentError):
                result[sample.name] = ImageError(image.problem, valid=image.valid, fix=image.fix)
            elif hashlib.sha256(dataset.read(sample)).hexdigest() != image.sha256:
                raise self._other("images", f"'{sample.name}' has another content")
            else:
                result[sample.name] = replace(image, sample=sample)
        return result

    def _answered(self, shard: Shard) -> Answers:
        answers, rows = self._of_bundle(shard)
        for sample, image in zip(shard.dataset.samples, shard.inputs.images, strict=True):
            if image not in rows:
                raise self._other("images", f"'{sample.name}' is in none of them")
        return answers.at([rows[image] for image in shard.inputs.images])

    def _of_bundle(self, shard: Shard) -> tuple[Answers, dict[str, int]]:
        """The answers of a shard's bundle in all parts, and the row of each image by its SHA-256."""
        sha256 = shard.inputs.bundle
        if sha256 not in self._answers:
            parts = list[AnsweredPart]()
            for part in self._parts:
                own = [each for each in part.bundles if each.inputs.bundle == sha256]
                if not own:
                    raise self._other("bundles", f"part {part.number} has no answers of '{shard.bundle}' as it is now")
                if own[0].error is not None:
                    raise own[0].error.rebuilt()
                parts += own
            if len({(each.inputs.threads, *sorted(each.inputs.versions.items())) for each in parts}) > 1:
                raise self._other("versions or --threads", f"those of '{shard.bundle}' differ among them")
            kind = task_in(read_bundle(shard.bundle)).answers
            answers = kind.joined([kind.of(each.answers) for each in parts if each.answers is not None])
            images = [image for each in parts for image in each.inputs.images]
            self._answers[sha256] = answers, {image: row for row, image in enumerate(images)}
        return self._answers[sha256]

    def _other(self, what: str, problem: str) -> UsageError:
        return UsageError(
            f"--join: the parts in '{self._folder}' are of other {what}: {problem}",
            valid="the bundles, data set, --num-eval-samples and --seed of the parts, which one set-up evaluated",
            fix=f"Join with those, or evaluate the parts again, from `--shard 1/{self._count}` on",
        )


@contextmanager
def executor_of(workers: int | None, scheduler: str | None, join: Path | None = None) -> Iterator[Executor]:
    """Open an executor: this process, worker processes, the workers of a Dask scheduler, or the parts in a folder.

    Raises UsageError if no scheduler with workers answers at the address, or if the parts aren't complete, and
    MissingExtraError without Dask.
    """
    stated = {"--workers": workers, "--scheduler": scheduler, "--join": join}
    if len(several := [name for name, value in stated.items() if value is not None]) > 1:
        raise UsageError(
            f"{' and '.join(several)} were given together",
            fix="Use --workers to start processes here, --scheduler for those of Dask, or --join for stored parts",
        )
    with ExitStack() as stack:
        if join is not None:
            yield JoinedParts(join)
        elif workers is not None:
            stack.enter_context(quiet())
            stack.enter_context(child_environment())
            yield stack.enter_context(Processes(workers))
        elif scheduler is not None:
            distributed = import_needed("distributed", "scale")
            stack.enter_context(quiet())
            try:
                client = stack.enter_context(distributed.Client(scheduler, timeout=CONNECT_S))
                client.wait_for_workers(1, timeout=CONNECT_S)
            except (OSError, ValueError, RuntimeError) as error:
                raise UsageError(
                    f"--scheduler: no Dask scheduler with workers answers at '{scheduler}': {first_line(error)}",
                    fix="Start one with `dask scheduler`, and workers with `dask worker ADDRESS`",
                ) from error
            yield DaskWorkers(client)
        else:
            yield ThisProcess()
