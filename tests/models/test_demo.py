"""The demo job, with the few images and rounds of the documentation's tests."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from edgekit.cli.main import main
from edgekit.images.dataset import Dataset
from edgekit.models.demo import assets, demo_model
from edgekit.report import load_report
from edgekit.runtime.bundle import read_bundle


def test_the_demos_files() -> None:
    labels = (assets() / "labels.txt").read_text().split()
    assert len(labels) == 10
    calibration, evaluation = (Dataset.open(assets() / f"{name}.zip", labels) for name in ("calibration", "evaluation"))
    assert (len(calibration.samples), len(evaluation.samples)) == (128, 500)
    contents = [{data.read(sample) for sample in data.samples} for data in (calibration, evaluation)]
    assert not contents[0] & contents[1]
    assert sum(path.stat().st_size for path in assets().iterdir()) <= 6_000_000


def test_other_weights_replace_the_demos() -> None:
    model = demo_model("mine.safetensors")
    assert (model.weights, model.trained_from_scratch) == ("mine.safetensors", False)


@pytest.mark.slow
def test_demo(demo_folder: Callable[[], Path]) -> None:
    run = demo_folder() / "runs/demo"
    assert "licence" not in (demo_folder() / "printed").read_text()
    report = load_report(run)
    assert {row.bundle for row in report.results} >= {"onnx-float", "onnx-int8"}
    assert report.reference.value > 0.6
    assert (report.model.classes, report.model.license) == (10, None)
    assert report.calibration.count == 8
    float_, int8 = (read_bundle(run / name) for name in ("onnx-float", "onnx-int8"))
    assert int8.size_bytes <= 0.35 * float_.size_bytes
    assert int8.labels[0] == "airplane"


def test_other_images_are_also_calibrated_on(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The demo's calibration images only belong to the demo's evaluation images."""
    monkeypatch.chdir(tmp_path)
    data = tmp_path / "data"
    data.mkdir()
    labels = (assets() / "labels.txt").read_text().split()
    for index, label in enumerate(labels):
        (data / label).symlink_to(photos / f"class_{index}")
    assert main(["demo", "--data", str(data), "--num-calibration-samples", "10", "--dry-run", "--json", "-q"]) == 0
    plan = json.loads(capfd.readouterr().out)
    assert (plan["calibration_images"], plan["evaluation_images"]) == (10, 30)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]
