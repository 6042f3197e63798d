"""Images that look alike although their bytes differ, such as copies that were re-encoded, resized or brightened."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from edgekit.images.selection import Selection


DIFFERENCE = 14
"""Number of bits, of 128, in which the difference hashes of two encodings of an image may differ. Photos re-encoded as
JPEG of quality 75, or at half size, differ in at most 9. Of 12 million pairs of CIFAR-10 images, eight differ in 2 to
10 bits, and the two images of each look identical; the next pair differs in 22."""
CHUNK = 4096


def copies_of(selection: "Selection", other: "Selection") -> list[str]:
    """Names of the images that `selection` left out because `other` has their content."""
    hashes = set(other.hashes)
    return [name for name, digest in selection.copies if digest in hashes]


def lookalikes(selection: "Selection", other: "Selection") -> list[tuple[str, str]]:
    """(name, name of the most similar image) of the images in `selection` that look like an image in `other`."""
    pairs = []
    others = _bits(other.dhashes)
    for start in range(0, len(selection.dhashes), CHUNK):
        bits = _bits(selection.dhashes[start : start + CHUNK])
        distances = bits.sum(1)[:, None] + others.sum(1)[None] - 2 * bits @ others.T
        for index in np.flatnonzero(distances.min(1) <= DIFFERENCE):
            name, like = selection.samples[start + index].name, other.samples[int(distances[index].argmin())].name
            pairs.append((name, like))
    return pairs


def _bits(dhashes: Sequence[bytes]) -> NDArray[np.float32]:
    """Bits of the hashes as 0 or 1, [N,128]."""
    return np.unpackbits(np.frombuffer(b"".join(dhashes), np.uint8)).reshape(len(dhashes), -1).astype(np.float32)
