"""Crops of a data set: each image once, in the order of the samples, with its label."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgekit.errors import ImageError
from edgekit.images.crops import LabelledCrops, crop_each, crop_samples
from edgekit.images.dataset import Dataset, open_dataset
from edgekit.images.preprocess import Preprocessing
from tests.helpers.refusals import refuses

PREPROCESSING = Preprocessing(8, 12, "bicubic", 1.0, "center", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Three images of two classes, each in a single shade."""
    for name, shade in (("a/1.png", 10), ("a/2.png", 20), ("b/1.png", 30)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (30, 20), (shade, shade, shade)).save(tmp_path / name)
    return open_dataset(tmp_path, ["a", "b"])


def test_samples_are_cropped_in_their_order(dataset: Dataset) -> None:
    cropped = []
    crops = crop_samples(dataset, dataset.samples[::-1], PREPROCESSING, on_image=lambda: cropped.append(1))
    assert crops.pixels.shape == (3, 8, 12, 3)
    assert crops.pixels[:, 0, 0, 0].tolist() == [30, 20, 10]
    assert crops.labels.tolist() == [1, 0, 0]
    assert len(crops) == len(cropped) == 3
    one_by_one = list(crop_each(dataset, dataset.samples[::-1], PREPROCESSING))
    np.testing.assert_array_equal(crops.pixels, one_by_one)


def test_crops_go_into_a_given_array(dataset: Dataset) -> None:
    pixels = np.zeros((3, 8, 12, 3), np.uint8)
    assert crop_samples(dataset, dataset.samples, PREPROCESSING, pixels).pixels is pixels
    assert pixels[:, 0, 0, 0].tolist() == [10, 20, 30]


def test_no_samples_give_no_crops(dataset: Dataset) -> None:
    crops = crop_samples(dataset, (), PREPROCESSING)
    assert (crops.pixels.shape, crops.labels.shape) == ((0, 8, 12, 3), (0,))
    assert list(crops.normalized(PREPROCESSING)) == []


def test_images_are_normalized_one_by_one() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 12, 3), np.uint8)
    crops = LabelledCrops(pixels, np.array([4, 2]))
    images, labels = zip(*crops.normalized(PREPROCESSING), strict=True)
    assert labels == (4, 2)
    np.testing.assert_array_equal(np.concatenate(images), PREPROCESSING.normalize(pixels))


def test_an_image_that_cannot_be_read_is_named(dataset: Dataset) -> None:
    (dataset.path / "a/2.png").write_bytes(b"damaged")
    with refuses(ImageError, "a/2.png"):
        crop_samples(dataset, dataset.samples, PREPROCESSING)
