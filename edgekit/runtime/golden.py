"""Golden samples: images with the logits that a bundle computed for them where it was made."""

import math
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import BundleError
from edgekit.runtime.manifest import Manifest

MAX_GOLDEN_BYTES = 512 << 20


@dataclass(frozen=True, eq=False)
class Golden:
    """Images with the logits that the model computed for them where the bundle was made."""

    pixels: NDArray[np.uint8]
    """Cropped images, uint8 [N,H,W,C]."""
    logits: NDArray[np.float32]
    """Expected logits, float32 [N,classes]."""
    tolerance: float
    """Largest absolute difference of a logit that is allowed on another machine."""


def load_golden(path: Path) -> Golden:
    """Read golden samples; raises BundleError if they are too large, and almost anything if the file is damaged."""
    with zipfile.ZipFile(path) as archive:
        size = sum(member.file_size for member in archive.infolist())
    if size > MAX_GOLDEN_BYTES:
        raise BundleError(f"it unpacks to {size} bytes", valid=f"at most {MAX_GOLDEN_BYTES} bytes")
    with np.load(path, allow_pickle=False) as arrays:
        return Golden(arrays["pixels"], arrays["logits"], float(arrays["tolerance"]))


def check_golden(golden: Golden, manifest: Manifest) -> None:
    """Raise BundleError if the samples don't fit the manifest."""
    pixels, logits = golden.pixels, golden.logits
    count = len(pixels) if pixels.ndim else 0
    for name, array, shape, dtype in (
        ("pixels", pixels, (count, *manifest.preprocessing.crop_shape), np.uint8),
        ("logits", logits, (count, manifest.classes), np.float32),
    ):
        if array.dtype != dtype or array.shape != shape or count == 0:
            raise BundleError(
                f"the golden {name} are {array.dtype} {list(array.shape)}",
                valid=f"{np.dtype(dtype)} {list(shape)} with at least one sample",
            )
    if not np.isfinite(logits).all() or not math.isfinite(golden.tolerance) or golden.tolerance < 0:
        raise BundleError(
            f"the golden logits or their tolerance ({golden.tolerance}) are not finite, or the tolerance is negative"
        )
