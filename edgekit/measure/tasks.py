"""The tasks: one right class for each image, several labels, or a vector.

Their metrics are top-1; mean average precision with F1 at thresholds; and nearest neighbours with the cosine to the
float network's vector. Each has a paired drop.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from edgekit.config.runtimes import Activation, Labelling
from edgekit.errors import UsageError
from edgekit.measure.statistics import (
    Confidences,
    Doubles,
    Floats,
    Hits,
    bootstrap_weights,
    drop_interval,
    mcnemar,
    paired_interval,
    percentile_interval,
    share_interval,
)
from edgekit.measure.task import CLASSES, EXAMPLES, MOST_CLASSES, Answers, Outputs, Targets, Task
from edgekit.report.document import Reference
from edgekit.report.figure import Interval
from edgekit.report.row import AGREEMENT, COSINE, Accuracy, ChangedImage, ClassChange, Detail, Score
from edgekit.runtime.session import activated


@dataclass(frozen=True)
class TopClasses(Answers):
    """The best classes of each image."""

    classes: NDArray[np.int64]
    """The five classes with the highest outputs, the best first, int64 [N,5]; fewer if there are fewer."""
    confidence: Floats
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

    def fit_better(self, targets: Targets, others: Targets) -> bool:
        """Whether these are the right classes rather than others, as the images show for which the two differ."""
        differ = targets != others
        return _is_better(self.right(targets)[differ], self.right(others)[differ])

    def fitting(self, targets: Targets, classes: int) -> NDArray[np.int64] | None:
        """The output that each class fits best on half of its images, if the other half confirms it; None otherwise."""
        from scipy.optimize import linear_sum_assignment  # boards import this module, and don't have scipy

        if classes > MOST_CLASSES:
            return None
        by_class = np.argsort(targets, kind="stable")
        chosen, judged = by_class[::2], by_class[1::2]
        counts = 0.5 * np.eye(classes)  # a class that no image tells of keeps its output
        np.add.at(counts, (targets[chosen], self.best[chosen]), 1)
        outputs: NDArray[np.int64] = linear_sum_assignment(counts, maximize=True)[1]
        hits, others = (self.right(each)[judged] for each in (outputs[targets], targets))
        return outputs if _is_better(hits, others) and hits.mean() > others.mean() + OTHER_ORDER else None


def _is_better(hits: Hits, others: Hits) -> bool:
    """Whether the interval of one share of the same images lies above that of the other."""
    count = len(hits)
    return count > 0 and share_interval(int(hits.sum()), count)[0] > share_interval(int(others.sum()), count)[1]


@dataclass(frozen=True)
class SingleLabel(Task):
    """Classification of images that each belong to one class."""

    name: ClassVar[str] = "single-label"
    labelling: ClassVar[Labelling] = "one"
    activation: ClassVar[Activation] = "softmax"
    answers: ClassVar[type[Answers]] = TopClasses

    def _kept(self, outputs: Floats) -> TopClasses:
        """The best classes. Of equal outputs, the first is the best."""
        classes = np.argsort(-outputs, axis=1, kind="stable")[:, :5].astype(np.int64)
        scores = np.exp(outputs.astype(np.float64) - outputs.max(1, keepdims=True))
        return TopClasses(classes, (scores.max(1) / scores.sum(1)).astype(np.float32))

    def _compare(self, answers: TopClasses, reference: TopClasses, targets: Targets, versus: str) -> Accuracy:
        """With labels, top-1 and top-5, and the paired drop of top-1; else the share of images with the same class."""
        same = answers.best == reference.best
        agreement = float(same.mean())
        if not is_labelled(targets):
            low, high = share_interval(int(same.sum()), len(same))
            return Accuracy(
                count=len(same),
                drop_ci95_points=(100 * (1 - high), 100 * (1 - low)),
                agreement=agreement,
                score=Score(AGREEMENT, agreement),
                drop_score_points=100 * (1 - agreement),
                versus=versus,
            )
        right, was_right = answers.right(targets), reference.right(targets)
        return Accuracy(
            top1=float(right.mean()),
            top5=float(answers.right_in_five(targets).mean()),
            agreement=agreement,
            drop_top1_points=100 * float(was_right.mean() - right.mean()),
            versus=versus,
            **difference(right, was_right),
        )

    def _reference(self, engine: str, answers: TopClasses, targets: Targets, outputs: int) -> Reference:
        """With labels, top-1 and top-5 beside chance; see `near_chance`."""
        if not is_labelled(targets):
            return Reference(engine=engine, score=Score(AGREEMENT, 1.0))
        right = answers.right(targets)
        low, high = share_interval(int(right.sum()), len(right))
        guessed = chance_of_top1(answers.best, targets, outputs)
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
        """Classes of the images whose best class differs. Without labels, the reference's is the right one."""
        if not is_labelled(targets):
            targets = reference.best
        words = [(str(before), str(after)) for before, after in zip(reference.best, answers.best, strict=True)]
        hits = answers.right(targets), reference.right(targets)
        return changed(answers.best != reference.best, *hits, targets, words, names)

    def confidences(self, answers: TopClasses, targets: Targets) -> Confidences:
        """The softmax scores of the best classes."""
        return Confidences(answers.confidence, answers.right(targets) if is_labelled(targets) else None, answers.best)

    def right_by_class(self, answers: TopClasses, targets: Targets) -> tuple[int, ...] | None:
        """Number of images of each class whose best class is the right one."""
        return hits_by_class(answers.right(targets), targets) if is_labelled(targets) else None


def difference(right: Hits, was_right: Hits) -> dict[str, Any]:
    """The paired difference of two models on N images."""
    count, lost, won = len(right), int((was_right & ~right).sum()), int((~was_right & right).sum())
    low, high = paired_interval(lost, won, count)
    return {
        "count": count,
        "drop_ci95_points": (100 * low, 100 * high),
        "right_to_wrong": lost,
        "wrong_to_right": won,
        "mcnemar_p": mcnemar(lost, won),
    }


def changed(
    flipped: Hits,
    right: Hits,
    was_right: Hits,
    targets: Targets,
    words: Sequence[tuple[str, str]],
    names: Sequence[str],
) -> tuple[ClassChange, ...]:
    """Classes of the images whose answer flipped, the largest loss first; `words` are both answers for each image."""
    lost = was_right & ~right
    return worst_first(
        class_change(label, own := targets == label, right, was_right, own & flipped, lost, words.__getitem__, names)
        for label in np.unique(targets[flipped])
    )


def class_change(
    label: int,
    own: Hits,
    right: Hits,
    was_right: Hits,
    flipped: Hits,
    lost: Hits,
    words: Callable[[int], tuple[str, str]],
    names: Sequence[str],
) -> ClassChange:
    """The change of one class, which has its `own` images; `words` are both answers for the image at a place."""
    places = np.flatnonzero(flipped)
    shown = places[np.argsort(~lost[places], kind="stable")][:EXAMPLES]
    return ClassChange(
        label=str(label),
        images=int(own.sum()),
        reference_right=int((own & was_right).sum()),
        right=int((own & right).sum()),
        flipped=len(places),
        examples=tuple(
            ChangedImage(names[place] if names else f"image {place}", *words(place)) for place in shown.tolist()
        ),
    )


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


def chance_of_top1(best: NDArray[np.int64], targets: Targets, outputs: int) -> float:
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


def near_chance(ends: Interval, guessed: float) -> bool:
    """Whether an interval reaches down to chance and ends below the middle between chance and 100 %.

    The second condition excludes evaluations of so few images that a good network could give them too: of four
    classes, 1 right of 4 images shows nothing, 2 right of 8 do.
    """
    low, high = ends
    return low <= guessed and high < (1 + guessed) / 2


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
"""Gain of the metric that shows another order."""


@dataclass(frozen=True)
class MultiLabel(Task):
    """Classification of images that may belong to several classes."""

    name: ClassVar[str] = "multi-label"
    labelling: ClassVar[Labelling] = "several"
    activation: ClassVar[Activation] = "sigmoid"

    def with_thresholds(self, outputs: Floats, targets: Targets) -> Self:
        """The task with the best thresholds for F1, unless some were stated."""
        return self if self.thresholds else replace(self, thresholds=best_thresholds(outputs, targets))

    def given(self, answers: Outputs) -> Hits:
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
        guessed, reached = chance_of_precision(answers.values, targets)
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

        flipped, lost = given != was_given, was_given == targets

        def words(place: int) -> tuple[str, str]:
            before, after = (" ".join(map(str, np.flatnonzero(each[place]))) for each in (was_given, given))
            return before, after

        columns = zip(targets.T, given.T, was_given.T, flipped.T, lost.T, strict=True)
        return worst_first(
            class_change(label, *each, words, names) for label, each in enumerate(columns) if flipped[:, label].any()
        )

    def confidences(self, answers: Outputs, targets: Targets) -> Confidences:
        """The score of each class for each image."""
        return Confidences(activated(answers.values, self.activation), targets)

    def right_by_class(self, answers: Outputs, targets: Targets) -> tuple[int, ...] | None:
        """Number of images of each class for which the class is given."""
        return _by_class(self.given(answers) & targets, targets)

    def given_by_class(self, answers: Outputs, targets: Targets) -> tuple[int, ...] | None:
        """Number of images for which the class is given, right or wrong."""
        return _by_class(self.given(answers), targets)


def _by_class(chosen: Hits, targets: Targets) -> tuple[int, ...] | None:
    """Number of chosen images of each class that images have; None for too many classes."""
    present = targets.any(0)
    return tuple(chosen.sum(0)[present].tolist()) if present.sum() <= MOST_CLASSES else None


def average_precisions(outputs: Floats, targets: Targets, weights: Floats) -> Doubles:
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


def mean_over_classes(precisions: Doubles) -> Doubles:
    """Mean of [B,classes] over the classes that images have."""
    return np.asarray(np.nanmean(precisions, axis=1))


def chance_of_precision(outputs: Floats, targets: Targets) -> Interval:
    """Mean average precision if the outputs are dealt to the images at random, and what it seldom exceeds.

    Both are from `SHUFFLES` random orders: the mean, and the upper end of the 95 % interval of one more order's value.
    """
    random, once = np.random.default_rng(0), np.ones((1, len(targets)), np.float32)
    shuffled = (outputs[random.permutation(len(outputs))] for _ in range(SHUFFLES))
    means = [mean_over_classes(average_precisions(each, targets, once))[0] for each in shuffled]
    guessed = float(np.mean(means))
    return guessed, guessed + T_OF_SHUFFLES * float(np.std(means, ddof=1)) * np.sqrt(1 + 1 / SHUFFLES)


def fits_other_classes(outputs: Floats, targets: Targets) -> bool:
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


def f1_scores(given: Hits, targets: Targets) -> Doubles:
    """F1 of each class, [classes]; NaN for a class that no image has."""
    both = (given & targets).sum(0)
    with np.errstate(invalid="ignore"):
        scores = 2 * both / (given.sum(0) + targets.sum(0))
    return np.where(targets.any(0), scores, np.nan)


def best_thresholds(outputs: Floats, targets: Targets) -> tuple[float, ...]:
    """The threshold of each class with the best F1; `THRESHOLD` for a class of fewer than `FEWEST_POSITIVES` images.

    It lies in the middle between the scores of two images.

    Args:
        outputs: Outputs of the float network, [N,classes].
        targets: Classes of each image, bool [N,classes].
    """
    scores = activated(outputs, MultiLabel.activation).astype(np.float64)  # as the SDK compares them
    return tuple(_best_threshold(scores[:, label], targets[:, label]) for label in range(targets.shape[1]))


def _best_threshold(scores: Doubles, own: Hits) -> float:
    if own.sum() < FEWEST_POSITIVES:
        return THRESHOLD
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    f1 = 2 * np.cumsum(own[order]) / (np.arange(1, len(order) + 1) + own.sum())
    f1[:-1][ranked[1:] == ranked[:-1]] = 0  # a threshold can't separate equal scores
    last = int(f1.argmax())
    below = ranked[last + 1] if last + 1 < len(ranked) else 0.0
    return float((ranked[last] + below) / 2)


NEIGHBOURS = 10
"""Number of nearest neighbours that are compared."""
BLOCK = 512
"""Images whose neighbours are sought together."""
BY_LABEL = "nearest-neighbour top-1"


@dataclass(frozen=True)
class Embedding(Task):
    """Vectors that are compared by their cosine, as for search and re-identification."""

    name: ClassVar[str] = "embedding"
    labelling: ClassVar[Labelling] = "optional"
    activation: ClassVar[Activation] = "normalize"

    def _kept(self, outputs: Floats) -> Outputs:
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
                score=Score(COSINE, float(fifth), details[1:]),
                drop_score_points=100 * (1 - float(fifth)),
                versus=versus,
            )
        right, was_right = (targets[each[:, 0]] == targets for each in (near, were_near))
        return Accuracy(
            agreement=agreement,
            score=Score(BY_LABEL, float(right.mean()), details),
            drop_score_points=100 * float(was_right.mean() - right.mean()),
            versus=versus,
            **difference(right, was_right),
        )

    def _reference(self, engine: str, answers: Outputs, targets: Targets, outputs: int) -> Reference:
        """With labels, the share of images whose nearest neighbour has the same label, beside chance."""
        if not is_labelled(targets):
            return Reference(engine=engine, score=Score(COSINE, 1.0))
        found = targets[neighbours(answers.values)[:, 0]]
        right = found == targets
        ends = share_interval(int(right.sum()), len(right))
        guessed = chance_of_top1(found, targets, len(np.unique(targets)))
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


def neighbours(vectors: Floats) -> NDArray[np.int64]:
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


def weighted_percentile(values: Doubles, weights: Floats, share: float) -> float:
    """The smallest of N values up to which this share of the weights lies."""
    order = np.argsort(values)
    reached = np.cumsum(weights[order]) >= share * weights.sum()
    return float(values[order][reached.argmax()])


TASKS: Mapping[str, Task] = {task.name: task for task in (SingleLabel(), MultiLabel(), Embedding())}
"""The tasks by their names."""


def task_of(name: str, thresholds: Sequence[float] = ()) -> Task:
    """The task of this name, with its thresholds. Raises UsageError for an unknown one, as of a newer edgekit."""
    if name not in TASKS:
        raise UsageError(f"the task is '{name}'", valid=", ".join(TASKS), fix="Update edgekit to evaluate this bundle")
    return replace(TASKS[name], thresholds=tuple(thresholds))
