"""A difference hash of an image, to find re-encoded copies."""

import numpy as np
from PIL import Image

GRID = 8


def difference_hash(image: Image.Image) -> bytes:
    """A hash of 16 bytes: whether each cell of a coarse grey grid is darker than its right and its lower neighbour."""
    grey = image.convert("L")
    bits = []
    for axis, size in ((1, (GRID + 1, GRID)), (0, (GRID, GRID + 1))):
        cells = np.asarray(grey.resize(size, Image.Resampling.BOX), np.int16)
        bits.append(np.diff(cells, axis=axis).ravel() > 0)
    return np.packbits(np.concatenate(bits)).tobytes()
