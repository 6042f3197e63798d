"""One right class for each image: top-1, top-5 and the paired drop."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from edgekit.config.choices import Activation, Labelling
from edgekit.measure.confidence import Confidences
from edgekit.measure.paired import mcnemar, paired_interval, share_interval
from edgekit.measure.tasks.task import CLASSES, EXAMPLES, MOST_CLASSES, Answers, Targets, Task
from edgekit.report.document import Reference
from edgekit.report.measurement import Accuracy, ChangedImage, ClassChange

Hits = NDArray[np.bool_]
"""Whether each answer is right, bool [N]."""


@dataclass(frozen=True)
class TopClasses(Answers):
    """The best classes of each image."""

    classes: NDArray[np.int64]
    """The five classes with the highest outputs, the best first, int64 [N,5]; fewer if there are fewer."""
    confidence: NDArray[np.float32]
    """Softmax score of the best class, float32 [N]."""

    @property
    def best(self) -> NDArray[np.int64]:
        """The best class, int64 [N]."""
        return self.classes[:, 0]

    def right(self, targets: Targets) -> Hits:
        """Whether the best class is the right one."""
        return np.asarray(self.best == targets)

    def right_in_five(self, targets: Targets) -> Hits:
        """Whether the right class is among the best five."""
        return np.asarray((self.classes == targets[:, None]).any(1))


@dataclass(frozen=True)
class SingleLabel(Task):
    """Classification of images that each belong to one class."""

    name: ClassVar[str] = "single-label"
    labelling: ClassVar[Labelling] = "one"
    activation: ClassVar[Activation] = "softmax"
    answers: ClassVar[type[Answers]] = TopClasses

    def _kept(self, outputs: NDArray[np.float32]) -> TopClasses:
        """The best classes. Of equal outputs, the first is the best."""
        classes = np.argsort(-outputs, axis=1, kind="stable")[:, :5].astype(np.int64)
        scores = np.exp(outputs.astype(np.float64) - outputs.max(1, keepdims=True))
        return TopClasses(classes, (scores.max(1) / scores.sum(1)).astype(np.float32))

    def _compare(self, answers: TopClasses, reference: TopClasses, targets: Targets, versus: str) -> Accuracy:
        """Top-1 and top-5, and the paired drop of top-1."""
        right, was_right = answers.right(targets), reference.right(targets)
        return Accuracy(
            top1=float(right.mean()),
            top5=float(answers.right_in_five(targets).mean()),
            agreement=float((answers.best == reference.best).mean()),
            drop_top1_points=100 * float(was_right.mean() - right.mean()),
            versus=versus,
            **vars(difference(right, was_right)),
        )

    def _reference(self, engine: str, answers: TopClasses, targets: Targets, outputs: int) -> Reference:
        """Top-1 and top-5 beside chance; see `near_chance`."""
        right = answers.right(targets)
        low, high = share_interval(int(right.sum()), len(right))
        guessed = chance(answers.best, targets, outputs)
        return Reference(
            engine=engine,
            top1=float(right.mean()),
            top5=float(answers.right_in_five(targets).mean()),
            top1_ci95=(low, high),
            chance=guessed,
            near_chance=near_chance((low, high), guessed),
        )

    def changes(
        self, answers: TopClasses, reference: TopClasses, targets: Targets, names: Sequence[str]
    ) -> tuple[ClassChange, ...]:
        """Classes of the images whose best class differs."""
        words = [(str(before), str(after)) for before, after in zip(reference.best, answers.best, strict=True)]
        hits = answers.right(targets), reference.right(targets)
        return changed(answers.best != reference.best, *hits, targets, words, names)

    def confidences(self, answers: TopClasses, targets: Targets) -> Confidences:
        """The softmax scores of the best classes."""
        return Confidences(answers.confidence, answers.right(targets), answers.best)

    def right_by_class(self, answers: TopClasses, targets: Targets) -> tuple[int, ...] | None:
        """Number of images of each class whose best class is the right one."""
        return hits_by_class(answers.right(targets), targets)


@dataclass(frozen=True)
class Difference:
    """Images that one of two models gets right, as `Accuracy` has them."""

    count: int
    drop_ci95_points: tuple[float, float]
    right_to_wrong: int
    wrong_to_right: int
    mcnemar_p: float


def difference(right: Hits, was_right: Hits) -> Difference:
    """The paired difference of two models on N images."""
    count, lost, won = len(right), int((was_right & ~right).sum()), int((~was_right & right).sum())
    low, high = paired_interval(lost, won, count)
    return Difference(count, (100 * low, 100 * high), lost, won, mcnemar(lost, won))


def changed(
    flipped: Hits,
    right: Hits,
    was_right: Hits,
    targets: Targets,
    words: Sequence[tuple[str, str]],
    names: Sequence[str],
) -> tuple[ClassChange, ...]:
    """Classes of the images whose answer flipped, the largest loss first; `words` are both answers for each image."""

    def of_class(label: int) -> ClassChange:
        own = targets == label
        places = np.flatnonzero(own & flipped)
        lost = was_right[places] & ~right[places]
        return ClassChange(
            label=str(label),
            images=int(own.sum()),
            reference_right=int((own & was_right).sum()),
            right=int((own & right).sum()),
            flipped=len(places),
            examples=tuple(
                ChangedImage(names[place] if names else f"image {place}", *words[place])
                for place in places[np.argsort(~lost, kind="stable")][:EXAMPLES]
            ),
        )

    return worst_first(of_class(label) for label in np.unique(targets[flipped]))


def worst_first(changes: Iterator[ClassChange]) -> tuple[ClassChange, ...]:
    """The changes, the largest loss first, at most `CLASSES`."""
    ordered = sorted(changes, key=lambda change: (change.right - change.reference_right, -change.flipped))
    return tuple(ordered[:CLASSES])


def hits_by_class(right: Hits, targets: Targets) -> tuple[int, ...] | None:
    """Number of right answers for each class that images have, by index; None for too many classes."""
    classes, places = np.unique(targets, return_inverse=True)
    if len(classes) > MOST_CLASSES:
        return None
    return tuple(np.bincount(places[right], minlength=len(classes)).tolist())


def chance(best: NDArray[np.int64], targets: Targets, outputs: int) -> float:
    """Top-1 that is left when the model's answers are dealt to the images at random.

    A model that gives the same answer for every image has no other. At most it is one over the number of classes that
    the images have, so that a set of mostly one class raises no false alarm; and for images of a single class, on which
    every order of the answers is equally right, it is one over the number of `outputs`.
    """
    classes, counts = np.unique(targets, return_counts=True)
    if len(classes) == 1:
        return 1 / outputs
    predicted = np.array([(best == label).mean() for label in classes])
    return min(float(predicted @ counts) / len(targets), 1 / len(classes))


def near_chance(ends: tuple[float, float], guessed: float) -> bool:
    """Whether an interval reaches down to chance and ends below the middle between chance and 100 %.

    The second condition excludes evaluations of so few images that a good network could give them too: of four
    classes, 1 right of 4 images shows nothing, 2 right of 8 do.
    """
    low, high = ends
    return low <= guessed and high < (1 + guessed) / 2
