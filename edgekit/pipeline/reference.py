"""The evaluation images of a run, cropped once, torch's predictions for them, and what these decide.

They decide the order of the classes where no name tells it. The scores from which a network's answers are given are
chosen on images that neither calibrate nor judge it.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import sqrt
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from edgekit.config.runtimes import FORMS, Form
from edgekit.errors import UsageError
from edgekit.images.dataset import Dataset, LabelledCrops, LabelledImage
from edgekit.measure.accuracy import EvaluationImages, predict
from edgekit.measure.end_to_end import photo_of
from edgekit.measure.statistics import Z
from edgekit.measure.task import Answers, StoredArray, Task
from edgekit.measure.tasks import TopClasses
from edgekit.models.network import Network, NetworkIdentity, batched_logits, torch_logits
from edgekit.pipeline.job_images import JobImages, ReferenceInputs
from edgekit.pipeline.request import BuildSpec
from edgekit.support.files import Inputs, writing
from edgekit.support.progress import Reporter
from edgekit.support.run_folder import RunFolder

MOST_LOGITS, LOGITS_BYTES = 2_000, 8 << 20
"""Most images for the signal-to-noise ratio, and most bytes of their logits: 2,000 images of 1,000 classes, and 96 of
21,843. They are stored in the run folder and sent to devices."""
FILES = 32
"""Image files that are kept undecoded, to time the whole path from file to label."""


def crop_images(
    network: Network,
    task: Task,
    images: JobImages,
    workspace: Path,
    run: RunFolder,
    reporter: Reporter,
    name: str = "reference",
) -> EvaluationImages:
    """Crop the evaluation images into a file, so that 50,000 of them need no memory, and let torch answer for them.

    Torch sees the exact form of preprocessing, so that what the network's own form costs is part of every loss. The run
    folder stores the answers under `name`.
    """
    chosen, preprocessing = images.evaluation.samples, network.preprocessing
    pixels = reserve(workspace / f"{name}.npy", (len(chosen), *preprocessing.crop_shape))
    with reporter.stage("crop evaluation images", len(chosen)) as step:
        crops = images.dataset.crop(chosen, preprocessing.in_form("exact"), pixels, step)
    files = [] if images.dataset.is_in_memory else [images.dataset.read(sample) for sample in chosen[:FILES]]
    inputs = images.reference_inputs(network, task)
    names = [sample.name for sample in chosen]
    rows: list[NDArray[np.float32]] = []
    answers = torch_answers(network, task, crops, inputs, run, reporter, rows, name)
    logits = first_logits(network, crops, rows, inputs, run, name)
    if preprocessing.form != "exact":
        with reporter.stage("crop evaluation images in the fast form", len(chosen)) as step:
            images.dataset.crop(chosen, preprocessing, pixels, step)
    return EvaluationImages(task, crops, answers, files, inputs.key, names, logits)


def most_logits(network: Network) -> int:
    """Number of images whose logits are kept: at most `MOST_LOGITS`, and `LOGITS_BYTES`."""
    return max(1, min(MOST_LOGITS, LOGITS_BYTES // (4 * network.classes)))


def first_logits(
    network: Network,
    crops: LabelledCrops,
    rows: Sequence[NDArray[np.float32]],
    inputs: ReferenceInputs,
    run: RunFolder,
    name: str,
) -> NDArray[np.float32]:
    """Torch's logits [M,classes] for the first images: those of an earlier run, these rows, or else computed."""

    def stacked() -> StoredArray:
        return StoredArray.of(np.vstack(rows or list(batched_logits(network, crops.pixels[: most_logits(network)]))))

    return run.once(f"{name}-logits", inputs, StoredArray, stacked).array


def reserve(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Create a uint8 array in a file and reserve its disk space: a mapped file on a full disk kills the process."""
    with writing(path):
        array: np.memmap[Any, np.dtype[np.uint8]] = np.lib.format.open_memmap(
            path, mode="w+", dtype=np.uint8, shape=shape
        )
        with path.open("r+b") as file:
            _allocate(file, array.offset)
    return array


def _allocate(file: BinaryIO, header: int) -> None:
    """Reserve the disk space of a file whose first `header` bytes are written. Raises OSError if the disk is full."""
    size = os.fstat(file.fileno()).st_size
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
        return
    # macOS and Windows don't have this call.
    file.seek(header)
    while left := size - file.tell():
        file.write(bytes(min(left, 1 << 20)))
    file.flush()


def torch_answers(
    network: Network,
    task: Task,
    crops: LabelledCrops,
    inputs: ReferenceInputs,
    run: RunFolder,
    reporter: Reporter,
    rows: list[NDArray[np.float32]],
    name: str = "reference",
) -> Answers:
    """Answers of torch's float network for the evaluation images, from an earlier run if it has them.

    If they are computed, `rows` gets the logits [classes] of the first images.
    """
    stored = task.answers.recalled(run, name, inputs)
    if stored is not None:
        return stored
    with reporter.stage("evaluate torch", len(crops)) as step:

        def outputs() -> Iterator[NDArray[np.float32]]:
            for row in (row for logits in batched_logits(network, crops.pixels) for row in logits):
                if len(rows) < most_logits(network):
                    rows.append(row.copy())
                yield row[None]
                step()

        answers = predict(task, lambda row: row, outputs())
    answers.remember(run, name, inputs)
    return answers


SHOWN = 8
"""Most classes that a message lists."""


def with_order(
    spec: BuildSpec, images: JobImages, evaluation: EvaluationImages, reporter: Reporter
) -> tuple[BuildSpec, JobImages, EvaluationImages]:
    """The same with the classes in alphabetical or in natural order, as the answers of the float network show.

    Nothing changes if names tell the order. Raises UsageError if they don't, and the two orders differ without one that
    is clearly better, or the answers fit another order much better.
    """
    dataset = images.dataset
    answers = evaluation.reference
    targets = evaluation.crops.labels
    if not dataset.assumption or not isinstance(answers, TopClasses) or spec.network.weights == "random":
        return spec, images, evaluation
    names, natural = dataset.class_names, dataset.natural_order
    order, chosen, found = None, names, ""
    if natural:
        other = np.array([natural.index(name) for name in names])[targets]
        differ = targets != other  # the other images don't tell the two orders apart
        hits = {"alphabetical": answers.right(targets)[differ], "natural": answers.right(other)[differ]}
        scores = " and ".join(f"{right.sum()} in {name} order" for name, right in hits.items())
        found = f", and of the {differ.sum()} images whose classes have two places it is right for {scores}"
        if answers.fit_better(targets, other):
            order = "alphabetical"
        elif answers.fit_better(other, targets):
            order, chosen, targets = "natural", natural, other
    fitting = answers.fitting(targets, len(names))
    if fitting is not None or (natural and order is None):
        if fitting is not None:
            places = [chosen[place] for place in np.argsort(fitting)]
            found += f". Its answers fit {', '.join(f'{place} = {name}' for place, name in enumerate(places[:SHOWN]))}"
        raise UsageError(
            f"nothing tells in which order the network has the {len(names)} classes of '{dataset.path}'{found}",
            valid="the names of the classes in the order of the network's outputs",
            fix="List them in a text file, one per line, and name it with `--labels FILE`",
        )
    if order is None:
        return spec, images, evaluation
    reporter.say(f"classes: in {order} order, because nothing else tells their order{found}")
    labels = chosen if spec.network.labels == names else spec.network.labels
    network = replace(spec.network, labels=labels, class_order=order)
    images = images.in_order(chosen)
    spec = replace(
        spec,
        network=network,
        calibration_dataset=spec.calibration_dataset.in_order(chosen),
        calibration=images.calibration,
    )
    key = images.reference_inputs(network, spec.task).key
    return spec, images, replace(evaluation, crops=replace(evaluation.crops, labels=targets), key=key)


BLOCK = 256
"""Images whose crops are in memory at a time."""


@dataclass(frozen=True)
class ChoiceInputs(Inputs):
    """Inputs of what is chosen on images that give no verdict."""

    network: NetworkIdentity
    images: tuple[str, ...]
    """SHA-256 of each image, in their order."""
    labels: tuple[tuple[int, ...], ...]
    """Indices of the classes of each image."""


def with_thresholds(spec: BuildSpec, images: JobImages, run: RunFolder, reporter: Reporter) -> BuildSpec:
    """The same with thresholds that suit the float network's outputs for the images to choose on, if there are any.

    Only tasks with several labels choose thresholds.
    """
    samples = images.choosing.samples
    if spec.task.labelling != "several" or spec.task.thresholds or not samples:
        return spec
    inputs = ChoiceInputs(spec.network.identity, images.choosing.hashes, tuple(each.labels for each in samples))

    def choose() -> tuple[float, ...]:
        outputs = []
        with reporter.stage("choose thresholds", len(samples)) as step:
            for start in range(0, len(samples), BLOCK):
                part = samples[start : start + BLOCK]
                crops = images.dataset.crop(part, spec.network.preprocessing, on_image=step)
                outputs.append(torch_logits(spec.network, crops.pixels))
        targets = images.dataset.targets(samples)
        return spec.task.with_thresholds(np.concatenate(outputs), targets).thresholds

    thresholds = run.once("thresholds", inputs, tuple[float, ...], choose)
    return replace(spec, task=replace(spec.task, thresholds=thresholds))


FEWEST_FOR_FORM = 100
"""Fewest images that choose the form of preprocessing."""
MOST_FOR_FORM = 128
"""Most images that choose it."""
FORM_SHARE = 0.25
"""Share of the allowed loss that the fast form may cost."""
ENLARGED = 65
"""Pixels of an enlarged image for each of the input's: 3 megapixels for 224 x 224, with which the forms differ as much
as with 12."""


def with_form(spec: BuildSpec, images: JobImages, max_drop: float, run: RunFolder, reporter: Reporter) -> BuildSpec:
    """The same with the fast form of preprocessing, if the images to choose on show that it hardly costs anything.

    The mean probability of the right class shows it: on as few images, hardly an answer changes, and the interval of
    top-1 is wider than the bound. `max_drop` is the allowed loss in points.
    """
    network = spec.network
    samples = images.choosing.samples[:MOST_FOR_FORM]
    allowed = FORM_SHARE * max_drop
    has_classes = spec.task.name == "single-label" and images.dataset.is_labelled
    if not has_classes or network.weights == "random" or len(samples) < FEWEST_FOR_FORM:
        reporter.say(
            f"preprocessing: exact, because there are no {FEWEST_FOR_FORM} images of one class each to choose on"
        )
        return spec
    labels = tuple((sample.label,) for sample in samples)
    inputs = ChoiceInputs(network.identity, images.choosing.hashes[:MOST_FOR_FORM], labels)
    low, high = run.once(
        "form", inputs, tuple[float, float], lambda: form_loss(network, images.dataset, samples, reporter)
    )
    form: Form = "fast" if high <= allowed else "exact"
    reporter.say(
        f"preprocessing: {form}, because the fast form takes {low:.2f} to {high:.2f} points of the right class's "
        f"probability (95 % interval on {len(samples)} images), of which {allowed:g} are allowed"
    )
    return replace(spec, network=replace(network, preprocessing=network.preprocessing.in_form(form)))


def form_loss(
    network: Network, dataset: Dataset, samples: Sequence[LabelledImage], reporter: Reporter
) -> tuple[float, float]:
    """95 % interval of the mean probability of the right class that the fast form takes, in points.

    It is that of the images as they are, or enlarged, whose upper end is higher.
    """
    forms = [network.preprocessing.in_form(form) for form in FORMS]
    pixels = ENLARGED * network.preprocessing.height * network.preprocessing.width
    losses = np.zeros((2, len(samples)))
    with reporter.stage("choose the form of preprocessing", len(samples)) as step:
        for index, sample in enumerate(samples):
            image = dataset.image(sample)
            scale = sqrt(pixels / (image.width * image.height))
            size = round(scale * image.width), round(scale * image.height)
            large = photo_of(np.asarray(image), size)
            for row, file in enumerate((dataset.read(sample), large)):
                exact, fast = crops = [form.crop(file) for form in forms]
                if not np.array_equal(exact, fast):
                    logits = torch_logits(network, np.stack(crops)).astype(np.float64)
                    of_exact, of_fast = softmax(logits, axis=1)[:, sample.label]
                    losses[row, index] = 100 * (of_exact - of_fast)
            step()
    means = losses.mean(axis=1)
    widths = Z * losses.std(axis=1, ddof=1) / sqrt(len(samples))
    lows, highs = means - widths, means + widths
    worse = highs.argmax()
    return float(lows[worse]), float(highs[worse])
