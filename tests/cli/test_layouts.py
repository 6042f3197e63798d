"""Commands with images in every layout."""

import json
from pathlib import Path
from typing import Any

import pytest

from edgekit.cli.main import main
from tests.helpers.layouts import WRITERS, Images, write_folder
from tests.helpers.tiny import TINY_MODEL


@pytest.fixture
def images(photos: Path) -> Images:
    """The images of `photos` by class."""
    folders = sorted(path for path in photos.iterdir() if path.is_dir())
    return {folder.name: [file.read_bytes() for file in sorted(folder.iterdir())] for folder in folders}


@pytest.fixture(params=WRITERS)
def data(request: pytest.FixtureRequest, images: Images, tmp_path: Path) -> Path:
    """The images of `photos`, of which one is truncated, in one layout."""
    if request.param == "parquet":
        pytest.importorskip("pyarrow", reason="needs the parquet extra")
    (tmp_path / "data").mkdir()
    first, *others = images["class_0"]
    return WRITERS[str(request.param)](tmp_path / "data", {**images, "class_0": [first[:80], *others]})


def test_evaluate_takes_every_layout(data: Path, finished_run: Path, capfd: Any) -> None:
    assert main(["evaluate", str(finished_run / "onnx-int8"), "--data", str(data), "--threads", "1", "--json"]) == 0
    output = capfd.readouterr()
    (row,) = json.loads(output.out)["results"]
    assert row["accuracy"]["count"] == 39
    assert output.err.count("warning: skipped") == 1
    assert "calibrated on" in output.err, "images are recognized in whatever layout they come"


def test_deploy_takes_splits(images: Images, tiny_weights: Path, tmp_path: Path, capfd: Any) -> None:
    for split, first, last in (("train", 0, 2), ("val", 2, 4)):
        files = {
            f"{name}/{index}.png": image
            for name, each in images.items()
            for index, image in enumerate(each[first:last])
        }
        write_folder(tmp_path / "set" / split, files)
    job = [
        *TINY_MODEL,
        "--weights",
        str(tiny_weights),
        "--data",
        str(tmp_path / "set"),
        "--num-calibration-samples",
        "8",
    ]
    assert main(["deploy", *job, "--dry-run", "--json", "-o", str(tmp_path / "run")]) == 0
    output = capfd.readouterr()
    planned = json.loads(output.out)
    assert (planned["calibration_images"], planned["evaluation_images"]) == (8, 20)
    assert "has the splits train, val: calibrating on train, evaluating on val" in output.err


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("set.csv", "number,label\n1,cat\n", "set.csv' has no column with the paths of images"),
        ("set.parquet", "no Parquet", "set.parquet' is not a Parquet file"),
        ("set.tar", "no tar", "can't read the tar"),
        ("photos-{0..2}.tar", None, "3 of the 3 files of"),
    ],
)
def test_sets_that_can_not_be_used_are_refused_at_once(
    name: str, content: str | None, problem: str, tmp_path: Path, capfd: Any
) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow", reason="needs the parquet extra")
    if content is not None:
        (tmp_path / name).write_text(content)
    assert main(["deploy", "resnet18", "--data", str(tmp_path / name), "-o", str(tmp_path / "run")]) == 2
    message = capfd.readouterr().err
    assert problem in message
    assert "fix:" in message or "valid:" in message
    assert "Loading" not in message, "before torch is loaded"
