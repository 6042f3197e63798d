"""The temperature that brings an INT8 network's confidences back to the float network's."""

from math import exp, log, sqrt

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_softmax, softmax

from edgekit.config.choices import Activation

Outputs = NDArray[np.float32]
ACTIVATIONS: tuple[Activation, ...] = ("softmax", "sigmoid")
"""Activations whose scores a temperature changes."""
FEWEST_IMAGES, MOST_IMAGES = 32, 64
"""Fewest and most images that a temperature is fitted to, half of them at a time."""
LEAST_GAIN = 0.1
"""Share of the mean difference of the confidences that a temperature must remove to be worth another compilation."""
NOISE = 3.0
"""Standard errors by which that gain must exceed 0."""
LARGEST = 2.0


def helpful_temperature(outputs: Outputs, expected: Outputs, activation: Activation) -> float | None:
    """The temperature by which an INT8 network's outputs are to be divided; None if that would not help.

    It minimizes the cross entropy between the float network's scores and those of INT8. It is fitted on each half of
    the images and judged on the other one: there it has to bring the confidences closer to float's by more than noise.

    Args:
        outputs: Outputs of the INT8 network, [N,K].
        expected: Outputs of the float network for the same images, [N,K].
        activation: What turns outputs into scores, softmax or sigmoid.
    """
    differences, gains = [], []
    for half in (0, 1):
        temperature = fitted_temperature(outputs[half::2], expected[half::2], activation)
        others, wanted = outputs[1 - half :: 2], confidence(expected[1 - half :: 2], activation)
        before, after = (
            np.abs(confidence(each, activation) - wanted).mean(1) for each in (others, others / temperature)
        )
        differences.append(before)
        gains.append(before - after)
    gain, difference = np.concatenate(gains), np.concatenate(differences)
    least = max(LEAST_GAIN * difference.mean(), NOISE * gain.std() / sqrt(len(gain)))
    return fitted_temperature(outputs, expected, activation) if gain.mean() > least else None


def fitted_temperature(outputs: Outputs, expected: Outputs, activation: Activation) -> float:
    """The temperature of least cross entropy between the scores of `expected` and of `outputs`, both [N,K]."""
    values, wanted = outputs.astype(np.float64), expected.astype(np.float64)
    scores = softmax(wanted, axis=1) if activation == "softmax" else expit(wanted)

    def loss(logarithm: float) -> float:
        cooled = values / exp(logarithm)
        if activation == "softmax":
            return -float((scores * log_softmax(cooled, axis=1)).sum(1).mean())
        return float((scores * np.logaddexp(0, -cooled) + (1 - scores) * np.logaddexp(0, cooled)).mean())

    return exp(minimize_scalar(loss, bounds=(-log(LARGEST), log(LARGEST)), method="bounded").x)


def confidence(outputs: Outputs, activation: Activation) -> NDArray[np.float64]:
    """The confidences of the answers: softmax of the best class, [N,1], or sigmoid of each, [N,K]."""
    values = outputs.astype(np.float64)
    scores: NDArray[np.float64] = (
        softmax(values, axis=1).max(1, keepdims=True) if activation == "softmax" else expit(values)
    )
    return scores
