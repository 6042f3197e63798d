"""Draws scenes of handwritten digits, for a network that says which digits it sees."""

import json
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from edgekit.support.files import replacing

SIDE, DIGIT = 48, 20
"""Sides of a scene and of the square around a digit, in pixels."""
MOST = 4
"""Most digits of a scene."""
COUNTS = {"training": 12_000, "calibration": 512, "evaluation": 2_000}
HELD_OUT = 0.3
"""Share of the digits that only evaluation scenes show."""


def scenes_zip(part: str, cache: Path) -> Path:
    """The zip of this part in the cache, which is drawn unless it exists: images, each with a JSON file beside it."""
    path = cache / f"scenes-{part}.zip"
    if path.exists():
        return path
    with replacing(path) as beside, zipfile.ZipFile(beside, "w") as archive:
        for index, (pixels, labels) in enumerate(zip(*scenes(part), strict=True)):
            content = BytesIO()
            Image.fromarray(pixels).save(content, "png")
            archive.writestr(zipfile.ZipInfo(f"{index:05}.png"), content.getvalue())
            names = [str(digit) for digit in np.flatnonzero(labels)]
            archive.writestr(zipfile.ZipInfo(f"{index:05}.json"), json.dumps({"labels": names}))
    return path


def training_scenes() -> tuple[Tensor, Tensor]:
    """Scenes uint8 [N,3,H,W] to train on, and their digits float32 [N,10]."""
    pixels, labels = scenes("training")
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(labels).float()


def scenes(part: str) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """The scenes of a part, uint8 [N,H,W,3], and which digits each has, bool [N,10]."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    held_out = len(digits.images) - int(HELD_OUT * len(digits.images))
    own = slice(held_out, None) if part == "evaluation" else slice(held_out)
    random = np.random.default_rng(sorted(COUNTS).index(part))
    drawn = [_scene(random, digits.images[own], digits.target[own]) for _ in range(COUNTS[part])]
    return np.stack([pixels for pixels, _ in drawn]), np.stack([labels for _, labels in drawn])


def _scene(
    random: np.random.Generator, images: NDArray[np.float64], targets: NDArray[np.int64]
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """A few digits in one ink each on coloured, noisy paper, one in each quarter at most."""
    paper = random.integers(0, 256, 3)
    scene = np.broadcast_to(paper, (SIDE, SIDE, 3)).astype(np.float64)
    labels = np.zeros(10, bool)
    for quarter in random.permutation(4)[: random.integers(1, MOST + 1)]:
        chosen = random.integers(len(images))
        labels[targets[chosen]] = True
        size = int(random.integers(DIGIT - 6, DIGIT + 1))
        stroke = Image.fromarray((images[chosen] * 15.9).astype(np.uint8)).resize(
            (size, size), Image.Resampling.BICUBIC
        )
        share = np.asarray(stroke, np.float64)[:, :, None] / 255
        top, left = (SIDE // 2 * part + random.integers(0, SIDE // 2 - size + 1) for part in divmod(quarter, 2))
        ink = (paper + random.integers(90, 167, 3)) % 256
        place = scene[top : top + size, left : left + size]
        place += share * (ink - place)
    scene += random.normal(0, random.uniform(5, 30), scene.shape)
    return np.clip(scene, 0, 255).astype(np.uint8), labels
