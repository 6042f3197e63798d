"""Settles which output of a network is which class, and what the classes are called."""

from dataclasses import replace
from pathlib import Path

from edgekit.errors import BundleError
from edgekit.images.dataset import Dataset
from edgekit.models.labels import IMAGENET_CLASSES
from edgekit.models.network import Network
from edgekit.models.options import ModelOptions
from edgekit.runtime.strict_json import check_printable
from edgekit.support.progress import Reporter


def settle_classes(network: Network, options: ModelOptions, dataset: Dataset, reporter: Reporter) -> Network:
    """The network. If it doesn't name its classes, it gets the names that the data set has.

    Report where the names come from and, where none is the name of a folder or label, the assumed order. The order is
    only an assumption without names. With names, that none of them is found is worth a warning.
    """
    if network.labels_doubt:
        reporter.warn(network.labels_doubt)
    if network.labels_origin:
        reporter.say(f"class names: '{network.labels_origin}' in '{network.labels_file or Path(network.weights).name}'")
    if not dataset.assumption:
        return network
    if options.labels or network.labels_origin or network.classes == IMAGENET_CLASSES:
        reporter.warn(
            f"no {dataset.class_term} has the name of a class, such as '{network.labels[0]}': {dataset.assumption}"
        )
        return network
    reporter.say(f"class names: {dataset.assumption}")
    return replace(network, labels=dataset.class_names) if _can_be_labels(dataset.class_names) else network


def _can_be_labels(names: tuple[str, ...]) -> bool:
    """Whether a bundle's list of labels, a line for each, can contain these names."""
    try:
        check_printable("it", "".join(names))
    except BundleError:
        return False
    return all(name and name == name.strip() for name in names)
