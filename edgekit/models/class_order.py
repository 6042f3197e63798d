"""Reports which output of a network is taken as which class."""

from pathlib import Path

from edgekit.images.dataset import Dataset
from edgekit.models.labels import IMAGENET_CLASSES
from edgekit.models.network import Network
from edgekit.models.options import ModelOptions
from edgekit.support.progress import Reporter


def report_class_order(network: Network, options: ModelOptions, dataset: Dataset, reporter: Reporter) -> None:
    """Report where the names of the classes come from and, where none is the name of a folder, the assumed order.

    The order is only an assumption without names. With names, that none of them is found is worth a warning.
    """
    if network.labels_doubt:
        reporter.warn(network.labels_doubt)
    if network.labels_origin:
        reporter.say(f"class names: '{network.labels_origin}' in '{Path(network.weights).name}'")
    if not dataset.assumption:
        return
    if options.labels or network.labels_origin or network.classes == IMAGENET_CLASSES:
        reporter.warn(
            f"no {dataset.class_term} has the name of a class, such as '{network.labels[0]}': {dataset.assumption}"
        )
    else:
        reporter.say(f"the names of the classes are unknown: {dataset.assumption}")
