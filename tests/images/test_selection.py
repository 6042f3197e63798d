"""The parts of a selection of images."""

from dataclasses import replace
from pathlib import Path

from edgekit.images.dataset import Dataset
from edgekit.images.selection import select


def test_the_parts_of_a_selection_share_no_image(photos: Path) -> None:
    dataset = Dataset.open(photos, [f"class_{index}" for index in range(10)])
    calibration = select(dataset, 10, 0)
    rest = select(dataset, None, 0, exclude=calibration)
    first, second = rest.split(10)
    assert not set(first.hashes) & set(second.hashes)
    assert not set(first.hashes + second.hashes) & set(calibration.hashes)
    assert {sample.label for sample in first.samples} == set(range(10)), "every class has an image"
    twice = replace(rest, images=(*rest.images[:-1], rest.images[0]))
    assert len(twice.split(10)[1].samples) == len(second.samples) - 1, "an image that occurs twice is not in both parts"
    assert rest.split(10)[0].sha256 == select(dataset, 10, 0, exclude=calibration).sha256
