"""Jobs with a metric of the user's: what they build and store, and when the metric is called."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import edgekit
from edgekit.errors import UsageError
from tests.helpers import fake_runtime
from tests.helpers.refusals import refuses

CLASSES = ("red", "green", "blue")
STATED: dict[str, Any] = {
    "imgsz": 16,
    "mean": (0.5, 0.5, 0.5),
    "std": (0.25, 0.25, 0.25),
    "targets": ["fake"],
    "num_calibration_samples": 24,
    "num_eval_samples": 30,
    "threads": 1,
    "warmup": 0,
    "iterations": 3,
    "min_speedup": 0,
    "repair": False,
    "quiet": True,
}


@pytest.fixture(autouse=True)
def fake() -> Iterator[None]:
    with fake_runtime.added():
        yield


@pytest.fixture
def network() -> nn.Module:
    """The mean of each colour of the image."""
    convolution = nn.Conv2d(3, 3, 1)
    with torch.no_grad():
        convolution.weight.copy_(2 * torch.eye(3)[..., None, None])
        convolution.bias.zero_()  # type: ignore[union-attr]
    return nn.Sequential(convolution, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()


def images() -> list[tuple[np.ndarray, list[str]]]:
    """Noisy images, which are bright in the colours that are their labels."""
    random = np.random.default_rng(0)
    chosen = [row if row.any() else ~row for row in random.random((72, 3)) < 0.4]
    means = [np.where(row, 160, 90) + random.normal(0, 30, 3) for row in chosen]
    pixels = [np.clip(random.normal(mean, 10, (16, 16, 3)), 0, 255).astype(np.uint8) for mean in means]
    return [(each, [CLASSES[c] for c in np.flatnonzero(row)]) for each, row in zip(pixels, chosen, strict=True)]


def hamming(outputs: np.ndarray, targets: np.ndarray) -> float:
    return float(((outputs > 0) == targets).mean())


def deployed(network: nn.Module, folder: Path, **stated: Any) -> edgekit.Run:
    return edgekit.deploy(network, images(), output=folder, **{**STATED, **stated})


def of_bundles(run: edgekit.Run) -> list[Any]:
    """What the manifests say about thresholds and inputs, and the thresholds whose crossings are counted."""
    manifests = [run[f"fake-{precision}"].bundle.manifest for precision in ("float", "int8")]
    crossings = [
        [(each.threshold, each.stated) for each in row.accuracy.confidence.crossings]
        for row in run.report.results
        if row.accuracy and row.accuracy.confidence
    ]
    return [*((manifest.thresholds, manifest.fingerprint) for manifest in manifests), crossings]


@pytest.mark.parametrize("threshold", [None, 0.3])
def test_thresholds_are_the_same_with_and_without_a_metric(
    network: nn.Module, tmp_path: Path, threshold: float | None
) -> None:
    plain = deployed(network, tmp_path / "plain", threshold=threshold)
    expected = of_bundles(plain)
    assert len(expected[0][0]) == len(CLASSES)
    own = deployed(network, tmp_path / "own", threshold=threshold, metric=hamming)
    assert of_bundles(own) == expected
    assert {row.accuracy.metric for row in own.report.results if row.accuracy} == {"hamming"}
    again = deployed(network, tmp_path / "own", threshold=threshold)
    assert of_bundles(again) == expected
    assert again.report.results[1].accuracy == plain.report.results[1].accuracy


def test_a_metric_that_does_not_work_ends_the_job_before_anything_is_built(network: nn.Module, tmp_path: Path) -> None:
    def broken(outputs: np.ndarray, targets: np.ndarray) -> float:
        raise ZeroDivisionError("no images of class 9")

    with refuses(UsageError, "broken", "ZeroDivisionError", "no images of class 9"):
        deployed(network, tmp_path / "run", metric=broken)
    assert not [*(tmp_path / "run").glob("fake-*")]
