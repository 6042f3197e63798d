"""Evaluation images that are also in the calibration set, as copies or re-encoded."""

import io
import json
import random
import shutil
import string
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from edgekit.cli.main import main
from edgekit.images.dataset import Dataset, LabelledImage
from edgekit.images.selection import DIFFERENCE, difference_hash, select
from edgekit.models.description import resolve_labels
from tests.helpers import fake_runtime

LABELS = [f"class_{index}" for index in range(10)]


def planted(photos: Path, folder: Path) -> tuple[set[str], set[str]]:
    """Make a data set of `photos` in `folder`/clean, and one in `folder`/leaky with 10 copies and 10 re-encoded images.

    Returns the names of the copies and of the re-encoded images.
    """
    shutil.copytree(photos, folder / "clean")
    generator = np.random.default_rng(3)
    copied, encoded = set(), set()
    for index, label in enumerate(LABELS):
        place = folder / "leaky" / label
        place.mkdir(parents=True)
        for number in range(6):
            small = Image.fromarray(generator.integers(0, 256, (5, 5, 3), np.uint8))
            small.resize((40, 40), Image.Resampling.BICUBIC).save(place / f"own_{number}.png")
        shutil.copy(photos / label / "0.png", place / f"copy_{index}.png")
        image = Image.open(photos / label / "1.png")
        (image if index % 2 else image.resize((64, 64))).save(place / f"again_{index}.jpg", quality=80)
        copied.add(f"{label}/copy_{index}.png")
        encoded.add(f"{label}/again_{index}.jpg")
    return copied, encoded


def test_planted_leakage_is_found(photos: Path, tmp_path: Path) -> None:
    copied, encoded = planted(photos, tmp_path)
    clean, leaky = Dataset.open(tmp_path / "clean", LABELS), Dataset.open(tmp_path / "leaky", LABELS)
    calibration = select(clean, 0, 0)
    evaluation = select(leaky, 0, 0, exclude=calibration)
    assert set(evaluation.copies_of(calibration)) == copied
    pairs = evaluation.lookalikes(leaky, calibration, clean)
    assert {name for name, _ in pairs} == encoded
    assert all(Path(like).parent == Path(name).parent for name, like in pairs)
    assert len(evaluation.samples) == 70


def test_leakage_causes_warnings_and_is_reported(
    photos: Path, vit_arguments: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    planted(photos, tmp_path)
    more = ["--data", str(tmp_path / "leaky"), "--calibration-data", str(tmp_path / "clean")]
    counts = ["--num-calibration-samples", "40", "--num-eval-samples", "70"]
    command = ["deploy", *vit_arguments, *more, *counts, "--target", "fake", "-o", str(tmp_path / "run"), "--json"]
    with fake_runtime.added():
        assert main(command) == 0
    out, err = capfd.readouterr()
    report = json.loads(out)
    assert len(report["evaluation"]["copies_left_out"]) == len(report["evaluation"]["lookalikes"]) == 10
    assert report["evaluation"]["count"] == 70
    assert report["evaluation"]["overlap_with_calibration"] == 0
    assert "10 images are copies of calibration images and were left out of the evaluation: " in err
    assert "10 evaluation images look like calibration images" in err
    assert "and 7 more (report.json has all)" in err


@pytest.mark.slow
def test_different_photos_are_not_lookalikes(shared_data: Path) -> None:
    whole = Dataset.open(shared_data / "imagenet-500.zip", resolve_labels(None, 1000))
    chosen = select(whole, 200, 0)
    others = select(whole, 200, 0, exclude=chosen)
    assert others.lookalikes(whole, chosen, whole) == []


def words(folder: Path, count: int, seed: int, size: tuple[int, int] = (192, 48)) -> Dataset:
    """A data set of images with a random word each, in black on white."""
    choose = random.Random(seed)
    for index in range(count):
        image = Image.new("RGB", size, "white")
        word = "".join(choose.choices(string.ascii_letters, k=choose.randint(4, 8)))
        place = (choose.randint(2, 12), size[1] // 4)
        ImageDraw.Draw(image).text(place, word, font=ImageFont.load_default(size[1] // 2), fill="black")
        (folder / LABELS[index % 10]).mkdir(parents=True, exist_ok=True)
        image.save(folder / LABELS[index % 10] / f"{index}.png")
    return Dataset.open(folder, LABELS)


@pytest.mark.parametrize("size", [(192, 48), (96, 32)])
def test_different_words_are_not_lookalikes(size: tuple[int, int], tmp_path: Path) -> None:
    one, two = words(tmp_path / "one", 40, 1, size), words(tmp_path / "two", 200, 2, size)
    calibration, evaluation = select(one, 0, 0), select(two, 0, 0)
    parts = (b"".join(image.dhash for image in part.images) for part in (evaluation, calibration))
    hashes = (np.unpackbits(np.frombuffer(part, np.uint8)) for part in parts)
    bits, others = (each.reshape(-1, 128) for each in hashes)
    accused = ((bits[:, None] != others).sum(2).min(1) <= DIFFERENCE).sum()
    assert accused > 100, "the hashes must be as similar as those of copies, or the test tests nothing"
    assert evaluation.lookalikes(two, calibration, one) == []


def test_a_copy_of_a_word_is_found_among_other_words(tmp_path: Path) -> None:
    """Each copy is named with its own original, although the hashes of other words are as similar."""
    original = words(tmp_path / "one", 60, 1)
    for index, sample in enumerate(original.samples):
        image = original.image(sample)
        again = [image, image.resize((96, 24)), image.resize((384, 96)), image.point(lambda value: value * 4 // 5)]
        place = tmp_path / "two" / sample.name
        place.parent.mkdir(parents=True, exist_ok=True)
        again[index % len(again)].save(place.with_suffix(".jpg"), quality=75)
    copies = Dataset.open(tmp_path / "two", LABELS)
    pairs = select(copies, 0, 0).lookalikes(copies, select(original, 0, 0), original)
    assert all(Path(name).with_suffix(".png") == Path(like) for name, like in pairs)
    assert len(pairs) >= 57  # the hashes of some copies at half size differ in too many bits


@pytest.mark.parametrize("colours", [("white", "white"), ("white", "black")])
def test_images_of_one_colour_are_not_lookalikes(colours: tuple[str, str], tmp_path: Path) -> None:
    sets = []
    for name, colour, suffix in zip(("one", "two"), colours, ("png", "jpg"), strict=True):
        for label in LABELS:
            (tmp_path / name / label).mkdir(parents=True)
            Image.new("RGB", (40, 40), colour).save(tmp_path / name / label / f"0.{suffix}")
        sets.append(Dataset.open(tmp_path / name, LABELS))
    one, two = sets
    assert select(two, 0, 0).lookalikes(two, select(one, 0, 0), one) == []


def test_only_candidates_are_decoded(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, encoded = planted(photos, tmp_path)
    clean, leaky = Dataset.open(tmp_path / "clean", LABELS), Dataset.open(tmp_path / "leaky", LABELS)
    calibration = select(clean, 0, 0)
    evaluation = select(leaky, 0, 0, exclude=calibration)
    decoded = []
    decode = Dataset.image

    def note(dataset: Dataset, sample: LabelledImage) -> Image.Image:
        decoded.append(sample.name)
        return decode(dataset, sample)

    monkeypatch.setattr(Dataset, "image", note)
    evaluation.lookalikes(leaky, calibration, clean)
    assert len(decoded) == len(set(decoded)) == 2 * len(encoded)


OTHERS = [pytest.param(how, marks=pytest.mark.slow) for how in ("WEBP", "half", "bright")]


@pytest.mark.parametrize("how", ["JPEG", *OTHERS])
def test_a_copy_of_a_photo_is_found(shared_data: Path, how: str, tmp_path: Path) -> None:
    whole = Dataset.open(shared_data / "imagenet-500.zip", resolve_labels(None, 1000))
    chosen = select(whole, 30, 0)
    for sample in chosen.samples:
        image = whole.image(sample)
        image = image.resize((image.width // 2, image.height // 2)) if how == "half" else image
        image = image.point(lambda value: min(255, value * 10 // 9)) if how == "bright" else image
        place = tmp_path / sample.name
        place.parent.mkdir(parents=True, exist_ok=True)
        suffix = "webp" if how == "WEBP" else "jpg"
        image.save(place.with_suffix(f".{suffix}"), quality=60 if how == "WEBP" else 75)
    copies = Dataset.open(tmp_path, resolve_labels(None, 1000))
    pairs = select(copies, 0, 0).lookalikes(copies, chosen, whole)
    assert {Path(name).with_suffix("") for name, _ in pairs} == {Path(like).with_suffix("") for _, like in pairs}
    assert len(pairs) == 30


@pytest.mark.parametrize("how", [{"format": "JPEG", "quality": 75}, {"format": "WEBP", "quality": 60}, "half"])
def test_a_reencoded_photo_is_a_lookalike(shared_data: Path, how: Any) -> None:
    dataset = Dataset.open(shared_data / "imagenet-500.zip", resolve_labels(None, 1000))
    for sample in dataset.samples[::25]:
        image = dataset.image(sample)
        out = io.BytesIO()
        if how == "half":
            image.resize((image.width // 2, image.height // 2)).save(out, "JPEG", quality=85)
        else:
            image.save(out, **how)
        again = difference_hash(Image.open(out))
        pair = np.unpackbits(np.frombuffer(difference_hash(image) + again, np.uint8)).reshape(2, -1)
        assert (pair[0] != pair[1]).sum() <= DIFFERENCE, sample.name
