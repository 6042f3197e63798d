"""Doubts about calibration images."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from edgekit.images.dataset import UNLABELLED, Dataset, LabelledImage
from edgekit.images.selection import InspectedImage, Selection, select

LABELS = [f"class_{index}" for index in range(10)]


def test_doubts_about_a_set(photos: Path, tmp_path: Path) -> None:
    whole = select(Dataset.open(photos, LABELS), 0, 0)
    assert whole.doubts(10) == []
    few = select(Dataset.open(photos, LABELS), 12, 0)
    assert [doubt.split(":")[0] for doubt in few.doubts(10)] == ["12 calibration images are few"]
    for label in LABELS[:2]:
        (tmp_path / label).mkdir()
        for index in range(20):
            shutil.copy(photos / label / f"{index % 4}.png", tmp_path / label / f"{index}.png")
    two = select(Dataset.open(tmp_path, LABELS), 0, 0)
    (doubt,) = two.doubts(10)
    assert "2 of 10 classes" in doubt
    assert "40 images could cover 10" in doubt


def test_a_darker_set_is_unlike(photos: Path) -> None:
    whole = select(Dataset.open(photos, LABELS), 0, 0)
    dark = replace(whole, images=tuple(replace(image, brightness=0.3 * image.brightness) for image in whole.images))
    assert whole.doubts(10, whole) == []
    (doubt,) = dark.doubts(10, whole)
    assert f"much darker than the evaluation images: their mean grey value is {np.mean(dark.brightness):.0f} " in doubt
    (doubt,) = whole.doubts(10, dark)
    assert "much brighter" in doubt


def of_brightness(*values: float) -> Selection:
    """Images with these mean grey values."""
    sample = LabelledImage("a.png", 0, "a")
    return Selection(tuple(InspectedImage(sample, "", b"", value) for value in values), Path("data"))


def test_brightness_is_compared_only_where_it_can_be() -> None:
    two = of_brightness(100.0, 140.0)
    assert not two.differs_in_brightness(of_brightness(60.0, 100.0)), "a chance of few images"
    assert of_brightness(10.0, 11.0).differs_in_brightness(two)
    assert not of_brightness().differs_in_brightness(two)
    assert not two.differs_in_brightness(of_brightness(0.0))


def chosen(labels: Sequence[tuple[int, ...]]) -> Selection:
    """Images with these classes, each chosen by the first of them."""
    return Selection(
        tuple(
            InspectedImage(LabelledImage(f"{index}.png", several[0], "", several), "", b"", 100.0)
            for index, several in enumerate(labels)
        ),
        Path("data"),
    )


def test_several_labels_cover_more_classes_than_images() -> None:
    assert chosen([(0, 1), (2, 3), (4, 5), (6, 7)] * 8).doubts(10) == []
    (doubt,) = chosen([(0, 1), (1,)] * 16).doubts(10)
    assert "2 of 10 classes" in doubt
    common = [(rare, 0) for rare in range(1, 10)] * 4
    assert chosen(common).doubts(10) == [], "a class that most images have is none by which they were chosen"
    (doubt,) = chosen([(0,)] * 80 + [(rare,) for rare in range(1, 10)]).doubts(10)
    assert "80 of 89 belong to one of 10 classes" in doubt


def test_images_without_labels_cover_no_class() -> None:
    images = tuple(InspectedImage(LabelledImage(f"{index}.png", UNLABELLED, ""), "", b"", 100.0) for index in range(40))
    assert Selection(images, Path("data")).doubts(384) == []
