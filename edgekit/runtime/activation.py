"""What follows a model: softmax over the classes, a sigmoid for each class, or a vector of length 1."""

import numpy as np
from numpy.typing import NDArray

from edgekit.config.choices import Activation

TINY = np.float32(1e-12)
"""Length below which a vector isn't made longer, so that one of zeros stays one."""


def activated(outputs: NDArray[np.float32], activation: Activation) -> NDArray[np.float32]:
    """Scores from 0 to 1, or vectors, of a model's outputs, both float32 [N,K] or [K]. The outputs must be finite."""
    values = outputs
    if activation == "softmax":
        powers = np.exp(outputs - outputs.max(axis=-1, keepdims=True))
        values = powers / powers.sum(axis=-1, keepdims=True)
    elif activation == "sigmoid":
        values = np.exp(-np.logaddexp(np.float32(0), -outputs))
    elif activation == "normalize":
        values = outputs / np.maximum(np.linalg.norm(outputs, axis=-1, keepdims=True), TINY)
    return values
