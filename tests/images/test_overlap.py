"""Evaluation images that are also in the calibration set, as copies or re-encoded."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgekit.cli.main import main
from edgekit.images.dataset import open_dataset
from edgekit.images.overlap import copies_of, lookalikes
from edgekit.images.perceptual_hash import difference_hash
from edgekit.images.selection import select
from edgekit.models.labels import resolve_labels

LABELS = [f"class_{index}" for index in range(10)]


def planted(photos: Path, folder: Path) -> tuple[set[str], set[str]]:
    """Make a data set of `photos` in `folder`/clean, and one in `folder`/leaky with 10 copies and 10 re-encoded images.

    Returns the names of the copies and of the re-encoded images.
    """
    shutil.copytree(photos, folder / "clean")
    random = np.random.default_rng(3)
    copied, encoded = set(), set()
    for index, label in enumerate(LABELS):
        place = folder / "leaky" / label
        place.mkdir(parents=True)
        for number in range(6):
            small = Image.fromarray(random.integers(0, 256, (5, 5, 3), np.uint8))
            small.resize((40, 40), Image.Resampling.BICUBIC).save(place / f"own_{number}.png")
        shutil.copy(photos / label / "0.png", place / f"copy_{index}.png")
        image = Image.open(photos / label / "1.png")
        (image if index % 2 else image.resize((64, 64))).save(place / f"again_{index}.jpg", quality=80)
        copied.add(f"{label}/copy_{index}.png")
        encoded.add(f"{label}/again_{index}.jpg")
    return copied, encoded


def test_planted_leakage_is_found(photos: Path, tmp_path: Path) -> None:
    copied, encoded = planted(photos, tmp_path)
    calibration = select(open_dataset(tmp_path / "clean", LABELS), 0, 0)
    evaluation = select(open_dataset(tmp_path / "leaky", LABELS), 0, 0, exclude=calibration)
    assert set(copies_of(evaluation, calibration)) == copied
    pairs = lookalikes(evaluation, calibration)
    assert {name for name, _ in pairs} == encoded
    assert all(Path(like).parent == Path(name).parent for name, like in pairs)
    assert len(evaluation.samples) == 70


def test_leakage_causes_warnings_and_is_reported(
    photos: Path, job_arguments: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    planted(photos, tmp_path)
    more = ["--data", str(tmp_path / "leaky"), "--calibration-data", str(tmp_path / "clean")]
    counts = ["--num-calibration-samples", "40", "--num-eval-samples", "70"]
    command = ["deploy", *job_arguments, *more, *counts, "--target", "onnx", "-o", str(tmp_path / "run"), "--json"]
    assert main(command) == 0
    out, err = capfd.readouterr()
    report = json.loads(out)
    assert len(report["evaluation"]["copies_left_out"]) == len(report["evaluation"]["lookalikes"]) == 10
    assert report["evaluation"]["count"] == 70
    assert report["evaluation"]["overlap_with_calibration"] == 0
    assert "10 images are copies of calibration images and were left out of the evaluation: " in err
    assert "10 evaluation images look like calibration images" in err
    assert "and 7 more (report.json has all)" in err


def test_different_photos_are_not_lookalikes(shared_data: Path) -> None:
    chosen = select(open_dataset(shared_data / "imagenet-500.zip", resolve_labels(None, 1000)), 200, 0)
    whole = open_dataset(shared_data / "imagenet-500.zip", resolve_labels(None, 1000))
    others = select(whole, 200, 0, exclude=chosen)
    assert lookalikes(others, chosen) == []


@pytest.mark.parametrize("how", [{"format": "JPEG", "quality": 75}, {"format": "WEBP", "quality": 60}, "half"])
def test_a_reencoded_photo_is_a_lookalike(shared_data: Path, how: Any) -> None:
    dataset = open_dataset(shared_data / "imagenet-500.zip", resolve_labels(None, 1000))
    for sample in dataset.samples[::25]:
        image = dataset.image(sample)
        out = io.BytesIO()
        if how == "half":
            image.resize((image.width // 2, image.height // 2)).save(out, "JPEG", quality=85)
        else:
            image.save(out, **how)
        again = difference_hash(Image.open(out))
        pair = np.unpackbits(np.frombuffer(difference_hash(image) + again, np.uint8)).reshape(2, -1)
        assert (pair[0] != pair[1]).sum() <= 14, sample.name
