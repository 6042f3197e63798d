"""Images that look alike though their bytes differ: copies that were encoded again, resized or brightened."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from edgekit.images.selection import Selection


DIFFERENCE = 14
"""Bits of 128 in which the difference hashes of two encodings of one image may differ. Photos encoded again as JPEG of
quality 75, or at half size, differ in at most 9. Of 12 million pairs of CIFAR-10 images eight differ in 2 to 10, each
the same picture to the eye, and the next in 22."""
CHUNK = 4096


def copies_of(given: "Selection", known: "Selection") -> list[str]:
    """Names of the images that `given` passed over because `known` has their content."""
    hashes = set(known.hashes)
    return [name for name, digest in given.copies if digest in hashes]


def lookalikes(given: "Selection", known: "Selection") -> list[tuple[str, str]]:
    """Images of `given` that look like one of `known`: (name, name of the closest) for each."""
    found = []
    others = _bits(known.dhashes)
    for start in range(0, len(given.dhashes), CHUNK):
        bits = _bits(given.dhashes[start : start + CHUNK])
        apart = bits.sum(1)[:, None] + others.sum(1)[None] - 2 * bits @ others.T
        for index in np.flatnonzero(apart.min(1) <= DIFFERENCE):
            name, like = given.samples[start + index].name, known.samples[int(apart[index].argmin())].name
            found.append((name, like))
    return found


def _bits(dhashes: Sequence[bytes]) -> NDArray[np.float32]:
    """[N, 128], 0 or 1."""
    return np.unpackbits(np.frombuffer(b"".join(dhashes), np.uint8)).reshape(len(dhashes), -1).astype(np.float32)
