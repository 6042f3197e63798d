"""The task of a job, and the data sets and names that go with it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from edgekit.config import runtimes
from edgekit.errors import DataError, ModelError, UsageError
from edgekit.job import Job
from edgekit.measure.tasks import TASKS
from edgekit.models.options import ModelOptions
from edgekit.pipeline.loading import load_job
from edgekit.pipeline.request import BuildSpec
from edgekit.support.progress import Reporter
from tests.helpers.layouts import image_bytes, write_folder
from tests.helpers.refusals import refuses

COUNT = 12
TINY: dict[str, Any] = {"dims": (8, 16, 24, 32), "depths": (1, 1, 1, 1)}


def images(place: Path, labels: Callable[[int], Any]) -> Path:
    """Images with a JSON of their labels beside each; None for an image without a JSON."""
    files = {f"{index:02}.png": image_bytes(index) for index in range(COUNT)}
    stated = {index: labels(index) for index in range(COUNT)}
    files |= {
        f"{index:02}.json": json.dumps({"labels": label}).encode()
        for index, label in stated.items()
        if label is not None
    }
    return write_folder(place, files)


def spec_of(data: Path, capfd: pytest.CaptureFixture[str], classes: int = 3, **stated: Any) -> tuple[BuildSpec, str]:
    """The bundles' inputs for a tiny network with this number of classes, 0 for none, and what was said."""
    options = {"weights": "random", "imgsz": 32, "model_args": {**TINY, "num_classes": classes}, "targets": ["onnx"]}
    job = Job.of("convnextv2_atto", {"data": data, **options, **stated})
    spec, _ = load_job(job, Reporter(), evaluates="num_eval_samples" in stated)
    return spec, capfd.readouterr().err


def test_the_names_on_the_command_line_are_those_of_the_tasks() -> None:
    assert tuple(TASKS) == tuple(runtimes.TASKS)


def test_the_labels_show_the_task(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    one = images(tmp_path / "one", lambda index: ["cat", "dog", "owl"][index % 3])
    spec, said = spec_of(one, capfd)
    assert spec.task.name == "single-label"
    assert spec.network.labels == ("cat", "dog", "owl")
    assert "task:" not in said
    several = images(tmp_path / "several", lambda index: ["cat", "dog"] if index % 3 else ["owl"])
    spec, said = spec_of(several, capfd, num_eval_samples=4)
    assert spec.task.name == "multi-label"
    assert spec.network.labels == ("cat", "dog", "owl")
    assert f"task: multi-label, because 8 of the 12 images of '{several}' have several labels" in said
    spec, said = spec_of(one, capfd, task="multi-label")
    assert spec.task.name == "multi-label"
    assert "task:" not in said
    with refuses(DataError, "8 images", "'cat', 'dog'", "--task multi-label"):
        spec_of(several, capfd, task="single-label")


def test_a_network_without_a_classifier_is_an_embedding(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    unlabelled = images(tmp_path / "unlabelled", lambda index: None)
    spec, said = spec_of(unlabelled, capfd, classes=0)
    assert spec.task.name == "embedding"
    assert spec.network.labels == tuple(map(str, range(32)))
    assert "task: embedding, because 'convnextv2_atto' has no classifier and returns 32 features" in said
    assert "one-sided" not in said
    labelled = images(tmp_path / "labelled", lambda index: f"product {index // 2}")
    spec, said = spec_of(labelled, capfd, classes=0, num_eval_samples=4)
    assert len(spec.calibration_dataset.class_names) == COUNT / 2
    assert "class names" not in said
    with refuses(DataError, "1 images", "'00.png'", "or for none"):
        spec_of(images(tmp_path / "mixed", lambda index: "cat" if index else None), capfd, classes=0)
    spec, said = spec_of(labelled, capfd, task="embedding", model_args=TINY)
    assert len(spec.network.labels) == 32, "the classifier is left out"
    with refuses(ModelError, "32 features", "single-label", "--task embedding"):
        spec_of(labelled, capfd, classes=0, task="single-label")


def test_only_the_user_can_tell_that_a_network_of_his_own_embeds(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    options = ModelOptions("own", module=network, imgsz=32)
    data = images(tmp_path / "set", lambda index: f"product {index % 4}")
    with refuses(DataError, "4 of the 4", "8 classes"):
        load_job(Job(options, data, targets=("onnx",)), Reporter(), evaluates=False)
    spec, _ = load_job(Job(options, data, targets=("onnx",), task="embedding"), Reporter(), evaluates=False)
    assert "embedding: the 8 outputs of 'own'" in capfd.readouterr().err
    assert spec.task.name == "embedding"
    assert spec.network.labels == tuple("01234567")


def test_labels_for_an_embedding(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "labels.txt").write_text("\n".join(f"name {index}" for index in range(32)))
    with refuses(UsageError, "labels.txt", "32 outputs"):
        spec_of(images(tmp_path / "set", lambda index: None), capfd, classes=0, labels=tmp_path / "labels.txt")


def test_an_unknown_task() -> None:
    with refuses(UsageError, "--task is 'regression'", "single-label, multi-label, embedding"):
        Job.of("convnextv2_atto", {"task": "regression"})
