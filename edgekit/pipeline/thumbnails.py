"""Thumbnails of the images whose predicted class INT8 changed, for the report's page."""

from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgekit.errors import ImageError
from edgekit.images.dataset import Dataset
from edgekit.images.preprocess import Preprocessing
from edgekit.report.document import Report
from edgekit.report.html import changed_rows, shown_images
from edgekit.support.progress import Reporter

SIDE = 64
"""Longest side of a thumbnail, in pixels."""
QUALITY = 80
"""JPEG quality of a thumbnail, on Pillow's scale."""


def make_thumbnails(
    report: Report, dataset: Dataset, preprocessing: Preprocessing, reporter: Reporter
) -> dict[str, bytes]:
    """JPEG files of the flipped images that the page shows, by name: the crops that the network saw, made smaller."""
    names = {shown.image for shown in shown_images(changed_rows(report))}
    thumbnails = {}
    for sample in dataset.samples:
        if sample.name not in names:
            continue
        try:
            thumbnails[sample.name] = _thumbnail(preprocessing.crop(dataset.image(sample)))
        except ImageError as error:  # which could be read when the bundles were evaluated
            reporter.warn(f"the report shows no thumbnail of '{sample.name}': {error}", error)
    return thumbnails


def _thumbnail(pixels: NDArray[np.uint8]) -> bytes:
    """A small JPEG file of a crop [H,W,C]."""
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    image.thumbnail((SIDE, SIDE))
    file = BytesIO()
    image.save(file, "JPEG", quality=QUALITY)
    return file.getvalue()
