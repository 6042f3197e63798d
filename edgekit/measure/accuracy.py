"""Compare two models on the same images: top-1, top-5, and the paired drop with its interval."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from math import inf, isfinite, log10, sqrt
from typing import Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import EngineError
from edgekit.images.dataset import LabelledCrops
from edgekit.measure.paired import Z, mcnemar, paired_interval
from edgekit.report.document import EvaluatedClass, Reference
from edgekit.report.measurement import Accuracy, ChangedImage, ClassChange
from edgekit.support.files import Inputs
from edgekit.support.run_folder import RunFolder

Run: TypeAlias = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""A model: an image [1,C,H,W] to logits [1,classes]."""
CLASSES, EXAMPLES = 100, 5
"""Most classes with changed predictions, and most images of each, that a report lists."""


@dataclass(frozen=True)
class Predictions:
    """Predictions of one model for N images."""

    best: NDArray[np.int64]
    """Class with the highest logit, int64 [N]."""
    hit1: NDArray[np.bool_]
    """Whether that class is the label, bool [N]."""
    hit5: NDArray[np.bool_]
    """Whether the label is among the five best classes, bool [N]."""

    @classmethod
    def of(cls, best: Sequence[int], hit1: Sequence[bool], hit5: Sequence[bool]) -> Self:
        """Predictions from these values."""
        return cls(np.array(best, np.int64), np.array(hit1, bool), np.array(hit5, bool))

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Predictions for the images of all parts, in the parts' order."""
        columns = zip(*((part.best, part.hit1, part.hit5) for part in parts), strict=True)
        return cls(*map(np.concatenate, columns))

    @classmethod
    def recalled(cls, run: RunFolder, name: str, inputs: Inputs) -> Self | None:
        """Predictions that a run folder has under this name for equal inputs; None if there are none."""
        stored = run.recall(name, inputs, tuple[list[int], list[bool], list[bool]])
        return None if stored is None else cls.of(*stored)

    def remember(self, run: RunFolder, name: str, inputs: Inputs) -> None:
        """Store the predictions in a run folder for `recalled`."""
        run.remember(name, inputs, [values.tolist() for values in (self.best, self.hit1, self.hit5)])


@dataclass(frozen=True)
class EvaluationImages:
    """The evaluation images, and torch's predictions for them."""

    crops: LabelledCrops
    """Cropped images and their labels."""
    reference: Predictions
    """Predictions of the original network in torch."""
    files: Sequence[bytes]
    """A few encoded image files, for end-to-end times."""
    key: str
    """Hash of everything that measurements depend on: the images in their order, their labels, and the network."""
    names: Sequence[str] = ()
    """Paths of the images within their data set, in the same order; empty where they are unknown."""
    logits: NDArray[np.float32] | None = None
    """Torch's logits [M,classes] for the first M images, for the signal-to-noise ratio; None to leave that out."""


def predict(
    run: Run,
    images: Iterable[tuple[NDArray[np.float32], int]],
    names: Sequence[str] = (),
) -> Predictions:
    """Run a model on pairs of a float32 image [1,3,H,W] and its label; raises EngineError if a logit isn't finite.

    The message names the image by `names`, or by its position if there are none.
    """
    best, hit1, hit5 = [], [], []
    for index, (image, label) in enumerate(images):
        logits = run(image)[0]
        if not np.isfinite(logits).all():
            image_name = f"'{names[index]}'" if names else str(index)
            raise EngineError(f"the logits for image {image_name} are NaN or infinite")
        ranked = np.argsort(-logits, kind="stable")[:5]
        best.append(int(ranked[0]))
        hit1.append(bool(ranked[0] == label))
        hit5.append(bool((ranked == label).any()))
    return Predictions.of(best, hit1, hit5)


def compare(predictions: Predictions, reference: Predictions, versus: str = "reference") -> Accuracy:
    """Accuracy of `predictions`, and its difference from `reference` on the same images in the same order."""
    count = len(predictions.best)
    lost = int((reference.hit1 & ~predictions.hit1).sum())
    won = int((~reference.hit1 & predictions.hit1).sum())
    low, high = paired_interval(lost, won, count)
    return Accuracy(
        top1=float(predictions.hit1.mean()),
        top5=float(predictions.hit5.mean()),
        count=count,
        drop_top1_points=100 * (lost - won) / count,
        drop_ci95_points=(100 * low, 100 * high),
        right_to_wrong=lost,
        wrong_to_right=won,
        mcnemar_p=mcnemar(lost, won),
        agreement=float((predictions.best == reference.best).mean()),
        versus=versus,
    )


def changed_classes(
    predictions: Predictions,
    reference: Predictions,
    labels: NDArray[np.int64],
    names: Sequence[str],
) -> tuple[ClassChange, ...]:
    """Classes in which a prediction differs from the reference's, the largest loss first, at most `CLASSES`.

    Instead of its name, each class has its index, because `--labels` may change names later; see `with_class_names`.

    Args:
        predictions: Predictions of a bundle for N images.
        reference: Predictions of the reference for the same images.
        labels: Right class of each image, int64 [N].
        names: Names of the images; where there are none, an image is named by its place, such as "image 7".
    """
    flipped = predictions.best != reference.best
    changes = []
    for label in np.unique(labels[flipped]):
        own = labels == label
        places = np.flatnonzero(own & flipped)
        lost = reference.hit1[places] & ~predictions.hit1[places]
        examples = tuple(
            ChangedImage(
                names[place] if names else f"image {place}",
                str(reference.best[place]),
                str(predictions.best[place]),
            )
            for place in places[np.argsort(~lost, kind="stable")][:EXAMPLES]
        )
        change = ClassChange(
            label=str(label),
            images=int(own.sum()),
            reference_right=int((own & reference.hit1).sum()),
            right=int((own & predictions.hit1).sum()),
            flipped=len(places),
            examples=examples,
        )
        changes.append(change)
    changes.sort(key=lambda change: (change.right - change.reference_right, -change.flipped))
    return tuple(changes[:CLASSES])


def with_class_names(changes: Sequence[ClassChange], class_names: Sequence[str]) -> tuple[ClassChange, ...]:
    """The changes of `changed_classes` with the names of the classes instead of their indices."""
    return tuple(
        replace(
            change,
            label=class_names[int(change.label)],
            examples=tuple(
                ChangedImage(each.image, class_names[int(each.before)], class_names[int(each.after)])
                for each in change.examples
            ),
        )
        for change in changes
    )


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


def reference_of(
    engine: str, predictions: Predictions, labels: NDArray[np.int64], outputs: int, random_weights: bool
) -> Reference:
    """Accuracy of the model that others are compared with, and whether it is near chance.

    It is near chance if the 95 % interval of its top-1 reaches down to chance and ends below the middle between chance
    and 100 %. The second condition excludes evaluations of so few images that a good network could give them too: of
    four classes, 1 right of 4 images shows nothing, 2 right of 8 do.

    Args:
        engine: Name of what ran the model.
        predictions: Its predictions for N images.
        labels: Right class of each image, int64 [N].
        outputs: Number of the model's classes.
        random_weights: Whether its weights are random, which are expected to guess.
    """
    hits, count = int(predictions.hit1.sum()), len(predictions.hit1)
    low, high = share_interval(hits, count)
    guessed = chance(predictions.best, labels, outputs)
    return Reference(
        engine=engine,
        top1=hits / count,
        top5=float(predictions.hit5.mean()),
        top1_ci95=(low, high),
        chance=guessed,
        near_chance=not random_weights and low <= guessed and high < (1 + guessed) / 2,
    )


def chance(best: NDArray[np.int64], labels: NDArray[np.int64], outputs: int) -> float:
    """Top-1 that is left when the model's predictions are dealt to the images at random.

    A model that gives the same answer for every image has no other. At most it is one over the number of classes that
    the images have, so that a set of mostly one class raises no false alarm; and for images of a single class, on which
    every order of the predictions is equally right, it is one over the number of `outputs`.
    """
    classes, counts = np.unique(labels, return_counts=True)
    if len(classes) == 1:
        return 1 / outputs
    predicted = np.array([(best == label).mean() for label in classes])
    return min(float(predicted @ counts) / len(labels), 1 / len(classes))


def share_interval(hits: int, count: int) -> tuple[float, float]:
    """95 % interval of the share hits / count: Wilson's score interval, which holds for few images and near 0 and 1."""
    share, square = hits / count, Z**2
    middle = (share + square / (2 * count)) / (1 + square / count)
    half = Z / (1 + square / count) * sqrt(share * (1 - share) / count + square / (4 * count**2))
    return (0.0 if hits == 0 else middle - half), (1.0 if hits == count else middle + half)


MOST_CLASSES = 1_000
"""Most classes that a report counts one by one."""


def evaluated_classes(labels: Iterable[int], class_names: Sequence[str]) -> tuple[EvaluatedClass, ...] | None:
    """The classes of images with these labels, by index, and their numbers of images; None for too many classes."""
    counts = Counter(labels)
    if len(counts) > MOST_CLASSES:
        return None
    return tuple(EvaluatedClass(class_names[label], counts[label]) for label in sorted(counts))


def right_by_class(predictions: Predictions, labels: NDArray[np.int64]) -> tuple[int, ...] | None:
    """Number of right predictions for each class of `evaluated_classes`; None for too many classes.

    Args:
        predictions: Predictions for N images.
        labels: Right class of each image, int64 [N].
    """
    classes, places = np.unique(labels, return_inverse=True)
    if len(classes) > MOST_CLASSES:
        return None
    return tuple(np.bincount(places[predictions.hit1], minlength=len(classes)).tolist())
