"""The images of a job: opens its data sets, and chooses the images for calibration and for evaluation."""

from collections.abc import Sequence
from dataclasses import dataclass

from edgekit.config.recipes import Recipe
from edgekit.errors import UsageError
from edgekit.images.calibration_list import CalibrationList
from edgekit.images.dataset import Dataset, Datasets, open_calibration, open_dataset, open_datasets
from edgekit.images.overlap import copies_of, lookalikes
from edgekit.images.selection import Selection, doubts, missing_classes, select, select_listed
from edgekit.job import Job
from edgekit.models.soup import held_out_of
from edgekit.support.progress import Reporter


@dataclass(frozen=True)
class JobImages:
    """The images on which the bundles of a job are evaluated, and those that must not be among them."""

    dataset: Dataset
    """The data set of the evaluation images."""
    evaluation: Selection
    """Images that the bundles are evaluated on."""
    calibration: Selection
    """Images that calibrate the network, which may come from another data set."""
    lookalikes: tuple[tuple[str, str], ...] = ()
    """(name, name of a calibration image) of the evaluation images that look like calibration images."""


def datasets_of(options: Job, labels: Sequence[str]) -> Datasets:
    """Open the data sets of the options. Raises DataError if one isn't usable with these labels.

    If the images to calibrate on were given, those to evaluate on are all of `--data`, or its split for that.
    """
    if options.calibration_data is None:
        return open_datasets(options.data, labels)
    calibration = open_calibration(options.calibration_data, labels)
    evaluation = calibration if options.data is None else open_dataset(options.data, labels)
    return Datasets(calibration, evaluation, evaluation.origin)


def choose_calibration(
    datasets: Datasets,
    recipe: Recipe,
    options: Job,
    reporter: Reporter,
    listed: CalibrationList | None = None,
    leave_half: bool = True,
) -> Selection:
    """Choose the calibration images: those of a list, or as many as the options or the recipe say.

    If the data set is too small for the recipe, all images are chosen; half of them with `leave_half`, if the same data
    set is for the evaluation. Then no class loses more than half of its images as long as others have some left.
    """
    dataset, requested = datasets.calibration, options.num_calibration_samples
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
        return select(dataset, count, options.seed, order="turns for half" if shared else "turns", on_image=step)


def choose_evaluation(dataset: Dataset, calibration: Selection, options: Job, reporter: Reporter) -> Selection:
    """Choose evaluation images that neither calibrate the network nor chose the members of a soup.

    A limited number of them has each class in proportion to its size, so that their top-1 estimates that of the set.
    Warns of classes without an image.
    """
    chosen_on = held_out_of(options.model_options.weights)
    if chosen_on:
        reporter.say(
            f"the weights are a soup: the {len(chosen_on)} images that chose its members are excluded from the "
            "evaluation"
        )
    with reporter.stage("read evaluation images", options.num_eval_samples or None) as step:
        evaluation = select(
            dataset,
            options.num_eval_samples,
            options.seed,
            exclude=calibration,
            exclude_hashes=chosen_on,
            order="shares",
            on_image=step,
        )
    if warning := missing_classes(dataset, evaluation):
        reporter.warn(warning)
    return evaluation


def find_lookalikes(evaluation: Selection, calibration: Selection, datasets: Datasets) -> tuple[tuple[str, str], ...]:
    """(name, name of a calibration image) of the evaluation images that look like calibration images."""
    return tuple(lookalikes(evaluation, datasets.evaluation, calibration, datasets.calibration))


def warn_of_unreadable(reporter: Reporter, *selections: Selection) -> None:
    """Warn of the images that were skipped because they could not be decoded, once for each."""
    for name, reason in dict.fromkeys(each for selection in selections for each in selection.unreadable):
        reporter.warn(f"skipped {name}: {reason}")


def warn_of_doubts(
    calibration: Selection, classes: int, reporter: Reporter, evaluation: Selection | None = None
) -> None:
    """Warn of a poor calibration set for a network with this number of classes, and for these evaluation images."""
    for doubt in doubts(calibration, classes, evaluation):
        reporter.warn(doubt)


def warn_of_overlap(
    evaluation: Selection, calibration: Selection, alike: Sequence[tuple[str, str]], reporter: Reporter
) -> None:
    """Warn of evaluation images that are copies or lookalikes of calibration images."""
    if copies := copies_of(evaluation, calibration):
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
