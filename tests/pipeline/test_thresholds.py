"""The images that choose thresholds of several labels: they neither calibrate the network nor judge it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgekit.images.dataset import Dataset, LabelledCrops, LabelledImage
from edgekit.job import Job
from edgekit.models.options import ModelOptions
from edgekit.pipeline import reference
from edgekit.pipeline.loading import load_job
from edgekit.support.progress import Reporter
from edgekit.support.run_folder import open_run
from tests.helpers.layouts import image_bytes, write_folder

QUIET = Reporter(quiet=True)
TINY = {"dims": (8, 16, 24, 32), "depths": (1, 1, 1, 1), "num_classes": 3}


def names_of(samples: tuple[LabelledImage, ...]) -> set[str]:
    return {sample.name for sample in samples}


@pytest.mark.parametrize("limit", [None, 100])
def test_other_images_choose_thresholds(limit: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files: dict[str, bytes] = {}
    for index in range(500):
        labels = ["cat", "dog", *(["owl"] if index % 50 == 0 else [])][index % 2 :]
        files[f"{index:03}.png"] = image_bytes(index)
        files[f"{index:03}.json"] = json.dumps({"labels": labels}).encode()
    data = write_folder(tmp_path / "set", files)
    used: list[str] = []

    crop = Dataset.crop

    def noting(dataset: Dataset, samples: tuple[LabelledImage, ...], *more: Any, **options: Any) -> LabelledCrops:
        used.extend(sample.name for sample in samples)
        return crop(dataset, samples, *more, **options)

    def logits(_: object, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.linspace(-2, 1, 3 * len(pixels), dtype=np.float32).reshape(-1, 3)

    monkeypatch.setattr(Dataset, "crop", noting)
    monkeypatch.setattr(reference, "torch_logits", logits)
    model = ModelOptions("convnextv2_atto", "random", imgsz=32, model_args=TINY)
    job = Job(model, data, targets=("onnx",), num_calibration_samples=20, num_eval_samples=limit)
    spec, images = load_job(job, QUIET, chooses=True)
    with open_run(tmp_path / "run") as run:
        task = reference.with_thresholds(spec, images, run, QUIET).task
    assert len(used) == (160 if limit is None else 380)
    assert not {*used} & (names_of(images.evaluation.samples) | names_of(images.calibration.samples))
    cat, dog, owl = task.thresholds
    assert 0.5 not in (cat, dog)
    assert owl == 0.5, "too few of the images have it"


def test_without_images_to_choose_on_thresholds_stay(photos: Path, tmp_path: Path) -> None:
    model = ModelOptions("convnextv2_atto", "random", imgsz=32, model_args={**TINY, "num_classes": 10})
    job = Job(model, photos, targets=("onnx",), num_calibration_samples=10, task="multi-label")
    spec, images = load_job(job, QUIET, chooses=True)
    with open_run(tmp_path / "run") as run:
        assert reference.with_thresholds(spec, images, run, QUIET) is spec
    assert len(images.evaluation.images) == 30
