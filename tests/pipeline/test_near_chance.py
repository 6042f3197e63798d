"""A network whose outputs have another order than the folders: named by its file, or near chance."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from PIL import Image

from edgekit.cli.main import main
from edgekit.images.dataset import Dataset
from edgekit.measure.gates import NEAR_CHANCE
from edgekit.models.loading import load_network
from edgekit.models.network import torch_logits
from edgekit.models.options import ModelOptions
from edgekit.report import load_report
from tests.helpers.onnx_files import SIDE, written

pytest.importorskip("onnx2pytorch", reason="needs the onnx-models extra")
COLOURS = {"red": (200, 40, 40), "green": (40, 200, 40), "blue": (40, 40, 200), "amber": (200, 160, 40)}
"""Colours of the classes, in the order of the outputs."""
PLAIN = ["--mean", "0,0,0", "--std", "1,1,1"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder of noisy images for each colour."""
    random = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (tmp_path / "data" / name).mkdir(parents=True)
        for index in range(9):
            pixels = np.clip(random.normal(colour, 25, (SIDE, SIDE, 3)), 0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "data" / name / f"{index}.png")
    return tmp_path / "data"


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    """An ONNX file that finds the nearest colour."""
    colours = np.array(list(COLOURS.values()), np.float32) / 255
    nodes = [
        helper.make_node("Conv", ["image", "kernel", "bias"], ["conv"]),
        helper.make_node("GlobalAveragePool", ["conv"], ["pool"]),
        helper.make_node("Flatten", ["pool"], ["logits"]),
    ]
    constants = {"kernel": 20 * colours[..., None, None], "bias": -10 * np.square(colours).sum(1)}
    return written(tmp_path / "colours.onnx", nodes, constants)


def test_names_in_the_file_give_the_order(classifier: Path, data: Path) -> None:
    model = onnx.load(classifier)
    helper.set_model_props(model, {"names": str(dict(enumerate(COLOURS)))})
    onnx.save(model, classifier)
    network = load_network(ModelOptions(str(classifier), mean=(0, 0, 0), std=(1, 1, 1)))
    dataset = Dataset.open(data, network.labels)
    crops = dataset.crop(dataset.samples, network.preprocessing)
    assert (torch_logits(network, crops.pixels).argmax(1) == crops.labels).all()


def test_with_names_in_another_order_nothing_is_concluded(
    classifier: Path, data: Path, tmp_path: Path, capfd: Any
) -> None:
    run = tmp_path / "run"
    (names := tmp_path / "labels.txt").write_text("\n".join(sorted(COLOURS)))
    job = ["deploy", str(classifier), "--data", str(data), *PLAIN, "--target", "onnx", "--min-speedup", "0"]
    job += ["--labels", str(names)]
    quick = ["--num-calibration-samples", "8", "--iterations", "3", "--warmup", "0", "--threads", "1"]
    assert main([*job, *quick, "-o", str(run)]) == 1
    said = capfd.readouterr()
    assert "warning: The reference is near chance: torch reaches top-1 0.0 %" in said.err
    assert "The reference is near chance" in said.out.split("bundle")[0]
    report = load_report(run)
    assert report.reference.near_chance
    assert report.recommendation.bundle is None
    assert {(row.verdict, row.reasons) for row in report.results} == {("inconclusive", (NEAR_CHANCE,))}

    files = ["--junit", str(tmp_path / "junit.xml"), "--summary", str(tmp_path / "summary.md")]
    bundles = [str(run / name) for name in ("onnx-float", "onnx-int8")]
    assert main(["evaluate", *bundles, "--data", str(data), "--threads", "1", "--json", *files]) == 1
    evaluation = json.loads(capfd.readouterr().out)
    assert evaluation["reference"]["near_chance"]
    assert {row["verdict"] for row in evaluation["results"]} == {"inconclusive"}
    for file in ("junit.xml", "summary.md"):
        text = (tmp_path / file).read_text()
        assert text.index("The reference is near chance") < text.index("onnx-int8")
