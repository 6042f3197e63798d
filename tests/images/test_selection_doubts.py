"""Doubts about calibration images."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np

from edgekit.images.dataset import Sample, open_dataset
from edgekit.images.selection import InspectedImage, Selection, differ_in_brightness, doubts, select

LABELS = [f"class_{index}" for index in range(10)]


def test_doubts_about_a_set(photos: Path, tmp_path: Path) -> None:
    whole = select(open_dataset(photos, LABELS), 0, 0)
    assert doubts(whole, 10) == []
    few = select(open_dataset(photos, LABELS), 12, 0)
    assert [doubt.split(":")[0] for doubt in doubts(few, 10)] == ["12 calibration images are few"]
    for label in LABELS[:2]:
        (tmp_path / label).mkdir()
        for index in range(20):
            shutil.copy(photos / label / f"{index % 4}.png", tmp_path / label / f"{index}.png")
    two = select(open_dataset(tmp_path, LABELS), 0, 0)
    (doubt,) = doubts(two, 10)
    assert "2 of the model's 10 classes" in doubt
    assert "40 images could cover 10" in doubt


def test_a_darker_set_is_unlike(photos: Path) -> None:
    whole = select(open_dataset(photos, LABELS), 0, 0)
    dark = replace(whole, images=tuple(replace(image, brightness=0.3 * image.brightness) for image in whole.images))
    assert doubts(whole, 10, whole) == []
    (doubt,) = doubts(dark, 10, whole)
    assert f"much darker than the evaluation images: their mean grey value is {np.mean(dark.brightness):.0f} " in doubt
    (doubt,) = doubts(whole, 10, dark)
    assert "much brighter" in doubt


def of_brightness(*values: float) -> Selection:
    """Images with these mean grey values."""
    sample = Sample("a.png", 0, "a")
    return Selection(tuple(InspectedImage(sample, "", b"", value) for value in values), Path("data"))


def test_brightness_is_compared_only_where_it_can_be() -> None:
    two = of_brightness(100.0, 140.0)
    assert not differ_in_brightness(two, of_brightness(60.0, 100.0)), "a chance of few images"
    assert differ_in_brightness(of_brightness(10.0, 11.0), two)
    assert not differ_in_brightness(of_brightness(), two)
    assert not differ_in_brightness(two, of_brightness(0.0))
