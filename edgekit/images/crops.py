"""Images of a data set, cropped once for one network, for calibration, evaluation and simulation."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgekit.images.dataset import Dataset, Sample
from edgekit.images.preprocess import Preprocessing


@dataclass(frozen=True, eq=False)
class LabelledCrops:
    """Cropped images and their labels, in the same order."""

    pixels: NDArray[np.uint8]
    """Pixels [N,H,W,C], possibly memory-mapped."""
    labels: NDArray[np.int64]
    """Class indices [N]."""

    def __len__(self) -> int:
        return len(self.pixels)

    def normalized(self, preprocessing: Preprocessing) -> Iterator[tuple[NDArray[np.float32], int]]:
        """Yield each image as a network's input, float32 [1,C,H,W], and its label."""
        for pixels, label in zip(self.pixels, self.labels, strict=True):
            yield preprocessing.normalize(pixels), int(label)


def crop_each(dataset: Dataset, samples: Sequence[Sample], preprocessing: Preprocessing) -> Iterator[NDArray[np.uint8]]:
    """Yield each sample cropped, uint8 [H,W,C]. Raises ImageError for a sample that can't be read."""
    for sample in samples:
        yield preprocessing.crop(dataset.image(sample))


def crop_samples(
    dataset: Dataset,
    samples: Sequence[Sample],
    preprocessing: Preprocessing,
    pixels: NDArray[np.uint8] | None = None,
    on_image: Callable[[], None] = lambda: None,
) -> LabelledCrops:
    """Crop the samples, into `pixels` if an array [N,H,W,C] is given, and call `on_image` after each.

    Raises ImageError for a sample that can't be read.
    """
    if pixels is None:
        pixels = np.empty((len(samples), *preprocessing.crop_shape), np.uint8)
    for index, crop in enumerate(crop_each(dataset, samples, preprocessing)):
        pixels[index] = crop
        on_image()
    return LabelledCrops(pixels, np.array([sample.label for sample in samples], np.int64))
