"""The order of the classes where no name tells it: the one that the float network's answers show."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import UsageError
from edgekit.measure.accuracy import EvaluationImages
from edgekit.measure.paired import share_interval
from edgekit.measure.tasks.single_label import Hits, TopClasses
from edgekit.measure.tasks.task import MOST_CLASSES, Targets
from edgekit.pipeline.job_images import JobImages
from edgekit.pipeline.request import BuildSpec
from edgekit.pipeline.torch_reference import reference_inputs
from edgekit.support.progress import Reporter

OTHER_ORDER = 0.2
"""Gain of top-1 that shows another order."""
SHOWN = 8
"""Most classes that a message lists."""


def with_order(
    spec: BuildSpec, images: JobImages, evaluation: EvaluationImages, reporter: Reporter
) -> tuple[BuildSpec, JobImages, EvaluationImages]:
    """The same with the classes in alphabetical or in natural order, as the answers of the float network show.

    Nothing changes if names tell the order. Raises UsageError if they don't, and the two orders differ without one that
    is clearly better, or the answers fit another order much better.
    """
    dataset, answers, targets = images.dataset, evaluation.reference, evaluation.crops.labels
    if not dataset.assumption or not isinstance(answers, TopClasses) or spec.network.weights == "random":
        return spec, images, evaluation
    best = answers.best
    names, natural = dataset.class_names, dataset.natural_order
    order, chosen, found = None, names, ""
    if natural:
        other = np.array([natural.index(name) for name in names])[targets]
        differ = targets != other  # the other images don't tell the two orders apart
        hits = {"alphabetical": (best == targets)[differ], "natural": (best == other)[differ]}
        scores = " and ".join(f"{right.sum()} in {name} order" for name, right in hits.items())
        found = f", and of the {differ.sum()} images whose classes have two places it is right for {scores}"
        if _is_better(hits["natural"], hits["alphabetical"]):
            order, chosen, targets = "natural", natural, other
        elif _is_better(hits["alphabetical"], hits["natural"]):
            order = "alphabetical"
    fitting = _fitting(best, targets, len(names))
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
    key = reference_inputs(network, spec.task, images).key
    return spec, images, replace(evaluation, crops=replace(evaluation.crops, labels=targets), key=key)


def _is_better(hits: Hits, others: Hits) -> bool:
    """Whether the interval of one share of the same images lies above that of the other."""
    count = len(hits)
    return count > 0 and share_interval(int(hits.sum()), count)[0] > share_interval(int(others.sum()), count)[1]


def _fitting(best: NDArray[np.int64], targets: Targets, classes: int) -> NDArray[np.int64] | None:
    """The output that each class fits best on half of its images, if the other half confirms it; None otherwise."""
    from scipy.optimize import linear_sum_assignment

    if classes > MOST_CLASSES:
        return None
    by_class = np.argsort(targets, kind="stable")
    chosen, judged = by_class[::2], by_class[1::2]
    counts = 0.5 * np.eye(classes)  # a class that no image tells of keeps its output
    np.add.at(counts, (targets[chosen], best[chosen]), 1)
    outputs: NDArray[np.int64] = linear_sum_assignment(counts, maximize=True)[1]
    hits, others = outputs[targets[judged]] == best[judged], targets[judged] == best[judged]
    return outputs if _is_better(hits, others) and hits.mean() > others.mean() + OTHER_ORDER else None
