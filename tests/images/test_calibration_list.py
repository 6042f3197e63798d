"""calibration.json reproduces the same bundles, and small or one-sided sets cause a warning."""

import json
import os
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from edgekit.cli.main import main
from edgekit.errors import InputError, ProfileError
from edgekit.images.selection import CalibrationList
from edgekit.report import load_report
from edgekit.runtime.bundle import read_bundle
from tests.helpers.measurements import without_fresh_processes
from tests.helpers.refusals import refuses

LABELS = [f"class_{index}" for index in range(10)]


def digests(folder: Path) -> dict[str, str]:
    """The sha256 of every file of every bundle."""
    bundles = (manifest.parent for manifest in folder.glob("*/manifest.json"))
    return {
        str(path.relative_to(folder)): sha256(path.read_bytes()).hexdigest()
        for bundle in bundles
        for path in bundle.iterdir()
    }


def test_the_list_of_a_run_gives_the_same_bundles_bit_for_bit(
    finished_run: Path, job_arguments: list[str], tmp_path: Path
) -> None:
    """Also in another folder, and with a seed that would have chosen other images."""
    listed = ["--seed", "9", "--calibration-list", str(finished_run / "calibration.json")]
    folder = tmp_path / "again"
    few = ["--target", "onnx", "--num-eval-samples", "5", "--iterations", "2", "-q"]
    with without_fresh_processes():
        assert main(["deploy", *without_count(job_arguments), *listed, *few, "-o", str(folder)]) == 0
    first, again = digests(finished_run), digests(folder)
    assert len(again) >= 2 * 4
    assert {name for name in again if first[name] != again[name]} == set()
    images = [json.loads((run / "calibration.json").read_text())["images"] for run in (finished_run, folder)]
    assert images[0] == images[1]


@pytest.mark.slow
def test_names_that_are_not_utf_8(
    job_arguments: list[str], photos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Those of images to calibrate on and to evaluate on, of a class, and of unreadable images; and the set's own."""
    data = tmp_path / os.fsdecode(b"data\xe9")
    shutil.copytree(photos, data)
    for image in sorted(data.glob("*/*.png")):
        image.rename(image.with_name(os.fsdecode(b"caf\xe9") + image.name))
    for folder in sorted(data.iterdir()):
        folder.rename(folder.with_name(os.fsdecode(b"caf\xe9") + folder.name[-2:]))
    for image in data.glob("*_1/*2.png"):
        image.write_bytes(image.read_bytes()[:50])
    few = ["--data", str(data), "--num-eval-samples", "20", "--target", "onnx", "--iterations", "2", "-q"]
    job = [*without_count(job_arguments), "--num-calibration-samples", "10", *few]
    with without_fresh_processes():
        assert main(["deploy", *job, "-o", str(tmp_path / "first")]) == 0
    listed = json.loads((tmp_path / "first" / "calibration.json").read_text())["images"]
    names = [image["name"] for image in listed]
    assert all(name.startswith("caf\\xe9_") for name in names)
    again = [*without_count(job_arguments), *few, "--calibration-list", str(tmp_path / "first" / "calibration.json")]
    with without_fresh_processes():
        assert main(["deploy", *again, "-o", str(tmp_path / "second")]) == 0
    assert digests(tmp_path / "first") == digests(tmp_path / "second")
    report = load_report(tmp_path / "first")
    unreadable = [image.name for part in (report.calibration, report.evaluation) for image in part.unreadable]
    assert "caf\\xe9_1/caf\\xe92.png" in unreadable
    assert "data\ufffd" in report.command
    assert (read_bundle(tmp_path / "first" / "onnx-int8").path / "labels.txt").read_text().startswith("caf\\xe9_0\n")
    assert main(["report", str(tmp_path / "first")]) == 0


def test_another_recipe_or_other_images_give_another_bundle(finished_run: Path) -> None:
    prints = [read_bundle(finished_run / f"{target}-int8").manifest.fingerprint for target in ("onnx", "tflite")]
    assert prints[0] != prints[1]


def change(key: str, value: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda document: document | {key: value}


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda _: [1], "is not a calibration.json"),
        (change("schema_version", 2), "schema_version is 2"),
        (change("images", []), "it lists no images"),
        (change("images", [{"name": 1, "sha256": "x"}]), "it lists no images"),
        (
            lambda document: {key: value for key, value in document.items() if key != "recipe"},
            "key 'recipe' is missing",
        ),
    ],
)
def test_other_files_are_refused(finished_run: Path, tmp_path: Path, edit: Any, message: str) -> None:
    path = tmp_path / "list.json"
    path.write_text(json.dumps(edit(json.loads((finished_run / "calibration.json").read_text()))))
    with pytest.raises(InputError) as caught:
        CalibrationList.read(path)
    assert message in caught.value.problem
    assert "calibration.json" in caught.value.fix


def test_a_recipe_that_is_not_valid_is_named(finished_run: Path, tmp_path: Path) -> None:
    document = json.loads((finished_run / "calibration.json").read_text())
    document["recipe"]["estimator"] = "magic"
    (tmp_path / "list.json").write_text(json.dumps(document))
    with refuses(ProfileError, "list.json", "estimator", "'magic'"):
        CalibrationList.read(tmp_path / "list.json")


@pytest.mark.parametrize("missing", [True, False])
def test_missing_or_changed_images(
    finished_run: Path, photos: Path, job_arguments: list[str], tmp_path: Path, missing: bool, capfd: Any
) -> None:
    data = tmp_path / "data"
    shutil.copytree(photos, data)
    name = json.loads((finished_run / "calibration.json").read_text())["images"][0]["name"]
    (data / name).unlink() if missing else shutil.copy(data / "class_0" / "3.png", data / name)
    arguments = ["--data", str(data), "--calibration-list", str(finished_run / "calibration.json"), "--dry-run"]
    code = main(["deploy", *without_count(job_arguments), *arguments, "-o", str(tmp_path / "run")])
    err = capfd.readouterr().err
    if name == "class_0/3.png" and not missing:  # the image was replaced by itself
        assert code == 0
        return
    assert code == 2
    assert f"lacks 1 of the 10 images that '{finished_run / 'calibration.json'}' lists: {name} " in err
    assert ("is missing" if missing else "has another content") in err
    assert not (tmp_path / "run").exists()


def without_count(arguments: list[str]) -> list[str]:
    index = arguments.index("--num-calibration-samples")
    return arguments[:index] + arguments[index + 2 :]


def test_a_list_and_a_number_contradict(finished_run: Path, job_arguments: list[str], capfd: Any) -> None:
    listed = ["--calibration-list", str(finished_run / "calibration.json"), "--dry-run"]
    assert main(["deploy", *job_arguments, *listed]) == 2
    assert "Leave out `--num-calibration-samples`" in capfd.readouterr().err


def test_a_list_that_does_not_exist(job_arguments: list[str], capfd: Any) -> None:
    assert main(["deploy", *without_count(job_arguments), "--calibration-list", "gone.json", "--dry-run"]) == 2
    assert "calibration list 'gone.json' can't be read" in capfd.readouterr().err
