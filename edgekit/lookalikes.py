"""Images that look alike though their bytes differ: copies that were encoded again, resized or brightened."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

if TYPE_CHECKING:
    from edgekit.data import Selection

GRID = 8
DIFFERENCE = 14
"""Bits of 128 in which two looks of one image may differ. Photos encoded again as JPEG of quality 75, or at half size,
differ in at most 9. Of 12 million pairs of CIFAR-10 images eight differ in 2 to 10, each the same picture to the eye,
and the next in 22."""
CHUNK = 4096


def look_of(image: Image.Image) -> bytes:
    """A difference hash, 16 bytes: whether each cell of a coarse grey grid is darker than its right and lower one."""
    grey = image.convert("L")
    bits = []
    for axis, size in ((1, (GRID + 1, GRID)), (0, (GRID, GRID + 1))):
        cells = np.asarray(grey.resize(size, Image.Resampling.BOX), np.int16)
        bits.append(np.diff(cells, axis=axis).ravel() > 0)
    return np.packbits(np.concatenate(bits)).tobytes()


def copies_of(given: "Selection", known: "Selection") -> list[str]:
    """Names of the images that `given` passed over because `known` has their content."""
    hashes = set(known.hashes)
    return [name for name, digest in given.copies if digest in hashes]


def lookalikes(given: "Selection", known: "Selection") -> list[dict[str, Any]]:
    """Images of `given` that look like one of `known`: {"name", "like"} for each, with the closest."""
    found = []
    others = _bits(known.looks)
    for start in range(0, len(given.looks), CHUNK):
        bits = _bits(given.looks[start : start + CHUNK])
        apart = bits.sum(1)[:, None] + others.sum(1)[None] - 2 * bits @ others.T
        for index in np.flatnonzero(apart.min(1) <= DIFFERENCE):
            name, like = given.samples[start + index].name, known.samples[int(apart[index].argmin())].name
            found.append({"name": name, "like": like})
    return found


def _bits(looks: Sequence[bytes]) -> NDArray[np.float32]:
    """[N, 128], 0 or 1."""
    return np.unpackbits(np.frombuffer(b"".join(looks), np.uint8)).reshape(len(looks), -1).astype(np.float32)
