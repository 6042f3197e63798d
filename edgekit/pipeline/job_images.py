"""The images of a job: opens its data sets, and chooses the images for calibration and for evaluation.

They and the network show the job's task, if it states none, and with them a temperature is chosen, which brings an INT8
network's confidences back to the float network's.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import exp, log, sqrt
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_softmax, softmax

from edgekit.config.recipes import Recipe
from edgekit.config.runtimes import Activation, Labelling
from edgekit.errors import ModelError, UsageError
from edgekit.images.dataset import Dataset, Datasets
from edgekit.images.selection import CalibrationList, Selection, evaluation_doubts, select, select_listed
from edgekit.measure.settings import NO_LABELS
from edgekit.measure.task import ClassNames, Task
from edgekit.measure.tasks import task_of
from edgekit.models.network import Network, NetworkIdentity
from edgekit.models.options import ModelOptions
from edgekit.models.soup import held_out_of
from edgekit.support.files import Inputs
from edgekit.support.progress import Reporter

Chosen = Literal["thresholds", "layers"]
"""What a job chooses on images that don't give its verdict, beside temperatures: the thresholds of several labels and
the layers that a repair keeps in float, or these layers alone."""
LEFT: dict[Chosen, int] = {"thresholds": 300, "layers": 400}
"""Fewest images that give the verdict if a third is set aside to choose on. On 400 images, and hardly on fewer, a
bundle that answers as torch does shows that it loses less than 1 point."""
FEWEST = 150
"""Fewest images on which the layers of a repair are chosen: the smallest third that is set aside."""
SPARE: dict[Chosen, int] = {"thresholds": 1000, "layers": 500}
"""Most images to choose on that are read beside a limited number of evaluation images, or half as many as these."""


@dataclass(frozen=True)
class ImageChoice:
    """Which images a job calibrates and evaluates on, and chooses on."""

    data: Any
    """Images to evaluate on."""
    calibration_data: Any = None
    """Images to calibrate on; None for the split train of `data`, or a part of them."""
    num_calibration_samples: int | None = None
    """Number of images to calibrate on; None for the recipe's."""
    num_eval_samples: int | None = None
    """Number of images to evaluate on; None for all that are left."""
    seed: int = 0
    """Seed of the choice."""
    listed: CalibrationList | None = None
    """List of the images to calibrate on, if there is one."""
    weights: str | None = None
    """Weights of the network. The images that chose the members of a soup are not for the evaluation."""
    chosen: Chosen | None = None
    """What the job chooses on other images than those of the evaluation."""


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


@dataclass(frozen=True)
class JobImages:
    """The images on which the bundles of a job are evaluated, and those that must not be among them."""

    dataset: Dataset
    """The data set of the evaluation images."""
    evaluation: Selection
    """Images that the bundles are evaluated on."""
    calibration: Selection
    """Images that calibrate the network, which may come from another data set."""
    choosing: Selection
    """Other images of `dataset`, on which what the verdict must not choose is chosen; empty for too few images."""
    chosen: Chosen | None = None
    """What is chosen on them."""
    lookalikes: tuple[tuple[str, str], ...] = ()
    """(name, name of a calibration image) of the evaluation images that look like calibration images."""
    repair: "JobImages | None" = None
    """The same with the images on which a repair compares bundles as evaluation images; None if those of the verdict
    have to do both."""

    def in_order(self, names: Sequence[str]) -> "JobImages":
        """The images, each of one class or of none, of sets whose classes have this order."""
        return replace(
            self,
            dataset=self.dataset.in_order(names),
            evaluation=self.evaluation.in_order(names),
            calibration=self.calibration.in_order(names),
            choosing=self.choosing.in_order(names),
            repair=self.repair.in_order(names) if self.repair else None,
        )

    def reference_inputs(self, network: Network, task: Task) -> ReferenceInputs:
        """Inputs of torch's answers for the evaluation images."""
        labels = tuple(sample.labels or (sample.label,) for sample in self.evaluation.samples)
        return ReferenceInputs(network.identity, self.evaluation.hashes, labels, task.key)

    def class_names(self, task: Task, outputs: Sequence[str]) -> ClassNames:
        """Names of the classes of the images: those of the outputs, or the set's own if its outputs are no classes."""
        if task.outputs_are_classes:
            return outputs
        return {sample.label: sample.class_name for sample in self.evaluation.samples}


def datasets_of(choice: ImageChoice, labels: Sequence[str], labelling: Labelling | None = None) -> Datasets:
    """Open the data sets to choose from. Raises DataError if one isn't usable with these labels.

    If the images to calibrate on were given, those to evaluate on are all of `--data`, or its split for that. Without a
    `labelling`, these show it.
    """
    if choice.calibration_data is None:
        return Datasets.open(choice.data, labels, labelling)
    if choice.data is None:
        calibration = Dataset.for_calibration(choice.calibration_data, labels, labelling)
        return Datasets(calibration, calibration)
    evaluation = Dataset.open(choice.data, labels, labelling)
    calibration = Dataset.for_calibration(choice.calibration_data, labels, evaluation.labelling)
    return Datasets(calibration, evaluation, evaluation.origin)


def choose_images(
    datasets: Datasets, recipe: Recipe, choice: ImageChoice, reporter: Reporter, evaluates: bool
) -> JobImages:
    """Choose the images of a job. If it only builds bundles, none are left for an evaluation."""
    dataset = datasets.evaluation
    calibration = choose_calibration(datasets, recipe, choice, reporter, leave_half=evaluates)
    if not evaluates:
        none = Selection((), dataset.path)
        return JobImages(dataset, none, calibration, none)
    evaluation, choosing = choose_evaluation(datasets, calibration, choice, reporter)
    alike = evaluation.lookalikes(dataset, calibration, datasets.calibration)
    images = JobImages(dataset, evaluation, calibration, choosing, choice.chosen, tuple(alike))
    return replace(images, repair=_for_repair(datasets, images, choice, reporter))


def choose_calibration(
    datasets: Datasets, recipe: Recipe, choice: ImageChoice, reporter: Reporter, leave_half: bool = True
) -> Selection:
    """Choose the calibration images: those of a list, or as many as the options or the recipe say.

    If the data set is too small for the recipe, all images are chosen; half of them with `leave_half`, if the same data
    set is for the evaluation. Then no class loses more than half of its images as long as others have some left.
    """
    dataset = datasets.calibration
    requested = choice.num_calibration_samples
    listed = choice.listed
    if listed and requested is not None:
        raise UsageError(
            "--calibration-list already determines the images, so --num-calibration-samples has no effect",
            fix="Leave out `--num-calibration-samples`",
        )
    count = len(listed.images) if listed else recipe.num_calibration_samples if requested is None else requested
    if count < 1:
        raise UsageError(f"--num-calibration-samples is {count}", valid="a whole number from 1")
    shared = dataset is datasets.evaluation and leave_half
    available = len(dataset.samples) // (2 if shared else 1)
    if not listed and requested is None and available < count:
        count = max(1, available)
        reporter.warn(f"'{dataset.path}' has only {len(dataset.samples)} images: calibrating on {count} of them")
    with reporter.stage("read calibration images", count) as step:
        if listed:
            return select_listed(dataset, listed.images, listed.path, step)
        return select(dataset, count, choice.seed, order="turns for half" if shared else "turns", on_image=step)


def choose_evaluation(
    datasets: Datasets, calibration: Selection, choice: ImageChoice, reporter: Reporter
) -> tuple[Selection, Selection]:
    """Choose evaluation images, and others to choose on. None calibrates the network or chose the members of a soup.

    A limited number of evaluation images has each class in proportion to its size, so that their top-1 estimates that
    of the set; the others are among those that the limit leaves. Without one, they are a third of all, if that leaves
    enough for the verdict, and if no further images of the calibration's data set can choose. Warns of classes without
    an evaluation image.
    """
    dataset = datasets.evaluation
    chosen_on = held_out_of(choice.weights)
    count = choice.num_eval_samples
    sets_aside = choice.chosen == "thresholds" or (choice.chosen and _others(datasets, calibration) < FEWEST)
    if chosen_on:
        reporter.say(
            f"the weights are a soup: the {len(chosen_on)} images that chose its members are excluded from the "
            "evaluation"
        )
    spare = max(SPARE[choice.chosen], count // 2) if choice.chosen and count else 0
    with reporter.stage("read evaluation images", None if spare else count or None) as step:
        images = select(
            dataset,
            count,
            choice.seed,
            exclude=calibration,
            exclude_hashes=chosen_on,
            order="shares",
            spare=spare,
            on_image=step,
        )
    total = len(images.images)
    third = total // 3 if sets_aside and not count else 0
    if choice.chosen and total - third < LEFT[choice.chosen]:
        third = 0
    evaluation, choosing = images.split(count or total - third)
    if third:
        reporter.say(
            f"evaluating on {len(evaluation.images):,} of {total:,} images: {third:,} are set aside, because what is "
            "chosen on images isn't judged on them; --num-eval-samples takes another number"
        )
    for warning in evaluation_doubts(dataset, evaluation):
        reporter.warn(warning)
    return evaluation, choosing


def _others(datasets: Datasets, calibration: Selection) -> int:
    """Number of images in a data set of calibration images alone that don't calibrate the network.

    It counts only if it has labels as the evaluation images have them.
    """
    dataset = datasets.calibration
    if dataset is datasets.evaluation or dataset.is_labelled != datasets.evaluation.is_labelled:
        return 0
    return len(dataset.samples) - len(calibration.images)


def _for_repair(datasets: Datasets, images: JobImages, choice: ImageChoice, reporter: Reporter) -> JobImages | None:
    """`JobImages.repair`: the images to choose on, or else others of the calibration's data set.

    These may have trained the network, because a repair compares INT8 with float.
    """
    dataset, chosen = images.dataset, images.choosing
    if choice.chosen and len(chosen.images) < FEWEST <= _others(datasets, images.calibration):
        dataset = datasets.calibration
        taken = (*images.evaluation.hashes, *held_out_of(choice.weights))
        with reporter.stage("read images to choose on") as step:
            chosen = select(
                dataset,
                SPARE["layers"],
                choice.seed,
                exclude=images.calibration,
                exclude_hashes=taken,
                exact=False,
                order="shares",
                on_image=step,
            )
    return replace(images, dataset=dataset, evaluation=chosen) if len(chosen.images) >= FEWEST else None


def warn_of_images(images: JobImages, classes: int, reporter: Reporter) -> None:
    """Warn of images that can't be read, of a poor calibration set, whose data set has this number of classes, and of
    evaluation images that are copies or lookalikes of calibration images."""
    calibration = images.calibration
    evaluation = images.evaluation
    alike = images.lookalikes
    for name, reason in dict.fromkeys((*calibration.unreadable, *evaluation.unreadable)):
        reporter.warn(f"skipped {name}: {reason}")
    for doubt in calibration.doubts(classes, evaluation if evaluation.images else None):
        reporter.warn(doubt)
    if copies := evaluation.copies_of(calibration):
        reporter.warn(
            f"{len(copies)} images are copies of calibration images and were left out of the evaluation: "
            f"{_some(copies)}"
        )
    if alike:
        reporter.warn(
            f"{len(alike)} evaluation images look like calibration images, and may be re-encoded copies: "
            f"{_some([f'{name} (like {like})' for name, like in alike])}. INT8 may seem more accurate than it is"
        )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more (report.json has all)" if len(names) > 3 else "")


def known_task(stated: str | None, network: Network) -> Task | None:
    """The task that was stated or, for a network without a classifier, an embedding; None for labels to tell it.

    Raises ModelError for a network without a classifier that is to classify.
    """
    if stated is None:
        return None if network.has_classifier else task_of("embedding")
    task = task_of(stated)
    if task.outputs_are_classes and not network.has_classifier:
        raise ModelError(
            f"'{network.name}' has no classifier and returns {network.classes} features, but the task is {stated}",
            valid="--task embedding",
            fix="Leave out `--task`; or choose a fine-tuned tag, or add `--model-args num_classes=N` for a classifier "
            "and `--weights FILE` with its weights",
        )
    return task


def recognized_task(datasets: Datasets) -> Task:
    """The task that the labels of the images show."""
    return task_of("multi-label" if datasets.evaluation.labelling == "several" else "single-label")


def without_classes(network: Network, options: ModelOptions) -> Network:
    """The network with numbers for names, because the entries of its vector are no classes.

    Raises UsageError if the user names classes.
    """
    if options.labels:
        raise UsageError(
            f"--labels '{options.labels}' names classes, and the {network.classes} outputs of an embedding are none",
            fix="Leave out `--labels`, or state another task with `--task`",
        )
    return replace(network, labels=tuple(map(str, range(network.classes))), labels_origin=None, labels_doubt=None)


def say_why(stated: str | None, task: Task, network: Network, dataset: Dataset, reporter: Reporter) -> None:
    """Say what no labels mean, why a task was recognized unless it is the usual one, and what an embedding is."""
    if not dataset.is_labelled:
        reporter.say(f"'{dataset.path}' {NO_LABELS}")
    if stated is not None:
        if not task.outputs_are_classes and network.has_classifier:
            reporter.say(f"embedding: the {network.classes} outputs of '{network.name}', whatever its last layer is")
        return
    if not task.outputs_are_classes:
        reason = f"'{network.name}' has no classifier and returns {network.classes} features"
    elif task.labelling == "several":
        count = sum(len(sample.labels) > 1 for sample in dataset.samples)
        reason = f"{count} of the {len(dataset.samples)} images of '{dataset.path}' have several labels"
    else:
        return
    reporter.say(f"task: {task.name}, because {reason}; `--task` states another one")


Outputs = NDArray[np.float32]
ACTIVATIONS: tuple[Activation, ...] = ("softmax", "sigmoid")
"""Activations whose scores a temperature changes."""
FEWEST_IMAGES, MOST_IMAGES = 32, 64
"""Fewest and most images that a temperature is fitted to, half of them at a time."""
LEAST_GAIN = 0.1
"""Share of the mean difference of the confidences that a temperature must remove to be worth another compilation."""
NOISE = 3.0
"""Standard errors by which that gain must exceed 0."""
LARGEST = 2.0


def helpful_temperature(outputs: Outputs, expected: Outputs, activation: Activation) -> float | None:
    """The temperature by which an INT8 network's outputs are to be divided; None if that would not help.

    It minimizes the cross entropy between the float network's scores and those of INT8. It is fitted on each half of
    the images and judged on the other one: there it has to bring the confidences closer to float's by more than noise.

    Args:
        outputs: Outputs of the INT8 network, [N,K].
        expected: Outputs of the float network for the same images, [N,K].
        activation: What turns outputs into scores, softmax or sigmoid.
    """
    differences, gains = [], []
    for half in (0, 1):
        temperature = fitted_temperature(outputs[half::2], expected[half::2], activation)
        others = outputs[1 - half :: 2]
        wanted = confidence(expected[1 - half :: 2], activation)
        before, after = (
            np.abs(confidence(each, activation) - wanted).mean(1) for each in (others, others / temperature)
        )
        differences.append(before)
        gains.append(before - after)
    gain, difference = np.concatenate(gains), np.concatenate(differences)
    least = max(LEAST_GAIN * difference.mean(), NOISE * gain.std() / sqrt(len(gain)))
    return fitted_temperature(outputs, expected, activation) if gain.mean() > least else None


def fitted_temperature(outputs: Outputs, expected: Outputs, activation: Activation) -> float:
    """The temperature of least cross entropy between the scores of `expected` and of `outputs`, both [N,K]."""
    values, wanted = outputs.astype(np.float64), expected.astype(np.float64)
    scores = softmax(wanted, axis=1) if activation == "softmax" else expit(wanted)

    def loss(logarithm: float) -> float:
        cooled = values / exp(logarithm)
        if activation == "softmax":
            return -float((scores * log_softmax(cooled, axis=1)).sum(1).mean())
        return float((scores * np.logaddexp(0, -cooled) + (1 - scores) * np.logaddexp(0, cooled)).mean())

    return exp(minimize_scalar(loss, bounds=(-log(LARGEST), log(LARGEST)), method="bounded").x)


def confidence(outputs: Outputs, activation: Activation) -> NDArray[np.float64]:
    """The confidences of the answers: softmax of the best class, [N,1], or sigmoid of each, [N,K]."""
    values = outputs.astype(np.float64)
    scores: NDArray[np.float64] = (
        softmax(values, axis=1).max(1, keepdims=True) if activation == "softmax" else expit(values)
    )
    return scores
