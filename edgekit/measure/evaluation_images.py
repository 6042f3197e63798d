"""The evaluation images that bundles are measured on, and torch's predictions for them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgekit.images.crops import LabelledCrops
from edgekit.measure.accuracy import Predictions


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
