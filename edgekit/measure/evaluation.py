"""`edgekit evaluate`: compares the answers of bundles with those of one of them. Needs no torch."""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import EdgekitError, ImageError, UsageError
from edgekit.images.dataset import Dataset, LabelledImage
from edgekit.images.selection import CalibrationList, InspectedImage, Selection, evaluation_doubts, select, short_hashes
from edgekit.measure import accuracy
from edgekit.measure.accuracy import predict
from edgekit.measure.executors import AnsweredPart, EvaluationPart, JoinedParts, ThisProcess, executor_of
from edgekit.measure.gates import COMPARED, NO_ACCURACY, NOT_INT8, accuracy_gate, bound_of, chance_gate, verdict_of
from edgekit.measure.settings import NO_LABELS, Gates
from edgekit.measure.task import Answers, Targets, Task
from edgekit.report.answer import figure_table
from edgekit.report.document import Reference, Unreadable, to_json
from edgekit.report.figure import NOTHING, Count, DeviceFacts
from edgekit.report.page import Block, Item, NextStep
from edgekit.report.row import Accuracy, Failure, Gate, Verdict
from edgekit.report.sentences import (
    RANDOM,
    after_failures,
    crossing,
    more_images,
    near_chance,
    notes_of,
    rows_whose_accuracy,
)
from edgekit.runtime.bundle import Bundle, read_bundle
from edgekit.runtime.engine import check_threads
from edgekit.support.files import replace_text, without_folders, writing
from edgekit.support.progress import Reporter, Step, each_bundle
from edgekit.support.run_folder import STATE, keeps_job, open_run
from edgekit.support.worker import SentError

SHOWN = 3
"""Most images that a warning names."""


@dataclass(frozen=True)
class EvaluatedImages:
    """The images that all bundles were evaluated on."""

    count: int
    """Number of images."""
    sha256: str
    """Hash of the names and contents of the images, which identifies the set."""
    unreadable: tuple[Unreadable, ...]
    """Images that were skipped because they can't be read."""
    overlap_with_calibration: Count | None
    """Number of images that any of the bundles was calibrated on; null if a bundle doesn't tell."""
    calibrated_on: tuple[str, ...] = ()
    """Paths of these images within their data set."""


@dataclass(frozen=True, kw_only=True)
class EvaluatedBundle:
    """Accuracy of one bundle with its verdict, or the failure of its evaluation."""

    bundle: str
    """Path of the bundle."""
    accuracy: Accuracy | None = None
    """Accuracy, compared with the reference; null if the evaluation failed."""
    verdict: Verdict
    """Outcome of the gates, or "error"."""
    reasons: tuple[str, ...] = ()
    """Reasons why the bundle did not pass; empty where it did."""
    failure: Failure | None = None
    """Stage that failed and its error; null where the bundle was evaluated."""
    gates: tuple[Gate, ...] = ()
    """Outcome of each gate; empty for a bundle that failed."""

    @property
    def label(self) -> str:
        return self.bundle

    @property
    def notes(self) -> tuple[str, ...]:
        return (*self.reasons, *crossing(self.accuracy))


@dataclass(frozen=True, kw_only=True)
class BundleEvaluation:
    """The document of `edgekit evaluate`."""

    schema_version: Literal[1] = 1
    accuracy_meaningful: bool
    """Whether accuracies mean anything; false for bundles with random weights."""
    evaluation: EvaluatedImages
    """Images that all bundles were evaluated on."""
    reference: Reference | None
    """The bundle that the others are compared with; null if none worked."""
    results: tuple[EvaluatedBundle, ...]
    """One entry for each bundle; for a part, for each bundle that failed."""
    device: DeviceFacts | None = None
    """The browser that ran the bundles; null where this machine or its workers did."""
    part: str | None = None
    """File of the part that was evaluated, whose answers `--join` compares; null for all images."""

    @property
    def doubts(self) -> tuple[str, ...]:
        """Doubts about the reference, because of which nothing is concluded."""
        return tuple(near_chance(self.reference, self.evaluation.count)) if self.reference else ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """The facts that the reader must know before any figure."""
        random = () if self.accuracy_meaningful else (RANDOM,)
        return (*random, *self.doubts, *_overlap(self.evaluation))

    @property
    def title(self) -> str:
        """Heading of the outputs."""
        return "edgekit evaluate"

    def page(self) -> Iterator[Block]:
        """The warnings, the loss, the device, a table of the bundles, and the notes on them."""
        rows, reference = self.results, self.reference
        yield from (Item(f"warning: {warning}", "bold red") for warning in self.warnings)
        if reference is not None:
            yield Item(_loss_of(self, reference))
        if self.device is not None:
            yield Item(f"The bundles ran on {self.device.label}: {self.device.cpu}.")
        if self.part is not None:
            yield Item(f"The answers for {self.evaluation.count:,} images are in {self.part}.")
        alone = reference is not None and all(row.bundle == reference.engine for row in rows)
        if not alone and self.part is None:  # compared with itself, a bundle loses nothing
            yield ""
            names, verdicts = [row.bundle for row in rows], [*map(_word, rows)]
            yield figure_table(rows, COLUMNS, names, self.accuracy_meaningful, verdicts)
        for row in rows:
            for note in notes_of(row):
                yield Item(f"{row.bundle}: {'' if row.failure else f'{row.verdict}: '}{note.sentence}")

    def steps(self, data: Path | None, max_drop: float | None = None) -> Iterator[NextStep]:
        """The next commands, with the stated bound; `data` has more images than were evaluated, None if not."""
        bound = ("--max-drop", f"{max_drop:g}") if max_drop is not None else ()
        lossy = [Path(row.bundle) for row in rows_whose_accuracy(self.results, "fail")]
        for run in dict.fromkeys(bundle.parent for bundle in lossy):
            targets = ",".join(bundle.name.rpartition("-")[0] for bundle in lossy if bundle.parent == run)
            if keeps_job(run):
                words = ("edgekit", "sensitivity", str(run), *bound, "--target", targets)
                yield NextStep("see which layers lose the accuracy", words)
            else:
                yield NextStep(f"Deploy the model again: {run} does not say how these bundles were made.")
        if unsure := rows_whose_accuracy(self.results, "inconclusive"):
            left = images_left(data, Path(unsure[0].bundle), 0) if data else None
            yield more_images(unsure, self.evaluation.count, left, None)
        yield from after_failures(self.results)


def images_left(data: Path, bundle: Path, taken: int) -> int | None:
    """Number of images in a data set without those that are taken; None if the set can't be listed."""
    try:
        opened = read_bundle(bundle)
        return len(Dataset.open(data, opened.labels, accuracy.task_in(opened).labelling).samples) - taken
    except EdgekitError:
        return None


def _loss_of(evaluation: BundleEvaluation, reference: Reference) -> str:
    """What the bundles lose against the one they are compared with, in one or two sentences."""
    name, count = reference.engine, f"{evaluation.evaluation.count:,} images"
    if not evaluation.accuracy_meaningful:
        return f"The weights are random, so only the agreement with {name} on {count} means anything."
    compared = [(row, row.accuracy) for row in evaluation.results if row.accuracy and row.bundle != name]
    if reference.without_labels:
        return _agreement_of(compared, name, count)
    metric = reference.metric
    reached = f"{name} reaches {metric} {100 * reference.value:.2f} % on {count}"
    if not compared:
        return f"{reached}."
    row, most_lost = max(compared, key=lambda pair: pair[1].drop_points)
    low, high = most_lost.drop_ci95_points
    most = "" if len(compared) == 1 else "most, "
    return (
        f"{row.bundle} loses {most}{most_lost.drop_points:.2f} points of {metric} (95 % interval {low:.2f} to "
        f"{high:.2f}): {reached}."
    )


def _agreement_of(compared: Sequence[tuple[EvaluatedBundle, Accuracy]], name: str, count: str) -> str:
    """How far the bundles give the answers of another one for images without labels, in two sentences."""
    row, least = min(compared, key=lambda pair: pair[1].value)
    low, high = least.drop_ci95_points
    others = "" if len(compared) == 1 else ", the lowest"
    return (
        f"The {count} have no labels, so accuracy isn't known. {row.bundle}: {least.metric}, here {name}, is "
        f"{100 * least.value:.2f} %{others} (95 % interval {100 - high:.2f} to {100 - low:.2f})."
    )


COLUMNS = (("", "score", 1), ("loss, points (95 %)", "loss", 0), ("agreement", "accuracy.agreement", 2))
"""Columns of the table of bundles."""


def _word(row: EvaluatedBundle) -> str:
    """The verdict, if anything was judged."""
    judged = row.verdict != "pass" or rows_whose_accuracy([row], "pass")
    return row.verdict if judged else NOTHING


@dataclass(frozen=True)
class _Versus:
    """The bundle that the others are compared with, and what is known about all of them."""

    task: Task
    bundle: Bundle
    answers: Answers
    targets: Targets
    figures: Reference
    random: bool
    """Whether any bundle has random weights."""
    exempt_floats: bool
    """Whether int8 bundles are compared with a float one, so that the drop of other float bundles is not judged."""
    lost: Path | None
    """Path of the bundle that this one replaces because its evaluation failed."""


def compare_bundles(
    task: Task,
    bundles: Sequence[Bundle],
    answers: Sequence[Answers | Failure],
    chosen: Selection,
    targets: Targets,
    reference: Path | None = None,
    gates: Gates | None = None,
) -> BundleEvaluation:
    """Compare and judge the answers of bundles for the chosen images, or the failures that replace them.

    `reference` is the path of one of the bundles. Without it, or if it failed, the others are compared with the first
    float bundle that worked, or else the first bundle that worked. A gate on the drop needs the reference itself.
    """
    versus = _versus(task, bundles, answers, targets, reference)
    rows = []
    for bundle, answer in zip(bundles, answers, strict=True):
        if isinstance(answer, Failure):
            row = _failed(str(bundle.path), answer)
        else:
            assert versus is not None, "a bundle that worked can be the one to compare with"
            row = _judged(bundle, answer, versus, gates)
        rows.append(row)
    return BundleEvaluation(
        accuracy_meaningful=not any(map(_has_random_weights, bundles)),
        evaluation=_images(chosen, bundles),
        reference=versus.figures if versus else None,
        results=tuple(rows),
    )


def _failed(bundle: str, failure: Failure) -> EvaluatedBundle:
    return EvaluatedBundle(bundle=bundle, verdict="error", reasons=(str(failure),), failure=failure)


def _versus(
    task: Task,
    bundles: Sequence[Bundle],
    answers: Sequence[Answers | Failure],
    targets: Targets,
    reference: Path | None,
) -> _Versus | None:
    """Choose the bundle to compare with; None if none worked."""
    wanted = reference.resolve() if reference else None
    ranked = sorted(
        zip(bundles, answers, strict=True),
        key=lambda pair: (pair[0].path.resolve() != wanted, pair[0].manifest.precision != "float"),
    )
    worked = [(bundle, answer) for bundle, answer in ranked if isinstance(answer, Answers)]
    if not worked:
        return None
    bundle, answer = worked[0]
    random = any(map(_has_random_weights, bundles))
    return _Versus(
        task=task,
        bundle=bundle,
        answers=answer,
        targets=targets,
        figures=task.reference(str(bundle.path), answer, targets, len(bundle.labels), random),
        random=random,
        exempt_floats=bundle.manifest.precision == "float" and any(b.manifest.precision == "int8" for b in bundles),
        lost=None if bundle is ranked[0][0] else ranked[0][0].path,
    )


def _judged(bundle: Bundle, answers: Answers, versus: _Versus, gates: Gates | None) -> EvaluatedBundle:
    """Compare the answers of a bundle, and judge its drop if there is a bound."""
    task, pair = versus.task, (answers, versus.answers, versus.targets)
    confidence = replace(task.confidence(*pair), temperature=bundle.manifest.temperature)
    accuracy = replace(task.compare(*pair, versus=versus.figures.engine), confidence=confidence)
    outcomes = [chance_gate(versus.random, versus.figures.near_chance, accuracy)]
    if gates is not None:
        not_applicable = _not_applicable(bundle, versus)
        drop = accuracy_gate(accuracy, gates, not_applicable)
        if versus.lost and not_applicable in (None, COMPARED):
            drop = replace(drop, verdict="inconclusive", reasons=(f"'{versus.lost}', the reference, failed",))
        elif drop.verdict in ("pass", "inconclusive"):
            accuracy = replace(accuracy, bound=bound_of(accuracy, gates.max_drop))
        outcomes.append(drop)
    verdict, reasons = verdict_of(outcomes)
    return EvaluatedBundle(
        bundle=str(bundle.path), accuracy=accuracy, verdict=verdict, reasons=reasons, gates=tuple(outcomes)
    )


def _not_applicable(bundle: Bundle, versus: _Versus) -> str | None:
    """Why the gate on the drop does not apply to a bundle; None if it does."""
    if versus.random:
        return NO_ACCURACY
    if bundle is versus.bundle:
        return COMPARED
    return NOT_INT8 if versus.exempt_floats and bundle.manifest.precision == "float" else None


def _images(chosen: Selection, bundles: Sequence[Bundle]) -> EvaluatedImages:
    names = calibrated_on(chosen, bundles)
    unreadable = tuple(Unreadable(*skipped) for skipped in chosen.unreadable)
    overlap = None if names is None else len(names)
    return EvaluatedImages(len(chosen.samples), chosen.sha256, unreadable, overlap, names or ())


def _overlap(images: EvaluatedImages) -> tuple[str, ...]:
    """A warning if bundles were calibrated on some of the images."""
    if not images.overlap_with_calibration:
        return ()
    names = images.calibrated_on
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return (
        f"{len(names):,} of the {images.count:,} images were calibrated on ({', '.join(names[:SHOWN])}{more}), so INT8 "
        "may seem more accurate than it is. Evaluate on other images.",
    )


def _has_random_weights(bundle: Bundle) -> bool:
    model = bundle.manifest.provenance.get("model")
    return isinstance(model, dict) and model.get("weights") == "random"


def calibrated_on(chosen: Selection, bundles: Sequence[Bundle]) -> tuple[str, ...] | None:
    """Names of the chosen images that any bundle was calibrated on; None if there are none, but one has no record."""
    records = [calibration_images(bundle) for bundle in bundles]
    names = tuple(chosen.members({digest for record in records for digest in record or ()}))
    return None if not names and None in records else names


def calibration_images(bundle: Bundle) -> tuple[str, ...] | None:
    """Short hashes of a bundle's calibration images; none for a float bundle, None for an int8 one without a record.

    The record is in the manifest, or in the calibration.json of the run folder around the bundle.
    """
    provenance = bundle.manifest.provenance
    stored, sha256 = provenance.get("calibration_images"), provenance.get("calibration_sha256")
    if isinstance(stored, list | tuple) and (stored or not sha256):
        return tuple(map(str, stored))
    if bundle.manifest.precision == "float":
        return ()
    listed = CalibrationList.hashes_in(bundle.path.absolute().parent / "calibration.json", str(sha256))
    return None if listed is None else short_hashes(listed)


class Elsewhere(Protocol):
    """Predicts on another device than this machine and its workers."""

    row_facts: DeviceFacts
    """The device, as reports describe it."""

    def outputs(
        self, bundle: Bundle, crops: Iterable[NDArray[np.uint8]], count: int, step: Step
    ) -> Generator[NDArray[np.float32]]:
        """Outputs [1,K] for each of `count` crops [H,W,C]. Calls `step` after each. Raises a StageError."""
        ...


@dataclass(frozen=True)
class Scale:
    """Distribution of an evaluation over processes; by default it runs in this process."""

    workers: int | None = None
    """Number of processes to start on this machine."""
    scheduler: str | None = None
    """Address of a Dask scheduler, whose workers need the bundles and images at the same paths."""
    output: Path | None = None
    """Folder for completed shards, from which the same command resumes, or for the file of a part."""
    shard: tuple[int, int] | None = None
    """Number of the part to run alone, from 1, and the number of all parts; None for all images."""
    join: Path | None = None
    """Folder with the parts to join, instead of running the bundles."""


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
    elsewhere: Callable[[], Elsewhere] | None = None,
    threshold: float | None = None,
) -> BundleEvaluation:
    """Evaluate bundles on the same images, and compare each with one of them.

    That is `reference`, which is evaluated too, or else the first float bundle, or else the first bundle. With gates,
    the others must not lose more accuracy; on images without labels there are always gates. `elsewhere` gives another
    device, which then runs the bundles. `threshold` replaces the bundles' own. Raises UsageError if the bundles can't
    be compared, and DeviceError if that device fails.
    """
    scale = scale or Scale()
    check_threads(threads)
    if threads is None and (scale.workers or scale.scheduler):
        threads = 1  # the workers already run in parallel
    bundles = _read(paths, reference)
    if gates is not None:
        _check_several(bundles, "--max-drop" if gates.must_show_drop else "--min-agreement")
    task = accuracy.task_in(bundles[0])
    for bundle in bundles[1:]:
        if threshold is None and bundle.manifest.thresholds != bundles[0].manifest.thresholds:
            reporter.warn(f"'{bundle.path}' has other thresholds than '{bundles[0].path}', whose thresholds are taken")
    dataset = _open(data.absolute() if scale.scheduler else data, bundles[0], task, reporter)
    if not dataset.is_labelled:
        _check_several(bundles, f"an evaluation on images without labels, such as '{data}',")
    if gates is not None or not dataset.is_labelled:
        gates = (gates or Gates()).for_images(dataset.is_labelled)
    with ExitStack() as stack:
        stack.callback(accuracy.close_session)
        executor = stack.enter_context(executor_of(scale.workers, scale.scheduler, scale.join))
        if scale.shard is not None and scale.output is not None:
            if count:
                dataset = replace(dataset, samples=_chosen(dataset, count, seed, executor, reporter).samples)
            part = EvaluationPart(*scale.shard)
            return _evaluate_part(part, task, bundles, dataset, threads, executor, scale.output, reporter)
        run = stack.enter_context(open_run(scale.output)) if scale.output else None
        if isinstance(executor, JoinedParts) and len(executor.processors) > 1:
            reporter.warn(f"the parts ran on different processors: {', '.join(executor.processors)}")
        chosen = _chosen(dataset, count, seed, executor, reporter)
        names = [str(bundle.path) for bundle in bundles]

        def answered(name: str) -> Answers:
            bundle = bundles[index := names.index(name)]
            with reporter.stage(name, len(chosen.samples)) as step:
                if elsewhere is not None:
                    crops = dataset.crop_each(chosen.samples, bundle.manifest.preprocessing)
                    with closing(elsewhere().outputs(bundle, crops, len(chosen.samples), step)) as rows:
                        return predict(task, lambda row: row, rows, [sample.name for sample in chosen.samples])
                parts = accuracy.shards_of(bundle, dataset, chosen, threads)
                return accuracy.evaluate_shards(
                    task, parts, executor, None if scale.join else run, f"{index}-{bundle.path.name}", step
                )

        worked, errors = each_bundle(names, answered, reporter)
        answers = [worked[name] if name in worked else Failure.of("evaluate", errors[name]) for name in names]
        task = task.at(threshold, bundles[0].manifest.classes)
        document = compare_bundles(task, bundles, answers, chosen, dataset.targets(chosen.samples), reference, gates)
        document = replace(document, device=elsewhere().row_facts if elsewhere else None)
        if run:
            file = run.path / "evaluation.json"
            with writing(file):
                replace_text(file, to_json(document))
    return document


def _check_several(bundles: Sequence[Bundle], what: str) -> None:
    """Raise UsageError for a single bundle, which nothing can be compared with."""
    if len(bundles) < 2:
        raise UsageError(
            f"{what} compares bundles, and '{bundles[0].path}' is the only one",
            fix="Name the bundle to compare with, such as the float bundle, with `--reference BUNDLE`",
        )


def _evaluate_part(
    part: EvaluationPart,
    task: Task,
    bundles: Sequence[Bundle],
    dataset: Dataset,
    threads: int | None,
    executor: Executor,
    folder: Path,
    reporter: Reporter,
) -> BundleEvaluation:
    """Run bundles on a part of the images and write its file, with the answers that an earlier one has."""
    own = part.of(dataset)
    with reporter.stage("read images", len(own.samples)) as step:
        inspected = accuracy.inspect_all(own, executor, step)
    images = tuple(image for image in inspected.values() if isinstance(image, InspectedImage))
    unreadable = {name: image for name, image in inspected.items() if isinstance(image, ImageError)}
    skipped = tuple((name, without_folders(str(error), [dataset.path])) for name, error in unreadable.items())
    chosen = Selection(images, dataset.path, skipped)
    by_name = {str(bundle.path): bundle for bundle in bundles}
    inputs = {name: accuracy.shard_inputs(bundle, chosen.hashes, threads) for name, bundle in by_name.items()}
    stored = part.stored(folder)
    for name, reason in skipped:
        reporter.warn(f"skipped {name}: {reason}")

    def answered(name: str) -> AnsweredPart:
        for earlier in stored.bundles if stored else ():
            if earlier.inputs == inputs[name] and earlier.error is None:
                return earlier
        shards = accuracy.shards_of(by_name[name], own, chosen, threads)
        with reporter.stage(name, len(images)) as step:
            answers = accuracy.evaluate_shards(task, shards, executor, None, name, step) if shards else None
        return AnsweredPart(inputs[name], answers.stored() if answers else None)

    worked, errors = each_bundle(inputs, answered, reporter)
    failed = {name: AnsweredPart(inputs[name], error=SentError.of(error)) for name, error in errors.items()}
    sent = {name: SentError.of(error) for name, error in unreadable.items()}
    with writing(folder):
        (folder / STATE).mkdir(parents=True, exist_ok=True)
    replace(part, images=images, unreadable=sent, bundles=(*worked.values(), *failed.values())).write(folder)
    return BundleEvaluation(
        accuracy_meaningful=not any(map(_has_random_weights, bundles)),
        evaluation=_images(chosen, bundles),
        reference=None,
        results=tuple(_failed(name, Failure.of("evaluate", error)) for name, error in errors.items()),
        part=str(part.file_in(folder)),
    )


def _open(data: Path, bundle: Bundle, task: Task, reporter: Reporter) -> Dataset:
    """Open the data set, with the labels of the bundles, and say what was assumed about it."""
    dataset = Dataset.open(data, bundle.labels, task.labelling)
    if dataset.origin:
        reporter.say(dataset.origin)
    if not dataset.is_labelled:
        reporter.say(f"'{dataset.path}' {NO_LABELS}")
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


def _chosen(dataset: Dataset, count: int | None, seed: int, executor: Executor, reporter: Reporter) -> Selection:
    """Choose the images to evaluate on, and warn of those that can't be read and of classes without an image.

    The executor reads a whole set; a selection is read in this process.
    """
    if count or isinstance(executor, ThisProcess):
        with reporter.stage("read images", count or None) as step:
            chosen = select(dataset, count, seed, order="shares", on_image=step)
    else:
        with reporter.stage("read images", len(dataset.samples)) as step:
            inspected = accuracy.inspect_all(dataset, executor, step)

        def inspect(_: Dataset, sample: LabelledImage) -> InspectedImage:
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
