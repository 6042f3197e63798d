"""Evaluate bundles, in this process or in several, for `edgekit evaluate`. Needs no torch."""

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import ImageError, UsageError
from edgekit.images.dataset import Dataset, Sample, crop_each, open_dataset
from edgekit.images.selection import InspectedImage, Selection, evaluation_doubts, select
from edgekit.measure import shards
from edgekit.measure.cluster import executor_of
from edgekit.measure.evaluation import BundleEvaluation, compare_bundles
from edgekit.measure.settings import Gates
from edgekit.measure.tasks import Answers, Task
from edgekit.report.device import DeviceFacts
from edgekit.report.measurement import Failure
from edgekit.report.serialization import to_json
from edgekit.runtime.bundle import Bundle, read_bundle
from edgekit.runtime.engine import check_threads
from edgekit.support.files import replace_text, writing
from edgekit.support.progress import Reporter, Step, each_bundle
from edgekit.support.run_folder import open_run


class Elsewhere(Protocol):
    """Predicts on another device than this machine and its workers."""

    @property
    def device(self) -> DeviceFacts:
        """The device, as reports describe it."""
        ...

    def predict(
        self, task: Task, bundle: Bundle, crops: Iterable[NDArray[np.uint8]], samples: Sequence[Sample], step: Step
    ) -> Answers:
        """Answers for crops [H,W,C] of these samples. Calls `step` after each. Raises a StageError."""
        ...


@dataclass(frozen=True)
class Scale:
    """Distribution of an evaluation over processes; by default it runs in this process."""

    workers: int | None = None
    """Number of processes to start on this machine."""
    scheduler: str | None = None
    """Address of a Dask scheduler, whose workers need the bundles and images at the same paths."""
    output: Path | None = None
    """Folder for completed shards, from which the same command resumes."""


def evaluate_bundles(
    paths: Sequence[Path],
    data: Path,
    count: int | None,
    seed: int,
    threads: int | None,
    reporter: Reporter,
    scale: Scale | None = None,
    reference: Path | None = None,
    gates: Gates | None = None,
    elsewhere: Elsewhere | None = None,
    threshold: float | None = None,
) -> BundleEvaluation:
    """Evaluate bundles on the same images, and compare each with one of them.

    That is `reference`, which is evaluated too, or else the first float bundle, or else the first bundle. With gates,
    the others must not lose more accuracy. With `elsewhere`, another device runs the bundles. `threshold` replaces the
    bundles' own. Raises UsageError if the bundles can't be compared, and DeviceError if that device fails.
    """
    scale = scale or Scale()
    check_threads(threads)
    if threads is None and (scale.workers or scale.scheduler):
        threads = 1  # the workers already run in parallel
    bundles = _read(paths, reference)
    if gates is not None and len(bundles) < 2:
        raise UsageError(
            f"--max-drop compares bundles, and '{bundles[0].path}' is the only one",
            fix="Name the bundle to compare with, such as the float bundle, with `--reference BUNDLE`",
        )
    task = shards.task_in(bundles[0])
    for bundle in bundles[1:]:
        if threshold is None and bundle.manifest.thresholds != bundles[0].manifest.thresholds:
            reporter.warn(f"'{bundle.path}' has other thresholds than '{bundles[0].path}', whose thresholds are taken")
    dataset = _open(data.absolute() if scale.scheduler else data, bundles[0], task, reporter)
    with ExitStack() as stack:
        stack.callback(shards.close_session)
        run = stack.enter_context(open_run(scale.output)) if scale.output else None
        executor = stack.enter_context(executor_of(scale.workers, scale.scheduler))
        chosen = _chosen(dataset, count, seed, executor, reporter)
        names = [str(bundle.path) for bundle in bundles]

        def answered(name: str) -> Answers:
            bundle = bundles[index := names.index(name)]
            with reporter.stage(name, len(chosen.samples)) as step:
                if elsewhere is not None:
                    crops = crop_each(dataset, chosen.samples, bundle.manifest.preprocessing)
                    return elsewhere.predict(task, bundle, crops, chosen.samples, step)
                parts = shards.shards_of(bundle, dataset, chosen, threads)
                return shards.evaluate_shards(task, parts, executor, run, f"{index}-{bundle.path.name}", step)

        worked, errors = each_bundle(names, answered, reporter)
        answers = [worked[name] if name in worked else Failure.of("evaluate", errors[name]) for name in names]
        task = task.at(threshold, bundles[0].manifest.classes)
        document = compare_bundles(task, bundles, answers, chosen, dataset.targets(chosen.samples), reference, gates)
        document = replace(document, device=elsewhere.device if elsewhere else None)
        if run:
            file = run.path / "evaluation.json"
            with writing(file):
                replace_text(file, to_json(document))
    return document


def _open(data: Path, bundle: Bundle, task: Task, reporter: Reporter) -> Dataset:
    """Open the data set, with the labels of the bundles, and say what was assumed about it."""
    dataset = open_dataset(data, bundle.labels, task.labelling)
    if dataset.origin:
        reporter.say(dataset.origin)
    if dataset.assumption:
        reporter.say(
            f"no {dataset.class_term} has the name of a class, such as '{bundle.labels[0]}': {dataset.assumption}"
        )
    return dataset


def _read(paths: Sequence[Path], reference: Path | None) -> list[Bundle]:
    """The bundles, after the reference if it isn't one of them. Raises UsageError unless all have the same labels."""
    extra = [reference] if reference and reference.resolve() not in {path.resolve() for path in paths} else []
    bundles = [read_bundle(path) for path in (*extra, *paths)]
    for bundle in bundles:
        differs = "another task" if bundle.manifest.task != bundles[0].manifest.task else "other labels"
        if differs == "another task" or bundle.labels != bundles[0].labels:
            raise UsageError(
                f"'{bundle.path}' has {differs} than '{bundles[0].path}'", fix="Evaluate these bundles separately"
            )
    return bundles


def _chosen(
    dataset: Dataset, count: int | None, seed: int, executor: shards.ShardExecutor, reporter: Reporter
) -> Selection:
    """Choose the images to evaluate on, and warn of those that can't be read and of classes without an image.

    The executor reads a whole set; a selection is read in this process.
    """
    if count or isinstance(executor, shards.SerialExecutor):
        with reporter.stage("read images", count or None) as step:
            chosen = select(dataset, count, seed, order="shares", on_image=step)
    else:
        with reporter.stage("read images", len(dataset.samples)) as step:
            inspected = shards.inspect_all(dataset, executor, step)

        def inspect(_: Dataset, sample: Sample) -> InspectedImage:
            result = inspected[sample.name]
            if isinstance(result, ImageError):
                raise result
            return result

        chosen = select(dataset, count, seed, order="shares", inspect=inspect)
    for name, reason in chosen.unreadable:
        reporter.warn(f"skipped {name}: {reason}")
    for warning in evaluation_doubts(dataset, chosen):
        reporter.warn(warning)
    return chosen
