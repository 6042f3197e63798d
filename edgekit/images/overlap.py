"""Images that are in two sets: copies, and images that look alike, such as copies that were re-encoded or resized."""

from collections.abc import Collection, Iterator, Sequence
from functools import cache, lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgekit.images.dataset import Dataset

if TYPE_CHECKING:
    from edgekit.images.selection import Selection


DIFFERENCE = 14
"""Number of bits, of 128, in which the difference hashes of two encodings of an image may differ. Photos re-encoded as
JPEG of quality 75, or at half size, differ in at most 9. Of 12 million pairs of CIFAR-10 images, eight differ in 2 to
10 bits, and the two images of each look identical; the next pair differs in 22. On images with few details, such as
black text on white, most bits are always the same, so that hashes find candidates only."""
CORRELATION = 0.9
"""Smallest correlation of the pixels of two candidates that are taken for copies. Of 4,700 copies of photos that were
recompressed (JPEG of quality 30 to 75, WebP of quality 60), resized (a quarter to twice the size) or brightened and
whose hashes are similar, one has less: 0.898. Of 235,000 candidates among images of different words, from 96x32 pixels
up, none has more than 0.84; different words of two or three letters in 28x28 pixels may have 0.95."""
SIDE = 64
"""Longest side in pixels at which candidates are compared. At 32 pixels, different words have up to 0.97."""
MOST_CANDIDATES = 256
"""Number of candidates, those with the most similar hashes, with which an image is compared."""
CHUNK = 4096
DIGITS = 16
"""Hexadecimal digits of an image's SHA-256 that a bundle's manifest keeps: 2.5 kB for 128 images. That any of a million
images shares them with one of 1,000 other images has a chance of 1 in 18 billion."""


def short_hashes(hashes: Collection[str]) -> tuple[str, ...]:
    """The first `DIGITS` digits of SHA-256 hashes, sorted."""
    return tuple(sorted(digest[:DIGITS] for digest in hashes))


def members_of(selection: "Selection", shortened: Collection[str]) -> list[str]:
    """Names of the images in `selection` whose content is that of an image with one of these short hashes."""
    return [image.sample.name for image in selection.images if image.sha256[:DIGITS] in shortened]


def copies_of(selection: "Selection", other: "Selection") -> list[str]:
    """Names of the images that `selection` left out because `other`, or itself, has their content."""
    hashes = set(other.hashes)
    return [image.sample.name for image in selection.copies if image.sha256 in hashes]


def lookalikes(
    selection: "Selection", dataset: Dataset, other: "Selection", other_dataset: Dataset
) -> list[tuple[str, str]]:
    """(name, name of the most similar image) of the images in `selection` that look like an image in `other`.

    Similar hashes make candidates, and only these are decoded, from the data sets of which the selections were made.
    Raises ImageError if one can't be decoded any more.
    """

    @cache  # 4 KB for each image
    def small(index: int) -> Image.Image:
        return _shrunk(other_dataset.image(other.samples[index]))

    @lru_cache(4096)  # 16 KB for each image
    def pixels(index: int, size: tuple[int, int]) -> NDArray[np.float32]:
        return _normalized(small(index), size)

    pairs = []
    own_hashes, others = ([image.dhash for image in each.images] for each in (selection, other))
    for index, candidates in _candidates(own_hashes, others):
        sample = selection.samples[index]
        image = _shrunk(dataset.image(sample))
        own: dict[tuple[int, int], NDArray[np.float32]] = {}
        for candidate in candidates:
            like = small(candidate)
            size = (min(image.width, like.width), min(image.height, like.height))
            if size not in own:
                own[size] = _normalized(image, size)
            if own[size] @ pixels(candidate, size) >= CORRELATION:
                pairs.append((sample.name, other.samples[candidate].name))
                break
    return pairs


def _candidates(dhashes: Sequence[bytes], others: Sequence[bytes]) -> Iterator[tuple[int, list[int]]]:
    """Yield (index, indices of the others with similar hashes, the most similar first) where there are any."""
    bits = _bits(others)
    for start in range(0, len(dhashes), CHUNK):
        own = _bits(dhashes[start : start + CHUNK])
        distances = own.sum(1)[:, None] + bits.sum(1)[None] - 2 * own @ bits.T
        for index in np.flatnonzero(distances.min(1) <= DIFFERENCE):
            near = np.flatnonzero(distances[index] <= DIFFERENCE)
            order = np.argsort(distances[index][near], kind="stable")[:MOST_CANDIDATES]
            yield start + int(index), near[order].tolist()


def _shrunk(image: Image.Image) -> Image.Image:
    """The image in grey, with sides of at most SIDE pixels, which need not keep their ratio."""
    size = (min(image.width, SIDE), min(image.height, SIDE))
    return image.convert("L").resize(size, Image.Resampling.BOX)


def _normalized(image: Image.Image, size: tuple[int, int]) -> NDArray[np.float32]:
    """The pixels at this size as a vector with mean 0 and length 1, or zeros for an image of one colour."""
    pixels = np.asarray(image.resize(size, Image.Resampling.BOX), np.float32).ravel()
    pixels = pixels - pixels.mean()
    return np.asarray(pixels / max(float(np.linalg.norm(pixels)), 1e-6), np.float32)


def _bits(dhashes: Sequence[bytes]) -> NDArray[np.float32]:
    """Bits of the hashes as 0 or 1, [N,128]."""
    return np.unpackbits(np.frombuffer(b"".join(dhashes), np.uint8)).reshape(len(dhashes), -1).astype(np.float32)
