"""A vector for each image: nearest neighbours, and the cosine to the float network's vector."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from edgekit.config.choices import Activation, Labelling
from edgekit.measure.confidence import Confidences
from edgekit.measure.paired import bootstrap_weights, percentile_interval, share_interval
from edgekit.measure.tasks.single_label import chance, changed, difference, hits_by_class, near_chance
from edgekit.measure.tasks.task import Outputs, Targets, Task
from edgekit.report.document import Reference
from edgekit.report.measurement import Accuracy, ClassChange, Detail, Score
from edgekit.runtime.activation import activated

NEIGHBOURS = 10
"""Number of nearest neighbours that are compared."""
BLOCK = 512
"""Images whose neighbours are sought together."""
BY_LABEL = "nearest-neighbour top-1"
BY_COSINE = "5th percentile of the cosine to float"


@dataclass(frozen=True)
class Embedding(Task):
    """Vectors that are compared by their cosine, as for search and re-identification."""

    name: ClassVar[str] = "embedding"
    labelling: ClassVar[Labelling] = "optional"
    activation: ClassVar[Activation] = "normalize"

    def _kept(self, outputs: NDArray[np.float32]) -> Outputs:
        """The vectors with length 1."""
        return Outputs(activated(outputs, self.activation))

    def _compare(self, answers: Outputs, reference: Outputs, targets: Targets, versus: str) -> Accuracy:
        """With labels, the share of images whose nearest neighbour has the same label; else the cosine to `reference`.

        The neighbour is sought among the other images.
        """
        near, were_near = neighbours(answers.values), neighbours(reference.values)
        cosines = np.einsum("nd,nd->n", answers.values, reference.values, dtype=np.float64)
        fifth, median = np.percentile(cosines, (5, 50))
        details = (
            Detail("5th percentile of the cosine", float(fifth)),
            Detail("median of the cosine", float(median)),
            Detail(f"overlap of the {near.shape[1]} nearest", overlap(near, were_near)),
        )
        agreement = float((near[:, 0] == were_near[:, 0]).mean())
        if not is_labelled(targets):
            spread = [weighted_percentile(cosines, weights, 0.05) for weights in bootstrap_weights(len(cosines))[1:]]
            low, high = percentile_interval(100 * (1 - np.array(spread)))
            return Accuracy(
                count=len(targets),
                drop_ci95_points=(low, high),
                agreement=agreement,
                score=Score(BY_COSINE, float(fifth), details[1:]),
                drop_score_points=100 * (1 - float(fifth)),
                versus=versus,
            )
        right, was_right = (targets[each[:, 0]] == targets for each in (near, were_near))
        return Accuracy(
            agreement=agreement,
            score=Score(BY_LABEL, float(right.mean()), details),
            drop_score_points=100 * float(was_right.mean() - right.mean()),
            versus=versus,
            **vars(difference(right, was_right)),
        )

    def _reference(self, engine: str, answers: Outputs, targets: Targets, outputs: int) -> Reference:
        """With labels, the share of images whose nearest neighbour has the same label, beside chance."""
        if not is_labelled(targets):
            return Reference(engine=engine, score=Score(BY_COSINE, 1.0))
        found = targets[neighbours(answers.values)[:, 0]]
        right = found == targets
        ends = share_interval(int(right.sum()), len(right))
        guessed = chance(found, targets, len(np.unique(targets)))
        return Reference(
            engine=engine,
            score=Score(BY_LABEL, float(right.mean())),
            top1_ci95=ends,
            chance=guessed,
            near_chance=near_chance(ends, guessed),
        )

    def changes(
        self, answers: Outputs, reference: Outputs, targets: Targets, names: Sequence[str]
    ) -> tuple[ClassChange, ...]:
        """Classes of the images whose nearest neighbour differs; the examples name both neighbours.

        Without labels, all images are one class, and the reference's neighbour is the right one.
        """
        near, were_near = neighbours(answers.values)[:, 0], neighbours(reference.values)[:, 0]
        shown = names or [f"image {place}" for place in range(len(targets))]
        words = [(shown[before], shown[after]) for before, after in zip(were_near, near, strict=True)]
        right, was_right = targets[near] == targets, targets[were_near] == targets
        if not is_labelled(targets):
            right, was_right = near == were_near, np.ones_like(was_right)
        return changed(near != were_near, right, was_right, targets, words, names)

    def confidences(self, answers: Outputs, targets: Targets) -> Confidences:
        """The cosines to the nearest other images, which are no probabilities."""
        nearest = answers.values[neighbours(answers.values)[:, 0]]
        return Confidences(np.einsum("nd,nd->n", answers.values, nearest))

    def right_by_class(self, answers: Outputs, targets: Targets) -> tuple[int, ...] | None:
        """Number of images of each class whose nearest neighbour has it too."""
        if not is_labelled(targets):
            return None
        return hits_by_class(targets[neighbours(answers.values)[:, 0]] == targets, targets)


def is_labelled(targets: Targets) -> bool:
    """Whether the images have labels."""
    return bool((targets >= 0).all())


def neighbours(vectors: NDArray[np.float32]) -> NDArray[np.int64]:
    """The nearest other images of each image by the cosine of vectors of length 1, int64 [N,k].

    The nearest comes first; k is `NEIGHBOURS`, or one less than the number of images.
    """
    count = min(NEIGHBOURS, len(vectors) - 1)
    found = np.zeros((len(vectors), max(count, 1)), np.int64)
    for start in range(0, len(vectors) if count else 0, BLOCK):
        cosines = vectors[start : start + BLOCK] @ vectors.T
        rows = np.arange(len(cosines))
        cosines[rows, start + rows] = -np.inf
        near = np.argpartition(-cosines, count - 1, axis=1)[:, :count]
        order = np.argsort(-np.take_along_axis(cosines, near, 1), axis=1, kind="stable")
        found[start : start + BLOCK] = np.take_along_axis(near, order, 1)
    return found


def overlap(near: NDArray[np.int64], were_near: NDArray[np.int64]) -> float:
    """Mean share of the nearest neighbours [N,k] that two models have in common."""
    return float((near[:, :, None] == were_near[:, None, :]).any(2).mean())


def weighted_percentile(values: NDArray[np.float64], weights: NDArray[np.float32], share: float) -> float:
    """The smallest of N values up to which this share of the weights lies."""
    order = np.argsort(values)
    reached = np.cumsum(weights[order]) >= share * weights.sum()
    return float(values[order][reached.argmax()])
