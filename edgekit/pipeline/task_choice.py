"""The task of a job: the stated one, or the one that the network and the labels of the images show."""

from dataclasses import replace

from edgekit.errors import ModelError, UsageError
from edgekit.images.dataset import Dataset, Datasets
from edgekit.measure.tasks import Task, task_of
from edgekit.models.network import Network
from edgekit.models.options import ModelOptions
from edgekit.support.progress import Reporter


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
    """Say why a task was recognized unless it is the usual one, and what is taken for an embedding."""
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
