"""Several labels for each image: mean average precision, F1 at thresholds, and the paired drop."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from edgekit.config.choices import Activation, Labelling
from edgekit.measure.confidence import Confidences
from edgekit.measure.paired import bootstrap_weights, drop_interval, percentile_interval
from edgekit.measure.tasks.single_label import worst_first
from edgekit.measure.tasks.task import EXAMPLES, MOST_CLASSES, Outputs, Targets, Task
from edgekit.report.document import Reference
from edgekit.report.measurement import Accuracy, ChangedImage, ClassChange, Detail, Score
from edgekit.runtime.activation import activated

THRESHOLD = 0.5
"""Threshold of a class for which none was chosen."""
FEWEST_POSITIVES = 20
"""Fewest images of a class from which its threshold is chosen."""
METRIC = "mAP"
MOST_COMPARED = 100
"""Most classes among which another order is sought."""
SHUFFLES, T_OF_SHUFFLES = 20, 2.093
"""Random orders that show chance, and the 97.5 % quantile of Student's t with one degree of freedom less."""
OTHER_ORDER = 0.2
"""Gain of the mean average precision that shows another order."""


@dataclass(frozen=True)
class MultiLabel(Task):
    """Classification of images that may belong to several classes."""

    name: ClassVar[str] = "multi-label"
    labelling: ClassVar[Labelling] = "several"
    activation: ClassVar[Activation] = "sigmoid"

    def with_thresholds(self, outputs: NDArray[np.float32], targets: Targets) -> Self:
        """The task with the best thresholds for F1, unless some were stated."""
        return self if self.thresholds else replace(self, thresholds=best_thresholds(outputs, targets))

    def given(self, answers: Outputs) -> NDArray[np.bool_]:
        """The classes whose score reaches their threshold, bool [N,classes]."""
        return np.asarray(activated(answers.values, self.activation) >= np.array(self.thresholds or THRESHOLD))

    def _compare(self, answers: Outputs, reference: Outputs, targets: Targets, versus: str) -> Accuracy:
        """Mean average precision with its paired drop, and F1 at the thresholds."""
        weights = bootstrap_weights(len(targets))
        precisions, were = (average_precisions(each.values, targets, weights) for each in (answers, reference))
        drops = mean_over_classes(were) - mean_over_classes(precisions)
        given, was_given = self.given(answers), self.given(reference)
        f1, was = (float(np.nanmean(f1_scores(each, targets))) for each in (given, was_given))
        return Accuracy(
            count=len(targets),
            drop_ci95_points=drop_interval(100 * float(drops[0]), 100 * drops[1:], len(targets)),
            agreement=float((given == was_given).all(1).mean()),
            score=Score(METRIC, float(mean_over_classes(precisions)[0]), (Detail("F1", f1, was),)),
            drop_score_points=100 * float(drops[0]),
            versus=versus,
        )

    def _reference(self, engine: str, answers: Outputs, targets: Targets, outputs: int) -> Reference:
        """Mean average precision beside chance: that of the same outputs for the images in a random order.

        It is near chance unless it is beyond what all but 2.5 % of the random orders give. A network whose outputs fit
        other classes much better counts as near chance too.
        """
        means = mean_over_classes(average_precisions(answers.values, targets, bootstrap_weights(len(targets))))
        low, high = percentile_interval(means[1:])
        guessed, reached = chance(answers.values, targets)
        guesses = means[0] <= reached and high < (1 + guessed) / 2
        f1 = float(np.nanmean(f1_scores(self.given(answers), targets)))
        return Reference(
            engine=engine,
            score=Score(METRIC, float(means[0]), (Detail("F1", f1),)),
            top1_ci95=(low, high),
            chance=guessed,
            near_chance=bool(guesses) or fits_other_classes(answers.values, targets),
        )

    def changes(
        self, answers: Outputs, reference: Outputs, targets: Targets, names: Sequence[str]
    ) -> tuple[ClassChange, ...]:
        """Classes that are given for an image by one model alone."""
        given, was_given = self.given(answers), self.given(reference)

        def of_class(label: int) -> ClassChange:
            own = targets[:, label]
            flipped = given[:, label] != was_given[:, label]
            lost = was_given[:, label] == own
            places = np.flatnonzero(flipped)
            places = places[np.argsort(~lost[places], kind="stable")]
            return ClassChange(
                label=str(label),
                images=int(own.sum()),
                reference_right=int((own & was_given[:, label]).sum()),
                right=int((own & given[:, label]).sum()),
                flipped=len(places),
                examples=tuple(
                    ChangedImage(
                        names[place] if names else f"image {place}",
                        *(" ".join(map(str, np.flatnonzero(each[place]))) for each in (was_given, given)),
                    )
                    for place in places[:EXAMPLES]
                ),
            )

        return worst_first(of_class(int(label)) for label in np.flatnonzero((given != was_given).any(0)))

    def confidences(self, answers: Outputs, targets: Targets) -> Confidences:
        """The score of each class for each image."""
        return Confidences(activated(answers.values, self.activation), targets)

    def right_by_class(self, answers: Outputs, targets: Targets) -> tuple[int, ...] | None:
        """Number of images of each class for which the class is given."""
        return _by_class(self.given(answers) & targets, targets)

    def given_by_class(self, answers: Outputs, targets: Targets) -> tuple[int, ...] | None:
        """Number of images for which the class is given, right or wrong."""
        return _by_class(self.given(answers), targets)


def _by_class(chosen: NDArray[np.bool_], targets: Targets) -> tuple[int, ...] | None:
    """Number of chosen images of each class that images have; None for too many classes."""
    present = targets.any(0)
    return tuple(chosen.sum(0)[present].tolist()) if present.sum() <= MOST_CLASSES else None


def average_precisions(
    outputs: NDArray[np.float32], targets: Targets, weights: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Average precision of each class for each row of weights of the images.

    It is the mean of the precision over the images of the class, from the highest output down; equal outputs count
    together, as in scikit-learn.

    Args:
        outputs: Outputs [N,classes].
        targets: Classes of each image, bool [N,classes].
        weights: Weights of the images, [B,N].

    Returns:
        Average precisions [B,classes]; NaN for a class without an image of any weight.
    """
    result = np.full((len(weights), targets.shape[1]), np.nan)
    for label in np.flatnonzero(targets.any(0)):
        order = np.argsort(-outputs[:, label], kind="stable")
        ranked = outputs[order, label]
        ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
        right = np.cumsum(weights[:, order] * targets[order, label], axis=1, dtype=np.float64)[:, ends]
        seen = np.cumsum(weights[:, order], axis=1, dtype=np.float64)[:, ends]
        gained = np.diff(right, axis=1, prepend=0)
        with np.errstate(invalid="ignore"):
            result[:, label] = np.nansum(gained * right / seen, axis=1) / right[:, -1]
    return result


def mean_over_classes(precisions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean of [B,classes] over the classes that images have."""
    return np.asarray(np.nanmean(precisions, axis=1))


def chance(outputs: NDArray[np.float32], targets: Targets) -> tuple[float, float]:
    """Mean average precision if the outputs are dealt to the images at random, and what it seldom exceeds.

    Both are from `SHUFFLES` random orders: the mean, and the upper end of the 95 % interval of one more order's value.
    """
    random, once = np.random.default_rng(0), np.ones((1, len(targets)), np.float32)
    shuffled = (outputs[random.permutation(len(outputs))] for _ in range(SHUFFLES))
    means = [mean_over_classes(average_precisions(each, targets, once))[0] for each in shuffled]
    guessed = float(np.mean(means))
    return guessed, guessed + T_OF_SHUFFLES * float(np.std(means, ddof=1)) * np.sqrt(1 + 1 / SHUFFLES)


def fits_other_classes(outputs: NDArray[np.float32], targets: Targets) -> bool:
    """Whether the mean average precision is higher by `OTHER_ORDER` if the outputs [N,K] belong to other classes.

    Only the classes that images have are compared, and only up to `MOST_COMPARED`. The pairs of outputs and classes are
    chosen greedily, the best fit first: the best of all assignments needs scipy, which an evaluation does without.
    """
    present = np.flatnonzero(targets.any(0))
    if len(present) > MOST_COMPARED:
        return False
    own, once = targets[:, present], np.ones((1, len(targets)), np.float32)
    fits = np.stack([average_precisions(outputs[:, [label] * len(present)], own, once)[0] for label in present])
    own_fits, left = fits.diagonal().mean(), fits.copy()
    total = 0.0
    for _ in present:
        output, label = np.unravel_index(left.argmax(), left.shape)
        total += left[output, label]
        left[output], left[:, label] = -1, -1
    return bool(total / len(present) > own_fits + OTHER_ORDER)


def f1_scores(given: NDArray[np.bool_], targets: Targets) -> NDArray[np.float64]:
    """F1 of each class, [classes]; NaN for a class that no image has."""
    both = (given & targets).sum(0)
    with np.errstate(invalid="ignore"):
        scores = 2 * both / (given.sum(0) + targets.sum(0))
    return np.where(targets.any(0), scores, np.nan)


def best_thresholds(outputs: NDArray[np.float32], targets: Targets) -> tuple[float, ...]:
    """The threshold of each class with the best F1; `THRESHOLD` for a class of fewer than `FEWEST_POSITIVES` images.

    It lies in the middle between the scores of two images.

    Args:
        outputs: Outputs of the float network, [N,classes].
        targets: Classes of each image, bool [N,classes].
    """
    scores = activated(outputs, MultiLabel.activation).astype(np.float64)  # as the SDK compares them
    return tuple(_best_threshold(scores[:, label], targets[:, label]) for label in range(targets.shape[1]))


def _best_threshold(scores: NDArray[np.float64], own: NDArray[np.bool_]) -> float:
    if own.sum() < FEWEST_POSITIVES:
        return THRESHOLD
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    f1 = 2 * np.cumsum(own[order]) / (np.arange(1, len(order) + 1) + own.sum())
    f1[:-1][ranked[1:] == ranked[:-1]] = 0  # a threshold can't separate equal scores
    last = int(f1.argmax())
    below = ranked[last + 1] if last + 1 < len(ranked) else 0.0
    return float((ranked[last] + below) / 2)
