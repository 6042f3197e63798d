"""Reasons why the ranges that calibration images give may not fit other images."""

from collections import Counter

import numpy as np

from edgekit.images.dataset import UNLABELLED
from edgekit.images.selection import Selection

FEWEST = 32
"""Fewest images with which ranges don't depend on the choice of images."""
LARGE_SHIFT = 1.0
"""Difference of two sets' mean brightness that is called large, in standard deviations of one image's (Cohen's d)."""


def doubts(calibration: Selection, classes: int, evaluation: Selection | None = None) -> list[str]:
    """Doubts about these images for a network with this number of classes: too few, one-sided, or unlike the others."""
    count, per_class = len(calibration.samples), Counter(sample.label for sample in calibration.samples)
    reasons = []
    if count < FEWEST:
        reasons.append(
            f"{count} calibration images are few: ranges depend on the choice of images; use {FEWEST} or more"
        )
    if set(per_class) == {UNLABELLED}:
        per_class = Counter()  # nobody knows their classes
    if per_class and len(per_class) < min(count, classes) / 2:
        reasons.append(
            f"the calibration images are one-sided: they cover {len(per_class)} of the model's {classes} classes, but "
            f"{count} images could cover {min(count, classes)}; use images of every class"
        )
    elif per_class and count >= FEWEST and (most := max(per_class.values())) > max(4 * count / len(per_class), 4):
        reasons.append(
            f"the calibration images are one-sided: {most} of {count} belong to one of {len(per_class)} classes"
        )
    if evaluation and differ_in_brightness(calibration, evaluation):
        ours, others = (images.brightness.mean() for images in (calibration, evaluation))
        reasons.append(
            f"the calibration images are much {'darker' if ours < others else 'brighter'} than the evaluation images: "
            f"their mean grey value is {ours:.0f} of 255 instead of {others:.0f}; use images like those of the app"
        )
    return reasons


def differ_in_brightness(calibration: Selection, evaluation: Selection) -> bool:
    """Whether the two sets differ in mean brightness by a large effect that is no chance, three standard errors."""
    ours, others = calibration.brightness, evaluation.brightness
    if min(len(ours), len(others)) < 2:
        return False
    spread = np.sqrt((ours.var(ddof=1) + others.var(ddof=1)) / 2)
    shift = abs(ours.mean() - others.mean())
    return bool(shift > spread * max(LARGE_SHIFT, 3 * np.sqrt(1 / len(ours) + 1 / len(others))))
